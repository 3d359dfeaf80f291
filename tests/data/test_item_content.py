"""Feature files, relations, trees, texts, and catalogues that grow: by hand, and every bad input."""

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.attributes import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.data.growing import DescribedItems, NewItems, append_items
from seqrec_jax.data.item_content import (
    FeatureFile,
    ItemContent,
    ItemEdges,
    ItemFeature,
    match_feature,
    read_content,
    read_feature_file,
    write_content,
)
from seqrec_jax.data.item_edges import match_edges, pairs_of_lists, paths_of_places, read_pairs
from seqrec_jax.data.item_texts import item_texts, plain_text
from seqrec_jax.errors import ConfigError, DataError

RAW_IDS = ["a", "b", "c", "d"]
VECTORS = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], np.float32)


def pairs(*rows: str) -> pd.DataFrame:
    return pd.DataFrame([list(row) for row in rows], columns=["first", "second"], dtype=object)


@pytest.mark.parametrize("form", ["list", "columns", "npz"])
def test_vectors_are_read_from_each_form(tmp_path, form):
    path = tmp_path / f"vectors.{'npz' if form == 'npz' else 'parquet'}"
    if form == "npz":
        np.savez(path, item_id=np.array([7, 8, 9]), vectors=VECTORS)
    elif form == "list":
        pd.DataFrame({"item_id": [7, 8, 9], "vector": list(VECTORS)}).to_parquet(path)
    else:
        pd.DataFrame({"item_id": [7, 8, 9], "f0": VECTORS[:, 0], "f1": VECTORS[:, 1]}).to_parquet(path)
    found = read_feature_file(path)
    assert found.raw_ids.tolist() == ["7", "8", "9"]
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert found.vectors.dtype == np.float32


def test_a_feature_under_a_vocabulary_and_its_scale_over_known_items():
    found = FeatureFile(np.array(["c", "nowhere", "a"], dtype=object), VECTORS)
    feature, note = match_feature("picture", found, RAW_IDS, known=np.array([False, True, True, True]))
    assert note == (
        "picture: 2 of 4 items have a vector of 2 numbers; 1 vectors are of unknown items and were left out"
    )
    assert feature.item_ids.tolist() == [1, 3]
    assert feature.scale == pytest.approx(1 / 5)  # of c alone
    np.testing.assert_allclose(feature.dense(4), [[0, 0], [0.2, 0.2], [0, 0], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert feature.has(4).tolist() == [False, True, False, True, False]
    # of an earlier dataset: its scale stays, and its vectors where there are no newer ones
    newer = FeatureFile(np.array(["b", "c"], dtype=object), VECTORS[[2, 2]])
    later, _ = match_feature("picture", newer, RAW_IDS, earlier=feature)
    assert later.scale == feature.scale and later.item_ids.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(later.vectors, [[1, 1]] * 3)


def test_content_is_written_and_read_and_told_apart(tmp_path):
    feature = ItemFeature(np.array([1, 3], np.int32), VECTORS[:2].astype(np.float16), 0.5)
    content = ItemContent({"text": feature}, {"with": ItemEdges(np.array([[1, 2], [2, 1]], np.int32))})
    write_content(content, tmp_path)
    back = read_content(tmp_path)
    assert back.digests() == content.digests()
    assert back.features["text"].vectors.dtype == np.float16 and back.features["text"].scale == 0.5
    other = ItemContent({"text": ItemFeature(feature.item_ids, feature.vectors * 2, 0.5)}, content.edges)
    names = ("features/text", "edges/with")
    assert [other.digests()[name] == content.digests()[name] for name in names] == [False, True]
    (tmp_path / "content.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"content.npz is damaged"):
        read_content(tmp_path)
    assert read_content(tmp_path / "elsewhere") == ItemContent()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"item_id": ["a", "a"], "v": [[1.0], [2.0]]}, "has 'a' more than once"),
        ({"item_id": ["a", None], "v": [[1.0], [2.0]]}, "no item_id in row 1"),
        ({"item_id": ["a", "b"], "v": [[1.0], [2.0, 3.0]]}, "different widths, from 1 to 2"),
        ({"item_id": ["a", "b"], "v": [[1.0], [np.nan]]}, "vector of 'b' holds nan or infinity"),
        ({"item_id": ["a", "b"], "v": [[1.0], [np.inf]]}, r"\(1 such items\)"),
        ({"item_id": ["a", "b"], "v": [[1.0], None]}, "1 missing vectors"),
        ({"item_id": ["a", "b"], "v": [[1.0], [None]]}, "'b' holds nan"),
        ({"item_id": ["a"], "v": [["x"]]}, "must be numbers"),
        ({"item_id": ["a"], "v": ["x"]}, "must be numbers"),
        ({"item_id": ["a"]}, "needs one column of lists"),
        ({"item_id": ["a"], "v": [[1.0]], "w": [1.0]}, "needs one column of lists"),
        ({"id": ["a"], "v": [[1.0]]}, "has no column 'item_id'"),
    ],
)
def test_bad_feature_files_are_refused(tmp_path, columns, words):
    path = tmp_path / "vectors.parquet"
    pd.DataFrame(columns).to_parquet(path)
    with pytest.raises(DataError, match=words):
        read_feature_file(path)


