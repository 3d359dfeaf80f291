"""Verbs that add to a trained run: new items, heads and decoders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from seqrec_jax.cli.table import CHECKPOINT, DATASET, STEP, Argument, Verb, named_paths


def _add_items(options: argparse.Namespace, _: list[str]) -> int:
    from seqrec_jax import pipeline

    new = pipeline.read_new_items(
        options.items,
        item_id=options.item_id,
        features=named_paths(options.features, what="features"),
        edges=named_paths(options.edges, what="edges"),
    )
    _print_notes("items", pipeline.add_items(options.checkpoint, new, output=options.output, step=options.step))
    print(f"written    {options.output}")
    return 0


def _fit_head(options: argparse.Namespace, _: list[str]) -> int:
    from seqrec_jax import pipeline
    from seqrec_jax.data.files import read_file
    from seqrec_jax.heads.fitting import HeadTrainingConfig

    report = pipeline.fit_head(
        options.checkpoint,
        read_file(Path(options.rows)),
        name=options.name,
        label=options.label,
        conversion=options.conversion,
        config=HeadTrainingConfig(since_last=options.since_last),
        step=options.step,
        dataset=options.dataset,
    )
    _print_notes("rows", report.notes)
    least = min(validation for _, validation in report.fitted.losses)
    print(f"fitted     {len(report.fitted.losses)} passes, loss of the validation rows {least:.4f}, then calibrated")
    print(f"written    {report.path}")
    return 0


def _fit_decoder(options: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax import pipeline
    from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig
    from seqrec_jax.settings import parse_config

    report = pipeline.fit_decoder(
        options.checkpoint,
        name=options.name,
        feature=options.feature,
        config=parse_config(DecoderTrainingConfig, overrides=fields),
        step=options.step,
        dataset=options.dataset,
    )
    _print_notes("items", report.notes)
    least = min(validation for _, validation in report.fitted.losses)
    print(f"fitted     {len(report.fitted.losses)} passes, -log P(item) of the validation targets {least:.4f}")
    print(f"written    {report.path}")
    return 0


def _print_notes(label: str, notes: Sequence[str]) -> None:
    from seqrec_jax.reporting.terminal import labelled

    for note in notes:
        print("\n".join(labelled(label, note)))


VERBS = (
    Verb(
        "add-items",
        "Add new items to a run's catalogue without training again; the result is a run of its own.",
        (
            CHECKPOINT,
            STEP,
            Argument("--items", required=True, help="table of the new items, a row an item"),
            Argument("--item-id", default="item_id", help="its column with the raw item id (default item_id)"),
            Argument(
                "--features",
                action="append",
                default=[],
                metavar="NAME=PATH",
                help="vectors of a modality; may be given several times",
            ),
            Argument(
                "--edges",
                action="append",
                default=[],
                metavar="NAME=PATH",
                help="pairs of a relation; may be given several times",
            ),
            Argument("--output", required=True, help="directory of the new run, which must not exist"),
        ),
        _add_items,
    ),
    Verb(
        "fit-head",
        "Fit a head to labelled rows, such as impressions with clicks, over a run's vectors.",
        (
            CHECKPOINT,
            STEP,
            DATASET,
            Argument(
                "--rows",
                required=True,
                help="table with user_id, timestamp, the label, and perhaps item_id and position",
            ),
            Argument("--name", default="click", help="of the head (default click)"),
            Argument(
                "--label", default="click", help="column of the label: 0 and 1, or words for classes (default click)"
            ),
            Argument("--conversion", help="column of 0 and 1: whether a conversion followed the click"),
            Argument("--since-last", action="store_true", help="the time since the last event is an input of the head"),
        ),
        _fit_head,
    ),
    Verb(
        "fit-decoder",
        "Make codes of a run's items and fit a decoder that generates the next item code by code.",
        (
            CHECKPOINT,
            STEP,
            DATASET,
            Argument("--name", default="decoder", help="of the decoder (default decoder)"),
            Argument("--feature", help="vectors that become codes, such as text (default: the run's item vectors)"),
        ),
        _fit_decoder,
        fields="Fields of DecoderTrainingConfig can follow, e.g. --codes.codebook_size 256 --max_epochs 10.",
    ),
)
