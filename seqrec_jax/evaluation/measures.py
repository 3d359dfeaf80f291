"""What one tile of users is measured by: ranks, metric columns and lists, compiled once for a shape."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqrec_jax import metrics
from seqrec_jax.scoring import UNREACHABLE, Ranks, TopK, ranks_in_scores, top_k_in_scores

_WHOLE_RANKING = ("auc", "mean_rank")
_PROBABILITIES = ("log_loss", "confidence")


def metric_names(cutoffs: tuple[int, ...], *, graded: bool = False) -> list[str]:
    """Names of the columns that `judge` measures: `name@k` for each cutoff, and those without a cutoff.

    `graded` adds graded_ndcg@k, for which targets need gains. `log_loss` (nats, of the targets under the softmax over
    all candidates) and `confidence` (the probability of the first item) are nan for rankers that give no logits.
    """
    names = [*metrics.RANKING_METRICS, *(["graded_ndcg"] if graded else [])]
    at_k = (f"{name}@{k}" for name in names for k in sorted(cutoffs))
    return ["accuracy@1", *at_k, *_WHOLE_RANKING, *_PROBABILITIES]


NOT_DECIDING = ("mean_rank", "log_loss", "confidence")
"""Columns that cannot decide which checkpoint is kept: of two less is better, and confidence is no merit."""


class Measured(NamedTuple):
    """A tile of users: ranks `[U, P]`, columns `[U]` by name, lists `[U, K]`, and how many scores `[U]` are nan."""

    ranks: Ranks
    columns: dict[str, jax.Array]
    lists: TopK
    nan_scores: jax.Array


@partial(jax.jit, static_argnames=("cutoffs", "metric", "logits"))
def measure_scores(
    scores: jax.Array,
    targets: jax.Array,
    gains: jax.Array | None,
    priority: jax.Array,
    candidates: jax.Array,
    *,
    cutoffs: tuple[int, ...],
    metric: str,
    logits: bool,
) -> Measured:
    """Ranks, metric columns with the deciding metric's `best` and `worst`, and lists of one tile of users."""
    where = targets > 0
    nan_scores = jnp.sum(jnp.isnan(scores) & candidates, axis=1, dtype=jnp.int32)
    scores = jnp.where(candidates, scores, -jnp.inf)
    ranks = ranks_in_scores(scores, targets, priority=priority, where=where)
    num_candidates = jnp.broadcast_to(jnp.sum(candidates, axis=1, dtype=jnp.int32), len(targets))
    measure = partial(_metric, gains=gains, num_candidates=num_candidates, where=where)
    names = metric_names(cutoffs, graded=gains is not None)
    columns = {name: measure(name, ranks.ranks) for name in names if name not in _PROBABILITIES}
    columns["best"] = measure(metric, _apart(ranks.best))
    columns["worst"] = measure(metric, -_apart(-ranks.worst)[:, ::-1])
    lists = top_k_in_scores(scores, k=max(cutoffs), priority=priority)
    if logits:
        total = jax.nn.logsumexp(scores[:, 1:].astype(jnp.float32), axis=1)
        losses = total[:, None] - jnp.take_along_axis(scores, targets, axis=1).astype(jnp.float32)
        rankable = where & jnp.isfinite(losses)
        count = jnp.sum(rankable, axis=1, dtype=jnp.int32)
        mean = jnp.sum(jnp.where(rankable, losses, 0.0), axis=1) / jnp.maximum(count, 1).astype(jnp.float32)
        columns["log_loss"] = jnp.where(count > 0, mean, jnp.nan)
        columns["confidence"] = jnp.exp(lists.scores[:, 0].astype(jnp.float32) - total)
    return Measured(ranks, columns, lists, nan_scores)


@partial(jax.jit, static_argnames="cutoffs")
def measure_lists(
    lists: jax.Array, targets: jax.Array, usable: jax.Array, gains: jax.Array | None, *, cutoffs: tuple[int, ...]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Ranks `[U, P]` in lists and the metric columns that lists define."""
    where = targets > 0
    ranks = metrics.ranks_from_lists(lists, targets, where=where)
    ranks = jnp.where(usable, ranks, UNREACHABLE)
    names = metric_names(cutoffs, graded=gains is not None)
    some = jnp.ones(len(lists), dtype=jnp.int32)
    measure = partial(_metric, ranks=ranks, gains=gains, num_candidates=some, where=where)
    return ranks, {name: measure(name) for name in names if name not in (*_WHOLE_RANKING, *_PROBABILITIES)}


def _metric(
    name: str, ranks: jax.Array, *, gains: jax.Array | None, num_candidates: jax.Array, where: jax.Array
) -> jax.Array:
    """`[U]` one of `metric_names` from ranks `[U, P]`."""
    stem, _, k = name.partition("@")
    if stem == "graded_ndcg":
        return metrics.graded_ndcg_at_k(ranks, gains, k=int(k), where=where)
    if stem in metrics.RANKING_METRICS:
        return metrics.RANKING_METRICS[stem](ranks, k=int(k), where=where)
    if name == "accuracy@1":
        return metrics.accuracy_at_1(ranks, where=where)
    metric = metrics.auc if name == "auc" else metrics.mean_rank
    return metric(ranks, num_candidates=num_candidates, where=where)


def _apart(ranks: jax.Array) -> jax.Array:
    """Rising ranks `[U, P]` in which targets that share a place, since they tie, take it and the ones after it."""
    ranks = jnp.sort(ranks, axis=1)
    places = jnp.broadcast_to(jnp.arange(ranks.shape[1], dtype=jnp.int32), ranks.shape)
    begins = jnp.pad(ranks[:, 1:] != ranks[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    return jnp.where(jnp.abs(ranks) == UNREACHABLE, ranks, ranks + places - first)
