"""Curves, areas and lists under change, against rankers whose answer is known and figures worked out directly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import make_sequences

from seqrec_jax.baselines import FunctionRanker, item_to_item, last_item, most_popular
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.shop.simulator import ShopConfig, simulate
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.robustness import perturbations
from seqrec_jax.evaluation.robustness.curves import (
    Change,
    Robustness,
    default_changes,
    robustness,
    robustness_section,
)
from seqrec_jax.evaluation.robustness.list_changes import (
    followers,
    list_overlaps,
    promotion,
    ratio_values,
    select_cases,
    spread_cases,
    stability,
    taste_change,
)
from seqrec_jax.statistics import bootstrap_means

CONFIG = EvaluationConfig(cutoffs=(5, 10), num_resamples=200)
RATES = (0.0, 0.1, 0.4)
SHOP = ShopConfig(num_users=250, num_items=60, num_tastes=4, num_categories=4, num_days=30)


@pytest.fixture(scope="module")
def shop():
    """Dataset, cases and the rankers most popular, item to item and last item."""
    tables = simulate(SHOP, 0)
    dataset = prepare_dataset(tables.events, name="shop", split=SplitConfig(), items=tables.items)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    train, options = dataset.training_sequences, {"num_items": dataset.num_items}
    rankers = most_popular(train, **options), item_to_item(train, **options), last_item(**options)
    return dataset, cases, rankers


@pytest.fixture(scope="module")
def results(shop) -> list[Robustness]:
    dataset, cases, rankers = shop
    changes = default_changes(cases, behaviors=dataset.behaviors)
    return [robustness(ranker, cases, config=CONFIG, changes=changes, rates=RATES) for ranker in rankers[1::-1]]


def test_the_curves_are_what_the_judge_says_of_the_changed_histories(shop, results):
    _, cases, (_, ranker, _) = shop
    curves, areas = results[0]
    assert len(curves) == len(areas) * len(RATES)
    base = judge(ranker, cases, config=CONFIG)
    noisy = perturbations.inject_noise(
        cases.histories,
        rate=0.4,
        num_items=len(cases.candidates) - 1,
        rng=np.random.default_rng([0, 0]),
        item_weights=cases.candidates.astype(float),
    )
    judged = judge(ranker, replace(cases, histories=noisy), config=CONFIG)
    ours, theirs = base.per_user["ndcg@10"].to_numpy(), judged.per_user["ndcg@10"].to_numpy()
    row = curves[(curves["change"] == "noise") & (curves["rate"] == 0.4)].iloc[0]
    assert row["mean"] == pytest.approx(theirs.mean(), rel=1e-6)
    assert row["loss"] == pytest.approx((ours - theirs).mean(), rel=1e-5)
    assert row["loss_share"] == pytest.approx(1 - theirs.mean() / ours.mean(), rel=1e-5)
    assert row["loss_share_low"] < row["loss_share"] < row["loss_share_high"]
    assert row["overlap"] == pytest.approx(list_overlaps(base.lists, judged.lists).mean())
    at_zero = curves[curves["rate"] == 0]
    np.testing.assert_allclose(at_zero["mean"], ours.mean(), rtol=1e-6)
    assert (at_zero[["loss", "loss_low", "loss_high"]] == 0).all(axis=None)
    assert (at_zero["overlap"] == 1).all()
    for _, area in areas.iterrows():
        means = curves.loc[curves["change"] == area["change"], "mean"]
        by_hand = ((means.iloc[0] + means.iloc[1]) / 2 * 0.1 + (means.iloc[1] + means.iloc[2]) / 2 * 0.3) / 0.4
        assert area["area"] == pytest.approx(by_hand / means.iloc[0], rel=1e-6)
        assert area["area_low"] <= area["area"] <= area["area_high"]


def test_a_bot_hurts_who_looks_at_the_history_the_more_the_more_it_does(results):
    curves = results[0].curves
    bot = curves[curves["change"] == "bot"]
    assert bot["mean"].is_monotonic_decreasing
    assert bot["loss_low"].iloc[-1] > 0
    assert results[0].areas.set_index("change").loc["bot", "area_high"] < 1
    assert curves.loc[curves["change"] == "noise", "overlap"].is_monotonic_decreasing
    # gaps between events mean nothing to this ranker
    assert (curves.loc[curves["change"] == "longer gaps", "loss"] == 0).all()


def test_most_popular_loses_nothing(results):
    curves, areas = results[1]
    assert (curves[["loss", "loss_low", "loss_high"]] == 0).all(axis=None)
    assert (curves["overlap"] == 1).all()
    np.testing.assert_allclose(areas[["area", "area_low", "area_high"]], 1)


def test_default_changes_suit_the_log(shop):
    dataset, cases, _ = shop
    names = [change.name for change in default_changes(cases, behaviors=dataset.behaviors)]
    commonest = dataset.behaviors[np.bincount(cases.histories.behaviors).argmax()]
    assert len(set(names)) == len(names)
    assert f"missing {commonest}" in names
    assert "longer gaps" in names
    plain = replace(cases, histories=replace(cases.histories, behaviors=np.zeros_like(cases.histories.behaviors)))
    fewer = [change.name for change in default_changes(plain, time_kind="order")]
    assert set(names) - set(fewer) == {f"missing {commonest}", "longer gaps"}
    # an item that is no candidate does not come in as noise
    candidates = np.arange(dataset.num_items + 1) == 7
    for change in default_changes(replace(cases, candidates=candidates))[:3]:
        changed = change.apply(cases.histories, rate=0.5, num_items=dataset.num_items, rng=np.random.default_rng(0))
        counts = np.bincount(changed.item_ids) - np.bincount(cases.histories.item_ids, minlength=changed.item_ids.max())
        assert np.flatnonzero(counts).tolist() == [7], change.name


@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.0,), (0.0, 0.2, 0.2)])
def test_rates_must_rise_from_zero(shop, rates):
    _, cases, rankers = shop
    with pytest.raises(ConfigError, match="rates must rise from 0"):
        robustness(rankers[0], cases, config=CONFIG, rates=rates)


def test_a_metric_of_zero_has_no_share_to_lose(shop):
    _, cases, _ = shop

    def worst(histories):
        scores = np.zeros((histories.num_users, len(cases.candidates)), dtype=np.float32)
        scores[:, np.unique(cases.target_items)] = -np.inf
        return scores

    changes = [Change("noise", "{} noise", perturbations.inject_noise)]
    result = robustness(FunctionRanker("worst", worst), cases, config=CONFIG, changes=changes, rates=(0, 0.3))
    assert result.curves["loss_share"].isna().all()
    assert result.areas["area"].isna().all()
    section = robustness_section([result])
    assert "nothing to lose" in section["summary"]
    json.dumps(section, allow_nan=False)


def test_one_event_more_or_less(shop):
    _, cases, (popular, _, last) = shop
    table = stability(popular, cases, config=CONFIG)
    assert (table[["overlap", "overlap_low", "overlap_high", "unchanged"]] == 1).all(axis=None)
    table = stability(last, cases, config=CONFIG, k=5, num_users=40).set_index("event")
    some = spread_cases(cases, 40)
    following = perturbations.inject_item(
        some.histories,
        num_items=len(some.candidates) - 1,
        rng=np.random.default_rng(0),
        items=some.target_items[some.target_offsets[:-1]],
    )
    lists = [judge(last, entry, config=CONFIG).lists[:, :5] for entry in (some, replace(some, histories=following))]
    assert table.loc["the true next item", "overlap"] == pytest.approx(list_overlaps(*lists).mean())
    assert table.loc["the true next item", "unchanged"] == np.all(lists[0] == lists[1], axis=1).mean()
    assert table.loc["the last event less", "overlap"] < 1
    assert (table["users"] == 40).all()


def test_the_list_follows_a_change_of_taste(shop):
    _, cases, (popular, _, last) = shop
    table = taste_change(last, cases, config=CONFIG, counts=(1, 3, 10), num_users=200)
    assert table["events"].tolist() == [0, 1, 3, 10]
    assert table["donor_overlap"].is_monotonic_increasing
    assert table["own_overlap"].is_monotonic_decreasing
    assert (table["own_overlap"].iloc[0], table["adopted"].iloc[0]) == (1.0, 0.0)
    gained = table["donor_overlap"] - table["donor_overlap"].iloc[0]
    np.testing.assert_allclose(table["adopted"], gained / (1 - table["donor_overlap"].iloc[0]))
    assert table["adopted"].iloc[-1] > 0.3
    # everybody has the same list already
    same = taste_change(popular, cases, config=CONFIG, counts=(2,), num_users=50)
    assert (same["donor_overlap"] == 1).all()
    assert same["adopted"].isna().all()


def test_donors_have_another_category():
    lists = [[1, 1, 5], [1, 2, 2], [5, 5, 1], [6, 1, 6]] * 5
    cases = make_cases(lists, num_items=8)
    groups = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2])
    seen = []

    def scores(histories):
        seen.append(histories)
        return np.tile(np.arange(9, dtype=np.float32), (histories.num_users, 1))

    table = taste_change(FunctionRanker("x", scores), cases, config=CONFIG, counts=(3,), item_groups=groups)
    assert (table["users"] == 20).all()
    longest = next(history for history in seen if history.lengths.max() == 6)
    for start in longest.offsets[:20]:
        events = longest.item_ids[start : start + 6]
        own, donor = (np.bincount(groups[part], minlength=3)[1:].argmax() for part in (events[:3], events[3:]))
        assert own != donor
    with pytest.raises(DataError, match="none of 20 users has another with a different taste"):
        taste_change(FunctionRanker("x", scores), cases, config=CONFIG, counts=(3,), item_groups=np.ones(9, dtype=int))
    with pytest.raises(ConfigError, match="counts must rise"):
        taste_change(FunctionRanker("x", scores), cases, config=CONFIG, counts=(0, 1))


def make_cases(lists, *, num_items):
    """Each user's last item is the target."""
    log = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{user:03}" for user in range(len(lists))], [len(items) + 1 for items in lists]),
            "item_id": [f"i{item}" for items in lists for item in [*items, items[0]]],
            "timestamp": np.arange(sum(map(len, lists)) + len(lists)),
        }
    )
    table = pd.DataFrame({"item_id": [f"i{item}" for item in range(1, num_items + 1)]})
    dataset = prepare_dataset(log, name="log", split=SplitConfig(rule="leave_one_out"), items=table)
    return evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=num_items)


