"""Which items each user may be recommended, the order that settles ties, and the scores in tiles of items.

Ranks and lists both go through the tiles made here, so that they follow the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.scoring.scores import BilinearWeight, fitting, project, score_dtype, table_scores
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike, AxisName

_Size: TypeAlias = Any  # an int, or a symbolic dimension of `jax.export`, whose type is not public

# scores in a tile on a CPU, and the fewest rows: counting wants scores that stay in the cache after the product, and
# lists cost more by the tile than by the score
_TO_COUNT, _TO_CHOOSE = (2**20, 4096), (5 * 2**19, 8192)
_SCORES_ELSEWHERE = 2**26  # large, so as to start few kernels
_FEWEST_OF_ONE_PLACE = 256  # a tile of fewer items for each of the K places spends its time on merging lists
_ALIGNMENT = 256  # tiles of whole blocks need no padding, which is a copy of the scores
_USERS_WHERE_SYMBOLIC = 256  # the batch that a tile is sized for when a function is exported for any number of users


class Catalogue(NamedTuple):
    """The rows of the item table that this device holds, and which of them each user may be recommended.

    Attributes:
      score: from the first row (int32 scalar) and the number of rows C to scores `[U, C]`.
      num_users: U.
      num_rows: R, rows of the table on this device; V+1 if it holds them all.
      dtype: dtype of the scores.
      first: int32 scalar, id of row 0.
      priority: `[R]` int32 place of each row in the order of the whole catalogue.
      allowed: `[1, R]` or `[U, R]` bool, True for items that may be recommended; None means all.
      excluded: `[U, X]` int32 ids of the whole table that may not be recommended, 0 = none; or None.
      axis_name: mesh axis over which the rows are spread.
      zero: float32 0 that varies over all mesh axes of the arrays, as a loop's state must inside `shard_map`.
    """

    score: Callable[[Array, int], Array]
    num_users: _Size
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
      listed: `[U, C]` floating-point scores, -inf for items that may not be recommended.
      ids: `[C]` int32 ids in the whole table.
      places: `[C]` int32 places in the order that settles ties.
    """

    listed: Float[Array, "U C"]
    ids: Int[Array, " C"]
    places: Int[Array, " C"]


def catalogue_order(num_items: int, key: jax.Array) -> Int[Array, " V1"]:
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
    scores: Float[ArrayLike, "U V1"],
    *,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None,
    excluded: Integer[ArrayLike, "U X"] | None,
    axis_name: AxisName,
) -> Catalogue:
    """A catalogue whose scores `[U, V+1]` are given.

    Raises:
      ShapeError: shapes that do not fit or scores that are not floating point (at trace time).
    """
    table = jnp.asarray(scores)
    if table.ndim != 2 or not jnp.issubdtype(table.dtype, jnp.floating):
        raise ShapeError(f"scores must be floating point [U, V+1], got {table.dtype} of shape {table.shape}")

    def score(start: Array, size: int) -> Array:
        return table if size == table.shape[1] else jax.lax.dynamic_slice_in_dim(table, start, size, axis=1)

    return _catalogue(score, table.shape, table.dtype, (table,), priority, allowed, excluded, axis_name)


def catalogue_of_vectors(
    v_x: Float[ArrayLike, "U D"],
    weight: BilinearWeight,
    v_y: Float[ArrayLike, "V1 E"],
    *,
    priority: Integer[ArrayLike, " V1"],
    allowed: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None,
    excluded: Integer[ArrayLike, "U X"] | None,
    axis_name: AxisName,
) -> Catalogue:
    """A catalogue whose scores are computed a tile at a time from `v_x` `[U, D]` and `v_y` `[V+1, E]`.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
    """
    table = jnp.asarray(v_y)
    projected = fitting(project(v_x, weight), table)

    def score(start: Array, size: int) -> Array:
        whole = size == table.shape[0]
        return table_scores(projected, table if whole else jax.lax.dynamic_slice_in_dim(table, start, size))

    shape, arrays = (projected.shape[0], table.shape[0]), (projected, table)
    return _catalogue(score, shape, score_dtype(*arrays), arrays, priority, allowed, excluded, axis_name)


