"""Losses that judge each score by itself: squared error and binary cross entropies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from seqrec_jax.losses.inputs import check_shape, paired_scores, target_weights
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike


def squared_error_loss(
    scores: Float[ArrayLike, "*T"],
    labels: Real[ArrayLike, "*T"],
    *,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """(score − label)².

    Args:
      scores: `[*T]` floating-point scores.
      labels: `[*T]` numbers that the scores should equal, such as 1 for clicked and 0 for not.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> squared_error_loss(jnp.array([0.5, 2.0]), jnp.array([1.0, 0.0]))
    Array([0.25, 4.  ], dtype=float32)
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    check_shape("labels", labels, scores.shape)
    weights = target_weights(scores.shape, weights, where)
    errors = scores.astype(jnp.float32) - labels.astype(jnp.float32)
    return weights * jnp.square(jnp.where(weights != 0, errors, 0.0))


def binary_cross_entropy_loss(
    positive_scores: Float[ArrayLike, "*T"],
    negative_scores: Float[ArrayLike, "*T N"],
    *,
    negative_where: Bool[ArrayLike, "*T N"] | None = None,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log σ(s⁺) − Σₙ log(1 − σ(s⁻ₙ)): the target is labelled 1, each of its N negatives 0.

    Args:
      positive_scores: `[*T]` floating-point scores of the targets.
      negative_scores: `[*T, N]` floating-point scores of the sampled negatives of each target.
      negative_where: `[*T, N]` bool, True for negatives that count (a hit on the target does not); None means all.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32, summed over a target's negatives.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Kang and McAuley (2018), Self-Attentive Sequential Recommendation, eq. 7 (N = 1).

    >>> import jax.numpy as jnp
    >>> binary_cross_entropy_loss(jnp.array([0.0]), jnp.array([[0.0, -100.0]]))
    Array([1.3862944], dtype=float32)
    """
    return generalized_binary_cross_entropy_loss(
        positive_scores, negative_scores, beta=1.0, negative_where=negative_where, where=where, weights=weights
    )


def generalized_binary_cross_entropy_loss(
    positive_scores: Float[ArrayLike, "*T"],
    negative_scores: Float[ArrayLike, "*T N"],
    *,
    beta: float | Float[ArrayLike, ""],
    negative_where: Bool[ArrayLike, "*T N"] | None = None,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log σ(s⁺)^β − Σₙ log(1 − σ(s⁻ₙ)), which undoes the overconfidence due to few negatives.

    It is computed as β softplus(−s⁺) + Σₙ softplus(s⁻ₙ), so that no σ is rounded to 0 or 1 in float32.

    Args:
      positive_scores: `[*T]` floating-point scores of the targets.
      negative_scores: `[*T, N]` floating-point scores of uniformly sampled negatives of each target.
      beta: β in (0, 1], from `calibrated_beta`; 1 is binary cross entropy.
      negative_where: `[*T, N]` bool, True for negatives that count (a hit on the target does not); None means all.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32, summed over a target's negatives (the source divides by N + 1).

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Petrov and Macdonald (2023), gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with
      Negative Sampling, eq. 9.

    >>> import jax.numpy as jnp
    >>> generalized_binary_cross_entropy_loss(jnp.array([0.0]), jnp.array([[-100.0]]), beta=0.5)
    Array([0.3465736], dtype=float32)
    """
    positive, negative, kept, weights = paired_scores(
        positive_scores, negative_scores, negative_where=negative_where, where=where, weights=weights
    )
    negative_terms = jnp.where(kept, jax.nn.softplus(negative), 0.0)
    return weights * (beta * jax.nn.softplus(-positive) + jnp.sum(negative_terms, axis=-1))


def calibrated_beta(num_negatives: int, num_items: int, *, calibration: float) -> float:
    """β = α (t (1 − 1/α) + 1/α) = 1 − t (1 − α), where α = N / (V − 1) is the share of the negatives that is drawn.

    Args:
      num_negatives: N of each target; more than V − 1 count as V − 1.
      num_items: V, at least 2.
      calibration: t; 0 leaves binary cross entropy as it is, at 1 the scores become calibrated probabilities.

    Returns:
      β in (0, 1].

    Raises:
      ConfigError: a number out of range.

    Source:
      Petrov and Macdonald (2023), eq. 10.

    >>> calibrated_beta(10, 101, calibration=0.5)
    0.55
    """
    check_value("num_negatives", num_negatives, "[1, inf)")
    check_value("num_items", num_items, "[2, inf)")
    check_value("calibration", calibration, "[0, 1]")
    return 1.0 - calibration * (1.0 - min(1.0, num_negatives / (num_items - 1)))
