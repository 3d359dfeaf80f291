"""Verbs that train: train and backtest."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqrec_jax.cli.table import CONFIG, EXPERIMENT, INTERRUPTED, Argument, Verb, experiment


def _train(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax.parallel import errors_end_the_process, is_first_process, join_processes

    addresses = {name: getattr(options, name) for name in ("coordinator", "num_processes", "process_id")}
    if options.processes or any(value is not None for value in addresses.values()):
        join_processes(**addresses)
    from seqrec_jax import pipeline
    from seqrec_jax.runs import Run

    config = experiment(options, fields)
    with errors_end_the_process():
        run, progress = pipeline.train(config, overwrite=options.overwrite, show_progress=not options.quiet)
    if not is_first_process():
        return 0 if progress.finished else INTERRUPTED
    if not progress.finished:
        print(f"stopped    epoch {progress.epoch}, everything is saved; the same command continues {run}")
        return INTERRUPTED
    print(
        f"trained    {progress.epoch} epochs in {progress.seconds:.0f} s; best {config.evaluation.metric} "
        f"on the validation part {progress.best_score:.4f}, at step {progress.best_step}"
    )
    speed = pipeline.median_speed(Run.open(run).log())
    if speed is not None:
        print(f"speed      {speed:,.0f} target positions a second")
    print(f"run        {run}")
    return 0


def _backtest(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax import pipeline
    from seqrec_jax.reporting.terminal import labelled, section_table

    _, section = pipeline.backtest(
        experiment(options, fields),
        num_origins=options.origins,
        window_days=options.days,
        output=options.output,
        retrain=not options.train_once,
        show_progress=not options.quiet,
    )
    print(section_table(section))
    print("\n".join(labelled("freshness", section["summary"])))
    folder = Path(options.output)
    print(f"written    {folder / 'backtest.parquet'}, {folder / 'backtest.json'}")
    return 0


VERBS = (
    Verb(
        "train",
        "Train a model on a prepared dataset, or continue a run that was stopped.",
        (
            CONFIG,
            Argument("--overwrite", action="store_true", help="start over where the run exists"),
            Argument("--quiet", action="store_true", help="no progress bar"),
            Argument(
                "--processes",
                action="store_true",
                help="one of several processes that train together, see docs/clusters.md",
            ),
            Argument("--coordinator", help="host:port of process 0, where the cluster does not tell"),
            Argument("--num-processes", type=int, help="how many there are, where the cluster does not tell"),
            Argument("--process-id", type=int, help="which one this is, from 0, where the cluster does not tell"),
        ),
        _train,
        fields=EXPERIMENT,
    ),
    Verb(
        "backtest",
        "Train at one moment after another and judge what came next: how a model ages, what retraining is worth.",
        (
            CONFIG,
            Argument("--origins", type=int, default=4, help="how many moments (default 4)"),
            Argument("--days", type=float, default=7, help="from one to the next (default 7)"),
            Argument("--train-once", action="store_true", help="train at the first moment only"),
            Argument("--output", default="runs/backtest", help="folder of the figures (default runs/backtest)"),
            Argument("--quiet", action="store_true", help="no progress bars"),
        ),
        _backtest,
        fields=EXPERIMENT,
    ),
)
