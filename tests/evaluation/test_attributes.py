"""The tables of users and targets against a case worked by hand and plain loops over a random log."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import TRAIN, SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.users.attributes import (
    check_users,
    popularity_deciles,
    tail_items,
    target_table,
    training_counts,
    user_table,
)

DAY = 86_400


def make_dataset(rows, *, rule="leave_one_out", time_kind="seconds", **split):
    """Rows of user, item, days and behaviour; items i1 to i4 with a category."""
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "days", "behavior"])
    log["timestamp"] = (log.pop("days") * DAY).astype(np.int64)
    names = sorted({f"i{item}" for item in range(1, 5)} | set(log["item_id"]))
    items = pd.DataFrame({"item_id": names, "kind": ["red", None, "blue", "red", *["red"] * (len(names) - 4)]})
    return prepare_dataset(
        log,
        name="log",
        split=SplitConfig(rule=rule, **split),
        items=items,
        attributes=AttributeConfig(categorical=("kind",)),
        time_kind=time_kind,
    )


ROWS = [
    *[("a", "i1", 0, "view"), ("a", "i2", 1, "view"), ("a", "i1", 3, "buy"), ("a", "i3", 5, "buy")],
    *[("b", "i2", 0, "view"), ("b", "i2", 2, "buy"), ("b", "i2", 2.5, "view")],
    *[("c", "i3", 1, "view"), ("c", "i1", 4, "view")],
]


def cases_of(dataset, **options):
    return evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items, **options)


def test_a_case_worked_by_hand():
    dataset = make_dataset(ROWS)
    assert training_counts(dataset).tolist() == [0, 2, 2, 1, 0]
    table = user_table(dataset, cases_of(dataset))
    expected = {
        "user_id": ["a", "b"],
        "history_length": [3, 2],
        "targets": [1, 1],
        "first_target": ["i3", "i2"],
        "first_target_popularity": [1, 2],
        "popularity_decile": [7, 3],  # the middles of the places 3 and 1–2 of four
        "first_target_age_days": [4.0, 2.5],
        "first_target_behavior": ["buy", "view"],
        "seconds_since_last_event": [2.0 * DAY, 0.5 * DAY],
        "target_is_last_item": [False, True],
        "target_in_history": [False, True],
        "history_popularity": pytest.approx([math.log(3)] * 2),
        "last_behavior": ["buy", "buy"],
    }
    assert list(table.columns) == [*expected, "target_kind"]
    for name, values in expected.items():
        assert table[name].tolist() == values, name
    assert table["target_kind"].isna().tolist() == [False, True] and table["target_kind"].iloc[0] == "blue"


def test_without_times_there_are_no_ages_and_without_history_no_last_event():
    dataset = make_dataset(ROWS, time_kind="order")
    table = user_table(dataset, cases_of(dataset))
    assert table[["first_target_age_days", "seconds_since_last_event"]].isna().all(axis=None)
    rows = [*ROWS, ("d", "i1", 6, "buy")]
    dataset = make_dataset(
        rows, rule="global_timeline", validation_start="1970-01-04T00:00:00", test_start="1970-01-05T00:00:00"
    )
    table = user_table(dataset, cases_of(dataset, min_history=0)).set_index("user_id")
    row = table.loc["d"]
    assert (row["history_length"], row["target_is_last_item"], row["target_in_history"]) == (0, False, False)
    assert row[["seconds_since_last_event", "history_popularity", "last_behavior"]].isna().all()
    assert (row["first_target"], row["first_target_age_days"]) == ("i1", 6.0)
    nobody = cases_of(dataset, min_history=0)
    alone = np.flatnonzero(nobody.histories.lengths == 0)
    nobody = replace(
        nobody,
        users=nobody.users[alone],
        histories=nobody.histories.select_users(alone),
        target_offsets=np.array([0, 1]),
        target_items=nobody.target_items[nobody.target_offsets[alone]],
        target_events=nobody.target_events[nobody.target_offsets[alone]],
    )
    assert user_table(dataset, nobody)["last_behavior"].isna().all()


def test_a_random_log_equals_loops(monkeypatch):
    monkeypatch.setattr("seqrec_jax.data.sequences._BLOCK_USERS", 7)
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", f"i{1 + rng.integers(12)}", float(rng.integers(0, 100)), ["view", "buy"][rng.integers(2)])
        for user in range(40)
        for _ in range(rng.integers(3, 15))
    ]
    dataset = make_dataset(rows, rule="global_timeline")
    cases = cases_of(dataset)
    users, targets = user_table(dataset, cases), target_table(dataset, cases)
    sequences, names = dataset.sequences, dataset.items["item_id"].tolist()
    train = [item for item, part in zip(sequences.item_ids, dataset.split.parts, strict=True) if part == TRAIN]
    place = 0
    for case, user in enumerate(cases.users):
        begin, end = cases.histories.offsets[case : case + 2]
        history = cases.histories.item_ids[begin:end].tolist()
        for number in range(cases.num_targets[case]):
            item = int(cases.target_items[place])
            events = range(sequences.offsets[user], sequences.offsets[user + 1])
            held_out = [event for event in events if dataset.split.parts[event] == 2]
            event = next(event for event in held_out if sequences.item_ids[event] == item)
            born = min(
                time for time, other in zip(sequences.timestamps, sequences.item_ids, strict=True) if other == item
            )
            row = targets.iloc[place]
            assert (row["case"], row["item"], row["popularity"]) == (case, names[item - 1], train.count(item))
            assert row["age_days"] == (sequences.timestamps[event] - born) / DAY
            assert row["behavior"] == dataset.behaviors[sequences.behaviors[event]]
            assert row["in_history"] == (item in history)
            if number == 0:
                first = users.iloc[case]
                gap = sequences.timestamps[event] - cases.histories.timestamps[end - 1]
                assert (first["seconds_since_last_event"], first["first_target"]) == (gap, names[item - 1])
                assert first["target_is_last_item"] == (history[-1] == item)
                expected = np.mean([math.log1p(train.count(other)) for other in history])
                assert first["history_popularity"] == pytest.approx(expected)
            place += 1
    assert place == len(targets) and len(users) > 10


def test_deciles_do_not_depend_on_the_order_of_ids_and_hold_a_tenth_each():
    rng = np.random.default_rng(1)
    counts = np.concatenate([[0], rng.permutation(1000)])
    deciles = popularity_deciles(counts)
    assert np.bincount(deciles).tolist() == [1, *[100] * 10]
    assert (deciles[1:] == 10 - counts[1:] // 100).all()
    order = np.concatenate([[0], 1 + rng.permutation(1000)])
    coarse = counts // 37
    np.testing.assert_array_equal(popularity_deciles(coarse[order]), popularity_deciles(coarse)[order])
    assert popularity_deciles(np.zeros(1, dtype=int)).tolist() == [0]


def test_the_tail_is_as_large_as_it_can_be_and_ties_stay_together():
    counts = np.concatenate([[99], np.random.default_rng(2).geometric(0.02, size=300)])
    tail = tail_items(counts)
    assert not tail[0] and 0 < counts[tail].sum() <= 0.2 * counts[1:].sum()
    next_level = counts[1:][~tail[1:]].min()
    assert counts[tail].max() < next_level
    assert counts[tail].sum() + next_level * (counts[1:] == next_level).sum() > 0.2 * counts[1:].sum()
    assert tail_items(np.array([0, 5, 5, 5])).sum() == 0
    for share in (0, 1, math.nan):
        with pytest.raises(ConfigError, match="share must be greater than 0 and less than 1"):
            tail_items(counts, share=share)


def test_further_attributes_come_by_user():
    dataset = make_dataset(ROWS)
    cases = cases_of(dataset)
    extra = pd.DataFrame({"user_id": ["b", "z"], "country": ["de", "fr"]})
    for given in (extra, extra.set_index("user_id")):
        country = user_table(dataset, cases, attributes=given)["country"]
        assert country.isna().tolist() == [True, False] and country.iloc[1] == "de"
    for wrong, message in [
        (extra.rename(columns={"user_id": "user"}), "name the column or the index of raw ids user_id"),
        (pd.concat([extra, extra]), "have user 'b' more than once"),
        (extra.rename(columns={"country": "targets"}), r"have the columns \['targets'\], which the table has itself"),
    ]:
        with pytest.raises(DataError, match=message):
            user_table(dataset, cases, attributes=wrong)
    with pytest.raises(ShapeError, match="has 2 rows, 5 users were judged"):
        check_users(extra, 5)
