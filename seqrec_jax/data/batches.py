"""Batches gathered on the device from flat event arrays; the only file of this room that imports jax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from seqrec_jax.data.queries import query_words
from seqrec_jax.data.sequences import Packing, Sequences, Windows, last_windows
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import DataError

SECONDS_PER_WEEK = 7 * SECONDS_PER_DAY
# 1970-01-05; times on the device count from a Monday, so that they tell hour and weekday
FIRST_MONDAY = 4 * SECONDS_PER_DAY


class EventArrays(NamedTuple):
    """The events of a dataset on the device: `[N]` each.

    Attributes:
      item_ids: int32.
      behaviors: int32 codes.
      timestamps: int32 seconds since the Monday, 00:00 UTC, on or before the dataset's first event.
      query_ids: int32 row of `query_words`, 0 = no query; None for a log without queries.
      query_words: `[Q+1, W]` int32 hashes of the words of each query, see `queries.query_words`; None for a log without
        queries.
    """

    item_ids: Int[Array, " N"]
    behaviors: Int[Array, " N"]
    timestamps: Int[Array, " N"]
    query_ids: Int[Array, " N"] | None = None
    query_words: Int[Array, "Q1 W"] | None = None


class Rows(NamedTuple):
    """Windows laid into rows: `starts` and `lengths` `[B, M]` int32; length 0 is an empty slot."""

    starts: Int[Array, "B M"]
    lengths: Int[Array, "B M"]


class Batch(NamedTuple):
    """The input of an encoder and the targets of a loss: `[B, L]` each.

    Attributes:
      item_ids: int32, 0 = padding or an event without item.
      behaviors: int32 codes.
      timestamps: int32 seconds since the Monday, 00:00 UTC, on or before the dataset's first event.
      positions: int32, 0 at the first event of each segment.
      segment_ids: int32, 0 = padding; users that share a row have different ids.
      targets: int32 next item, 0 = none.
      weights: float32 weight of each target, 0 where there is none.
      masked: bool, True for events that are hidden from the encoder; None if none are.
      target_behaviors: int32 code of the target behaviour at each position; None if the batch names none.
      query_words: `[B, L, W]` int32 hashes of the words of each event's query, see `queries.query_words`; None for a
        log without queries.
      item_tokens: `[B, L, T]` int32 tokens + 1 of the text of each event's item, 0 after its end; None if no encoder
        reads them.
    """

    item_ids: Int[Array, "B L"]
    behaviors: Int[Array, "B L"]
    timestamps: Int[Array, "B L"]
    positions: Int[Array, "B L"]
    segment_ids: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]
    masked: Bool[Array, "B L"] | None = None
    target_behaviors: Int[Array, "B L"] | None = None
    query_words: Int[Array, "B L W"] | None = None
    item_tokens: Int[Array, "B L T"] | None = None


def event_arrays(
    sequences: Sequences, *, first_timestamp: int, index: Int[np.ndarray, " N"] | None = None
) -> EventArrays:
    """The flat arrays of `sequences` as int32 device arrays, times counted from the Monday before `first_timestamp`.

    Args:
      sequences: the events.
      first_timestamp: time of the dataset's first event, seconds UTC.
      index: `[N]` places of the events to take, in this order; None means all.

    Returns:
      The arrays `[N]` on the default device.

    Raises:
      DataError: more events than an int32 index reaches, or times that do not fit int32 seconds (68 years);
        both would wrap silently on the device.
    """
    arrays = sequences.item_ids, sequences.behaviors, sequences.timestamps
    item_ids, behaviors, timestamps = arrays if index is None else (array[index] for array in arrays)
    if len(item_ids) > np.iinfo(np.int32).max:
        raise DataError(
            f"{len(item_ids):,} events do not fit on one device, whose int32 indices reach "
            f"{np.iinfo(np.int32).max:,}; set training.stream_batches, so that they go there piece by piece"
        )
    events = EventArrays(
        jnp.asarray(item_ids, dtype=jnp.int32),
        jnp.asarray(behaviors, dtype=jnp.int32),
        jnp.asarray(device_seconds(timestamps, first_timestamp)),
    )
    if sequences.query_ids is None or sequences.queries is None:
        return events
    query_ids = sequences.query_ids if index is None else sequences.query_ids[index]
    return events._replace(
        query_ids=jnp.asarray(query_ids, dtype=jnp.int32), query_words=jnp.asarray(query_words(sequences.queries))
    )


def history_batch(
    histories: Sequences,
    *,
    length: int,
    first_timestamp: int,
    masked_end: bool = False,
    target_behavior: int | None = None,
) -> Batch:
    """The last `length` events of each user, one user a row, as NumPy arrays of one fixed shape.

    Args:
      histories: U users; a user without events gets a row of padding.
      length: L.
      first_timestamp: time of the dataset's first event, seconds UTC.
      masked_end: whether a row holds the last L-1 events and a masked one after them, for an encoder that predicts
        masked events.
      target_behavior: code of the target behaviour; None if the batch names none.

    Returns:
      A batch `[U, L]` without targets, padding on the right.

    Raises:
      DataError: times that do not fit int32 seconds.
      ConfigError: length < 1, or < 2 with a masked end.
    """
    windows = last_windows(histories, length=length - masked_end)
    columns = np.arange(length, dtype=np.int32)[None, :]
    lengths = windows.lengths[:, None]
    real = columns < lengths
    index = (windows.starts[:, None] + columns)[real]

    def padded(values: np.ndarray) -> Any:  # Any, here and below, since a batch may hold NumPy arrays as well
        rows = np.zeros((*real.shape, *values.shape[1:]), dtype=np.int32)
        rows[real] = values
        return rows

    masked: Any = (columns == lengths) & (lengths > 0) if masked_end else None
    seen: Any = real | masked if masked_end else real
    zeros: Any = np.zeros(real.shape, dtype=np.int32)
    target_behaviors: Any = None if target_behavior is None else np.full(real.shape, target_behavior, dtype=np.int32)
    words: Any = None
    if histories.query_ids is not None and histories.queries is not None:
        words = padded(query_words(histories.queries[histories.query_ids[index]]))
    return Batch(
        item_ids=padded(histories.item_ids[index]),
        behaviors=padded(histories.behaviors[index]),
        timestamps=padded(device_seconds(histories.timestamps[index], first_timestamp)),
        positions=seen * columns,
        segment_ids=seen.astype(np.int32),
        targets=zeros,
        weights=zeros.astype(np.float32),
        masked=masked,
        target_behaviors=target_behaviors,
        query_words=words,
    )


def shuffled_rows(windows: Windows, packing: Packing, key: jax.Array) -> Rows:
    """The rows of one epoch in random order: windows of equal length are permuted, then whole rows.

    Args:
      windows: W windows, as NumPy or JAX arrays.
      packing: `[R, M]` slots.
      key: PRNG key, consumed.

    Returns:
      R rows in a new order.
    """
    window_key, row_key = jax.random.split(key)
    window_lengths = jnp.asarray(windows.lengths, dtype=jnp.int32)
    noise = jax.random.uniform(window_key, window_lengths.shape)
    order = jnp.lexsort((noise, window_lengths))
    starts = jnp.asarray(windows.starts, dtype=jnp.int32)[order][jnp.asarray(packing.slot_ranks)]
    lengths = jnp.asarray(packing.lengths)
    row_order = jax.random.permutation(row_key, lengths.shape[0])
    return Rows(jnp.where(lengths > 0, starts, 0)[row_order], lengths[row_order])


def gather_batch(
    events: EventArrays, rows: Rows, *, length: int, behavior_weights: Float[Array, " H"] | None = None
) -> Batch:
    """One `[B, L]` batch of rows of windows, gathered from the flat arrays; usable under `jit`.

    Every input position's target is the event after it in the flat arrays, so a window for training must end
    before its user's last event.

    Args:
      events: `[N]` flat arrays.
      rows: B rows of at most M windows, the sum of a row's lengths at most L (what exceeds L is cut off).
      length: L, static.
      behavior_weights: `[H]` float32 weight, not negative, of a target by its behaviour (0 = not a target); None for a
        batch without targets and target behaviours, such as histories to encode.

    Returns:
      The batch; padding is on the right.
    """
    ends = jnp.cumsum(rows.lengths, axis=1)
    columns = jnp.arange(length, dtype=jnp.int32)
    # the number of windows that end at or before a column is the index of the window that covers it
    window = jnp.sum(columns[None, :, None] >= ends[:, None, :], axis=-1, dtype=jnp.int32)
    real = columns[None, :] < ends[:, -1:]
    window = jnp.minimum(window, rows.lengths.shape[1] - 1)
    begins = jnp.take_along_axis(ends - rows.lengths, window, axis=1)
    positions = jnp.where(real, columns[None, :] - begins, 0)
    index = jnp.where(real, jnp.take_along_axis(rows.starts, window, axis=1) + positions, 0)

    def gather(values: Array, at: Array) -> Array:
        return jnp.where(real, values[at], 0)

    if behavior_weights is None:
        targets = jnp.zeros_like(index)
        weights = jnp.zeros(index.shape, dtype=jnp.float32)
        target_behaviors = None
    else:
        next_index = jnp.minimum(index + 1, events.item_ids.shape[0] - 1)
        targets = gather(events.item_ids, next_index)
        target_behaviors = gather(events.behaviors, next_index)
        weights = jnp.where(targets > 0, behavior_weights[target_behaviors], 0.0)
        targets = jnp.where(weights > 0, targets, 0)
    words = None
    if events.query_ids is not None and events.query_words is not None:
        words = events.query_words[gather(events.query_ids, index)]  # row 0 has none
    return Batch(
        item_ids=gather(events.item_ids, index),
        behaviors=gather(events.behaviors, index),
        timestamps=gather(events.timestamps, index),
        positions=positions,
        segment_ids=jnp.where(real, window + 1, 0),
        targets=targets,
        weights=weights,
        target_behaviors=target_behaviors,
        query_words=words,
    )


def masked_batch(
    batch: Batch, *, rate: float, last_share: float, behavior_weights: Float[Array, " H"], row_keys: Key[Array, " B"]
) -> Batch:
    """A batch whose targets are masked events of its own, for a bidirectional encoder.

    In a segment either only the last event is masked, as when a list is made, or each event independently with
    probability `rate`, and at least one.

    Args:
      batch: `[B, L]` events.
      rate: probability of an event to be masked, 0 < rate < 1.
      last_share: share of the segments in which only the last event is masked.
      behavior_weights: `[H]` float32 weight, not negative, of a target by its behaviour (0 = not a target).
      row_keys: `[B]` keys, one a row, consumed.

    Returns:
      The batch with `masked` set, and targets, weights and target behaviours those of the masked events.

    Source:
      Sun et al. (2019), BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
      Transformer.
    """
    real = batch.segment_ids > 0
    length = real.shape[1]
    draws = jax.vmap(lambda key: jax.random.uniform(key, (3, length)))(row_keys)
    # the draws at a segment's first event decide for the whole segment
    first_columns = jnp.where(real, jnp.arange(length, dtype=jnp.int32)[None] - batch.positions, 0)
    last_only, chosen = (jnp.take_along_axis(draws[:, number], first_columns, axis=1) for number in (1, 2))
    from_end = positions_from_end(batch)
    lengths = (batch.positions + from_end + 1).astype(jnp.float32)
    at_least_one = batch.positions == jnp.floor(chosen * lengths).astype(jnp.int32)
    masked = real & jnp.where(last_only < last_share, from_end == 0, (draws[:, 0] < rate) | at_least_one)
    weights = jnp.where(masked & (batch.item_ids > 0), behavior_weights[batch.behaviors], 0.0)
    return batch._replace(
        masked=masked,
        targets=jnp.where(weights > 0, batch.item_ids, 0),
        weights=weights,
        target_behaviors=batch.behaviors,
    )


def positions_from_end(batch: Batch) -> Int[Array, "B L"]:
    """`[B, L]` int32 number of events of the same segment after each event; 0 for its last one and at padding."""
    segment_ids = batch.segment_ids
    columns = jnp.broadcast_to(jnp.arange(segment_ids.shape[1], dtype=jnp.int32), segment_ids.shape)
    is_last = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    last = jax.lax.cummin(jnp.where(is_last, columns, columns.shape[1]), axis=1, reverse=True)
    return jnp.where(segment_ids > 0, last - columns, 0)


def device_seconds(timestamps: Int[np.ndarray, " N"], first_timestamp: int) -> Int[np.ndarray, " N"]:
    """`[N]` int32 seconds since the Monday on or before `first_timestamp`, of int64 seconds UTC.

    Raises:
      DataError: times that do not fit int32 (68 years), which would wrap silently on the device.
    """
    seconds = timestamps - ((first_timestamp - FIRST_MONDAY) // SECONDS_PER_WEEK * SECONDS_PER_WEEK + FIRST_MONDAY)
    limit = np.iinfo(np.int32).max
    if len(seconds) and not (-limit <= seconds.min() and seconds.max() <= limit):
        raise DataError(
            f"timestamps span {timestamps.min() - first_timestamp} to {timestamps.max() - first_timestamp} s from the "
            "dataset's first event, more than int32 holds (68 years); check for mixed units or clean out the outliers"
        )
    return seconds.astype(np.int32)
