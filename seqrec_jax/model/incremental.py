"""One more event of each user at the cost of one event: the cache of a user's events, and how it grows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Params
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTable
from seqrec_jax.model.parts import ModelParts, condition_on_behavior, input_item_vectors
from seqrec_jax.types import ArrayLike, DimSize


class Event(NamedTuple):
    """One more event of each of B users.

    Attributes:
      item_ids: `[B]` int32, 0 = an event without item.
      behaviors: `[B]` int32 codes.
      timestamps: `[B]` int32 seconds, counted as in `Batch`.
      where: `[B]` bool, True for users who have an event; None means all. The cache of the others does not change.
      target_behaviors: `[B]` int32 code of the behaviour to be predicted next; required if the model is conditioned
        on it (`model.target_behavior`), else None.
      query_words: `[B, W]` int32 words of the event's query, as in `Batch`; None if no event has one.
    """

    item_ids: Int[Array, " B"]
    behaviors: Int[Array, " B"]
    timestamps: Int[Array, " B"]
    where: Bool[Array, " B"] | None = None
    target_behaviors: Int[Array, " B"] | None = None
    query_words: Int[Array, "B W"] | None = None


class EventCache(NamedTuple):
    """The events of B users so far, in the form to which one more can be appended.

    Every leaf has B as its first axis, so that users can be gathered, scattered and stored by row.

    Attributes:
      encoder: the encoder's cache, a pytree of arrays `[B, ...]`. Attention (sasrec, ligr, hstu): keys and values
        `[B, M, H, d]` of each block in the dtype given to `start`, a ring of the last M = `encoder.max_length` events.
        Recurrences and mean pooling: sums or hidden states of fixed size.
      num_events: `[B]` int32 number of events so far, older ones than the ring holds included.
      last_timestamps: `[B]` int32 seconds of the last event, 0 if there is none.
    """

    encoder: Any
    num_events: Int[Array, " B"]
    last_timestamps: Int[Array, " B"]


def start_cache(parts: ModelParts, num_users: DimSize, dtype: Any = jnp.float32) -> EventCache:
    """The cache of users without events.

    Args:
      parts: of a model to which events can be appended.
      num_users: B.
      dtype: of the keys and values that attention keeps; half precision halves their size. Sums of recurrences and
        means are float32 for any dtype.

    Raises:
      ConfigError: events cannot be appended to this model.
    """
    _check_appendable(parts)
    assert parts.encoder.start is not None
    # an array each, so that the whole cache may be donated to `append`
    return EventCache(
        parts.encoder.start(num_users, dtype), jnp.zeros(num_users, jnp.int32), jnp.zeros(num_users, jnp.int32)
    )


def append_event(
    parts: ModelParts,
    params: Params,
    item_table: ItemTable,
    cache: EventCache,
    event: Event,
    *,
    v_y: Float[ArrayLike, "V1 E"] | None = None,
) -> tuple[Float[Array, "B D"], EventCache]:
    """One more event of each user; see `SequenceModel.append`.

    Raises:
      ConfigError: events cannot be appended to this model, or it is conditioned on a target behaviour and none is
        given.
    """
    _check_appendable(parts)
    assert parts.encoder.append is not None
    where = jnp.ones_like(cache.num_events, dtype=bool) if event.where is None else event.where
    zeros = jnp.zeros_like(cache.num_events)[:, None]
    batch = Batch(
        item_ids=event.item_ids[:, None],
        behaviors=event.behaviors[:, None],
        timestamps=event.timestamps[:, None],
        positions=cache.num_events[:, None],
        segment_ids=where.astype(jnp.int32)[:, None],
        targets=zeros,
        weights=zeros.astype(jnp.float32),
        query_words=None if event.query_words is None else event.query_words[:, None],
    )
    vectors = input_item_vectors(parts, params, item_table, batch.item_ids, v_y)
    event_vectors = parts.events.event_vectors(
        params["events"], vectors, batch, previous_timestamps=cache.last_timestamps
    )
    states, encoder_cache = parts.encoder.append(params["encoder"], cache.encoder, event_vectors[:, 0], batch)
    v_x = condition_on_behavior(parts, params, states, event.target_behaviors)
    last_timestamps = jnp.where(where, event.timestamps, cache.last_timestamps)
    return v_x, EventCache(encoder_cache, cache.num_events + where.astype(jnp.int32), last_timestamps)


def _check_appendable(parts: ModelParts) -> None:
    if parts.encoder.append is None or parts.encoder.start is None:
        raise ConfigError(f"events cannot be appended with encoder {parts.config.encoder.kind}; encode whole sequences")
    if parts.config.events.position_from_end:
        raise ConfigError(
            "events cannot be appended with events.position_from_end, since each would move the others; encode whole "
            "sequences"
        )
