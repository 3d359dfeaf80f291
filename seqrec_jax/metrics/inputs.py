"""Checks and conversions of the metrics' arguments: integers that fit int32, masks, ids and item tables."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.settings import check_value

MISSING_RANK = int(np.iinfo(np.int32).max)
"""The rank of an item that has no place in the ranking; larger than any catalogue."""


def places(shape: tuple[int, ...]) -> Int[Array, ...]:
    """Int32 1-based place along the last axis, in an array of that shape."""
    return 1 + jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def count_true(mask: Bool[Array, "*B N"]) -> Int[Array, "*B"]:
    """`[*B]` int32 number of True entries of the last axis."""
    return jnp.sum(mask, axis=-1, dtype=jnp.int32)


def defined(values: Float[Array, "*B"], condition: Bool[Array, "*B"]) -> Float[Array, "*B"]:
    """`[*B]` floating-point values, nan where the condition is False."""
    return jnp.where(condition, values, jnp.nan)


def share(part: Real[Array, "*B"], whole: Real[Array, "*B"]) -> Float[Array, "*B"]:
    """`[*B]` float32 part / whole, nan where the whole is not above 0."""
    whole = jnp.asarray(whole, dtype=jnp.float32)
    return defined(jnp.asarray(part, dtype=jnp.float32) / jnp.where(whole > 0, whole, 1.0), whole > 0)


def static_integer(value: Any, name: str, *, least: int = 1) -> int:
    """The value as a Python integer.

    Raises:
      ShapeError: it is no integer, for example a traced one.
      ConfigError: it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ShapeError(
            f"{name} is {value!r} of type {type(value).__name__}, expected a Python integer; it is static under jit "
            "(close over it, or name it in static_argnames)"
        )
    check_value(name, int(value), f"[{least}, inf)")
    return int(value)


def integer_array(values: Any, name: str, *, min_axes: int = 1) -> Int[Array, ...]:
    """`values` as int32 on the device; 64-bit values beyond int32 saturate instead of wrapping around.

    Raises:
      ShapeError: another dtype, or fewer than `min_axes` axes.
    """
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ShapeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.ndim < min_axes:
        raise ShapeError(f"{name} is a scalar, expected an array with one entry an item on its last axis")
    if np.iinfo(array.dtype).max > MISSING_RANK:
        array = array.clip(max=MISSING_RANK)
    return jnp.asarray(array, dtype=jnp.int32)


def number_array(values: Any, name: str, *, like: Array | None = None) -> Float[Array, ...]:
    """`values`, integers or floats with at least one axis and the shape of `like`, as float32 on the device.

    Raises:
      ShapeError: another dtype or shape.
    """
    if not isinstance(values, jax.Array):
        values = np.asarray(values)
    if not (jnp.issubdtype(values.dtype, jnp.integer) or jnp.issubdtype(values.dtype, jnp.floating)):
        raise ShapeError(f"{name} has dtype {values.dtype}, expected numbers")
    if values.ndim < 1:
        raise ShapeError(f"{name} is a scalar, expected an array with at least one axis")
    if like is not None and values.shape != like.shape:
        raise ShapeError(f"{name} has shape {values.shape}, expected {like.shape}")
    return jnp.asarray(values, dtype=jnp.float32)


def mask_like(where: Any, like: Array, name: str) -> Bool[Array, ...]:
    """The bool mask with the shape of `like`, which is the argument called `name`; all True for None.

    Raises:
      ShapeError: another dtype or shape.
    """
    if where is None:
        return jnp.ones(like.shape, dtype=bool)
    if not isinstance(where, jax.Array):
        where = np.asarray(where)
    if where.dtype != bool:
        raise ShapeError(f"where has dtype {where.dtype}, expected bool; pass `where != 0`")
    if where.shape != like.shape:
        raise ShapeError(f"where has shape {where.shape}, expected that of {name}, {like.shape}")
    return jnp.asarray(where)


def visible(values: Any, where: Any = None) -> np.ndarray:
    """The entries that count, flat, of NumPy arrays; none of JAX arrays, whose values are not known while tracing."""
    if isinstance(values, jax.Array) or isinstance(where, jax.Array):
        return np.empty(0)
    return np.asarray(values)[... if where is None else np.asarray(where)].reshape(-1)


def refuse_negative(values: Any, where: Any, name: str) -> None:
    """Raise a DataError for a visible value below 0."""
    real = visible(values, where)
    if real.size and (lowest := real.min()) < 0:
        raise DataError(f"{name} hold {lowest}, expected nothing below 0")


