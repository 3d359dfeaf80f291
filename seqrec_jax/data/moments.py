"""Histories of users before moments, or before events of theirs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.settings import check_value


def histories_before(
    sequences: Sequences,
    users: Int[np.ndarray, " M"],
    times: Int[np.ndarray, " M"],
    *,
    length: int | None = None,
) -> Sequences:
    """The events of a user before a moment, for each of M pairs of a user and a moment.

    Args:
      sequences: U users, each in order of time.
      users: `[M]` indices in 0…U-1, in any order and as often as needed; -1 for a user that `sequences` lacks, who
        has no events.
      times: `[M]` moments in seconds UTC; events of that second are left out.
      length: largest number of events, the last ones; None for all.

    Returns:
      M users, in the order of the pairs.

    Raises:
      ShapeError: users and times of different shapes.
      ConfigError: a length below 1.
    """
    users, times = np.asarray(users), np.asarray(times)
    if users.ndim != 1 or users.shape != times.shape:
        raise ShapeError(f"users have shape {users.shape} and times {times.shape}, expected [M] of both")
    first = int(sequences.timestamps.min(initial=0))
    span = int(sequences.timestamps.max(initial=first)) - first + 2
    # one number a user and second, so that one search finds all moments
    keys = sequences.users_of_events * span + (sequences.timestamps - first)
    ends = np.searchsorted(keys, users * span + np.clip(times - first, 0, span - 1))
    starts = sequences.offsets[users]
    return _ending(sequences, users, starts, np.maximum(ends, starts), length)


def histories_before_events(
    sequences: Sequences, events: Int[np.ndarray, " M"], *, length: int | None = None
) -> Sequences:
    """The events of the same user before an event, in the order of the log, for each of M events.

    Args:
      sequences: N events, each user's in order of time.
      events: `[M]` places of events in 0…N-1.
      length: largest number of events, the last ones; None for all.

    Returns:
      M users, in the order of `events`.

    Raises:
      DataError: a place beyond the events.
      ConfigError: a length below 1.
    """
    events = np.asarray(events)
    if len(events) and not (events.min() >= 0 and events.max() < len(sequences.item_ids)):
        raise DataError(
            f"events are at places {events.min()} to {events.max()}, expected 0 to {len(sequences.item_ids) - 1}"
        )
    users = np.searchsorted(sequences.offsets, events, side="right") - 1
    return _ending(sequences, users, sequences.offsets[users], events, length)


def _ending(
    sequences: Sequences, users: np.ndarray, starts: np.ndarray, ends: np.ndarray, length: int | None
) -> Sequences:
    """Users `[M]`, -1 for nobody, with the events from one place to before another, or the last so many of them."""
    check_value("length", length, "[1, inf)")
    ends = np.where(users < 0, starts, ends)
    if length is not None:
        starts = np.maximum(starts, ends - length)
    user_ids = np.where(users < 0, "", sequences.user_ids[users])
    return sequences.select_ranges(starts, ends - starts, user_ids=user_ids)
