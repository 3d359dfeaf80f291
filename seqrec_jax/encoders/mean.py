"""Mean pooling: the state is the average of the events so far, recent ones weighing more if asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params


def mean_encoder(config: EncoderConfig) -> Encoder:
    """An encoder without parameters that pools by `causal_mean`."""
    half_life = config.recency_half_life
    decay = 1.0 if half_life is None else 0.5 ** (1.0 / half_life)

    def init(key: Array) -> Params:
        return {}

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        return causal_mean(event_vectors, batch, decay=decay)

    return Encoder(init, encode)


def causal_mean(event_vectors: Float[Array, "B L D"], batch: Batch, *, decay: float = 1.0) -> Float[Array, "B L D"]:
    """Weighted mean of a segment's events up to each position.

    `state_t = Σ_{s≤t} decay^(t-s) x_s / Σ_{s≤t} decay^(t-s)`, over the positions s of t's segment.

    Over one-hot event vectors this is the share of each item among the events so far.

    Args:
      event_vectors: `[B, L, D]`.
      batch: its positions and segment ids are used.
      decay: weight of an event against the one after it, 0 < decay <= 1.

    Returns:
      `[B, L, D]`; padding repeats the last state before it.
    """
    dtype = event_vectors.dtype
    real = (batch.segment_ids > 0)[..., None]
    factor = jnp.where(real, jnp.where((batch.positions == 0)[..., None], 0.0, decay), 1.0).astype(dtype)

    def combine(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        # each triple stands for the map of (sum, weight) to (factor · sum + s, factor · weight + w)
        return left[0] * right[0], left[1] * right[0] + right[1], left[2] * right[0] + right[2]

    start = (factor, jnp.where(real, event_vectors, 0.0), real.astype(dtype))
    _, total, weight = jax.lax.associative_scan(combine, start, axis=1)
    return total / jnp.where(weight > 0, weight, 1.0)
