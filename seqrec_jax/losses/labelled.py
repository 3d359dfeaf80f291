"""Losses of logits and labels: the class of a target, a binary outcome, and clicks with the conversions after them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses.inputs import check_shape, target_weights
from seqrec_jax.types import ArrayLike


def class_loss(
    logits: Float[ArrayLike, "*T K"],
    classes: Integer[ArrayLike, "*T"],
    *,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log softmax of the true class, for classes that are few enough to score at once.

    Args:
      logits: `[*T, K]` floating point; column j belongs to class j + 1.
      classes: `[*T]` integer class from 1 to K; 0 = unknown, which counts as masked.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> class_loss(jnp.array([[0.0, 0.0], [0.0, 9.0]]), jnp.array([2, 0]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    logits, classes = jnp.asarray(logits), jnp.asarray(classes)
    check_shape("classes", classes, logits.shape[:-1])
    weights = jnp.where(classes > 0, target_weights(classes.shape, weights, where), 0.0)
    logits = jnp.where(weights[..., None] != 0, logits.astype(jnp.float32), 0.0)
    own = jnp.take_along_axis(logits, jnp.maximum(classes - 1, 0)[..., None], axis=-1)[..., 0]
    return weights * (jax.nn.logsumexp(logits, axis=-1) - own)


def logistic_loss(
    logits: Float[ArrayLike, "*T"],
    labels: Bool[ArrayLike, "*T"] | Integer[ArrayLike, "*T"],
    *,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """Binary cross entropy of logits s: −log σ(s) for a True label and −log(1 − σ(s)) for a False one.

    Args:
      logits: `[*T]` floating-point s.
      labels: `[*T]` bool, or integers 0 and 1.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> logistic_loss(jnp.array([0.0, -100.0]), jnp.array([True, False]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    (scores,), (happened,), weights = _decisions([logits], [labels], where, weights)
    return weights * jax.nn.softplus(jnp.where(happened, -scores, scores))


def click_and_conversion_loss(
    click_logits: Float[ArrayLike, "*T"],
    conversion_logits: Float[ArrayLike, "*T"],
    *,
    clicks: Bool[ArrayLike, "*T"] | Integer[ArrayLike, "*T"],
    conversions: Bool[ArrayLike, "*T"] | Integer[ArrayLike, "*T"],
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """Cross entropy of the click, and of the click with a conversion after it, over all impressions.

    The logit of a conversion is conditional on a click, so σ(s_click) σ(s_conversion) is the probability of both.
    This product is fitted on all impressions, so the logit is not learnt from the clicked ones alone, which differ
    from the others.

    Args:
      click_logits: `[*T]` floating-point logit of a click.
      conversion_logits: `[*T]` floating-point logit of a conversion given a click.
      clicks: `[*T]` bool, or integers 0 and 1: the impression was clicked.
      conversions: `[*T]` bool, or integers 0 and 1: a conversion followed; ignored without a click.
      where: `[*T]` bool, True for impressions that count; None means all.
      weights: `[*T]` floating-point weight of each impression; None means 1.

    Returns:
      `[*T]` float32, the sum of both.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Ma et al. (2018), Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion Rate.

    >>> yes, zero = jnp.array([True]), jnp.zeros(1)
    >>> click_and_conversion_loss(zero, zero, clicks=yes, conversions=yes)  # log 2 + log 4
    Array([2.0794415], dtype=float32)
    """
    logits, labels, weights = _decisions([click_logits, conversion_logits], [clicks, conversions], where, weights)
    (a, b), (clicked, converted) = logits, labels
    log_both = -jax.nn.softplus(-a) - jax.nn.softplus(-b)
    # 1 − σ(a) σ(b) = (e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ) σ(a) σ(b), of which no term is rounded away
    log_not_both = jax.nn.logsumexp(jnp.stack([-a, -b, -a - b]), axis=0) + log_both
    of_click = jax.nn.softplus(jnp.where(clicked, -a, a))
    return weights * (of_click - jnp.where(clicked & converted, log_both, log_not_both))


def _decisions(
    logits: list[ArrayLike], labels: list[ArrayLike], where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[list[Array], list[Array], Array]:
    """Float32 logits that are 0 where they do not count, bool labels, and weights, all of one shape."""
    shape = jnp.shape(logits[0])
    for name, arrays in (("logits", logits), ("labels", labels)):
        for array in arrays:
            check_shape(name, array, shape)
    factors = target_weights(shape, weights, where)
    counted = [jnp.where(factors != 0, jnp.asarray(values).astype(jnp.float32), 0.0) for values in logits]
    if any(jnp.issubdtype(jnp.asarray(label).dtype, jnp.inexact) for label in labels):
        raise ShapeError(
            "labels are floating point, expected bool, or integers 0 and 1; compare them with a level first"
        )
    return counted, [jnp.asarray(label).astype(bool) for label in labels], factors
