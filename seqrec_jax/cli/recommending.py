"""Verbs that list and export: recommend and embed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from seqrec_jax.cli.table import CHECKPOINT, DATASET, STEP, Argument, Verb, without_section
from seqrec_jax.errors import ConfigError

if TYPE_CHECKING:
    from seqrec_jax.retrieval import Recommendations


def _recommend(options: argparse.Namespace, fields: list[str]) -> int:
    if options.decoder is not None and (options.query or options.target_behavior or options.step):
        raise ConfigError("lists of a --decoder take no --query, --target-behavior or --step")
    users = "all" if options.all_users else options.users
    if options.history is users is options.query is None:
        raise ConfigError("one of the arguments --users --all-users --history --query is required")
    from seqrec_jax import pipeline
    from seqrec_jax.evaluation.report.terminal import recommendation_table
    from seqrec_jax.reranking import RerankConfig
    from seqrec_jax.retrieval import read_item_lists
    from seqrec_jax.runs import Run
    from seqrec_jax.settings import parse_config

    run = Run.open(options.checkpoint)
    result = pipeline.recommend(
        run,
        users,
        history=options.history,
        k=options.k,
        query=options.query,
        seen_items=options.seen_items,
        target_behavior=options.target_behavior,
        reranking=parse_config(RerankConfig, overrides=without_section(fields, "reranking")),
        allowed=None if options.allowed is None else read_item_lists(options.allowed),
        denied=None if options.denied is None else read_item_lists(options.denied),
        before=options.before,
        decoder=options.decoder,
        step=options.step,
        dataset=options.dataset,
    )
    _say(result, of_users=users is not None)
    if options.output is None:
        print(recommendation_table(result.table, run.items))
    else:
        pipeline.write_table(result.table, options.output)
        count = result.table["user_id"].nunique()
        print(f"written    {options.output}: {len(result.table):,} rows, {count:,} users")
    return 0


def _say(result: Recommendations, *, of_users: bool) -> None:
    """On stderr, which items were skipped, who got the fallback, and which lists are short."""
    if result.unknown_items:
        skipped = ", ".join(result.unknown_items)
        print(f"skipped    items that the catalogue does not have: {skipped}", file=sys.stderr)
    if result.unknown_in_filters:
        skipped = ", ".join(result.unknown_in_filters)
        print(
            f"skipped    items of --allowed and --denied that the catalogue does not have: {skipped}", file=sys.stderr
        )
    if result.note_on_short_lists:
        print(f"short      {result.note_on_short_lists}", file=sys.stderr)
    if result.without_history:
        count, shown = len(result.without_history), ", ".join(result.without_history[:5])
        receivers = "a history without a known item"
        if of_users:
            receivers = f"{count:,} users without a known history: {shown}" + (", …" if count > 5 else "")
        print(f"fallback   the most popular items for {receivers}", file=sys.stderr)


def _embed(options: argparse.Namespace, _: list[str]) -> int:
    from seqrec_jax import pipeline

    paths = pipeline.embed(options.checkpoint, options.output, step=options.step, dataset=options.dataset)
    print(f"written    {', '.join(map(str, paths))}")
    return 0


_ALLOWED = Argument(
    "--allowed",
    metavar="FILE",
    help="raw ids of the only items that may be listed: one a line (.txt), or a table with item_id and, for lists of "
    "single users, user_id",
)
VERBS = (
    Verb(
        "recommend",
        "Lists for users of the dataset, for a history of raw item ids, or for a query.",
        (
            CHECKPOINT,
            STEP,
            DATASET,
            (
                Argument("--users", nargs="+", help="raw user ids of the run's dataset"),
                Argument("--all-users", action="store_true", help="every user of the run's dataset"),
                Argument("--history", nargs="+", help="raw item ids, the latest last"),
            ),
            Argument("--query", help="the search that follows the history, or stands alone"),
            Argument("--k", type=int, default=10, help="length of a list (default 10)"),
            Argument(
                "--seen-items",
                choices=("kept", "excluded"),
                default="kept",
                help="whether items of the history may be listed",
            ),
            _ALLOWED,
            Argument("--denied", metavar="FILE", help="raw ids of items that may not be listed, in such a file"),
            Argument(
                "--target-behavior",
                help="the behaviour to predict, such as purchase, for a model of several (default: as trained)",
            ),
            Argument(
                "--before",
                choices=("validation", "test"),
                help="end histories before what this stage holds out, for lists to be judged (default: whole "
                "histories)",
            ),
            Argument("--decoder", metavar="NAME", help="a decoder of the run, which generates the lists"),
            Argument("--output", help="a .parquet or .csv file instead of the terminal"),
        ),
        _recommend,
        fields="Weights of the re-ranking (docs/configuration.md) can follow, e.g. --reranking.diversity 0.3.",
    ),
    Verb(
        "embed",
        "Write user and item vectors with raw ids to Parquet.",
        (
            CHECKPOINT,
            STEP,
            DATASET,
            Argument(
                "--output",
                required=True,
                help="folder for user_vectors.parquet, item_vectors.parquet and bilinear_weight.npy",
            ),
        ),
        _embed,
    ),
)
