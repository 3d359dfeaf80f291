"""What was known of a user at a moment, or when an event came: the events before it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError


def histories_before(
    sequences: Sequences,
    users: Int[np.ndarray, " M"],
    times: Int[np.ndarray, " M"],
    *,
    length: int | None = None,
) -> Sequences:
    """The events of each user that are earlier than a moment, the same user as often as asked.

    Args:
      sequences: U users, each in order of time.
      users: `[M]` places of users; -1 for one who is not there and has no events.
      times: `[M]` seconds; what happened in that very second is left out.
      length: of these the last so many; None for all.

    Returns:
      M users, in the order asked.

    Raises:
      ShapeError: users and times that are not one a moment.
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
    """What each event's user had before it in the order of the log, the same user as often as asked.

    Args:
      sequences: N events, each user's in order of time.
      events: `[M]` places of events.
      length: of those before it the last so many; None for all.

    Returns:
      M users, in the order asked.

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
    if length is not None and length < 1:
        raise ConfigError(f"length must be at least 1, got {length}")
    ends = np.where(users < 0, starts, ends)
    if length is not None:
        starts = np.maximum(starts, ends - length)
    user_ids = np.where(users < 0, "", sequences.user_ids[users])
    return sequences.select_ranges(starts, ends - starts, user_ids=user_ids)
