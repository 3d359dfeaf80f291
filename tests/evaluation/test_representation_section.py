"""Probe tasks of a log written by hand, and the report's section on vectors in which something was planted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.representation.probe_tasks import item_categories, probe_tasks
from seqrec_jax.evaluation.representation.section import representation_section

USERS, ITEMS = 120, 30


def make_log(*, purchases=True):
    """Each user's last events: some items, then item i0 to i29 by turns, a third of the targets purchases."""
    random = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        length = 3 + user % 7
        items = random.integers(0, ITEMS, size=length)
        items[-1] = user % ITEMS
        times = 1_700_000_000 + np.cumsum(random.integers(1, 10_000, size=length))
        behaviors = ["view"] * (length - 1) + ["purchase" if purchases and user % 3 == 0 else "view"]
        rows += [
            (f"u{user:03}", f"i{item:02}", int(time), behavior)
            for item, time, behavior in zip(items, times, behaviors, strict=True)
        ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "behavior"])


def make_dataset(log=None, *, items=True, time_kind="seconds"):
    ids = [f"i{item:02}" for item in range(ITEMS)]
    table = pd.DataFrame({"item_id": ids, "shelf": [f"s{item % 3}" for item in range(ITEMS)]})
    table["price"] = np.arange(ITEMS, dtype=np.float64)
    return prepare_dataset(
        make_log() if log is None else log,
        name="hand",
        split=SplitConfig(rule="leave_one_out"),
        items=table if items else None,
        attributes=AttributeConfig(categorical=("shelf",), numeric=("price",)) if items else None,
        time_kind=time_kind,
    )


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def cases_of(dataset):
    return evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)


@pytest.fixture(scope="module")
def cases(dataset):
    return cases_of(dataset)


