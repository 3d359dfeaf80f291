"""Self-attention in gated blocks that stay trainable when there are many (LiGR)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seqrec_jax.encoders.config import Encoder, EncoderConfig
from seqrec_jax.encoders.dropout import Keys, dropout
from seqrec_jax.encoders.layers import (
    AttentionMask,
    KeyValues,
    LayerNorm,
    Linear,
    SelfAttention,
    UpdateCache,
    embedding_init,
)
from seqrec_jax.encoders.stack import stack_encoder


def ligr_encoder(config: EncoderConfig) -> Encoder:
    """Gated blocks of causal self-attention and a SwiGLU layer, then a layer normalisation.

    `config.norm` and `config.activation` have no effect.

    Source:
      Borisyuk et al. (2025), From Features to Transformers: Redefining Ranking for Scalable Impact, for the gates;
      Shazeer (2020), GLU Variants Improve Transformer, for the feed-forward layer. Together for sequential
      recommendation in Tikhonovich et al. (2025), eSASRec, with `feed_forward_multiple=4`.
    """
    return stack_encoder(config, GatedBlock)


class SwiGLU(nnx.Module):
    """A feed-forward layer one half of which gates the other, `(silu(x W₁) · x W₂) W₃`."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        hidden = round(config.feed_forward_multiple * config.width)
        self.inner = Linear(config.width, 2 * hidden, use_bias=False, kernel_init=embedding_init, rngs=rngs)
        self.outer = Linear(hidden, config.width, use_bias=False, kernel_init=embedding_init, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """`[B, L, D]` to `[B, L, D]`."""
        gate, hidden = jnp.split(self.inner(x), 2, axis=-1)
        return self.outer(jax.nn.silu(gate) * hidden)


class GatedBlock(nnx.Module):
    """Self-attention, then SwiGLU: `x + σ(x W + b) · f(norm(x))` for each f, with dropout on f's output.

    The gate reads the stream itself and decides, by position and dimension, how much of f enters it.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.attention_norm = LayerNorm(width)
        self.attention = SelfAttention(config, rngs=rngs)
        self.attention_gate = Linear(width, width, kernel_init=embedding_init, rngs=rngs)
        self.feed_forward_norm = LayerNorm(width)
        self.feed_forward = SwiGLU(config, rngs=rngs)
        self.feed_forward_gate = Linear(width, width, kernel_init=embedding_init, rngs=rngs)
        self.dropout = config.dropout

    def __call__(
        self,
        x: Float[Array, "B N D"],
        mask: AttentionMask,
        *,
        update_cache: UpdateCache,
        site: str,
        key: Keys | None,
    ) -> tuple[Float[Array, "B Q D"], KeyValues | None]:
        """States `[B, Q, D]` of the queries of x `[B, N, D]`, and the keys and values after the update."""
        attention_site, feed_forward_site = f"{site}/attention", f"{site}/feed_forward"
        y, cached = self.attention(
            self.attention_norm(x), mask, update_cache=update_cache, site=attention_site, key=key
        )
        y = dropout(y, rate=self.dropout, site=attention_site, key=key)
        x = mask.take_queries(x)
        x = x + jax.nn.sigmoid(self.attention_gate(x)) * y

        y = dropout(self.feed_forward(self.feed_forward_norm(x)), rate=self.dropout, site=feed_forward_site, key=key)
        return x + jax.nn.sigmoid(self.feed_forward_gate(x)) * y, cached
