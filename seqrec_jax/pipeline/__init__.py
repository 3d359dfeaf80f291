"""The main job step by step, each a function of a configuration or a run: prepare, train, evaluate, compare, export."""

from __future__ import annotations

from seqrec_jax.pipeline.backtesting import backtest_run
from seqrec_jax.pipeline.cases import case_options, cases_of, ceiling, known_events, references
from seqrec_jax.pipeline.exporting import embed_run, user_histories, write_table
from seqrec_jax.pipeline.judging import compare_runs, evaluate_run
from seqrec_jax.pipeline.preparing import prepare, read_source
from seqrec_jax.pipeline.saved import compare_saved, compare_saved_runs
from seqrec_jax.pipeline.training import behavior_weights, build_model, median_speed, train_run, warm_start_params

__all__ = [
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
    "known_events",
    "median_speed",
    "prepare",
    "read_source",
    "references",
    "train_run",
    "user_histories",
    "warm_start_params",
    "write_table",
]
