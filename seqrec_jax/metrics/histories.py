"""Metrics of lists and the histories of their users: serendipity, repeats, popularity lift and miscalibration.

Lists are `[*B, K]` and histories `[*B, L]` integer item ids; an id below 1 is an empty place, so that shorter ones are
padded with 0.
An item that a list repeats counts once; a repeated item of a history counts each time. One value for each user.
Comparing lists with histories takes users × K × L steps: pass a million users in tiles.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Real

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.metrics.inputs import (
    contained,
    count_true,
    defined,
    first_places,
    item_ids,
    item_table,
    refuse_negative,
    rows_of,
    same_users,
    share,
    static_integer,
    visible,
)
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike


def serendipity(
    lists: Integer[ArrayLike, "*B K"], relevant: Integer[ArrayLike, "*B P"], expected_lists: Integer[ArrayLike, "*B J"]
) -> Float[Array, "*B"]:
    """Share of the listed items that are relevant and that an obvious recommender does not list: useful surprises.

    Divided by all listed items, not by the unexpected ones alone, so that a list with one lucky surprise among
    obvious items does not get 1; it is at most the precision of the list.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      relevant: `[*B, P]` integer ids of the user's targets; below 1 is padding.
      expected_lists: `[*B, J]` integer ids of items that are expected anyway, such as
        the popularity baseline's lists of the same length.

    Returns:
      `[*B]` float32 in [0, 1]; nan for an empty list or without relevant items.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    Source:
      Ge et al. (2010), Beyond accuracy: evaluating recommender systems by coverage and serendipity; Kaminskas and
      Bridge (2016), Diversity, serendipity, novelty, and coverage.

    >>> serendipity(jnp.array([[1, 2, 3, 4]]), jnp.array([[1, 4, 9]]), jnp.array([[1, 2, 5, 6]]))  # item 4 alone
    Array([0.25], dtype=float32)
    """
    ids, targets = item_ids(lists, "lists"), item_ids(relevant, "relevant")
    expected = item_ids(expected_lists, "expected_lists")
    same_users(ids, "lists", targets, "relevant")
    same_users(ids, "lists", expected, "expected_lists")
    counted = first_places(ids)
    surprises = counted & contained(ids, targets) & ~contained(ids, expected)
    return defined(share(count_true(surprises), count_true(counted)), jnp.any(targets > 0, axis=-1))


def repeat_rate(lists: Integer[ArrayLike, "*B K"], histories: Integer[ArrayLike, "*B L"]) -> Float[Array, "*B"]:
    """Share of the listed items that the user already had.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      histories: `[*B, L]` integer item ids of the user's events; below 1 is padding.

    Returns:
      `[*B]` float32 in [0, 1]; 0 without a history, nan for an empty list.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).

    >>> repeat_rate(jnp.array([[1, 2, 3, 4]]), jnp.array([[4, 4, 9]]))
    Array([0.25], dtype=float32)
    """
    ids, events = item_ids(lists, "lists"), item_ids(histories, "histories")
    same_users(ids, "lists", events, "histories")
    counted = first_places(ids)
    return share(count_true(counted & contained(ids, events)), count_true(counted))


def popularity_lift(
    lists: Integer[ArrayLike, "*B K"], histories: Integer[ArrayLike, "*B L"], item_popularity: Real[ArrayLike, " V1"]
) -> Float[Array, "*B"]:
    """How much more popular a user's list is than the user's own history: mean over mean, less 1.

    Above 0 the recommender pushes the user towards popular items, below 0 away from them.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      histories: `[*B, L]` integer item ids of the user's events; below 1 is padding.
      item_popularity: `[V+1]` numbers, count, or share of users, of each item; row 0 is ignored.

    Returns:
      `[*B]` float32 from -1; nan for an empty list, an empty history, or one whose items have popularity 0.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: an id beyond the table, or a negative popularity, in NumPy arrays.

    Source:
      Abdollahpouri et al. (2020), The connection between popularity bias, calibration, and fairness in
      recommendation, where both means are also taken over the users of a group before they are divided.

    >>> popularity_lift(jnp.array([[1, 2]]), jnp.array([[2, 2, 3]]), jnp.array([0.0, 10.0, 2.0, 2.0]))
    Array([2.], dtype=float32)
    """
    table = item_table(item_popularity, "item_popularity", axes=1)
    refuse_negative(item_popularity, None, "item_popularity")
    ids, events = _lists_and_histories(lists, histories, table.shape[0] - 1)
    counted = first_places(ids)
    listed = share(jnp.sum(jnp.where(counted, rows_of(table, ids), 0.0), axis=-1), count_true(counted))
    had = share(jnp.sum(jnp.where(events > 0, rows_of(table, events), 0.0), axis=-1), count_true(events > 0))
    return share(listed, had) - 1


def calibration_divergence(
    lists: Integer[ArrayLike, "*B K"],
    histories: Integer[ArrayLike, "*B L"],
    item_categories: Integer[ArrayLike, " V1"] | Integer[ArrayLike, "V1 M"],
    *,
    num_categories: int,
    smoothing: float = 0.01,
) -> Float[Array, "*B"]:
    """How far the mix of categories of a list is from that of the user's history; smaller is better calibrated.

    `KL(p ‖ q) = sum over categories of p log(p / q)`, where p is the mix of the history and q that of the list,
    mixed with a little of p so that a category missing from the list does not make it infinite. An item of several
    categories belongs to each in equal parts; items without a category are left out.

    Args:
      lists: `[*B, K]` integer item ids, best first; below 1 is an empty place.
      histories: `[*B, L]` integer item ids of the user's events; below 1 is padding.
      item_categories: `[V+1]` integer codes 1…num_categories, or `[V+1, M]` for several of an item; 0 = none.
      num_categories: number of categories, at least 1.
      smoothing: share of p within q, above 0 and below 1.

    Returns:
      `[*B]` float32 in nats, from 0 to -log(smoothing); nan where list or history has no item with a category.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: num_categories or smoothing out of range.
      DataError: an id beyond the table, or a code beyond num_categories, in NumPy arrays.

    Source:
      Steck (2018), Calibrated recommendations, with equal weights of all events.

    >>> lists, histories = jnp.array([1]), jnp.array([1, 2])  # half of each category, and a list of one
    >>> divergence = calibration_divergence(lists, histories, jnp.array([0, 1, 2]), num_categories=2)
    >>> f"{divergence:.3f}"
    '1.959'
    """
    if isinstance(smoothing, jax.Array):
        raise ConfigError(f"smoothing must be a Python number, got {smoothing!r}")
    check_value("smoothing", smoothing, "(0, 1)")
    num = static_integer(num_categories, "num_categories")
    real = visible(item_categories)
    if real.size and real.max() > num:
        raise DataError(f"item_categories has code {real.max()}, expected at most num_categories = {num}")
    axes = jnp.ndim(item_categories)
    if axes not in (1, 2):
        raise ShapeError(f"item_categories has {axes} axes, expected [V+1], or [V+1, M] for several of an item")
    table = item_table(item_categories, "item_categories", axes=axes, dtype=jnp.int32)
    table = table if axes == 2 else table[:, None]
    ids, events = _lists_and_histories(lists, histories, table.shape[0] - 1)
    wanted = _category_mix(events, events > 0, table, num)
    given = _category_mix(ids, first_places(ids), table, num)
    mixed = (1 - smoothing) * given + smoothing * wanted
    terms = jnp.where(wanted > 0, wanted * jnp.log(wanted / jnp.where(wanted > 0, mixed, 1.0)), 0.0)
    # terms of a well calibrated list may sum to just below 0
    divergence = jnp.clip(jnp.sum(terms, axis=-1), 0.0, -math.log(smoothing))
    return defined(divergence, ~jnp.any(jnp.isnan(wanted) | jnp.isnan(given), axis=-1))


def _lists_and_histories(lists: ArrayLike, histories: ArrayLike, num_items: int) -> tuple[Array, Array]:
    ids = item_ids(lists, "lists", num_items=num_items)
    events = item_ids(histories, "histories", num_items=num_items)
    same_users(ids, "lists", events, "histories")
    return ids, events


def _category_mix(ids: Array, where: Array, table: Array, num_categories: int) -> Float[Array, "*B C"]:
    """Share of each category among the items, each in equal parts of its own; nan without any."""
    codes = jnp.where(where[..., None], rows_of(table, ids), 0)
    codes = jnp.where(first_places(codes) & (codes <= num_categories), codes, 0)
    sizes = count_true(codes > 0)
    weights = jnp.where(codes > 0, 1.0, 0.0) / jnp.maximum(sizes, 1).astype(jnp.float32)[..., None]
    rows = codes.reshape(-1, codes.shape[-2] * codes.shape[-1])
    users = jnp.broadcast_to(jnp.arange(rows.shape[0])[:, None], rows.shape)
    sums = jnp.zeros((rows.shape[0], num_categories + 1), dtype=jnp.float32)
    sums = sums.at[users, rows].add(weights.reshape(rows.shape))[:, 1:].reshape(*ids.shape[:-1], num_categories)
    return share(sums, jnp.sum(sums, axis=-1, keepdims=True) + jnp.zeros_like(sums))
