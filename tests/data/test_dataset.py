"""The prepared dataset: numbering, order, identical bytes, round trips, atomic writes, bad input named at the door."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from work import count_calls

from seqrec_jax.data import dataset as dataset_module
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import (
    Dataset,
    describe_dataset,
    prepare_dataset,
    read_dataset,
    read_facts,
    read_items,
    write_dataset,
)
from seqrec_jax.data.splits import TEST, TRAIN, VALIDATION, SplitConfig
from seqrec_jax.errors import DataError

LEAVE_ONE_OUT = SplitConfig(rule="leave_one_out")
ODD_IDS = ["007", "7", " 7", "7 ", "NA", "nan", "None", "ünïcödé 🛒", "\uffff", "\U0001f6d2", "two\nlines", "a,b", "-0"]


def make_events(seed: int = 0, *, users: int = 6, items: int = 5, count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.permutation(np.arange(count) % users)],
            "item_id": [f"i{item}" for item in rng.permutation(np.arange(count) % items)],
            "timestamp": 1_700_000_000 + rng.integers(0, 30, count),
            "behavior": rng.choice(["view", "purchase"], count),
            "value": rng.random(count).astype(np.float32),
            "row": np.arange(count),
        }
    )


def make_items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": ["i3", "i1", "i0", "i9"],
            "color": ["red", None, "blue", "red"],
            "price": [1.5, 2.0, np.nan, 4.0],
            "tags": [["a", "b"], [], None, ["b"]],
        }
    )


def prepare(events: pd.DataFrame | None = None, **options) -> Dataset:
    defaults = {"name": "shop", "split": LEAVE_ONE_OUT}
    return prepare_dataset(make_events() if events is None else events, **{**defaults, **options})


def of_users(users: dict[str, list], **columns) -> pd.DataFrame:
    """A log without `row`: each user's items in order, an event a second."""
    rows = [(user, item, second) for user, items in users.items() for second, item in enumerate(items)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(**columns)


def assert_equal(a: Dataset, b: Dataset) -> None:
    ours, theirs = ({**vars(one.sequences), **one.sequences.columns, **one.sequences.texts} for one in (a, b))
    assert list(ours) == list(theirs)
    for name in set(ours) - {"columns", "texts"}:
        assert ours[name].dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for name in ("parts", "targets"):
        x, y = getattr(a.split, name), getattr(b.split, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)
    assert (a.split.config, a.split.cuts) == (b.split.config, b.split.cuts)
    pd.testing.assert_frame_equal(a.items, b.items)
    for name in ("name", "attributes", "behaviors", "time_kind", "cleaning", "source", "fingerprint"):
        assert getattr(a, name) == getattr(b, name), name


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


# numbering and order


def test_a_small_log_by_hand():
    events = pd.DataFrame(
        {
            "user_id": ["b", "a", "b", "a", "a", "b"],
            "item_id": ["y", "x", "10", "9", "x", "y"],
            "timestamp": [5, 7, 5, 7, 3, 9],
            "behavior": ["buy", "view", "view", "view", "buy", "view"],
            "value": [2.5, np.nan, np.nan, np.nan, 1.0, np.nan],
            "row": [4, 3, 2, 1, 5, 0],
        }
    )
    dataset = prepare(events)
    # item ids in string order; equal times in the order of `row`
    assert dataset.items["item_id"].tolist() == ["10", "9", "x", "y"]
    assert dataset.sequences.user_ids.tolist() == ["a", "b"]
    assert dataset.sequences.offsets.tolist() == [0, 3, 6]
    assert dataset.sequences.item_ids.tolist() == [3, 2, 3, 1, 4, 4]
    assert dataset.sequences.timestamps.tolist() == [3, 7, 7, 5, 5, 9]
    assert dataset.behaviors == ("buy", "view")
    assert dataset.sequences.behaviors.tolist() == [0, 1, 1, 1, 0, 1]
    np.testing.assert_array_equal(dataset.sequences.values, np.float32([1, np.nan, np.nan, np.nan, 2.5, np.nan]))
    assert dataset.split.parts.tolist() == [TRAIN, VALIDATION, TEST] * 2
    assert dataset.items["training_events"].tolist() == [1, 0, 1, 0]
    assert dataset.items["first_timestamp"].tolist() == [5, 7, 3, 5]
    assert dataset.first_timestamp == 3
    assert dataset.num_items == 4
    assert dataset.training_sequences.item_ids.tolist() == [3, 1]
    assert dataset.item_index(["x", "unknown", "10"]).tolist() == [3, 0, 1]
    assert dataset.user_index(["b", "nobody"]).tolist() == [1, -1]


def test_without_row_equal_times_keep_the_order_of_the_log():
    events = pd.DataFrame({"user_id": ["b", "a", "b", "a", "b", "a"], "item_id": list("zyxwvu"), "timestamp": 0})
    dataset = prepare(events)
    assert [dataset.items["item_id"][item - 1] for item in dataset.sequences.item_ids] == list("ywuzxv")
    assert "row" not in events  # the caller's frame is left alone
    assert "behavior" not in events


def test_a_sorted_log_without_row_equals_the_same_log_with_it():
    events = make_events().sort_values(["user_id", "timestamp", "row"])
    assert_equal(prepare(events.drop(columns="row")), prepare(make_events()))


def test_behaviours_have_the_given_codes_or_those_of_the_sorted_names():
    events = make_events()
    ordered = prepare(events, behaviors=["view", "cart", "purchase"])
    assert ordered.behaviors == ("view", "cart", "purchase")
    assert set(ordered.sequences.behaviors) == {0, 2}
    assert prepare(events).behaviors == ("purchase", "view")
    assert prepare(events.drop(columns="behavior")).behaviors == ("event",)


def test_ids_become_text_as_the_reader_makes_it():
    events = of_users({1: [10, 9, 8], 2: [9, 10, 8]})
    items = pd.DataFrame({"item_id": [8.0, 9.0], "price": [1, 2]})
    dataset = prepare(events, items=items)
    assert dataset.sequences.user_ids.tolist() == ["1", "2"]
    assert dataset.items["item_id"].tolist() == ["10", "8", "9"]
    np.testing.assert_array_equal(dataset.items["price"], [np.nan, 1, 2])


@pytest.mark.parametrize("nothing", [None, np.nan, ""])
def test_events_without_item_have_id_0(nothing):
    events = of_users({"a": ["x", nothing, "y", "x"], "b": [nothing, "y", "x"]})
    dataset = prepare(events)
    assert dataset.items["item_id"].tolist() == ["x", "y"]
    assert dataset.sequences.item_ids.tolist() == [1, 0, 2, 1, 0, 2, 1]
    assert dataset.split.targets.tolist() == [True, False, True, True, False, True, True]
    assert dataset.split.parts.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, TRAIN, TRAIN]


