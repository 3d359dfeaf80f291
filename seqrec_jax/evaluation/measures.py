"""Ranks, lists and metric columns of users, in tiles of a fixed shape that are compiled once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.scoring import UNREACHABLE, Ranks, TopK, ranks_in_scores, top_k_in_scores

_WHOLE_RANKING = ("auc", "mean_rank")
_PROBABILITIES = ("log_loss", "confidence")
NOT_OF_LISTS = (*_WHOLE_RANKING, *_PROBABILITIES)
"""Columns that cannot be computed from a list of K items."""
_ROWS, _CELLS = 4096, 2**18  # users, and users times targets, that are measured at once
_PLACES = 32  # of a list that are packed into one number


def metric_names(cutoffs: tuple[int, ...], *, graded: bool = False) -> list[str]:
    """Names of the columns that `judge` measures: `name@k` for each cutoff, and those without a cutoff.

    `log_loss` (in nats, of the targets under the softmax over all candidates) and `confidence` (the probability of the
    first item) are nan for rankers that give no logits.

    Args:
      cutoffs: list lengths k.
      graded: whether targets have gains, which adds graded_ndcg@k.
    """
    names = [*metrics.RANKING_METRICS, *(["graded_ndcg"] if graded else [])]
    at_k = (f"{name}@{k}" for name in names for k in sorted(cutoffs))
    return ["accuracy@1", *at_k, *_WHOLE_RANKING, *_PROBABILITIES]


NOT_DECIDING = ("mean_rank", "log_loss", "confidence")
"""Columns that cannot decide: smaller is better for two of them, and high confidence is no quality in itself."""


class Measured(NamedTuple):
    """Results of one tile of users.

    Attributes:
      ranks: `[U, P]` int32 ranks of the targets, with the best and worst ranks under ties.
      lists: `[U, K]` items and scores.
      num_candidates: `[U]` int32 number of candidates.
      nan_scores: `[U]` int32 number of candidates whose score is nan.
      probabilities: `[U]` float32 `log_loss` and `confidence` by name; empty for scores that are no logits.
    """

    ranks: Ranks
    lists: TopK
    num_candidates: jax.Array
    nan_scores: jax.Array
    probabilities: dict[str, jax.Array]


@partial(jax.jit, static_argnames=("k", "logits"))
def measure_scores(
    scores: jax.Array, targets: jax.Array, priority: jax.Array, candidates: jax.Array, *, k: int, logits: bool
) -> Measured:
    """Ranks and lists of one tile of users, and the probabilities of their targets.

    Args:
      scores: `[U, V+1]` floating point; column 0 is ignored.
      targets: `[U, P]` int32 item numbers, 0 = padding.
      priority: `[V+1]` int32 order of the catalogue that settles ties.
      candidates: `[U, V+1]` or `[1, V+1]` bool, items that may be recommended.
      k: length of the lists.
      logits: whether the softmax of the scores is a probability.
    """
    where = targets > 0
    nan_scores = jnp.sum(jnp.isnan(scores) & candidates, axis=1, dtype=jnp.int32)
    scores = jnp.where(candidates, scores, -jnp.inf)
    lists = top_k_in_scores(scores, k=k, priority=priority)
    probabilities = {}
    if logits:
        total = jax.nn.logsumexp(scores[:, 1:].astype(jnp.float32), axis=1)
        losses = total[:, None] - jnp.take_along_axis(scores, targets, axis=1).astype(jnp.float32)
        rankable = where & jnp.isfinite(losses)
        count = jnp.sum(rankable, axis=1, dtype=jnp.int32)
        mean = jnp.sum(jnp.where(rankable, losses, 0.0), axis=1) / jnp.maximum(count, 1).astype(jnp.float32)
        probabilities["log_loss"] = jnp.where(count > 0, mean, jnp.nan)
        probabilities["confidence"] = jnp.exp(lists.scores[:, 0].astype(jnp.float32) - total)
    return Measured(
        ranks_in_scores(scores, targets, priority=priority, where=where),
        lists,
        jnp.broadcast_to(jnp.sum(candidates, axis=1, dtype=jnp.int32), len(targets)),
        nan_scores,
        probabilities,
    )


def by_width(num_targets: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (width, places of users) of users whose targets are padded to one width: 1, 8, 64, …, the least that fits.

    A few users with hundreds of targets then neither widen the arrays of all others nor change their figures.

    Args:
      num_targets: `[U]` integer number of targets of each user.
    """
    widths = 8 ** np.ceil(np.log2(np.maximum(num_targets, 1)) / 3).astype(np.int64)
    for width in np.unique(widths).tolist():
        yield width, np.flatnonzero(widths == width)


def ranks_in_lists(lists: np.ndarray, cases: EvaluationCases) -> np.ndarray:
    """`[T]` int32 rank of every target in its user's list `[U, K]`, `UNREACHABLE` where it is not listed."""
    ranks = np.empty(len(cases.target_items), dtype=np.int32)
    for users, width in _tiles(np.arange(len(lists)), cases):
        targets = cases.padded(cases.target_items, users, width=width)
        found = _find(jnp.asarray(lists[users], dtype=jnp.int32), jnp.asarray(targets))
        ranks[cases.targets_of(users)] = np.asarray(found)[targets > 0]
    return ranks


@jax.jit
def _find(lists: jax.Array, targets: jax.Array) -> jax.Array:
    return metrics.ranks_from_lists(lists, targets, where=targets > 0)


