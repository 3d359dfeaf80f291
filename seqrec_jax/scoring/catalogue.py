"""What may be recommended to whom, the order that settles ties, and the scores in tiles of items.

Ranks and lists both go through the tiles made here, so that they follow the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ShapeError
from seqrec_jax.scoring.scores import BilinearWeight, fitting, project, score_dtype, table_scores

AxisName: TypeAlias = str | tuple[str, ...] | None

# scores in a tile on a CPU, and the fewest rows: counting wants scores that stay in the cache after the product, and
# lists cost more by the tile than by the score
_TO_COUNT, _TO_CHOOSE = (2**20, 4096), (5 * 2**19, 8192)
_SCORES_ELSEWHERE = 2**26  # large, so as to start few kernels
_FEWEST_OF_ONE_PLACE = 256  # a tile of fewer items for each of the K places spends its time on merging lists
_ALIGNMENT = 256  # tiles of whole blocks need no padding, which is a copy of the scores


class Catalogue(NamedTuple):
    """The rows of the item table that this device holds, and what may be recommended to its users.

    Attributes:
      score: from the first row and the number of rows C to scores `[U, C]`.
      num_users: U.
      num_rows: R, rows of the table on this device; V+1 where it holds them all.
      dtype: of the scores.
      first: id of row 0.
      priority: `[R]` place of each row in the order of the whole catalogue.
      allowed: `[R]` or None.
      excluded: `[U, X]` or None, ids of the whole table.
      axis_name: mesh axis over which the rows are spread.
      zero: float32 0 that varies over all mesh axes of the arrays, as a loop's state must inside `shard_map`.
    """

    score: Callable[[Array, int], Array]
    num_users: int
    num_rows: int
    dtype: jnp.dtype
    first: Array
    priority: Array
    allowed: Array | None
    excluded: Array | None
    axis_name: AxisName
    zero: Array


class Tile(NamedTuple):
    """Consecutive rows of the table.

    Attributes:
      listed: `[U, C]` scores, -inf for what cannot be recommended.
      ids: `[C]` ids in the whole table.
      places: `[C]` their places in the order that settles ties.
    """

    listed: Array
    ids: Array
    places: Array


def catalogue_order(num_items: int, key: jax.Array) -> Int[Array, " V+1"]:
    """The one random order of the catalogue that settles every tie.

    Args:
      num_items: V.
      key: PRNG key, consumed; the protocol fixes it once.

    Returns:
      `[V+1]` int32 place 1…V of each item; row 0, the padding, has place 0, which is never used.

    >>> import jax
    >>> sorted(catalogue_order(4, jax.random.key(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    places = jax.random.permutation(key, jnp.arange(1, num_items + 1, dtype=jnp.int32))
    return jnp.concatenate([jnp.zeros(1, dtype=jnp.int32), places])


def catalogue_of_scores(
    scores: Float[Array, "U V+1"],
    *,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None,
    excluded: Int[Array, "U X"] | None,
    axis_name: AxisName,
) -> Catalogue:
    """A catalogue whose scores are all there.

    Raises:
      ShapeError: shapes that do not fit or scores that are not floating point (at trace time).
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ShapeError(f"scores must be floating point [U, V+1], got {scores.dtype} of shape {scores.shape}")

    def score(start: Array, size: int) -> Array:
        return scores if size == scores.shape[1] else jax.lax.dynamic_slice_in_dim(scores, start, size, axis=1)

    return _catalogue(score, scores.shape, scores.dtype, (scores,), priority, allowed, excluded, axis_name)


def catalogue_of_vectors(
    v_x: Float[Array, "U D"],
    weight: BilinearWeight,
    v_y: Float[Array, "V+1 E"],
    *,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None,
    excluded: Int[Array, "U X"] | None,
    axis_name: AxisName,
) -> Catalogue:
    """A catalogue whose scores are made where they are asked for.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
    """
    projected, v_y = fitting(project(v_x, weight), v_y), jnp.asarray(v_y)

    def score(start: Array, size: int) -> Array:
        whole = size == v_y.shape[0]
        return table_scores(projected, v_y if whole else jax.lax.dynamic_slice_in_dim(v_y, start, size))

    shape, arrays = (projected.shape[0], v_y.shape[0]), (projected, v_y)
    return _catalogue(score, shape, score_dtype(*arrays), arrays, priority, allowed, excluded, axis_name)


def tile_size(catalogue: Catalogue, chunk_size: int | None, *, k: int = 0) -> int:
    """Rows in a tile: `chunk_size`, or for None a number that suits the device, the users and lists of k items.

    With k = 0 the scores are counted and not listed.
    """
    if chunk_size is None:
        scores, fewest = _TO_CHOOSE if k else _TO_COUNT
        scores = scores if jax.default_backend() == "cpu" else _SCORES_ELSEWHERE
        most = max(scores // max(catalogue.num_users, 1), fewest, _FEWEST_OF_ONE_PLACE * k)
        even = -(-catalogue.num_rows // -(-catalogue.num_rows // most))
        chunk_size = -(-even // _ALIGNMENT) * _ALIGNMENT
    return min(check_at_least_1("chunk_size", chunk_size), catalogue.num_rows)


def tile_at(catalogue: Catalogue, index: Array, size: int) -> Tile:
    """Rows from `index` × `size`; the last tile is moved back so that all have one shape, and shows no row again."""
    start = jnp.minimum(index * size, catalogue.num_rows - size)
    rows = start + jnp.arange(size, dtype=jnp.int32)
    ids = catalogue.first + rows
    usable = (rows >= index * size) & (ids > 0)
    if catalogue.allowed is not None:
        usable &= jax.lax.dynamic_slice_in_dim(catalogue.allowed, start, size)
    scores = catalogue.score(start, size)
    listed = jnp.where(usable[None, :] & (scores > -jnp.inf), scores, -jnp.inf)  # nan compares False
    if catalogue.excluded is not None:
        columns = columns_of(catalogue.excluded, ids)
        users = jnp.arange(columns.shape[0], dtype=jnp.int32)[:, None]
        listed = listed.at[users, columns].set(-jnp.inf, mode="drop")
    return Tile(listed, ids, jax.lax.dynamic_slice_in_dim(catalogue.priority, start, size))


def columns_of(wanted: Int[Array, "U N"], ids: Int[Array, " C"]) -> Int[Array, "U N"]:
    """Where each wanted id stands among consecutive `ids`, C for those that are not there."""
    columns = wanted - ids[0]
    inside = (columns >= 0) & (columns < ids.shape[0]) & (wanted > 0)
    return jnp.where(inside, columns, ids.shape[0])


def check_by_user(num_users: int, **by_user: Array | None) -> None:
    """Refuse arrays without a row for each user.

    Raises:
      ShapeError: always where one has not (at trace time).
    """
    for name, array in by_user.items():
        if array is not None and (jnp.ndim(array) != 2 or jnp.shape(array)[0] != num_users):
            raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected a row for each of {num_users} users")


def check_at_least_1(name: str, value: int) -> int:
    """The value, unless it is below 1.

    Raises:
      ShapeError: it is.
    """
    if value < 1:
        raise ShapeError(f"{name} must be at least 1, got {value}")
    return value


def _catalogue(
    score: Callable[[Array, int], Array],
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    scored: tuple[Array, ...],
    priority: Array,
    allowed: Array | None,
    excluded: Array | None,
    axis_name: AxisName,
) -> Catalogue:
    num_users, num_rows = shape
    for name, array in (("priority", priority), ("allowed", allowed)):
        if array is not None and jnp.shape(array) != (num_rows,):
            raise ShapeError(f"{name} has shape {jnp.shape(array)}, the item table asks for {(num_rows,)}")
    check_by_user(num_users, excluded=excluded)
    priority = jnp.asarray(priority)
    allowed, excluded = (None if array is None else jnp.asarray(array) for array in (allowed, excluded))
    device = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)
    given = [array for array in (*scored, priority, allowed, excluded, device) if array is not None]
    zero = sum((jnp.zeros_like(array, shape=(), dtype=jnp.float32) for array in given), start=jnp.float32(0))
    first = device * num_rows
    return Catalogue(score, num_users, num_rows, dtype, first, priority, allowed, excluded, axis_name, zero)
