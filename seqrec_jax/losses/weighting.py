"""Weights of targets by the exposure of their items, and weighted sums of the losses of several tasks."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.losses.inputs import check_shape
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike


def item_count_weights(
    item_counts: Real[ArrayLike, " V1"], *, power: float, max_weight: float | None = None
) -> Float[Array, " V1"]:
    """Weight of a target by the count of its item, count^−power, since items that are shown often are chosen often.

    The probability that a user saw an item is assumed to grow with a power of its count; weighting by the inverse
    makes the mean loss an estimate for users who saw everything. Computed on the host.

    Args:
      item_counts: `[V+1]` numbers, how often each item is a target in training; row 0 is ignored.
      power: not negative: 0 gives all targets the same weight, 0.5 is usual, 1 gives every item the same total.
      max_weight: largest weight, at least 1, which bounds the variance; None for no bound.

    Returns:
      `[V+1]` float32, scaled so that the mean target weighs 1; 0 for items that are no target.

    Raises:
      DataError: counts that are negative, not finite, all 0, or not one axis of at least two rows.
      ConfigError: a power that is negative or not finite, or a max_weight below 1.

    Source:
      Yang et al. (2018), Unbiased Offline Recommender Evaluation for Missing-not-at-random Implicit Feedback;
      Saito et al. (2020), Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback.

    >>> import numpy as np
    >>> item_count_weights(np.array([0, 1, 4, 0]), power=0.5)
    Array([0.       , 1.6666666, 0.8333333, 0.       ], dtype=float32)
    """
    counts = np.asarray(item_counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError(f"item_counts must be [V+1], finite and not negative, got shape {counts.shape}: {counts}")
    if not counts[1:].any():
        raise DataError("item_counts are all 0; count the targets of the training events")
    check_value("power", power, "[0, inf)")
    check_value("max_weight", max_weight, "[1, inf]")
    counts = np.where(np.arange(len(counts)) > 0, counts, 0.0)
    # relative to the largest count, so that no power overflows
    inverse = np.where(counts > 0, np.where(counts > 0, counts, 1.0) / counts.max(), np.inf) ** -power
    weights = np.where(counts > 0, inverse, 0.0)
    weights *= counts.sum() / (counts @ weights)
    if max_weight is not None:
        # the weight taken from bounded items goes to the others, which may then reach the bound as well
        while (weights > max_weight).any():
            bounded = weights >= max_weight
            rest = counts.sum() - max_weight * counts[bounded].sum()
            weights = np.where(
                bounded, max_weight, weights * rest / max(float(counts[~bounded] @ weights[~bounded]), 1e-300)
            )
    return jnp.asarray(weights, dtype=jnp.float32)


def combine_losses(
    values: Mapping[str, Float[Array, ""]], weights: Mapping[str, float | Float[Array, ""]]
) -> Float[Array, ""]:
    """Σ weight × value over tasks by name, such as next purchase and next click.

    Args:
      values: float32 scalar mean loss of each task.
      weights: weight of each task, a number or a float32 scalar, under the same names.

    Returns:
      float32 scalar.

    Raises:
      ConfigError: names that differ.

    >>> import jax.numpy as jnp
    >>> combine_losses({"click": jnp.float32(2.0), "purchase": jnp.float32(1.0)}, {"click": 0.5, "purchase": 3.0})
    Array(4., dtype=float32)
    """
    if values.keys() != weights.keys() or not values:
        raise ConfigError(f"each loss needs one weight: losses {sorted(values)}, weights {sorted(weights)}")
    return jnp.sum(jnp.stack([jnp.asarray(weights[name] * values[name], dtype=jnp.float32) for name in values]))


def uncertainty_weighted_loss(
    values: Float[ArrayLike, " K"], log_variances: Float[ArrayLike, " K"]
) -> Float[Array, ""]:
    """Σₖ exp(−sₖ) Lₖ + sₖ / 2, where sₖ = log σₖ² is learned with the model and sets the weight of each task.

    Args:
      values: `[K]` floating-point mean loss of each task.
      log_variances: `[K]` floating-point s, parameters that start at 0; at the minimum exp(s) = 2 L, so that a task
        with a large loss has a small weight.

    Returns:
      float32 scalar.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Kendall et al. (2018), Multi-Task Learning Using Uncertainty to Weigh Losses, eq. 10 for classification.

    >>> import jax.numpy as jnp
    >>> uncertainty_weighted_loss(jnp.array([2.0, 4.0]), jnp.zeros(2))
    Array(6., dtype=float32)
    """
    values, log_variances = jnp.asarray(values), jnp.asarray(log_variances)
    check_shape("log_variances", log_variances, values.shape)
    return jnp.sum(jnp.exp(-log_variances) * values.astype(jnp.float32) + 0.5 * log_variances)
