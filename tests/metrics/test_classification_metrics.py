"""Log loss, calibration, AUC and decisions by a threshold, against scikit-learn and by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax import metrics
from seqrec_jax.errors import ConfigError, DataError, ShapeError

roc_auc = jax.jit(metrics.roc_auc)
sklearn_metrics = pytest.importorskip("sklearn.metrics")
calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve


@pytest.fixture(scope="module")
def forecasts():
    """Probabilities on a coarse grid, so that scores tie and stand on the edges of bins, and labels."""
    generator = np.random.default_rng(5)
    probabilities = (generator.integers(0, 21, (4, 300)) / 20).astype(np.float32)
    labels = generator.random((4, 300)) < 0.2 + 0.5 * probabilities
    where = generator.random((4, 300)) < 0.8
    return probabilities, labels, where


def judge_all(probabilities, labels, where):
    return (
        metrics.log_loss(probabilities, labels, where=where),
        metrics.brier_score(probabilities, labels, where=where),
        metrics.roc_auc(probabilities, labels, where=where),
        metrics.reliability(probabilities, labels, num_bins=7, where=where),
        metrics.threshold_metrics(probabilities, labels, threshold=0.4, where=where),
    )


def test_agrees_with_scikit_learn(forecasts):
    probabilities, labels, where = forecasts
    judged = jax.jit(judge_all)(probabilities, labels, where)
    losses, squares, areas, curve, decided = judged
    assert losses.dtype == squares.dtype == areas.dtype == decided.f1.dtype == jnp.float32
    for row in range(4):
        truth, chances = labels[row][where[row]], probabilities[row][where[row]]
        np.testing.assert_allclose(losses[row], sklearn_metrics.log_loss(truth, chances), rtol=1e-5)
        np.testing.assert_allclose(squares[row], sklearn_metrics.brier_score_loss(truth, chances), rtol=1e-5)
        np.testing.assert_allclose(areas[row], sklearn_metrics.roc_auc_score(truth, chances), rtol=1e-6)
        frequency, forecast = calibration_curve(truth, chances, n_bins=7)
        filled = np.asarray(curve.counts[row]) > 0
        np.testing.assert_allclose(curve.frequency[row][filled], frequency, rtol=1e-5)
        np.testing.assert_allclose(curve.forecast[row][filled], forecast, rtol=1e-5)
        guess = chances >= np.float32(0.4)
        np.testing.assert_allclose(decided.accuracy[row], sklearn_metrics.accuracy_score(truth, guess), rtol=1e-6)
        np.testing.assert_allclose(decided.precision[row], sklearn_metrics.precision_score(truth, guess), rtol=1e-6)
        np.testing.assert_allclose(decided.recall[row], sklearn_metrics.recall_score(truth, guess), rtol=1e-6)
        np.testing.assert_allclose(decided.f1[row], sklearn_metrics.f1_score(truth, guess), rtol=1e-6)


def test_calibration_error_by_hand():
    """Bins (0, 1/2] and (1/2, 1]: 3 forecasts of mean 0.3 with 1 in 3 true; 2 of mean 0.85 with 1 in 2 true."""
    probabilities = np.array([0.0, 0.4, 0.5, 0.7, 1.0])
    labels = np.array([0, 0, 1, 1, 0])
    expected = 3 / 5 * (1 / 3 - 0.3) + 2 / 5 * (0.85 - 0.5)
    value = metrics.expected_calibration_error(probabilities, labels, num_bins=2)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(metrics.reliability(probabilities, labels, num_bins=2).counts, [3, 2])
    one_bin = metrics.expected_calibration_error(probabilities, labels, num_bins=1)
    np.testing.assert_allclose(one_bin, abs(2.6 / 5 - 2 / 5), rtol=1e-6)


def test_right_forecasts_are_calibrated_and_their_shuffle_is_not():
    error = jax.jit(metrics.expected_calibration_error)
    generator = np.random.default_rng(0)
    probabilities = generator.random(100_000)
    labels = generator.random(100_000) < probabilities
    assert error(probabilities, labels) < 0.01
    assert error(generator.permutation(probabilities), labels) > 0.2


@given(
    scores=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    labels=st.lists(st.booleans(), min_size=6, max_size=6),
    where=st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_auc_counts_pairs_and_half_the_ties(scores, labels, where):
    pairs = [
        1.0 if scores[a] > scores[b] else 0.5 if scores[a] == scores[b] else 0.0
        for a in range(6)
        for b in range(6)
        if where[a] and where[b] and labels[a] and not labels[b]
    ]
    value = roc_auc(np.array(scores), np.array(labels), where=np.array(where))
    np.testing.assert_allclose(value, np.mean(pairs) if pairs else math.nan, rtol=1e-6)


def test_auc_takes_infinite_scores_and_is_exact_for_many_pairs():
    scores = np.array([-np.inf, np.inf, 0.0, -0.0])
    np.testing.assert_allclose(metrics.roc_auc(scores, np.array([0, 1, 1, 0])), (2 + 1.5) / 4)
    many = np.arange(200_000)  # 1e10 pairs, beyond int32
    labels = many % 2 == 1
    np.testing.assert_allclose(roc_auc(many, labels), 0.5 + 0.5 / 100_000, rtol=1e-6)


def test_a_sure_and_wrong_forecast_has_a_finite_loss():
    value = metrics.log_loss(np.array([0.0, 1.0]), np.array([True, False]))
    np.testing.assert_allclose(value, -math.log(np.finfo(np.float32).eps), rtol=1e-6)


def test_what_is_undefined_is_nan(forecasts):
    probabilities, labels, where = (jnp.asarray(array[0]) for array in forecasts)
    nothing = jnp.zeros_like(where)
    for metric in (metrics.log_loss, metrics.brier_score, metrics.expected_calibration_error, metrics.roc_auc):
        assert math.isnan(metric(probabilities, labels, where=nothing)), metric.__name__
        assert math.isnan(metric(probabilities.at[3].set(jnp.nan), labels)), metric.__name__
        np.testing.assert_allclose(
            metric(probabilities.at[3].set(jnp.nan), labels, where=where.at[3].set(False)),
            metric(probabilities, labels, where=where.at[3].set(False)),
            err_msg=metric.__name__,
        )
    assert math.isnan(metrics.log_loss(probabilities.at[3].set(1.5), labels))
    assert math.isnan(metrics.roc_auc(probabilities, jnp.ones_like(labels)))
    assert all(math.isnan(value) for value in metrics.threshold_metrics(probabilities.at[3].set(jnp.nan), labels))
    never = metrics.threshold_metrics(probabilities, jnp.zeros_like(labels), threshold=2.0)
    assert never.accuracy == 1 and all(math.isnan(value) for value in never[1:])


def test_bad_input_is_refused():
    chances, labels = np.array([0.5, 0.5]), np.array([True, False])
    with pytest.raises(DataError, match=r"probabilities hold 1.5, expected numbers in \[0, 1\]"):
        metrics.log_loss(np.array([0.5, 1.5]), labels)
    with pytest.raises(DataError, match="probabilities hold nan"):
        metrics.expected_calibration_error(np.array([0.5, np.nan]), labels)
    with pytest.raises(DataError, match="labels hold 2, expected 0 and 1"):
        metrics.roc_auc(chances, np.array([0, 2]))
    with pytest.raises(ShapeError, match="labels have dtype float"):
        metrics.roc_auc(chances, chances)
    with pytest.raises(ShapeError, match=r"labels have shape \(3,\), expected that of scores, \(2,\)"):
        jax.jit(metrics.roc_auc)(chances, np.ones(3, dtype=bool))
    with pytest.raises(ShapeError, match="where has shape"):
        metrics.brier_score(chances, labels, where=np.ones(3, dtype=bool))
    with pytest.raises(ShapeError, match="scores has dtype bool"):
        metrics.threshold_metrics(labels, labels)
    with pytest.raises(ConfigError, match="num_bins must be at least 1, got 0"):
        metrics.reliability(chances, labels, num_bins=0)
    masked = metrics.log_loss(np.array([0.5, -1.0]), np.array([1, -1]), where=labels)
    np.testing.assert_allclose(masked, math.log(2), rtol=1e-6)
