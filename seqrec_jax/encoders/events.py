"""Event vectors: what an encoder reads at each position, from item, behaviour, time gap and position."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.layers import dropout, embedding_init
from seqrec_jax.errors import ConfigError

NUM_TIME_GAPS = 33  # 0 for a segment's first event, then 1 + floor(log2(1 + seconds)) for int32 seconds


@dataclass(frozen=True)
class EventInputConfig:
    """What an event vector is the sum of.

    Attributes:
      item: the item's vector.
      behavior: an embedding of the behaviour type.
      time_gap: an embedding of the time since the user's previous event, in powers of two of a second.
      position: an embedding of the event's number in the user's sequence.
      scale_item: multiply the item's vector by the square root of D, as SASRec's authors do; without it training
        takes about twice as many epochs.
    """

    item: bool = True
    behavior: bool = False
    time_gap: bool = False
    position: bool = True
    scale_item: bool = True

    def __post_init__(self) -> None:
        if not (self.item or self.behavior or self.time_gap):
            raise ConfigError("events: switch on at least one of item, behavior and time_gap; all are false")


class EventInputs(NamedTuple):
    """Pure functions that make event vectors.

    Attributes:
      init: `init(key) -> params`.
      event_vectors: `event_vectors(params, item_vectors [B, L, E], batch, *, key=None) -> [B, L, D]`, zeros
        at padding. Without a key there is no dropout. `item_vectors` may be None if items are not an input.
    """

    init: Callable[[jax.Array], Params]
    event_vectors: Callable[..., jax.Array]


def make_event_inputs(
    config: EventInputConfig,
    *,
    item_width: int,
    width: int,
    max_length: int,
    num_behaviors: int,
    dropout_rate: float = 0.0,
) -> EventInputs:
    """Event vectors as the sum of the inputs that the config switches on, then dropout.

    Args:
      config: the inputs.
      item_width: E; where it differs from D, a linear map takes item vectors to D.
      width: D.
      max_length: number of learned positions; later positions share the last one.
      num_behaviors: H, number of behaviour codes.
      dropout_rate: share of entries set to zero in training.
    """
    tables = {
        "behaviors": (config.behavior, num_behaviors),
        "time_gaps": (config.time_gap, NUM_TIME_GAPS),
        "positions": (config.position, max_length),
    }
    sizes = {name: size for name, (used, size) in tables.items() if used}
    project_items = config.item and item_width != width

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(sizes) + 1)
        params: Params = {
            name: embedding_init(keys[i], (size, width), jnp.float32) for i, (name, size) in enumerate(sizes.items())
        }
        if project_items:
            # keeps the variance of the item vectors
            scale = jax.nn.initializers.lecun_normal()
            params["items"] = {"kernel": scale(keys[-1], (item_width, width), jnp.float32)}
        return params

    def event_vectors(
        params: Params,
        item_vectors: Float[Array, "B L E"] | None,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B L D"]:
        parts: list[Array] = []
        if config.item and item_vectors is not None:
            vectors = item_vectors @ params["items"]["kernel"] if project_items else item_vectors
            parts.append(vectors * width**0.5 if config.scale_item else vectors)
        if config.behavior:
            parts.append(params["behaviors"][batch.behaviors])
        if config.time_gap:
            parts.append(params["time_gaps"][time_gap_buckets(batch)])
        if config.position:
            parts.append(params["positions"][jnp.minimum(batch.positions, max_length - 1)])
        total = dropout(functools.reduce(jnp.add, parts), rate=dropout_rate, site="events", key=key)
        return jnp.where((batch.segment_ids > 0)[..., None], total, 0.0)

    return EventInputs(init, event_vectors)


def time_gap_buckets(batch: Batch) -> Int[Array, "B L"]:
    """Bucket of the seconds since the segment's previous event: `1 + floor(log2(1 + gap))`, 0 for its first.

    Returns:
      `[B, L]` int32 in [0, 32].
    """
    previous = jnp.roll(batch.timestamps, 1, axis=1)
    gap_seconds = jnp.maximum(batch.timestamps - previous, 0).astype(jnp.uint32)
    bit_length = 32 - jax.lax.clz(gap_seconds + jnp.uint32(1)).astype(jnp.int32)
    return jnp.where(batch.positions == 0, 0, bit_length)
