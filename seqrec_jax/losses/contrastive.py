"""The contrastive loss of two views of the same sequences, with the other sequences of the batch as negatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses.inputs import check_shape, target_weights
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike, AxisName

_LEAST_SQUARE = 1e-12  # of a vector's length, so that the direction of zeros has a finite gradient


def contrastive_loss(
    one: Float[ArrayLike, "T D"],
    other: Float[ArrayLike, "T D"],
    *,
    temperature: float = 0.1,
    where: Bool[ArrayLike, " T"] | None = None,
    weights: Float[ArrayLike, " T"] | None = None,
    axis_name: AxisName = None,
) -> Float[Array, " T"]:
    """−log of the share that a view's partner has among all other views of the batch, the mean of both directions.

    Shares are the softmax of cosines over the temperature (InfoNCE, NT-Xent): each view must be distinguished from
    both views of every other sequence by its likeness to its partner.

    Args:
      one: `[T, D]` floating-point vectors of one view of each sequence.
      other: `[T, D]` floating-point vectors of another view of the same sequences.
      temperature: τ, above 0.
      where: `[T]` bool, True for sequences that count, the others are no negatives either; None means all.
      weights: `[T]` floating-point weight of each sequence, one of weight 0 does not count; None means 1.
      axis_name: mesh axis or axes that share the batch, inside `shard_map` or `pmap`: negatives are then those of all
        devices.

    Returns:
      `[T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
      ConfigError: a temperature that is not above 0.

    Source:
      Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual Representations, eq. 1; Xie et al.
      (2022), Contrastive Learning for Sequential Recommendation (CL4SRec).

    >>> contrastive_loss(jnp.eye(2), jnp.eye(2), temperature=1.0).round(4)  # log(e + 2) - 1
    Array([0.5514, 0.5514], dtype=float32)
    """
    first_views, second_views = jnp.asarray(one), jnp.asarray(other)
    if first_views.ndim != 2:
        raise ShapeError(f"one has shape {first_views.shape}, expected [T, D]")
    check_shape("other", second_views, first_views.shape)
    check_value("temperature", temperature, "(0, inf)")
    weights = target_weights(first_views.shape[:1], weights, where)
    counts = weights != 0
    views = jnp.stack([_directions(first_views, counts), _directions(second_views, counts)])  # [2, T, D]
    others, counted, first = views, counts, jnp.int32(0)
    if axis_name is not None:
        others = jax.lax.all_gather(views, axis_name, axis=1, tiled=True)
        counted = jax.lax.all_gather(counts, axis_name, tiled=True)
        first = jax.lax.axis_index(axis_name) * len(counts)
    scores = jnp.einsum("atd,bsd->atbs", views, others, preferred_element_type=jnp.float32) / temperature
    own = jnp.arange(len(counts), dtype=jnp.int32)[:, None] + first == jnp.arange(len(counted), dtype=jnp.int32)[None]
    same_view = jnp.eye(2, dtype=bool)
    left_out = (same_view[:, None, :, None] & own[None, :, None, :]) | ~counted[None, None, None, :]
    left_out &= counts[None, :, None, None]  # the logarithm of an empty sum has no gradient
    normalizers = jax.nn.logsumexp(jnp.where(left_out, -jnp.inf, scores), axis=(2, 3))
    partners = jnp.einsum("td,td->t", views[0], views[1], preferred_element_type=jnp.float32) / temperature
    return weights * jnp.where(counts, jnp.mean(normalizers, axis=0) - partners, 0.0)


def _directions(vectors: Float[Array, "T D"], counts: Bool[Array, " T"]) -> Float[Array, "T D"]:
    """`[T, D]` vectors of length 1; zeros for sequences that do not count."""
    vectors = jnp.where(counts[:, None], vectors, 0)
    squares = jnp.sum(jnp.square(vectors.astype(jnp.float32)), axis=1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, _LEAST_SQUARE)).astype(vectors.dtype)