def ranks_and_mask(ranks: Any, where: Any) -> tuple[Int[Array, "*B P"], Bool[Array, "*B P"]]:
    """`[*B, P]` int32 ranks and their bool mask.

    Raises:
      ShapeError: shapes or dtypes that do not match.
      DataError: a rank below 1 in a NumPy array.
    """
    array = integer_array(ranks, "ranks")
    mask = mask_like(where, array, "ranks")
    real = visible(ranks, where)
    if real.size and real.min() < 1:
        raise DataError(f"ranks start at 1, found {real.min()}; add 1 to ranks that start at 0")
    return array, mask


def candidates_of_users(num_candidates: Any, ranks: Int[Array, "*B P"]) -> Int[Array, "*B"]:
    """`num_candidates`, one for all or one a user, as `[*B]` int32.

    Raises:
      ShapeError: another shape or dtype, or a number below 1.
    """
    candidates = integer_array(num_candidates, "num_candidates", min_axes=0)
    if candidates.shape not in ((), ranks.shape[:-1]):
        raise ShapeError(f"num_candidates has shape {candidates.shape}, expected () or one a user, {ranks.shape[:-1]}")
    if not isinstance(num_candidates, jax.Array) and np.any(np.asarray(num_candidates) < 1):
        raise ShapeError(f"num_candidates is {np.min(num_candidates)}, expected at least 1")
    return jnp.broadcast_to(candidates, ranks.shape[:-1])


def item_ids(ids: Any, name: str, *, num_items: int = MISSING_RANK) -> Int[Array, "*B K"]:
    """`[*B, K]` int32 item ids, 0 for every empty place.

    Raises:
      ShapeError: another dtype, or no axis.
      DataError: an id above `num_items` in a NumPy array.
    """
    if not isinstance(ids, jax.Array):
        ids = np.asarray(ids)
        if ids.dtype.kind in "iu" and (largest := np.max(ids, initial=0)) > num_items:
            raise DataError(f"{name} has id {largest}, expected at most {num_items}; number items 1…V")
    return jnp.maximum(integer_array(ids, name), 0)


def same_users(first: Array, first_name: str, second: Array, second_name: str) -> None:
    """Raise a ShapeError unless two arrays agree in all axes but their last."""
    if first.shape[:-1] != second.shape[:-1]:
        raise ShapeError(
            f"{first_name} has shape {first.shape} and {second_name} {second.shape}, expected the same leading axes, "
            "one row a user; pad rows with 0"
        )


def item_table(table: Any, name: str, *, axes: int, dtype: Any = jnp.float32) -> Real[Array, "V1 ..."]:
    """A table `[V+1, …]` with a row for each item, as an array of that dtype.

    Raises:
      ShapeError: numbers of another kind, or another number of axes.
    """
    if not isinstance(table, jax.Array):
        table = np.asarray(table)
    kind = jnp.integer if jnp.issubdtype(dtype, jnp.integer) else jnp.number
    if not jnp.issubdtype(table.dtype, kind):
        raise ShapeError(f"{name} has dtype {table.dtype}, expected {'integers' if kind is jnp.integer else 'numbers'}")
    if table.ndim != axes or table.shape[0] < 1:
        raise ShapeError(f"{name} has shape {table.shape}, expected {axes} axes with a row for each id 0…V")
    return jnp.asarray(table, dtype=dtype)


def first_places(lists: Int[Array, "*B K"]) -> Bool[Array, "*B K"]:
    """`[*B, K]` bool: the place holds an item that stands in no earlier place, so that a repeated item counts once."""
    pairs = (*lists.shape, lists.shape[-1])
    before = places(pairs) <= jax.lax.broadcasted_iota(jnp.int32, pairs, len(pairs) - 2)
    repeated = jnp.any((lists[..., :, None] == lists[..., None, :]) & before, axis=-1)
    return (lists > 0) & ~repeated


def contained(lists: Int[Array, "*B K"], others: Int[Array, "*B L"]) -> Bool[Array, "*B K"]:
    """`[*B, K]` bool: the place holds an item that is anywhere in the user's other list."""
    return (lists > 0) & jnp.any(lists[..., :, None] == others[..., None, :], axis=-1)


def rows_of(table: Real[Array, "V1 ..."], lists: Int[Array, "*B"]) -> Real[Array, ...]:
    """`[*B, …]` row of each listed item; an id beyond the table gives nan (0 in a table of integers)."""
    fill = jnp.nan if jnp.issubdtype(table.dtype, jnp.floating) else 0
    return table.at[lists].get(mode="fill", fill_value=fill)
