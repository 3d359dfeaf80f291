"""The main job step by step, each a function of a configuration or a run: prepare, train, evaluate, compare, export."""

from __future__ import annotations

from seqrec_jax.pipeline.backtesting import backtest
from seqrec_jax.pipeline.cases import case_options, cases_of, ceiling, known_events, references
from seqrec_jax.pipeline.decoders import DecoderReport, RunDecoder, fit_decoder
from seqrec_jax.pipeline.exporting import embed, user_histories, write_table
from seqrec_jax.pipeline.growing import add_items, read_new_items
from seqrec_jax.pipeline.heads import HeadReport, RunHead, fit_head, label_examples
from seqrec_jax.pipeline.joining import join, join_datasets
from seqrec_jax.pipeline.judging import compare, evaluate
from seqrec_jax.pipeline.preparing import prepare, prepared_text, read_source
from seqrec_jax.pipeline.saved import compare_saved, compare_saved_runs
from seqrec_jax.pipeline.starting import build_model, start_model, transfer_params, warm_start_params
from seqrec_jax.pipeline.training import behavior_weights, median_speed, train

__all__ = [
    "DecoderReport",
    "HeadReport",
    "RunDecoder",
    "RunHead",
    "add_items",
    "backtest",
    "behavior_weights",
    "build_model",
    "case_options",
    "cases_of",
    "ceiling",
    "compare",
    "compare_saved",
    "compare_saved_runs",
    "embed",
    "evaluate",
    "fit_decoder",
    "fit_head",
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
    "train",
    "transfer_params",
    "user_histories",
    "warm_start_params",
    "write_table",
]