def test_a_single_item_is_a_dataset(tmp_path):
    dataset = prepare(of_users({"a": ["x", "x", "x"]}))
    assert dataset.num_items == 1
    assert_equal(read_dataset(write_dataset(dataset, tmp_path / "one")), dataset)


def test_an_earlier_vocabulary_keeps_its_numbers():
    old = ["i3", "gone", "i1"]
    dataset = prepare(vocabulary=old, items=make_items())
    assert dataset.items["item_id"].tolist() == ["i3", "gone", "i1", "i0", "i2", "i4", "i9"]
    gone, unknown = dataset.items.iloc[1], dataset.items.iloc[6]
    for item in (gone, unknown):
        assert item["training_events"] == 0
        assert item["first_timestamp"] == np.iinfo(np.int64).max
    assert unknown["color"] == "red"
    assert pd.isna(gone["color"])
    grown = prepare(vocabulary=dataset.items["item_id"], items=make_items())
    assert_equal(grown, dataset)


def test_an_earlier_attribute_vocabulary_keeps_its_codes():
    config = AttributeConfig(categorical=("color",), numeric=("price",))
    first = prepare(items=make_items(), attributes=config)
    assert first.attributes.categorical == {"color": ("blue", "red")}
    items = make_items().assign(color="azure", price=100.0)
    second = prepare(items=items, attributes=config, attribute_vocabulary=first.attributes)
    assert second.attributes == first.attributes


# on disk


def full_dataset(events: pd.DataFrame | None = None) -> Dataset:
    return prepare(
        events,
        items=make_items(),
        attributes=AttributeConfig(categorical=("color",), multi_categorical=("tags",), numeric=("price",)),
        split=SplitConfig(validation_fraction=0.2, test_fraction=0.2, target_behaviors=("purchase",), seed=4),
        cleaning={"dropped": {"missing item id": 3}, "examples": [{"row": 7, "query": "ünïcödé"}]},
        source={"path": "log.csv", "fingerprint": "ab12"},
    )


