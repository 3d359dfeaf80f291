"""Losses that compare the target's score with that of each negative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.losses.inputs import paired_scores
from seqrec_jax.types import ArrayLike

_MASKED_SCORE = -1e30  # its softmax weight is 0; -inf would make the gradient nan if every negative is masked


def bpr_loss(
    positive_scores: Float[ArrayLike, "*T"],
    negative_scores: Float[ArrayLike, "*T N"],
    *,
    negative_where: Bool[ArrayLike, "*T N"] | None = None,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−Σₙ log σ(s⁺ − s⁻ₙ): the target should score above each of its N negatives.

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
      Rendle et al. (2009), BPR: Bayesian Personalized Ranking from Implicit Feedback.

    >>> import jax.numpy as jnp
    >>> bpr_loss(jnp.array([3.0]), jnp.array([[3.0]]))
    Array([0.6931472], dtype=float32)
    """
    positive, negative, kept, weights = paired_scores(
        positive_scores, negative_scores, negative_where=negative_where, where=where, weights=weights
    )
    terms = jnp.where(kept, jax.nn.softplus(negative - positive[..., None]), 0.0)
    return weights * jnp.sum(terms, axis=-1)


def bpr_max_loss(
    positive_scores: Float[ArrayLike, "*T"],
    negative_scores: Float[ArrayLike, "*T N"],
    *,
    score_penalty: float | Float[ArrayLike, ""] = 1.0,
    negative_where: Bool[ArrayLike, "*T N"] | None = None,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log Σₙ wₙ σ(s⁺ − s⁻ₙ) + λ Σₙ wₙ (s⁻ₙ)² with w = softmax(s⁻): the target against the best of its negatives.

    The gradient does not fade with many easy negatives, as that of BPR does, since they weigh nothing.

    Args:
      positive_scores: `[*T]` floating-point scores of the targets.
      negative_scores: `[*T, N]` floating-point scores of the sampled negatives of each target.
      score_penalty: λ, which keeps the negatives' scores near 0.
      negative_where: `[*T, N]` bool, True for negatives that count (a hit on the target does not); None means all.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32; 0 for a target none of whose negatives counts.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Hidasi and Karatzoglou (2018), Recurrent Neural Networks with Top-k Gains for Session-based
      Recommendations, eq. 10.

    >>> import jax.numpy as jnp
    >>> bpr_max_loss(jnp.array([0.0]), jnp.array([[0.0, -100.0]]))
    Array([0.6931472], dtype=float32)
    """
    positive, negative, kept, weights = paired_scores(
        positive_scores, negative_scores, negative_where=negative_where, where=where, weights=weights
    )
    log_weights = jax.nn.log_softmax(jnp.where(kept, negative, _MASKED_SCORE), axis=-1)
    ranked = jax.nn.logsumexp(log_weights - jax.nn.softplus(negative - positive[..., None]), axis=-1)
    penalties = jnp.sum(jnp.exp(log_weights) * jnp.square(negative), axis=-1)
    return weights * jnp.where(jnp.any(kept, axis=-1), score_penalty * penalties - ranked, 0.0)
