"""Metrics of the whole ranking, without a cut at k: mean rank and area under the curve, one value for each user.

`ranks` are those of `ranking.py`: 1-based, distinct within a user, `MISSING_RANK` where an item was not ranked.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Real

from seqrec_jax.metrics.inputs import (
    MISSING_RANK,
    candidates_of_users,
    count_true,
    defined,
    number_array,
    places,
    ranks_and_mask,
    refuse_negative,
    share,
)
from seqrec_jax.types import ArrayLike


def mean_rank(
    ranks: Integer[ArrayLike, "*B P"],
    *,
    num_candidates: int | Integer[ArrayLike, ""] | Integer[ArrayLike, "*B"] | None = None,
    where: Bool[ArrayLike, "*B P"] | None = None,
) -> Float[Array, "*B"]:
    """Mean rank of a user's relevant items; smaller is better.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      num_candidates: number of items that were ranked, one for all users or `[*B]` integers; a missing item then
        counts as the last place. With None the ranks are used as they are, and a `MISSING_RANK` dominates the mean.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32, at least 1; nan without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match, or num_candidates < 1 (at trace time).

    >>> mean_rank(jnp.array([[4, 1], [2, MISSING_RANK]]), num_candidates=10)
    Array([2.5, 6. ], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    if num_candidates is not None:
        ranks = jnp.minimum(ranks, candidates_of_users(num_candidates, ranks)[..., None])
    total = jnp.sum(jnp.where(where, ranks.astype(jnp.float32), 0.0), axis=-1)
    return share(total, count_true(where))


def auc(
    ranks: Integer[ArrayLike, "*B P"],
    *,
    num_candidates: int | Integer[ArrayLike, ""] | Integer[ArrayLike, "*B"],
    where: Bool[ArrayLike, "*B P"] | None = None,
) -> Float[Array, "*B"]:
    """Probability that a relevant item stands above an irrelevant one, both drawn at random.

    The i-th best relevant item at rank r has `r - i` irrelevant items above it, so relevant items never
    compete with each other. A missing item stands below all irrelevant ones.

    Args:
      ranks: `[*B, P]` integer 1-based rank of each relevant item.
      num_candidates: number of items that were ranked, relevant ones included, one for all users or `[*B]` integers.
      where: `[*B, P]` bool, True for real entries; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without relevant or without irrelevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match, or num_candidates < 1 (at trace time).

    Source:
      Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.

    >>> auc(jnp.array([[1, 3], [4, 5]]), num_candidates=6)
    Array([0.875, 0.25 ], dtype=float32)
    """
    ranks, where = ranks_and_mask(ranks, where)
    candidates = candidates_of_users(num_candidates, ranks)
    ordered = jnp.sort(jnp.where(where, ranks, MISSING_RANK), axis=-1)
    ranked = ordered <= candidates[..., None]
    irrelevant = candidates - count_true(ranked)
    above = ordered - places(ordered.shape)
    below = jnp.where(ranked, irrelevant[..., None] - above, 0).astype(jnp.float32)
    # one share an item before the sum, since the number of pairs may pass int32
    shares = below / jnp.maximum(irrelevant, 1).astype(jnp.float32)[..., None]
    return defined(share(jnp.sum(shares, axis=-1), count_true(where)), irrelevant > 0)


def grouped_auc(user_auc: Real[ArrayLike, "*B U"], weights: Real[ArrayLike, "*B U"]) -> Float[Array, "*B"]:
    """Mean of the users' own AUC, weighted by each user's part of the log: no user is compared with another.

    An AUC over all users' pairs at once (`roc_auc`) also rewards separating active users from others; this one does
    not.

    Args:
      user_auc: `[*B, U]` numbers from `auc` or `roc_auc`; users with nan are left out.
      weights: `[*B, U]` numbers, count of a user's targets or impressions.

    Returns:
      `[*B]` float32 in [0, 1]; nan where no user has an AUC and a weight.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative weight in a NumPy array.

    Source:
      Zhu et al. (2017), Optimized cost per click in Taobao display advertising (GAUC).

    >>> grouped_auc(jnp.array([0.5, 1.0, jnp.nan]), jnp.array([3, 1, 9]))
    Array(0.625, dtype=float32)
    """
    values = number_array(user_auc, "user_auc")
    refuse_negative(weights, None, "weights")
    weights = number_array(weights, "weights", like=values)
    known = ~jnp.isnan(values)
    total = jnp.sum(jnp.where(known, values * weights, 0.0), axis=-1)
    return share(total, jnp.sum(jnp.where(known, weights, 0.0), axis=-1))
