"""Temperature and Platt scaling beside SciPy's minimiser, and on logits that are known to be too sure."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.heads.calibration import Calibration, fit_platt, fit_temperature
from seqrec_jax.metrics import expected_calibration_error


def too_sure(num_examples=4000, seed=0):
    """Logits that are 3 times too large and 1 too high, and what happened."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=num_examples)
    return 3 * truth + 1, rng.random(num_examples) < 1 / (1 + np.exp(-truth))


def test_platt_finds_what_scipy_finds_and_undoes_what_was_done():
    logits, happened = too_sure(300)
    targets = np.where(happened, (happened.sum() + 1) / (happened.sum() + 2), 1 / ((~happened).sum() + 2))
    expected = minimize(
        lambda w: np.mean(np.logaddexp(0, w[0] * logits + w[1]) - targets * (w[0] * logits + w[1])),
        [0.0, 0.0],
        tol=1e-12,
    ).x
    np.testing.assert_allclose(fit_platt(logits, happened), expected, atol=1e-5)
    np.testing.assert_allclose(fit_platt(*too_sure(20_000)), [1 / 3, -1 / 3], atol=0.03)


def test_temperature_finds_what_scipy_finds():
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(500, 4))
    classes = 1 + np.argmax(logits / 2 + rng.gumbel(size=(500, 4)), axis=1)

    def loss(slope):
        return np.mean(np.log(np.exp(slope * logits).sum(axis=1)) - slope * logits[np.arange(500), classes - 1])

    found = fit_temperature(logits, classes)
    assert found.slope == pytest.approx(minimize_scalar(loss, bounds=(0.01, 10), method="bounded").x, rel=1e-3)
    assert found.slope == pytest.approx(0.5, abs=0.08) and found.intercept == 0
    classes[:50] = 0
    assert fit_temperature(logits, classes) == fit_temperature(logits[50:], classes[50:])


def test_a_yes_or_no_is_two_classes():
    logits, happened = too_sure(500)
    two = fit_temperature(np.stack([np.zeros(500), logits], axis=1), 1 + happened.astype(int))
    assert fit_temperature(logits, happened) == two


def test_calibration_error_falls_on_new_examples_and_the_order_stays():
    calibration = fit_platt(*too_sure(2000, seed=2))
    logits, happened = too_sure(4000, seed=3)
    raw, calibrated = (1 / (1 + np.exp(-values)) for values in (logits, calibration(logits)))
    assert expected_calibration_error(raw, happened) > 0.15
    assert expected_calibration_error(calibrated, happened) < 0.04
    np.testing.assert_array_equal(np.argsort(logits), np.argsort(calibrated))


def test_examples_that_are_separated_or_all_alike_give_finite_numbers():
    for logits, happened in (
        (np.array([-5.0, -4.0, 4.0, 5.0]), np.array([False, False, True, True])),
        (np.array([1.0, 2.0]), np.array([True, True])),
        (np.zeros(3), np.array([True, False, True])),
        (np.array([-1e4, 1e4, 1e4]), np.array([True, False, True])),
    ):
        assert np.all(np.isfinite(fit_platt(logits, happened)))
        assert 1e-3 <= fit_temperature(logits, happened).slope <= 1e3
    assert fit_platt(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([True, True, False, False])).slope < 0


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(DataError, match="logits that are finite"):
        fit_platt(np.array([np.nan]), np.array([True]))
    with pytest.raises(DataError, match="at least one example"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(DataError, match="no example with a class"):
        fit_temperature(np.zeros((2, 3)), np.zeros(2, int))
    with pytest.raises(DataError, match=r"classes are from 1 to 4, expected 0 \(unknown\) to 3"):
        fit_temperature(np.zeros((2, 3)), np.array([1, 4]))
    with pytest.raises(ShapeError, match=r"labels are int64 beside logits of shape \(2,\)"):
        fit_platt(np.zeros(2), np.array([1, 0]))
    with pytest.raises(ShapeError, match=r"logits have shape \(2,\) and labels \(3,\)"):
        fit_platt(np.zeros(2), np.ones(3, bool))
    with pytest.raises(ShapeError, match="for classes use fit_temperature"):
        fit_platt(np.zeros((2, 2)), np.array([1, 2]))


def test_a_calibration_is_two_numbers():
    assert Calibration(2.0, 1.0)(np.array([3.0])).tolist() == [7.0]
