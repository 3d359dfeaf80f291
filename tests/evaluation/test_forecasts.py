"""Figures of forecasts against those of the metrics, and intervals against rows that are really repeated."""

import numpy as np
import pytest

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.forecasts import _figures, judge_forecasts
from seqrec_jax.metrics import grouped_auc, log_loss, roc_auc


def rows(seed=0, count=400, num_users=40):
    rng = np.random.default_rng(seed)
    chances = np.round(rng.beta(1, 6, count), 2)  # with ties
    return chances, rng.random(count) < chances, rng.integers(0, num_users, count)


def test_figures_are_those_of_the_metrics():
    chances, happened, users = rows()
    found = judge_forecasts({"a": chances}, happened, users, num_resamples=100).figures["a"]
    float_chances = chances.astype(np.float32)
    assert found["auc"]["value"] == pytest.approx(float(roc_auc(float_chances, happened)), abs=1e-5)
    assert found["log_loss"]["value"] == pytest.approx(float(log_loss(float_chances, happened)), abs=1e-5)
    mine = users == np.arange(40)[:, None]
    own = roc_auc(np.tile(float_chances, (40, 1)), np.tile(happened, (40, 1)), where=mine)
    grouped = grouped_auc(own, mine.sum(axis=1).astype(np.float32))
    assert found["grouped_auc"]["value"] == pytest.approx(float(grouped), abs=1e-5)
    assert found["forecast_share"]["value"] == pytest.approx(chances.sum() / happened.sum())
    assert all(one["low"] <= one["value"] <= one["high"] for name, one in found.items() if name != "ece")


def test_the_calibration_error_by_hand():
    chances, happened = np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.7]), np.array([0, 0, 1, 1, 0, 1]) == 1
    found = judge_forecasts({"a": chances}, happened, np.arange(6), num_bins=2, num_resamples=100)
    assert found.figures["a"]["ece"]["value"] == pytest.approx((abs(0.3 - 1) + abs(2.5 - 2)) / 6)


def test_a_draw_is_the_figure_of_rows_that_are_repeated():
    chances, happened, users = rows(1, 120, 10)
    draw = np.random.default_rng(2).integers(0, 4, 10)
    repeated = np.repeat(np.arange(120), draw[users])
    weighted = _figures(chances, happened, users, draw[None].astype(float), num_bins=1)[0]
    whole = _figures(chances[repeated], happened[repeated], users[repeated], np.ones((1, 10)), num_bins=1)[0]
    names = [0, 2, 3, 4]  # each user's own AUC would be weighted by the repeated rows, which is the same
    np.testing.assert_allclose(weighted[names], whole[names])
    np.testing.assert_allclose(weighted[1], whole[1])


def test_a_system_does_not_differ_from_itself_and_a_better_one_does():
    chances, happened, users = rows(3, 2000, 200)
    systems = {"true": chances, "same": chances, "flat": np.full(len(chances), happened.mean())}
    found = judge_forecasts(systems, happened, users, reference="true", num_resamples=200)
    assert set(found.differences) == {"same", "flat"}
    assert all(set(one.values()) == {0.0} for one in found.differences["same"].values())
    assert found.differences["flat"]["auc"]["high"] < 0 < found.differences["flat"]["log_loss"]["low"]
    assert found.rows == {"rows": 2000, "true": int(happened.sum()), "users": 200}


def test_what_cannot_be_judged():
    chances, happened, users = rows()
    with pytest.raises(ConfigError, match="no system 'b'"):
        judge_forecasts({"a": chances}, happened, users, reference="b")
    with pytest.raises(DataError, match="a: expected one probability"):
        judge_forecasts({"a": chances * 9}, happened, users)
    with pytest.raises(ShapeError, match=r"a: \(399,\)"):
        judge_forecasts({"a": chances[1:]}, happened, users)
    with pytest.raises(ConfigError, match="num_resamples"):
        judge_forecasts({"a": chances}, happened, users, num_resamples=1)
