"""Pointwise attention with biases for distances in events and in time (HSTU)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from seqrec_jax.encoders.config import Encoder, EncoderConfig
from seqrec_jax.encoders.dropout import Keys, dropout
from seqrec_jax.encoders.layers import (
    NUM_TIME_BUCKETS,
    AttentionMask,
    KeyValues,
    LayerNorm,
    Linear,
    UpdateCache,
    embedding_init,
    in_causal_spans,
    split_heads,
)
from seqrec_jax.encoders.stack import stack_encoder


def hstu_encoder(config: EncoderConfig) -> Encoder:
    """Causal transduction units, then a layer normalisation.

    `config.norm`, `config.activation` and `config.feed_forward_multiple` have no effect.

    Source:
      Zhai et al. (2024), Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
      Recommendations. As in the authors' code for public data, scores are not scaled by the heads' width. Their
      time bias uses the time up to the next event, which is unknown when a list is made; here it is the time up to the
      query's own event, in powers of two. Their heads share one bias, here each head has its own.
    """
    return stack_encoder(config, TransductionUnit, timed=config.time_bias)


def pointwise_attend(
    queries: Float[Array, "B Q H d"],
    keys: Float[Array, "B K H d"],
    values: Float[Array, "B K H d"],
    *,
    bias: Float[Array, "#B Q K H"],
    where: Bool[Array, "B Q K"],
    max_length: int,
    causal: bool = False,
    dropout_rate: float = 0.0,
    site: str = "attention",
    key: Keys | None = None,
) -> Float[Array, "B Q H d"]:
    """Attention whose weights do not compete: `silu(q kᵀ + bias) v / max_length` for each of H heads.

    The sum of the weights, which a softmax would fix at one, grows with the number of matching events.

    Args:
      queries: `[B, Q, H, d]`.
      keys: `[B, K, H, d]`.
      values: `[B, K, H, d]`.
      bias: `[B or 1, Q, K, H]` added to the scores.
      where: `[B, Q, K]` True where a query may attend to a key.
      max_length: divisor, the most events of a user.
      causal: Q = K and `where` is False at later keys, so that their scores need not be computed.
      dropout_rate: share of the weights set to zero.
      site: name of the call's place, for dropout.
      key: as for `dropout`.

    Returns:
      `[B, Q, H, d]`; the weights are computed in float32.
    """
    if causal:
        pairs = {"bias": bias, "where": where}
        options = {"max_length": max_length, "dropout_rate": dropout_rate, "key": key}
        return in_causal_spans(pointwise_attend, queries, keys, values, pairs=pairs, site=site, options=options)
    queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
    scores_bhqk = jnp.einsum("bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    scores_bhqk = scores_bhqk + jnp.moveaxis(bias, -1, 1).astype(jnp.float32)
    weights = jnp.where(where[:, None], jax.nn.silu(scores_bhqk) * (1.0 / max_length), 0.0).astype(values.dtype)
    weights = dropout(weights, rate=dropout_rate, site=site, key=key)
    return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, values), 1, 2)


class TransductionUnit(nnx.Module):
    """`u, v, q, k = silu(norm(x) W)`, then `x + (u · norm(attend(q, k, v))) W'`.

    The bias of a score is a number learned for each head and distance in events, and one for each head and power of
    two of the seconds between the events.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width, num_heads = config.width, config.num_heads
        self.norm = LayerNorm(width, epsilon=1e-6)
        self.projections = Linear(width, 4 * width, kernel_init=embedding_init, rngs=rngs)
        self.distance_bias = nnx.Param(embedding_init(rngs.params(), (config.max_length, num_heads), jnp.float32))
        if config.time_bias:
            self.time_bias = nnx.Param(embedding_init(rngs.params(), (NUM_TIME_BUCKETS, num_heads), jnp.float32))
        self.mixed_norm = LayerNorm(width, epsilon=1e-6)
        self.output = Linear(width, width, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: AttentionMask,
        *,
        update_cache: UpdateCache,
        site: str,
        key: Keys | None,
    ) -> tuple[Float[Array, "B Q D"], KeyValues]:
        """States `[B, Q, D]` of the queries of x `[B, N, D]`, and the keys and values after the update."""
        config = self.config
        gate, *parts = jnp.split(jax.nn.silu(self.projections(self.norm(x))), 4, axis=-1)
        values, queries, keys = (split_heads(part, num_heads=config.num_heads) for part in parts)
        cached = update_cache(KeyValues(keys, values))
        mixed = pointwise_attend(
            mask.take_queries(queries),
            *cached,
            bias=self.bias(mask),
            where=mask.where,
            max_length=config.max_length,
            causal=mask.causal,
            dropout_rate=config.attention_dropout,
            site=f"{site}/weights",
            key=key,
        )
        gated = mask.take_queries(gate) * self.mixed_norm(mixed.reshape(*mixed.shape[:2], -1))
        gated = dropout(gated, rate=config.dropout, site=f"{site}/gated", key=key)
        return mask.take_queries(x) + self.output(gated), cached

    def bias(self, mask: AttentionMask) -> Float[Array, "#B Q K H"]:
        """`[B or 1, Q, K, H]` added to the scores; distances beyond the last learned one share its bias."""
        last = self.config.max_length - 1
        by_distance = self.distance_bias[...][jnp.minimum(mask.distances, last)]
        return by_distance + self.time_bias[...][mask.time_buckets] if self.config.time_bias else by_distance
