"""Correction for exposure: logs hold what was shown, so a target that was likely to be shown gets a smaller weight.

A target that was seen with probability p (its propensity) gets the weight 1 / p. Weighted means then estimate the
figure for users who had seen everything, at the price of variance: report `effective_sample_size` with them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.metrics.inputs import (
    count_true,
    defined,
    mask_like,
    number_array,
    places,
    refuse_negative,
    share,
    visible,
)
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike


def popularity_propensities(
    counts: Real[ArrayLike, " V1"], *, power: float | Float[Array, ""] = 0.5
) -> Float[Array, " V1"]:
    """Probability of exposure modelled as a power of popularity: `(count / largest count) ^ power`.

    Only ratios matter to a self-normalised mean, so the largest is set to 1. An item without events gets 0: it is no
    target in the log that was counted; add 1 to the counts if targets come from another log.

    Args:
      counts: `[V+1]` numbers, events of each item in training; row 0 is ignored.
      power: not negative; 0 assumes equal exposure of all items, 1 exposure proportional to popularity.

    Returns:
      `[V+1]` float32 in [0, 1]; row 0 is 0, and all are nan where every count is 0.

    Raises:
      ShapeError: counts of another shape or dtype (at trace time).
      ConfigError: a power that is negative or not finite.
      DataError: a negative count in a NumPy array.

    Source:
      Yang et al. (2018), Unbiased offline recommender evaluation for missing-not-at-random implicit feedback; the
      power 0.5 is that of Saito et al. (2020), Unbiased recommender learning from missing-not-at-random implicit
      feedback.

    >>> popularity_propensities(jnp.array([0, 4, 1, 0]))
    Array([0. , 1. , 0.5, 0. ], dtype=float32)
    """
    if not isinstance(power, jax.Array):
        check_value("power", power, "[0, inf)")
    values = number_array(counts, "counts")
    if values.ndim != 1:
        raise ShapeError(f"counts has shape {values.shape}, expected [V+1], a row for each id 0…V")
    refuse_negative(counts, None, "counts")
    values = jnp.where(places(values.shape) > 1, values, 0.0)
    relative = share(values, jnp.broadcast_to(jnp.max(values, initial=0.0), values.shape))
    return jnp.where(values > 0, relative**power, jnp.where(jnp.isnan(relative), jnp.nan, 0.0))


def inverse_propensity_weights(
    propensities: Real[ArrayLike, "*B P"], *, cap: float | Float[Array, ""] | None = None
) -> Float[Array, "*B P"]:
    """1 / propensity of each target, at most `cap`.

    A cap bounds the variance and brings back some of the bias: report the metric for more than one.

    Args:
      propensities: `[*B, P]` numbers, probability that the user saw each target, observed or modelled.
      cap: largest weight, above 0; None for no bound.

    Returns:
      `[*B, P]` float32; a propensity of 0 gets the cap, or infinity without one; nan for one outside [0, 1].

    Raises:
      ShapeError: propensities of another dtype (at trace time).
      ConfigError: a cap that is not above 0.
      DataError: a propensity outside [0, 1] in a NumPy array.

    Source:
      Schnabel et al. (2016), Recommendations as treatments: debiasing learning and evaluation; the bound is that of
      Ionides (2008), Truncated importance sampling.

    >>> inverse_propensity_weights(jnp.array([1.0, 0.5, 0.01]), cap=20.0)
    Array([ 1.,  2., 20.], dtype=float32)
    """
    if not isinstance(cap, jax.Array):
        check_value("cap", cap, "(0, inf]")
    values = number_array(propensities, "propensities")
    real = visible(propensities)
    if (odd := real[(real < 0) | (real > 1)]).size:
        raise DataError(f"propensities hold {odd[0]}, expected probabilities in [0, 1]")
    weights = jnp.where(values == 0, jnp.inf, 1 / jnp.where(values == 0, 1.0, values))
    weights = defined(weights, (values >= 0) & (values <= 1))
    return weights if cap is None else jnp.minimum(weights, cap)


def effective_sample_size(
    weights: Real[ArrayLike, "*B N"], *, where: Bool[ArrayLike, "*B N"] | None = None
) -> Float[Array, "*B"]:
    """Number of equally weighted targets whose mean would have the same variance: `(sum w)² / sum w²`.

    Args:
      weights: `[*B, N]` numbers, weight of each target, not negative.
      where: `[*B, N]` bool, True for targets that count; None means all.

    Returns:
      `[*B]` float32 from 1 to the number of targets; nan where all weights are 0.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative weight in a NumPy array.

    Source:
      Kish (1965), Survey sampling.

    >>> effective_sample_size(jnp.array([[1.0, 1.0, 1.0, 1.0], [9.0, 1.0, 0.0, 0.0]])).round(4)
    Array([4.    , 1.2195], dtype=float32)
    """
    values = number_array(weights, "weights")
    mask = mask_like(where, values, "weights")
    refuse_negative(weights, where, "weights")
    values = jnp.where(mask, values, 0.0)
    # relative to the largest, so that no square overflows
    largest = jnp.max(values, axis=-1, keepdims=True, initial=0.0)
    values = values / jnp.where(largest == 0, 1.0, largest)
    return share(jnp.square(jnp.sum(values, axis=-1)), jnp.sum(jnp.square(values), axis=-1))


def inverse_propensity_mean(
    values: Real[ArrayLike, "*B N"],
    weights: Real[ArrayLike, "*B N"],
    *,
    self_normalized: bool = True,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Float[Array, "*B"]:
    """Mean of the targets' values under their weights: self-normalised (SNIPS), or plain inverse propensity (IPS).

    `sum w v / sum w`, or `sum w v / N`. The first stays within the range of the values and varies far less, with a
    bias that vanishes as N grows; it needs propensities up to a factor only. The second is unbiased if the
    propensities are right and nothing is capped.

    Args:
      values: `[*B, N]` numbers, value of each target, such as whether it is among the first ten.
      weights: `[*B, N]` numbers from `inverse_propensity_weights`, not negative; a target of weight 0 counts in N
        alone.
      self_normalized: divide by the sum of the weights, instead of the number of targets.
      where: `[*B, N]` bool, True for targets that count; None means all.

    Returns:
      `[*B]` float32; nan without targets or, where self-normalised, where all weights are 0.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a negative weight in a NumPy array.

    Source:
      Swaminathan and Joachims (2015), The self-normalized estimator for counterfactual learning; Yang et al. (2018),
      Unbiased offline recommender evaluation for missing-not-at-random implicit feedback.

    >>> inverse_propensity_mean(jnp.array([1.0, 0.0]), jnp.array([1.0, 4.0]))
    Array(0.2, dtype=float32)
    >>> inverse_propensity_mean(jnp.array([1.0, 0.0]), jnp.array([1.0, 4.0]), self_normalized=False)
    Array(0.5, dtype=float32)
    """
    numbers = number_array(values, "values")
    factors = number_array(weights, "weights", like=numbers)
    mask = mask_like(where, numbers, "values")
    refuse_negative(weights, where, "weights")
    factors = jnp.where(mask, factors, 0.0)
    # a value that is not defined must not count unless it has a weight
    total = jnp.sum(jnp.where(factors != 0, numbers * factors, 0.0), axis=-1)
    return share(total, jnp.sum(factors, axis=-1) if self_normalized else count_true(mask))
