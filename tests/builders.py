"""Small inputs that several test files share."""

from __future__ import annotations

import numpy as np

from seqrec_jax.data.sequences import Sequences


def make_sequences(lists, *, timestamps=None, behaviors=None):
    """Users u0, u1, … with the given item ids."""
    lengths = [len(items) for items in lists]
    num_events = sum(lengths)
    return Sequences(
        user_ids=np.array([f"u{u}" for u in range(len(lists))]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=np.array([item for items in lists for item in items], dtype=np.int32),
        timestamps=np.arange(num_events) if timestamps is None else np.array(timestamps, dtype=np.int64),
        behaviors=np.array(behaviors if behaviors is not None else [0] * num_events, dtype=np.int8),
        values=np.full(num_events, np.nan, dtype=np.float32),
    )
