"""Time, behaviour and item features against the standard library, NumPy loops and cases worked by hand."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.features import (
    TIME_COLUMNS,
    AttributeConfig,
    AttributeVocabulary,
    attribute_columns,
    attribute_vectors,
    bag_of_items,
    behavior_one_hot,
    cyclic_encoding,
    encode_attributes,
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


ITEMS = pd.DataFrame(
    {
        "brand": ["zeta", "alpha", None, "zeta", ""],
        "size": [3.0, np.nan, 1.0, 3.0, 10.0],
        "tags": [["red", "blue"], None, np.array(["blue"], dtype=object), [], ["red", "red", None]],
        "genres": ["Drama|Crime", "Crime", "", None, " Drama | Action"],
        "price": [1.0, 3.0, np.nan, 5.0, 3.0],
        "flat": [7, 7, 7, 7, 7],
    },
    index=[9, 9, 9, 9, 9],
)
CONFIG = AttributeConfig(categorical=("brand", "size"), multi_categorical=("tags", "genres"), numeric=("price", "flat"))


def test_attributes_by_hand():
    attributes, vocabulary = encode_attributes(ITEMS, CONFIG)
    assert vocabulary.categorical == {"brand": ("alpha", "zeta"), "size": ("1", "10", "3")}
    assert vocabulary.multi_categorical == {"tags": ("blue", "red"), "genres": ("Action", "Crime", "Drama")}
    assert vocabulary.numeric["price"] == pytest.approx((3.0, math.sqrt(2.0)))
    assert vocabulary.numeric["flat"] == (7.0, 1.0)
    assert attributes.categorical["brand"].tolist() == [0, 2, 1, 0, 2, 0]
    assert attributes.categorical["size"].tolist() == [0, 3, 0, 1, 3, 2]
    assert attributes.multi_categorical["tags"].tolist() == [[0, 0], [2, 1], [0, 0], [1, 0], [0, 0], [2, 0]]
    assert attributes.multi_categorical["genres"].tolist() == [[0, 0], [3, 2], [2, 0], [0, 0], [0, 0], [3, 1]]
    np.testing.assert_allclose(attributes.numeric["price"], [0, -math.sqrt(2), 0, 0, math.sqrt(2), 0], rtol=1e-6)
    assert not attributes.numeric["flat"].any()
    assert set(attributes.unseen.values()) == {0}
    for codes in (*attributes.categorical.values(), *attributes.multi_categorical.values()):
        assert codes.dtype == np.int32
    assert attributes.numeric["price"].dtype == np.float32


def test_dense_vectors_have_the_columns_they_claim():
    attributes, vocabulary = encode_attributes(ITEMS, CONFIG)
    vectors = attribute_vectors(attributes, vocabulary)
    table = pd.DataFrame(vectors, columns=attribute_columns(vocabulary))
    assert vectors.shape == (6, 2 + 3 + 2 + 3 + 2)
    assert vectors.dtype == np.float32
    assert not vectors[0].any()
    assert table["brand=zeta"].tolist() == [0, 1, 0, 0, 1, 0]
    assert table["size=3"].tolist() == [0, 1, 0, 0, 1, 0]
    assert table["tags=blue"].tolist() == [0, 1, 0, 1, 0, 0]
    assert table["genres=Drama"].tolist() == [0, 1, 0, 0, 0, 1]
    np.testing.assert_array_equal(table["price"], attributes.numeric["price"])
    with pytest.raises(ConfigError, match="at least one attribute"):
        attribute_vectors(*encode_attributes(ITEMS, AttributeConfig()))


def test_new_items_are_encoded_by_the_old_vocabulary():
    _, vocabulary = encode_attributes(ITEMS, CONFIG)
    stored = AttributeVocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert stored == vocabulary
    new = pd.DataFrame(
        {
            "brand": ["new", "zeta"],
            "size": [3, 4],
            "tags": [["green", "red", "violet"], None],
            "genres": ["Crime", "Horror"],
            "price": ["7", None],
            "flat": [8, None],
        }
    )
    attributes, same = encode_attributes(new, CONFIG, vocabulary=stored)
    assert same is stored
    assert attributes.categorical["brand"].tolist() == [0, 0, 2]
    assert attributes.categorical["size"].tolist() == [0, 3, 0]
    assert attributes.multi_categorical["tags"].tolist() == [[0], [2], [0]]
    assert attributes.unseen == {"brand": 1, "size": 1, "tags": 2, "genres": 1}
    np.testing.assert_allclose(attributes.numeric["price"], [0, 4 / math.sqrt(2), 0], rtol=1e-6)
    assert attribute_vectors(attributes, stored).shape == (3, len(attribute_columns(stored)))


def test_rows_without_any_item():
    attributes, vocabulary = encode_attributes(ITEMS.iloc[:0], CONFIG)
    assert attribute_vectors(attributes, vocabulary).shape == (1, 2)  # the numeric columns


def test_bad_attributes_are_refused():
    with pytest.raises(DataError, match=r"no column 'brnd' \(categorical attribute\), only \['brand'.*mean 'brand'"):
        encode_attributes(ITEMS, AttributeConfig(categorical=("brnd",)))
    with pytest.raises(DataError, match=r"'brand' holds 'zeta' in row 0 \(4 such rows\)"):
        encode_attributes(ITEMS, AttributeConfig(numeric=("brand",)))
    with pytest.raises(DataError, match="'x' holds 'inf' in row 1"):
        encode_attributes(pd.DataFrame({"x": [1.0, np.inf]}), AttributeConfig(numeric=("x",)))
    with pytest.raises(ConfigError, match=r"\['brand'\] twice"):
        AttributeConfig(categorical=("brand",), numeric=("brand",))
    _, vocabulary = encode_attributes(ITEMS, AttributeConfig(categorical=("brand",)))
    with pytest.raises(ConfigError, match="made for"):
        encode_attributes(ITEMS, AttributeConfig(categorical=("size",)), vocabulary=vocabulary)
    with pytest.raises(DataError, match="attribute vocabulary has the keys"):
        AttributeVocabulary.from_dict({"brand": []})


def test_movielens_attributes(shared_data):
    path = shared_data / "movielens_100k" / "ml-100k.item"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    films = pd.read_csv(path, sep="\t", names=["item_id", "title", "year", "genres"], skiprows=1)
    films["genres"] = films["genres"].str.replace(" ", "|")
    films["year"] = pd.to_numeric(films["year"], errors="coerce")
    config = AttributeConfig(multi_categorical=("genres",), numeric=("year",))
    attributes, vocabulary = encode_attributes(films, config)
    assert len(vocabulary.multi_categorical["genres"]) >= 18
    vectors = pd.DataFrame(attribute_vectors(attributes, vocabulary), columns=attribute_columns(vocabulary))
    assert vectors["genres=Comedy"].sum() == films["genres"].str.contains("Comedy").sum()
    assert vectors["year"].sum() == pytest.approx(0, abs=0.05)