def tile_size(catalogue: Catalogue, chunk_size: int | None, *, k: int = 0) -> int:
    """Rows in a tile: `chunk_size`, or for None a number that suits the device, the users and lists of k items.

    With k = 0 the scores are counted and not listed.

    Raises:
      ConfigError: a chunk_size below 1.
    """
    check_value("chunk_size", chunk_size, "[1, inf)")
    if chunk_size is None:
        scores, fewest = _TO_CHOOSE if k else _TO_COUNT
        scores = scores if jax.default_backend() == "cpu" else _SCORES_ELSEWHERE
        num_users = catalogue.num_users if isinstance(catalogue.num_users, int) else _USERS_WHERE_SYMBOLIC
        most = max(scores // max(num_users, 1), fewest, _FEWEST_OF_ONE_PLACE * k)
        even = -(-catalogue.num_rows // -(-catalogue.num_rows // most))
        chunk_size = -(-even // _ALIGNMENT) * _ALIGNMENT
    return min(chunk_size, catalogue.num_rows)


def tile_at(catalogue: Catalogue, index: Int[Array, ""], size: int) -> Tile:
    """Rows from `index` × `size`; the last tile is moved back so that all have one shape, and lists no row again."""
    start = jnp.minimum(index * size, catalogue.num_rows - size)
    rows = start + jnp.arange(size, dtype=jnp.int32)
    ids = catalogue.first + rows
    usable = ((rows >= index * size) & (ids > 0))[None, :]
    if catalogue.allowed is not None:
        usable = usable & jax.lax.dynamic_slice_in_dim(catalogue.allowed, start, size, axis=1)
    scores = catalogue.score(start, size)
    listed = jnp.where(usable & (scores > -jnp.inf), scores, -jnp.inf)  # nan compares False
    if catalogue.excluded is not None:
        columns = columns_of(catalogue.excluded, ids)
        users = jnp.arange(columns.shape[0], dtype=jnp.int32)[:, None]
        listed = listed.at[users, columns].set(-jnp.inf, mode="drop")
    return Tile(listed, ids, jax.lax.dynamic_slice_in_dim(catalogue.priority, start, size))


def columns_of(wanted: Int[Array, "U N"], ids: Int[Array, " C"]) -> Int[Array, "U N"]:
    """`[U, N]` column of each wanted id among the consecutive `ids`, C for those that are not there."""
    columns = wanted - ids[0]
    inside = (columns >= 0) & (columns < ids.shape[0]) & (wanted > 0)
    return jnp.where(inside, columns, ids.shape[0])


def check_by_user(num_users: _Size, **by_user: ArrayLike | None) -> None:
    """Raise a ShapeError that names the array unless each is `[U, …]` of two axes or None (at trace time)."""
    for name, array in by_user.items():
        if array is not None and (jnp.ndim(array) != 2 or jnp.shape(array)[0] != num_users):
            raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected a row for each of {num_users} users")


def _catalogue(
    score: Callable[[Array, int], Array],
    shape: tuple[_Size, ...],
    dtype: jnp.dtype,
    scored: tuple[Array, ...],
    priority: ArrayLike,
    allowed: ArrayLike | None,
    excluded: ArrayLike | None,
    axis_name: AxisName,
) -> Catalogue:
    num_users, num_rows = shape
    if jnp.shape(priority) != (num_rows,):
        raise ShapeError(f"priority has shape {jnp.shape(priority)}, expected {(num_rows,)}, a place for each item row")
    if allowed is not None and jnp.shape(allowed) not in ((num_rows,), (num_users, num_rows)):
        raise ShapeError(
            f"allowed has shape {jnp.shape(allowed)}, expected {(num_rows,)} for all users alike or "
            f"{(num_users, num_rows)}"
        )
    check_by_user(num_users, excluded=excluded)
    places = jnp.asarray(priority, dtype=jnp.int32)
    mask = None if allowed is None else jnp.atleast_2d(jnp.asarray(allowed))
    ids = None if excluded is None else jnp.asarray(excluded, dtype=jnp.int32)
    device = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)
    given = [array for array in (*scored, places, mask, ids, device) if array is not None]
    zero = sum((jnp.zeros_like(array, shape=(), dtype=jnp.float32) for array in given), start=jnp.float32(0))
    first = device * num_rows
    return Catalogue(score, num_users, num_rows, dtype, first, places, mask, ids, axis_name, zero)
