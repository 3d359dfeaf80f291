"""The evaluation against what is true: on the simulated shop the probability of every next item is known."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.baselines import Ranker, baseline_rankers
from seqrec_jax.data.splits import evaluation_cases
from seqrec_jax.evaluation.protocol import judge
from seqrec_jax.evaluation.statistics import bootstrap_means


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Dataset, cases, the filter that knows the truth, and configuration of a shop of 3,000 users."""
    folder = tmp_path_factory.mktemp("truth")
    config = tiny_config(folder, "--data.shop.num_users", "3000", "--data.split.rule", "leave_one_out")
    dataset = pipeline.prepare(config)
    options = pipeline.case_options(config.evaluation, dataset)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", **options)
    return dataset, cases, pipeline.ceiling(dataset, config.evaluation), config.evaluation


def systems(dataset, ceiling) -> list[Ranker]:
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
    return [ceiling, *chosen, Ranker("half blind", half_blind)]


def true_value(judged, probabilities, *, k: int) -> float:
    """The ndcg@k that the lists have in expectation over what the users might have done next."""
    chances = np.take_along_axis(probabilities, judged.lists[:, :k], axis=1) * (judged.lists[:, :k] > 0)
    return float((chances / np.log2(np.arange(2, k + 2))).sum(axis=1).mean())


def test_the_estimated_order_of_systems_is_the_true_one_and_intervals_hold_the_true_values(shop):
    dataset, cases, ceiling, config = shop
    probabilities = np.asarray(ceiling.scores(cases.histories)).astype(np.float64)
    judged = [judge(ranker, cases, config=config) for ranker in systems(dataset, ceiling)]
    true = np.array([true_value(one, probabilities, k=10) for one in judged])
    table = np.stack([one.per_user["ndcg@10"] for one in judged], axis=1)
    interval = bootstrap_means(table, num_resamples=1000, confidence=0.99)
    assert np.all((interval.low <= true) & (true <= interval.high)), (interval, true)
    assert np.argsort(interval.mean).tolist() == np.argsort(true).tolist()
    assert np.diff(np.sort(true)).min() > 0.005  # else the order would be a matter of luck
    # the optimum bounds all, in truth and hence in expectation
    assert true.argmax() == 0
    assert interval.mean.argmax() == 0
