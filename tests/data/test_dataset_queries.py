"""Queries in a prepared dataset: numbered, kept on disk, part of the fingerprint, and absent where there are none."""

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import Dataset, describe_dataset, prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import DataError


def prepare(**columns) -> Dataset:
    events = pd.DataFrame(
        {
            "user_id": ["b", "b", "b", "b", "a", "a", "a"],
            "item_id": ["", "y", "x", "y", None, "x", "y"],
            "timestamp": [1, 2, 3, 4, 1, 2, 3],
        }
        | columns
    )
    return prepare_dataset(events, name="tiny", split=SplitConfig(rule="leave_one_out"))


QUERY = ["shoe", "shoe", None, "", "hat", None, None]


def test_queries_are_numbered_in_string_order(tmp_path):
    dataset = prepare(query=QUERY)
    sequences = dataset.sequences
    assert sequences.queries.tolist() == ["", "hat", "shoe"]
    assert sequences.query_ids.tolist() == [1, 0, 0, 2, 2, 0, 0]
    assert describe_dataset(dataset)["counts"]["queries"] == 2
    assert dataset.training_sequences.query_ids.shape == dataset.training_sequences.item_ids.shape
    again = read_dataset(write_dataset(dataset, tmp_path / "tiny"))
    assert again.sequences.queries.tolist() == sequences.queries.tolist()
    assert again.sequences.query_ids.dtype == np.int32
    np.testing.assert_array_equal(again.sequences.query_ids, sequences.query_ids)
    assert again.fingerprint == dataset.fingerprint


def test_a_log_without_queries_is_as_if_it_had_no_such_column(tmp_path):
    plain, empty = prepare(), prepare(query=[None] * 7)
    assert plain.sequences.query_ids is None and empty.sequences.queries is None
    assert plain.fingerprint == empty.fingerprint
    directory = write_dataset(empty, tmp_path / "tiny")
    assert not (directory / "queries.parquet").exists()
    assert read_dataset(directory).sequences.query_ids is None


def test_queries_are_part_of_the_fingerprint():
    fingerprints = {prepare(query=query).fingerprint for query in (QUERY, ["hut", *QUERY[1:]], [None, *QUERY[1:]])}
    assert len(fingerprints | {prepare().fingerprint}) == 4


def test_missing_texts_are_named(tmp_path):
    directory = write_dataset(prepare(query=QUERY), tmp_path / "tiny")
    (directory / "queries.parquet").unlink()
    with pytest.raises(DataError, match=r"queries\.parquet is missing or damaged"):
        read_dataset(directory)
