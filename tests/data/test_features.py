"""Time, behaviour and item features against the standard library, NumPy loops and cases worked by hand."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.features import (
    TIME_COLUMNS,
    bag_of_items,
    behavior_one_hot,
    cyclic_encoding,
    multi_hot,
    one_hot,
    time_feature_array,
    time_features,
    time_gaps,
)
from seqrec_jax.errors import ConfigError, DataError


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2_000_000_000, 4_000_000_000), max_size=20))
def test_time_features_equal_the_standard_library(seconds):
    features = time_features(np.array(seconds, dtype=np.int64))
    for place, second in enumerate(seconds):
        moment = datetime.fromtimestamp(second, tz=UTC)
        expected = (moment.hour, moment.day, moment.weekday(), moment.month, int(moment.weekday() >= 5))
        assert tuple(int(feature[place]) for feature in features) == expected
    assert all(feature.dtype == np.int32 for feature in features)
    assert time_feature_array(np.array(seconds, dtype=np.int64)).shape == (len(seconds), len(TIME_COLUMNS))


def test_time_feature_columns_are_what_they_are_called():
    second = int(datetime(2024, 8, 17, 6, 30, tzinfo=UTC).timestamp())  # a Saturday
    row = dict(zip(TIME_COLUMNS, time_feature_array(np.array([second]))[0], strict=True))
    angles = {"hour": 6 / 24, "day_of_month": 16 / 31, "day_of_week": 5 / 7, "month": 7 / 12}
    for name, turn in angles.items():
        assert row[f"{name}_sin"] == pytest.approx(math.sin(2 * math.pi * turn), abs=1e-6)
        assert row[f"{name}_cos"] == pytest.approx(math.cos(2 * math.pi * turn), abs=1e-6)
    assert row["is_weekend"] == 1


def test_cyclic_encoding_puts_neighbours_at_equal_distances():
    points = cyclic_encoding(np.arange(24), period=24)
    distances = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
    np.testing.assert_allclose(distances, distances[0], rtol=1e-5)  # 23 to 0 as well
    with pytest.raises(ConfigError, match="period"):
        cyclic_encoding(np.arange(3), period=0)
    with pytest.raises(DataError, match="integer seconds"):
        time_features(np.array([1.5]))


def test_gaps_start_anew_with_each_user():
    sequences = make_sequences([[1, 1, 1], [], [2], [3, 3]], timestamps=[10, 10, 35, 500, 7, 9])
    gaps = time_gaps(sequences)
    np.testing.assert_array_equal(gaps, [0, 0, 25, 0, 0, 2])
    assert gaps.dtype == np.int64
    assert len(time_gaps(make_sequences([[], []]))) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_hot_encodings_equal_loops(rows):
    ids = np.array(rows)
    single, several = one_hot(ids, depth=6), multi_hot(ids, depth=6)
    assert single.shape == (*ids.shape, 6)
    assert several.shape == (len(rows), 6)
    for row, values in enumerate(rows):
        for column in range(6):
            assert several[row, column] == float(column > 0 and column in values)
            for place, value in enumerate(values):
                assert single[row, place, column] == float(value == column)
    assert single.dtype == several.dtype == np.float32


def test_bag_of_items_counts_and_behaviors_are_hot():
    sequences = make_sequences([[1, 2, 1, 0], [], [3]], behaviors=[0, 1, 0, 2, 1])
    np.testing.assert_array_equal(bag_of_items(sequences, num_items=3), [[0, 2, 1, 0], [0] * 4, [0, 0, 0, 1]])
    np.testing.assert_array_equal(
        behavior_one_hot(sequences, num_behaviors=3), np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 1]]
    )
    with pytest.raises(DataError, match="from 0 to 3, expected 0 to 2"):
        bag_of_items(sequences, num_items=2)
    with pytest.raises(DataError, match="expected 0 to 1"):
        behavior_one_hot(sequences, num_behaviors=2)
    with pytest.raises(DataError, match="from -1"):
        one_hot(np.array([-1]), depth=2)
