"""Corrected figures against a case worked by hand and a log whose exposure is known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import EvaluationCases, SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.beyond.exposure import exposure_correction, exposure_correction_section
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig

CONFIG = EvaluationConfig(num_resamples=200)


def make_judged(name: str, values) -> Judged:
    lists = np.zeros((len(values), 1), dtype=np.int32)
    ranks = np.ones(len(values), dtype=np.int32)
    per_user = pd.DataFrame({"ndcg@10": values})
    return Judged(name, per_user, lists, lists.astype(np.float32), ranks, ranks, ranks, 0, 1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def log() -> tuple:
    """Users whose targets, one each, are items of 4, 1, 1 and 0 training events."""
    rows = [("a", "xxxy"), ("b", "zxw"), ("c", "xyz"), ("d", "xyx")]
    events = pd.DataFrame([(user, item) for user, items in rows for item in items], columns=["user_id", "item_id"])
    dataset = prepare_dataset(
        events.assign(timestamp=range(len(events))), name="log", split=SplitConfig("leave_one_out")
    )
    return dataset, evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=4)


def test_a_case_worked_by_hand(log):
    dataset, cases = log
    counts = {"w": 0, "x": 4, "y": 0, "z": 1}  # all but the last two events of each user
    weights = np.array([5 / (counts[item] + 1) for item in "ywzx"])
    values = np.array([0.2, 0.4, 0.6, 1.0])
    found = exposure_correction([make_judged("m", values)], dataset, cases, config=CONFIG, powers=[1], caps=[1, 100])
    row = found.iloc[1]
    assert (row["system"], row["exposure"], row["cap"], row["capped"]) == ("m", "popularity^1", 100, 0)
    assert row["plain"] == pytest.approx(values.mean())
    assert row["mean"] == pytest.approx((weights * values).sum() / weights.sum(), rel=1e-6)
    assert row["effective_users"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-6)
    assert row["low"] <= row["mean"] <= row["high"]
    capped = np.minimum(weights, np.median(weights))
    assert found["mean"].iloc[0] == pytest.approx((capped * values).sum() / capped.sum(), rel=1e-6)
    assert found["capped"].iloc[0] == 0.5
    flat = exposure_correction([make_judged("m", values)], dataset, cases, config=CONFIG, powers=[0])
    assert flat["mean"].tolist() == pytest.approx([values.mean()] * 2)
    assert flat["effective_users"].tolist() == pytest.approx([4, 4])


def test_observed_exposure_recovers_what_everybody_wants(log):
    """Half of 20,000 wishes are for items shown one time in ten; the system serves them badly."""
    dataset, _ = log
    rng = np.random.default_rng(0)
    rare = rng.random(20_000) < 0.5
    chance = np.where(rare, 0.1, 1.0)
    values = (rng.random(20_000) < np.where(rare, 0.2, 0.6)).astype(float)
    seen = rng.random(20_000) < chance
    users = int(seen.sum())
    cases = EvaluationCases(
        users=np.zeros(users, dtype=np.int64),
        histories=dataset.sequences.select_users(np.zeros(users, dtype=np.int64)),
        target_offsets=np.arange(users + 1),
        target_items=np.ones(users, dtype=np.int32),
        target_events=np.zeros(users, dtype=np.int64),
        candidates=np.arange(5) > 0,
        users_without_history=0,
    )
    judged = [make_judged("m", values[seen])]
    found = exposure_correction(judged, dataset, cases, config=CONFIG, propensities=chance[seen], caps=[20]).iloc[0]
    assert found["exposure"] == "as logged"
    assert found["plain"] > 0.55
    assert found["low"] < 0.4 < found["high"] and found["mean"] == pytest.approx(0.4, abs=0.03)
    assert found["effective_users"] < users / 2
    # the interval is that of resampling the ratio itself
    weights, resampled = 1 / chance[seen], []
    for _ in range(300):
        drawn = rng.integers(0, users, users)
        resampled.append((weights[drawn] * values[seen][drawn]).sum() / weights[drawn].sum())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * np.std(resampled), rel=0.2)


def test_a_user_weighs_as_the_mean_of_its_targets_and_nobody_counts_without_a_figure(log):
    dataset, cases = log
    cases = EvaluationCases(
        users=cases.users[:3],
        histories=cases.histories.select_users(np.arange(3)),
        target_offsets=np.array([0, 2, 3, 4]),
        target_items=cases.target_items,
        target_events=cases.target_events,
        candidates=cases.candidates,
        users_without_history=0,
    )
    chances = [0.5, 0.25, 1.0, 0.1]
    judged = [make_judged("m", [0.9, 0.3, np.nan]), make_judged("n", [np.nan] * 3)]
    found = exposure_correction(judged, dataset, cases, config=CONFIG, propensities=chances, caps=[50])
    assert found["mean"].iloc[0] == pytest.approx((3 * 0.9 + 1 * 0.3) / 4)
    assert found.iloc[1][["plain", "mean", "effective_users"]].isna().all()


def test_the_section_says_whether_systems_change_places(log):
    dataset, cases = log
    judged = [make_judged("m", [0.1, 0.2, 0.2, 1.0]), make_judged("n", [0.3, 0.3, 0.3, 0.3])]
    found = exposure_correction(judged, dataset, cases, config=CONFIG)
    section = exposure_correction_section(found, metric="ndcg@10")
    json.dumps(section, allow_nan=False)
    assert len(section["blocks"][0]["rows"]) == 8
    assert "which is an assumption" in section["summary"] and "else n." in section["summary"]
    alone = exposure_correction(judged[1:], dataset, cases, config=CONFIG, propensities=[0.5] * 4)
    summary = exposure_correction_section(alone, metric="ndcg@10")["summary"]
    assert "comes from the log" in summary and "n is the best by the plain figure and stays so" in summary


def test_wrong_input_is_refused(log):
    dataset, cases = log
    judged = [make_judged("m", [0.1, 0.2, 0.2, 1.0])]
    with pytest.raises(ShapeError, match=r"propensities have shape \(3,\), expected one a target, \(4,\)"):
        exposure_correction(judged, dataset, cases, config=CONFIG, propensities=[0.5] * 3)
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(DataError, match="expected above 0 and at most 1 for every target"):
            exposure_correction(judged, dataset, cases, config=CONFIG, propensities=[0.5, 0.5, wrong, 0.5])
    for options in ({"caps": []}, {"caps": [0.5]}, {"powers": []}):
        with pytest.raises(ConfigError, match=r"caps must be at least 1, got 0\.5|at least one cap and one power"):
            exposure_correction(judged, dataset, cases, config=CONFIG, **options)
