"""Verbs that make prepared datasets: prepare and join."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from seqrec_jax.cli.table import CONFIG, EXPERIMENT, OVERWRITE_DATASET, Argument, Verb, experiment, named_paths

if TYPE_CHECKING:
    from seqrec_jax.data.dataset import Dataset


def _prepare(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax import pipeline

    started = time.monotonic()
    config = experiment(options, fields)
    dataset = pipeline.prepare(config, strict=options.strict, overwrite=options.overwrite)
    print(_counted(dataset))
    seconds = time.monotonic() - started
    print(f"prepared   {config.dataset_directory} (fingerprint {dataset.fingerprint}) in {seconds:.1f} s")
    return 0


def _join(options: argparse.Namespace, _: list[str]) -> int:
    from seqrec_jax import pipeline

    dataset = pipeline.join(
        named_paths(options.domains, what="domains"),
        output=options.output,
        shared_users=options.shared_users,
        overwrite=options.overwrite,
    )
    print(_counted(dataset))
    print(f"joined     {options.output} (fingerprint {dataset.fingerprint})")
    return 0


def _counted(dataset: Dataset) -> str:
    """The counts of a preparation and its split."""
    from seqrec_jax.data.cleaning import CleaningReport
    from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION
    from seqrec_jax.reporting.terminal import labelled

    lines = [] if dataset.cleaning is None else [str(CleaningReport.from_dict(dataset.cleaning))]
    for note in dataset.content.notes:
        lines += labelled("items", note)
    parts = (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
    counts = ", ".join(f"{int((dataset.split.parts == part).sum()):,} {name}" for name, part in parts)
    return "\n".join([*lines, *labelled("split", dataset.split.describe()), *labelled("", f"{counts} events")])


VERBS = (
    Verb(
        "prepare",
        "Clean a log and write the prepared dataset: events, numbers, split.",
        (
            CONFIG,
            Argument("--strict", action="store_true", help="any dropped row is an error"),
            OVERWRITE_DATASET,
        ),
        _prepare,
        fields=EXPERIMENT,
    ),
    Verb(
        "join",
        "Join prepared datasets of several domains to one, in which every item says its domain.",
        (
            Argument("domains", nargs="+", metavar="NAME=PATH", help="a domain and its prepared dataset; two or more"),
            Argument("--output", required=True, help="directory of the joined dataset"),
            Argument("--shared-users", action="store_true", help="the same user id is the same user in all domains"),
            OVERWRITE_DATASET,
        ),
        _join,
    ),
)