def test_files_that_are_no_features_and_features_that_fit_no_item(tmp_path):
    with pytest.raises(DataError, match=r"must end in .parquet or .npz"):
        read_feature_file(tmp_path / "vectors.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_feature_file(tmp_path / "absent.parquet")
    np.savez(tmp_path / "v.npz", item_id=["a"])
    with pytest.raises(DataError, match="has no array 'vectors'"):
        read_feature_file(tmp_path / "v.npz")
    np.savez(tmp_path / "v.npz", item_id=["a"], vectors=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"1 items need vectors \[1, F\], got shape \(2, 3\)"):
        read_feature_file(tmp_path / "v.npz")
    found = FeatureFile(np.array(["x"], dtype=object), np.ones((1, 3), np.float32))
    with pytest.raises(DataError, match=r"none of its 1 ids such as \['x'\].*like \['a', 'b', 'c'\]"):
        match_feature("text", found, RAW_IDS)
    earlier = ItemFeature(np.array([1], np.int32), np.ones((1, 2), np.float32), 1.0)
    with pytest.raises(DataError, match="width 3, but 2 before"):
        match_feature("text", FeatureFile(np.array(["a"], dtype=object), found.vectors), RAW_IDS, earlier=earlier)


def test_edges_by_hand_with_everything_that_is_left_out():
    table = pairs("ab", "ac", "ad", "ab", "cc", "xa", "da")
    edges, notes = match_edges({"with": table}, RAW_IDS, max_neighbors=2)
    assert edges["with"].pairs.tolist() == [[1, 2], [1, 3], [4, 1]]
    assert edges["with"].padded(4).tolist() == [[0, 0], [2, 3], [0, 0], [0, 0], [1, 0]]
    assert notes == [
        "with: 2 of 4 items have neighbours, 3 pairs; left out: 1 have an unknown item, 1 join an item to itself, "
        "1 occur again, 1 are beyond 2 neighbours of an item"
    ]


def test_a_pair_in_two_relations_is_refused_kept_or_dropped():
    both = {"complement": pairs("ab", "ac"), "substitute": pairs("ab", "bc")}
    with pytest.raises(DataError, match=r"1 pairs.*'a' and 'b' are in complement and substitute; set .*shared_pairs"):
        match_edges(both, RAW_IDS, max_neighbors=5)
    kept, notes = match_edges(both, RAW_IDS, max_neighbors=5, shared_pairs="kept")
    assert [len(one.pairs) for one in kept.values()] == [2, 2] and "1 pairs are in several relations" in notes[-1]
    dropped, notes = match_edges(both, RAW_IDS, max_neighbors=5, shared_pairs="dropped")
    assert [one.pairs.tolist() for one in dropped.values()] == [[[1, 3]], [[2, 3]]]
    assert all("1 are in another relation too" in note for note in notes)
    with pytest.raises(DataError, match="none of its 1 pairs"):
        match_edges({"with": pairs("xy")}, RAW_IDS, max_neighbors=5)


def test_pairs_from_lists_and_files(tmp_path):
    items = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "with": [np.array(["b", "c"]), "a|c", None, np.nan]})
    assert pairs_of_lists(items, "with").values.tolist() == [["a", "b"], ["a", "c"], ["b", "a"], ["b", "c"]]
    (tmp_path / "pairs.csv").write_text("item,other\n1,2\n2,3\n")
    assert read_pairs(tmp_path / "pairs.csv").values.tolist() == [["1", "2"], ["2", "3"]]
    (tmp_path / "pairs.csv").write_text("item,other,weight\n1,2,3\n")
    with pytest.raises(DataError, match="must have two columns"):
        read_pairs(tmp_path / "pairs.csv")