def test_one_event_lifts_its_item_to_the_top_of_who_repeats_and_nobody_elses(shop):
    _, cases, (popular, cooccurrence, last) = shop
    own = promotion(last, cases, config=CONFIG).set_index("promoted").loc["the item itself"]
    assert (own["rank_after"], own["listed_after"], own["listed_after_low"]) == (1, 1, 1)
    assert own["listed_before"] < 1
    assert own["gain"] > 0
    still = promotion(popular, cases, config=CONFIG).set_index("promoted").loc["the item itself"]
    assert (still["gain"], still["gain_low"], still["gain_high"]) == (0, 0, 0)
    assert still["rank_before"] == still["rank_after"]
    assert still["listed_before"] == still["listed_after"]
    near = promotion(cooccurrence, cases, config=CONFIG).set_index("promoted").loc["its neighbour"]
    assert near["gain_low"] > 0
    assert 0 < near["users"] <= own["users"]
    # the protocol's own answer to seen items does not matter
    excluding = replace(CONFIG, seen_items="excluded")
    again = promotion(last, cases, config=excluding).set_index("promoted").loc["the item itself"]
    assert again["rank_after"] == 1


def test_promotion_without_a_neighbour_and_without_anything_unseen():
    cases = make_cases([[1, 2, 3]] * 8, num_items=8)
    ranker = last_item(num_items=8)
    table = promotion(ranker, cases, config=CONFIG, neighbors=np.zeros(9, dtype=int)).set_index("promoted")
    assert table["users"].tolist() == [8, 0]
    assert np.isnan(table.loc["its neighbour", "gain"])
    seen = replace(cases, candidates=np.isin(np.arange(9), [1, 2, 3]))
    with pytest.raises(DataError, match="have seen all items"):
        promotion(ranker, seen, config=CONFIG)


