"""What was known of a user at a moment: the events before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, ShapeError


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
    if length is not None and length < 1:
        raise ConfigError(f"length must be at least 1, got {length}")
    first = int(sequences.timestamps.min(initial=0))
    span = int(sequences.timestamps.max(initial=first)) - first + 2
    # one number a user and second, so that one search finds all moments
    keys = sequences.users_of_events * span + (sequences.timestamps - first)
    ends = np.searchsorted(keys, users * span + np.clip(times - first, 0, span - 1))
    starts = sequences.offsets[users]
    ends = np.where(users < 0, starts, np.maximum(ends, starts))
    if length is not None:
        starts = np.maximum(starts, ends - length)
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return replace(
        sequences,
        user_ids=np.where(users < 0, "", sequences.user_ids[users]),
        offsets=offsets,
        item_ids=sequences.item_ids[events],
        timestamps=sequences.timestamps[events],
        behaviors=sequences.behaviors[events],
        values=sequences.values[events],
        query_ids=None if sequences.query_ids is None else sequences.query_ids[events],
    )
