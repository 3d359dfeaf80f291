"""The softmax against sampled negatives, and the scores of negatives that many targets share."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses.inputs import check_shape, target_weights
from seqrec_jax.types import ArrayLike

_LEAST_LOG_Q = -80.0  # in place of -inf, whose differences are nan


def negative_scores(
    v: Float[ArrayLike, "*T E"], v_y: Float[ArrayLike, "V1 E"], *, negative_ids: Integer[ArrayLike, "*P N"]
) -> Float[Array, "*T N"]:
    """Scores of negatives, v·v_y, gathering each negative's vector once for all targets that share it.

    Args:
      v: `[*T, E]` floating-point user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` floating-point item vectors.
      negative_ids: `[*P, N]` integer item ids, where `*P` are the first axes of `*T`: of `[B, L]` targets, `[N]` are
        shared by all, `[B, N]` by a row, and `[B, L, N]` by none. The score of id 0 has no meaning.

    Returns:
      `[*T, N]` float32 (products of bfloat16 are accumulated in float32).

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> v, v_y = jnp.ones((2, 3, 1)), jnp.array([[0.0], [1.0], [2.0]])
    >>> negative_scores(v, v_y, negative_ids=jnp.array([[1, 2], [2, 2]]))[:, 0]
    Array([[1., 2.],
           [2., 2.]], dtype=float32)
    """
    v, v_y, negative_ids = jnp.asarray(v), jnp.asarray(v_y), jnp.asarray(negative_ids)
    if v.ndim < 1 or v_y.ndim != 2 or v.shape[-1] != v_y.shape[1]:
        raise ShapeError(f"v must be [*T, E] and v_y [V+1, E] with the same E, got {v.shape} and {v_y.shape}")
    shared, places = negative_ids.shape[:-1], v.shape[:-1]
    if negative_ids.ndim < 1 or places[: len(shared)] != shared:
        raise ShapeError(
            f"negative_ids has shape {negative_ids.shape}, expected the first axes of the targets' {places} and N"
        )
    sharing = v.reshape(*shared, math.prod(places[len(shared) :]), v.shape[-1])
    scores = jnp.einsum("...te,...ne->...tn", sharing, v_y[negative_ids], preferred_element_type=jnp.float32)
    return scores.reshape(*places, negative_ids.shape[-1])


def negatives_that_count(
    negative_ids: Integer[ArrayLike, "*P N"], targets: Integer[ArrayLike, "*T"]
) -> Bool[Array, "*T N"]:
    """True for negatives that are an item other than the target.

    Args:
      negative_ids: `[*P, N]` as for `negative_scores`; 0 = none.
      targets: `[*T]` integer item ids.

    Returns:
      `[*T, N]` bool.

    >>> import jax.numpy as jnp
    >>> negatives_that_count(jnp.array([1, 2, 0]), jnp.array([2, 3])).tolist()
    [[True, False, False], [True, True, False]]
    """
    ids = _for_each_target(jnp.asarray(negative_ids), jnp.asarray(targets))
    return (ids != jnp.asarray(targets)[..., None]) & (ids > 0)


def sampled_softmax_loss(
    v: Float[ArrayLike, "*T E"],
    v_y: Float[ArrayLike, "V1 E"],
    targets: Integer[ArrayLike, "*T"],
    *,
    negative_ids: Integer[ArrayLike, "*P N"],
    log_q: Float[ArrayLike, " V1"] | None = None,
    temperature: float | Float[ArrayLike, ""] = 1.0,
    where: Bool[ArrayLike, "*T"] | None = None,
    weights: Float[ArrayLike, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """log(c eˢ⁺ + Σₙ eˢₙ) − s⁺ with scores s lowered by log q of their item, over N sampled negatives.

    The target is one more candidate, and every score is corrected for the probability that its item is a candidate.
    A negative that is the target itself is left out, so that no target is its own negative; the N q such hits that
    are expected are counted at the target instead, c = 1 + N q. Without this count popular targets would get too
    small a share, and the model would not learn the distribution of the data; with it the gradient is that of the
    full softmax as N grows.

    Args:
      v: `[*T, E]` floating-point user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` floating-point item vectors.
      targets: `[*T]` integer item ids; 0 = none, which counts as masked.
      negative_ids: `[*P, N]` integer item ids, where `*P` are the first axes of `*T`: of `[B, L]` targets, `[N]` are
        shared by all, `[B, N]` by a row, and `[B, L, N]` by none; 0 = none.
      log_q: `[V+1]` floating-point log probability by which each item is drawn as a negative; None makes no
        correction (c = 1).
      temperature: τ, may be learned; divides the scores before the correction.
      where: `[*T]` bool, True for targets that count; None means all.
      weights: `[*T]` floating-point weight of each target; None means 1.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Bengio and Senécal (2008), Adaptive Importance Sampling; Ma and Collins (2018), Noise Contrastive Estimation
      and Negative Sampling for Conditional Models; Yi et al. (2019), Sampling-Bias-Corrected Neural Modeling for
      Large Corpus Item Recommendations, for negatives from the batch.

    >>> import jax.numpy as jnp
    >>> v_y, negative_ids = jnp.zeros((5, 2)), jnp.array([1, 2, 3])
    >>> sampled_softmax_loss(jnp.zeros((1, 2)), v_y, jnp.array([3]), negative_ids=negative_ids)
    Array([1.0986123], dtype=float32)
    """
    v, v_y, targets, negative_ids = (jnp.asarray(array) for array in (v, v_y, targets, negative_ids))
    check_shape("targets", targets, v.shape[:-1])
    weights = jnp.where(targets > 0, target_weights(targets.shape, weights, where), 0.0)
    rows = jnp.where(weights[..., None] != 0, v / jnp.asarray(temperature, dtype=v.dtype), 0)
    negative = negative_scores(rows, v_y, negative_ids=negative_ids)
    positive = jnp.einsum("...e,...e->...", rows, v_y[targets], preferred_element_type=jnp.float32)
    own = positive
    if log_q is not None:
        check_shape("log_q", log_q, v_y.shape[:1])
        log_q = jnp.maximum(jnp.asarray(log_q, dtype=jnp.float32), _LEAST_LOG_Q)
        negative = negative - _for_each_target(log_q[negative_ids], targets)
        positive = positive - log_q[targets]
        drawn = _for_each_target(jnp.sum(negative_ids > 0, axis=-1, keepdims=True), targets)[..., 0]
        own = positive + jnp.log1p(drawn.astype(jnp.float32) * jnp.exp(log_q[targets]))
    negative = jnp.where(negatives_that_count(negative_ids, targets), negative, -jnp.inf)
    logits = jnp.concatenate([own[..., None], negative], axis=-1)
    return weights * jnp.where(weights != 0, jax.nn.logsumexp(logits, axis=-1) - positive, 0.0)


def _for_each_target(values: Array, targets: Array) -> Array:
    """`[*P, N]` to `[*T, N]`."""
    shared, size = values.shape[:-1], values.shape[-1]
    middle = (1,) * (targets.ndim - len(shared))
    return jnp.broadcast_to(values.reshape(*shared, *middle, size), (*targets.shape, size))
