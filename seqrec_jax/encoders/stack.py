"""Blocks of attention on top of each other, over whole sequences or over one event more of each user."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.layers import (
    KeyValues,
    LayerNorm,
    Recall,
    Sight,
    causal_mask,
    last_columns,
    pure_module,
    segment_mask,
    take_columns,
    time_buckets,
)
from seqrec_jax.errors import ShapeError


class Memory(NamedTuple):
    """The last M events of each user as a ring: event number n lies in slot n modulo M.

    Attributes:
      blocks: keys and values `[U, M, H, d]` of each block.
      timestamps: `[U, M]` int32 seconds; None where the blocks do not look at time.
    """

    blocks: tuple[KeyValues, ...]
    timestamps: Int[Array, "U M"] | None


def stack_encoder(
    config: EncoderConfig,
    block: Callable[..., nnx.Module],
    *,
    causal: bool = True,
    final_norm: bool = True,
    timed: bool = False,
) -> Encoder:
    """An encoder of `config.num_layers` blocks; one that is causal takes events one by one as well.

    One by one, a block looks at the last `config.max_length` events. Up to so many, the states are those of `encode`;
    later ones still know of older events through the upper blocks, whose keys were made when these were in sight.

    Args:
      config: settings.
      block: `block(config, rngs=rngs)` is a module that is called as `AttentionBlock` is.
      causal: states look at earlier events only, else at all of their segment.
      final_norm: a layer normalisation ends the stack.
      timed: blocks read the `time_buckets` of their `Sight`.
    """
    init, bind = pure_module(lambda rngs: BlockStack(config, block, final_norm=final_norm, rngs=rngs))
    length = config.max_length
    whole: list[Recall] = [_itself] * config.num_layers

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B L D"]:
        sight = _whole_sight(batch, causal=causal, timed=timed)
        return bind(params)(event_vectors, [sight] * config.num_layers, recalls=whole, key=key)[0]

    def encode_last(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B D"]:
        sight = _whole_sight(batch, causal=causal, timed=timed)
        # the states of all events are what the block above reads, and the last block has none above it
        sights = [sight] * (config.num_layers - 1) + [_sight_of(last_columns(batch), sight)]
        return bind(params)(event_vectors, sights, recalls=whole, key=key)[0][:, 0]

    def start(num_users: int, dtype: Any) -> Memory:
        empty = jnp.zeros((num_users, length, config.num_heads, config.width // config.num_heads), dtype)
        timestamps = jnp.zeros((num_users, length), jnp.int32) if timed else None
        return Memory((KeyValues(empty, empty),) * config.num_layers, timestamps)

    def append(
        params: Params, memory: Memory, event_vectors: Float[Array, "U D"], batch: Batch
    ) -> tuple[Float[Array, "U D"], Memory]:
        if batch.segment_ids.shape != (event_vectors.shape[0], 1):
            raise ShapeError(
                f"append takes one event of each user, event vectors [U, D] and a batch [U, 1], got "
                f"{event_vectors.shape} and {batch.segment_ids.shape}"
            )
        # a slot past the end is not written to
        slots = jnp.where(batch.segment_ids > 0, batch.positions % length, length)[:, 0]
        timestamps = None if memory.timestamps is None else _write(memory.timestamps, batch.timestamps, slots)
        sight = _ring_sight(batch, timestamps, length=length)
        recalls = [functools.partial(_recall, old, slots) for old in memory.blocks]
        states, seen = bind(params)(event_vectors[:, None], [sight] * config.num_layers, recalls=recalls, key=None)
        # the memory may be kept in a type of its own
        blocks = jax.tree.map(lambda new, old: new.astype(old.dtype), seen, memory.blocks)
        return states[:, 0], Memory(blocks, timestamps)

    if not causal:
        return Encoder(init, encode, causal, encode_last=encode_last)
    return Encoder(init, encode, causal, start, append, encode_last)


class BlockStack(nnx.Module):
    """Blocks and, where wanted, a last layer normalisation."""

    def __init__(self, config: EncoderConfig, block: Callable[..., nnx.Module], *, final_norm: bool, rngs: nnx.Rngs):
        self.kind = config.kind
        self.names = tuple(f"block_{number}" for number in range(config.num_layers))
        for name in self.names:
            setattr(self, name, block(config, rngs=rngs))
        self.final_norm = final_norm
        if final_norm:
            self.norm = LayerNorm(config.width)

    def __call__(
        self, x: Float[Array, "B N D"], sights: list[Sight], *, recalls: list[Recall], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "B Q D"], tuple[KeyValues | None, ...]]:
        seen = []
        for name, sight, recall in zip(self.names, sights, recalls, strict=True):
            x, keys_values = getattr(self, name)(x, sight, recall=recall, site=f"{self.kind}/{name}", key=key)
            seen.append(keys_values)
        return self.norm(x) if self.final_norm else x, tuple(seen)


def _whole_sight(batch: Batch, *, causal: bool, timed: bool) -> Sight:
    """What each position of whole sequences sees; a segment has no gaps, so columns count its events."""
    columns = np.arange(batch.segment_ids.shape[1], dtype=np.int32)
    distances = jnp.asarray(np.maximum(columns[:, None] - columns, 0))[None]
    where = (causal_mask if causal else segment_mask)(batch.segment_ids)
    seconds = batch.timestamps[:, :, None] - batch.timestamps[:, None, :]
    return Sight(where, distances, time_buckets(seconds) if timed else None, causal=causal)


def _sight_of(queries: Int[Array, " B"], sight: Sight) -> Sight:
    """What one position of each whole sequence sees."""
    distances = jnp.broadcast_to(sight.distances, sight.where.shape)
    buckets = None if sight.time_buckets is None else take_columns(sight.time_buckets, queries)
    return Sight(take_columns(sight.where, queries), take_columns(distances, queries), buckets, queries)


def _ring_sight(batch: Batch, timestamps: Int[Array, "U M"] | None, *, length: int) -> Sight:
    """What each user's newest event sees in the memory: the slots filled so far."""
    slots = jnp.arange(length, dtype=jnp.int32)[None]
    distances = (batch.positions - slots) % length
    buckets = None if timestamps is None else time_buckets(batch.timestamps - timestamps)[:, None]
    return Sight((slots <= batch.positions)[:, None], distances[:, None], buckets)


def _itself(new: KeyValues) -> KeyValues:
    return new


def _recall(stored: KeyValues, slots: Int[Array, " U"], new: KeyValues) -> KeyValues:
    """All that a block remembers, in the type of what it just made."""
    return jax.tree.map(lambda old, now: _write(old, now, slots).astype(now.dtype), stored, new)


def _write(stored: Array, new: Array, slots: Int[Array, " U"]) -> Array:
    """`stored [U, M, ...]` with each user's entry of `new [U, 1, ...]` in its slot, one at M going nowhere."""
    return jax.vmap(lambda old, now, slot: old.at[slot].set(now[0].astype(old.dtype), mode="drop"))(stored, new, slots)