def test_tasks_say_what_the_log_says(dataset, cases):
    tasks = probe_tasks(dataset, cases)
    assert tasks.left_out == {}
    log = make_log()
    for row, (_, events) in enumerate(log.groupby("user_id")):
        labels, events = tasks.labels.iloc[row], events.reset_index(drop=True)
        target, last, earlier = (events.iloc[-place] for place in (1, 2, 3))
        price = int(target["item_id"][1:])
        assert labels["next category"] == f"s{price % 3}"
        assert labels["last category"] == f"s{int(last['item_id'][1:]) % 3}"
        assert labels["next behaviour"] == ("purchase" if row % 3 == 0 else "other")
        fifths = ["lowest fifth", "second fifth", "middle fifth", "fourth fifth", "highest fifth"]
        assert labels["next price band"] == fifths[price // 6]  # four users want each of the 30 prices
        assert labels["history length"] == pytest.approx(np.log(len(events)))
        assert labels["time until the next event"] == pytest.approx(np.log1p(target.timestamp - last.timestamp))
        assert labels["time between the last two events"] == pytest.approx(np.log1p(last.timestamp - earlier.timestamp))
        assert dataset.items["item_id"][tasks.types[row] - 1] == last["item_id"]


def test_tasks_of_some_users_are_those_of_all(dataset, cases):
    users = np.arange(1, USERS, 2)
    some, everybody = probe_tasks(dataset, cases, users=users), probe_tasks(dataset, cases)
    for name in ("next category", "history length", "next behaviour"):
        assert list(some.labels[name]) == list(everybody.labels[name].iloc[users])
    np.testing.assert_array_equal(some.types, everybody.types[users])


def test_what_cannot_be_asked_has_a_reason():
    bare = make_dataset(make_log(purchases=False), items=False, time_kind="order")
    tasks = probe_tasks(bare, cases_of(bare))
    assert list(tasks.labels) == ["history length"]
    assert tasks.left_out == {
        "next category": "items have no categorical attribute",
        "next price band": "items have no numeric attribute such as a price",
        "next behaviour": "it is the same for all users (view)",
        "time until the next event": "the log has an order but no times",
        "last category": "items have no categorical attribute",
        "time between the last two events": "the log has an order but no times",
    }
    assert item_categories(bare) is None


def test_attributes_of_users_become_tasks(dataset, cases):
    ids = [f"u{user:03}" for user in range(USERS)]
    segments = pd.DataFrame({"segment": ["a", "b"] * (USERS // 2), "age": np.arange(USERS)}, index=ids)
    segments["rare"] = ["one", *["two"] * 9, *["three"] * (USERS - 10)]
    tasks = probe_tasks(dataset, cases, attributes=segments.iloc[::-1])
    assert list(tasks.labels["segment"]) == list(segments["segment"])
    assert list(tasks.labels["age"]) == list(range(USERS))
    assert tasks.left_out == {"rare": "it is the same for all users (three)"}
    few = probe_tasks(dataset, cases, attributes=segments.iloc[:20])
    assert few.left_out["segment"] == "only 20 users have a label, 50 are needed"
    with pytest.raises(DataError, match="'u000' more than once"):
        probe_tasks(dataset, cases, attributes=segments.iloc[[0, 0]])
    with pytest.raises(ConfigError, match=r"\['history length'\]"):
        probe_tasks(dataset, cases, attributes=segments.rename(columns={"age": "history length"}))


def test_the_first_of_several_categories_stands_for_an_item():
    table = pd.DataFrame({"item_id": [f"i{item:02}" for item in range(ITEMS)], "tags": ["a|b", "b|a", ""] * 10})
    dataset = prepare_dataset(
        make_log(), name="tags", split=SplitConfig(rule="leave_one_out"), items=table,
        attributes=AttributeConfig(multi_categorical=("tags",)),
    )  # fmt: skip
    name, categories = item_categories(dataset)
    assert name == "tags"
    assert categories.codes.tolist()[:4] == [-1, 0, 1, -1] and list(categories.categories) == ["a", "b"]


def planted_vectors(dataset, cases, *, width=6):
    """Users lie near their next item, items near their shelf."""
    random = np.random.default_rng(1)
    shelves = np.array([0, *(item % 3 for item in range(ITEMS))])
    v_y = np.eye(width)[shelves] + 0.2 * random.normal(size=(ITEMS + 1, width))
    v_y[0] = 0
    v_x = v_y[cases.target_items] + 0.1 * random.normal(size=(USERS, width))
    return v_x.astype(np.float32), v_y.astype(np.float32)


def block_of(section, title):
    return next(block for block in section["blocks"] if block["title"].startswith(title))


def test_the_section_says_what_was_planted(dataset, cases):
    v_x, v_y = planted_vectors(dataset, cases)
    v_x[5], v_y[9] = 0, 0
    sensitivities = pd.DataFrame({"last event dropped": [0.1, 0.3, np.nan, 0.2]})
    found = representation_section(v_x, v_y, v_x, dataset, cases, sensitivities=sensitivities, num_permutations=5)
    json.dumps(found, allow_nan=False)
    assert found["key"] == "representation"
    assert "From 119 users and 29 items." in found["summary"]
    assert "labels better than chance" in found["summary"] and "none is dead" in found["summary"]
    pairs = block_of(found, "Users and the items")["rows"]
    assert pairs[0][1] > 0.95 > 0.5 > pairs[0][2] and pairs[0][3] == 115  # 119 but four whose item has no vector
    probes = {row[0]: row for row in block_of(found, "What a linear probe")["rows"]}
    assert probes["next category"][2]["low"] > 0.9 > 0.5 > probes["next category"][4]
    assert probes["history length"][7] < 0.2  # nothing of it was planted
    consistency = {row[1]: row for row in block_of(found, "Whether neighbours")["rows"]}
    assert consistency["next category"][2]["low"] > 0.9 and consistency["next category"][3] == pytest.approx(
        1 / 3, abs=0.02
    )
    moved = block_of(found, "How far a changed")["rows"][0]
    assert moved[1]["mean"] == pytest.approx(0.2) and moved[3] == 3
    gains = [row["mean"] for row in block_of(found, "What v_x knows")["rows"]]
    assert gains == sorted(gains, reverse=True)
    groups = block_of(found, "Map of users")["groups"]
    assert {group["name"] for group in groups} == {"s0", "s1", "s2"}
    assert sum(len(group["x"]) for group in groups) == 119
    items = block_of(found, "Map of items")["groups"]
    assert {label for group in items for label in group["labels"]} == set(dataset.items["item_id"]) - {"i08"}
    rising = block_of(found, "Spectrum")["series"]
    assert all(line["y"][-1] == pytest.approx(1.0, abs=1e-4) and line["y"] == sorted(line["y"]) for line in rising)


def test_without_categories_and_without_users(dataset, cases):
    bare = make_dataset(make_log(purchases=False), items=False, time_kind="order")
    v_x, v_y = planted_vectors(bare, cases_of(bare))
    found, again = (
        representation_section(v_x, v_y, v_x, bare, cases_of(bare), most=60, num_permutations=2) for _ in range(2)
    )
    assert json.dumps(found) == json.dumps(again)
    assert "From 60 users and 30 items." in found["summary"]
    assert block_of(found, "Whether neighbours")["note"] == "items have no category"
    assert [group["name"] for group in block_of(found, "Map of items")["groups"]] == ["all"]
    assert "items have no categorical attribute" in block_of(found, "What a linear probe")["note"]
    few = np.where(np.arange(USERS)[:, None] < 40, v_x, 0)
    found = representation_section(few, v_y, few, dataset, cases)
    assert found["blocks"] == [] and found["summary"].startswith("Only 40 users")


def test_vectors_of_something_else_are_refused(dataset, cases):
    v_x, v_y = planted_vectors(dataset, cases)
    with pytest.raises(ShapeError, match=r"v_x has shape \(100, 6\), expected \(120"):
        representation_section(v_x[:100], v_y, v_x, dataset, cases)
    with pytest.raises(ShapeError, match=r"v_y has shape \(30, 6\), expected \(31"):
        representation_section(v_x, v_y[1:], v_x, dataset, cases)
    with pytest.raises(ShapeError, match="the same width"):
        representation_section(v_x, v_y, v_x[:, :4], dataset, cases)
