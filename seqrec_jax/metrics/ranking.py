"""Ranking metrics from the ranks of each user's relevant items: one value for each user, nothing averaged.

Every function takes `ranks` `[*B, P]`, the 1-based place of each relevant item in one ranking of that user's
candidates. Relevant items of one user hold distinct places, since they stand in the same list. An item that
could not be ranked has `MISSING_RANK` and is a miss at every k. A user without relevant items gets nan, so that
averaging has to treat such users explicitly. k may exceed the number of candidates: the places beyond the last
are empty, so precision still divides by k.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from seqrec_jax.metrics.inputs import (
    MISSING_RANK,
    count_true,
    defined,
    number_array,
    places,
    ranks_and_mask,
    refuse_negative,
    share,
    static_integer,
)
from seqrec_jax.types import ArrayLike, MetricFunction


def num_relevant(
    ranks: Integer[ArrayLike, "*B P"], *, where: Bool[ArrayLike, "*B P"] | None = None
) -> Int[Array, "*B"]:
    """Number of relevant items of each user, whether they could be ranked or not.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` int32.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    >>> num_relevant(jnp.array([[1, 7], [3, 0]]), where=jnp.array([[True, True], [True, False]]))
    Array([2, 1], dtype=int32)
    """
    _, where = ranks_and_mask(ranks, where)
    return count_true(where)


def accuracy_at_1(
    ranks: Integer[ArrayLike, "*B P"], *, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Whether the first place holds a relevant item.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32, 0 or 1; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    >>> accuracy_at_1(jnp.array([[4, 1], [2, 3]]))
    Array([1., 0.], dtype=float32)
    """
    return hit_rate_at_k(ranks, k=1, where=where)


def hit_rate_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Whether any relevant item is in the first k places.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32, 0 or 1; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    >>> hit_rate_at_k(jnp.array([[4, 1], [12, 30]]), k=10)
    Array([1., 0.], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    return defined(jnp.any(_hits(ranks, where, k), axis=-1).astype(jnp.float32), count_true(where) > 0)


def precision_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Share of the first k places that hold a relevant item: hits / k.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    Source:
      Manning et al. (2008), Introduction to Information Retrieval, ch. 8.

    >>> precision_at_k(jnp.array([[4, 1], [2, 30]]), k=4)
    Array([0.5 , 0.25], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    hits = count_true(_hits(ranks, where, k))
    return defined(hits.astype(jnp.float32) / float(k), count_true(where) > 0)


def recall_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Share of a user's P relevant items found in the first k places: hits / P.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    >>> recall_at_k(jnp.array([[1, 7], [3, 2]]), k=3)
    Array([0.5, 1. ], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    return share(count_true(_hits(ranks, where, k)), count_true(where))


def f1_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Harmonic mean of precision and recall at k: 2 hits / (k + P).

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    >>> f1_at_k(jnp.array([[1, 7]]), k=2)
    Array([0.5], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    hits, count = count_true(_hits(ranks, where, k)), count_true(where)
    # in floats, since k + P may pass int32
    return defined(2 * hits.astype(jnp.float32) / (count.astype(jnp.float32) + float(k)), count > 0)


def ndcg_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Discounted gain of the first k places, over the best that min(P, k) relevant items can reach.

    `sum over hits of 1 / log2(1 + rank)`, divided by `sum for i = 1…min(P, k) of 1 / log2(1 + i)`.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    Source:
      Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques, with binary gains.

    >>> ndcg_at_k(jnp.array([[1], [3], [20]]), k=10)
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    hits, count = _hits(ranks, where, k), count_true(where)
    gains = jnp.where(hits, 1 / jnp.log2(1 + ranks.astype(jnp.float32)), 0.0)
    best_hits = min(k, ranks.shape[-1])
    best_gains = np.cumsum(1 / np.log2(np.arange(2, best_hits + 2)))
    ideal = jnp.asarray(np.concatenate([[1.0], best_gains]), dtype=jnp.float32)[jnp.minimum(count, best_hits)]
    # a perfect list may come out an ulp above 1, as its terms are added in another order
    return defined(jnp.minimum(jnp.sum(gains, axis=-1) / ideal, 1.0), count > 0)


def graded_ndcg_at_k(
    ranks: Integer[ArrayLike, "*B P"],
    gains: Real[ArrayLike, "*B P"],
    *,
    k: int,
    exponential: bool = False,
    where: Bool[ArrayLike, "*B P"] | None = None,
) -> Float[Array, "*B"]:
    """NDCG of relevant items with gains that differ, such as a purchase worth more than a view.

    `sum over hits of g / log2(1 + rank)`, divided by that of the best list: the user's own relevant items by
    gain from highest to lowest. With equal gains it is `ndcg_at_k`.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      gains: `[*B, P]` numbers, gain of each relevant item, not negative.
      k: length of the list, at least 1.
      exponential: use 2^gain − 1, as in web search, instead of the gain.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items of positive gain.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.
      DataError: a negative gain in a NumPy array.

    Source:
      Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques; the exponential gain is
      that of Burges et al. (2005), Learning to rank using gradient descent.

    >>> graded_ndcg_at_k(jnp.array([[1, 2], [2, 1]]), jnp.array([[1.0, 4.0], [0.0, 2.0]]), k=1)
    Array([0.25, 1.  ], dtype=float32)
    """
    given = where
    ranks, where = ranks_and_mask(ranks, where)
    worth = number_array(gains, "gains", like=ranks)
    refuse_negative(gains, given, "gains")
    worth = jnp.where(where, worth, 0.0)
    if exponential:
        worth = jnp.exp2(worth) - 1
    hits = _hits(ranks, where, k)
    found = jnp.sum(jnp.where(hits, worth / jnp.log2(1 + ranks.astype(jnp.float32)), 0.0), axis=-1)
    best_first = jnp.sort(worth, axis=-1, descending=True)[..., :k]
    ideal = jnp.sum(best_first / jnp.log2(1 + places(best_first.shape).astype(jnp.float32)), axis=-1)
    return jnp.minimum(share(found, ideal), 1.0)


def mrr_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int | None = None, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Reciprocal rank of the first relevant item, 0 if it is not in the first k places.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1; None for the whole ranking.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    Source:
      Voorhees (1999), The TREC-8 question answering track report.

    >>> mrr_at_k(jnp.array([[9, 4], [20, 30]]), k=10)
    Array([0.25, 0.  ], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    hits = _hits(ranks, where, MISSING_RANK if k is None else k)
    first = jnp.min(jnp.where(hits, ranks, MISSING_RANK), axis=-1, initial=MISSING_RANK)
    reciprocal = jnp.where(first < MISSING_RANK, 1 / first.astype(jnp.float32), 0.0)
    return defined(reciprocal, count_true(where) > 0)


def map_at_k(
    ranks: Integer[ArrayLike, "*B P"], *, k: int, where: Bool[ArrayLike, "*B P"] | None = None
) -> Float[Array, "*B"]:
    """Average precision: precision at the place of each hit, summed and divided by min(P, k).

    The mean over users is what is called MAP.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      k: length of the list, at least 1.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: k < 1.

    Source:
      Manning et al. (2008), Introduction to Information Retrieval, ch. 8; the cut at k as in Kaggle's MAP@k.

    >>> map_at_k(jnp.array([[4, 1], [2, 30]]), k=10)  # (1/1 + 2/4) / 2 and (1/2) / 2
    Array([0.75, 0.25], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    count = count_true(where)
    ordered = jnp.sort(jnp.where(where, ranks, MISSING_RANK), axis=-1)
    hits = _hits(ordered, jnp.ones_like(where), k)
    found = jnp.cumsum(hits, axis=-1, dtype=jnp.float32)
    precisions = jnp.where(hits, found / ordered.astype(jnp.float32), 0.0)
    best_hits = jnp.maximum(jnp.minimum(count, min(k, MISSING_RANK)), 1)
    return defined(jnp.minimum(jnp.sum(precisions, axis=-1) / best_hits.astype(jnp.float32), 1.0), count > 0)


RANKING_METRICS: Mapping[str, MetricFunction] = MappingProxyType(
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


def _hits(ranks: Int[Array, "*B P"], where: Bool[Array, "*B P"], k: int) -> Bool[Array, "*B P"]:
    return where & (ranks <= min(static_integer(k, "k"), MISSING_RANK - 1))
