"""Flat sequences, windows, padding and packing against plain loops and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from builders import make_sequences as sequences_of
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.sequences import (
    Sequences,
    last_windows,
    one_window_per_row,
    pack_windows,
    pad_sequences,
    sliding_windows,
)
from seqrec_jax.errors import ConfigError, DataError

FIELDS = ("item_ids", "timestamps", "behaviors", "values")
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def make_sequences(lengths: list[int]) -> Sequences:
    """Users of the given lengths; every event differs from every other in item, time and value."""
    places = np.arange(sum(lengths))
    return Sequences(
        user_ids=np.array([f"u{user}" for user in range(len(lengths))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=(places + 1).astype(np.int32),
        timestamps=places * 10,
        behaviors=(places % 3).astype(np.int8),
        values=(places / 4).astype(np.float32),
    )


def as_lists(sequences: Sequences) -> list[tuple[str, list[tuple]]]:
    """Per user its id and events, by the offsets alone."""
    events = list(zip(*(getattr(sequences, name).tolist() for name in FIELDS), strict=True))
    pairs = zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
    return [(user, events[a:b]) for user, (a, b) in zip(sequences.user_ids, pairs, strict=True)]


def same_dtypes(a: Sequences, b: Sequences) -> bool:
    return all(getattr(a, name).dtype == getattr(b, name).dtype for name in (*FIELDS, "offsets"))


def test_lengths_and_users_of_events():
    sequences = make_sequences([2, 0, 3])
    assert sequences.num_users == 3
    assert sequences.lengths.tolist() == [2, 0, 3]
    assert sequences.users_of_events.tolist() == [0, 0, 2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 2**16))
def test_select_events_equals_a_loop(lengths, seed):
    sequences = make_sequences(lengths)
    keep = np.random.default_rng(seed).random(sum(lengths)) < 0.5
    flags = iter(keep.tolist())
    expected = [(user, [event for event in events if next(flags)]) for user, events in as_lists(sequences)]
    found = sequences.select_events(keep)
    assert as_lists(found) == expected
    assert same_dtypes(found, sequences)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=LENGTHS)
def test_select_users_equals_a_loop_with_repeats_and_any_order(data, lengths):
    sequences = make_sequences(lengths)
    users = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10))
    found = sequences.select_users(np.array(users, dtype=np.int64))
    everyone = as_lists(sequences)
    assert as_lists(found) == [everyone[user] for user in users]
    assert same_dtypes(found, sequences)


def test_selecting_with_wrong_arrays_is_refused():
    sequences = make_sequences([2, 1])
    with pytest.raises(DataError, match=r"keep must be bool \(3,\), got bool \(2,\)"):
        sequences.select_events(np.array([True, False]))
    with pytest.raises(DataError, match=r"keep must be bool \(3,\), got int64 \(3,\)"):
        sequences.select_events(np.array([0, 1, 2]))
    with pytest.raises(DataError, match="user indices must be 0 to 1, got -1 to 0"):
        sequences.select_users(np.array([0, -1]))
    with pytest.raises(DataError, match="user indices must be 0 to 1, got 2 to 2"):
        sequences.select_users(np.array([2]))


PADDED = {
    ("right", "last"): [[2, 3, 4], [5, 0, 0], [0, 0, 0]],
    ("left", "last"): [[2, 3, 4], [0, 0, 5], [0, 0, 0]],
    ("right", "first"): [[1, 2, 3], [5, 0, 0], [0, 0, 0]],
    ("left", "first"): [[1, 2, 3], [0, 0, 5], [0, 0, 0]],
}


@pytest.mark.parametrize(("side", "keep"), PADDED)
def test_pad_sequences_by_hand(side, keep):
    padded = pad_sequences(make_sequences([4, 1, 0]), length=3, side=side, keep=keep)
    assert padded.tolist() == PADDED[side, keep]
    assert padded.dtype == np.int32


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 15), st.sampled_from(["left", "right"]), st.sampled_from(["first", "last"]))
def test_pad_sequences_equals_a_loop(lengths, length, side, keep):
    sequences = make_sequences(lengths)
    expected = []
    for _, events in as_lists(sequences):
        items = [event[0] for event in events]
        items = items[:length] if keep == "first" else items[max(0, len(items) - length) :]
        zeros = [0] * (length - len(items))
        expected.append(zeros + items if side == "left" else items + zeros)
    assert pad_sequences(sequences, length=length, side=side, keep=keep).tolist() == expected


def test_last_windows_by_hand():
    windows = last_windows(make_sequences([4, 0, 2]), length=3)
    assert windows.starts.tolist() == [1, 4, 4]
    assert windows.lengths.tolist() == [3, 0, 2]


@pytest.mark.parametrize(
    ("options", "starts", "lengths"),
    [
        ({}, [4, 1, 0, 7, 10], [3, 3, 1, 3, 2]),
        ({"stride": 2}, [4, 2, 0, 7, 10], [3, 3, 3, 3, 2]),
        ({"stride": 1, "drop_last": 1}, [3, 2, 1, 0, 7, 10], [3, 3, 3, 3, 2, 1]),
        ({"drop_last": 2}, [2, 0, 7], [3, 2, 1]),
        ({"drop_last": 7}, [], []),
    ],
)
def test_sliding_windows_by_hand(options, starts, lengths):
    # users of 7, 0, 3 and 2 events, which begin at 0, 7, 7 and 10
    windows = sliding_windows(make_sequences([7, 0, 3, 2]), length=3, **options)
    assert windows.starts.tolist() == starts
    assert windows.lengths.tolist() == lengths


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_sliding_windows_cover_every_event_and_end_where_they_should(lengths, length, stride, drop_last):
    stride = min(stride, length)
    sequences = make_sequences(lengths)
    windows = sliding_windows(sequences, length=length, stride=stride, drop_last=drop_last)
    expected = []
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        end = stop - drop_last
        while end > start:
            expected.append((max(start, end - length), end))
            if end - length <= start:
                break
            end -= stride
    found = list(zip(windows.starts, windows.starts + windows.lengths, strict=True))
    assert found == expected
    times_covered = np.zeros(sum(lengths), dtype=int)
    for start, end in found:
        times_covered[start:end] += 1
    places_from_end = np.repeat(sequences.offsets[1:], sequences.lengths) - np.arange(sum(lengths)) - 1
    np.testing.assert_array_equal(times_covered > 0, places_from_end >= drop_last)
    if stride == length:
        assert times_covered.max(initial=0) <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: sliding_windows(s, length=0), "length must be at least 1, got 0"),
        (lambda s: sliding_windows(s, length=3, stride=4), "stride must be between 1 and length = 3, got 4"),
        (lambda s: sliding_windows(s, length=3, stride=0), "stride must be between 1 and length = 3, got 0"),
        (lambda s: sliding_windows(s, length=3, drop_last=-1), "drop_last must be at least 0, got -1"),
        (lambda s: last_windows(s, length=-1), "length must be at least 1, got -1"),
        (lambda s: pad_sequences(s, length=0), "length must be at least 1, got 0"),
        (
            lambda s: pad_sequences(s, length=2, side="top"),
            "side must be one of left, right, got 'top'",
        ),
        (lambda s: pad_sequences(s, length=2, keep="best"), "keep must be one of first, last, got 'best'"),
        (lambda s: pack_windows(s.lengths, row_length=0), "row_length must be at least 1, got 0"),
        (lambda s: pack_windows(s.lengths, row_length=4, max_segments=0), "max_segments must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call(make_sequences([2, 1]))


@pytest.mark.parametrize("lengths", [[1, 5], [0, 4]])
def test_windows_that_no_row_can_hold_are_refused(lengths):
    with pytest.raises(DataError, match=f"window lengths must be 1 to 4, got {min(lengths)} to {max(lengths)}"):
        pack_windows(np.array(lengths), row_length=4)


def check_packing(lengths: np.ndarray, packing, *, row_length: int, max_segments: int) -> None:
    real = packing.lengths > 0
    assert packing.lengths.dtype == packing.slot_ranks.dtype == np.int32
    assert packing.lengths.sum(axis=1).max(initial=0) <= row_length
    assert real.sum(axis=1).max(initial=0) <= max_segments
    assert len(packing.lengths) == 0 or real.any(axis=1).all()
    # the ranks of the filled slots are all ranks, each once, and the window of that rank has the slot's length
    ranks = packing.slot_ranks[real]
    assert sorted(ranks.tolist()) == list(range(len(lengths)))
    np.testing.assert_array_equal(np.sort(lengths)[ranks], packing.lengths[real])
    assert not packing.slot_ranks[~real].any()


def rows_of_best_fit(lengths: np.ndarray, row_length: int) -> int:
    """Rows of best-fit decreasing, a window at a time."""
    rooms: list[int] = []
    for size in sorted(lengths.tolist(), reverse=True):
        fitting = [row for row, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= size
        else:
            rooms.append(row_length - size)
    return len(rooms)


def rows_of_first_fit(lengths: np.ndarray, row_length: int, max_segments: int) -> int:
    """Rows of first-fit decreasing, a window at a time."""
    rooms, counts = np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    for size in sorted(lengths.tolist(), reverse=True):
        fitting = np.flatnonzero((rooms >= size) & (counts < max_segments))
        if not len(fitting):
            rooms, counts = np.append(rooms, row_length), np.append(counts, 0)
            fitting = [len(rooms) - 1]
        rooms[fitting[0]] -= size
        counts[fitting[0]] += 1
    return len(rooms)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=60), st.integers(12, 20), st.integers(1, 6))
def test_packing_holds_every_window_once_and_rows_are_never_overfull(lengths, row_length, max_segments):
    lengths = np.array(lengths, dtype=np.int64)
    packing = pack_windows(lengths, row_length=row_length, max_segments=max_segments)
    check_packing(lengths, packing, row_length=row_length, max_segments=max_segments)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 15), max_size=60), st.integers(15, 25))
def test_packing_needs_as_many_rows_as_best_fit_decreasing(lengths, row_length):
    lengths = np.array(lengths, dtype=np.int64)
    packing = pack_windows(lengths, row_length=row_length, max_segments=row_length)
    # equal windows are placed together, which in one case of some thousands costs or saves a row
    assert abs(len(packing.lengths) - rows_of_best_fit(lengths, row_length)) <= 1


def test_packing_by_hand():
    # longest first into the fullest row with room: 4 goes to 6, not to 5, so that 3 and 2 fit beside the 5
    packing = pack_windows(np.array([2, 6, 3, 5, 4]), row_length=10)
    assert sorted(map(tuple, packing.lengths.tolist())) == [(5, 3, 2), (6, 4, 0)]
    packing = pack_windows(np.array([1, 1, 1, 1, 1]), row_length=5, max_segments=2)
    assert sorted(map(tuple, packing.lengths.tolist())) == [(1, 0), (1, 1), (1, 1)]


def test_one_window_per_row_by_hand():
    packing = one_window_per_row(np.array([3, 0, 2, 3]))
    assert packing.lengths.tolist() == [[3], [0], [2], [3]]
    assert packing.slot_ranks.tolist() == [[2], [0], [1], [3]]
    assert packing.lengths.dtype == packing.slot_ranks.dtype == np.int32


def test_packing_of_long_tailed_lengths_wastes_little_and_keeps_up_with_first_fit():
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 12, size=3000) + 2, 50)
    packing = pack_windows(lengths, row_length=50)
    check_packing(lengths, packing, row_length=50, max_segments=16)
    assert 1 - lengths.sum() / (50 * len(packing.lengths)) < 0.01
    assert len(packing.lengths) <= rows_of_first_fit(lengths, 50, 16)


@pytest.mark.parametrize(
    ("folder", "length", "padding"), [("amazon_beauty_s3rec", 50, 0.02), ("movielens_1m", 200, 0.005)]
)
def test_packing_of_real_lengths_wastes_little(shared_data, folder, length, padding):
    path = next(iter(sorted((shared_data / folder).glob("*.txt"))), None)
    if path is None:
        pytest.skip(f"no text file in {folder}")
    lines = path.read_text().splitlines()
    users, sizes = np.unique([line.split()[0] for line in lines], return_counts=True)
    if len(users) == len(lines):  # a user a line
        sizes = np.array([len(line.split()) - 1 for line in lines])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    nothing = np.zeros(offsets[-1], dtype=np.int32)
    sequences = Sequences(users.astype(object), offsets, nothing, nothing, nothing, nothing)
    lengths = sliding_windows(sequences, length=length, drop_last=1).lengths
    packing = pack_windows(lengths, row_length=length)
    check_packing(lengths, packing, row_length=length, max_segments=16)
    assert 1 - lengths.sum() / (length * len(packing.lengths)) < padding
    assert 1 - lengths.mean() / length > 10 * padding  # what it would be with one window a row
    assert len(packing.lengths) <= rows_of_first_fit(lengths, length, 16)


def test_contain_looks_up_items_of_users_in_any_order(monkeypatch):
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 9, size=rng.integers(0, 6)).tolist() for _ in range(40)]
    users, items = rng.integers(0, 40, 300), rng.integers(0, 12, 300)
    expected = [item in lists[user] for user, item in zip(users, items, strict=True)]
    for block in (1, 7, 2**16):
        monkeypatch.setattr("seqrec_jax.data.sequences._BLOCK_USERS", block)
        assert sequences_of(lists).contain(users, items).tolist() == expected
    assert sequences_of([]).contain(users[:0], items[:0]).tolist() == []
