"""The simulated shop's own optimum in an evaluation: only where it is exact, and then above everything."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.baselines import baseline_rankers
from seqrec_jax.data.splits import evaluation_cases
from seqrec_jax.evaluation.judging import judge

SEARCHED = (
    *("--data.shop.search", "0.6", "--data.cleaning.item_free_behaviors", "[search]"),
    *("--data.cleaning.behaviors", "[view, click, cart, purchase, search]"),
)


@pytest.mark.parametrize(
    ("words", "exact"),
    [
        (("leave_one_out",), True),
        (("leave_one_out", *SEARCHED), True),
        (("global_timeline", *SEARCHED), False),
        (("user_holdout",), True),
        (("global_timeline",), True),
        (("item_holdout",), False),
        (("random_ratio",), False),
        (("leave_one_out", "--data.split.target_behaviors", "[purchase]"), False),
        (("leave_one_out", "--data.cleaning.collapse_repeats_seconds", "3600"), False),
        (("leave_one_out", "--evaluation.targets", "all"), False),
    ],
)
@pytest.mark.filterwarnings("ignore:random_ratio")
def test_the_ceiling_is_shown_only_where_it_is_exact(tmp_path, words, exact):
    config = tiny_config(tmp_path, "--data.split.rule", *words)
    dataset = pipeline.prepare(config)
    oracle = pipeline.oracle(dataset, config.evaluation)
    assert (oracle is not None) == exact
    if oracle is not None:
        cases = evaluation_cases(
            dataset.sequences, dataset.split, stage="test", **pipeline.case_options(config.evaluation, dataset)
        )
        scores = oracle.scores(cases.histories)
        assert scores.shape == (len(cases.users), 61)
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "words", [("leave_one_out",), ("leave_one_out", *SEARCHED), ("user_holdout",), ("global_timeline",)]
)
def test_the_ceiling_knows_how_often_it_hits_and_no_baseline_is_above_it(tmp_path, words):
    config = tiny_config(tmp_path, "--data.shop.num_users", "3000", "--data.split.rule", *words)
    dataset = pipeline.prepare(config)
    options = pipeline.case_options(config.evaluation, dataset)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", **options)
    oracle = pipeline.oracle(dataset, config.evaluation)
    assert oracle.name == "Bayes filter (optimum)"
    probabilities = np.asarray(oracle.scores(cases.histories)).astype(float)
    listed = np.argsort(-probabilities, axis=1)[:, :5]
    expected = np.take_along_axis(probabilities, listed, axis=1).sum(axis=1)
    hits = (listed == cases.target_items[:, None]).any(axis=1)
    error = np.sqrt(np.sum(expected * (1 - expected))) / len(hits)
    # an exact filter is right as often as it says, which only luck and not a better model can exceed
    assert abs(hits.mean() - expected.mean()) < 3 * error < 0.09

    best = judge(oracle, cases, config=config.evaluation).per_user
    known = pipeline.known_events(dataset, "test")
    for baseline in baseline_rankers(known, num_items=60, time_kind="seconds"):
        difference = best - judge(baseline, cases, config=config.evaluation).per_user
        for metric in ("ndcg@10", "hit_rate@5"):
            error = difference[metric].std() / np.sqrt(len(difference))
            assert difference[metric].mean() > 2 * error, (baseline.name, metric)


def test_the_ceiling_stands_in_the_table_and_the_model_is_not_above_it(tiny_run, tmp_path):
    pipeline.prepare(tiny_config(tmp_path, "--data.split.rule", "leave_one_out"))
    run = shutil.copytree(tiny_run.run, tmp_path / "run")
    evaluation, _ = pipeline.evaluate(run, tiny_run.config.evaluation, dataset=str(tmp_path / "data/tiny"))
    assert [system["kind"] for system in evaluation.result["systems"]] == ["model", *["baseline"] * 5, "ceiling"]
    assert len(evaluation.result["comparisons"]) == 5
    model, oracle = (evaluation.judged[place].per_user["ndcg@10"] for place in (0, -1))
    difference = oracle - model
    assert difference.mean() > 2 * difference.std() / np.sqrt(len(difference))
