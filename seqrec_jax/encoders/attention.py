"""Causal self-attention over a user's events (SASRec)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.layers import LayerNorm, causal_mask, dropout, embedding_init, pure_module


def sasrec_encoder(config: EncoderConfig) -> Encoder:
    """Blocks of causal self-attention and a feed-forward layer, then a layer normalisation.

    Positions come with the event vectors.

    Source:
      Kang and McAuley (2018), Self-Attentive Sequential Recommendation. With `norm="pre"` both parts of a
      block read a normalised input and add to the stream, as is usual today.
    """
    init, bind = pure_module(lambda rngs: AttentionStack(config, rngs=rngs))

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        return bind(params)(event_vectors, batch, key=key)

    return Encoder(init, encode)


def attend(
    queries: Float[Array, "B L H d"],
    keys: Float[Array, "B L H d"],
    values: Float[Array, "B L H d"],
    *,
    where: Bool[Array, "B L L"],
    dropout_rate: float = 0.0,
    site: str = "attention",
    key: PRNGKeyArray | None = None,
) -> Float[Array, "B L H d"]:
    """Scaled dot-product attention: `softmax(q kᵀ / √d) v` for each of H heads of width d.

    Args:
      queries: `[B, L, H, d]`.
      keys: `[B, L, H, d]`.
      values: `[B, L, H, d]`.
      where: `[B, L, L]` True where a query (second axis) may look at a key (third); each query needs one.
      dropout_rate: share of the weights set to zero.
      site: name of the call's place, for dropout.
      key: as for `dropout`.

    Returns:
      `[B, L, H, d]`; the softmax is computed in float32.
    """
    scores_bhqk = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    scores_bhqk = scores_bhqk * (1.0 / math.sqrt(queries.shape[-1]))
    bias = jnp.where(where, 0.0, -1e30)[:, None]
    weights = jax.nn.softmax(scores_bhqk + bias, axis=-1).astype(values.dtype)
    weights = dropout(weights, rate=dropout_rate, site=site, key=key)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one product for queries, keys and values."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.queries_keys_values = nnx.Linear(width, 3 * width, kernel_init=embedding_init, rngs=rngs)
        self.output = nnx.Linear(width, width, kernel_init=embedding_init, rngs=rngs)
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout

    def __call__(
        self, x: Float[Array, "B L D"], *, where: Bool[Array, "B L L"], site: str, key: PRNGKeyArray | None
    ) -> Float[Array, "B L D"]:
        batch, length, width = x.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        queries, keys, values = (part.reshape(heads) for part in jnp.split(self.queries_keys_values(x), 3, axis=-1))
        mixed = attend(queries, keys, values, where=where, dropout_rate=self.dropout, site=f"{site}/weights", key=key)
        return self.output(mixed.reshape(x.shape))


class FeedForward(nnx.Module):
    """Two linear layers with the activation between them, at each position alone."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        hidden = round(config.feed_forward_multiple * config.width)
        self.inner = nnx.Linear(config.width, hidden, kernel_init=embedding_init, rngs=rngs)
        self.outer = nnx.Linear(hidden, config.width, kernel_init=embedding_init, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        hidden = self.inner(x)
        hidden = jax.nn.relu(hidden) if self.activation == "relu" else jax.nn.gelu(hidden, approximate=False)
        return self.outer(hidden)


class AttentionBlock(nnx.Module):
    """Self-attention, then feed-forward, each with dropout and added to its input."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(config.width)
        self.attention = SelfAttention(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.width)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.norm_first = config.norm == "pre"
        self.dropout = config.dropout

    def __call__(
        self, x: Float[Array, "B L D"], *, where: Bool[Array, "B L L"], site: str, key: PRNGKeyArray | None
    ) -> Float[Array, "B L D"]:
        def attention(x: Array) -> Array:
            y = self.attention(x, where=where, site=f"{site}/attention", key=key)
            return dropout(y, rate=self.dropout, site=f"{site}/attention", key=key)

        def feed_forward(x: Array) -> Array:
            return dropout(self.feed_forward(x), rate=self.dropout, site=f"{site}/feed_forward", key=key)

        if self.norm_first:
            x = x + attention(self.attention_norm(x))
            return x + feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(x + attention(x))
        return self.feed_forward_norm(x + feed_forward(x))


class AttentionStack(nnx.Module):
    """Blocks and, where they normalise their inputs only, a last layer normalisation."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.names = tuple(f"block_{number}" for number in range(config.num_layers))
        for name in self.names:
            setattr(self, name, AttentionBlock(config, rngs=rngs))
        self.norm_first = config.norm == "pre"
        if self.norm_first:
            self.norm = LayerNorm(config.width)

    def __call__(self, x: Float[Array, "B L D"], batch: Batch, *, key: PRNGKeyArray | None) -> Float[Array, "B L D"]:
        where = causal_mask(batch.segment_ids)
        for name in self.names:
            x = getattr(self, name)(x, where=where, site=f"sasrec/{name}", key=key)
        return self.norm(x) if self.norm_first else x