def test_a_dataset_is_read_as_it_was_written(tmp_path):
    dataset = full_dataset()
    assert write_dataset(dataset, str(tmp_path / "deep" / "shop")) == tmp_path / "deep" / "shop"
    assert_equal(read_dataset(tmp_path / "deep" / "shop", fingerprint=dataset.fingerprint), dataset)
    assert sorted(hashes(tmp_path / "deep" / "shop")) == ["dataset.json", "items.parquet", "sequences.parquet"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["shop"]
    assert (tmp_path / "deep" / "shop").stat().st_mode == (tmp_path / "deep").stat().st_mode  # others may read it


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(ODD_IDS) | st.text(min_size=1, max_size=4), min_size=2, max_size=8, unique=True))
def test_ids_survive_the_disk_as_written(tmp_path_factory, ids):
    dataset = prepare(of_users(dict.fromkeys(ids, ids * 3)))
    assert dataset.items["item_id"].tolist() == sorted(ids)
    assert dataset.sequences.user_ids.tolist() == sorted(ids)
    again = read_dataset(write_dataset(dataset, tmp_path_factory.mktemp("ids") / "d"))
    assert_equal(again, dataset)
    assert again.item_index(ids).tolist() == [sorted(ids).index(raw) + 1 for raw in ids]


def test_equal_input_gives_equal_bytes(tmp_path):
    events = make_events()
    write_dataset(full_dataset(events), tmp_path / "a")
    shuffled = events.sample(frac=1, random_state=1)
    write_dataset(full_dataset(shuffled[shuffled.columns[::-1]]), tmp_path / "b")
    write_dataset(full_dataset(events.astype({"user_id": object, "item_id": "category"})), tmp_path / "c")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")


def test_what_decides_a_figure_changes_the_fingerprint():
    dataset = full_dataset()
    sequences, split, items = dataset.sequences, dataset.split, dataset.items
    others = [
        replace(dataset, sequences=replace(sequences, user_ids=sequences.user_ids[::-1])),
        replace(dataset, sequences=replace(sequences, offsets=np.array([0, 9, *sequences.offsets[2:]]))),
        replace(dataset, sequences=replace(sequences, timestamps=sequences.timestamps + 1)),
        replace(dataset, sequences=replace(sequences, values=sequences.values + 1)),
        replace(dataset, sequences=replace(sequences, behaviors=1 - sequences.behaviors)),
        replace(dataset, sequences=replace(sequences, item_ids=sequences.item_ids[::-1])),
        replace(dataset, items=items.iloc[::-1]),
        replace(dataset, items=items.assign(price=items["price"].fillna(0))),
        replace(dataset, items=items.assign(available_from=0)),
        replace(dataset, behaviors=dataset.behaviors[::-1]),
        replace(dataset, time_kind="order"),
        replace(dataset, split=replace(split, parts=split.parts[::-1])),
        replace(dataset, split=replace(split, targets=~split.targets)),
        replace(dataset, split=replace(split, config=replace(split.config, seed=5))),
        replace(dataset, split=replace(split, cuts={**split.cuts, "test_start": 0})),
        replace(dataset, attributes=replace(dataset.attributes, numeric={"price": (0.0, 1.0)})),
    ]
    prints = [other.fingerprint for other in others]
    assert len({dataset.fingerprint, *prints}) == len(others) + 1
    # a name and a report decide nothing
    assert replace(dataset, name="other", cleaning=None, source={}).fingerprint == dataset.fingerprint


def test_columns_of_any_kind_in_the_item_table_survive_the_disk(tmp_path):
    items = pd.DataFrame(
        {
            "item_id": ["i0", "i1", "i2"],
            "whole_or_missing": pd.array([1, None, 3], dtype="Int64"),
            "mixed_numbers": pd.Series([5, 4.5, None], dtype=object),
            "flag": pd.Series([True, None, False], dtype=object),
            "day": pd.to_datetime(["2024-03-01", None, "2024-03-02"]),
            "lists": [["x"], [], None],
            "records": [{"a": 1}, {"b": 2.5}, None],
            "kind": pd.Categorical(["p", None, "q"]),
            "tiny": np.float32([0.1, 0.2, 1e-12]),
            "text": ["ü\n", "", None],
        }
    )
    dataset = prepare(items=items)
    assert_equal(read_dataset(write_dataset(dataset, tmp_path / "d")), dataset)


