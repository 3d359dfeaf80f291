"""Figures do not depend on the order of users, the batch or, but for counted ranks, on how many devices there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.parallel import make_mesh
from seqrec_jax.scoring import UNREACHABLE

CONFIG = EvaluationConfig(targets="next", cutoffs=(5, 10), parts=())
ROUNDING = 1e-5
"""Of a score, as a share; float32 sums of a few products in another order differ by some 1e-7."""

PROBABILITIES = ["log_loss", "confidence"]
"""What is made of all scores together, whose last bits follow the shape of a tile."""


@pytest.fixture(scope="module")
def cases(tiny_run, tmp_path_factory):
    """700 users of the shop that the tiny run was trained on, more than two tiles."""
    words = ["--data.shop.num_users", "700", "--data.split.rule", "leave_one_out"]
    folder = tmp_path_factory.mktemp("devices")
    dataset = pipeline.prepare(tiny_config(folder, *words, "--data.vocabulary_from", str(tiny_run.run)))
    found = pipeline.cases_of(dataset, CONFIG)
    assert len(found.users) > 2 * 256 and len(found.users) % 256 % 8
    return found


@pytest.fixture(scope="module")
def scores(loaded, cases) -> np.ndarray:
    return np.where(cases.candidates, np.asarray(loaded.scores(cases.histories)), -np.inf)


@pytest.fixture(scope="module")
def whole(loaded, cases) -> Judged:
    return judge(loaded, cases, config=CONFIG)


def moved_targets(ranks: np.ndarray, other: np.ndarray, scores: np.ndarray) -> tuple[int, float]:
    """How many of the targets `[U]` moved, and how far apart, as a share, the scores are that they moved across.

    A target that moved from place p to place q went past what stood on the places between, whose scores are the p-th
    to the q-th largest.
    """
    moved = np.flatnonzero(ranks != other)
    widest = 0.0
    for user in moved:
        low, high = sorted((ranks[user], other[user]))
        between = np.sort(scores[user])[::-1][low - 1 : high]
        widest = max(widest, float((between[0] - between[-1]) / np.abs(between).max()))
    return len(moved), widest


def test_a_moved_rank_is_counted_with_the_gap_that_it_jumped():
    table = np.array([[-np.inf, 3.0, 2.000001, 2.0, 1.0]] * 3)
    assert moved_targets(np.array([1, 2, 3]), np.array([1, 3, 3]), table) == (1, pytest.approx(5e-7, rel=1e-3))
    count, gap = moved_targets(np.array([1, 2, 3]), np.array([4, 2, 2]), table)
    assert (count, gap) == (2, pytest.approx(2 / 3))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_across_devices_only_ranks_within_rounding_move_and_they_are_counted(loaded, cases, whole, scores, devices):
    mesh = make_mesh(devices)
    judged = judge(loaded.on_mesh(mesh), cases, config=CONFIG, mesh=mesh)
    assert (judged.ranks != UNREACHABLE).all() and len(judged.ranks) == len(scores)
    moved, gap = moved_targets(whole.ranks, judged.ranks, scores)
    assert moved <= len(scores) // 100, f"{moved} of {len(scores)} targets moved on {devices} devices"
    assert gap < ROUNDING
    # whoever's target did not move has the same figures, to the last bit
    same = whole.ranks == judged.ranks
    figures = [name for name in whole.per_user if name not in PROBABILITIES]
    pd.testing.assert_frame_equal(
        whole.per_user.loc[same, figures], judged.per_user.loc[same, figures], check_exact=True
    )
    for name in PROBABILITIES:
        np.testing.assert_allclose(judged.per_user[name], whole.per_user[name], rtol=ROUNDING)
    # lists likewise: where they differ, items whose scores are alike changed places
    differ = np.flatnonzero((whole.lists != judged.lists).any(axis=1))
    assert len(differ) <= len(scores) // 100
    np.testing.assert_allclose(judged.list_scores, whole.list_scores, rtol=ROUNDING, atol=1e-6)
    assert judged.tied_targets == whole.tied_targets


def some_cases(cases, users: np.ndarray):
    return replace(
        cases,
        users=cases.users[users],
        histories=cases.histories.select_users(users),
        target_offsets=np.arange(len(users) + 1),
        target_items=cases.target_items[users],
        target_events=cases.target_events[users],
    )


def assert_same(judged: Judged, whole: Judged, users: np.ndarray) -> None:
    expected = whole.per_user.iloc[users].reset_index(drop=True)
    pd.testing.assert_frame_equal(judged.per_user, expected, check_exact=True)
    np.testing.assert_array_equal(judged.ranks, whole.ranks[users])
    np.testing.assert_array_equal(judged.lists, whole.lists[users])
    np.testing.assert_array_equal(judged.list_scores, whole.list_scores[users])


@pytest.mark.parametrize("count", [None, 300, 256, 11, 1])
def test_a_users_figures_do_not_depend_on_who_else_is_judged_or_in_which_order(loaded, cases, whole, count):
    users = np.random.default_rng(1).permutation(len(cases.users))[:count]
    assert_same(judge(loaded, some_cases(cases, users), config=CONFIG), whole, users)


@pytest.mark.parametrize("tile", [64, 37])
def test_a_users_figures_do_not_depend_on_the_batch(loaded, cases, whole, tile):
    """Fewer bytes for scores make smaller tiles: the same places and figures, and the same scores but for rounding."""
    config = replace(CONFIG, score_bytes=4 * len(cases.candidates) * tile)
    judged = judge(loaded, cases, config=config)
    ranked = [name for name in whole.per_user if name not in PROBABILITIES]
    pd.testing.assert_frame_equal(judged.per_user[ranked], whole.per_user[ranked], check_exact=True)
    np.testing.assert_array_equal(judged.ranks, whole.ranks)
    np.testing.assert_array_equal(judged.lists, whole.lists)
    for name in PROBABILITIES:
        np.testing.assert_allclose(judged.per_user[name], whole.per_user[name], rtol=ROUNDING)
    np.testing.assert_allclose(judged.list_scores, whole.list_scores, rtol=ROUNDING, atol=1e-6)


def test_on_several_devices_the_order_of_users_changes_nothing_either(loaded, cases):
    mesh = make_mesh(2)
    spread = loaded.on_mesh(mesh)
    whole = judge(spread, cases, config=CONFIG, mesh=mesh)
    users = np.random.default_rng(2).permutation(len(cases.users))
    assert_same(judge(spread, some_cases(cases, users), config=CONFIG, mesh=mesh), whole, users)
