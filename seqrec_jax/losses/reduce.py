"""The one place where a mean over targets is taken, on one device or over all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.losses.inputs import target_weights
from seqrec_jax.types import ArrayLike, AxisName


def weighted_mean(
    values: Float[ArrayLike, "*T"],
    weights: Float[ArrayLike, "*T"] | None = None,
    *,
    where: Bool[ArrayLike, "*T"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, ""]:
    """Σ wᵢ xᵢ / Σ wᵢ over the values that count: the one place where a mean is taken.

    Args:
      values: `[*T]` floating-point values, one for each target.
      weights: `[*T]` floating-point weights, not negative; None means 1.
      where: `[*T]` bool, True for values that count; None means all.
      axis_name: mesh axis or axes over which both sums are taken, inside `shard_map` or `pmap`.

    Returns:
      float32 scalar; 0, with a gradient of 0, where nothing counts.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> weighted_mean(jnp.array([1.0, 4.0, jnp.nan]), jnp.array([1.0, 2.0, 0.0]))
    Array(3., dtype=float32)
    """
    terms = jnp.asarray(values)
    weights = target_weights(terms.shape, weights, where)
    total = global_sum(weights, axis_name=axis_name)
    kept = jnp.where(weights != 0, terms.astype(jnp.float32), 0.0)
    return global_sum(weights * kept, axis_name=axis_name) / jnp.where(total != 0, total, 1.0)


def global_sum(values: Float[Array, "*T"], *, axis_name: AxisName) -> Float[Array, ""]:
    """Float32 Σ xᵢ of values `[*T]` over all devices of the mesh axis or axes `axis_name`; None: this device only."""
    total = jnp.sum(values)
    return total if axis_name is None else jax.lax.psum(total, axis_name)
