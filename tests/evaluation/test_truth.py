"""The evaluation against what is true: on the simulated shop the probability of every next item is known."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.baselines import FunctionRanker, baseline_rankers
from seqrec_jax.data.splits import evaluation_cases
from seqrec_jax.evaluation.audit.audit import audit
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.evaluation.users.attributes import user_table
from seqrec_jax.evaluation.users.segments import distinct_segments, segments_section, worst_segments
from seqrec_jax.evaluation.users.slices import user_bins
from seqrec_jax.statistics import bootstrap_means, paired_differences

REPETITIONS = 2000


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Dataset, cases, the filter that knows the truth, and configuration of a shop of 3,000 users."""
    folder = tmp_path_factory.mktemp("truth")
    config = tiny_config(folder, "--data.shop.num_users", "3000", "--data.split.rule", "leave_one_out")
    dataset = pipeline.prepare(config)
    options = pipeline.case_options(config.evaluation, dataset)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", **options)
    return dataset, cases, pipeline.oracle(dataset, config.evaluation), config.evaluation


def systems(dataset, ceiling) -> list[FunctionRanker]:
    """Five systems of very different worth, and the optimum."""
    known = pipeline.known_events(dataset, "test")
    baselines = {
        ranker.name: ranker for ranker in baseline_rankers(known, num_items=dataset.num_items, time_kind="seconds")
    }

    def half_blind(histories):
        truth = np.asarray(ceiling.scores(histories))
        noise = np.random.default_rng(histories.num_users).gumbel(size=truth.shape)
        return np.log(truth + 1e-9).astype(np.float32) + 0.8 * noise.astype(np.float32)

    chosen = [baselines[name] for name in ("most popular", "last item again", "item to item", "EASE")]
    return [ceiling, *chosen, FunctionRanker("half blind", half_blind)]


@pytest.fixture(scope="module")
def judged(shop) -> list[Judged]:
    dataset, cases, ceiling, config = shop
    return [judge(ranker, cases, config=config) for ranker in systems(dataset, ceiling)]


@pytest.fixture(scope="module")
def probabilities(shop) -> np.ndarray:
    """`[U, V+1]` of each item to be the next one."""
    _, cases, ceiling, _ = shop
    return np.asarray(ceiling.scores(cases.histories)).astype(np.float64)


def true_values(judged, probabilities, *, k: int) -> np.ndarray:
    """`[U]` the ndcg@k that the lists have in expectation over what the users might have done next."""
    chances = np.take_along_axis(probabilities, judged.lists[:, :k], axis=1) * (judged.lists[:, :k] > 0)
    return (chances / np.log2(np.arange(2, k + 2))).sum(axis=1)


def test_the_estimated_order_of_systems_is_the_true_one_and_intervals_hold_the_true_values(judged, probabilities):
    true = np.array([true_values(one, probabilities, k=10).mean() for one in judged])
    table = np.stack([one.per_user["ndcg@10"] for one in judged], axis=1)
    interval = bootstrap_means(table, num_resamples=1000, confidence=0.99)
    assert np.all((interval.low <= true) & (true <= interval.high)), (interval, true)
    assert np.argsort(interval.mean).tolist() == np.argsort(true).tolist()
    assert np.diff(np.sort(true)).min() > 0.005  # else the order would be a matter of luck
    # the optimum bounds all, in truth and hence in expectation
    assert true.argmax() == 0
    assert interval.mean.argmax() == 0


@pytest.mark.parametrize("k", [5, 10, 20])
def test_the_optimum_bounds_every_system_for_every_user_in_expectation(judged, probabilities, k):
    best = true_values(judged[0], probabilities, k=k)
    for one in judged[1:]:
        theirs = true_values(one, probabilities, k=k)
        assert np.all(best >= theirs - 1e-6) and best.mean() > theirs.mean() + 0.005, one.name
        hits = [np.take_along_axis(probabilities, entry.lists[:, :k], axis=1).sum(axis=1) for entry in (judged[0], one)]
        assert np.all(hits[0] >= hits[1] - 1e-6), one.name
        # in the sample only luck could put a system above, and the comparison does not say so
        found = paired_differences(judged[0].per_user[[f"ndcg@{k}"]], one.per_user[[f"ndcg@{k}"]], num_resamples=200)
        assert found.low[0] > 0, one.name


# -- leakage --


@pytest.mark.filterwarnings("ignore:random_ratio")
def test_the_leaky_split_is_an_error_of_the_audit_and_honest_ones_are_not(tmp_path):
    found = {}
    for rule in ("random_ratio", "leave_one_out", "global_timeline"):
        config = tiny_config(tmp_path / rule, "--data.shop.num_users", "400", "--data.split.rule", rule)
        dataset = pipeline.prepare(config)
        cases = pipeline.cases_of(dataset, config.evaluation)
        ranker = baseline_rankers(pipeline.known_events(dataset, "test"), num_items=60, time_kind="seconds")[0]
        rows = audit(dataset, cases, [judge(ranker, cases, config=config.evaluation)], config=config.evaluation)
        found[rule] = {row.key: row for row in rows}
        assert [row.key for row in rows if row.severity == "error"] == (
            ["own_future"] if rule == "random_ratio" else []
        )
        if rule == "random_ratio":
            # most users have an event of training after their first target: by hand
            sequences, training = dataset.sequences, dataset.split.parts == 0
            first = cases.target_events[cases.target_offsets[:-1]]
            ends = sequences.offsets[1:][cases.users]
            affected = sum(training[start + 1 : end].any() for start, end in zip(first, ends, strict=True))
            assert rows[0].count == affected > 0.5 * len(cases.users)
            assert "the model knows their future" in rows[0].text
    # what a split by user has by design is told, and no timeline has it
    assert found["leave_one_out"]["later_events"].severity == "warning"
    assert "later_events" not in found["global_timeline"]


