"""The four questions: their figures against loops and cases worked by hand."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.baselines import FunctionRanker, last_item, most_popular
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import tail_items, training_counts, user_table
from seqrec_jax.evaluation.users.shop_questions import (
    cutoff,
    exposure_share,
    found_by_bin,
    gain_over,
    known_items,
    list_distance,
    shop_question_sections,
)
from seqrec_jax.evaluation.users.slices import Bins, bins_of

CONFIG = EvaluationConfig(metric="ndcg@5", cutoffs=(5, 10), num_resamples=200)
NUM_ITEMS = 40


def make_dataset():
    rng = np.random.default_rng(0)
    rows = []
    for user in range(600):
        times = np.cumsum(rng.lognormal(12, 1.5, rng.integers(2, 12))) + rng.uniform(0, 3e6) + 4e6 * (user >= 560)
        rows += [(f"u{user:03}", f"i{int(NUM_ITEMS * rng.random() ** 2):02}", int(time)) for time in times]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return prepare_dataset(log, name="log", split=SplitConfig("global_timeline"))


@pytest.fixture(scope="module")
def shop():
    dataset = make_dataset()
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items, min_history=0)
    train, size = dataset.training_sequences, dataset.num_items
    random = np.random.default_rng(1).random(size + 1).astype(np.float32)

    def scores(histories):
        rolled = [np.roll(random, int(user[1:])) for user in histories.user_ids]
        return np.stack(rolled)

    rankers = [last_item(num_items=size), most_popular(train, num_items=size), FunctionRanker("random", scores)]
    return dataset, cases, [judge(ranker, cases, config=CONFIG) for ranker in rankers]


def test_shares_found_by_bin_equal_loops(shop):
    _, cases, judged = shop
    codes = np.random.default_rng(2).integers(0, 3, len(cases.target_items))
    shares = found_by_bin(judged[1], cases, Bins(list("abc"), codes), k=5)
    for user in range(len(cases.users)):
        places = range(cases.target_offsets[user], cases.target_offsets[user + 1])
        for part in range(3):
            hits = [float(judged[1].ranks[place] <= 5) for place in places if codes[place] == part]
            assert shares[user, part] == pytest.approx(np.mean(hits) if hits else math.nan, nan_ok=True)


def test_the_distance_of_lists_is_the_mean_over_pairs():
    rng = np.random.default_rng(3)
    lists = np.stack([rng.permutation(np.arange(1, 12))[:4] for _ in range(20)])
    pairs = [len(set(one) & set(two)) / 4 for one, two in combinations(lists.tolist(), 2)]
    assert list_distance(lists) == pytest.approx(1 - np.mean(pairs), abs=1e-6)
    assert list_distance(np.tile(lists[:1], (5, 1))) == pytest.approx(0, abs=1e-6)


def test_exposure_is_counted_over_filled_places_of_known_items():
    group = np.array([False, True, False, True])
    assert exposure_share(np.array([[1, 2], [3, 0]]), group) == pytest.approx(2 / 3)
    assert exposure_share(np.array([[9, 3], [2, -1]]), group) == 0.5
    assert known_items(np.array([[9, 3], [2, -1]]), 3).tolist() == [[0, 3], [2, 0]]
    assert math.isnan(exposure_share(np.zeros((2, 2), dtype=int), group))


def test_gains_are_counted_by_user(shop):
    _, _, judged = shop
    gain = gain_over(judged[0], judged[1], "ndcg@5")
    own, base = judged[0].per_user["ndcg@5"], judged[1].per_user["ndcg@5"]
    assert (gain.better, gain.worse, gain.same) == ((own > base).mean(), (own < base).mean(), (own == base).mean())
    with pytest.raises(ConfigError, match="ndcg@7 was not measured"):
        gain_over(judged[0], judged[1], "ndcg@7")


def test_the_cutoff_is_that_of_the_deciding_metric():
    assert cutoff(CONFIG) == 5
    assert cutoff(EvaluationConfig(metric="auc", cutoffs=(5, 20))) == 20
    assert cutoff(EvaluationConfig(metric="accuracy@1", cutoffs=(5, 20))) == 20


def test_the_sections_say_what_the_figures_are(shop):
    dataset, cases, judged = shop
    users = user_table(dataset, cases)
    sections = {
        section["key"]: section for section in shop_question_sections(judged, dataset, cases, users, config=CONFIG)
    }
    assert list(sections) == ["cold_start", "long_tail", "freshness", "personalisation"]
    json.dumps(sections, allow_nan=False)
    cold = sections["cold_start"]
    never = int((training_counts(dataset)[cases.target_items] == 0).sum())
    assert f"{never} of {len(cases.target_items)} targets were never seen" in cold["summary"]
    empty = int((cases.histories.lengths == 0).sum())
    assert empty > 0 and f"{empty} users have no history at all." in cold["summary"]
    series = cold["blocks"][0]["series"]
    assert [line["name"] for line in series] == [entry.name for entry in judged]
    assert all(
        low <= y <= high for line in series for low, y, high in zip(line["low"], line["y"], line["high"], strict=True)
    )
    long_tail = sections["long_tail"]["blocks"][1]["rows"]
    tail = tail_items(training_counts(dataset))
    for row, entry in zip(long_tail, judged, strict=True):
        shown = [item for line in entry.lists[:, :5] for item in line if item]
        assert row[1] == pytest.approx(np.mean([tail[item] for item in shown]))
        assert row[2] == pytest.approx(tail[cases.target_items].mean())
        ranks = pd.Series(entry.ranks <= 5).groupby([tail[cases.target_items], _case_of(cases)]).mean()
        assert row[3]["mean"] == pytest.approx(ranks[True].mean())
        assert row[4]["mean"] == pytest.approx(ranks[False].mean())
    days = users["seconds_since_last_event"].median() / 86_400
    assert f"Half of the users came back within {days:.1f} days." in sections["freshness"]["summary"]
    fresh = sections["freshness"]["blocks"][0]["series"][0]
    gaps = users["seconds_since_last_event"]
    bins = bins_of(gaps, edges=[0, 60, 3_600, 86_400, 7 * 86_400, 30 * 86_400])
    known = [bins.members(place) for place, label in enumerate(bins.labels) if label != "unknown"]
    assert len(known) > 1
    assert fresh["x"] == pytest.approx([1 + gaps[members].mean() / 3_600 for members in known])
    assert fresh["y"] == pytest.approx([judged[0].per_user["ndcg@5"][members].mean() for members in known])
    assert " and more (" in sections["freshness"]["summary"]
    rows = sections["personalisation"]["blocks"][1]["rows"]
    assert [row[0] for row in rows] == ["last item again", "random"]
    gain = judged[0].per_user["ndcg@5"] - judged[1].per_user["ndcg@5"]
    assert rows[0][1]["mean"] == pytest.approx(gain.mean())
    curve = sections["personalisation"]["blocks"][2]["series"][0]
    assert (curve["y"][0], curve["y"][-1]) == pytest.approx((gain.min(), gain.max()))


def _case_of(cases):
    return np.repeat(np.arange(len(cases.users)), cases.num_targets)


def test_without_times_or_a_popular_list_the_sections_say_so(shop):
    dataset, _, _ = shop
    dataset = prepare_dataset(
        pd.DataFrame(
            {
                "user_id": dataset.sequences.user_ids[dataset.sequences.users_of_events],
                "item_id": dataset.items["item_id"].to_numpy()[dataset.sequences.item_ids - 1],
                "timestamp": np.arange(len(dataset.sequences.item_ids)),
            }
        ),
        name="log",
        split=SplitConfig("leave_one_out"),
        time_kind="order",
    )
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    judged = [judge(last_item(num_items=dataset.num_items), cases, config=CONFIG)]
    users = user_table(dataset, cases)
    sections = shop_question_sections(judged, dataset, cases, users, config=CONFIG)
    assert "has an order but no times" in sections[2]["summary"] and not sections[2]["blocks"]
    assert "No system is called “most popular”" in sections[3]["summary"] and len(sections[3]["blocks"]) == 1
    assert len(sections[0]["blocks"]) == 2  # no ages
    assert "No user was without history." in sections[0]["summary"] or "are left out" in sections[0]["summary"]
    with pytest.raises(ShapeError, match="the table of users has"):
        shop_question_sections(judged, dataset, cases, users.iloc[1:], config=CONFIG)