def measure_ranks(
    ranks: np.ndarray, cases: EvaluationCases, *, names: Sequence[str], num_candidates: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """`[U]` each of the columns in `names`, from the ranks `[T]` of all targets; none that needs probabilities.

    Where targets have no gains, the figures at k of a user follow from the number of targets and the places that hold
    one. Few users are one of a kind in that, so that each kind is measured once.

    Args:
      ranks: of the targets, `UNREACHABLE` for misses.
      cases: the U users.
      names: of `metric_names`.
      num_candidates: `[U]`; without it there is no `auc` and `mean_rank`.
    """
    of_kinds = cases.target_gains is None
    listed = [name for name in names if name not in NOT_OF_LISTS]
    longest = max((int(name.partition("@")[2]) for name in listed), default=1)
    kind = _kinds(ranks, cases, longest=longest) if of_kinds else np.arange(len(cases.users))
    columns = _columns(ranks, cases, listed, kind=kind)
    if num_candidates is not None:
        whole = [name for name in names if name in _WHOLE_RANKING]
        columns |= _columns(ranks, cases, whole, kind=np.arange(len(cases.users)), num_candidates=num_candidates)
    return columns


def _columns(
    ranks: np.ndarray,
    cases: EvaluationCases,
    names: Sequence[str],
    *,
    kind: np.ndarray,
    num_candidates: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The columns, measured once for each kind of users."""
    if not names:
        return {}
    gains, examples = cases.target_gains, np.unique(kind, return_index=True)[1]
    table = np.empty((len(names), len(examples)), dtype=np.float32)
    for users, width in _tiles(examples, cases):
        padded = cases.padded(ranks, users, width=width)
        where = padded > 0
        if gains is None:
            # whoever stands for its kind, the ranks are in one order, and so their sums are the same to the last bit
            padded = np.sort(np.where(where, padded, UNREACHABLE), axis=1)
        worth = None if gains is None else jnp.asarray(cases.padded(gains, users, width=width))
        counts = np.ones(len(users), dtype=np.int32) if num_candidates is None else num_candidates[users]
        table[:, kind[users]] = _measure(
            jnp.asarray(padded), worth, jnp.asarray(counts), jnp.asarray(where), names=tuple(names)
        )
    return dict(zip(names, np.take(table, kind, axis=1), strict=True))


def apart(ranks: np.ndarray, cases: EvaluationCases, *, step: int) -> np.ndarray:
    """Ranks `[T]` in which a user's targets that share a place, since they tie, take it and the ones beside it.

    Args:
      ranks: if every tie were won or lost.
      cases: the users.
      step: 1 for the places after it, -1 for those before it.
    """
    users = np.repeat(np.arange(len(cases.users)), cases.num_targets)
    order = np.lexsort((step * ranks.astype(np.int64), users))
    ordered, users = ranks[order], users[order]
    begins = np.concatenate([[True], (ordered[1:] != ordered[:-1]) | (users[1:] != users[:-1])])
    places = np.arange(len(ordered))
    shift = places - np.maximum.accumulate(np.where(begins, places, 0))
    found = np.empty_like(ranks)
    found[order] = np.where(ordered == UNREACHABLE, UNREACHABLE, ordered + step * shift)
    return found


def _kinds(ranks: np.ndarray, cases: EvaluationCases, *, longest: int) -> np.ndarray:
    """`[U]` a number for all users of as many targets whose hits are in the same places, up to the longest list."""
    users = np.repeat(np.arange(len(cases.users)), cases.num_targets)
    hits = ranks <= longest
    users, places = users[hits], ranks[hits] - 1
    kind = cases.num_targets
    for start in range(0, longest, _PLACES):
        here = (places >= start) & (places < start + _PLACES)
        # the targets of a user hold distinct places, so that the sum has a bit for each
        bits = np.bincount(users[here], weights=2.0 ** (places[here] - start), minlength=len(kind))
        kind = pd.factorize(kind << _PLACES | bits.astype(np.int64), sort=True)[0].astype(np.int64)
    return kind


@partial(jax.jit, static_argnames="names")
def _measure(
    ranks: jax.Array, gains: jax.Array | None, num_candidates: jax.Array, where: jax.Array, *, names: tuple[str, ...]
) -> jax.Array:
    measure = partial(_metric, ranks=ranks, gains=gains, num_candidates=num_candidates, where=where)
    return jnp.stack([measure(name) for name in names])


def _tiles(users: np.ndarray, cases: EvaluationCases) -> Iterator[tuple[np.ndarray, int]]:
    """So many of the users at a time and the width of their targets; the last one fills up the last tile."""
    for width, members in by_width(cases.num_targets[users]):
        rows = max(1, min(_ROWS, _CELLS // width))
        for start in range(0, len(members), rows):
            yield users[members[np.minimum(np.arange(start, start + rows), len(members) - 1)]], width


def _metric(
    name: str, ranks: jax.Array, *, gains: jax.Array | None, num_candidates: jax.Array, where: jax.Array
) -> jax.Array:
    """`[U]` one of `metric_names` from ranks `[U, P]`."""
    stem, _, k = name.partition("@")
    if stem == "graded_ndcg" and gains is not None:
        return metrics.graded_ndcg_at_k(ranks, gains, k=int(k), where=where)
    if stem in metrics.RANKING_METRICS:
        return metrics.RANKING_METRICS[stem](ranks, k=int(k), where=where)
    if name == "accuracy@1":
        return metrics.accuracy_at_1(ranks, where=where)
    metric = metrics.auc if name == "auc" else metrics.mean_rank
    return metric(ranks, num_candidates=num_candidates, where=where)
