"""Candidates that differ between users: against sorting in NumPy, and through every part of an evaluation."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from builders import make_sequences

from seqrec_jax.baselines import FunctionRanker, most_popular
from seqrec_jax.data.candidates import UserCandidates
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.shop.simulator import ShopConfig, simulate
from seqrec_jax.data.splits import EvaluationCases, SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.audit.audit import audit
from seqrec_jax.evaluation.audit.sampled import candidates_of_users
from seqrec_jax.evaluation.judging import judge, judge_lists
from seqrec_jax.evaluation.lists import match_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.protocol_card import protocol_card, protocol_differences
from seqrec_jax.evaluation.robustness.list_changes import promotion, select_cases
from seqrec_jax.evaluation.summary import evaluate
from seqrec_jax.evaluation.systems import Contender
from seqrec_jax.scoring import UNREACHABLE, catalogue_order

USERS, ITEMS, K = 30, 40, 7
CONFIG = EvaluationConfig(metric="ndcg@7", cutoffs=(K,), num_resamples=100)


def random_problem(seed: int) -> tuple[np.ndarray, np.ndarray, EvaluationCases]:
    """Scores with ties, a mask `[U, V+1]` of what each user may be shown, and cases that know of neither."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (USERS, ITEMS + 1)).astype(np.float32)
    mask = rng.random((USERS, ITEMS + 1)) < rng.choice([0.1, 0.5, 0.9], USERS)[:, None]
    mask[:, 0] = False
    histories = [rng.integers(1, ITEMS + 1, rng.integers(1, 6)) for _ in range(USERS)]
    targets = [rng.choice(np.arange(1, ITEMS + 1), 3, replace=False) for _ in range(USERS)]
    candidates = rng.random(ITEMS + 1) < 0.8
    candidates[0] = False
    cases = EvaluationCases(
        users=np.arange(USERS),
        histories=make_sequences(histories),
        target_offsets=np.arange(USERS + 1) * 3,
        target_items=np.concatenate(targets).astype(np.int32),
        target_events=np.zeros(3 * USERS, dtype=np.int64),
        candidates=candidates,
        users_without_history=0,
    )
    return scores, mask, cases


def table_ranker(scores: np.ndarray) -> FunctionRanker:
    return FunctionRanker("table", lambda histories: scores[[int(user[1:]) for user in histories.user_ids]])


@pytest.mark.parametrize("seen_items", ["kept", "excluded"])
@pytest.mark.parametrize("score_bytes", [512 * 2**20, 4 * 4 * (ITEMS + 1)])  # one tile, and tiles of four users
def test_ranks_lists_and_metrics_are_those_of_sorting_each_users_own_candidates(seen_items, score_bytes):
    scores, mask, cases = random_problem(0)
    config = replace(CONFIG, seen_items=seen_items, score_bytes=score_bytes)
    own = replace(cases, user_candidates=UserCandidates.from_mask(mask))
    judged = judge(table_ranker(scores), own, config=config)
    order = np.asarray(catalogue_order(ITEMS, jax.random.key(config.seed)))
    sizes = candidates_of_users(own, config)
    for user in range(USERS):
        usable = mask[user] & cases.candidates
        if seen_items == "excluded":
            usable[cases.histories.item_ids[slice(*cases.histories.offsets[user : user + 2])]] = False
        places = np.flatnonzero(usable)
        ranked = places[np.lexsort((order[places], -scores[user, places]))]
        expected = np.zeros(K, dtype=np.int32)
        expected[: len(ranked[:K])] = ranked[:K]
        np.testing.assert_array_equal(judged.lists[user], expected)
        targets = cases.target_items[3 * user : 3 * user + 3]
        ranks = [int(np.flatnonzero(ranked == item)[0]) + 1 if item in ranked else UNREACHABLE for item in targets]
        assert judged.ranks[3 * user : 3 * user + 3].tolist() == ranks
        assert sizes[user] == len(ranked)
        gains = sum(1 / np.log2(rank + 1) for rank in ranks if rank <= K)
        assert judged.per_user["ndcg@7"][user] == pytest.approx(gains / sum(1 / np.log2(np.arange(2, 5))), rel=1e-6)
        worst = np.minimum(ranks, max(len(ranked), 1))  # what cannot be ranked stands behind all candidates
        assert judged.per_user["mean_rank"][user] == pytest.approx(worst.mean(), rel=1e-6)
    listed = judge_lists("lists", judged.lists, own, config=config)
    np.testing.assert_array_equal(listed.ranks, np.where(judged.ranks <= K, judged.ranks, UNREACHABLE))
    full = judge_lists("all items", np.tile(np.arange(1, ITEMS + 1), (USERS, 1)), own, config=config)
    allowed = np.take_along_axis(mask & cases.candidates, cases.target_items.reshape(USERS, 3), axis=1).ravel()
    if seen_items == "kept":
        np.testing.assert_array_equal(full.ranks < UNREACHABLE, allowed)
    assert own.targets_available().tolist() == allowed.tolist()


