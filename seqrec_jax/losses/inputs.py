"""What the losses ask of their arrays: shapes that fit, weights, masked scores set aside."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.errors import ShapeError


def check_shape(name: str, array: Array, expected: tuple[int, ...]) -> None:
    """Raise a ShapeError that names the array unless it has the expected shape."""
    if jnp.shape(array) != tuple(expected):
        raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected {tuple(expected)}")


def target_weights(
    shape: tuple[int, ...], weights: Float[Array, "*T"] | None, where: Bool[Array, "*T"] | None
) -> Float[Array, "*T"]:
    """Float32 weights of the targets that are 0 where the mask is False.

    Args:
      shape: `*T`.
      weights: `[*T]` weights; None means 1.
      where: `[*T]` True for targets that count; None means all.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
    """
    weights = jnp.ones(shape, dtype=jnp.float32) if weights is None else jnp.asarray(weights, dtype=jnp.float32)
    check_shape("weights", weights, shape)
    if where is None:
        return weights
    check_shape("where", where, shape)
    return jnp.where(jnp.asarray(where), weights, 0.0)


def paired_scores(
    positive_scores: Float[Array, "*T"],
    negative_scores: Float[Array, "*T N"],
    *,
    negative_where: Bool[Array, "*T N"] | None,
    where: Bool[Array, "*T"] | None,
    weights: Float[Array, "*T"] | None,
) -> tuple[Float[Array, "*T"], Float[Array, "*T N"], Bool[Array, "*T N"], Float[Array, "*T"]]:
    """Float32 scores that are 0 where nothing counts, which negatives count, and the weights.

    Args:
      positive_scores: `[*T]` scores of the targets.
      negative_scores: `[*T, N]` scores of the negatives of each target.
      negative_where: `[*T, N]` True for negatives that count; None = all.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

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
    weights = target_weights(positive.shape, weights, where)
    kept = jnp.broadcast_to(weights[..., None] != 0, negative.shape)
    if negative_where is not None:
        check_shape("negative_where", negative_where, negative.shape)
        kept &= jnp.asarray(negative_where)
    positive = jnp.where(weights != 0, positive.astype(jnp.float32), 0.0)
    return positive, jnp.where(kept, negative.astype(jnp.float32), 0.0), kept, weights
