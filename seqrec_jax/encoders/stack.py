"""Attention blocks on top of each other, over whole sequences or over one more event of each user."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.layers import (
    AttentionMask,
    KeyValues,
    LayerNorm,
    UpdateCache,
    causal_mask,
    last_columns,
    pure_module,
    segment_mask,
    take_columns,
    time_buckets,
)
from seqrec_jax.errors import ShapeError
from seqrec_jax.types import DimSize


class KeyValueCache(NamedTuple):
    """Keys and values of the last M events of each user, as a ring: event number n is in slot n modulo M.

    Attributes:
      blocks: keys and values `[U, M, H, d]` of each block.
      timestamps: `[U, M]` int32 seconds; None if the blocks do not use time.
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
    """An encoder of `config.num_layers` attention blocks; to a causal one, events can be appended.

    An appended event attends to the last M = `config.max_length` events, itself included. Up to M events, the states
    equal those of `encode`. After more than M events they differ from `encode` over the last M: the cached keys and
    values of upper blocks were computed when older events were still in the ring, so that a state depends indirectly
    on up to `num_layers * (M - 1)` events before its own.

    Args:
      config: settings.
      block: `block(config, rngs=rngs)` is a module that is called as `AttentionBlock` is.
      causal: states depend on earlier events only, else on all events of their segment.
      final_norm: a layer normalisation ends the stack.
      timed: blocks read the `time_buckets` of their `AttentionMask`.
    """
    init, bind = pure_module(lambda rngs: BlockStack(config, block, final_norm=final_norm, rngs=rngs))
    length = config.max_length
    without_cache: list[UpdateCache] = [_unchanged] * config.num_layers

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        mask = _sequence_mask(batch, causal=causal, timed=timed)
        return bind(params)(event_vectors, [mask] * config.num_layers, update_caches=without_cache, key=key)[0]

    def encode_last(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B D"]:
        mask = _sequence_mask(batch, causal=causal, timed=timed)
        # each block but the last needs the states of all events, since the block above reads them
        masks = [mask] * (config.num_layers - 1) + [_one_query_mask(last_columns(batch), mask)]
        return bind(params)(event_vectors, masks, update_caches=without_cache, key=key)[0][:, 0]

    def start(num_users: DimSize, dtype: Any) -> KeyValueCache:
        empty = jnp.zeros((num_users, length, config.num_heads, config.width // config.num_heads), dtype)
        timestamps = jnp.zeros((num_users, length), jnp.int32) if timed else None
        return KeyValueCache((KeyValues(empty, empty),) * config.num_layers, timestamps)

    def append(
        params: Params, cache: KeyValueCache, event_vectors: Float[Array, "U D"], batch: Batch
    ) -> tuple[Float[Array, "U D"], KeyValueCache]:
        if batch.segment_ids.shape != (event_vectors.shape[0], 1):
            raise ShapeError(
                f"append takes one event of each user, event vectors [U, D] and a batch [U, 1], got "
                f"{event_vectors.shape} and {batch.segment_ids.shape}"
            )
        # a write to the slot past the end is dropped
        slots = jnp.where(batch.segment_ids > 0, batch.positions % length, length)[:, 0]
        timestamps = None if cache.timestamps is None else _write(cache.timestamps, batch.timestamps, slots)
        mask = _ring_mask(batch, timestamps, length=length)
        update_caches = [functools.partial(_updated, old, slots) for old in cache.blocks]
        states, blocks = bind(params)(
            event_vectors[:, None], [mask] * config.num_layers, update_caches=update_caches, key=None
        )
        # the cache may be kept in another dtype than the states
        blocks = jax.tree.map(lambda new, old: new.astype(old.dtype), blocks, cache.blocks)
        return states[:, 0], KeyValueCache(blocks, timestamps)

    if not causal:
        return Encoder(init, encode, causal, encode_last=encode_last)
    return Encoder(init, encode, causal, start, append, encode_last)


class BlockStack(nnx.Module):
    """Blocks on top of each other, then a layer normalisation if `final_norm`."""

    def __init__(self, config: EncoderConfig, block: Callable[..., nnx.Module], *, final_norm: bool, rngs: nnx.Rngs):
        self.kind = config.kind
        self.names = tuple(f"block_{number}" for number in range(config.num_layers))
        for name in self.names:
            setattr(self, name, block(config, rngs=rngs))
        self.final_norm = final_norm
        if final_norm:
            self.norm = LayerNorm(config.width)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        masks: list[AttentionMask],
        *,
        update_caches: list[UpdateCache],
        key: Keys | None,
    ) -> tuple[Float[Array, "B Q D"], tuple[KeyValues | None, ...]]:
        """States `[B, Q, D]` of the queries of `x` `[B, N, D]`, and each block's keys and values after its update."""
        cached = []
        for name, mask, update_cache in zip(self.names, masks, update_caches, strict=True):
            block = getattr(self, name)
            x, keys_values = block(x, mask, update_cache=update_cache, site=f"{self.kind}/{name}", key=key)
            cached.append(keys_values)
        return self.norm(x) if self.final_norm else x, tuple(cached)


def _sequence_mask(batch: Batch, *, causal: bool, timed: bool) -> AttentionMask:
    """The mask of whole sequences; a segment has no gaps, so that columns count its events."""
    columns = np.arange(batch.segment_ids.shape[1], dtype=np.int32)
    distances = jnp.asarray(np.maximum(columns[:, None] - columns, 0))[None]
    where = (causal_mask if causal else segment_mask)(batch.segment_ids)
    seconds = batch.timestamps[:, :, None] - batch.timestamps[:, None, :]
    return AttentionMask(where, distances, time_buckets(seconds) if timed else None, causal=causal)


def _one_query_mask(columns: Int[Array, " B"], mask: AttentionMask) -> AttentionMask:
    """The rows of a mask that belong to one query column of each sequence."""
    distances = jnp.broadcast_to(mask.distances, mask.where.shape)
    buckets = None if mask.time_buckets is None else take_columns(mask.time_buckets, columns)
    return AttentionMask(take_columns(mask.where, columns), take_columns(distances, columns), buckets, columns)


def _ring_mask(batch: Batch, timestamps: Int[Array, "U M"] | None, *, length: int) -> AttentionMask:
    """The mask of each user's newest event over the cache: the slots filled so far."""
    slots = jnp.arange(length, dtype=jnp.int32)[None]
    distances = (batch.positions - slots) % length
    buckets = None if timestamps is None else time_buckets(batch.timestamps - timestamps)[:, None]
    return AttentionMask((slots <= batch.positions)[:, None], distances[:, None], buckets)


def _unchanged(new: KeyValues) -> KeyValues:
    return new


def _updated(cached: KeyValues, slots: Int[Array, " U"], new: KeyValues) -> KeyValues:
    """The cache with the new keys and values in it, in their dtype."""
    return jax.tree.map(lambda old, now: _write(old, now, slots).astype(now.dtype), cached, new)


def _write(
    stored: Shaped[Array, "U M ..."], new: Shaped[Array, "U 1 ..."], slots: Int[Array, " U"]
) -> Shaped[Array, "U M ..."]:
    """`stored` with each user's entry of `new` in its slot; an entry for slot M is dropped."""
    return jax.vmap(lambda old, now, slot: old.at[slot].set(now[0].astype(old.dtype), mode="drop"))(stored, new, slots)
