"""Histories as they were at a moment, against a loop."""

import numpy as np
import pytest

from seqrec_jax.data.moments import histories_before, histories_before_events
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError


def sequences(lengths, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    times = np.concatenate([np.sort(rng.integers(1_700_000_000, 1_700_000_020, n)) for n in lengths]).astype(np.int64)
    count = int(offsets[-1])
    return Sequences(
        user_ids=np.array([f"u{n}" for n in range(len(lengths))], dtype=object),
        offsets=offsets,
        item_ids=rng.integers(1, 9, count).astype(np.int32),
        timestamps=times,
        behaviors=np.zeros(count, np.int8),
        values=rng.random(count).astype(np.float32),
    )


@pytest.mark.parametrize("length", [None, 3])
def test_events_before_a_moment_as_a_loop_finds_them(length):
    log = sequences([5, 0, 12, 1])
    rng = np.random.default_rng(1)
    users = rng.integers(-1, 4, 200)
    times = rng.integers(1_699_999_990, 1_700_000_030, 200)
    found = histories_before(log, users, times, length=length)
    for place, (user, time) in enumerate(zip(users, times, strict=True)):
        events = [
            event for event in range(*log.offsets[user : user + 2]) if log.timestamps[event] < time
        ] if user >= 0 else []  # fmt: skip
        events = events[-length:] if length else events
        part = slice(found.offsets[place], found.offsets[place + 1])
        np.testing.assert_array_equal(found.item_ids[part], log.item_ids[events])
        np.testing.assert_array_equal(found.values[part], log.values[events])
        assert found.user_ids[place] == (log.user_ids[user] if user >= 0 else "")


def test_moments_that_are_none():
    log = sequences([2])
    with pytest.raises(ShapeError, match=r"\[M\]"):
        histories_before(log, np.array([0]), np.array([1, 2]))
    with pytest.raises(ConfigError, match="length"):
        histories_before(log, np.array([0]), np.array([1]), length=0)


@pytest.mark.parametrize("length", [None, 3])
def test_events_before_an_event_as_a_loop_finds_them(length):
    log = sequences([5, 0, 12, 1])
    events = np.random.default_rng(1).integers(0, 18, 60)
    found = histories_before_events(log, events, length=length)
    for place, event in enumerate(events):
        user = int(log.users_of_events[event])
        before = np.arange(log.offsets[user], event)
        before = before[-length:] if length else before
        part = slice(found.offsets[place], found.offsets[place + 1])
        np.testing.assert_array_equal(found.values[part], log.values[before])
        assert found.user_ids[place] == log.user_ids[user]
    with pytest.raises(DataError, match="places 0 to 18, expected 0 to 17"):
        histories_before_events(log, np.array([0, 18]))
