"""Checks and conversions of the losses' arguments: shapes, weights, masked scores."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.errors import ShapeError
from seqrec_jax.types import ArrayLike


def check_shape(name: str, array: ArrayLike, expected: tuple[int, ...]) -> None:
    """Raise a ShapeError that names the array unless it has the expected shape."""
    if jnp.shape(array) != tuple(expected):
        raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected {tuple(expected)}")


def target_weights(
    shape: tuple[int, ...], weights: Float[ArrayLike, ...] | None, where: Bool[ArrayLike, ...] | None
) -> Float[Array, ...]:
    """`[*T]` float32 weights of the targets, 0 where the mask is False.

    Args:
      shape: `*T`.
      weights: `[*T]` floating-point weights; None means 1.
      where: `[*T]` bool, True for targets that count; None means all.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
    """
    factors = jnp.ones(shape, dtype=jnp.float32) if weights is None else jnp.asarray(weights, dtype=jnp.float32)
    check_shape("weights", factors, shape)
    if where is None:
        return factors
    check_shape("where", where, shape)
    return jnp.where(jnp.asarray(where), factors, 0.0)


def paired_scores(
    positive_scores: Float[ArrayLike, "*T"],
    negative_scores: Float[ArrayLike, "*T N"],
    *,
    negative_where: Bool[ArrayLike, "*T N"] | None,
    where: Bool[ArrayLike, "*T"] | None,
    weights: Float[ArrayLike, "*T"] | None,
) -> tuple[Float[Array, "*T"], Float[Array, "*T N"], Bool[Array, "*T N"], Float[Array, "*T"]]:
    """Float32 scores that are 0 where they do not count, which negatives count, and the weights.

    Args:
      positive_scores: `[*T]` floating-point scores of the targets.
      negative_scores: `[*T, N]` floating-point scores of the negatives of each target.
      negative_where: `[*T, N]` bool, True for negatives that count; None means all.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` and `[*T, N]` float32 scores, `[*T, N]` bool, `[*T]` float32 weights.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
    """
    positive, negative = jnp.asarray(positive_scores), jnp.asarray(negative_scores)
    if negative.shape[:-1] != positive.shape:
        raise ShapeError(
            f"negative_scores must have the shape of positive_scores, {positive.shape}, and one axis N more, "
            f"got {negative.shape}"
        )
    factors = target_weights(positive.shape, weights, where)
    kept = jnp.broadcast_to(factors[..., None] != 0, negative.shape)
    if negative_where is not None:
        check_shape("negative_where", negative_where, negative.shape)
        kept &= jnp.asarray(negative_where)
    positive = jnp.where(factors != 0, positive.astype(jnp.float32), 0.0)
    return positive, jnp.where(kept, negative.astype(jnp.float32), 0.0), kept, factors
