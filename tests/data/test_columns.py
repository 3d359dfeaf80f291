"""The columns of events: each goes from a log through preparing, disk and selection; old datasets stay as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.cleaning import CleaningConfig, clean_events
from seqrec_jax.data.columns import EVENT_COLUMNS, Columns, EventColumn, log_columns, read_columns
from seqrec_jax.data.dataset import Dataset, describe_dataset, prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.events import read_events
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import DataError

LEAVE_ONE_OUT = SplitConfig(rule="leave_one_out")
OLD = Path(__file__).parents[1] / "golden" / "dataset_0_1_0"  # written by version 0.1.0
LOG = pd.DataFrame(
    {
        "user_id": ["b", "a", "b", "a", "a", "b", "b"],
        "item_id": ["y", "x", "x", "y", "x", "y", "x"],
        "timestamp": [1, 1, 2, 2, 3, 3, 4],
        "session": ["s9", "s9", "s2", "s9", "", "s9", "s1"],
        "place": [0, 5, -1, "", 2**31 - 1, 2.5, 7],
        "chance": [0.1, 0.2, "", 0.25, 1e-9, "none", 1],
    }
)
NAMES = {"session_id": "session", "position": "place", "propensity": "chance"}


def prepared(log: pd.DataFrame, columns: Columns, **options) -> Dataset:
    events, _ = clean_events(read_events(log, columns), CleaningConfig(), now=100)
    return prepare_dataset(events, **{"name": "log", "split": LEAVE_ONE_OUT, **options})


def test_session_position_and_propensity_survive(tmp_path):
    dataset = prepared(LOG, Columns(**NAMES))
    for one in (dataset, read_dataset(write_dataset(dataset, tmp_path / "log"))):
        columns = one.sequences.columns
        # a's events, then b's; a session is numbered within its user, in the order of first events
        assert columns["session_ids"].tolist() == [1, 1, 0, 1, 2, 1, 3]
        least = np.iinfo(np.int32).min
        assert columns["positions"].tolist() == [5, least, 2**31 - 1, 0, -1, least, 7]
        np.testing.assert_array_equal(columns["propensities"], [0.2, 0.25, 1e-9, 0.1, np.nan, np.nan, 1.0])
        assert [columns[name].dtype for name in list(columns)[-3:]] == [np.int32, np.int32, np.float64]
        second = one.sequences.select_users(np.array([1]))
        assert second.columns["session_ids"].tolist() == [1, 2, 1, 3]
        assert one.training_sequences.columns["positions"].tolist() == [5, 0, -1]


def test_columns_that_only_come_along_leave_the_fingerprint_alone():
    with_them, without = prepared(LOG, Columns(**NAMES)), prepared(LOG, Columns())
    assert with_them.fingerprint == without.fingerprint
    assert set(describe_dataset(with_them)["carried"]) == {"session_ids", "positions", "propensities"}
    assert "carried" not in describe_dataset(without)
    assert list(without.sequences.columns) == ["item_ids", "timestamps", "behaviors", "values"]
    # a column without any value is as if it were not there
    empty = prepared(LOG.assign(session="", place=None, chance=np.nan), Columns(**NAMES))
    assert list(empty.sequences.columns) == list(without.sequences.columns)


def test_a_column_that_was_changed_is_named(tmp_path):
    directory = write_dataset(prepared(LOG, Columns(**NAMES)), tmp_path / "log")
    facts = json.loads((directory / "dataset.json").read_text())
    facts["carried"]["propensities"] = "0" * 16
    (directory / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="was changed after it was prepared: its propensities differ; prepare it again"):
        read_dataset(directory)


@pytest.mark.parametrize(
    ("column", "written", "held"),
    [
        (EventColumn("dwell", np.float32, np.nan, "number"), [1.5, "", 2, 3, 4, 5, 6], [np.nan, 3, 4, 1.5, 2, 5, 6]),
        (EventColumn("dwell", np.int64, -1, "number"), [1, "", 2, 3, 4, 5, 6], [-1, 3, 4, 1, 2, 5, 6]),
        (EventColumn("dwell", np.int32, 0, "text", texts="dwells"), [*"bbb", "", *"cab"], [2, 0, 3, 2, 2, 1, 2]),
        (EventColumn("dwell", np.int32, 0, "session"), [*"bbb", "", *"cab"], [1, 0, 2, 1, 1, 2, 1]),
    ],
)
def test_a_new_column_is_added_in_one_place(tmp_path, monkeypatch, column, written, held):
    monkeypatch.setitem(EVENT_COLUMNS, "dwells_of_events", column)

    @dataclass(frozen=True)
    class MoreColumns(Columns):  # stands for a further field of `Columns`
        dwell: str | None = None

    dataset = prepared(LOG.assign(seconds=written), MoreColumns(**NAMES, dwell="seconds"))
    again = read_dataset(write_dataset(dataset, tmp_path / "log"))
    for one in (dataset, again):
        array = one.sequences.columns["dwells_of_events"]
        assert array.dtype == column.dtype
        np.testing.assert_array_equal(array, held)
        chosen = one.sequences.select_users(np.array([1, 0])).select_events(np.arange(7) % 2 == 0)
        np.testing.assert_array_equal(chosen.columns["dwells_of_events"], np.array([*held[3:], *held[:3]])[::2])
        longer = one.sequences.insert_events(np.array([7]), np.array([1]), item_ids=1, timestamps=9)
        np.testing.assert_array_equal(longer.columns["dwells_of_events"], [*held, column.missing])
    assert again.fingerprint == dataset.fingerprint != prepared(LOG, Columns()).fingerprint
    if column.texts:
        assert again.sequences.texts["dwells"].tolist() == ["", "a", "b", "c"]


def test_a_log_can_be_made_from_sequences_again():
    events = clean_events(read_events(LOG, Columns(**NAMES, query="item_id", value="place")), now=100)[0]
    users = pd.factorize(events["user_id"])[0]
    arrays, texts = read_columns(events, users)
    again, same_texts = read_columns(pd.DataFrame(log_columns(arrays, texts)), users)
    assert list(again) == list(arrays) == ["values", "query_ids", "session_ids", "positions", "propensities"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
        assert again[name].dtype == array.dtype
    assert same_texts["queries"].tolist() == texts["queries"].tolist() == ["", "x", "y"]


def test_a_dataset_of_version_0_1_0_is_read_and_made_again(tmp_path):
    old = read_dataset(OLD, fingerprint="f5dfbcf047de2a1c")
    sequences = old.sequences
    assert list(sequences.columns) == ["item_ids", "timestamps", "behaviors", "values", "query_ids"]
    raw = np.array(["", *old.items["item_id"]], dtype=object)
    log = pd.DataFrame(
        {
            "user_id": sequences.user_ids[sequences.users_of_events],
            "item_id": raw[sequences.item_ids],
            "timestamp": sequences.timestamps,
            "behavior": np.array(old.behaviors)[sequences.behaviors],
            **log_columns(sequences.columns, sequences.texts),
        }
    )
    again = prepare_dataset(
        log,
        name=old.name,
        split=old.split.config,
        items=old.items[["item_id", "color", "price"]],
        attributes=AttributeConfig(categorical=("color",), numeric=("price",)),
    )
    assert again.fingerprint == old.fingerprint
    directory = write_dataset(again, tmp_path / "again")
    assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in OLD.iterdir())
    assert (directory / "dataset.json").read_text() == (OLD / "dataset.json").read_text()
    for name in ("sequences", "items", "queries"):
        new_table, old_table = (pq.read_table(folder / f"{name}.parquet") for folder in (directory, OLD))
        assert new_table.equals(old_table), name
        assert new_table.schema.equals(old_table.schema, check_metadata=name != "items"), name  # pandas' version


def test_sequences_know_their_columns():
    arrays = {
        "item_ids": np.array([1, 2], dtype=np.int32),
        "timestamps": np.array([5, 6]),
        "behaviors": np.zeros(2, dtype=np.int8),
        "values": np.zeros(2, dtype=np.float32),
    }
    users = np.array(["u"], dtype=object)
    with pytest.raises(DataError, match="events have no column 'item_id'; known are item_ids, timestamps"):
        Sequences(users, np.array([0, 2]), **arrays, item_id=arrays["item_ids"])
    with pytest.raises(DataError, match="sequences need the array values"):
        Sequences(users, np.array([0, 2]), **{name: array for name, array in arrays.items() if name != "values"})
    sequences = Sequences(users, np.array([0, 2]), columns=arrays, query_ids=None, values=np.ones(2, dtype=np.float32))
    assert sequences.values.tolist() == [1, 1]
    changed = sequences.with_columns(positions=np.array([3, 4], dtype=np.int32), item_ids=np.array([2, 2]))
    assert list(changed.columns) == [*arrays, "positions"]
    assert changed.item_ids.tolist() == [2, 2]
    with pytest.raises(DataError, match="events have no column 'place'"):
        sequences.insert_events(np.array([0]), np.array([0]), place=1)
