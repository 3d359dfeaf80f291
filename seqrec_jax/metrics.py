"""Ranking metrics from the ranks of a user's relevant items: one value a user, nothing averaged.

Every function takes `ranks` `[*B, P]`, the 1-based place of each relevant item in one ranking of that user's
candidates. Relevant items of one user hold distinct places, since they stand in the same list. An item that
could not be ranked has `MISSING_RANK` and is a miss at every k. A user without relevant items gets nan, so
that whoever averages decides openly what to do. k may exceed the number of candidates: the places beyond the
last are empty, so precision still divides by k.

All functions work under `jit`, `vmap`, `pmap` and on arrays sharded over users, and take NumPy arrays too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import DataError, ShapeError

MISSING_RANK = int(np.iinfo(np.int32).max)
"""The rank of an item that is in no place of the ranking; larger than any catalogue."""


def num_relevant(ranks: Int[Array, "*B P"], *, where: Bool[Array, "*B P"] | None = None) -> Int[Array, "*B"]:
    """Number of relevant items of each user, whether they could be ranked or not.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` int32.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    >>> num_relevant(jnp.array([[1, 7], [3, 0]]), where=jnp.array([[True, True], [True, False]]))
    Array([2, 1], dtype=int32)
    """
    _, where = _checked_ranks(ranks, where)
    return _count(where)


def accuracy_at_1(ranks: Int[Array, "*B P"], *, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Whether the first place holds a relevant item.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32, 0 or 1; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    >>> accuracy_at_1(jnp.array([[4, 1], [2, 3]]))
    Array([1., 0.], dtype=float32)
    """
    return hit_rate_at_k(ranks, k=1, where=where)


def hit_rate_at_k(ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Whether any relevant item is in the first k places.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32, 0 or 1; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    >>> hit_rate_at_k(jnp.array([[4, 1], [12, 30]]), k=10)
    Array([1., 0.], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    return _defined(jnp.any(_hits(ranks, where, k), axis=-1).astype(jnp.float32), _count(where))


def precision_at_k(
    ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Share of the first k places that hold a relevant item: hits / k.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    Source:
      Manning et al. (2008), Introduction to Information Retrieval, ch. 8.

    >>> precision_at_k(jnp.array([[4, 1], [2, 30]]), k=4)
    Array([0.5 , 0.25], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    hits = _count(_hits(ranks, where, k))
    return _defined(hits.astype(jnp.float32) / float(k), _count(where))


def recall_at_k(ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Share of a user's P relevant items found in the first k places: hits / P.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    >>> recall_at_k(jnp.array([[1, 7], [3, 2]]), k=3)
    Array([0.5, 1. ], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    return _mean(_count(_hits(ranks, where, k)).astype(jnp.float32), _count(where))


def f1_at_k(ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Harmonic mean of precision and recall at k: 2 hits / (k + P).

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    >>> f1_at_k(jnp.array([[1, 7]]), k=2)
    Array([0.5], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    hits, count = _count(_hits(ranks, where, k)), _count(where)
    # in floats, since k + P may pass int32
    return _defined(2 * hits.astype(jnp.float32) / (count.astype(jnp.float32) + float(k)), count)


def ndcg_at_k(ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Discounted gain of the first k places, over the best that min(P, k) relevant items can reach.

    `sum over hits of 1 / log2(1 + rank)`, divided by `sum for i = 1…min(P, k) of 1 / log2(1 + i)`.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    Source:
      Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques, with binary gains.

    >>> ndcg_at_k(jnp.array([[1], [3], [20]]), k=10)
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    hits, count = _hits(ranks, where, k), _count(where)
    gains = jnp.where(hits, 1 / jnp.log2(1 + ranks.astype(jnp.float32)), 0.0)
    best_hits = min(k, ranks.shape[-1])
    best_gains = np.cumsum(1 / np.log2(np.arange(2, best_hits + 2)))
    ideal = jnp.asarray(np.concatenate([[1.0], best_gains]), dtype=jnp.float32)[jnp.minimum(count, best_hits)]
    # a perfect list may come out an ulp above 1, as its terms are added in another order
    return _defined(jnp.minimum(jnp.sum(gains, axis=-1) / ideal, 1.0), count)


def mrr_at_k(
    ranks: Int[Array, "*B P"], *, k: int | None = None, where: Bool[Array, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Reciprocal rank of the first relevant item, 0 if it is not in the first k places.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1; None for the whole ranking.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    Source:
      Voorhees (1999), The TREC-8 question answering track report.

    >>> mrr_at_k(jnp.array([[9, 4], [20, 30]]), k=10)
    Array([0.25, 0.  ], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    hits = _hits(ranks, where, MISSING_RANK if k is None else k)
    first = jnp.min(jnp.where(hits, ranks, MISSING_RANK), axis=-1, initial=MISSING_RANK)
    reciprocal = jnp.where(first < MISSING_RANK, 1 / first.astype(jnp.float32), 0.0)
    return _defined(reciprocal, _count(where))


def map_at_k(ranks: Int[Array, "*B P"], *, k: int, where: Bool[Array, "*B P"] | None = None) -> Float[Array, "*B"]:
    """Average precision: precision at the place of each hit, summed and divided by min(P, k).

    The mean over users is what is called MAP.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: k < 1, or shapes or dtypes that do not match (at trace time).

    Source:
      Manning et al. (2008), Introduction to Information Retrieval, ch. 8; the cut at k as in Kaggle's MAP@k.

    >>> map_at_k(jnp.array([[4, 1], [2, 30]]), k=10)  # (1/1 + 2/4) / 2 and (1/2) / 2
    Array([0.75, 0.25], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    count = _count(where)
    ordered = jnp.sort(jnp.where(where, ranks, MISSING_RANK), axis=-1)
    hits = _hits(ordered, jnp.ones_like(where), k)
    found = jnp.cumsum(hits, axis=-1, dtype=jnp.float32)
    precisions = jnp.where(hits, found / ordered.astype(jnp.float32), 0.0)
    best_hits = jnp.maximum(jnp.minimum(count, min(k, MISSING_RANK)), 1)
    return _defined(jnp.minimum(jnp.sum(precisions, axis=-1) / best_hits.astype(jnp.float32), 1.0), count)


def mean_rank(
    ranks: Int[Array, "*B P"],
    *,
    num_candidates: int | Int[Array, "*B"] | None = None,
    where: Bool[Array, "*B P"] | None = None,
) -> Float[Array, "*B"]:
    """Mean rank of a user's relevant items; smaller is better.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      num_candidates: number of items that were ranked, one for all users or `[*B]`; a missing item then
        counts as the last place. None takes ranks as they are, and `MISSING_RANK` spoils the mean.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32, at least 1; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match, or num_candidates < 1 (at trace time).

    >>> mean_rank(jnp.array([[4, 1], [2, MISSING_RANK]]), num_candidates=10)
    Array([2.5, 6. ], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    if num_candidates is not None:
        ranks = jnp.minimum(ranks, _checked_candidates(num_candidates, ranks)[..., None])
    total = jnp.sum(jnp.where(where, ranks.astype(jnp.float32), 0.0), axis=-1)
    return _mean(total, _count(where))


def auc(
    ranks: Int[Array, "*B P"],
    *,
    num_candidates: int | Int[Array, "*B"],
    where: Bool[Array, "*B P"] | None = None,
) -> Float[Array, "*B"]:
    """Probability that a relevant item stands above an irrelevant one, both drawn at random.

    The i-th best relevant item at rank r has `r - i` irrelevant items above it, so relevant items never
    compete with each other. A missing item stands below all irrelevant ones.

    Args:
      ranks: `[*B, P]` 1-based rank of each relevant item.
      num_candidates: number of items that were ranked, relevant ones included, one for all users or `[*B]`.
      where: `[*B, P]` True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant or without irrelevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match, or num_candidates < 1 (at trace time).

    Source:
      Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.

    >>> auc(jnp.array([[1, 3], [4, 5]]), num_candidates=6)
    Array([0.875, 0.25 ], dtype=float32)
    """
    ranks, where = _checked_ranks(ranks, where)
    candidates = _checked_candidates(num_candidates, ranks)
    ordered = jnp.sort(jnp.where(where, ranks, MISSING_RANK), axis=-1)
    ranked = ordered <= candidates[..., None]
    irrelevant = candidates - _count(ranked)
    above = ordered - _places(ordered.shape)
    below = jnp.where(ranked, irrelevant[..., None] - above, 0).astype(jnp.float32)
    # one share an item before the sum, since the number of pairs may pass int32
    shares = below / jnp.maximum(irrelevant, 1).astype(jnp.float32)[..., None]
    return jnp.where(irrelevant > 0, _mean(jnp.sum(shares, axis=-1), _count(where)), jnp.nan)


def ranks_from_lists(
    recommended: Int[Array, "*B K"], relevant: Int[Array, "*B P"], *, where: Bool[Array, "*B P"] | None = None
) -> Int[Array, "*B P"]:
    """Place of each relevant item in a list made elsewhere, so that the same metrics judge it.

    Metrics at a k above the list's length K count what stands beyond K as misses. An item that a list repeats
    has its first place. Give the metrics the `where` used here, or `where=relevant > 0` for None.

    Args:
      recommended: `[*B, K]` item ids, best first; below 1 is an empty place.
      relevant: `[*B, P]` item ids, distinct within a user; below 1 is padding.
      where: `[*B, P]` True for real entries; None means all ids from 1.

    Returns:
      `[*B, P]` int32 1-based ranks, `MISSING_RANK` where the item is not in the list.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a relevant id repeated within a user, or an id beyond int32, in NumPy arrays.

    >>> ranks_from_lists(jnp.array([[7, 3, 9]]), jnp.array([[9, 7, 4, 0]]))
    Array([[         3,          1, 2147483647, 2147483647]], dtype=int32)
    """
    recommended, relevant, where = _checked_lists(recommended, relevant, where)
    matches = (recommended[..., None, :] == relevant[..., :, None]) & where[..., :, None]
    places = jnp.where(matches, _places(matches.shape), MISSING_RANK)
    return jnp.min(places, axis=-1, initial=MISSING_RANK)


def hits_from_lists(
    recommended: Int[Array, "*B K"], relevant: Int[Array, "*B P"], *, where: Bool[Array, "*B P"] | None = None
) -> Bool[Array, "*B K"]:
    """Which places of a list hold a relevant item; a repeated item counts once, at its first place.

    Args:
      recommended: `[*B, K]` item ids, best first; below 1 is an empty place.
      relevant: `[*B, P]` item ids, distinct within a user; below 1 is padding.
      where: `[*B, P]` True for real entries; None means all ids from 1.

    Returns:
      `[*B, K]` bool.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a relevant id repeated within a user, or an id beyond int32, in NumPy arrays.

    >>> hits_from_lists(jnp.array([[7, 3, 9]]), jnp.array([[9, 7, 4, 0]]))
    Array([[ True, False,  True]], dtype=bool)
    """
    ranks = ranks_from_lists(recommended, relevant, where=where)
    places = _places(np.shape(recommended))
    return jnp.any(ranks[..., None, :] == places[..., :, None], axis=-1)


RANKING_METRICS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "hit_rate": hit_rate_at_k,
        "precision": precision_at_k,
        "recall": recall_at_k,
        "f1": f1_at_k,
        "ndcg": ndcg_at_k,
        "mrr": mrr_at_k,
        "map": map_at_k,
    }
)
"""Metrics at k by name, each called as `metric(ranks, k=k, where=where)`."""


def _count(mask: Bool[Array, "*B P"]) -> Int[Array, "*B"]:
    return jnp.sum(mask, axis=-1, dtype=jnp.int32)


def _defined(values: Float[Array, "*B"], count: Int[Array, "*B"]) -> Float[Array, "*B"]:
    return jnp.where(count > 0, values, jnp.nan)


def _mean(total: Float[Array, "*B"], count: Int[Array, "*B"]) -> Float[Array, "*B"]:
    return _defined(total / jnp.maximum(count, 1).astype(jnp.float32), count)


def _hits(ranks: Int[Array, "*B P"], where: Bool[Array, "*B P"], k: int) -> Bool[Array, "*B P"]:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ShapeError(
            f"k is {k!r} of type {type(k).__name__}, expected a Python integer; it is static under jit "
            "(close over it, or name it in static_argnames)"
        )
    if k < 1:
        raise ShapeError(f"k is {k}, expected at least 1")
    return where & (ranks <= min(int(k), MISSING_RANK - 1))


def _places(shape: tuple[int, ...]) -> Array:
    """The 1-based place along the last axis."""
    return 1 + jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def _integer_array(values: Any, name: str, *, min_axes: int = 1) -> Array:
    """`values` as int32 on the device; 64-bit values beyond int32 saturate instead of wrapping around."""
    if not isinstance(values, jax.Array):
        values = np.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ShapeError(f"{name} has dtype {values.dtype}, expected integers")
    if values.ndim < min_axes:
        raise ShapeError(f"{name} is a scalar, expected an array with one entry an item on its last axis")
    if np.iinfo(values.dtype).max > MISSING_RANK:
        values = values.clip(max=MISSING_RANK)
    return jnp.asarray(values, dtype=jnp.int32)


def _mask(where: Any, like: Array, name: str) -> Array:
    if where is None:
        return jnp.ones(like.shape, dtype=bool)
    if not isinstance(where, jax.Array):
        where = np.asarray(where)
    if where.dtype != bool:
        raise ShapeError(f"where has dtype {where.dtype}, expected bool; pass `where != 0`")
    if where.shape != like.shape:
        raise ShapeError(f"where has shape {where.shape}, expected that of {name}, {like.shape}")
    return jnp.asarray(where)


def _checked_ranks(ranks: Any, where: Any) -> tuple[Array, Array]:
    array = _integer_array(ranks, "ranks")
    mask = _mask(where, array, "ranks")
    if not isinstance(ranks, jax.Array) and not isinstance(where, jax.Array):  # visible without a device
        real = np.asarray(ranks) if where is None else np.asarray(ranks)[np.asarray(where)]
        if real.size and real.min() < 1:
            raise DataError(f"ranks start at 1, found {real.min()}; add 1 to ranks that start at 0")
    return array, mask


def _checked_candidates(num_candidates: Any, ranks: Array) -> Array:
    """`num_candidates` as `[*B]`."""
    candidates = _integer_array(num_candidates, "num_candidates", min_axes=0)
    if candidates.shape not in ((), ranks.shape[:-1]):
        raise ShapeError(f"num_candidates has shape {candidates.shape}, expected () or one a user, {ranks.shape[:-1]}")
    if not isinstance(num_candidates, jax.Array) and np.any(np.asarray(num_candidates) < 1):
        raise ShapeError(f"num_candidates is {np.min(num_candidates)}, expected at least 1")
    return jnp.broadcast_to(candidates, ranks.shape[:-1])


def _checked_lists(recommended: Any, relevant: Any, where: Any) -> tuple[Array, Array, Array]:
    for name, ids in (("recommended", recommended), ("relevant", relevant)):
        if not isinstance(ids, jax.Array) and np.max(ids, initial=0) > MISSING_RANK:
            raise DataError(f"{name} has id {np.max(ids)}, expected at most {MISSING_RANK}; number items 1…V")
    lists, items = _integer_array(recommended, "recommended"), _integer_array(relevant, "relevant")
    if lists.shape[:-1] != items.shape[:-1]:
        raise ShapeError(
            f"recommended has shape {lists.shape} and relevant {items.shape}, expected [*B, K] and [*B, P] "
            "with the same leading axes; pad relevant with 0"
        )
    mask = _mask(where, items, "relevant") & (items > 0)
    if not isinstance(relevant, jax.Array) and not isinstance(where, jax.Array):
        ordered = np.sort(np.where(True if where is None else where, relevant, 0), axis=-1)
        repeated = ordered[..., 1:][(ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] > 0)]
        if repeated.size:
            raise DataError(f"relevant has id {repeated[0]} twice for one user, counted twice; keep one of each")
    return lists, items, mask
