"""Features of time, behaviour and histories, vectorised over a whole log, as dense arrays for models outside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError
from seqrec_jax.settings import check_value

TIME_COLUMNS = (
    "hour_sin", "hour_cos", "day_of_month_sin", "day_of_month_cos", "day_of_week_sin", "day_of_week_cos",
    "month_sin", "month_cos", "is_weekend",
)  # fmt: skip


class TimeFeatures(NamedTuple):
    """Calendar numbers of N times in UTC, `[N]` int32 each.

    Attributes:
      hour: 0 to 23.
      day_of_month: 1 to 31.
      day_of_week: 0 (Monday) to 6 (Sunday).
      month: 1 to 12.
      is_weekend: 1 on Saturday and Sunday, else 0.
    """

    hour: np.ndarray
    day_of_month: np.ndarray
    day_of_week: np.ndarray
    month: np.ndarray
    is_weekend: np.ndarray


def time_features(timestamps: Int[np.ndarray, " N"]) -> TimeFeatures:
    """The calendar numbers of times.

    Args:
      timestamps: `[N]` integer seconds UTC.

    Returns:
      Hour, day of the month, day of the week, month and weekend of each.

    Raises:
      DataError: timestamps that are not integers.

    >>> [int(feature[0]) for feature in time_features(np.array([951_782_400 + 7_200]))]  # Tuesday, 2000-02-29
    [2, 29, 1, 2, 0]
    """
    timestamps = np.asarray(timestamps)
    if not np.issubdtype(timestamps.dtype, np.integer):
        raise DataError(f"timestamps must be integer seconds UTC, got dtype {timestamps.dtype}; convert them first")
    moments = timestamps.astype(np.int64).astype("datetime64[s]")
    days = moments.astype("datetime64[D]")
    months = moments.astype("datetime64[M]")
    # 1970-01-01 was a Thursday, which is 3 from Monday
    day_of_week = ((days.astype(np.int64) + 3) % 7).astype(np.int32)
    return TimeFeatures(
        hour=(moments - days).astype(np.int64).astype(np.int32) // 3600,
        day_of_month=(days - months).astype(np.int32) + 1,
        day_of_week=day_of_week,
        month=(months.astype(np.int64) % 12).astype(np.int32) + 1,
        is_weekend=(day_of_week >= 5).astype(np.int32),
    )


def cyclic_encoding(values: Int[np.ndarray, " N"], *, period: float) -> Float[np.ndarray, "N 2"]:
    """Sine and cosine of `2π · values / period`, so that the last value lies beside the first.

    Args:
      values: `[N]` numbers, 0 at the start of the cycle.
      period: length of the cycle in the unit of `values`.

    Returns:
      `[N, 2]` float32, sine then cosine.

    Raises:
      ConfigError: a period that is not positive.

    >>> cyclic_encoding(np.array([0, 6]), period=24).round(6)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """
    check_value("period", period, "(0, inf)")
    angles = 2 * np.pi * np.asarray(values, dtype=np.float64) / period
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def time_feature_array(timestamps: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N 9"]:
    """All time features as floats: cyclic hour, day of month, day of week and month, and the weekend.

    Args:
      timestamps: `[N]` integer seconds UTC.

    Returns:
      `[N, 9]` float32, the columns in the order of `TIME_COLUMNS`; the period of the day of the month is 31.

    Raises:
      DataError: timestamps that are not integers.
    """
    features = time_features(timestamps)
    return np.concatenate(
        [
            cyclic_encoding(features.hour, period=24),
            cyclic_encoding(features.day_of_month - 1, period=31),
            cyclic_encoding(features.day_of_week, period=7),
            cyclic_encoding(features.month - 1, period=12),
            features.is_weekend.astype(np.float32)[:, None],
        ],
        axis=1,
    )


def time_gaps(sequences: Sequences) -> Int[np.ndarray, " N"]:
    """`[N]` int64 seconds since the user's event before, 0 for the first.

    In a log with an order but no times, they are steps of its running index.
    """
    gaps = np.diff(sequences.timestamps, prepend=sequences.timestamps[:1])
    gaps[sequences.offsets[:-1][sequences.lengths > 0]] = 0
    return gaps


def one_hot(ids: Int[np.ndarray, "*B"], *, depth: int) -> Float[np.ndarray, "*B depth"]:
    """A 1 in the column of each id, 0 included.

    Args:
      ids: `[*B]` integers in 0…depth-1.
      depth: number of columns; V + 1 for item ids.

    Returns:
      `[*B, depth]` float32.

    Raises:
      DataError: an id outside 0…depth-1.

    >>> one_hot(np.array([2, 0]), depth=3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    ids = _checked_ids(ids, depth)
    encoded = np.zeros((*ids.shape, depth), dtype=np.float32)
    np.put_along_axis(encoded, ids[..., None], 1.0, axis=-1)
    return encoded


def multi_hot(ids: Int[np.ndarray, "*B M"], *, depth: int) -> Float[np.ndarray, "*B depth"]:
    """A 1 in the column of every id of a row; 0 is padding and sets nothing, so column 0 stays empty.

    Args:
      ids: `[*B, M]` integers in 0…depth-1.
      depth: number of columns.

    Returns:
      `[*B, depth]` float32.

    Raises:
      DataError: an id outside 0…depth-1.

    >>> multi_hot(np.array([[2, 1, 2], [1, 0, 0]]), depth=4)
    array([[0., 1., 1., 0.],
           [0., 1., 0., 0.]], dtype=float32)
    """
    ids = _checked_ids(ids, depth)
    encoded = np.zeros((*ids.shape[:-1], depth), dtype=np.float32)
    np.put_along_axis(encoded, ids, 1.0, axis=-1)
    encoded[..., 0] = 0.0
    return encoded


def bag_of_items(sequences: Sequences, *, num_items: int) -> Float[np.ndarray, "U V1"]:
    """The number of events of each user on each item, as one dense table.

    Args:
      sequences: U users.
      num_items: V.

    Returns:
      `[U, V+1]` float32 counts; events without item are not counted, so column 0 is 0.

    Raises:
      DataError: an item id outside 0…V.
    """
    ids = _checked_ids(sequences.item_ids, num_items + 1)
    cells = sequences.users_of_events * (num_items + 1) + ids
    counts = np.bincount(cells, minlength=sequences.num_users * (num_items + 1))
    bag = counts.reshape(sequences.num_users, num_items + 1).astype(np.float32)
    bag[:, 0] = 0.0
    return bag


def behavior_one_hot(sequences: Sequences, *, num_behaviors: int) -> Float[np.ndarray, "N H"]:
    """`[N, H]` float32 one-hot of each event's behaviour code.

    Args:
      sequences: N events.
      num_behaviors: H.

    Raises:
      DataError: a code outside 0…H-1.
    """
    return one_hot(sequences.behaviors, depth=num_behaviors)


def _checked_ids(ids: np.ndarray, depth: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < depth):
        raise DataError(f"ids run from {ids.min()} to {ids.max()}, expected 0 to {depth - 1}")
    return ids.astype(np.int64)