def test_followers_are_the_commonest_next_items():
    histories = make_sequences([[1, 2, 3, 1, 2], [2, 0, 4], [1, 3], [3, 3, 5], [5, 2]])
    # 1 is followed by 2, 2 and 3; 2 by 3; 3 by 1 and 5; 4 by nothing; 5 by 2, the next user's first does not count
    assert followers(histories, num_items=5).tolist() == [0, 2, 3, 1, 0, 2]


def test_overlaps_are_those_of_sets():
    rng = np.random.default_rng(0)
    lists, others = (np.stack([rng.permutation(9)[:5] for _ in range(60)]) for _ in range(2))
    expected = []
    for first, second in zip(lists, others, strict=True):
        first, second = set(first) - {0}, set(second) - {0}
        expected.append(len(first & second) / len(first | second))
    np.testing.assert_allclose(list_overlaps(lists, others), expected)
    assert list_overlaps(np.zeros((1, 3), dtype=int), np.zeros((1, 3), dtype=int)).tolist() == [1.0]


def test_selected_cases_keep_each_users_targets(shop):
    _, cases, (_, ranker, _) = shop
    graded = replace(cases, target_gains=np.arange(len(cases.target_items), dtype=np.float32))
    users = np.array([5, 2, 2, 9])
    part = select_cases(graded, users)
    for place, user in enumerate(users):
        ours = slice(*part.target_offsets[place : place + 2])
        theirs = slice(*cases.target_offsets[user : user + 2])
        for name in ("target_items", "target_events", "target_gains"):
            assert getattr(part, name)[ours].tolist() == getattr(graded, name)[theirs].tolist()
    assert part.histories.user_ids.tolist() == cases.histories.user_ids[users].tolist()
    whole = judge(ranker, cases, config=CONFIG).per_user["ndcg@10"].to_numpy()
    np.testing.assert_array_equal(
        judge(ranker, select_cases(cases, users), config=CONFIG).per_user["ndcg@10"], whole[users]
    )
    assert spread_cases(cases, len(cases.users)) is cases
    chosen = spread_cases(cases, 10).users
    assert len(chosen) == 10
    assert np.ptp(np.diff(np.searchsorted(cases.users, chosen))) <= 1
    with pytest.raises(ConfigError, match="num_users must be at least 1"):
        spread_cases(cases, 0)


