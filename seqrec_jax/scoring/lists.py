"""The exact first K items of each user: blocks of items by their best score, then the items of the best blocks.

Each of the first K items stands in one of the K blocks whose best item comes first, since any other block has K items
before its own best one. So only the scores of K blocks are compared one by one, whatever the size of the catalogue.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from seqrec_jax.scoring.catalogue import (
    Catalogue,
    Tile,
    catalogue_of_scores,
    catalogue_of_vectors,
    tile_at,
    tile_size,
)
from seqrec_jax.scoring.scores import BilinearWeight
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike, AxisName

_LAST_PLACE = 2**31 - 1


class TopK(NamedTuple):
    """The first K items of each user; a place for which no item is left holds id 0 and score -inf.

    Attributes:
      item_ids: `[U, K]` int32.
      scores: `[U, K]` in the dtype of the scores, from highest to lowest.
    """

    item_ids: Int[Array, "U K"]
    scores: Float[Array, "U K"]


class _Candidates(NamedTuple):
    """Items `[U, N]` in any order, with the score and the place that decide between them."""

    scores: Array
    places: Array
    ids: Array


def top_k_in_scores(
    scores: Float[ArrayLike, "U V1"],
    *,
    k: int,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None = None,
    excluded: Integer[ArrayLike, "U X"] | None = None,
    axis_name: AxisName = None,
) -> TopK:
    """The K items of the highest score among those that may be recommended; exact, ties by `priority`.

    Args:
      scores: `[U, V+1]` floating-point scores of all items; column 0 is ignored.
      k: K, at least 1; it may be larger than the catalogue.
      priority: `[V+1]` integer order of the catalogue, from `catalogue_order`.
      allowed: `[V+1]` bool, True for items that may be recommended, or `[U, V+1]` for each user; None means all.
      excluded: `[U, X]` integer ids of items that this user must not be recommended, 0 = none.
      axis_name: mesh axis whose devices hold an equal block of the table each; None: this device holds it whole.

    Returns:
      `[U, K]` item ids and scores.

    Raises:
      ShapeError: shapes that do not fit or scores that are not floating point (at trace time).
      ConfigError: k < 1.

    >>> import jax.numpy as jnp
    >>> top_k_in_scores(jnp.array([[9.0, 0.1, 0.7, 0.7]]), k=2, priority=jnp.array([0, 3, 2, 1])).item_ids
    Array([[3, 2]], dtype=int32)
    """
    catalogue = catalogue_of_scores(scores, priority=priority, allowed=allowed, excluded=excluded, axis_name=axis_name)
    return _top_k(catalogue, k, None)


def top_k(
    v_x: Float[ArrayLike, "U D"],
    weight: BilinearWeight,
    v_y: Float[ArrayLike, "V1 E"],
    *,
    k: int,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None = None,
    excluded: Integer[ArrayLike, "U X"] | None = None,
    chunk_size: int | None = None,
    axis_name: AxisName = None,
) -> TopK:
    """The lists of `top_k_in_scores` without the `[U, V+1]` scores, which are computed in tiles of `chunk_size` items.

    Args:
      v_x: `[U, D]` user vectors.
      weight: W, in any of the four forms of `BilinearWeight`.
      v_y: `[V+1, E]` item vectors.
      k: K, at least 1; it may be larger than the catalogue.
      priority: `[V+1]` integer order of the catalogue, from `catalogue_order`.
      allowed: `[V+1]` bool, True for items that may be recommended, or `[U, V+1]` for each user; None means all.
      excluded: `[U, X]` integer ids of items that this user must not be recommended, 0 = none.
      chunk_size: items in a tile, at least 1; beside the arguments, memory is of the order of U × chunk_size. None
        chooses it by U and K.
      axis_name: mesh axis whose devices hold an equal block of the table each; None: this device holds it whole.

    Returns:
      `[U, K]` item ids and scores.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
      ConfigError: k or chunk_size below 1.

    >>> import jax.numpy as jnp
    >>> v_y, priority = jnp.array([[0.0], [3.0], [1.0], [2.0]]), jnp.array([0, 1, 2, 3])
    >>> top_k(jnp.ones((1, 1)), None, v_y, k=2, priority=priority).item_ids
    Array([[1, 3]], dtype=int32)
    """
    catalogue = catalogue_of_vectors(
        v_x, weight, v_y, priority=priority, allowed=allowed, excluded=excluded, axis_name=axis_name
    )
    return _top_k(catalogue, k, chunk_size)


def _top_k(catalogue: Catalogue, k: int, chunk_size: int | None) -> TopK:
    check_value("k", k, "[1, inf)")
    size = tile_size(catalogue, chunk_size, k=k)
    num_tiles = -(-catalogue.num_rows // size)

    def visit(best: _Candidates, index: Array) -> tuple[_Candidates, None]:
        new = _of_the_best_blocks(tile_at(catalogue, index, size), k)
        return _first_k(_Candidates(*(jnp.concatenate(pair, axis=1) for pair in zip(best, new, strict=True))), k), None

    shape = (catalogue.num_users, k)
    nothing = jnp.zeros_like(catalogue.zero, shape=shape, dtype=jnp.int32)
    scores = jnp.full_like(catalogue.zero, -jnp.inf, shape=shape, dtype=catalogue.dtype)
    best = _Candidates(scores, nothing, nothing)
    if num_tiles == 1:
        best, _ = visit(best, jnp.int32(0))
    else:
        best, _ = jax.lax.scan(visit, best, jnp.arange(num_tiles, dtype=jnp.int32))
    if catalogue.axis_name is not None:
        best = _first_k(_Candidates(*(_from_all_devices(part, catalogue.axis_name) for part in best)), k)
    negative, _, ids = jax.lax.sort((-best.scores, best.places, best.ids), dimension=1, num_keys=2)
    return TopK(jnp.where(negative < jnp.inf, ids, 0), -negative)


def _of_the_best_blocks(tile: Tile, k: int) -> _Candidates:
    """The items of the k blocks whose best item comes first, of a tile of C items."""
    num_users, size = tile.listed.shape
    # about √(C / k), where choosing among the blocks and among their items cost the same, or the next power of two
    items_of_one_place = size // k
    block_size = 1 << ((items_of_one_place.bit_length() + (items_of_one_place > 1)) // 2)
    if block_size == 1:
        return _Candidates(tile.listed, *(jnp.broadcast_to(row, tile.listed.shape) for row in (tile.places, tile.ids)))
    missing = -size % block_size
    listed = jnp.pad(tile.listed, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    places, ids = (jnp.pad(row, (0, missing)).reshape(-1, block_size) for row in (tile.places, tile.ids))
    blocks = listed.reshape(num_users, -1, block_size)
    chosen = _best_blocks(blocks, places, k)
    scores = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1)
    return _Candidates(*(part.reshape(num_users, -1) for part in (scores, places[chosen], ids[chosen])))


def _best_blocks(blocks: Array, places: Array, k: int) -> Array:
    """`[U, k]` the blocks of `[U, N, B]` whose best item comes first.

    The places of their best items matter only if blocks are tied at the border; computing them takes a second pass.
    """
    highest = jnp.max(blocks, axis=2)
    values, chosen = jax.lax.top_k(highest, k)
    last = _smallest(values)
    tied = (jnp.sum(highest >= last, axis=1, keepdims=True, dtype=jnp.int32) > k) & (last > -jnp.inf)

    def settle() -> Array:
        best_places = jnp.where(blocks == highest[:, :, None], places[None, :, :], _LAST_PLACE)
        return _first_columns(highest, jnp.min(best_places, axis=2), k)

    best: Array = jax.lax.cond(jnp.any(tied), settle, lambda: chosen)
    return best


def _first_k(candidates: _Candidates, k: int) -> _Candidates:
    columns = _first_columns(candidates.scores, candidates.places, k)
    return _Candidates(*(jnp.take_along_axis(part, columns, axis=1) for part in candidates))


def _first_columns(scores: Array, places: Array, k: int) -> Array:
    """`[U, k]` the first k columns by score and then by place, in no particular order.

    `lax.top_k` settles ties by the column, so the columns that tie with the last score are chosen anew, by place.
    """
    scores = jnp.where(scores == 0, 0.0, scores)  # -0.0 equals 0.0, but not in `lax.top_k`
    values, columns = jax.lax.top_k(scores, k)
    last = _smallest(values)
    num_greater = jnp.sum(values > last, axis=1, keepdims=True, dtype=jnp.int32)
    # positive integers are ordered like the floats of the same bits, and on a CPU only the top k of floats is fast
    earliness = jax.lax.bitcast_convert_type(0x7F7FFFFF - places, jnp.float32)
    _, tied = jax.lax.top_k(jnp.where(scores == last, earliness, -jnp.inf), k)
    slots = jnp.arange(k, dtype=jnp.int32)[None, :]
    return jnp.where(
        slots < num_greater, columns, jnp.take_along_axis(tied, jnp.maximum(slots - num_greater, 0), axis=1)
    )


def _smallest(values: Array) -> Array:
    """`[U, 1]`; a slice of `lax.top_k`'s result instead would make XLA sort all columns."""
    return jnp.min(values, axis=1, keepdims=True)


def _from_all_devices(part: Array, axis_name: AxisName) -> Array:
    """`[U, n K]` from `[U, K]` of each of n devices; a sum, unlike `all_gather`, is known to be equal on all."""
    num_devices, device = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    own = jnp.arange(num_devices, dtype=jnp.int32)[None, :, None] == device
    gathered: Array = jax.lax.psum(jnp.where(own, part[:, None, :], jnp.zeros_like(part)[:, None, :]), axis_name)
    return gathered.reshape(part.shape[0], -1)
