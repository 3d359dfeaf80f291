"""Rankers of queries against human judgments: among the judged items of a query, and among all items.

Both are needed. Among the judged items every relevance is known, but the ranker does not have to find them. Among all
items it does, but an item without a judgment counts as irrelevant, which is a disadvantage for systems that find other
items than those that were judged. `judged@k` is the share of each list that was judged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.judgments import Judgments
from seqrec_jax.data.queries import query_sequences
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.comparison import compare_systems
from seqrec_jax.evaluation.judging import Judged, mean_of_users
from seqrec_jax.evaluation.measures import measure_scores
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.slices import figure, slice_by
from seqrec_jax.reporting.sections import plain
from seqrec_jax.scoring import UNREACHABLE, Ranks, TopK, catalogue_order
from seqrec_jax.statistics import bootstrap_means

SEARCH = EvaluationConfig(metric="graded_ndcg@10", cutoffs=(10, 100), gains={"judged": 1.0})
"""The default protocol: graded NDCG in the first ten places decides."""
_ROWS = 128  # queries at a time


class JudgedSearch(NamedTuple):
    """One system measured in both ways, with one row a query instead of a user.

    Attributes:
      judged_only: ranks and lists among the items that were judged for the query.
      all_items: ranks and lists among all items.
    """

    judged_only: Judged
    all_items: Judged


class Slice(NamedTuple):
    """A number by which queries are cut into bins.

    Attributes:
      values: `[Q]` float, the number of each query.
      edges: rising lower ends of the bins.
    """

    values: np.ndarray
    edges: tuple[float, ...]


def judge_search(
    ranker: Ranker,
    judgments: Judgments,
    *,
    num_items: int,
    config: EvaluationConfig = SEARCH,
    relevant_from: float = 0.0,
) -> JudgedSearch:
    """Rank each query's judged items, among themselves and among all items, and measure each query.

    `graded_ndcg@k` uses the gains; the metrics that know only relevant or not, such as `recall@k` and `mrr@k`, take
    a pair for relevant from a gain on. `judged@k` is the share of the first k that was judged at all.

    Args:
      ranker: scores histories whose only event is the query.
      judgments: pairs of Q queries and items with gains.
      num_items: V.
      config: cutoffs, deciding metric, memory, and the seed of the order that settles ties.
      relevant_from: least gain of a relevant pair; 0 means any gain above 0.

    Returns:
      Both tables; `rank` is that of the first relevant item. A metric is nan for a query without a relevant item.

    Raises:
      ShapeError: scores that are not `[U, V+1]`.
      DataError: a score that is nan, or an item beyond the catalogue.
    """
    started = time.monotonic()
    found = _rank(ranker, judgments, num_items=num_items, config=config)
    seconds = time.monotonic() - started
    measured = [_table(ranker.name, one, judgments, relevant_from, seconds, config) for one in found]
    return JudgedSearch(*measured)


def search_report(
    systems: Sequence[JudgedSearch],
    *,
    columns: Sequence[str],
    slices: Mapping[str, Slice],
    config: EvaluationConfig = SEARCH,
) -> dict[str, Any]:
    """Figures with intervals over queries, every pair of systems compared, and the deciding metric by kind of query.

    Args:
      systems: judged on the same queries, the reference first.
      columns: metrics of the tables.
      slices: cuts of the queries by name.
      config: deciding metric, resamples, seed and margin.

    Returns:
      `judged_only` and `all_items`, each with `figures` (a row a system: metrics to mean, low and high, ties and
      seconds), `comparisons` (rows of `compare_systems`, each later system against each earlier one) and `slices` (rows
      of `slice_by`), in JSON's own types.
    """
    report = {}
    for name in JudgedSearch._fields:
        judged = [getattr(system, name) for system in systems]
        pairs = [(later, earlier) for place, later in enumerate(judged) for earlier in judged[:place]]
        report[name] = {
            "figures": [_figures(one, columns, config) for one in judged],
            "comparisons": compare_systems(pairs, [config.metric], config=config) if pairs else [],
            "slices": {
                label: slice_by(judged, pd.Series(cut.values), config=config, edges=cut.edges)
                for label, cut in slices.items()
            },
        }
    in_json: dict[str, Any] = plain(report)
    return in_json


class _Found(NamedTuple):
    """Measured in one way: `[Q, P]` ranks of the judged items and `[Q, K]` lists, with their scores."""

    ranks: Ranks
    lists: TopK


def _rank(ranker: Ranker, judgments: Judgments, *, num_items: int, config: EvaluationConfig) -> tuple[_Found, _Found]:
    """Ranks and lists among the judged items of each query and among all items, in tiles of one shape."""
    if judgments.item_ids.max(initial=0) > num_items:
        raise DataError(
            f"item number {judgments.item_ids.max()} was judged, but there are num_items = {num_items:,}; number both "
            "the catalogue and the judgments alike"
        )
    queries, items = query_sequences(judgments.queries.tolist()), judgments.padded(judgments.item_ids)
    rows = int(max(1, min(_ROWS, config.score_bytes // (4 * (num_items + 1)))))
    priority = catalogue_order(num_items, jax.random.key(config.seed))
    everything = jnp.ones((rows, num_items + 1), dtype=bool)
    tiles: list[tuple[_Found, _Found]] = []
    for start in range(0, len(items), rows):
        # the last query fills up the last tile, so that one shape is compiled
        places = np.minimum(np.arange(start, start + rows), len(items) - 1)
        scores = ranker.scores(queries.select_users(places))
        if scores.shape != everything.shape:
            raise ShapeError(f"{ranker.name} gave scores {scores.shape}, expected {everything.shape}")
        judged = np.zeros(everything.shape, dtype=bool)
        np.put_along_axis(judged, items[places], True, axis=1)
        measure = partial(measure_scores, jnp.asarray(scores), jnp.asarray(items[places]), priority, logits=False)
        results = [measure(candidates, k=max(config.cutoffs)) for candidates in (jnp.asarray(judged), everything)]
        if np.asarray(results[1].nan_scores).any():
            raise DataError(f"{ranker.name} gave nan as a score; give -inf to an item that cannot be ranked")
        of_tile = [_Found(result.ranks, result.lists) for result in results]
        tiles.append(jax.tree.map(partial(_first_rows, count=len(items) - start), tuple(of_tile)))
    both: tuple[_Found, _Found] = jax.tree.map(lambda *parts: np.concatenate(parts), *tiles)
    return both


def _table(
    name: str, found: _Found, judgments: Judgments, relevant_from: float, seconds: float, config: EvaluationConfig
) -> Judged:
    items, gains = judgments.padded(judgments.item_ids), judgments.padded(judgments.gains)
    ranks, best, worst = (np.asarray(one) for one in found.ranks)
    lists, list_scores = (np.asarray(one) for one in found.lists)
    real = items > 0
    relevant = real & (gains >= relevant_from) & (gains > 0)
    measure = partial(_measure, gains=gains, where=real, relevant=relevant, cutoffs=config.cutoffs)
    was_judged = (lists[:, :, None] == items[:, None, :]).any(axis=2) & (lists > 0)
    columns = measure(ranks) | {f"judged@{k}": was_judged[:, :k].mean(axis=1) for k in config.cutoffs}
    first = np.where(relevant, ranks, UNREACHABLE).min(axis=1)
    per_user = pd.DataFrame({"rank": pd.arrays.IntegerArray(first, first == UNREACHABLE), **columns})
    return Judged(
        name=name,
        per_user=per_user,
        lists=lists,
        list_scores=list_scores,
        ranks=ranks[real],
        best_ranks=best[real],
        worst_ranks=worst[real],
        tied_targets=int((worst > best)[real].sum()),
        best=mean_of_users(measure(best)[config.metric]),
        worst=mean_of_users(measure(worst)[config.metric]),
        seconds=seconds,
    )


def _first_rows(values: jax.Array, *, count: int) -> np.ndarray:
    return np.asarray(values)[:count]


def _figures(judged: Judged, columns: Sequence[str], config: EvaluationConfig) -> dict[str, Any]:
    interval = bootstrap_means(judged.per_user[list(columns)], num_resamples=config.num_resamples, seed=config.seed)
    ties = {"tied": judged.tied_targets, "best": judged.best, "worst": judged.worst}
    of_metrics = {name: figure(interval, place) for place, name in enumerate(columns)}
    return {"system": judged.name, "metrics": of_metrics, "ties": ties, "seconds": round(judged.seconds, 2)}


def _measure(
    ranks: np.ndarray, *, gains: np.ndarray, where: np.ndarray, relevant: np.ndarray, cutoffs: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """`[Q]` float32 values of each metric from ranks `[Q, P]`."""
    found, worth, judged, good = (jnp.asarray(array) for array in (ranks, gains, where, relevant))
    columns = {}
    for k in sorted(cutoffs):
        columns[f"graded_ndcg@{k}"] = metrics.graded_ndcg_at_k(found, worth, k=k, where=judged)
        for name, metric in metrics.RANKING_METRICS.items():
            columns[f"{name}@{k}"] = metric(found, k=k, where=good)
    return {name: np.asarray(values) for name, values in columns.items()}
