"""Verbs that judge: evaluate and compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqrec_jax.cli.table import (
    CHECKPOINT,
    DATASET,
    PROTOCOL,
    STEP,
    Argument,
    Verb,
    named_paths,
    without_section,
)

if TYPE_CHECKING:
    from seqrec_jax.evaluation.protocol import EvaluationConfig
    from seqrec_jax.runs import Run


def _evaluate(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax import pipeline
    from seqrec_jax.runs import Run

    run = Run.open(options.checkpoint)
    evaluation, reason = pipeline.evaluate(
        run,
        _protocol(run, fields),
        dataset=options.dataset,
        step=options.step,
        lists=named_paths(options.lists, what="lists"),
        decoders=options.decoder,
    )
    _show(evaluation.result, run.directory, reason)
    return 0


def _compare(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax import pipeline
    from seqrec_jax.runs import Run

    output = Path(options.output)
    if options.saved:
        result, reason = pipeline.compare_saved(options.runs, output=output)
        _show(result, output, reason, with_users=False)
        return 0
    runs = [Run.open(run) for run in options.runs]
    evaluation, reason = pipeline.compare(
        runs,
        _protocol(runs[0], fields),
        output=output,
        dataset=options.dataset,
        lists=named_paths(options.lists, what="lists"),
    )
    _show(evaluation.result, output, reason)
    return 0


def _protocol(run: Run, fields: list[str]) -> EvaluationConfig:
    """The protocol that a run was made under, with changes from the command line."""
    from seqrec_jax.evaluation.protocol import EvaluationConfig

    return run.section("evaluation", EvaluationConfig, overrides=without_section(fields, "evaluation"))


def _show(result: dict[str, Any], folder: Path, reason: str | None, *, with_users: bool = True) -> None:
    """Print the table of an evaluation and the files that were written."""
    from seqrec_jax.evaluation.report.terminal import evaluation_table

    print(evaluation_table(result))
    files = ["metrics.json", *(["per_user.parquet"] if with_users else []), *([] if reason else ["report.html"])]
    print(f"written    {', '.join(str(folder / name) for name in files)}")
    if reason:
        print(f"no report  {reason}")


_LISTS = Argument(
    "--lists",
    action="append",
    default=[],
    metavar="NAME=PATH",
    help="lists of another system: .parquet, .csv or .tsv with user_id, item_id and rank or score, or a TREC .run; "
    "may be given several times",
)
VERBS = (
    Verb(
        "evaluate",
        "Judge a checkpoint beside the baselines: table, metrics.json, per_user.parquet, report.html.",
        (
            CHECKPOINT,
            STEP,
            Argument(
                "--decoder", action="append", default=[], metavar="NAME", help="a decoder of the run, judged beside it"
            ),
            DATASET,
            _LISTS,
        ),
        _evaluate,
        fields=PROTOCOL,
    ),
    Verb(
        "compare",
        "Is another run, or another system's lists, better than the first run: for whom, and how surely.",
        (
            Argument("runs", nargs="+", help="run directories, what runs today first"),
            Argument("--output", default="runs/comparison", help="folder of the report (default runs/comparison)"),
            Argument(
                "--saved",
                action="store_true",
                help="two evaluations as they were written, without scoring anything again",
            ),
            DATASET,
            _LISTS,
        ),
        _compare,
        fields=PROTOCOL,
    ),
)