def test_a_place_in_a_tree_brings_all_above_it():
    items = pd.DataFrame({"category": ["Home > Kitchen > Knives", "Home>Kitchen", None, "Home | Garden", ["Garden"]]})
    attributes, vocabulary = encode_attributes(items, AttributeConfig(paths=("category",)))
    places = ("Garden", "Home", "Home > Kitchen", "Home > Kitchen > Knives")
    assert vocabulary.paths == {"category": places}
    named = [[places[code - 1] for code in row if code] for row in attributes.multi_categorical["category"]]
    assert named == [[], list(places[1:]), list(places[1:3]), [], ["Home", "Garden"], ["Garden"]]
    assert AttributeVocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    with pytest.raises(DataError, match="'k' several parents"):
        paths_of_places(pd.Series(["k"]), pairs("kh", "kg"), source="tree")
    with pytest.raises(DataError, match=r"'k' is above itself, through k < h < k"):
        paths_of_places(pd.Series(["k"]), pairs("kh", "hk"), source="tree")


def test_numbers_in_buckets_that_begin_where_known_items_numbers_are():
    items = pd.DataFrame({"price": [1.0, 2.0, 3.0, 4.0, None, 100.0]})
    known = np.array([True, True, True, True, True, False])
    config = AttributeConfig(numeric_buckets={"price": 4})
    attributes, vocabulary = encode_attributes(items, config, known=known)
    assert vocabulary.numeric_buckets == {"price": (2.0, 3.0)}
    assert attributes.categorical["price"].tolist() == [0, 1, 2, 3, 3, 0, 3]
    again, _ = encode_attributes(pd.DataFrame({"price": [2.5, -7.0]}), vocabulary.config, vocabulary=vocabulary)
    assert again.categorical["price"].tolist() == [0, 2, 1]
    equal, same = encode_attributes(pd.DataFrame({"price": [5.0, 5.0, None]}), config)
    assert same.numeric_buckets == {"price": ()} and equal.categorical["price"].tolist() == [0, 1, 1, 0]
    with pytest.raises(ConfigError, match=r"attributes\.numeric_buckets\.price must be at least 2, got 1"):
        AttributeConfig(numeric_buckets={"price": 1})
    with pytest.raises(ConfigError, match="'price'"):
        AttributeConfig(numeric=("price",), numeric_buckets={"price": 3})


def test_texts_without_html():
    assert plain_text("<style>p {a}</style>A &amp;amp; B<br>&lt;b&gt;C&lt;/b&gt;<!-- no -->") == "A & B C"
    assert plain_text("3 < 4 and 5 > 2, 8.5&rdquo; <3") == "3 < 4 and 5 > 2, 8.5” <3"
    items = pd.DataFrame({"title": ["A <b>pen</b>", "", None], "text": [["x", "y"], np.nan, "  "]})
    texts, notes = item_texts(items, ["title", "text"])
    assert texts == ["A pen. x. y", "", ""]
    assert notes == ["text: 1 of 3 items have a text from title, text", "text: HTML was taken out of 1 cells"]
    with pytest.raises(DataError, match="no column 'brand' with text"):
        item_texts(items, ["brand"])