def test_a_mask_that_allows_everything_changes_no_bit():
    scores, mask, cases = random_problem(1)
    plain = judge(table_ranker(scores), cases, config=CONFIG)
    for everything in (
        UserCandidates.from_mask(np.ones_like(mask)),
        UserCandidates.from_lists("allowed", [range(1, ITEMS + 1)] * USERS, num_items=ITEMS),
    ):
        judged = judge(table_ranker(scores), replace(cases, user_candidates=everything), config=CONFIG)
        pd.testing.assert_frame_equal(judged.per_user, plain.per_user)
        np.testing.assert_array_equal(judged.lists, plain.lists)
        np.testing.assert_array_equal(judged.ranks, plain.ranks)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_lists_and_masks_say_the_same(share):
    mask = np.random.default_rng(2).random((9, ITEMS + 1)) < share
    mask[:, 0] = False
    own = UserCandidates.from_mask(mask)
    assert own.rule == ("allowed" if share < 0.5 else "denied") and len(own.item_ids) < mask.size / 3
    users = np.array([3, 3, 0, 8])
    np.testing.assert_array_equal(own.mask(users), mask[users])
    np.testing.assert_array_equal(own.select_users(users).mask(np.arange(4)), mask[users])
    rows, items = np.indices(mask.shape)
    np.testing.assert_array_equal(own.contain(rows.ravel(), items.ravel()), mask.ravel())
    assert not own.contain(np.array([0, 0]), np.array([0, ITEMS + 1])).any()
    lists = [np.flatnonzero(row[1:] == (own.rule == "allowed")) + 1 for row in mask]
    np.testing.assert_array_equal(
        UserCandidates.from_lists(own.rule, [[*items, *items] for items in lists], num_items=ITEMS).item_ids,
        own.item_ids,
    )


def test_what_is_no_candidate_list_is_refused():
    with pytest.raises(DataError, match=r"item_ids must be 1 to num_items = 3, got 2 to 4"):
        UserCandidates.from_lists("allowed", [[2, 4]], num_items=3)
    with pytest.raises(ConfigError, match="rule must be one of allowed, denied, got 'some'"):
        UserCandidates.from_lists("some", [[2]], num_items=3)
    with pytest.raises(DataError, match="do not divide 2 item_ids"):
        UserCandidates("denied", np.array([0, 1]), np.array([1, 2], dtype=np.int32), 3)


def test_a_whole_evaluation_respects_them_and_its_protocol_says_so():
    tables = simulate(ShopConfig(num_users=120, num_items=50, num_tastes=4, num_categories=4, num_days=30), 0)
    dataset = prepare_dataset(tables.events, name="shop", split=SplitConfig(), items=tables.items)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    mask = np.random.default_rng(3).random((len(cases.users), dataset.num_items + 1)) < 0.4
    own = replace(cases, user_candidates=UserCandidates.from_mask(mask))
    config = EvaluationConfig(num_resamples=100, parts=("audit", "questions", "beyond_accuracy", "robustness"))
    ranker = most_popular(dataset.training_sequences, num_items=dataset.num_items)
    evaluation = evaluate([Contender(ranker, "model")], dataset, own, config=config)
    judged = evaluation.judged[0]
    rows = np.repeat(np.arange(len(mask)), judged.lists.shape[1]).reshape(judged.lists.shape)
    assert mask[rows, judged.lists][judged.lists > 0].all()
    protocol, counts = evaluation.result["protocol"], own.num_candidates
    assert protocol["unreachable_targets"] == int((~own.targets_available()).sum()) > 0
    words = f"{counts.min():,} to {counts.max():,}, {counts.mean():,.1f} on average"
    assert protocol["candidates"].endswith(f"; of these {words} for a user")
    found = protocol_differences(protocol["card"], protocol_card(dataset, cases, config))
    assert f"candidates of a user: {words} against nothing" in found
    assert {text.partition(":")[0] for text in found} == {"candidates of a user", "hash of users' candidates"}
    dataset.items.loc[:4, "first_timestamp"] = dataset.sequences.timestamps.max()  # five items that are new at the end
    unborn = [one for one in audit(dataset, own, [judged], config=config) if one.key == "unborn_items"]
    born = np.append(0, dataset.items["first_timestamp"].to_numpy())
    moments = dataset.sequences.timestamps[cases.target_events[cases.target_offsets[:-1]]]
    later = ((born > moments[:, None]) & own.candidate_mask(np.arange(len(mask)))).any(axis=1)
    assert unborn[0].count == later.sum() > 0
    lists = pd.DataFrame({"user_id": dataset.sequences.user_ids[cases.users], "rank": 1})
    lists["item_id"] = dataset.items["item_id"].to_numpy()[cases.target_items[cases.target_offsets[:-1]] - 1]
    matched = match_lists(lists, dataset, own, k=3)
    assert matched.facts["unavailable_items"] == (~own.targets_available()[own.target_offsets[:-1]]).sum()
    few = select_cases(own, np.array([5, 2]))
    np.testing.assert_array_equal(few.candidate_mask(np.arange(2))[:, 1:], mask[[5, 2], 1:] & cases.candidates[1:])
    table = promotion(ranker, own, config=config)
    assert table["users"].iloc[0] > 0
