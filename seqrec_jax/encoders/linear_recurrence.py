"""A gated linear recurrence, one number of state a channel, computed over a sequence by a parallel scan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys, dropout
from seqrec_jax.encoders.layers import (
    FeedForward,
    LayerNorm,
    Linear,
    embedding_init,
    first_and_real,
    linear_scan,
    pure_module,
)
from seqrec_jax.types import DimSize

GATE_STRENGTH = 8.0  # c: factor of the recurrence gate in the logarithm of the decay
SMALLEST_ENTRY = 1e-6  # of 1 - a², whose root has no finite derivative at 0


def linear_recurrence_encoder(config: EncoderConfig) -> Encoder:
    """Blocks of a gated linear recurrence and a feed-forward layer, then a layer normalisation.

    Source:
      De et al. (2024), Griffin: Mixing Gated Linear Recurrences with Local Attention (the recurrence, RG-LRU; here
      without its convolution); Orvieto et al. (2023), Resurrecting Recurrent Neural Networks for Long Sequences;
      Yue et al. (2024), Linear Recurrent Units for Sequential Recommendation.
    """
    init, bind = pure_module(lambda rngs: LinearRecurrenceStack(config, rngs=rngs))

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        return bind(params)(event_vectors, batch, cache=None, key=key)[0]

    def start(num_users: DimSize, dtype: Any) -> Params:
        # float32 for any dtype: a channel may sum over hundreds of events
        return {
            f"block_{number}": jnp.zeros((num_users, config.width), jnp.float32) for number in range(config.num_layers)
        }

    def append(
        params: Params, cache: Params, event_vectors: Float[Array, "B D"], batch: Batch
    ) -> tuple[Float[Array, "B D"], Params]:
        states, cache = bind(params)(event_vectors[:, None], batch, cache=cache, key=None)
        return jnp.where(batch.segment_ids > 0, states[:, 0], 0.0), cache

    return Encoder(init, encode, start=start, append=append)


class GatedLinearRecurrence(nnx.Module):
    """`h_t = a_t h_{t-1} + √(1 - a_t²) (i_t u_t)` in each channel; the output is a projection of `gelu(g_t) h_t`.

    The input u, the gates i (sigmoid) and g, and the recurrence gate r (sigmoid) are linear in x, and
    `a_t = exp(-c r_t softplus(λ))`. Nothing but `a` and `b` of the scan depends on the past, and the factor of
    the input keeps h's variance that of its inputs. A segment begins with a = 0, padding has a = 1 and no input.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        width = config.width
        # inputs of variance one, since the two branches are multiplied
        self.inputs = Linear(width, 4 * width, kernel_init=nnx.initializers.lecun_normal(), rngs=rngs)
        self.output = Linear(width, width, kernel_init=embedding_init, rngs=rngs)
        self.decay = nnx.Param(initial_decay(width, longest=config.max_length))

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        first: Bool[Array, "B L"],
        real: Bool[Array, "B L"],
        before: Float[Array, "B D"] | None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        """The outputs `[B, L, D]` and the last position's h `[B, D]`; `before` is h before the first, None is zeros."""
        values, gate, *gates = jnp.split(self.inputs(x), 4, axis=-1)
        # gates to h in float32: half precision has no numbers between 0.996 and 1
        enter, forget = (jax.nn.sigmoid(part.astype(jnp.float32)) for part in gates)
        rate = jnp.broadcast_to(jax.nn.softplus(self.decay[...].astype(jnp.float32)), forget.shape)
        log_factor = -GATE_STRENGTH * rate * forget
        entry = jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_factor), SMALLEST_ENTRY))
        starts, counts = first[..., None], real[..., None]
        factors = jnp.where(counts, jnp.where(starts, 0.0, jnp.exp(log_factor)), 1.0)
        addends = jnp.where(counts, jnp.where(starts, 1.0, entry) * enter * values.astype(jnp.float32), 0.0)
        if before is not None:
            before = jnp.where(starts[:, 0], 0.0, before)  # the old value may be nan
        hidden = linear_scan(factors, addends, before=before)
        mixed = jax.nn.gelu(gate, approximate=False) * hidden.astype(x.dtype)
        return self.output(mixed), hidden[:, -1]


def initial_decay(width: int, *, longest: int) -> Float[Array, " D"]:
    """`[D]` float32 λ for memories of 1 to `longest` events, evenly spaced in their logarithm, with the gate half open.

    A memory of τ events is `a = exp(-1 / τ)`, hence `c softplus(λ) / 2 = 1 / τ`.
    """
    memories = longest ** jnp.linspace(0.0, 1.0, width)
    return jnp.log(jnp.expm1(2.0 / (GATE_STRENGTH * memories)))


class LinearRecurrenceBlock(nnx.Module):
    """The recurrence, then feed-forward, each of a normalised input, with dropout and added to the stream."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.recurrence_norm = LayerNorm(config.width)
        self.recurrence = GatedLinearRecurrence(config, rngs=rngs)
        self.feed_forward_norm = LayerNorm(config.width)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.dropout = config.dropout

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        first: Bool[Array, "B L"],
        real: Bool[Array, "B L"],
        before: Float[Array, "B D"] | None,
        site: str,
        key: Keys | None,
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B D"]]:
        """The states `[B, L, D]` and the last position's h `[B, D]`; `before` is h before the first, None is zeros."""
        mixed, after = self.recurrence(self.recurrence_norm(x), first=first, real=real, before=before)
        x = x + dropout(mixed, rate=self.dropout, site=f"{site}/recurrence", key=key)
        hidden = self.feed_forward(self.feed_forward_norm(x))
        return x + dropout(hidden, rate=self.dropout, site=f"{site}/feed_forward", key=key), after


class LinearRecurrenceStack(nnx.Module):
    """Blocks on top of each other and a last layer normalisation."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.names = tuple(f"block_{number}" for number in range(config.num_layers))
        for name in self.names:
            setattr(self, name, LinearRecurrenceBlock(config, rngs=rngs))
        self.norm = LayerNorm(config.width)

    def __call__(
        self, x: Float[Array, "B L D"], batch: Batch, *, cache: Params | None, key: Keys | None
    ) -> tuple[Float[Array, "B L D"], Params]:
        """The states, and each block's last h; `cache` holds h before the first position, None is zeros."""
        first, real = first_and_real(batch)
        after = {}
        for name in self.names:
            before = None if cache is None else cache[name]
            site = f"linear_recurrence/{name}"
            x, after[name] = getattr(self, name)(x, first=first, real=real, before=before, site=site, key=key)
        return self.norm(x), after
