"""Batches gathered from flat arrays against a NumPy loop; every event is seen once, the next one is its target."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.batches import (
    Batch,
    EventArrays,
    Rows,
    event_arrays,
    gather_batch,
    history_batch,
    masked_batch,
    positions_from_end,
    shuffled_rows,
)
from seqrec_jax.data.queries import query_words
from seqrec_jax.data.sequences import (
    Sequences,
    last_windows,
    one_window_per_row,
    pack_windows,
    sliding_windows,
)
from seqrec_jax.errors import ConfigError, DataError

FIRST = 1_600_041_600  # a Monday, 00:00 UTC
NUM_EVENTS, ROWS, SLOTS, LENGTH = 40, 6, 4, 12  # one shape, so that hypothesis compiles once
WEIGHTS = np.array([1.0, 0.0, 2.5], dtype=np.float32)


def make_sequences(lengths: list[int], *, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    count = sum(lengths)
    return Sequences(
        user_ids=np.array([f"u{user}" for user in range(len(lengths))], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=rng.integers(0, 9, count).astype(np.int32),
        timestamps=FIRST + np.arange(count, dtype=np.int64) * 60,
        behaviors=rng.integers(0, 3, count).astype(np.int8),
        values=np.full(count, np.nan, dtype=np.float32),
    )


def expected_batch(sequences: Sequences, rows, *, length: int, weights: np.ndarray | None) -> Batch:
    """One event after the other."""
    shape = (len(rows.lengths), length)
    names = [*Batch._fields[:7], *(["target_behaviors"] if weights is not None else [])]
    arrays = {name: np.zeros(shape, dtype=np.float32 if name == "weights" else np.int32) for name in names}
    batch = Batch(**arrays)
    for row in range(shape[0]):
        column = 0
        for slot, size in enumerate(np.asarray(rows.lengths[row])):
            for position in range(size):
                event = int(rows.starts[row, slot]) + position
                batch.item_ids[row, column] = sequences.item_ids[event]
                batch.behaviors[row, column] = sequences.behaviors[event]
                batch.timestamps[row, column] = sequences.timestamps[event] - FIRST
                batch.positions[row, column] = position
                batch.segment_ids[row, column] = slot + 1
                if weights is not None:
                    batch.target_behaviors[row, column] = sequences.behaviors[event + 1]
                    weight = weights[sequences.behaviors[event + 1]]
                    if sequences.item_ids[event + 1] > 0 and weight > 0:
                        batch.targets[row, column] = sequences.item_ids[event + 1]
                        batch.weights[row, column] = weight
                column += 1
    return batch


def assert_same(found: Batch, expected: Batch) -> None:
    for name, a, b in zip(Batch._fields, found, expected, strict=True):
        if a is None or b is None:
            assert a is b, name
            continue
        assert a.dtype == (np.float32 if name == "weights" else np.int32), name
        np.testing.assert_array_equal(a, b, err_msg=name)


def random_rows(seed: int) -> tuple[Sequences, Rows]:
    """Windows anywhere in the log but its last event, some slots empty, also before filled ones."""
    rng = np.random.default_rng(seed)
    sequences = make_sequences([NUM_EVENTS], seed=seed)
    lengths = np.zeros((ROWS, SLOTS), dtype=np.int32)
    for row in lengths:
        room = LENGTH
        for slot in range(SLOTS):
            row[slot] = rng.integers(0, room + 1) * (rng.random() < 0.7)
            room -= row[slot]
    starts = rng.integers(0, NUM_EVENTS - lengths)
    return sequences, Rows(np.where(lengths > 0, starts, 0).astype(np.int32), lengths)


@partial(jax.jit, static_argnames=("length", "with_targets"))
def gather(events: EventArrays, rows: Rows, *, length: int, with_targets: bool = True) -> Batch:
    return gather_batch(events, rows, length=length, behavior_weights=jnp.asarray(WEIGHTS) if with_targets else None)


shuffle = jax.jit(shuffled_rows)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), with_targets=st.booleans())
def test_gather_equals_a_loop(seed, with_targets):
    sequences, rows = random_rows(seed)
    found = gather(event_arrays(sequences, first_timestamp=FIRST), rows, length=LENGTH, with_targets=with_targets)
    weights = WEIGHTS if with_targets else None
    assert_same(found, expected_batch(sequences, rows, length=LENGTH, weights=weights))


def test_queries_are_gathered_as_their_words():
    plain = make_sequences([4, 3])
    texts = np.array(["", "red shoe", "hat"], dtype=object)
    sequences = replace(plain, query_ids=np.array([1, 0, 0, 2, 0, 2, 1], dtype=np.int32), queries=texts)
    words = query_words(texts)
    rows = Rows(np.array([[0, 4], [2, 0]], dtype=np.int32), np.array([[3, 2], [1, 0]], dtype=np.int32))
    found = gather(event_arrays(sequences, first_timestamp=FIRST), rows, length=6)
    expected = words[np.array([[1, 0, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0]])]
    np.testing.assert_array_equal(found.query_words, expected)
    index = np.array([3, 5, 6])  # a piece of the log on its own
    part = event_arrays(sequences, first_timestamp=FIRST, index=index)
    np.testing.assert_array_equal(part.query_words[part.query_ids], words[[2, 2, 1]])
    without = gather(event_arrays(plain, first_timestamp=FIRST), rows, length=6)
    assert without.query_words is None
    for name in Batch._fields[:7]:
        np.testing.assert_array_equal(getattr(found, name), getattr(without, name))
    histories = history_batch(sequences, length=3, first_timestamp=FIRST)
    np.testing.assert_array_equal(histories.query_words, words[np.array([[0, 0, 2], [0, 2, 1]])])


def test_gather_by_hand():
    sequences = Sequences(
        user_ids=np.array(["a", "b"], dtype=object),
        offsets=np.array([0, 4, 7]),
        item_ids=np.array([5, 6, 0, 7, 8, 9, 4], dtype=np.int32),
        timestamps=FIRST + np.array([0, 10, 20, 30, 5, 6, 7]),
        behaviors=np.array([0, 0, 1, 2, 0, 1, 2], dtype=np.int8),
        values=np.full(7, np.nan, dtype=np.float32),
    )
    rows = Rows(jnp.array([[0, 4]]), jnp.array([[3, 2]]))
    batch = gather_batch(
        event_arrays(sequences, first_timestamp=FIRST),
        rows,
        length=6,
        behavior_weights=jnp.array([1.0, 0.0, 0.5]),
    )
    assert batch.item_ids.tolist() == [[5, 6, 0, 8, 9, 0]]
    assert batch.behaviors.tolist() == [[0, 0, 1, 0, 1, 0]]
    assert batch.timestamps.tolist() == [[0, 10, 20, 5, 6, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2, 0]]
    # the search (no item) and the event of behaviour 1 are no targets; the last of each user is one
    assert batch.targets.tolist() == [[6, 0, 7, 0, 4, 0]]
    assert batch.weights.tolist() == [[1.0, 0.0, 0.5, 0.0, 0.5, 0.0]]
    assert batch.target_behaviors.tolist() == [[0, 1, 2, 1, 2, 0]]


def test_device_times_count_from_the_monday_before_the_first_event():
    sequences = make_sequences([3])
    friday = FIRST + 4 * 86_400 + 3_601  # a minute past one o'clock
    found = event_arrays(sequences, first_timestamp=friday)
    np.testing.assert_array_equal(found.timestamps, sequences.timestamps - FIRST)
    batch = history_batch(sequences, length=3, first_timestamp=friday)
    np.testing.assert_array_equal(batch.timestamps[0], sequences.timestamps - FIRST)
    assert event_arrays(sequences, first_timestamp=FIRST).timestamps[0] == 0
    assert event_arrays(sequences, first_timestamp=FIRST - 1).timestamps[0] == 7 * 86_400


def test_a_masked_end_stands_after_the_last_events():
    sequences = make_sequences([5, 0, 1])
    batch = history_batch(sequences, length=4, first_timestamp=FIRST, masked_end=True, target_behavior=2)
    assert batch.masked.tolist() == [[False, False, False, True], [False] * 4, [False, True, False, False]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert batch.item_ids[0].tolist() == [*sequences.item_ids[2:5], 0]
    assert (batch.target_behaviors == 2).all()
    assert batch.masked.dtype == bool


def packed_batch(rows: int) -> Batch:
    """Segments of 1, 4 and 7 events in each row, then padding."""
    sequences = make_sequences([12 * rows + 1])
    lengths = np.tile(np.array([1, 4, 7], dtype=np.int32), (rows, 1))
    starts = np.arange(rows)[:, None] * 12 + np.array([0, 1, 5])
    events = event_arrays(sequences, first_timestamp=FIRST)
    return gather_batch(events, Rows(jnp.asarray(starts, jnp.int32), jnp.asarray(lengths)), length=14)


def mask(batch: Batch, *, rate: float, last_share: float, seed: int = 0) -> Batch:
    keys = jax.random.split(jax.random.key(seed), len(batch.item_ids))
    masked = jax.jit(partial(masked_batch, rate=rate, last_share=last_share))
    return masked(batch, behavior_weights=jnp.asarray(WEIGHTS), row_keys=keys)


def test_masked_events_are_the_targets():
    batch = packed_batch(200)
    found = mask(batch, rate=0.3, last_share=0.25)
    for segment in (1, 2, 3):
        assert (found.masked & (found.segment_ids == segment)).sum(axis=1).min() >= 1
    assert not found.masked[:, 12:].any()
    weights = WEIGHTS[np.asarray(batch.behaviors)]
    usable = np.asarray(found.masked) & (np.asarray(batch.item_ids) > 0) & (weights > 0)
    np.testing.assert_array_equal(found.targets, np.where(usable, batch.item_ids, 0))
    np.testing.assert_array_equal(found.weights, np.where(usable, weights, 0.0))
    np.testing.assert_array_equal(found.target_behaviors, batch.behaviors)
    np.testing.assert_array_equal(found.item_ids, batch.item_ids)  # the encoder is told by `masked`


def test_masks_have_the_shares_that_were_asked_for():
    batch = packed_batch(4000)
    only_last = np.asarray(mask(batch, rate=0.3, last_share=1.0).masked)
    np.testing.assert_array_equal(only_last, np.asarray(positions_from_end(batch) == 0) & (batch.segment_ids > 0))
    masked = np.asarray(mask(batch, rate=0.3, last_share=0.0).masked)[:, 5:12]
    # each of 7 events by itself, or as the one that surely is: 1 - 0.7 * 6/7
    np.testing.assert_allclose(masked.mean(axis=0), 0.4, atol=0.03)
    other = np.asarray(mask(batch, rate=0.3, last_share=0.0, seed=1).masked)[:, 5:12]
    assert (masked != other).any(axis=1).mean() > 0.8


def test_positions_from_the_end_by_hand():
    batch = gather_batch(
        event_arrays(make_sequences([9]), first_timestamp=FIRST),
        Rows(jnp.array([[0, 4]]), jnp.array([[3, 2]])),
        length=6,
    )
    assert positions_from_end(batch).tolist() == [[2, 1, 0, 1, 0, 0]]


def test_eager_jit_vmap_and_pmap_agree():
    pairs = [random_rows(seed) for seed in range(8)]
    events = event_arrays(pairs[0][0], first_timestamp=FIRST)
    rows = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(rows for _, rows in pairs))

    def batch_of(rows: Rows) -> Batch:
        return gather_batch(events, rows, length=LENGTH, behavior_weights=jnp.asarray(WEIGHTS))

    eager = [batch_of(jax.tree.map(lambda leaf, i=i: leaf[i], rows)) for i in range(8)]
    assert_same(jax.jit(batch_of)(jax.tree.map(lambda leaf: leaf[0], rows)), eager[0])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *eager)
    assert_same(jax.jit(jax.vmap(batch_of))(rows), stacked)
    assert_same(jax.block_until_ready(jax.pmap(batch_of)(rows)), stacked)


def test_a_window_longer_than_the_row_is_cut_off():
    sequences = make_sequences([10])
    rows = Rows(jnp.array([[1, 2]]), jnp.array([[3, 4]]))
    batch = gather_batch(event_arrays(sequences, first_timestamp=FIRST), rows, length=5)
    assert batch.item_ids.tolist() == [sequences.item_ids[[1, 2, 3, 2, 3]].tolist()]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2]]


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_asks_every_event_for_the_next_one_of_the_same_user_once(packed):
    lengths = [0, 1, 2, 9, 23, 3, 3, 12, 1, 5, 5, 5]
    sequences = make_sequences(lengths)
    sequences.item_ids[:] = np.arange(len(sequences.item_ids)) + 1  # an item tells its event
    windows = sliding_windows(sequences, length=8, drop_last=1)
    packing = pack_windows(windows.lengths, row_length=8) if packed else one_window_per_row(windows.lengths)
    rows = shuffle(windows, packing, jax.random.key(0))
    batch = jax.jit(partial(gather_batch, length=8))(
        event_arrays(sequences, first_timestamp=FIRST), rows, behavior_weights=jnp.ones(3)
    )
    real = np.asarray(batch.segment_ids) > 0
    assert sum(real.ravel()) == sum(max(0, length - 1) for length in lengths)
    asked, targets = np.asarray(batch.item_ids)[real], np.asarray(batch.targets)[real]
    np.testing.assert_array_equal(targets, asked + 1)
    users = sequences.users_of_events
    np.testing.assert_array_equal(users[asked - 1], users[targets - 1])
    last_of_user = sequences.offsets[1:][sequences.lengths > 0]
    assert sorted(asked) == sorted(set(range(1, len(users) + 1)) - set(last_of_user.tolist()))
    assert not np.asarray(batch.targets)[~real].any()
    assert not np.asarray(batch.weights)[~real].any()


def shuffle_case(packed: bool):
    lengths = np.random.default_rng(3).integers(1, 15, 200).tolist()
    windows = sliding_windows(make_sequences(lengths), length=10)
    packing = pack_windows(windows.lengths, row_length=10) if packed else one_window_per_row(windows.lengths)
    return windows, packing


def windows_of(rows: Rows) -> Counter:
    starts, lengths = np.asarray(rows.starts), np.asarray(rows.lengths)
    return Counter(zip(starts[lengths > 0].tolist(), lengths[lengths > 0].tolist(), strict=True))


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_has_every_window_once_in_an_order_of_its_key(packed):
    windows, packing = shuffle_case(packed)
    expected = Counter(zip(windows.starts.tolist(), windows.lengths.tolist(), strict=True))
    rows = {seed: shuffle(windows, packing, jax.random.key(seed)) for seed in range(3)}
    for of_seed in rows.values():
        assert of_seed.starts.dtype == of_seed.lengths.dtype == jnp.int32
        assert of_seed.starts.shape == packing.lengths.shape
        assert windows_of(of_seed) == expected
        empty = np.asarray(of_seed.lengths) == 0
        assert not np.asarray(of_seed.starts)[empty].any()
        # rows keep their lengths, only their order changes
        assert sorted(map(tuple, of_seed.lengths.tolist())) == sorted(map(tuple, packing.lengths.tolist()))
    for again in (shuffle(windows, packing, jax.random.key(0)), shuffled_rows(windows, packing, jax.random.key(0))):
        jax.tree.map(np.testing.assert_array_equal, again, rows[0])
    assert not np.array_equal(rows[0].starts, rows[1].starts)
    assert not np.array_equal(rows[1].starts, rows[2].starts)


def test_neighbours_in_a_row_change_from_epoch_to_epoch():
    windows, packing = shuffle_case(packed=True)

    def pairs(seed: int) -> set[tuple[int, int]]:
        rows = shuffle(windows, packing, jax.random.key(seed))
        both = np.asarray(rows.lengths)[:, 1] > 0
        return set(map(tuple, np.asarray(rows.starts)[both, :2].tolist()))

    assert len(pairs(0)) > 50
    assert len(pairs(0) & pairs(1)) < len(pairs(0)) / 2


def test_every_window_comes_first_equally_often():
    windows = sliding_windows(make_sequences([3, 3, 3, 2, 2]), length=4)
    packing = one_window_per_row(windows.lengths)
    keys = jax.random.split(jax.random.key(5), 4000)
    firsts = jax.jit(jax.vmap(lambda key: shuffled_rows(windows, packing, key).starts[0, 0]))(keys)
    starts, counts = np.unique(firsts, return_counts=True)
    assert starts.tolist() == sorted(windows.starts.tolist())
    np.testing.assert_allclose(counts / 4000, 0.2, atol=0.025)  # four standard deviations


@pytest.mark.parametrize("length", [1, 4, 20])
def test_history_batch_equals_the_gathered_last_windows(length):
    sequences = make_sequences([3, 0, 11, 4, 1])
    windows = last_windows(sequences, length=length)
    rows = Rows(
        jnp.asarray(windows.starts, dtype=jnp.int32)[:, None], jnp.asarray(windows.lengths, dtype=jnp.int32)[:, None]
    )
    expected = gather_batch(event_arrays(sequences, first_timestamp=FIRST), rows, length=length)
    found = history_batch(sequences, length=length, first_timestamp=FIRST)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    assert_same(found, expected)


def test_history_batch_of_users_without_events_is_padding():
    found = history_batch(make_sequences([0, 0]), length=3, first_timestamp=FIRST)
    assert all(leaf.shape == (2, 3) and not leaf.any() for leaf in jax.tree.leaves(found))
    with pytest.raises(ConfigError, match="length must be at least 1, got 0"):
        history_batch(make_sequences([2]), length=0, first_timestamp=FIRST)


def test_times_before_the_first_event_are_negative():
    found = history_batch(make_sequences([2]), length=2, first_timestamp=FIRST + 7 * 86_400)
    assert found.timestamps.tolist() == [[-604_800, -604_740]]


@pytest.mark.parametrize("offset", [2**31, -(2**31) - 7 * 86_400])
def test_times_that_would_wrap_are_refused(offset):
    sequences = make_sequences([2])
    message = (
        r"timestamps span .* s from the dataset's first event, more than int32 holds \(68 years\); "
        "check for mixed units or clean out the outliers"
    )
    with pytest.raises(DataError, match=message):
        event_arrays(sequences, first_timestamp=FIRST - offset)
    with pytest.raises(DataError, match=message):
        history_batch(sequences, length=5, first_timestamp=FIRST - offset)
    most = (2**31 - 1) // (7 * 86_400) * (7 * 86_400)  # the whole weeks that fit
    assert event_arrays(sequences, first_timestamp=FIRST - most).timestamps[1] == most + 60


def test_more_events_than_int32_reaches_are_refused():
    sequences = make_sequences([1])
    many = np.broadcast_to(sequences.item_ids, 2**31)  # one number, seen 2^31 times
    message = "2,147,483,648 events do not fit on one device, whose int32 indices reach 2,147,483,647"
    with pytest.raises(DataError, match=message):
        event_arrays(Sequences(sequences.user_ids, np.array([0, 2**31]), many, many, many, many), first_timestamp=0)
