"""Rows of what followed a moment, beside loops over the log; and the shop's own law of coming back, beside the shop."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.attributes import AttributeVocabulary
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.outcomes import next_value_rows, outcome_rows
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.returns import return_probabilities
from seqrec_jax.data.shop.simulator import simulate
from seqrec_jax.data.shop.world import DAY_SECONDS, START, ShopConfig
from seqrec_jax.data.splits import Split, SplitConfig
from seqrec_jax.errors import ConfigError, DataError

DAY = 86_400


def dataset(seed=0, *, num_users=30, cuts=None):
    """30 days of a log of views and purchases; some users have no event at all."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, num_users)
    count = int(lengths.sum())
    times = np.concatenate([np.sort(rng.integers(0, 30 * DAY // 3600, n)) * 3600 for n in lengths]).astype(np.int64)
    sequences = Sequences(
        user_ids=np.array([f"u{n}" for n in range(num_users)], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=np.ones(count, np.int32),
        timestamps=times,
        behaviors=rng.integers(0, 2, count).astype(np.int8),
        values=np.full(count, np.nan, np.float32),
    )
    split = Split(np.zeros(count, np.int8), np.ones(count, bool), SplitConfig(), cuts or {})
    items = pd.DataFrame({"item_id": ["a"]})
    return Dataset(
        "log", sequences, items, AttributeVocabulary({}, {}, {}), ("view", "buy"), split, "seconds", None, {}
    )


@pytest.mark.parametrize("behaviors", [None, ("buy",)])
@pytest.mark.parametrize("active_days", [None, 6])
def test_labels_are_what_a_loop_finds(behaviors, active_days):
    data = dataset()
    log, moments = data.sequences, np.array([10, 20, 15]) * DAY
    options = {"days": 7, "behaviors": behaviors, "active_days": active_days}
    rows = outcome_rows(data, moments, until=30 * DAY, **options).rows
    expected = []
    for moment in sorted(moments):
        for user in range(log.num_users):
            events = range(*log.offsets[user : user + 2])
            before = [log.timestamps[one] for one in events if log.timestamps[one] < moment]
            if not before or (active_days and max(before) < moment - active_days * DAY):
                continue
            wanted = [one for one in events if behaviors is None or log.behaviors[one] == 1]
            label = any(moment <= log.timestamps[one] < moment + 7 * DAY for one in wanted)
            expected.append((f"u{user}", moment, int(label)))
    assert list(rows.itertuples(index=False, name=None)) == expected and rows["label"].nunique() == 2


def test_a_label_does_not_see_what_comes_after_its_days_nor_what_the_head_sees():
    """Events after the window, and those before the moment, may be anything as long as users are asked at all."""
    data = dataset()
    log, moment = data.sequences, 15 * DAY
    rows = outcome_rows(data, [moment], days=3).rows
    inside = (log.timestamps >= moment) & (log.timestamps < moment + 3 * DAY)
    first = np.unique(log.users_of_events, return_index=True)[1]
    kept = inside | np.isin(np.arange(len(inside)), first)
    less = outcome_rows(replace(data, sequences=log.select_events(kept)), [moment], days=3, until=30 * DAY).rows
    pd.testing.assert_frame_equal(rows, less)


def test_moments_whose_days_are_not_over_or_reach_into_another_part_are_left_out():
    data = dataset(cuts={"validation_start": 14 * DAY, "test_start": 21 * DAY})
    found = outcome_rows(data, np.arange(5, 30) * DAY, days=7, until=30 * DAY)
    assert sorted(set(found.rows["timestamp"] // DAY)) == [5, 6, 7, 14, 21, 22, 23]
    assert found.notes[:2] == [
        "6 of 25 moments left out: the log ends within 7 days of them",
        "12 of 25 moments left out: their 7 days reach over the start of the validation or the test",
    ]
    assert found.notes[2].startswith(f"{len(found.rows)} rows at 7 moments, ")
    last = int(data.sequences.timestamps.max())
    assert len(outcome_rows(data, [last + 1 - 7 * DAY], days=7).rows)
    with pytest.raises(DataError, match="no moment is left to make rows for: 1 of 1 moments left out: the log ends"):
        outcome_rows(data, [last + 2 - 7 * DAY], days=7)


def test_what_is_refused():
    data = dataset()
    with pytest.raises(ConfigError, match="days must be greater than 0, got 0"):
        outcome_rows(data, [DAY], days=0)
    with pytest.raises(ConfigError, match=r"behaviors name \['sale'\]"):
        outcome_rows(data, [DAY], days=1, behaviors=["sale"])
    with pytest.raises(DataError, match="have an order and no times"):
        outcome_rows(replace(data, time_kind="order"), [DAY], days=1)
    with pytest.raises(DataError, match="no moment is left"):
        outcome_rows(data, [], days=1)


def test_the_value_of_the_next_item_is_what_a_loop_finds():
    data = dataset(cuts={"validation_start": 14 * DAY, "test_start": 21 * DAY})
    log = data.sequences
    ids = np.random.default_rng(2).integers(0, 4, len(log.item_ids)).astype(np.int32)
    log = replace(log, item_ids=ids)
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "kind": ["x", None, "y"]})
    data, moments = replace(data, sequences=log, items=items), np.array([10, 15, 22]) * DAY
    rows = next_value_rows(data, moments, column="kind", behaviors=["buy"]).rows
    expected = []
    for moment, end in zip(moments, (14, 21, 99), strict=True):
        for user in range(log.num_users):
            events = range(*log.offsets[user : user + 2])
            later = [one for one in events if moment <= log.timestamps[one] < end * DAY]
            later = [one for one in later if log.behaviors[one] == 1 and log.item_ids[one] in (1, 3)]
            if later and log.timestamps[events[0]] < moment:
                expected.append((f"u{user}", moment, "x" if log.item_ids[later[0]] == 1 else "y"))
    assert list(rows.itertuples(index=False, name=None)) == expected and rows["label"].nunique() == 2
    for column, at, message in (("color", moments, "no column 'color'"), ("kind", [40 * DAY], "no user with a")):
        with pytest.raises(DataError, match=message):
            next_value_rows(data, at, column=column)


@pytest.mark.parametrize("days", [3, 14])
def test_the_law_of_coming_back_is_that_of_the_shop(days):
    """Of users that were last there so many days ago, the share that comes back; at midnight and in the afternoon."""
    config = ShopConfig(num_users=20_000, num_items=20, num_slots=2, num_days=40, churn=0.2, return_per_day=0.3)
    events = simulate(config, 3).events
    for moment in (START + 20 * DAY_SECONDS, START + 21 * DAY_SECONDS + 54_123):
        before = events[events["timestamp"] < moment].groupby("user_id")["timestamp"].max()
        after = events[(events["timestamp"] >= moment) & (events["timestamp"] < moment + days * DAY_SECONDS)]
        came = before.index.isin(after["user_id"].unique())
        chances = return_probabilities(config, before.to_numpy(), np.full(len(before), moment), days=days)
        silent = (moment - before.to_numpy()) // DAY_SECONDS
        just_now = moment - before.to_numpy() < 1800
        for group in (just_now, (silent == 0) & ~just_now, silent == 1, silent == 4, silent == 9, silent > 14):
            error = np.sqrt(np.sum(chances[group] * (1 - chances[group])) + 1e-9)
            assert abs(came[group].sum() - chances[group].sum()) < 4 * error + 0.5, (group.sum(), chances[group].mean())
    assert (chances >= 0).all() and (chances <= 1).all()
