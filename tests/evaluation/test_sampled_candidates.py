"""Figures among sampled items against drawing every sample, and what they do to the order of systems."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from builders import make_sequences

from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.audit.sampled import (
    candidates_of_users,
    corrected_gains,
    expected_gains,
    place_gains,
    ranking_changes,
    sampled_metric_name,
    sampled_rank_probabilities,
    sampled_ranks,
    sampled_section,
)
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.scoring import UNREACHABLE


def all_places(ranks: list[int], num_candidates: int, n: int) -> list[tuple[int, ...]]:
    """Places of the targets among them and each possible sample of n others, by sorting."""
    others = [rank for rank in range(1, num_candidates + 1) if rank not in ranks]
    return [
        tuple(sorted([*ranks, *sample]).index(rank) + 1 for rank in ranks)
        for sample in itertools.combinations(others, n)
    ]


@pytest.mark.parametrize(("num_candidates", "n"), [(8, 3), (6, 5), (9, 1)])
def test_probabilities_equal_counting_all_samples(num_candidates, n):
    ranks = np.arange(1, num_candidates + 1)
    found = sampled_rank_probabilities(ranks, num_candidates=num_candidates, num_negatives=n, most=n + 1)
    for rank in ranks:
        places = [place for (place,) in all_places([rank], num_candidates, n)]
        expected = [places.count(place) / len(places) for place in range(1, n + 2)]
        np.testing.assert_allclose(found[rank - 1], expected, atol=1e-12)


def test_probabilities_of_a_large_catalogue_sum_to_one_and_have_the_right_mean():
    ranks, n, size = np.array([1, 2, 5_000, 400_000, 1_000_000]), 100, 1_000_000
    found = sampled_rank_probabilities(ranks, num_candidates=size, num_negatives=n, most=n + 1)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found @ np.arange(1, n + 2), 1 + n * (ranks - 1) / (size - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("metric", "by_hand"),
    [
        ("ndcg@3", [1, 1 / math.log2(3), 0.5]),
        ("mrr@2", [1, 0.5]),
        ("recall@2", [1, 1]),
        ("precision@2", [0.5, 0.5]),
        ("accuracy@1", [1]),
    ],
)
def test_expected_metric_equals_the_mean_over_all_samples(metric, by_hand):
    gains = place_gains(metric)
    np.testing.assert_allclose(gains, by_hand, rtol=1e-6)
    ranks = np.array([4, 1, UNREACHABLE, 7, 4])
    found = expected_gains(gains, ranks, num_candidates=np.array([8, 8, 8, 8, 6]), num_negatives=3)
    for value, rank, size in zip(found, ranks, [8, 8, 8, 8, 6], strict=True):
        places = [] if rank == UNREACHABLE else [place for (place,) in all_places([rank], size, 3)]
        total = sum(by_hand[place - 1] if place <= len(by_hand) else 0 for place in places)
        assert value == pytest.approx(total / max(1, len(places)), rel=1e-6)


def test_one_sample_serves_all_targets_of_a_user():
    ranks, size, n = [2, 3, 7], 9, 3
    possible = all_places(ranks, size, n)
    draws = sampled_ranks(np.tile([7, 2, UNREACHABLE, 3], (20_000, 1)), num_candidates=size, num_negatives=n, seed=1)
    assert draws.dtype == np.int32 and (draws[:, 2] == UNREACHABLE).all()
    found, counts = np.unique(draws[:, [1, 3, 0]], axis=0, return_counts=True)
    expected = {places: possible.count(places) / len(possible) for places in set(possible)}
    assert {tuple(places) for places in found.tolist()} == set(expected)
    for places, count in zip(found.tolist(), counts, strict=True):
        share = expected[tuple(places)]
        assert abs(count / 20_000 - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
    again = sampled_ranks([[2, 3, 7]], num_candidates=size, num_negatives=n, seed=4)
    np.testing.assert_array_equal(again, sampled_ranks([[2, 3, 7]], num_candidates=size, num_negatives=n, seed=4))


def test_masked_targets_are_not_there_and_sampling_everything_changes_nothing():
    ranks = np.array([[3, 1, 0], [6, 5, 2]])
    where = np.array([[True, True, False], [True, True, True]])
    found = sampled_ranks(ranks, num_candidates=np.array([5, 6]), num_negatives=3, where=where)
    assert found.tolist() == [[3, 1, UNREACHABLE], [6, 5, 2]]


def test_the_corrected_estimate_is_nearly_unbiased_where_the_sample_is_not():
    rng = np.random.default_rng(0)
    size, n, users = 400, 100, 200_000
    # a system that is often right, and else somewhere
    ranks = np.where(rng.random(users) < 0.3, 1 + rng.geometric(0.2, users), rng.integers(1, size + 1, users))
    full = place_gains("ndcg@10")[np.minimum(ranks, 10) - 1] * (ranks <= 10)
    drawn = sampled_ranks(ranks[:, None], num_candidates=size, num_negatives=n, seed=1)[:, 0]
    sampled = place_gains("ndcg@10")[np.minimum(drawn, 10) - 1] * (drawn <= 10)
    gains = corrected_gains("ndcg@10", num_candidates=size, num_negatives=n)
    corrected = gains[drawn - 1]
    assert sampled.mean() > 1.4 * full.mean()
    assert corrected.mean() == pytest.approx(full.mean(), rel=0.1)
    # the expectation needs no draws
    expected = expected_gains(gains, ranks, num_candidates=size, num_negatives=n)
    assert corrected.mean() == pytest.approx(expected.mean(), abs=5 * corrected.std() / math.sqrt(users))
    # less variance for more bias
    calm = corrected_gains("ndcg@10", num_candidates=size, num_negatives=n, trade_off=1.0)
    assert calm[drawn - 1].std() < corrected.std()


def test_corrected_gains_solve_the_least_squares_problem():
    size, n, trade_off = 30, 6, 0.1
    chances = sampled_rank_probabilities(np.arange(1, size + 1), num_candidates=size, num_negatives=n, most=n + 1)
    full = np.zeros(size)
    full[:5] = place_gains("mrr@5")
    found = corrected_gains("mrr@5", num_candidates=size, num_negatives=n, trade_off=trade_off)

    def loss(gains: np.ndarray) -> float:
        mean = chances @ gains
        return float((((mean - full) ** 2) + trade_off * (chances @ gains**2 - mean**2)).mean())

    rng = np.random.default_rng(0)
    best = loss(found)
    assert all(loss(found + 0.01 * rng.normal(size=n + 1)) > best for _ in range(50))


def make_cases(histories, targets, num_items, *, missing=()) -> EvaluationCases:
    candidates = np.ones(num_items + 1, dtype=bool)
    candidates[[0, *missing]] = False
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in targets])])
    return EvaluationCases(
        users=np.arange(len(targets)),
        histories=make_sequences(histories),
        target_offsets=offsets,
        target_items=np.array([item for items in targets for item in items], dtype=np.int32),
        target_events=np.arange(offsets[-1]),
        candidates=candidates,
        users_without_history=0,
    )


def system(name: str, ranks, metric_values, *, metric="ndcg@10", whole_ranking=True) -> Judged:
    """A judged system without lists."""
    per_user = pd.DataFrame({metric: np.asarray(metric_values, dtype=np.float32)})
    ranks = np.asarray(ranks, dtype=np.int32)
    none = np.zeros((len(per_user), 0))
    return Judged(name, per_user, none, none, ranks, ranks, ranks, 0, 0.0, 0.0, 1.0, whole_ranking)


def ndcg(ranks):
    return np.where(np.asarray(ranks) <= 10, 1 / np.log2(1 + np.asarray(ranks, dtype=float)), 0.0)


def test_a_system_of_middling_ranks_wins_when_sampled():
    users, size = 200, 5_000
    cases = make_cases([[1]] * users, [[2]] * users, size)
    rng = np.random.default_rng(0)
    sharp = np.where(np.arange(users) < 40, 1, rng.integers(2_000, size, users))  # right for a fifth, else far off
    even = rng.integers(30, 200, users)  # never right, never far off
    same = np.full(users, UNREACHABLE)
    judged = [system("sharp", sharp, ndcg(sharp)), system("even", even, ndcg(even)), system("none", same, ndcg(same))]
    judged.append(system("listed", sharp, ndcg(sharp), whole_ranking=False))
    changes = ranking_changes(judged, cases, config=EvaluationConfig())
    assert changes.systems["name"].tolist() == ["sharp", "even", "none"]
    rows = changes.systems.set_index("name")
    assert rows.loc["even", "full"] == rows.loc["none", "full"] == 0 and rows.loc["none", "sampled"] == 0
    assert rows.loc["sharp", "place"] == rows.loc["even", "sampled_place"] == 1
    assert rows.loc["sharp", "sampled_place"] == 2
    assert changes.swapped == [("sharp", "even")] and changes.left_out == ["listed"]
    # sharp above even and none in full; even above sharp above none when sampled
    assert changes.kendall_tau == pytest.approx((1 - 1) / math.sqrt(2 * 3))
    options = {"num_candidates": size, "num_negatives": 100}
    draws = [ndcg(sampled_ranks(even[:, None], seed=seed, **options)[:, 0]) for seed in range(50)]
    assert rows.loc["even", "sampled"] == pytest.approx(np.mean(draws), rel=0.02)
    assert np.std([np.mean(draw) for draw in draws]) > 0
    part = sampled_section(changes)
    assert "ndcg@10 among 100 sampled items" in part["summary"] and "even would pass sharp" in part["summary"]
    assert "For comparison with older papers only" in part["summary"]
    assert "Without listed, of which only lists are known." in part["blocks"][0]["note"]
    assert len(part["blocks"][0]["rows"]) == 3


def test_several_targets_are_sampled_by_drawing():
    cases = make_cases([[1], [2]], [[2, 3], [4]], 20)
    judged = [system("a", [2, 9, 5], [0.5, 0.4]), system("b", [1, 2, 20], [1.0, 0.0])]
    changes = ranking_changes(judged, cases, config=EvaluationConfig(), num_negatives=4, num_draws=100)
    assert changes.systems["corrected"].isna().all()
    options = {"num_candidates": 20, "num_negatives": 4}
    only = expected_gains(place_gains("ndcg@10"), [5, 20], **options)
    pairs = [all_places(ranks, 20, 4) for ranks in ([2, 9], [1, 2])]
    ideal = 1 + 1 / math.log2(3)
    both = [np.mean([sum(1 / math.log2(1 + place) for place in places) for places in pair]) / ideal for pair in pairs]
    rows = changes.systems.set_index("name")["sampled"]
    for name, value in {"a": (both[0] + only[0]) / 2, "b": (both[1] + only[1]) / 2}.items():
        assert rows[name] == pytest.approx(value, rel=0.05)


def test_candidates_of_users_are_those_of_the_protocol():
    cases = make_cases([[1, 1, 3], [], [0, 5]], [[2], [2], [2]], 6, missing=[3])
    assert candidates_of_users(cases, EvaluationConfig()).tolist() == [5, 5, 5]
    assert candidates_of_users(cases, EvaluationConfig(seen_items="excluded")).tolist() == [4, 5, 4]


def test_one_system_alone_has_no_order_and_the_section_says_so():
    cases = make_cases([[1]] * 3, [[2]] * 3, 200)
    changes = ranking_changes([system("a", [1, 2, 3], ndcg([1, 2, 3]))], cases, config=EvaluationConfig())
    assert math.isnan(changes.kendall_tau) and changes.swapped == []
    assert "needs two systems" in sampled_section(changes)["summary"]
    two = [system("a", [1, 2, 3], ndcg([1, 2, 3])), system("b", [4, 9, 8], ndcg([4, 9, 8]))]
    changes = ranking_changes(two, cases, config=EvaluationConfig())
    assert changes.kendall_tau == 1
    assert "would not reverse any two systems (Kendall's tau 1.00)" in sampled_section(changes)["summary"]
    lists = ranking_changes([system("l", [1, 2, 3], [0, 0, 0], whole_ranking=False)], cases, config=EvaluationConfig())
    assert lists.systems.empty and lists.left_out == ["l"]


BAD = [
    (lambda: place_gains("auc"), ConfigError, "'auc' has no gain by place; it can be accuracy@1, hit_rate@k"),
    (lambda: place_gains("ndcg@0"), ConfigError, "'ndcg@0' has no gain by place"),
    (
        lambda: expected_gains([1.0], [4], num_candidates=3, num_negatives=1),
        DataError,
        "ranks must be 1 to the number of candidates, found 4 of 3",
    ),
    (
        lambda: expected_gains([1.0], [1], num_candidates=50, num_negatives=100),
        DataError,
        "num_negatives is 100, but a user has only 49 candidates that are no targets; sample fewer",
    ),
    (
        lambda: sampled_ranks([[1]], num_candidates=5, num_negatives=0),
        ConfigError,
        "num_negatives must be at least 1, got 0",
    ),
    (
        lambda: sampled_ranks([1], num_candidates=5, num_negatives=1),
        ShapeError,
        "ranks has shape (1,) and where (1,), expected [U, P]",
    ),
    (
        lambda: sampled_ranks([[2, 2]], num_candidates=5, num_negatives=1),
        DataError,
        "user 0 has targets at ranks [2, 2] of 5 candidates; expected distinct ranks from 1 to that number",
    ),
    (lambda: sampled_ranks([[7]], num_candidates=5, num_negatives=1), DataError, "targets at ranks [7] of 5"),
    (
        lambda: corrected_gains("ndcg@10", num_candidates=500, num_negatives=100, trade_off=0.0),
        ConfigError,
        "trade_off must be greater than 0 and at most 1, got 0.0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_what_cannot_be_sampled_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_the_label_says_that_it_is_sampled():
    assert sampled_metric_name("recall@5", 99) == "recall@5 among 99 sampled items"
