"""Losses of scores beside labels: which class, whether it happened, and clicks with the conversions after them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses.inputs import check_shape, target_weights


def class_loss(
    logits: Float[Array, "*T K"],
    classes: Int[Array, "*T"],
    *,
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log softmax of the class that is true, for classes that are few enough to score at once.

    Args:
      logits: `[*T, K]`, column j that of class j + 1.
      classes: `[*T]` from 1 to K; 0 = unknown, which counts as masked.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

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
    logits: Float[Array, "*T"],
    labels: Bool[Array, "*T"],
    *,
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log σ(s) where it happened and −log(1 − σ(s)) where it did not.

    Args:
      logits: `[*T]` s.
      labels: `[*T]` True, or 1, where it happened.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> logistic_loss(jnp.array([0.0, -100.0]), jnp.array([True, False]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    (logits,), (labels,), weights = _decisions([logits], [labels], where, weights)
    return weights * jax.nn.softplus(jnp.where(labels, -logits, logits))


def click_and_conversion_loss(
    click_logits: Float[Array, "*T"],
    conversion_logits: Float[Array, "*T"],
    *,
    clicks: Bool[Array, "*T"],
    conversions: Bool[Array, "*T"],
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """Cross entropy of the click, and of the click with a conversion after it, over all impressions.

    The conversion's score is given a click, and σ(s_click) σ(s_conversion) the probability of both. Since that is
    judged on all impressions, the score is not learnt from the clicked ones alone, which differ from the others.

    Args:
      click_logits: `[*T]` of a click.
      conversion_logits: `[*T]` of a conversion, should there be a click.
      clicks: `[*T]` True where there was a click.
      conversions: `[*T]` True where a conversion followed; one without a click counts for nothing.
      where: `[*T]` True for impressions that count.
      weights: `[*T]` weight of each impression.

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
    logits: list[Array], labels: list[Array], where: Array | None, weights: Array | None
) -> tuple[list[Array], list[Array], Array]:
    """Float32 logits that are 0 where nothing counts, bool labels, and weights, all of one shape."""
    shape = jnp.shape(logits[0])
    for name, arrays in (("logits", logits), ("labels", labels)):
        for array in arrays:
            check_shape(name, array, shape)
    weights = target_weights(shape, weights, where)
    counted = [jnp.where(weights != 0, jnp.asarray(values).astype(jnp.float32), 0.0) for values in logits]
    if any(jnp.issubdtype(jnp.asarray(label).dtype, jnp.inexact) for label in labels):
        raise ShapeError(
            "labels are floating point, expected bool, or integers 0 and 1; compare them with a level first"
        )
    return counted, [jnp.asarray(label).astype(bool) for label in labels], weights