ITEMS = pd.DataFrame(
    {
        "item_id": RAW_IDS,
        "brand": ["x", "y", None, "x"],
        "price": [1.0, 2.0, 3.0, np.nan],
        "title": list("ABCD"),
        "training_events": [1, 2, 0, 3],
        "known": [True, True, False, True],
        "first_timestamp": [0, 1, 2, 3],
    }
)
CATALOGUE = DescribedItems(
    ITEMS,
    encode_attributes(ITEMS, AttributeConfig(categorical=("brand",), numeric=("price",)))[1],
    ItemContent(
        {"text": ItemFeature(np.array([1, 3], np.int32), VECTORS[:2], 0.5)},
        {"with": ItemEdges(np.array([[1, 2], [2, 1]], np.int32))},
    ),
)


def test_new_items_follow_the_old_ones_which_stay_as_they_are():
    table = pd.DataFrame({"item_id": [10, 9], "brand": ["z", "y"], "price": ["7", None], "colour": ["red", "blue"]})
    vectors = FeatureFile(np.array(["a", "9", "other"], dtype=object), VECTORS * 7)
    new = NewItems(table, {"text": vectors}, {"with": pd.concat([pairs("ac"), pairs("9b", "99", "9x")])})
    grown, notes = append_items(CATALOGUE, new)
    assert grown.items["item_id"].tolist() == [*RAW_IDS, "10", "9"]
    pd.testing.assert_frame_equal(grown.items.iloc[:4], ITEMS, check_dtype=False)
    assert grown.items["known"].tolist() == [True, True, False, True, False, False]
    text = grown.content.features["text"]
    assert text.item_ids.tolist() == [1, 3, 6] and text.scale == 0.5
    np.testing.assert_array_equal(text.vectors, [*VECTORS[:2], VECTORS[1] * 7])
    assert grown.content.edges["with"].pairs.tolist() == [[1, 2], [2, 1], [6, 2]]
    assert notes == [
        "2 new items after 4",
        "brand: 1 values are unknown to the model and count as missing",
        "text: 1 of 2 new items have a vector",
        "text: 2 vectors are of other items and were left out",
        "with: 1 of 2 new items have neighbours",
    ]
    codes, _ = encode_attributes(grown.items, CATALOGUE.attributes.config, vocabulary=CATALOGUE.attributes)
    assert codes.categorical["brand"].tolist() == [0, 1, 2, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"item_id": ["e"], "brand": ["x"]}, "no column 'price'"),
        ({"item_id": ["a"], "brand": ["x"], "price": [1.0]}, "'a' is in the catalogue already"),
        ({"item_id": ["e", "e"], "brand": ["x", "y"], "price": [1.0, 1.0]}, "'e' is more than once"),
        ({"item_id": [None], "brand": ["x"], "price": [1.0]}, "no item_id in row 0"),
        ({"item_id": ["e"], "brand": ["x"], "price": ["dear"]}, "column 'price' of the new items must hold numbers"),
        ({"item_id": [], "brand": [], "price": []}, "there are no new items"),
    ],
)
def test_bad_new_items_are_refused(table, words):
    with pytest.raises(DataError, match=words):
        append_items(CATALOGUE, NewItems(pd.DataFrame(table)))


def test_content_that_the_model_was_trained_without_is_refused():
    table = pd.DataFrame({"item_id": ["e"], "brand": ["x"], "price": [1.0]})
    sound = FeatureFile(np.array(["e"], dtype=object), VECTORS[:1])
    with pytest.raises(ConfigError, match="without the feature 'sound'; it has text"):
        append_items(CATALOGUE, NewItems(table, {"sound": sound}))
    with pytest.raises(ConfigError, match="without the relation 'above'; it has with"):
        append_items(CATALOGUE, NewItems(table, {}, {"above": pairs("ea")}))
    with pytest.raises(DataError, match="width 3, but 2 before"):
        wide = FeatureFile(np.array(["e"], dtype=object), np.ones((1, 3), np.float32))
        append_items(CATALOGUE, NewItems(table, {"text": wide}))