def test_ratio_values_have_the_ratio_as_mean_and_its_interval():
    rng = np.random.default_rng(0)
    below = rng.gamma(2.0, size=800)
    above = np.stack([0.3 * below + rng.normal(size=800), rng.normal(2, 1, 800)], axis=1)
    above[rng.random(above.shape) < 0.1] = np.nan
    values = ratio_values(above, below)
    interval = bootstrap_means(values, num_resamples=1000)
    for column in range(2):
        known = np.flatnonzero(~np.isnan(above[:, column]))
        assert interval.mean[column] == pytest.approx(above[known, column].sum() / below[known].sum())
        draws = rng.choice(known, (2000, len(known)))
        direct = np.quantile(above[draws, column].sum(axis=1) / below[draws].sum(axis=1), [0.025, 0.975])
        width = direct[1] - direct[0]
        np.testing.assert_allclose([interval.low[column], interval.high[column]], direct, atol=0.1 * width)
    assert np.isnan(ratio_values(above, np.zeros(800))).all()


def test_the_section_says_what_it_shows(shop, results):
    _, cases, (_, ranker, last) = shop
    options = {"config": CONFIG}
    section = robustness_section(
        results,
        stability=pd.concat([stability(entry, cases, **options) for entry in (ranker, last)]),
        taste=pd.concat([taste_change(entry, cases, **options) for entry in (ranker, last)]),
        promoted=pd.concat([promotion(entry, cases, **options) for entry in (ranker, last)]),
    )
    json.dumps(section, allow_nan=False)
    assert section["summary"].startswith("item to item loses ")
    assert "of ndcg@10" in section["summary"]
    assert "most popular: no loss at all" in section["summary"]
    assert "After 3 events of another user" in section["summary"]
    kinds = [block["kind"] for block in section["blocks"]]
    assert kinds == ["bars", "curve", "table", "table", "curve", "table"]
    assert section["blocks"][2]["columns"] == ["change", "item to item", "most popular"]
    assert len(section["blocks"][5]["rows"]) == 4
