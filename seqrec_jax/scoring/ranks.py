"""The exact rank of each target among all items, by counting, never sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.scoring.catalogue import (
    Catalogue,
    Tile,
    catalogue_of_scores,
    catalogue_of_vectors,
    check_by_user,
    columns_of,
    tile_at,
    tile_size,
)
from seqrec_jax.scoring.scores import BilinearWeight
from seqrec_jax.types import ArrayLike, AxisName

UNREACHABLE = 2**31 - 1
"""Rank of a target that cannot appear in any list (int32 max)."""

_Counts: TypeAlias = tuple[Array, Array, Array]  # items before, greater, and greater or equal
_Found: TypeAlias = tuple[Array, _Counts]  # the targets' own scores too


class Ranks(NamedTuple):
    """The rank of each target in its user's list of all items, `[U, P]` int32 each, 1 = first.

    Attributes:
      ranks: 1 + items of a greater score + items of the same score that are earlier in the catalogue's order;
        `UNREACHABLE` for a target without a rank.
      best: the rank if every tie were won.
      worst: the rank if every tie were lost.
    """

    ranks: Int[Array, "U P"]
    best: Int[Array, "U P"]
    worst: Int[Array, "U P"]


def ranks_in_scores(
    scores: Float[ArrayLike, "U V1"],
    targets: Integer[ArrayLike, "U P"],
    *,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None = None,
    excluded: Integer[ArrayLike, "U X"] | None = None,
    where: Bool[ArrayLike, "U P"] | None = None,
    axis_name: AxisName = None,
) -> Ranks:
    """Rank of each target among all items that its user may be recommended, by counting, never sorting.

    The other targets of a user are competitors like any item. A target is `UNREACHABLE` if it is 0, outside the
    table, masked, or an item that may not be recommended.

    Args:
      scores: `[U, V+1]` floating-point scores of all items; column 0 is ignored.
      targets: `[U, P]` integer item ids, 0 = none.
      priority: `[V+1]` integer order of the catalogue, from `catalogue_order`.
      allowed: `[V+1]` bool, True for items that may be recommended, or `[U, V+1]` for each user; None means all.
      excluded: `[U, X]` integer ids of items that this user must not be recommended, 0 = none.
      where: `[U, P]` bool, True for real targets; None means all.
      axis_name: mesh axis whose devices hold an equal block of the table each; None: this device holds it whole.

    Returns:
      `[U, P]` int32 ranks, with the best and the worst under other orders of tied items.

    Raises:
      ShapeError: shapes that do not fit or scores that are not floating point (at trace time).

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[9.0, 0.1, 0.7, 0.7, 0.3]])
    >>> ranks_in_scores(scores, jnp.array([[3, 4]]), priority=jnp.array([0, 4, 1, 2, 3])).ranks
    Array([[2, 3]], dtype=int32)
    """
    catalogue = catalogue_of_scores(scores, priority=priority, allowed=allowed, excluded=excluded, axis_name=axis_name)
    return _ranks(catalogue, targets, where, catalogue.num_rows)


def target_ranks(
    v_x: Float[ArrayLike, "U D"],
    weight: BilinearWeight,
    v_y: Float[ArrayLike, "V1 E"],
    targets: Integer[ArrayLike, "U P"],
    *,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None = None,
    excluded: Integer[ArrayLike, "U X"] | None = None,
    where: Bool[ArrayLike, "U P"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> Ranks:
    """The ranks of `ranks_in_scores` without the `[U, V+1]` scores, which are computed in tiles of `chunk_size` items.

    A catalogue of more than one tile is scored twice, for the targets' own scores and to count the items before
    them, in one compiled loop, so that an item's score has the same bits both times; a single tile of the whole
    catalogue takes half the time. The last bits of a score may depend on the tile: pass the same chunk_size to
    `top_k` if its lists must agree with the ranks even there.

    Args:
      v_x: `[U, D]` user vectors.
      weight: W, in any of the four forms of `BilinearWeight`.
      v_y: `[V+1, E]` item vectors.
      targets: `[U, P]` integer item ids, 0 = none.
      priority: `[V+1]` integer order of the catalogue, from `catalogue_order`.
      allowed: `[V+1]` bool, True for items that may be recommended, or `[U, V+1]` for each user; None means all.
      excluded: `[U, X]` integer ids of items that this user must not be recommended, 0 = none.
      where: `[U, P]` bool, True for real targets; None means all.
      chunk_size: items in a tile, at least 1; beside the arguments, memory is of the order of U × chunk_size. None
        chooses it by U.
      axis_name: mesh axis whose devices hold an equal block of the table each; None: this device holds it whole.

    Returns:
      `[U, P]` int32 ranks, with the best and the worst under other orders of tied items.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
      ConfigError: a chunk_size below 1.

    >>> import jax.numpy as jnp
    >>> v_y, priority = jnp.array([[0.0], [3.0], [1.0], [2.0]]), jnp.array([0, 1, 2, 3])
    >>> target_ranks(jnp.ones((1, 1)), None, v_y, jnp.array([[2]]), priority=priority).ranks
    Array([[3]], dtype=int32)
    """
    catalogue = catalogue_of_vectors(
        v_x, weight, v_y, priority=priority, allowed=allowed, excluded=excluded, axis_name=axis_name
    )
    return _ranks(catalogue, targets, where, tile_size(catalogue, chunk_size))


def _ranks(catalogue: Catalogue, target_ids: ArrayLike, where: ArrayLike | None, size: int) -> Ranks:
    targets = jnp.asarray(target_ids, dtype=jnp.int32)
    check_by_user(catalogue.num_users, targets=targets)
    if where is not None and jnp.shape(where) != targets.shape:
        raise ShapeError(f"where has shape {jnp.shape(where)}, expected that of targets, {targets.shape}")
    ids = catalogue.first + jnp.arange(catalogue.num_rows, dtype=jnp.int32)
    places = jnp.take(catalogue.priority, columns_of(targets, ids), mode="fill", fill_value=-1)
    places = _over_devices(jax.lax.pmax, places, catalogue.axis_name)

    if size == catalogue.num_rows:
        tile = tile_at(catalogue, jnp.int32(0), size)
        own = _over_devices(jax.lax.pmax, _own_scores(tile, targets), catalogue.axis_name)
        counts = _count(tile, own, places)
    else:
        own, counts = _in_tiles(catalogue, targets, places, size)
        own = _over_devices(jax.lax.pmax, own, catalogue.axis_name)
    before, greater, not_less = _over_devices(jax.lax.psum, counts, catalogue.axis_name)

    reachable = (own > -jnp.inf) & (targets > 0)
    if where is not None:
        reachable &= jnp.asarray(where)
    return Ranks(*(jnp.where(reachable, rank, UNREACHABLE) for rank in (1 + before, 1 + greater, not_less)))


def _in_tiles(catalogue: Catalogue, targets: Array, places: Array, size: int) -> _Found:
    """Own scores and counts on this device: one loop over its tiles, done twice."""
    tiles = jnp.arange(-(-catalogue.num_rows // size), dtype=jnp.int32)

    def pass_over(found: _Found, counting: Array) -> tuple[_Found, None]:
        known = _over_devices(jax.lax.pmax, found[0], catalogue.axis_name)

        def visit(found: _Found, index: Array) -> tuple[_Found, None]:
            tile, (own, counts) = tile_at(catalogue, index, size), found

            def find_own() -> _Found:
                return jnp.maximum(own, _own_scores(tile, targets)), counts

            def count() -> _Found:
                return own, _add(counts, _count(tile, known, places))

            return jax.lax.cond(counting, count, find_own), None

        return jax.lax.scan(visit, found, tiles)

    zero = catalogue.zero + jnp.zeros_like(targets, shape=(), dtype=jnp.float32)
    own = jnp.full_like(zero, -jnp.inf, shape=targets.shape, dtype=catalogue.dtype)
    none = jnp.zeros_like(zero, shape=targets.shape, dtype=jnp.int32)
    return jax.lax.scan(pass_over, (own, (none, none, none)), jnp.array([False, True]))[0]


def _over_devices(reduce: Callable[..., Any], values: Any, axis_name: AxisName) -> Any:
    return values if axis_name is None else reduce(values, axis_name)


def _own_scores(tile: Tile, targets: Array) -> Array:
    """`[U, P]` score of each target, -inf where it is not in the tile."""
    columns = columns_of(targets, tile.ids)
    return jnp.take_along_axis(tile.listed, columns, axis=1, mode="fill", fill_value=-jnp.inf)


def _count(tile: Tile, own: Array, places: Array) -> _Counts:
    """How many items of the tile stand before each target `[U, P]`, are greater, and are greater or equal.

    One reduction of three operands: XLA vectorises it on a CPU, and not three sums (2 ms against 50).
    """
    items, mine = tile.listed[:, None, :], own[:, :, None]
    greater, not_less = items > mine, items >= mine
    before = greater | (not_less & (tile.places[None, None, :] < places[:, :, None]))
    hits = tuple(hit.astype(jnp.int32) for hit in (before, greater, not_less))
    counts: _Counts = jax.lax.reduce(hits, (jnp.int32(0),) * 3, _add, dimensions=(2,))
    return counts


def _add(a: _Counts, b: _Counts) -> _Counts:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