def test_row_groups_and_offsets_are_joined(tmp_path, monkeypatch):
    dataset = full_dataset()
    write_table = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda table, path: write_table(table, path, row_group_size=2))
    write_dataset(dataset, tmp_path / "d")
    file = pq.ParquetFile(tmp_path / "d" / "sequences.parquet")
    assert file.num_row_groups == 3
    assert_equal(read_dataset(tmp_path / "d"), dataset)
    # int64 offsets, so that more than 2^31 events have a place
    lists = [field.type for field in file.schema_arrow if field.name != "user_id"]
    assert len(lists) == 6
    assert all(pa.types.is_large_list(kind) for kind in lists)


def test_the_facts_in_json(tmp_path):
    dataset = full_dataset()
    facts = read_facts(write_dataset(dataset, tmp_path / "d"))
    assert facts == json.loads(json.dumps(describe_dataset(dataset)))
    assert facts["schema_version"] == 1
    assert facts["fingerprint"] == dataset.fingerprint
    counts = facts["counts"]
    assert (counts["users"], counts["items"], counts["events"]) == (6, 6, 60)
    assert sum(counts[part] for part in ("train", "validation", "test", "history")) == 60
    assert facts["cleaning"]["examples"][0]["query"] == "ünïcödé"
    pd.testing.assert_frame_equal(read_items(tmp_path / "d"), dataset.items)


@pytest.fixture
def written(tmp_path) -> Path:
    return write_dataset(full_dataset(), tmp_path / "shop")


def test_an_existing_dataset_is_replaced_only_if_asked(written):
    other = prepare()
    message = f"{written} exists; choose another directory or allow overwriting it \\(--overwrite\\)"
    with pytest.raises(DataError, match=message):
        write_dataset(other, written)
    assert_equal(read_dataset(written), full_dataset())
    write_dataset(other, written, overwrite=True)
    assert_equal(read_dataset(written), other)
    assert [path.name for path in written.parent.iterdir()] == ["shop"]


def test_what_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("ten years of work")
    (tmp_path / "file").write_text("one more")
    for name in ("notes", "file"):
        message = f"{tmp_path / name} is not a prepared dataset, so it is not replaced; choose another directory"
        with pytest.raises(DataError, match=message):
            write_dataset(prepare(), tmp_path / name, overwrite=True)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "ten years of work"
    (tmp_path / "empty").mkdir()
    assert_equal(read_dataset(write_dataset(prepare(), tmp_path / "empty", overwrite=True)), prepare())


def failing(function, *, at: int, error: BaseException):
    """`function`, but its call number `at` (from 1) raises."""
    calls = iter(range(1, 100))

    def call(*args, **options):
        if next(calls) == at:
            raise error
        return function(*args, **options)

    return call


FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("overwrite", "where", "name", "at"),
    [
        (False, pq, "write_table", 1),
        (False, pq, "write_table", 2),
        (False, os, "replace", 1),
        (True, pq, "write_table", 1),
        (True, pq, "write_table", 2),
        (True, os, "replace", 1),
        (True, os, "replace", 2),
    ],
)
def test_a_disk_that_fills_leaves_no_trace(tmp_path, monkeypatch, overwrite, where, name, at):
    old = full_dataset()
    if overwrite:
        write_dataset(old, tmp_path / "shop")
    monkeypatch.setattr(where, name, failing(getattr(where, name), at=at, error=FULL_DISK))
    with pytest.raises(DataError, match=f"cannot write the dataset to {tmp_path / 'shop'}: No space left on device"):
        write_dataset(prepare(), tmp_path / "shop", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == (["shop"] if overwrite else [])
    if overwrite:
        assert_equal(read_dataset(tmp_path / "shop"), old)


def test_an_interrupted_write_leaves_the_old_dataset(written, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(os.replace, at=2, error=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_dataset(prepare(), written, overwrite=True)
    assert [path.name for path in written.parent.iterdir()] == ["shop"]
    assert_equal(read_dataset(written), full_dataset())


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"cannot write the dataset to {tmp_path}/file/shop: "):
        write_dataset(prepare(), tmp_path / "file" / "shop")
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(dataset_module.tempfile, "TemporaryDirectory", failing(None, at=1, error=read_only))
    with pytest.raises(DataError, match=f"cannot write the dataset to {tmp_path}/shop: Read-only file system"):
        write_dataset(prepare(), tmp_path / "shop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=f"cannot write the dataset to {tmp_path}/shop: Permission denied"):
        write_dataset(prepare(), tmp_path / "shop")
    tmp_path.chmod(0o700)


# damaged


def test_a_place_without_a_dataset(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        message = f"{directory} is not a prepared dataset: it has no dataset.json; run `seqrec prepare` first"
        with pytest.raises(DataError, match=message):
            read_dataset(directory)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"schema_version": 1, "na', "Unterminated string"),
        (b"\xff\xfe{}", "'utf-8' codec can't decode byte 0xff"),
        (b"[1, 2]", "expected an object, found list"),
        (b'{"schema_version": 1}', r"KeyError\('split'\)"),
        (b'{"schema_version": 1, "split": 5}', "TypeError"),
    ],
)
def test_damaged_facts(written, content, problem):
    (written / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"{written}/dataset.json is damaged: {problem}.*; prepare the dataset again"):
        read_dataset(written)


def test_facts_of_another_schema(written):
    facts = json.loads((written / "dataset.json").read_text())
    for version in (99, None):
        (written / "dataset.json").write_text(json.dumps({**facts, "schema_version": version}))
        message = (
            f"{written}/dataset.json has schema version {version}, this release reads 1; prepare the dataset again"
        )
        with pytest.raises(DataError, match=message):
            read_dataset(written)


@pytest.mark.parametrize("name", ["sequences.parquet", "items.parquet"])
def test_missing_or_truncated_tables(written, name):
    content = (written / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a table", None):
        if damaged is None:
            (written / name).unlink()
        else:
            (written / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{written}/{name} is missing or damaged: "):
            read_dataset(written)


def test_tables_without_a_column(written):
    for name, column in (("sequences.parquet", "parts"), ("items.parquet", "item_id")):
        content = (written / name).read_bytes()
        pq.write_table(pq.read_table(written / name).drop_columns([column]), written / name)
        with pytest.raises(DataError, match=f"{written}/{name} is missing or damaged: .*{column}"):
            read_dataset(written)
        (written / name).write_bytes(content)


def change_items(written: Path) -> None:
    table = pd.read_parquet(written / "items.parquet")
    table.assign(price=9.0).to_parquet(written / "items.parquet", index=False)


def change_sequences(written: Path) -> None:
    table = pq.read_table(written / "sequences.parquet")
    pq.write_table(table.take(np.arange(len(table))[::-1]), written / "sequences.parquet")


def change_split(written: Path) -> None:
    facts = json.loads((written / "dataset.json").read_text())
    facts["split"]["seed"] += 1
    (written / "dataset.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("change", [change_items, change_sequences, change_split])
def test_a_dataset_that_was_changed(written, change):
    change(written)
    message = (
        f"{written} was changed after it was prepared: its fingerprint is [0-9a-f]{{16}}, "
        f"{full_dataset().fingerprint} was written; prepare it again"
    )
    with pytest.raises(DataError, match=message):
        read_dataset(written)


def test_another_dataset_than_expected(written):
    message = (
        f"{written} has fingerprint {full_dataset().fingerprint}, 0123 was expected: it is another dataset, or was "
        "prepared anew from other input; prepare the original again or train on this one"
    )
    with pytest.raises(DataError, match=message):
        read_dataset(written, fingerprint="0123")


# bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda log: log.drop(columns="item_id"), r"events: no column 'item_id'.*\(columns found: user_id, timestamp"),
        (
            lambda log: log.rename(columns={"user_id": "user"}),
            "events: no column 'user_id'; did you mean 'user'\\?",
        ),
        (lambda log: log.iloc[:0], "there are no events; expected at least one"),
        (
            lambda log: log.assign(timestamp=pd.to_datetime(log["timestamp"], unit="s")),
            r"events.timestamp must be whole seconds without gaps, got datetime64\[.*\]; read the log with read_events",
        ),
        (
            lambda log: log.assign(timestamp=log["timestamp"] + 0.5),
            "events.timestamp must be whole seconds without gaps, got float64",
        ),
        (
            lambda log: log.assign(timestamp=log["timestamp"].astype("Int64").where(log["row"] > 0)),
            "events.timestamp must be whole seconds without gaps, got Int64",
        ),
        (
            lambda log: log.assign(user_id=log["user_id"].where(log["row"] > 0)),
            "events.user_id has missing ids; clean the log with clean_events",
        ),
        (lambda log: log.assign(behavior="wish"), r"behaviour 'wish' is not one of \['view', 'purchase'\]"),
        (
            lambda log: log.assign(behavior=log["behavior"].where(log["row"] > 0)),
            r"behaviour nan is not one of \['view', 'purchase'\]",
        ),
    ],
)
def test_events_that_are_not_clean_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        prepare(change(make_events()), behaviors=["view", "purchase"])


def test_too_many_behaviours_are_refused():
    events = make_events(count=150)
    with pytest.raises(DataError, match="there are 129 behaviours, at most 128 fit; is it the right column"):
        prepare(events.assign(behavior=[f"b{row % 129}" for row in range(150)]))
    dataset = prepare(events.assign(behavior=[f"b{row % 128:03d}" for row in range(150)]))
    assert dataset.sequences.behaviors.max() == 127


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda items: items.rename(columns={"item_id": "item"}),
            "the item table: no column 'item_id'; did you mean 'item'?",
        ),
        (
            lambda items: pd.concat([items, items.iloc[[1]]]),
            "the item table has item 'i1' more than once; keep one row an item",
        ),
        (
            lambda items: items.assign(item_id=["i3", None, "i0", "i9"]),
            "the item table has no item_id in row 1; give each item one",
        ),
        (
            lambda items: items.assign(first_timestamp=3),
            r"the item table has the columns \['first_timestamp'\], which the dataset makes itself; rename them",
        ),
        (
            lambda items: items.set_axis(["item_id", "color", "color", "tags"], axis=1),
            "the item table: 2 columns are named 'color'; give each column its own name",
        ),
        (
            lambda items: items.assign(size=["XL", 4, 5, 6]),
            "a column of the item table mixes kinds of values: .* column size with type object",
        ),
    ],
)
def test_item_tables_that_do_not_fit_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        prepare(items=change(make_items()))


