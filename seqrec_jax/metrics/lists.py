"""Metrics of lists of recommended items: ranks of relevant ones, novelty, diversity, and the likeness of two lists.

Lists are `[*B, K]` integer item ids, best first; an id below 1 is an empty place, so that shorter lists are padded
with 0.
An item that a list repeats counts once, at its first place. One value for each user, nan for an empty list.
Work and memory grow with users × K × K or users × K × E at most: pass a million users in tiles.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from seqrec_jax.errors import DataError
from seqrec_jax.metrics.inputs import (
    MISSING_RANK,
    contained,
    count_true,
    first_places,
    item_ids,
    item_table,
    mask_like,
    places,
    rows_of,
    same_users,
    share,
    visible,
)
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike


def ranks_from_lists(
    recommended: Integer[ArrayLike, "*B K"],
    relevant: Integer[ArrayLike, "*B P"],
    *,
    where: Bool[ArrayLike, "*B P"] | None = None,
) -> Int[Array, "*B P"]:
    """Rank of each relevant item in a given list, of any recommender, for the metrics that take ranks.

    Metrics at a k above the list's length K count items beyond K as misses. An item that a list repeats has its
    first place. Pass the same `where` to the metrics, or `where=relevant > 0` for None.

    Args:
      recommended: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      relevant: `[*B, P]` integer item ids, distinct within a user; below 1 is padding.
      where: `[*B, P]` bool, True for real entries; None means all ids from 1.

    Returns:
      `[*B, P]` int32 1-based ranks, `MISSING_RANK` where the item is not in the list.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a relevant id repeated within a user, or an id beyond int32, in NumPy arrays.

    >>> ranks_from_lists(jnp.array([[7, 3, 9]]), jnp.array([[9, 7, 4, 0]]))
    Array([[         3,          1, 2147483647, 2147483647]], dtype=int32)
    """
    lists, items = item_ids(recommended, "recommended"), item_ids(relevant, "relevant")
    same_users(lists, "recommended", items, "relevant")
    mask = mask_like(where, items, "relevant") & (items > 0)
    if not isinstance(relevant, jax.Array) and not isinstance(where, jax.Array):
        ordered = np.sort(np.where(True if where is None else where, relevant, 0), axis=-1)
        repeated = ordered[..., 1:][(ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] > 0)]
        if repeated.size:
            raise DataError(f"relevant has id {repeated[0]} twice for one user, counted twice; keep one of each")
    matches = (lists[..., None, :] == items[..., :, None]) & mask[..., :, None]
    return jnp.min(jnp.where(matches, places(matches.shape), MISSING_RANK), axis=-1, initial=MISSING_RANK)


def hits_from_lists(
    recommended: Integer[ArrayLike, "*B K"],
    relevant: Integer[ArrayLike, "*B P"],
    *,
    where: Bool[ArrayLike, "*B P"] | None = None,
) -> Bool[Array, "*B K"]:
    """Which places of a list hold a relevant item; a repeated item counts once, at its first place.

    Args:
      recommended: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      relevant: `[*B, P]` integer item ids, distinct within a user; below 1 is padding.
      where: `[*B, P]` bool, True for real entries; None means all ids from 1.

    Returns:
      `[*B, K]` bool.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a relevant id repeated within a user, or an id beyond int32, in NumPy arrays.

    >>> hits_from_lists(jnp.array([[7, 3, 9]]), jnp.array([[9, 7, 4, 0]]))
    Array([[ True, False,  True]], dtype=bool)
    """
    ranks = ranks_from_lists(recommended, relevant, where=where)
    place = places(np.shape(recommended))
    return jnp.any(ranks[..., None, :] == place[..., :, None], axis=-1)


def novelty(lists: Integer[ArrayLike, "*B K"], item_probabilities: Real[ArrayLike, " V1"]) -> Float[Array, "*B"]:
    """Mean self-information of the listed items in bits: how rare they are.

    `mean over items of -log2 p`. With p = the share of users who had the item it is the mean inverse user frequency.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      item_probabilities: `[V+1]` numbers, probability of each item, such as `(count + 1) / (num_users + 1)`; row 0 is
        ignored. A listed item of probability 0 makes the metric infinite, hence the + 1.

    Returns:
      `[*B]` float32 in bits, at least 0; nan for an empty list.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: an id beyond the table, or a probability outside [0, 1], in NumPy arrays.

    Source:
      Zhou et al. (2010), Solving the apparent diversity-accuracy dilemma of recommender systems; Castells et al.
      (2011), Novelty and diversity metrics for recommender systems.

    >>> novelty(jnp.array([[1, 2], [2, 0]]), jnp.array([0.0, 0.5, 0.125]))
    Array([2., 3.], dtype=float32)
    """
    table = item_table(item_probabilities, "item_probabilities", axes=1)
    real = visible(item_probabilities)
    if (odd := real[~((real >= 0) & (real <= 1))]).size:
        raise DataError(f"item_probabilities hold {odd[0]}, expected numbers in [0, 1]; divide counts by their base")
    ids = item_ids(lists, "lists", num_items=table.shape[0] - 1)
    counted = first_places(ids)
    bits = jnp.where(counted, jnp.log2(1 / rows_of(table, ids)), 0.0)
    return share(jnp.sum(bits, axis=-1), count_true(counted))


def intra_list_diversity(lists: Integer[ArrayLike, "*B K"], vectors: Real[ArrayLike, "V1 E"]) -> Float[Array, "*B"]:
    """Mean distance 1 − cosine over the pairs of a list, from the items' vectors.

    The cosines of all pairs come from one sum: `|sum of x|² = n + 2 × sum over pairs of cos` for unit vectors x. An
    item whose vector is zero has no direction and is left out.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      vectors: `[V+1, E]` numbers, vector of each item, of any length.

    Returns:
      `[*B]` float32 in [0, 2]; nan with fewer than two items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: an id beyond the table, in NumPy arrays.

    Source:
      Ziegler et al. (2005), Improving recommendation lists through topic diversification.

    >>> vectors = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    >>> intra_list_diversity(jnp.array([[1, 2, 0], [1, 3, 0]]), vectors)
    Array([1., 2.], dtype=float32)
    """
    table = item_table(vectors, "vectors", axes=2)
    ids = item_ids(lists, "lists", num_items=table.shape[0] - 1)

    def add_place(sums: tuple[Array, Array], place: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        total, num = sums
        rows = rows_of(table, place[0])
        lengths = jnp.linalg.norm(rows, axis=-1)
        counted = place[1] & (lengths != 0)
        units = jnp.where(counted[..., None], rows / jnp.where(counted, lengths, 1.0)[..., None], 0.0)
        return (total + units, num + counted.astype(jnp.int32)), None

    nothing = count_true(ids < 0)  # zeros, placed on the devices as the users are
    start = jnp.broadcast_to(nothing[..., None].astype(jnp.float32), (*nothing.shape, table.shape[1])), nothing
    by_place = jnp.moveaxis(ids, -1, 0), jnp.moveaxis(first_places(ids), -1, 0)
    # a place at a time, so that the rows of all places are never in memory together
    (total, num), _ = jax.lax.scan(add_place, start, by_place)
    num = num.astype(jnp.float32)
    cosines = jnp.sum(jnp.square(total), axis=-1) - num
    return jnp.clip(1 - share(cosines, num * (num - 1)), 0.0, 2.0)


def attribute_diversity(lists: Integer[ArrayLike, "*B K"], codes: Integer[ArrayLike, "V1 M"]) -> Float[Array, "*B"]:
    """Mean Jaccard distance over the pairs of a list, from the items' sets of attribute codes.

    The distance of two items is the share of the codes of either that they do not have in common. An item without
    any code is left out. Work grows with K² × M².

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      codes: `[V+1, M]` integers, up to M codes of each item, such as its categories; 0 = none.

    Returns:
      `[*B]` float32 in [0, 1]; nan with fewer than two items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: an id beyond the table, in NumPy arrays.

    >>> attribute_diversity(jnp.array([[1, 2, 3]]), jnp.array([[0, 0], [1, 2], [2, 0], [1, 2]]))
    Array([0.33333334], dtype=float32)
    """
    table = item_table(codes, "codes", axes=2, dtype=jnp.int32)
    ids = item_ids(lists, "lists", num_items=table.shape[0] - 1)
    rows = jnp.maximum(rows_of(table, ids), 0)
    rows = jnp.where(first_places(rows), rows, 0)
    sizes = count_true(rows > 0)
    counted = first_places(ids) & (sizes > 0)
    first, second = rows[..., :, None, :, None], rows[..., None, :, None, :]
    common = jnp.sum((first == second) & (first > 0), axis=(-2, -1), dtype=jnp.int32)
    either = sizes[..., :, None] + sizes[..., None, :] - common
    pairs = counted[..., :, None] & counted[..., None, :]
    # an item's distance to itself is 0, so the diagonal adds nothing
    distances = jnp.where(pairs, 1 - common.astype(jnp.float32) / jnp.maximum(either, 1).astype(jnp.float32), 0.0)
    num = count_true(counted).astype(jnp.float32)
    return share(jnp.sum(distances, axis=(-2, -1)), num * (num - 1))


def list_overlap(first: Integer[ArrayLike, "*B K"], second: Integer[ArrayLike, "*B J"]) -> Float[Array, "*B"]:
    """Share of the items of either list that are in both (Jaccard), whatever their order.

    Args:
      first: `[*B, K]` integer item ids; below 1 is an empty place.
      second: `[*B, J]` integer item ids of the same users.

    Returns:
      `[*B]` float32 in [0, 1]; nan where both lists are empty.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    Source:
      Jaccard (1912), The distribution of the flora in the alpine zone.

    >>> list_overlap(jnp.array([[1, 2, 3]]), jnp.array([[3, 4, 1]]))
    Array([0.5], dtype=float32)
    """
    a, b = item_ids(first, "first"), item_ids(second, "second")
    same_users(a, "first", b, "second")
    only_once = first_places(a)
    both = count_true(only_once & contained(a, b))
    return share(both, count_true(only_once) + count_true(first_places(b)) - both)


def rank_biased_overlap(
    first: Integer[ArrayLike, "*B K"],
    second: Integer[ArrayLike, "*B J"],
    *,
    persistence: float | Float[Array, ""] = 0.9,
) -> Float[Array, "*B"]:
    """How alike two rankings are, the first places weighing most; extrapolated beyond the ends of the lists (RBO_ext).

    A reader goes on from one place to the next with the given probability; RBO is the mean share of common items at
    the place where the reader stops, assuming that the rankings agree beyond the lists as they do within. Lists of
    different lengths follow equation 32 of the source; an empty list compared with another gives 0.

    Args:
      first: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      second: `[*B, J]` integer item ids of the same users.
      persistence: probability of going on, above 0 and below 1; the first 10 places weigh 86 % at 0.9.

    Returns:
      `[*B]` float32 in [0, 1]: 1 for equal lists, 0 for lists without a common item; nan where both are empty.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: a persistence outside (0, 1).

    Source:
      Webber, Moffat and Zobel (2010), A similarity measure for indefinite rankings.

    >>> overlap = rank_biased_overlap(jnp.array([1, 2, 3, 4, 5]), jnp.array([2, 3, 4, 1, 5]), persistence=0.9)
    >>> f"{overlap:.3f}"
    '0.828'
    """
    if not isinstance(persistence, jax.Array):
        check_value("persistence", persistence, "(0, 1)")
    a, b = item_ids(first, "first"), item_ids(second, "second")
    same_users(a, "first", b, "second")
    first_a, first_b = first_places(a), first_places(b)
    depth_a, depth_b = (jnp.cumsum(mask, axis=-1, dtype=jnp.int32) for mask in (first_a, first_b))
    matches = (a[..., :, None] == b[..., None, :]) & first_a[..., :, None] & first_b[..., None, :]
    met_at = jnp.where(matches, jnp.maximum(depth_a[..., :, None], depth_b[..., None, :]), MISSING_RANK)
    met_at = jnp.min(met_at, axis=-1, initial=MISSING_RANK)  # the depth from which an item is in both
    length_a, length_b = count_true(first_a)[..., None], count_true(first_b)[..., None]
    short, long = jnp.minimum(length_a, length_b), jnp.maximum(length_a, length_b)
    depth = places((*a.shape[:-1], max(a.shape[-1], b.shape[-1])))
    common = count_true(met_at[..., None, :] <= depth[..., :, None]).astype(jnp.float32)
    common_short, common_long = (count_true(met_at <= end)[..., None].astype(jnp.float32) for end in (short, long))
    depths, short_end, long_end = (
        jnp.maximum(value, 1).astype(jnp.float32) for value in (depth, short, long)
    )  # as divisors, which are never 0
    beyond = jnp.where(depth > short, common_short * (depths - short_end) / (short_end * depths), 0.0)
    terms = jnp.where(depth <= long, (common / depths + beyond) * persistence**depths, 0.0)
    tail = ((common_long - common_short) / long_end + common_short / short_end) * persistence**long_end
    overlap = (1 - persistence) / persistence * jnp.sum(terms, axis=-1) + tail[..., 0]
    return jnp.where(long[..., 0] > 0, jnp.minimum(overlap, 1.0), jnp.nan)
