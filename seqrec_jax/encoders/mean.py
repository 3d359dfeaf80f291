"""Mean pooling: the state is the mean of the events so far, weighted by recency if a half-life is set."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.layers import first_and_real, linear_scan
from seqrec_jax.types import DimSize


def mean_encoder(config: EncoderConfig) -> Encoder:
    """An encoder without parameters that pools by `causal_mean`."""
    half_life = config.recency_half_life
    decay = 1.0 if half_life is None else 0.5 ** (1.0 / half_life)

    def init(key: Array) -> Params:
        return {}

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        return causal_mean(event_vectors, batch, decay=decay)

    def start(num_users: DimSize, dtype: Any) -> Params:
        # float32 for any dtype: half precision cannot count beyond 256
        sizes = {"total": config.width, "weight": 1}
        return {name: jnp.zeros((num_users, size), jnp.float32) for name, size in sizes.items()}

    def append(
        params: Params, cache: Params, event_vectors: Float[Array, "B D"], batch: Batch
    ) -> tuple[Float[Array, "B D"], Params]:
        total, weight = _running_sums(event_vectors[:, None], batch, decay=decay, before=cache)
        state = _ratio(total, weight).astype(event_vectors.dtype)
        return state[:, 0], {"total": total[:, 0], "weight": weight[:, 0]}

    return Encoder(init, encode, start=start, append=append)


def causal_mean(event_vectors: Float[Array, "B L D"], batch: Batch, *, decay: float = 1.0) -> Float[Array, "B L D"]:
    """Weighted mean of a segment's events up to each position.

    `state_t = Σ_{s≤t} decay^(t-s) x_s / Σ_{s≤t} decay^(t-s)`, over the positions s of t's segment.

    Over one-hot event vectors this is the share of each item among the events so far.

    Args:
      event_vectors: `[B, L, D]` float.
      batch: its positions and segment ids are used.
      decay: ratio of the weight of an event to that of the event after it, in (0, 1].

    Returns:
      `[B, L, D]` in the dtype of the event vectors, summed in float32; padding repeats the last state before it.
    """
    return _ratio(*_running_sums(event_vectors, batch, decay=decay)).astype(event_vectors.dtype)


def _running_sums(
    event_vectors: Float[Array, "B L D"], batch: Batch, *, decay: float, before: Params | None = None
) -> tuple[Float[Array, "B L D"], Float[Array, "B L 1"]]:
    """Numerator and denominator of the mean at each position; `before` holds those before the first, None is zeros."""
    first, real = (flags[..., None] for flags in first_and_real(batch))
    factors = jnp.where(real, jnp.where(first, 0.0, decay), 1.0).astype(jnp.float32)
    addends = {"total": jnp.where(real, event_vectors.astype(jnp.float32), 0.0), "weight": real.astype(jnp.float32)}

    def sums(name: str) -> Array:
        # the old value may be nan
        earlier = None if before is None else jnp.where(first[:, 0], 0.0, before[name])
        return linear_scan(factors, addends[name], before=earlier)

    return sums("total"), sums("weight")


def _ratio(total: Float[Array, "B L D"], weight: Float[Array, "B L 1"]) -> Float[Array, "B L D"]:
    return total / jnp.where(weight > 0, weight, 1.0)
