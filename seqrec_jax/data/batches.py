"""Batches gathered on the device from flat event arrays; the only file of this room that imports jax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec_jax.data.sequences import Packing, Sequences, Windows, last_windows
from seqrec_jax.errors import DataError


class EventArrays(NamedTuple):
    """The events of a dataset on the device: `[N]` each.

    Attributes:
      item_ids: int32.
      behaviors: int32 codes.
      timestamps: int32 seconds since the dataset's first event.
    """

    item_ids: Int[Array, " N"]
    behaviors: Int[Array, " N"]
    timestamps: Int[Array, " N"]


class Rows(NamedTuple):
    """Windows laid into rows: `starts` and `lengths` `[B, M]` int32; length 0 is an empty slot."""

    starts: Int[Array, "B M"]
    lengths: Int[Array, "B M"]


class Batch(NamedTuple):
    """What an encoder and a loss see: `[B, L]` each.

    Attributes:
      item_ids: int32, 0 = padding or an event without item.
      behaviors: int32 codes.
      timestamps: int32 seconds since the dataset's first event.
      positions: int32, 0 at the first event of each segment.
      segment_ids: int32, 0 = padding; users that share a row have different ids.
      targets: int32 next item, 0 = none.
      weights: float32 weight of each target, 0 where there is none.
    """

    item_ids: Int[Array, "B L"]
    behaviors: Int[Array, "B L"]
    timestamps: Int[Array, "B L"]
    positions: Int[Array, "B L"]
    segment_ids: Int[Array, "B L"]
    targets: Int[Array, "B L"]
    weights: Float[Array, "B L"]


def event_arrays(sequences: Sequences, *, first_timestamp: int) -> EventArrays:
    """The flat arrays of `sequences` as int32 device arrays, times counted from `first_timestamp`.

    Raises:
      DataError: more events than an int32 index reaches, or times that do not fit int32 seconds (68 years);
        both would wrap silently on the device.
    """
    if len(sequences.item_ids) > np.iinfo(np.int32).max:
        raise DataError(
            f"{len(sequences.item_ids):,} events do not fit on one device, whose int32 indices reach "
            f"{np.iinfo(np.int32).max:,}; train on a part of the log"
        )
    return EventArrays(
        jnp.asarray(sequences.item_ids, dtype=jnp.int32),
        jnp.asarray(sequences.behaviors, dtype=jnp.int32),
        jnp.asarray(_device_seconds(sequences.timestamps, first_timestamp)),
    )


def history_batch(histories: Sequences, *, length: int, first_timestamp: int) -> Batch:
    """The last `length` events of each user, one user a row, as NumPy arrays of one fixed shape.

    Args:
      histories: U users; those without events get a row of padding.
      length: L.
      first_timestamp: the dataset's first event in seconds.

    Returns:
      A batch `[U, L]` without targets, padding on the right.

    Raises:
      DataError: times that do not fit int32 seconds.
      ConfigError: length < 1.
    """
    windows = last_windows(histories, length=length)
    columns = np.arange(length, dtype=np.int32)[None, :]
    real = columns < windows.lengths[:, None]
    index = (windows.starts[:, None] + columns)[real]

    def padded(values: np.ndarray | int) -> Any:  # Any, since a batch may hold NumPy arrays as well
        rows = np.zeros(real.shape, dtype=np.int32)
        rows[real] = values
        return rows

    return Batch(
        item_ids=padded(histories.item_ids[index]),
        behaviors=padded(histories.behaviors[index]),
        timestamps=padded(_device_seconds(histories.timestamps[index], first_timestamp)),
        positions=padded(np.broadcast_to(columns, real.shape)[real]),
        segment_ids=padded(1),
        targets=padded(0),
        weights=padded(0).astype(np.float32),
    )


def shuffled_rows(windows: Windows, packing: Packing, key: jax.Array) -> Rows:
    """The rows of one epoch: windows of equal length change places, then whole rows do.

    Args:
      windows: W windows, as arrays on host or device.
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
    """Gather rows of windows into one `[B, L]` batch; usable under `jit`.

    Every input position's target is the event after it in the flat arrays, so a window for training must end
    before its user's last event.

    Args:
      events: `[N]` flat arrays.
      rows: B rows of at most M windows, the sum of a row's lengths at most L (what exceeds L is cut off).
      length: L, static.
      behavior_weights: `[H]` weight, not negative, of a target by its behaviour (0 = not a target); None for
        batches without targets, such as histories to encode.

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
    else:
        next_index = jnp.minimum(index + 1, events.item_ids.shape[0] - 1)
        targets = gather(events.item_ids, next_index)
        weights = jnp.where(targets > 0, behavior_weights[events.behaviors[next_index]], 0.0)
        targets = jnp.where(weights > 0, targets, 0)
    return Batch(
        item_ids=gather(events.item_ids, index),
        behaviors=gather(events.behaviors, index),
        timestamps=gather(events.timestamps, index),
        positions=positions,
        segment_ids=jnp.where(real, window + 1, 0),
        targets=targets,
        weights=weights,
    )


def _device_seconds(timestamps: np.ndarray, first_timestamp: int) -> np.ndarray:
    """`[N]` int32 seconds since the dataset's first event; DataError where they would wrap."""
    seconds = timestamps - first_timestamp
    limit = np.iinfo(np.int32).max
    if len(seconds) and not (-limit <= seconds.min() and seconds.max() <= limit):
        raise DataError(
            f"timestamps span {seconds.min()} to {seconds.max()} s from the dataset's first event, more than "
            "int32 holds (68 years); check for mixed units or clean out the outliers"
        )
    return seconds.astype(np.int32)