@pytest.mark.filterwarnings("ignore:random_ratio")
def test_training_on_the_targets_themselves_is_an_error(shop, judged):
    dataset, cases, _, config = shop
    trained = dataset.split.parts == 0
    trained[cases.target_events[:1000]] = True
    rows = audit(dataset, cases, judged[1:], config=config, train_events=trained)
    leaked = next(row for row in rows if row.key == "targets_trained_on")
    assert (leaked.severity, leaked.count) == ("error", 1000)
    assert "error" not in {row.severity for row in audit(dataset, cases, judged[1:], config=config)}


# -- a planted weakness --


SHORT = 10
"""Events below which the planted system knows nothing."""


def test_a_planted_cold_start_weakness_is_found_as_the_worst_segment(shop, judged):
    dataset, cases, ceiling, config = shop

    def forgetful(histories):
        """The optimum for long histories, and anything at all for short ones."""
        scores = np.array(ceiling.scores(histories), dtype=np.float32)
        noise = np.random.default_rng(histories.num_users).random(scores.shape, dtype=np.float32)
        return np.where((histories.lengths < SHORT)[:, None], noise, scores)

    planted = judge(FunctionRanker("forgetful", forgetful), cases, config=config)
    figures, optimum = (one.per_user["ndcg@10"].to_numpy(dtype=np.float64) for one in (planted, judged[0]))
    users = user_table(dataset, cases)
    short = (users["history_length"] < SHORT).to_numpy()
    assert 60 < short.sum() < len(users) / 2
    kinds = user_bins(users)
    known = {name: kinds[name] for name in ("history_length", "last_behavior")}
    # of the kinds that are known before the target is, and of all kinds where the optimum is the measure: what is
    # hard for everybody, such as an item that the user never had, is no weakness of the system
    for values, cuts in ((figures, known), (figures - optimum, kinds)):
        found = worst_segments(values, cuts, num_permutations=199)
        worst = found.table.iloc[0]
        assert "history length " in worst["segment"] and worst["p_value"] <= 0.01, worst
        assert short[found.segments.users(int(worst.name))].all()
    # in the search for low figures among all kinds it stands beside what is hard for everybody
    chosen = distinct_segments(worst_segments(figures, kinds, num_permutations=199))["segment"]
    assert any("history length 0–4" in name or "history length 5–9" in name for name in chosen)
    text = segments_section([planted, judged[0]], users, config=config)["summary"]
    assert "history length " in text[text.index("gains least over Bayes filter") :]
    # without the plant there is nothing of the kind to be found
    honest = worst_segments(optimum, known, num_permutations=199).table.set_index("segment")["deficit"]
    searched = worst_segments(figures, known, num_permutations=199).table
    assert searched.iloc[0]["deficit"] > 2 * abs(honest[searched.iloc[0]["segment"]])


# -- how sure --


def test_of_comparisons_of_equals_a_twentieth_is_significant(judged):
    """A/A: each user's figures of two systems go to one or the other at random, so that neither is better."""
    first, second = (one.per_user["ndcg@10"].to_numpy(dtype=np.float64) for one in (judged[2], judged[3]))
    swapped = np.random.default_rng(0).random((len(first), REPETITIONS)) < 0.5
    a, b = np.where(swapped, second[:, None], first[:, None]), np.where(swapped, first[:, None], second[:, None])
    result = paired_differences(a, b, num_resamples=400, tests=["permutation", "t"])
    for p_values in (result.p_value, result.p_t):
        assert 0.04 <= np.mean(p_values <= 0.05) <= 0.06
    assert 0.94 <= np.mean((result.low <= 0) & (result.high >= 0)) <= 0.96
    # the systems as they are do differ
    assert paired_differences(first[:, None], second[:, None], num_resamples=400).p_value[0] < 0.01


def test_intervals_of_a_part_of_the_users_cover_the_figure_of_all(judged):
    """2,000 evaluations of 1,000 of the shop's users, drawn with replacement, and the whole shop as the truth."""
    drawn = np.random.default_rng(0).integers(0, len(judged[0].per_user), (1000, REPETITIONS))
    tables = [one.per_user["ndcg@10"].to_numpy(dtype=np.float64) for one in judged]
    of_figure = bootstrap_means(tables[3][drawn], num_resamples=4000)
    assert 0.94 <= np.mean((of_figure.low <= tables[3].mean()) & (tables[3].mean() <= of_figure.high)) <= 0.96
    gains = tables[0] - tables[3]
    found = paired_differences(tables[0][drawn], tables[3][drawn], num_resamples=4000, tests=[])
    assert 0.94 <= np.mean((found.low <= gains.mean()) & (gains.mean() <= found.high)) <= 0.96
