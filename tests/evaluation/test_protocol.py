"""The judge against sorting in plain Python, and what must not move a figure."""

from __future__ import annotations

import contextlib
import math
import statistics
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pandas as pd
import pytest

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation import judging
from seqrec_jax.evaluation.judging import judge, judge_lists, reachable_mean
from seqrec_jax.evaluation.measures import metric_names
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.parallel import make_mesh
from seqrec_jax.scoring import UNREACHABLE, catalogue_order

NUM_ITEMS, MOST_TARGETS, CUTOFFS = 11, 4, (1, 3, 14)
CONFIG = EvaluationConfig(metric="ndcg@3", cutoffs=CUTOFFS)


class TableRanker:
    """Scores by user id from a table, so that the same user always has the same scores; counts its calls."""

    name = "table"

    def __init__(self, scores: np.ndarray):
        self.table, self.tiles = scores, []

    def scores(self, histories: Sequences) -> np.ndarray:
        self.tiles.append(histories.num_users)
        return self.table[histories.user_ids.astype(int)]


def make_cases(targets, histories, *, candidates=None, gains=None) -> EvaluationCases:
    lengths = [len(items) for items in histories]
    events = sum(lengths)
    sequences = Sequences(
        user_ids=np.arange(len(histories)).astype(str).astype(object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item_ids=np.array([item for items in histories for item in items], dtype=np.int32),
        timestamps=np.arange(events, dtype=np.int64),
        behaviors=np.zeros(events, dtype=np.int8),
        values=np.full(events, np.nan, dtype=np.float32),
    )
    return EvaluationCases(
        users=np.arange(len(targets)),
        histories=sequences,
        target_offsets=np.concatenate([[0], np.cumsum([len(items) for items in targets])]).astype(np.int64),
        target_items=np.array([item for items in targets for item in items], dtype=np.int32),
        target_events=np.zeros(sum(map(len, targets)), dtype=np.int64),
        target_gains=gains,
        candidates=np.arange(NUM_ITEMS + 1) > 0 if candidates is None else candidates,
        users_without_history=0,
    )


def random_cases(rng, num_users: int) -> tuple[np.ndarray, EvaluationCases]:
    """Scores with many ties and -inf, and users with several targets, of which some are no candidates."""
    scores = rng.integers(0, 4, (num_users, NUM_ITEMS + 1)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    scores[:, 0] = 9.0  # the padding's column must not matter
    items = np.arange(1, NUM_ITEMS + 1)
    targets = [list(rng.choice(items, size=rng.integers(1, MOST_TARGETS + 1), replace=False)) for _ in scores]
    targets[0] = targets[0] + [item for item in items if item not in targets[0]][: MOST_TARGETS - len(targets[0])]
    histories = [list(rng.integers(0, NUM_ITEMS + 1, size=rng.integers(1, 6))) for _ in scores]
    candidates = rng.random(NUM_ITEMS + 1) < 0.8
    candidates[0] = False
    return scores, make_cases(targets, histories, candidates=candidates)


def targets_of(cases: EvaluationCases, user: int) -> list[int]:
    return cases.target_items[cases.target_offsets[user] : cases.target_offsets[user + 1]].tolist()


def brute_force_list(scores: np.ndarray, cases: EvaluationCases, user: int, *, seen_items: str, tie) -> list[int]:
    history = cases.histories.item_ids[cases.histories.offsets[user] : cases.histories.offsets[user + 1]]
    usable = [
        item
        for item in range(1, NUM_ITEMS + 1)
        if cases.candidates[item]
        and not (seen_items == "excluded" and item in history)
        and not math.isnan(scores[user, item])
        and scores[user, item] > -math.inf
    ]
    return sorted(usable, key=lambda item: (-scores[user, item], tie(item)))


def brute_force_metrics(ranked: list[int], relevant: list[int], num_candidates: int) -> dict[str, float]:
    places = {item: place for place, item in enumerate(ranked, start=1)}
    found = sorted(places[item] for item in relevant if item in places)
    irrelevant = num_candidates - len(found)
    # the i-th best target at place r has r - i irrelevant items above it; what cannot be ranked has all of them
    shares = [(irrelevant - (place - i)) / irrelevant for i, place in enumerate(found, start=1)] if irrelevant else []
    ranks = [min(places.get(item, math.inf), num_candidates) for item in relevant]
    figures = {
        "accuracy@1": float(bool(ranked) and ranked[0] in relevant),
        "auc": sum(shares) / len(relevant) if irrelevant else math.nan,
        "mean_rank": statistics.mean(ranks),
    }
    functions = {"hit_rate": oracles.hit_rate, "precision": oracles.precision, "recall": oracles.recall}
    functions |= {"f1": oracles.f1, "ndcg": oracles.ndcg, "mrr": oracles.mrr, "map": oracles.average_precision}
    for name, function in functions.items():
        figures |= {f"{name}@{k}": function(ranked, relevant, k) for k in CUTOFFS}
    return figures


@pytest.mark.parametrize("seen_items", ["kept", "excluded"])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_metrics_and_lists_equal_sorting(seen_items, seed):
    scores, cases = random_cases(np.random.default_rng(seed), 40)
    config = EvaluationConfig(metric="ndcg@3", cutoffs=CUTOFFS, seen_items=seen_items, seed=seed)
    judged = judge(TableRanker(scores), cases, config=config)
    priority = np.asarray(catalogue_order(NUM_ITEMS, jax.random.key(seed)))
    assert list(judged.per_user.columns) == ["rank", *metric_names(CUTOFFS)]
    assert judged.per_user[["log_loss", "confidence"]].isna().all(axis=None)  # scores are no logits
    others = judge_lists("the same lists", judged.lists, cases, config=config, list_scores=judged.list_scores)
    for name in metric_names(CUTOFFS):
        if name not in ("auc", "mean_rank", "log_loss", "confidence"):
            np.testing.assert_allclose(others.per_user[name], judged.per_user[name], rtol=1e-6, err_msg=name)
    assert others.per_user[["auc", "mean_rank"]].isna().all(axis=None)
    listed = judged.ranks <= max(CUTOFFS)
    np.testing.assert_array_equal(others.ranks, np.where(listed, judged.ranks, UNREACHABLE))
    best, worst, tied = [], [], 0
    for user in range(40):
        relevant = targets_of(cases, user)
        ranked = brute_force_list(scores, cases, user, seen_items=seen_items, tie=lambda item: priority[item])
        ranks = [ranked.index(item) + 1 if item in ranked else UNREACHABLE for item in relevant]
        found = judged.ranks[cases.target_offsets[user] : cases.target_offsets[user + 1]]
        assert found.tolist() == ranks
        first = judged.per_user["rank"].iloc[user]
        assert first == ranks[0] if ranks[0] < UNREACHABLE else first is pd.NA
        assert judged.lists[user].tolist() == ranked + [0] * (14 - len(ranked))
        np.testing.assert_array_equal(judged.list_scores[user, : len(ranked)], scores[user, ranked])
        history = cases.histories.item_ids[cases.histories.offsets[user] : cases.histories.offsets[user + 1]]
        excluded = set(history.tolist()) if seen_items == "excluded" else set()
        num_candidates = sum(bool(cases.candidates[item]) for item in range(1, NUM_ITEMS + 1) if item not in excluded)
        expected = brute_force_metrics(ranked, relevant, num_candidates)
        for name, value in expected.items():
            assert judged.per_user[name].iloc[user] == pytest.approx(value, rel=1e-6, nan_ok=True), name
        tied += sum(
            item in ranked and sum(scores[user, other] == scores[user, item] for other in ranked) > 1
            for item in relevant
        )
        won, lost = (lambda item, ours=relevant: item not in ours), (lambda item, ours=relevant: item in ours)
        for figures, tie in ((best, won), (worst, lost)):
            decided = brute_force_list(scores, cases, user, seen_items=seen_items, tie=tie)
            figures.append(oracles.ndcg(decided, relevant, 3))
    assert judged.tied_targets == tied
    assert judged.best == pytest.approx(statistics.mean(best), rel=1e-6)
    assert judged.worst == pytest.approx(statistics.mean(worst), rel=1e-6)
    assert judged.worst <= judged.per_user["ndcg@3"].mean() + 1e-7 <= judged.best + 2e-7


def test_more_items_than_the_list_is_long_and_lists_agree_with_ranks():
    scores, cases = random_cases(np.random.default_rng(7), 60)
    judged = judge(TableRanker(scores), cases, config=CONFIG)
    users = np.repeat(np.arange(60), cases.num_targets)
    listed = judged.ranks <= max(CUTOFFS)
    assert listed.any() and not listed.all()
    np.testing.assert_array_equal(judged.lists[users, judged.ranks.clip(1, 14) - 1] == cases.target_items, listed)


def test_users_come_by_the_length_of_their_history_after_a_tile_of_all_lengths():
    config = replace(CONFIG, score_bytes=4 * (NUM_ITEMS + 1) * 5)
    lengths = np.random.default_rng(0).permutation(np.arange(1, 18))
    cases = make_cases([[1 + user % 3] for user in range(17)], [[1] * length for length in lengths])
    seen = []

    class Recording(TableRanker):
        def scores(self, histories: Sequences) -> np.ndarray:
            seen.append(histories.lengths.tolist())
            return super().scores(histories)

    table = np.random.default_rng(1).normal(size=(17, NUM_ITEMS + 1)).astype(np.float32)
    judged = judge(Recording(table), cases, config=config)
    assert seen[0] == [1, 5, 9, 13, 17]
    others = [length for tile in seen[1:] for length in tile][:12]
    assert others == [length for length in range(1, 18) if length not in seen[0]]
    expected = [1 + (table[user, 1:] > table[user, 1 + user % 3]).sum() for user in range(17)]
    assert judged.ranks.tolist() == expected


class VectorRanker:
    """Scores as a model makes them, by one product a tile, whose last bits a compiler may choose."""

    name = "vectors"

    def __init__(self, rng: np.random.Generator, num_users: int):
        self.users = rng.normal(size=(num_users, 24)).astype(np.float32)
        self.items = jnp.asarray(rng.normal(size=(24, NUM_ITEMS + 1)).astype(np.float32))

    def scores(self, histories: Sequences) -> jax.Array:
        return jnp.asarray(self.users[histories.user_ids.astype(int)]) @ self.items


def subset(cases: EvaluationCases, users: np.ndarray) -> EvaluationCases:
    return EvaluationCases(
        users=cases.users[users],
        histories=cases.histories.select_users(users),
        target_offsets=np.concatenate([[0], np.cumsum(cases.num_targets[users])]),
        target_items=np.concatenate([np.array(targets_of(cases, user), dtype=np.int32) for user in users]),
        target_events=np.zeros(cases.num_targets[users].sum(), dtype=np.int64),
        candidates=cases.candidates,
        users_without_history=0,
    )


@pytest.mark.parametrize("kind", ["vectors", "table"])
def test_a_users_figures_depend_neither_on_the_order_nor_on_the_number_of_users(kind):
    rng = np.random.default_rng(0)
    scores, cases = random_cases(rng, 300)
    ranker = VectorRanker(rng, 300) if kind == "vectors" else TableRanker(scores)
    whole = judge(ranker, cases, config=CONFIG)
    order = np.concatenate([[0], rng.permutation(np.arange(1, 300))])  # user 0 has the most targets
    for users in (order, order[:13], order[:1]):
        part = judge(ranker, subset(cases, users), config=CONFIG)
        pd.testing.assert_frame_equal(
            part.per_user, whole.per_user.iloc[users].reset_index(drop=True), check_exact=True
        )
        np.testing.assert_array_equal(part.lists, whole.lists[users])
        np.testing.assert_array_equal(part.list_scores, whole.list_scores[users])
    same = judge(ranker, subset(cases, order), config=CONFIG)
    assert (same.best, same.worst, same.tied_targets) == pytest.approx((whole.best, whole.worst, whole.tied_targets))


@pytest.mark.parametrize(("budget", "tile"), [(4 * (NUM_ITEMS + 1) * 7 + 5, 7), (1, 1), (2**40, 256)])
def test_a_tile_takes_no_more_memory_than_allowed(budget, tile):
    scores, cases = random_cases(np.random.default_rng(1), 10)
    ranker = TableRanker(scores)
    judged = judge(ranker, cases, config=replace(CONFIG, score_bytes=budget))
    assert set(ranker.tiles) == {tile}
    # two widths of targets, and a single tile goes through twice, so that its time leaves out compilation
    assert len(ranker.tiles) == {7: 4, 1: 10, 256: 4}[tile]
    assert judged.seconds > 0
    pd.testing.assert_frame_equal(judged.per_user, judge(ranker, cases, config=CONFIG).per_user, check_exact=True)


def constant(num_users: int) -> TableRanker:
    return TableRanker(np.full((num_users, NUM_ITEMS + 1), 0.5, dtype=np.float32))


def test_a_constant_ranker_is_at_chance_level_and_an_order_of_ids_never_helps():
    items = list(range(1, NUM_ITEMS + 1))
    cases = make_cases([[item] for item in items], [[1]] * NUM_ITEMS)
    hits = np.zeros((40, NUM_ITEMS))
    for seed in range(40):
        config = EvaluationConfig(metric="ndcg@3", cutoffs=CUTOFFS, seed=seed)
        judged = judge(constant(NUM_ITEMS), cases, config=config)
        # over all items as targets, chance level is reached exactly, whatever the order of the catalogue
        assert sorted(judged.ranks.tolist()) == items
        assert judged.per_user["hit_rate@3"].mean() == pytest.approx(3 / NUM_ITEMS)
        assert judged.per_user["auc"].mean() == pytest.approx(0.5)
        assert judged.tied_targets == NUM_ITEMS
        assert (judged.best, judged.worst) == (1.0, 0.0)
        hits[seed] = judged.per_user["hit_rate@3"]
    # over orders of the catalogue every item is hit by chance, four standard deviations wide
    deviation = math.sqrt(3 / NUM_ITEMS * (1 - 3 / NUM_ITEMS) / 40)
    np.testing.assert_allclose(hits.mean(axis=0), 3 / NUM_ITEMS, atol=4 * deviation)


def test_targets_that_tie_with_each_other_cannot_share_a_place():
    cases = make_cases([[2, 5, 7, 9]], [[1]])
    judged = judge(constant(1), cases, config=EvaluationConfig(metric="map@14", cutoffs=CUTOFFS))
    assert judged.best == 1.0
    lost = [place / (NUM_ITEMS - 4 + place) for place in range(1, 5)]  # the places 8, 9, 10 and 11
    assert judged.worst == pytest.approx(sum(lost) / 4)


def test_what_cannot_be_ranked_is_a_miss_and_the_reachable_mean_leaves_those_users_out():
    scores = np.tile(np.arange(NUM_ITEMS + 1, dtype=np.float32)[::-1], (3, 1))  # item 1 first, then 2, …
    candidates = np.arange(NUM_ITEMS + 1) > 0
    candidates[4] = False
    cases = make_cases([[1], [4], [2, 4, 3]], [[9]] * 3, candidates=candidates)
    judged = judge(TableRanker(scores), cases, config=CONFIG)
    assert judged.ranks.tolist() == [1, UNREACHABLE, 2, UNREACHABLE, 3]
    assert judged.per_user["rank"].isna().tolist() == [False, True, False]
    assert judged.per_user["hit_rate@3"].tolist() == [1.0, 0.0, 1.0]
    assert judged.per_user["recall@3"].tolist() == pytest.approx([1.0, 0.0, 2 / 3])
    assert judged.per_user["recall@3"].mean() == pytest.approx(5 / 9)
    assert reachable_mean(judged, cases, "recall@3") == 1.0
    cases = make_cases([[4]], [[9]], candidates=candidates)
    assert math.isnan(reachable_mean(judge(TableRanker(scores), cases, config=CONFIG), cases, "recall@3"))


def test_a_metric_that_is_undefined_for_everybody_is_nan_without_a_warning():
    candidates = np.arange(NUM_ITEMS + 1) == 3
    judged = judge(constant(1), make_cases([[3]], [[1]], candidates=candidates), config=CONFIG)
    assert judged.ranks.tolist() == [1] and judged.lists[0].tolist() == [3] + [0] * 13
    assert judging.mean_of_users(judged.per_user["auc"]) != judging.mean_of_users(judged.per_user["auc"])
    assert judged.per_user["mean_rank"].tolist() == [1.0]


def test_lists_cannot_be_hit_by_what_the_protocol_does_not_recommend():
    candidates = np.arange(NUM_ITEMS + 1) > 0
    candidates[4] = False
    cases = make_cases([[4, 2], [3], [5]], [[2], [9], [9]], candidates=candidates)
    lists = np.array([[4, 2, 1], [NUM_ITEMS + 7, 3, 0], [0, 0, 0]])
    kept = judge_lists("theirs", lists, cases, config=CONFIG)
    assert kept.ranks.tolist() == [UNREACHABLE, 2, 2, UNREACHABLE]
    assert kept.per_user["hit_rate@3"].tolist() == [1.0, 1.0, 0.0]
    assert judging.reachable_targets(kept, cases).tolist() == [False, True, True, True]
    excluded = judge_lists("theirs", lists, cases, config=replace(CONFIG, seen_items="excluded"))
    assert excluded.ranks.tolist() == [UNREACHABLE, UNREACHABLE, 2, UNREACHABLE]
    assert excluded.lists[:, :3].tolist() == lists.tolist() and excluded.lists.shape == (3, 14)
    with pytest.raises(DataError, match="the list of user '1' has item number 3 twice, as have 0 lists besides"):
        judge_lists("theirs", np.array([[1, 2], [3, 3], [1, 4]]), cases, config=CONFIG)
    with pytest.raises(ShapeError, match=r"lists have shape \(2, 2\), expected \[3, K\], one a user"):
        judge_lists("theirs", np.array([[1, 2], [3, 3]]), cases, config=CONFIG)


def test_log_loss_and_confidence_of_logits_equal_a_plain_softmax():
    rng = np.random.default_rng(3)
    candidates = np.arange(NUM_ITEMS + 1) > 0
    candidates[[3, 4]] = False
    cases = make_cases([[1, 2], [4], [5, 4]], [[9]] * 3, candidates=candidates)
    ranker = TableRanker(rng.normal(size=(3, NUM_ITEMS + 1)).astype(np.float32))
    ranker.gives_logits = True
    judged = judge(ranker, cases, config=CONFIG)
    weights = np.exp(ranker.table.astype(np.float64)) * candidates
    shares = weights / weights.sum(axis=1, keepdims=True)
    expected = [-(np.log(shares[0, 1]) + np.log(shares[0, 2])) / 2, np.nan, -np.log(shares[2, 5])]
    np.testing.assert_allclose(judged.per_user["log_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(judged.per_user["confidence"], shares.max(axis=1), rtol=1e-5)


def test_graded_targets_count_by_their_gains():
    gains = np.array([1.0, 3.0, 2.0], dtype=np.float32)
    cases = make_cases([[1, 2], [3]], [[9]] * 2, gains=gains)
    table = np.zeros((2, NUM_ITEMS + 1), dtype=np.float32)
    table[0, [1, 2]] = 2, 1  # the cheaper one first
    table[1, 3] = 1
    config = EvaluationConfig(metric="graded_ndcg@3", cutoffs=CUTOFFS, gains={"purchase": 3.0})
    judged = judge(TableRanker(table), cases, config=config)
    ideal = 3 + 1 / math.log2(3)
    assert judged.per_user["graded_ndcg@3"].tolist() == pytest.approx([(1 + 3 / math.log2(3)) / ideal, 1.0])
    assert judged.best == pytest.approx(judged.per_user["graded_ndcg@3"].mean())


def test_devices_share_the_users_of_a_tile():
    rng = np.random.default_rng(5)
    scores, cases = random_cases(rng, 300)
    for seen_items in ("kept", "excluded"):
        config = replace(CONFIG, seen_items=seen_items)
        one, many = (judge(TableRanker(scores), cases, config=config, mesh=mesh) for mesh in (None, make_mesh()))
        pd.testing.assert_frame_equal(one.per_user, many.per_user, check_exact=True)
        np.testing.assert_array_equal(one.lists, many.lists)


def test_a_score_that_is_nan_is_refused():
    scores = np.zeros((3, NUM_ITEMS + 1), dtype=np.float32)
    scores[1, [2, 5]] = np.nan
    with pytest.raises(DataError, match="table gave nan as the score of 2 candidates for user '1'; their place"):
        judge(TableRanker(scores), make_cases([[1]] * 3, [[1]] * 3), config=CONFIG)


def test_scores_of_another_shape_are_refused():
    ranker = TableRanker(np.zeros((2, NUM_ITEMS), dtype=np.float32))
    with pytest.raises(ShapeError) as raised:
        judge(ranker, make_cases([[1], [2]], [[1], [1]]), config=CONFIG)
    assert str(raised.value) == (
        "table gave scores (256, 11) for 256 users of 11 items; expected (256, 12), column 0 for padding"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cutoffs": ()}, "evaluation.cutoffs must hold at least one list length, got none"),
        ({"cutoffs": (0, 10)}, "evaluation.cutoffs must be at least 1, got 0"),
        ({"metric": "ndcg@7"}, "evaluation.metric is 'ndcg@7'; with these cutoffs it can be accuracy@1, hit_rate@5, "),
        ({"metric": "mean_rank"}, "evaluation.metric is 'mean_rank'; with these cutoffs it can be accuracy@1, "),
        ({"stage": "tset"}, "evaluation.stage must be one of validation, test, got 'tset'"),
        ({"seen_items": "keep"}, "evaluation.seen_items must be one of kept, excluded, got 'keep'"),
        ({"min_history": -1}, "evaluation.min_history must be at least 0, got -1"),
        ({"num_resamples": 10}, "evaluation.num_resamples must be at least 100, got 10"),
        ({"seed": -1}, "evaluation.seed must be at least 0, got -1"),
        ({"score_bytes": 0}, "evaluation.score_bytes must be at least 1, got 0"),
        ({"targets": "next five"}, 'targets must be "all", "next", "next 5" or another number, or "basket", got '),
        ({"gains": {"view": -1.0}}, "evaluation.gains.view must be at least 0, got -1.0"),
    ],
)
def test_a_wrong_protocol_is_refused(wrong, message):
    with pytest.raises(ConfigError) as raised:
        EvaluationConfig(**wrong)
    assert str(raised.value).startswith(message)


def test_every_metric_that_can_decide_is_larger_where_the_ranking_is_better():
    """Training keeps the checkpoint with the largest figure."""
    cases = make_cases([[1, 2]], [[3]])
    good = np.arange(NUM_ITEMS + 1, dtype=np.float32)[None, ::-1]
    tables = [judge(TableRanker(scores), cases, config=CONFIG).per_user for scores in (good, -good)]
    for name in metric_names((1, 3)):
        if name in ("log_loss", "confidence"):
            continue
        better, worse = (table[name].iloc[0] for table in tables)
        assert better < worse if name == "mean_rank" else better > worse, name
        with pytest.raises(ConfigError) if name == "mean_rank" else contextlib.nullcontext():
            EvaluationConfig(metric=name, cutoffs=(1, 3))
