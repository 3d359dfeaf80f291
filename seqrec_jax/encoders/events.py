"""Event vectors, the inputs of an encoder: sums over item, behaviour, time, query and position."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqrec_jax.data.batches import Batch, positions_from_end
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.dropout import Keys, dropout
from seqrec_jax.encoders.layers import NUM_TIME_BUCKETS, embedding_init, time_buckets
from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike

NUM_TIME_GAPS = 1 + NUM_TIME_BUCKETS  # 0 for a segment's first event
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True)
class EventInputConfig:
    """The inputs that an event vector is the sum of.

    Attributes:
      item: the item's vector.
      behavior: an embedding of the behaviour type.
      time_gap: an embedding of the time since the user's previous event, in powers of two of a second.
      hour: an embedding of the hour of the day, UTC.
      weekday: an embedding of the day of the week, UTC.
      position: an embedding of the event's number in the user's sequence, counted from its start.
      position_from_end: an embedding of the number counted from the end, 0 for the last event. Events can then not be
        appended, since each one changes the number of all before it.
      query: the mean of an embedding of each word of the event's query, looked up by a hash of the word, so that words
        not seen in training have one too (an untrained one, or another word's); zeros for an event without query.
      query_buckets: number of rows of that embedding; words with the same hash share a row.
      scale_item: multiply the item's vector by the square root of D, as SASRec's authors do; without it training
        takes about twice as many epochs.
    """

    item: bool = True
    behavior: bool = False
    time_gap: bool = False
    hour: bool = False
    weekday: bool = False
    position: bool = True
    position_from_end: bool = False
    scale_item: bool = True
    query: bool = False
    query_buckets: Annotated[int, Interval("[1, inf)")] = 8192

    def __post_init__(self) -> None:
        check_fields(self, "events")
        if not (self.item or self.behavior or self.time_gap or self.hour or self.weekday or self.query):
            raise ConfigError("events: switch on at least one of item, behavior, time_gap, hour, weekday and query")


class EventInputs(NamedTuple):
    """Pure functions that make event vectors.

    Attributes:
      init: `init(key) -> params`.
      event_vectors: `event_vectors(params, item_vectors [B, L, E], batch, *, previous_timestamps=None, key=None) ->
        [B, L, D]`, zeros at padding. `item_vectors` may be None if items are not an input. `previous_timestamps` `[B]`
        int32 are the times of the events before the first column, if a row continues a user's earlier events. `key`
        is one typed key, or `[B]` typed keys, for dropout; None switches it off.
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
    with_mask: bool = False,
) -> EventInputs:
    """Event vectors as the sum of the inputs that the config switches on, then dropout.

    Args:
      config: the inputs.
      item_width: E; if it differs from D, a linear map projects item vectors to width D.
      width: D.
      max_length: number of learned positions; later positions share the last one.
      num_behaviors: H, number of behaviour codes.
      dropout_rate: share of entries set to zero in training.
      with_mask: an event in `batch.masked` is represented by a learned mask vector and its position alone.
    """
    tables = {
        "behaviors": (config.behavior, num_behaviors),
        "time_gaps": (config.time_gap, NUM_TIME_GAPS),
        "positions": (config.position, max_length),
        "hours": (config.hour, 24),
        "weekdays": (config.weekday, 7),
        "positions_from_end": (config.position_from_end, max_length),
        "marks": (with_mask, 1),
        "query_words": (config.query, config.query_buckets),
    }
    sizes = {name: size for name, (used, size) in tables.items() if used}
    project_items = config.item and item_width != width

    def init(key: PRNGKeyArray) -> Params:
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
        previous_timestamps: Int[ArrayLike, " B"] | None = None,
        key: Keys | None = None,
    ) -> Float[Array, "B L D"]:
        content: list[Array] = []
        if config.item and item_vectors is not None:
            vectors = item_vectors @ params["items"]["kernel"] if project_items else item_vectors
            content.append(vectors * width**0.5 if config.scale_item else vectors)
        if config.behavior:
            content.append(params["behaviors"][batch.behaviors])
        if config.time_gap:
            content.append(params["time_gaps"][time_gap_buckets(batch, previous_timestamps)])
        if config.hour:
            content.append(params["hours"][batch.timestamps // SECONDS_PER_HOUR % 24])
        if config.weekday:
            content.append(params["weekdays"][batch.timestamps // SECONDS_PER_DAY % 7])
        if config.query:
            words = jnp.zeros((*batch.item_ids.shape, 1), jnp.int32) if batch.query_words is None else batch.query_words
            content.append(mean_of_words(params["query_words"], words))
        total = functools.reduce(jnp.add, content)
        if with_mask and batch.masked is not None:
            total = jnp.where(batch.masked[..., None], params["marks"][0], total)
        if config.position:
            total = total + params["positions"][jnp.minimum(batch.positions, max_length - 1)]
        if config.position_from_end:
            total = total + params["positions_from_end"][jnp.minimum(positions_from_end(batch), max_length - 1)]
        total = dropout(total, rate=dropout_rate, site="events", key=key)
        return jnp.where((batch.segment_ids > 0)[..., None], total, 0.0)

    return EventInputs(init, event_vectors)


def mean_of_words(table: Float[ArrayLike, "R D"], words: Int[ArrayLike, "*B W"]) -> Float[Array, "*B D"]:
    """The mean of the rows `word mod R` of the words; zeros if there is no word.

    Args:
      table: `[R, D]` float.
      words: `[*B, W]` int32 hashes, 0 = no word.

    Returns:
      `[*B, D]` in the table's dtype.

    >>> mean_of_words(jnp.array([[1.0], [3.0]]), jnp.array([[2, 3, 0], [0, 0, 0]]))
    Array([[2.],
           [0.]], dtype=float32)
    """
    real = words > 0
    rows = jnp.where(real[..., None], table[words % table.shape[0]], 0.0)
    return jnp.sum(rows, axis=-2) / jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1).astype(table.dtype)


def time_gap_buckets(batch: Batch, previous_timestamps: Int[ArrayLike, " B"] | None = None) -> Int[Array, "B L"]:
    """Bucket of the seconds since the segment's previous event: `1 + floor(log2(1 + gap))`, 0 for its first.

    Args:
      batch: its timestamps and positions are used.
      previous_timestamps: `[B]` int32 time of the event before the first column; not used if its position is 0. None
        if every row starts a segment.

    Returns:
      `[B, L]` int32 in [0, 32].
    """
    previous = jnp.roll(batch.timestamps, 1, axis=1)
    if previous_timestamps is not None:
        previous = previous.at[:, 0].set(previous_timestamps)
    return jnp.where(batch.positions == 0, 0, 1 + time_buckets(batch.timestamps - previous))
