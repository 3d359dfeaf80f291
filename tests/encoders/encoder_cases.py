"""Batches for the tests of encoders, from the segments that share their rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from seqrec_jax.data.batches import Batch


def make_batch(segment_ids, positions=None, timestamps=None) -> Batch:
    """A batch of the given segments: by default runs of equal ids, counted from 0, with times of their own."""
    if positions is None:
        ids, positions = np.asarray(segment_ids), np.zeros(np.shape(segment_ids), dtype=np.int32)
        for row, column in np.ndindex(ids.shape):
            if column and ids[row, column] == ids[row, column - 1] != 0:
                positions[row, column] = positions[row, column - 1] + 1
    segments, positions = (jnp.asarray(array, dtype=jnp.int32) for array in (segment_ids, positions))
    timestamps = 1000 * segments + 7 * positions**3 if timestamps is None else jnp.asarray(timestamps, dtype=jnp.int32)
    zeros = jnp.zeros(segments.shape, jnp.int32)
    return Batch(zeros, zeros, timestamps, positions, segments, zeros, jnp.zeros(segments.shape, jnp.float32))
