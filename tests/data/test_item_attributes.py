"""Attributes of items against cases worked by hand, and what a vocabulary keeps."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.attributes import (
    AttributeConfig,
    AttributeVocabulary,
    attribute_columns,
    attribute_vectors,
    encode_attributes,
)
from seqrec_jax.errors import ConfigError, DataError

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
