"""Metrics of all lists together: coverage of the catalogue, concentration, tail, groups, and how lists differ.

`exposure_counts` turns lists into `[V+1]` counts, which add up over tiles of users; the other functions take counts, or
shares, of items. Row 0 belongs to no item and is ignored. `where` `[V+1]` is True for items that could be recommended;
the counts of the others are left out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.metrics.inputs import (
    count_true,
    defined,
    first_places,
    item_ids,
    mask_like,
    number_array,
    places,
    refuse_negative,
    share,
    static_integer,
    visible,
)
from seqrec_jax.types import ArrayLike

BLOCK = 1024
"""Items that are summed before they are added to the rest, so that small counts are not rounded away."""


def exposure_counts(
    lists: Integer[ArrayLike, "*B K"], *, num_items: int, discounted: bool = False
) -> Int[Array, " V1"] | Float[Array, " V1"]:
    """How often each item is shown, over all lists.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      num_items: V, at least 1; ids above it are not counted (and refused in NumPy arrays).
      discounted: place r counts 1 / log2(1 + r), as in NDCG, since lower places are seen less.

    Returns:
      `[V+1]` int32, or float32 where discounted; row 0 is 0.

    Raises:
      ShapeError: lists of another dtype (at trace time).
      ConfigError: num_items < 1.
      DataError: an id above num_items in a NumPy array.

    >>> exposure_counts(jnp.array([[1, 2], [2, 0]]), num_items=3)
    Array([0, 1, 2, 0], dtype=int32)
    >>> exposure_counts(jnp.array([[1, 3], [3, 0]]), num_items=3, discounted=True)
    Array([0.       , 1.       , 0.       , 1.6309297], dtype=float32)
    """
    num = static_integer(num_items, "num_items")
    ids = item_ids(lists, "lists", num_items=num)
    if not discounted:
        return _times_listed(ids, num)

    def add_place(total: Array, place: tuple[Array, Array]) -> tuple[Array, None]:
        shown, weight = place
        # integers first: adding a weight at a time to a large sum would lose much of it
        return total + weight * _times_listed(shown, num).astype(jnp.float32), None

    by_place = jnp.moveaxis(ids.reshape(-1, ids.shape[-1]), 1, 0)
    weights = 1 / jnp.log2(1 + places((ids.shape[-1],)).astype(jnp.float32))
    first = _times_listed(by_place[:1], num).astype(jnp.float32)
    return jax.lax.scan(add_place, first, (by_place[1:], weights[1:]))[0]


def catalogue_coverage(
    counts: Real[ArrayLike, " V1"], *, where: Bool[ArrayLike, " V1"] | None = None
) -> Float[Array, ""]:
    """Share of the items that are shown at all.

    Args:
      counts: `[V+1]` numbers, times each item is shown; row 0 is ignored.
      where: `[V+1]` bool, True for items that could be recommended; None means all.

    Returns:
      float32 scalar in [0, 1]; nan without items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative count in a NumPy array.

    Source:
      Herlocker et al. (2004), Evaluating collaborative filtering recommender systems.

    >>> catalogue_coverage(jnp.array([0, 1, 2, 0, 0]))
    Array(0.5, dtype=float32)
    """
    values, where = _counts_and_mask(counts, where)
    return share(count_true(values > 0), count_true(where))


def gini(counts: Real[ArrayLike, " V1"], *, where: Bool[ArrayLike, " V1"] | None = None) -> Float[Array, ""]:
    """Inequality of exposure: 0 if every item is shown equally often, near 1 if few items get all.

    `sum over i of (2i - n - 1) x_i / (n sum x)` over the n items by rising count; one item of n with all gets 1 - 1/n.

    Args:
      counts: `[V+1]` numbers, times each item is shown; row 0 is ignored.
      where: `[V+1]` bool, True for items that could be recommended; None means all.

    Returns:
      float32 scalar in [0, 1); nan without items or where nothing is shown.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative count in a NumPy array.

    Source:
      Gini (1912), Variabilità e mutabilità; Adomavicius and Kwon (2012), Improving aggregate recommendation
      diversity using ranking-based techniques.

    >>> gini(jnp.array([0, 4, 0, 0, 0])), gini(jnp.array([0, 1, 1, 1, 1]))
    (Array(0.75, dtype=float32), Array(0., dtype=float32))
    """
    values, where = _counts_and_mask(counts, where)
    num = count_true(where)
    # items that do not count come first, and count 0
    rising = jnp.sort(jnp.where(where, values, -1.0))
    position = places(rising.shape) - (rising.shape[0] - num)
    slope = (2 * position - num - 1).astype(jnp.float32) / jnp.maximum(num, 1).astype(jnp.float32)
    return jnp.maximum(share(jnp.sum(jnp.where(position > 0, slope * rising, 0.0)), jnp.sum(values)), 0.0)


def exposure_entropy(
    counts: Real[ArrayLike, " V1"], *, where: Bool[ArrayLike, " V1"] | None = None, normalized: bool = False
) -> Float[Array, ""]:
    """Entropy of exposure in bits: 2 to its power is the number of equally shown items with the same entropy.

    Args:
      counts: `[V+1]` numbers, times each item is shown; row 0 is ignored.
      where: `[V+1]` bool, True for items that could be recommended; None means all.
      normalized: divide by log2 of the number of items, the most that can be reached.

    Returns:
      float32 scalar, in [0, log2 n], or [0, 1] where normalized; nan where nothing is shown, and of a single item
      where normalized.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative count in a NumPy array.

    Source:
      Shannon (1948), A mathematical theory of communication.

    >>> exposure_entropy(jnp.array([0, 2, 2, 0, 0])), exposure_entropy(jnp.array([0, 2, 2, 0, 0]), normalized=True)
    (Array(1., dtype=float32), Array(0.5, dtype=float32))
    """
    values, where = _counts_and_mask(counts, where)
    shares = share(values, jnp.broadcast_to(jnp.sum(values), values.shape))
    bits = -jnp.sum(jnp.where(shares == 0, 0.0, shares * jnp.log2(jnp.where(shares == 0, 1.0, shares))))
    if not normalized:
        return jnp.maximum(bits, 0.0)
    most = jnp.log2(jnp.maximum(count_true(where), 1).astype(jnp.float32))
    return jnp.clip(share(bits, most), 0.0, 1.0)


def tail_share(
    counts: Real[ArrayLike, " V1"], tail: Bool[ArrayLike, " V1"], *, where: Bool[ArrayLike, " V1"] | None = None
) -> Float[Array, ""]:
    """Share of all exposure, or of all demand, that goes to the items of the tail.

    Args:
      counts: `[V+1]` numbers, times each item is shown, or wanted; row 0 is ignored.
      tail: `[V+1]` bool, True for items of the tail, such as those beyond the first fifth by popularity.
      where: `[V+1]` bool, True for items that could be recommended; None means all.

    Returns:
      float32 scalar in [0, 1]; nan where nothing is shown.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative count in a NumPy array.

    Source:
      Abdollahpouri et al. (2019), Managing popularity bias in recommender systems with personalized re-ranking.

    >>> tail_share(jnp.array([0, 6, 1, 1]), jnp.array([False, False, True, True]))
    Array(0.25, dtype=float32)
    """
    values, _ = _counts_and_mask(counts, where)
    if jnp.shape(tail) != values.shape or not jnp.issubdtype(jnp.result_type(tail), jnp.bool_):
        raise ShapeError(f"tail is {jnp.result_type(tail)} {jnp.shape(tail)}, expected bool {values.shape}")
    return share(jnp.sum(jnp.where(jnp.asarray(tail), values, 0.0)), jnp.sum(values))


def group_exposure(
    counts: Real[ArrayLike, " V1"],
    groups: Integer[ArrayLike, " V1"],
    *,
    num_groups: int,
    where: Bool[ArrayLike, " V1"] | None = None,
) -> Float[Array, " G1"]:
    """Share of all exposure that goes to each group of items, such as their providers.

    Args:
      counts: `[V+1]` numbers, times each item is shown; row 0 is ignored.
      groups: `[V+1]` integers, group of each item, 1…num_groups; 0 = none, as is anything else.
      num_groups: G, at least 1.
      where: `[V+1]` bool, True for items that could be recommended; None means all.

    Returns:
      `[G+1]` float32 with sum 1; row 0 is the share of items without a group. All nan where nothing is shown.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: num_groups < 1.
      DataError: a negative count, or a group outside 0…num_groups, in NumPy arrays.

    Source:
      Singh and Joachims (2018), Fairness of exposure in rankings.

    >>> group_exposure(jnp.array([0, 6, 1, 1]), jnp.array([0, 1, 2, 2]), num_groups=2)
    Array([0.  , 0.75, 0.25], dtype=float32)
    """
    num = static_integer(num_groups, "num_groups")
    values, _ = _counts_and_mask(counts, where)
    real = visible(groups)
    if (odd := real[(real < 0) | (real > num)]).size:
        raise DataError(f"groups has group {odd[0]}, expected 0 (none) to num_groups = {num}")
    if jnp.shape(groups) != values.shape or not jnp.issubdtype(jnp.result_type(groups), jnp.integer):
        raise ShapeError(f"groups is {jnp.result_type(groups)} {jnp.shape(groups)}, expected integers {values.shape}")
    group_of = jnp.asarray(groups)
    group_of = jnp.where((group_of < 0) | (group_of > num), 0, group_of).astype(jnp.int32)
    block_of = (places(values.shape) - 1) // BLOCK
    blocks = jnp.zeros((-(-len(values) // BLOCK), num + 1), dtype=jnp.float32)
    sums = jnp.sum(blocks.at[block_of, group_of].add(values), axis=0)
    return share(sums, jnp.broadcast_to(jnp.sum(values), sums.shape))


def exposure_disparity(
    exposure_shares: Real[ArrayLike, " G"], merit_shares: Real[ArrayLike, " G"]
) -> Float[Array, " G"]:
    """Exposure of each group over its merit: 1 is fair, 2 is twice the exposure that it should have.

    Args:
      exposure_shares: `[G]` numbers from `group_exposure`.
      merit_shares: `[G]` numbers, share that each group should get, such as its share of the demand in the test period.

    Returns:
      `[G]` float32 from 0; nan for a group without merit.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative share in a NumPy array.

    Source:
      Singh and Joachims (2018), Fairness of exposure in rankings, disparate treatment.

    >>> exposure_disparity(jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]))
    Array([1.5, 0.5], dtype=float32)
    """
    refuse_negative(exposure_shares, None, "exposure_shares")
    refuse_negative(merit_shares, None, "merit_shares")
    shown = number_array(exposure_shares, "exposure_shares")
    return share(shown, number_array(merit_shares, "merit_shares", like=shown))


def mean_list_distance(lists: Integer[ArrayLike, "*B K"], *, num_items: int | None = None) -> Float[Array, ""]:
    """Personalisation: the share of a user's list that another user's list does not hold, in the mean over all pairs.

    With full lists it is the mean of 1 - |overlap| / K over pairs of users; 0 if all get the same list. No loop over
    pairs is needed: an item on c of U lists is met again with probability (c - 1) / (U - 1), hence
    `1 - sum of c (c - 1) / ((U - 1) sum of c)`. Users with an empty list are left out.

    Args:
      lists: `[*B, K]` integer item ids of U users; below 1 is an empty place.
      num_items: V, needed under `jit`; None takes the largest id.

    Returns:
      float32 scalar in [0, 1]; nan with fewer than two users.

    Raises:
      ShapeError: lists of another dtype, or num_items = None while tracing.
      ConfigError: num_items < 1.
      DataError: an id above num_items in a NumPy array.

    >>> mean_list_distance(jnp.array([[1, 2], [1, 3], [2, 1]]))  # pairs at 1/2, 0 and 1/2
    Array(0.3333333, dtype=float32)
    """
    if num_items is None:
        if isinstance(lists, jax.core.Tracer):
            raise ShapeError("num_items is None, expected the number of items, which is static under jit")
        num_items = max(int(np.max(np.asarray(lists), initial=0)), 1)
    num = static_integer(num_items, "num_items")
    ids = item_ids(lists, "lists", num_items=num)
    counted = first_places(ids)
    listed = _times_listed(jnp.where(counted, ids, 0), num).astype(jnp.float32)
    num_users = count_true(jnp.any(counted, axis=-1).reshape(-1)).astype(jnp.float32)
    shared = jnp.sum(listed * (listed - 1) / jnp.maximum(num_users - 1, 1))
    return defined(jnp.clip(1 - share(shared, jnp.sum(listed)), 0.0, 1.0), num_users > 1)


def _times_listed(ids: Int[Array, ...], num_items: int) -> Int[Array, " V1"]:
    """`[V+1]` int32 number of places of each item; row 0 is 0."""
    counts = jnp.zeros(num_items + 1, dtype=jnp.int32).at[ids.reshape(-1)].add(1, mode="drop")
    return counts.at[0].set(0)


def _counts_and_mask(counts: Any, where: Any) -> tuple[Float[Array, " V1"], Bool[Array, " V1"]]:
    """float32 counts that are 0 where they do not count, and which items count: never row 0."""
    values = number_array(counts, "counts")
    if values.ndim != 1:
        raise ShapeError(f"counts has shape {values.shape}, expected [V+1], a row for each id 0…V")
    mask = mask_like(where, values, "counts") & (places(values.shape) > 1)
    refuse_negative(counts, where, "counts")
    return jnp.where(mask, values, 0.0), mask
