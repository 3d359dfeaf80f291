"""Views of sequences keep what a batch promises, and change what they say, segment by segment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.data.batches import Batch
from seqrec_jax.errors import ConfigError
from seqrec_jax.training.views import (
    ContrastiveConfig,
    cropped_events,
    masked_items,
    random_view,
    reordered_events,
    segment_vectors,
)

NUM_ROWS, LENGTH = 40, 24


def packed_batch(seed=0):
    """Rows of one to four segments of 1 to 9 events, some with padding after them; every event differs."""
    rng = np.random.default_rng(seed)
    segment_ids, positions = np.zeros((2, NUM_ROWS, LENGTH), np.int32)
    for row in range(NUM_ROWS):
        column = 0
        for segment in range(1, 5):
            size = min(int(rng.integers(1, 10)), LENGTH - column)
            segment_ids[row, column : column + size] = segment
            positions[row, column : column + size] = np.arange(size)
            column += size
    real = segment_ids > 0
    numbers = np.arange(1, NUM_ROWS * LENGTH + 1, dtype=np.int32).reshape(NUM_ROWS, LENGTH) * real
    return jax.tree.map(
        jnp.asarray,
        Batch(
            item_ids=numbers,
            behaviors=numbers % 7,
            timestamps=10 * numbers,
            positions=positions,
            segment_ids=segment_ids,
            targets=numbers,
            weights=real.astype(np.float32),
            target_behaviors=numbers % 5,
            query_words=np.stack([numbers, -numbers], axis=2),
        ),
    )


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), NUM_ROWS)


def segments(batch):
    """For each row and segment its items, in order."""
    ids, items = np.asarray(batch.segment_ids), np.asarray(batch.item_ids)
    return {
        (row, segment): items[row][ids[row] == segment].tolist()
        for row in range(NUM_ROWS)
        for segment in np.unique(ids[row][ids[row] > 0]).tolist()
    }


@jax.jit
def any_view(batch, row_keys):
    return random_view(batch, config=ContrastiveConfig(), row_keys=row_keys)


def assert_keeps_promises(batch):
    ids, positions = np.asarray(batch.segment_ids), np.asarray(batch.positions)
    for row in range(NUM_ROWS):
        for segment in np.unique(ids[row][ids[row] > 0]):
            columns = np.flatnonzero(ids[row] == segment)
            np.testing.assert_array_equal(np.diff(columns), 1)
            np.testing.assert_array_equal(positions[row, columns], np.arange(len(columns)))
    for leaf in jax.tree.leaves(batch):
        assert not np.asarray(leaf)[ids == 0].any()


def test_a_crop_is_a_run_of_neighbours_that_begins_anywhere():
    batch, starts = packed_batch(), set()
    crop = jax.jit(lambda row_keys: cropped_events(batch, share=0.6, row_keys=row_keys))
    for seed in range(3):
        view = crop(keys(seed))
        assert_keeps_promises(view)
        whole, cropped = segments(batch), segments(view)
        assert whole.keys() == cropped.keys()
        for place, items in whole.items():
            size = max(1, int(np.floor(0.6 * len(items) + 1e-4)))
            start = cropped[place][0] - items[0]
            assert cropped[place] == items[start : start + size]
            if len(items) == 9:
                starts.add(start)
        real = np.asarray(view.segment_ids) > 0
        np.testing.assert_array_equal(view.timestamps, 10 * view.item_ids)
        np.testing.assert_array_equal(view.query_words[..., 1], -view.item_ids)
        assert real.sum(axis=1).tolist() == [row[row].sum() for row in real]  # padding is on the right
        assert all(row[: row.sum()].all() for row in real)
    assert starts == {0, 1, 2, 3, 4}


def test_masked_items_are_the_share_asked_for_and_never_all():
    batch = packed_batch()
    view = jax.jit(lambda row_keys: masked_items(batch, share=0.5, row_keys=row_keys))(keys())
    real = np.asarray(batch.segment_ids) > 0
    hidden = real & (np.asarray(view.item_ids) == 0)
    np.testing.assert_array_equal(np.asarray(view.item_ids)[~hidden], np.asarray(batch.item_ids)[~hidden])
    assert all(any(items) for items in segments(view).values())
    # one of each segment's n events stays
    expected = 0.5 * sum(len(items) - 1 for items in segments(batch).values())
    assert abs(hidden.sum() - expected) < 4 * np.sqrt(expected / 2)
    for leaf, other in zip(view[1:], batch[1:], strict=True):
        if leaf is not None:
            np.testing.assert_array_equal(leaf, other)


def test_a_run_changes_places_and_its_times_do_not():
    batch = packed_batch()
    view = jax.jit(lambda row_keys: reordered_events(batch, share=0.5, row_keys=row_keys))(keys())
    moved = 0
    for place, items in segments(batch).items():
        found = segments(view)[place]
        assert sorted(found) == items
        changed = np.flatnonzero(np.array(found) != np.array(items))
        moved += len(changed)
        if len(changed):
            assert changed[-1] - changed[0] < int(np.floor(0.5 * len(items)))
    assert moved > 100
    np.testing.assert_array_equal(view.timestamps, batch.timestamps)
    np.testing.assert_array_equal(view.positions, batch.positions)
    np.testing.assert_array_equal(view.behaviors, view.item_ids % 7)
    np.testing.assert_array_equal(view.query_words[..., 0], view.item_ids)


def test_a_view_is_of_one_kind_a_segment_and_two_keys_give_two_views():
    batch = packed_batch()
    view = any_view(batch, keys())
    assert_keeps_promises(view)
    assert not np.asarray(view.targets).any() and not np.asarray(view.weights).any() and view.masked is None
    kinds = {"crop": 0, "mask": 0, "reorder": 0, "same": 0}
    for place, items in segments(batch).items():
        found = segments(view)[place]
        if found == items:
            kinds["same"] += 1
        elif len(found) < len(items):
            kinds["crop"] += 1
            assert 0 not in found
        elif 0 in found:
            kinds["mask"] += 1
            assert all(new in (0, old) for new, old in zip(found, items, strict=True))
        else:
            kinds["reorder"] += 1
            assert sorted(found) == items
    assert min(kinds["crop"], kinds["mask"], kinds["reorder"]) > 20
    assert segments(any_view(batch, keys(1))) != segments(view)


def test_a_row_has_the_same_view_whatever_its_neighbours_are():
    batch, row_keys = packed_batch(), keys()
    order = np.random.default_rng(1).permutation(NUM_ROWS)
    view = any_view(batch, row_keys)
    moved = any_view(jax.tree.map(lambda leaf: leaf[order], batch), row_keys[order])
    jax.tree.map(lambda leaf, other: np.testing.assert_array_equal(leaf[order], other), view, moved)


def test_segment_vectors_are_the_last_states():
    batch = packed_batch()
    states = batch.item_ids[..., None].astype(jnp.float32)
    vectors, where = segment_vectors(states, batch.segment_ids, num_segments=5)
    assert where.sum() == len(segments(batch)) and not np.asarray(where[:, 4]).any()
    for (row, segment), items in segments(batch).items():
        assert vectors[row, segment - 1, 0] == items[-1]
    assert not np.asarray(vectors)[~np.asarray(where)].any()


def test_bad_settings_are_refused():
    with pytest.raises(
        ConfigError, match=r"training\.contrastive\.crop must be greater than 0 and less than 1, got 1.0"
    ):
        ContrastiveConfig(crop=1.0)
    with pytest.raises(
        ConfigError, match=r"training\.contrastive\.kinds must be one of crop, mask, reorder, got 'turn'"
    ):
        ContrastiveConfig(kinds=("turn",))
    with pytest.raises(ConfigError, match="kinds is empty; name some of crop, mask, reorder"):
        ContrastiveConfig(kinds=())
    with pytest.raises(ConfigError, match=r"weight must be at least 0, got -1.0"):
        ContrastiveConfig(weight=-1.0)
    with pytest.raises(ConfigError, match=r"temperature must be greater than 0, got 0.0"):
        ContrastiveConfig(temperature=0.0)
