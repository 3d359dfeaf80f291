"""Intervals over users and seeds against statsmodels' and hand-made analysis of variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.statistics import bootstrap_means, two_level_intervals

NAN = math.nan


def test_two_by_two_by_hand():
    """Values 1 2 / 4 7: mean 3.5, rows 1.5 and 5.5, columns 2.5 and 4.5.

    Seeds: 2 · (2² + 2²) / 1 = 16; users: 2 · (1 + 1) / 1 = 4; all: 6.25 + 2.25 + .25 + 12.25 = 21, rest 1.
    Variance of the mean: (4 + 16 - 1) / 4; degrees 19² / (16 + 256 + 1) = 1.32, but at least and at most 1.
    """
    result = two_level_intervals([[[1.0], [2.0]], [[4.0], [7.0]]])
    assert result.mean == 3.5
    np.testing.assert_allclose(result.seed_deviation, 4 / math.sqrt(2))
    np.testing.assert_allclose(result.seed_share, 15 / 19)
    np.testing.assert_array_equal(result.degrees, 1)
    half = scipy.stats.t.ppf(0.975, 1) * math.sqrt(19 / 4)
    np.testing.assert_allclose([result.low[0], result.high[0]], [3.5 - half, 3.5 + half])


def test_seeds_that_do_not_differ_leave_the_users_interval():
    values = np.random.default_rng(0).random((400, 3))
    result = two_level_intervals(np.stack([values] * 4))
    np.testing.assert_allclose(result.mean, values.mean(axis=0))
    np.testing.assert_allclose(result.seed_deviation, 0, atol=1e-12)
    np.testing.assert_allclose(result.seed_share, 0, atol=1e-9)
    one = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(result.low, one.low, rtol=1e-9)
    np.testing.assert_allclose(result.high, one.high, rtol=1e-9)
    users_alone = bootstrap_means(values)
    np.testing.assert_allclose(result.high - result.low, users_alone.high - users_alone.low, rtol=0.1)


def test_users_that_do_not_differ_leave_the_seeds_interval():
    seeds = np.array([0.2, 0.25, 0.3, 0.22])
    result = two_level_intervals(np.repeat(seeds[:, None, None], 50, axis=1))
    theirs = scipy.stats.ttest_1samp(seeds, 0).confidence_interval(0.95)
    np.testing.assert_allclose([result.low[0], result.high[0]], [theirs.low, theirs.high], rtol=1e-9)
    np.testing.assert_allclose(result.seed_deviation, seeds.std(ddof=1))
    np.testing.assert_allclose((result.degrees, result.seed_share), ([3], [1]))


@pytest.mark.parametrize(("seeds", "seed_spread"), [(3, 0.0), (5, 0.02), (5, 0.1)])
def test_intervals_cover_the_mean_of_all_seeds_and_users(seeds, seed_spread):
    """2,000 experiments as columns: skewed users, seeds that shift all, and a rest of its own."""
    generator = np.random.default_rng(seeds)
    repetitions, users = 2000, 120
    user = generator.exponential(0.2, size=(users, repetitions))
    seed = generator.normal(0, seed_spread, size=(seeds, 1, repetitions))
    rest = generator.normal(0, 0.1, size=(seeds, users, repetitions))
    values = user + seed + rest
    result = two_level_intervals(values)
    covered = np.mean((result.low <= 0.2) & (result.high >= 0.2))
    assert 0.935 <= covered <= 0.97
    np.testing.assert_allclose(
        np.sqrt(np.mean(result.seed_deviation**2)), math.hypot(seed_spread, 0.1 / math.sqrt(users)), rtol=0.05
    )
    if seed_spread == 0.1:
        # what two levels are for: users alone, or a bootstrap of the seeds' means, fall far short
        alone = scipy.stats.ttest_1samp(values.mean(axis=0), 0).confidence_interval(0.95)
        assert np.mean((alone.low <= 0.2) & (alone.high >= 0.2)) < 0.8
        resampled = bootstrap_means(values.mean(axis=1))
        assert np.mean((resampled.low <= 0.2) & (resampled.high >= 0.2)) < 0.9


def test_agrees_with_analysis_of_variance_of_another_library():
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    pandas = pytest.importorskip("pandas")
    values = np.random.default_rng(3).random((3, 8)) + np.array([[0.0], [1.0], [2.0]])
    frame = pandas.DataFrame(
        {"value": values.ravel(), "seed": np.repeat(np.arange(3), 8), "user": np.tile(np.arange(8), 3)}
    )
    table = anova.anova_lm(formula.ols("value ~ C(seed) + C(user)", frame).fit())
    square = table["sum_sq"] / table["df"]
    total = square["C(user)"] + square["C(seed)"] - square["Residual"]
    result = two_level_intervals(values[:, :, None])
    half = scipy.stats.t.ppf(0.975, result.degrees) * math.sqrt(total / 24)
    np.testing.assert_allclose(result.high - result.mean, half, rtol=1e-9)


def test_only_users_defined_with_every_seed_count():
    values = np.random.default_rng(1).random((2, 30, 3))
    values[0, 3, 0] = NAN
    values[1, 7, 0] = NAN
    values[:, :, 1] = NAN
    values[:, 1:, 2] = NAN
    result = two_level_intervals(values)
    np.testing.assert_array_equal(result.units, [28, 0, 1])
    kept = np.delete(values[:, :, :1], [3, 7], axis=1)
    for part, expected in zip(result, two_level_intervals(kept), strict=True):
        np.testing.assert_allclose(part[0], expected[0])
        assert np.isnan(part[1:]).all() or part is result.units


def test_equal_values_have_no_width():
    result = two_level_intervals(np.full((3, 10, 1), 0.25))
    assert result.low == result.mean == result.high == 0.25


def test_bad_input_is_refused():
    with pytest.raises(DataError, match=r"values has 1 seed\(s\), expected at least two"):
        two_level_intervals(np.ones((1, 4, 2)))
    with pytest.raises(ShapeError, match=r"values\[0\] has shape \(4,\)"):
        two_level_intervals(np.ones((2, 4)))
    with pytest.raises(ShapeError, match="single number"):
        two_level_intervals(1.0)
    with pytest.raises(ShapeError, match=r"shapes \(3, 1\) and \(4, 1\)"):
        two_level_intervals([np.ones((4, 1)), np.ones((3, 1))])
    with pytest.raises(DataError, match=r"values\[1\]\[2, 0\] is inf"):
        two_level_intervals([np.ones((4, 1)), [[1.0], [1.0], [math.inf], [1.0]]])
    with pytest.raises(ConfigError, match=r"confidence must be greater than 0 and less than \S+, got 95"):
        two_level_intervals(np.ones((2, 4, 2)), confidence=95)
