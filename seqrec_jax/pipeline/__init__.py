"""One function for each verb of the command line, from a configuration or a run to files and values."""

from __future__ import annotations

from seqrec_jax.pipeline.backtesting import backtest
from seqrec_jax.pipeline.cases import case_options, cases_of, known_events, oracle, references
from seqrec_jax.pipeline.decoders import DecoderReport, fit_decoder
from seqrec_jax.pipeline.exporting import VectorFiles, embed, write_table
from seqrec_jax.pipeline.growing import add_items, read_new_items
from seqrec_jax.pipeline.heads import HeadReport, fit_head, label_examples
from seqrec_jax.pipeline.joining import join, join_datasets
from seqrec_jax.pipeline.judging import Evaluated, compare, evaluate
from seqrec_jax.pipeline.preparing import prepare, read_source
from seqrec_jax.pipeline.recommending import recommend, user_histories
from seqrec_jax.pipeline.saved import ComparedSaved, compare_saved
from seqrec_jax.pipeline.starting import build_model, start_model, transfer_params, warm_start_params
from seqrec_jax.pipeline.training import Trained, behavior_weights, median_speed, train

__all__ = [
    "ComparedSaved",
    "DecoderReport",
    "Evaluated",
    "HeadReport",
    "Trained",
    "VectorFiles",
    "add_items",
    "backtest",
    "behavior_weights",
    "build_model",
    "case_options",
    "cases_of",
    "compare",
    "compare_saved",
    "embed",
    "evaluate",
    "fit_decoder",
    "fit_head",
    "join",
    "join_datasets",
    "known_events",
    "label_examples",
    "median_speed",
    "oracle",
    "prepare",
    "read_new_items",
    "read_source",
    "recommend",
    "references",
    "start_model",
    "train",
    "transfer_params",
    "user_histories",
    "warm_start_params",
    "write_table",
]
