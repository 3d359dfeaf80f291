"""The one place where a mean over targets is taken, on one device or over all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.losses.inputs import target_weights


def weighted_mean(
    values: Float[Array, "*T"],
    weights: Float[Array, "*T"] | None = None,
    *,
    where: Bool[Array, "*T"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    """Σ wᵢ xᵢ / Σ wᵢ over the values that count: the one place where a mean is taken.

    Args:
      values: `[*T]` per-target values.
      weights: `[*T]` weights, not negative; None means 1.
      where: `[*T]` True for values that count; None means all.
      axis_name: mesh axis or axes over which both sums are taken, inside `shard_map` or `pmap`.

    Returns:
      float32 scalar; 0, with a gradient of 0, where nothing counts.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> weighted_mean(jnp.array([1.0, 4.0, jnp.nan]), jnp.array([1.0, 2.0, 0.0]))
    Array(3., dtype=float32)
    """
    values = jnp.asarray(values)
    weights = target_weights(values.shape, weights, where)
    total = global_sum(weights, axis_name=axis_name)
    kept = jnp.where(weights != 0, values.astype(jnp.float32), 0.0)
    return global_sum(weights * kept, axis_name=axis_name) / jnp.where(total != 0, total, 1.0)


def global_sum(values: Float[Array, "*T"], *, axis_name: str | tuple[str, ...] | None) -> Float[Array, ""]:
    """Σ xᵢ over all values of all devices that `axis_name` names; None = this one."""
    total = jnp.sum(values)
    return total if axis_name is None else jax.lax.psum(total, axis_name)
