"""Figures of lists: each kind of user is measured once, and that is what measuring every user gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax import metrics
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation import measures
from seqrec_jax.evaluation.judging import judge_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.scoring import UNREACHABLE

CUTOFFS = (3, 40)  # more than one number holds
CONFIG = EvaluationConfig(metric="ndcg@3", cutoffs=CUTOFFS)
NUM_ITEMS, LENGTH = 60, 45


def make_cases(targets: list[np.ndarray], gains: np.ndarray | None = None) -> EvaluationCases:
    users = len(targets)
    none = {"item_ids": np.int32, "timestamps": np.int64, "behaviors": np.int8, "values": np.float32}
    histories = Sequences(
        user_ids=np.arange(users),
        offsets=np.zeros(users + 1, dtype=np.int64),
        **{name: np.zeros(0, dtype=dtype) for name, dtype in none.items()},
    )
    items = np.concatenate(targets).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(of_user) for of_user in targets])])
    candidates = np.arange(NUM_ITEMS + 1) > 0
    candidates[5] = False
    return EvaluationCases(
        np.arange(users), histories, offsets, items, np.arange(len(items)), candidates, 0, target_gains=gains
    )


def make_inputs(users: int) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(users)
    lists = np.stack([rng.permutation(NUM_ITEMS)[:LENGTH] + 1 for _ in range(users)])
    # one and two targets, so that many users are of a kind, and some with more than eight
    targets = [rng.permutation(NUM_ITEMS)[: rng.choice([1, 2, 12], p=[0.6, 0.3, 0.1])] + 1 for _ in range(users)]
    return lists, targets


@pytest.mark.parametrize("graded", [False, True])
def test_figures_are_those_of_every_user_by_itself(graded):
    lists, targets = make_inputs(300)
    gains = np.random.default_rng(1).integers(1, 4, sum(map(len, targets))).astype(np.float32) if graded else None
    cases = make_cases(targets, gains)
    judged = judge_lists("theirs", lists, cases, config=CONFIG)
    places = [{item: place for place, item in enumerate(one, start=1) if item != 5} for one in lists.tolist()]
    ranks = [[places[user].get(item, UNREACHABLE) for item in of_user.tolist()] for user, of_user in enumerate(targets)]
    assert judged.ranks.tolist() == [rank for of_user in ranks for rank in of_user]
    firsts = [of_user[0] if of_user[0] < UNREACHABLE else pd.NA for of_user in ranks]
    assert judged.per_user["rank"].tolist() == firsts
    where = np.arange(12) < cases.num_targets[:, None]
    padded = np.stack([np.pad(of_user, (0, 12 - len(of_user)), constant_values=UNREACHABLE) for of_user in ranks])
    padded = padded.astype(np.int32)
    for k in CUTOFFS:
        for name, metric in metrics.RANKING_METRICS.items():
            np.testing.assert_allclose(judged.per_user[f"{name}@{k}"], metric(padded, k=k, where=where), rtol=1e-6)
        if gains is not None:
            worth = cases.padded(gains, np.arange(300), width=12)
            expected = metrics.graded_ndcg_at_k(padded, worth, k=k, where=where)
            np.testing.assert_allclose(judged.per_user[f"graded_ndcg@{k}"], expected, rtol=1e-6)


def test_figures_do_not_depend_on_the_other_users(monkeypatch):
    lists, targets = make_inputs(200)
    whole = judge_lists("theirs", lists, make_cases(targets), config=CONFIG).per_user
    order = np.random.default_rng(2).permutation(200)
    moved = judge_lists("theirs", lists[order], make_cases([targets[user] for user in order]), config=CONFIG).per_user
    pd.testing.assert_frame_equal(moved.set_index(order).sort_index(), whole, check_exact=True)
    few = [user for user in range(40) if len(targets[user]) < 3]
    alone = judge_lists("theirs", lists[few], make_cases([targets[user] for user in few]), config=CONFIG).per_user
    pd.testing.assert_frame_equal(alone.set_axis(few), whole.loc[few], check_exact=True)
    monkeypatch.setattr(measures, "_ROWS", 16)
    tiled = judge_lists("theirs", lists, make_cases(targets), config=CONFIG).per_user
    pd.testing.assert_frame_equal(tiled, whole, rtol=1e-6)


def test_users_of_a_kind_have_as_many_targets_and_the_same_hits():
    #         hits 1 and 3    3 and 1         1 and a miss    1              1 and 40        1 and 41
    ranks = np.array([1, 3, 3, 1, 1, UNREACHABLE, 1, 1, 40, 1, 41], dtype=np.int32)
    cases = make_cases([np.arange(1, 1 + count) for count in (2, 2, 2, 1, 2, 2)])
    kind = measures._kinds(ranks, cases, longest=40)
    assert kind[0] == kind[1] and kind[2] == kind[5]
    assert len(set(kind.tolist())) == 4
    assert measures._kinds(ranks, cases, longest=2).tolist() == [1, 1, 1, 0, 1, 1]


def test_unknown_items_and_short_lists_are_misses():
    cases = make_cases([np.array([1, 2]), np.array([3])])
    lists = np.array([[99, 2, 0], [0, 0, 0]])
    judged = judge_lists("theirs", lists, cases, config=replace(CONFIG, cutoffs=(3,)))
    assert judged.ranks.tolist() == [UNREACHABLE, 2, UNREACHABLE]
    assert judged.per_user["recall@3"].tolist() == [0.5, 0.0]
