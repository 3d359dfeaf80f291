"""The main job step by step, each a function of a configuration or a run: prepare, train, evaluate, compare, export."""

from __future__ import annotations

from seqrec_jax.pipeline.backtesting import backtest_run
from seqrec_jax.pipeline.cases import case_options, cases_of, ceiling, known_events, references
from seqrec_jax.pipeline.decoders import DecoderReport, RunDecoder, fit_run_decoder
from seqrec_jax.pipeline.exporting import embed_run, user_histories, write_table
from seqrec_jax.pipeline.growing import add_items, read_new_items
from seqrec_jax.pipeline.heads import HeadReport, RunHead, fit_run_head, label_examples
from seqrec_jax.pipeline.joining import join, join_datasets
from seqrec_jax.pipeline.judging import compare_runs, evaluate_run
from seqrec_jax.pipeline.preparing import prepare, prepared_text, read_source
from seqrec_jax.pipeline.saved import compare_saved, compare_saved_runs
from seqrec_jax.pipeline.starting import build_model, start_model, transfer_params, warm_start_params
from seqrec_jax.pipeline.training import behavior_weights, median_speed, train_run

__all__ = [
    "DecoderReport",
    "HeadReport",
    "RunDecoder",
    "RunHead",
    "add_items",
    "backtest_run",
    "behavior_weights",
    "build_model",
    "case_options",
    "cases_of",
    "ceiling",
    "compare_runs",
    "compare_saved",
    "compare_saved_runs",
    "embed_run",
    "evaluate_run",
    "fit_run_decoder",
    "fit_run_head",
    "join",
    "join_datasets",
    "known_events",
    "label_examples",
    "median_speed",
    "prepare",
    "prepared_text",
    "read_new_items",
    "read_source",
    "references",
    "start_model",
    "train_run",
    "transfer_params",
    "user_histories",
    "warm_start_params",
    "write_table",
]
