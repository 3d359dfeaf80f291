"""The backtest on the simulated shop and on a log whose taste moves: nothing of the future, and age has its price."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seqrec_jax.baselines import FunctionRanker, item_to_item, most_popular
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.simulator import ShopConfig, simulate
from seqrec_jax.data.shop.world import DAY_SECONDS
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.robustness import backtest as module
from seqrec_jax.evaluation.robustness.backtest import backtest, freshness_section, mean_over_origins, rolling_origins

CONFIG = EvaluationConfig(cutoffs=(5, 10), num_resamples=200)
NEXT = EvaluationConfig(cutoffs=(5, 10), num_resamples=200, targets="next")


def make_fit(num_items: int, *, calls: list[Sequences] | None = None):
    def fit(known: Sequences) -> list[FunctionRanker]:
        if calls is not None:
            calls.append(known)
        return [most_popular(known, num_items=num_items), item_to_item(known, num_items=num_items)]

    return fit


@pytest.fixture(scope="module")
def shop():
    tables = simulate(ShopConfig(num_users=300, num_items=60, num_tastes=4, num_categories=4, num_days=40), 1)
    return prepare_dataset(tables.events, name="shop", split=SplitConfig(), items=tables.items)


@pytest.fixture(scope="module")
def cuts(shop) -> list[int]:
    return rolling_origins(shop.sequences, num_origins=3, window_seconds=7 * DAY_SECONDS)


@pytest.fixture(scope="module")
def frame(shop, cuts) -> pd.DataFrame:
    return backtest(shop, cuts=cuts, fit=make_fit(shop.num_items), config=CONFIG, max_age=None)


@pytest.fixture(scope="module")
def drifting():
    """Each week another ten of forty items are bought, whoever the user is."""
    rng = np.random.default_rng(0)
    events = 6_000
    times = np.sort(rng.integers(0, 6 * 7 * DAY_SECONDS, events))
    items = (times // (7 * DAY_SECONDS) * 5 + rng.integers(0, 10, events)) % 40
    log = pd.DataFrame(
        {
            "user_id": [f"u{user:03}" for user in rng.integers(0, 120, events)],
            "item_id": [f"i{item:02}" for item in items],
            "timestamp": times + 1_700_000_000,
        }
    )
    return prepare_dataset(log, name="drifting", split=SplitConfig())


def recent(known: Sequences, *, num_items: int) -> FunctionRanker:
    last = known.select_events(known.timestamps >= known.timestamps.max() - 3 * DAY_SECONDS)
    return most_popular(last, num_items=num_items)


def test_cuts_are_as_far_apart_as_asked_and_end_behind_the_last_event(shop, cuts):
    times = shop.sequences.timestamps
    assert np.diff(cuts).tolist() == [7 * DAY_SECONDS] * 3
    assert cuts[-1] == times.max() + 1
    by_share = rolling_origins(shop.sequences, num_origins=4, first_share=0.6)
    assert len(by_share) == 5
    assert np.mean(times < by_share[0]) == pytest.approx(0.6, abs=0.01)
    assert np.ptp(np.diff(by_share)) <= 1
    assert by_share[-1] == times.max() + 1


def test_no_target_lies_before_its_origin_no_history_after_it_and_no_event_is_a_target_twice(shop, cuts, monkeypatch):
    asked = []

    def spy(*arguments, **options):
        asked.append(evaluation_cases(*arguments, **options))
        return asked[-1]

    monkeypatch.setattr(module, "evaluation_cases", spy)
    calls: list[Sequences] = []
    backtest(shop, cuts=cuts, fit=make_fit(shop.num_items, calls=calls), config=CONFIG)
    assert len(asked) == len(calls) == 3
    times, users = shop.sequences.timestamps, shop.sequences.users_of_events
    for cases, known, start, end in zip(asked, calls, cuts, cuts[1:], strict=False):
        held_out = times[cases.target_events]
        assert held_out.min() >= start
        assert held_out.max() < end
        assert known.timestamps.max() < start
        assert cases.histories.timestamps.max() < start
        # all that came before the origin is known and is history
        assert len(known.item_ids) == (times < start).sum()
        before = np.bincount(users[times < start], minlength=shop.sequences.num_users)
        assert cases.histories.lengths.tolist() == before[cases.users].tolist()
        # every user with a history is asked for all items that follow in the window
        inside = (times >= start) & (times < end) & (before[users] > 0) & (shop.sequences.item_ids > 0)
        assert len(cases.target_items) == len(
            np.unique(np.stack([users, shop.sequences.item_ids])[:, inside], axis=1).T
        )
        new = shop.items["first_timestamp"].to_numpy() >= start
        assert not cases.candidates[1:][new].any()
    events = np.concatenate([cases.target_events for cases in asked])
    assert len(np.unique(events)) == len(events)


def test_a_row_is_what_the_judge_says_of_a_model_trained_before_its_time(shop, cuts, frame):
    assert len(frame) == 2 * (1 + 2 + 3)
    start, end = cuts[1:3]
    times = shop.sequences.timestamps
    log = shop.sequences.select_events(times < end)
    by_rule = SplitConfig(
        validation_start=pd.Timestamp(start - DAY_SECONDS, unit="s").isoformat(),
        test_start=pd.Timestamp(start, unit="s").isoformat(),
    )
    split = module.Split(
        np.where(log.timestamps >= start, module.TEST, module.TRAIN), log.item_ids > 0, by_rule, {"test_start": start}
    )
    cases = evaluation_cases(log, split, stage="test", num_items=shop.num_items)
    for age, trained in enumerate((cuts[1], cuts[0])):
        ranker = item_to_item(shop.sequences.select_events(times < trained), num_items=shop.num_items)
        values = judge(ranker, cases, config=CONFIG).per_user["ndcg@10"]
        row = frame[(frame["origin"] == 1) & (frame["age"] == age) & (frame["system"] == "item to item")].iloc[0]
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert row["mean_low"] < row["mean"] < row["mean_high"]
        assert (row["cut"], row["trained_at"], row["age_days"]) == (start, trained, 7 * age)
        assert (row["users"], row["targets"]) == (len(cases.users), len(cases.target_items))
        if age == 0:
            fresh = values
            assert math.isnan(row["loss_share"])
        else:
            assert row["loss_share"] == pytest.approx(1 - values.mean() / fresh.mean(), abs=1e-6)


def test_without_retraining_there_is_one_training_and_its_rows_are_those_of_the_first_model(shop, cuts, frame):
    calls: list[Sequences] = []
    stale = backtest(shop, cuts=cuts, fit=make_fit(shop.num_items, calls=calls), config=CONFIG, retrain=False)
    assert len(calls) == 1
    assert stale["age"].tolist() == [0, 0, 1, 1, 2, 2]
    assert stale["loss_share"].isna().all()
    keys = ["origin", "system", "trained_at", "age_days", "users", "mean", "mean_low", "mean_high"]
    first = frame[frame["trained_at"] == cuts[0]]
    pd.testing.assert_frame_equal(stale[keys], first[keys].reset_index(drop=True))


def test_models_are_kept_for_as_long_as_asked_and_users_are_spread(shop, cuts):
    calls: list[Sequences] = []
    fit = make_fit(shop.num_items, calls=calls)
    table = backtest(shop, cuts=cuts, fit=fit, config=NEXT, max_age=1, num_users=20)
    assert len(calls) == 3
    popular = table[table["system"] == "most popular"]
    assert list(zip(popular["origin"], popular["age"], strict=True)) == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert (table[["users", "targets"]] == 20).all(axis=None)


def test_age_costs_where_taste_moves_and_the_retrained_model_is_better(drifting):
    cuts = rolling_origins(drifting.sequences, num_origins=4, window_seconds=7 * DAY_SECONDS)

    def fit(known: Sequences) -> list[FunctionRanker]:
        return [recent(known, num_items=drifting.num_items)]

    frame = backtest(drifting, cuts=cuts, fit=fit, config=NEXT, max_age=None)
    losses = mean_over_origins(frame, figure="loss_share")
    assert losses["age"].tolist() == [1, 2, 3]
    assert losses["mean"].iloc[0] > 0.2
    assert losses["low"].iloc[0] > 0
    assert losses["origins"].tolist() == [3, 2, 1]
    for _, rows in frame.groupby("origin"):
        fresh, *old = rows["mean"]
        assert all(fresh > value for value in old)
    section = freshness_section(frame)
    assert "Trained 21 days before the lists are made, most popular loses" in section["summary"]
    json.dumps(section, allow_nan=False)


def test_means_over_origins_have_students_interval_and_one_origin_that_of_its_users(frame):
    table = mean_over_origins(frame)
    assert table["system"].tolist() == ["most popular"] * 3 + ["item to item"] * 3
    assert table["origins"].tolist() == [3, 2, 1] * 2
    fresh = frame[(frame["system"] == "item to item") & (frame["age"] == 0)]["mean"]
    row = table.iloc[3]
    low, high = stats.t.interval(0.95, 2, loc=fresh.mean(), scale=stats.sem(fresh))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((fresh.mean(), low, high))
    oldest = frame[(frame["system"] == "item to item") & (frame["age"] == 2)].iloc[0]
    assert (table.iloc[5]["low"], table.iloc[5]["high"]) == (oldest["mean_low"], oldest["mean_high"])


def test_the_section_tells_age_from_difficulty_only_where_it_can(shop, cuts, frame):
    section = freshness_section(frame)
    json.dumps(section, allow_nan=False)
    assert [block["kind"] for block in section["blocks"]] == ["curve", "curve", "curve", "table"]
    assert section["summary"].startswith("At 3 origins from ")
    assert "Trained 14 days before the lists are made, most popular" in section["summary"]
    assert len(section["blocks"][0]["series"][0]["x"][0]) == len("2024-01-01")
    assert len(section["blocks"][0]["series"][0]["x"]) == 3
    stale = freshness_section(frame[frame["trained_at"] == cuts[0]].assign(loss_share=math.nan))
    assert "cannot be separated from" in stale["summary"]
    assert [block["kind"] for block in stale["blocks"]] == ["curve", "curve", "table"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_origins": 0}, ConfigError, "num_origins must be at least 1, got 0"),
        ({"num_origins": 2, "window_seconds": 0}, ConfigError, "window_seconds must be at least 1, got 0"),
        (
            {"num_origins": 2, "first_share": 1.0},
            ConfigError,
            "first_share must be greater than 0 and less than 1",
        ),
        ({"num_origins": 9, "window_seconds": 7 * DAY_SECONDS}, DataError, "9 windows of 604800 s do not fit"),
    ],
)
def test_windows_that_do_not_fit_are_refused(shop, options, error, message):
    with pytest.raises(error, match=message):
        rolling_origins(shop.sequences, **options)


def test_a_backtest_that_cannot_be_is_refused(shop, cuts):
    fit = make_fit(shop.num_items)
    with pytest.raises(ConfigError, match="cuts must rise"):
        backtest(shop, cuts=cuts[::-1], fit=fit, config=CONFIG)
    with pytest.raises(ConfigError, match="max_age must be at least 0"):
        backtest(shop, cuts=cuts, fit=fit, config=CONFIG, max_age=-1)
    with pytest.raises(DataError, match=r"the window from .*no user has a test target"):
        backtest(shop, cuts=[cuts[0], cuts[0] + 1], fit=fit, config=CONFIG)
    with pytest.raises(DataError, match="there are no events before"):
        backtest(shop, cuts=[0, cuts[0]], fit=fit, config=CONFIG, case_options={"min_history": 0})
    with pytest.raises(ConfigError, match="each under its own name"):
        backtest(shop, cuts=cuts, fit=lambda known: fit(known)[:1] * 2, config=CONFIG)