def test_a_vocabulary_with_doubles_is_refused():
    with pytest.raises(DataError, match="the earlier vocabulary has 3 ids, only 2 of them distinct"):
        prepare(vocabulary=["i1", "i2", "i1"])


def test_what_the_split_and_the_attributes_refuse_comes_through():
    with pytest.raises(DataError, match="the leave_one_out split leaves no validation events"):
        prepare(of_users({"a": ["x", "y"], "b": ["x"]}))
    with pytest.raises(DataError, match="global_timeline needs timestamps"):
        prepare(split=SplitConfig(), time_kind="order")
    with pytest.raises(DataError, match="the item table has no column 'colour'"):
        prepare(items=make_items(), attributes=AttributeConfig(categorical=("colour",)))


def test_no_step_loops_over_events_and_memory_grows_with_them_only(tmp_path):
    def prepared_and_read(count: int) -> int:
        rng = np.random.default_rng(0)
        events = pd.DataFrame(
            {
                "user_id": np.char.add("u", rng.integers(0, count // 20, count).astype(str)),
                "item_id": np.char.add("i", rng.integers(0, count // 50, count).astype(str)),
                "timestamp": rng.integers(1_600_000_000, 1_650_000_000, count),
                "behavior": rng.choice(["view", "purchase"], count),
                "row": np.arange(count),
            }
        )
        dataset = prepare(events, split=SplitConfig())
        again = read_dataset(write_dataset(dataset, tmp_path / "large", overwrite=True))
        assert again.fingerprint == dataset.fingerprint
        assert len(again.sequences.item_ids) == count
        return count

    prepared_and_read(2_000)  # what is made once
    few, many = (count_calls(lambda count=count: prepared_and_read(count)) for count in (2_000, 20_000))
    assert many - few < 18_000 / 4  # about 2,200: users and items, not events
    tracemalloc.start()
    prepared_and_read(20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 20_000  # bytes; about 160 an event, and as many for the log itself
