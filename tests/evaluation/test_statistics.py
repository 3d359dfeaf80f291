"""Intervals, paired tests and corrections against scipy, exact enumeration and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation import statistics
from seqrec_jax.evaluation.statistics import bootstrap_means, holm_correction, paired_differences

NAN = math.nan


def test_two_users_have_a_known_distribution():
    """Users 0 and 1 resample to means 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    values = [[0.0], [1.0]]
    wide = bootstrap_means(values, confidence=0.95)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    narrow = bootstrap_means(values, confidence=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    above_one = bootstrap_means(values, confidence=0.56)  # tails of 0.22 lie inside the outer quarters
    assert (above_one.low, above_one.high) == (0.0, 1.0)


def test_one_user_and_constant_users_have_no_width():
    for values in ([[0.1, 0.7]], [[0.1, 0.7]] * 7):
        interval = bootstrap_means(values)
        np.testing.assert_allclose(interval.mean, [0.1, 0.7], rtol=1e-15)
        np.testing.assert_allclose(interval.low, interval.mean, rtol=1e-15)
        np.testing.assert_allclose(interval.high, interval.mean, rtol=1e-15)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=(80, 2))
    ours = bootstrap_means(values, num_resamples=20_000, confidence=0.9)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, axis=0, method="percentile", n_resamples=20_000, confidence_level=0.9, rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    np.testing.assert_allclose(ours.mean, values.mean(axis=0), rtol=1e-12)
    # the percentile's own error: sqrt(0.05 * 0.95 / 20000) over the density, about 1% of the width
    np.testing.assert_array_less(np.abs(ours.low - theirs.low), 0.03 * width)
    np.testing.assert_array_less(np.abs(ours.high - theirs.high), 0.03 * width)


def test_undefined_users_are_left_out():
    generator = np.random.default_rng(1)
    values = generator.random((60, 1))
    with_gaps = np.concatenate([values[:30], np.full((25, 1), NAN), values[30:]])
    for ours, expected in zip(bootstrap_means(with_gaps), bootstrap_means(values), strict=True):
        np.testing.assert_array_equal(ours, expected)
    # undefined in one column only: the mean is exact, the interval close to that of the defined users
    table = np.concatenate([with_gaps, generator.random((85, 1)), np.full((85, 1), NAN)], axis=1)
    interval, alone = (
        bootstrap_means(table, num_resamples=20_000),
        bootstrap_means(values, num_resamples=20_000),
    )
    np.testing.assert_allclose(interval.mean[0], values.mean(), rtol=1e-12)
    width = alone.high[0] - alone.low[0]
    assert abs(interval.low[0] - alone.low[0]) < 0.05 * width
    assert abs(interval.high[0] - alone.high[0]) < 0.05 * width
    assert all(np.isnan(part[2]) for part in interval)


def test_a_metric_defined_for_one_user_among_many():
    values = np.full((30, 2), NAN)
    values[:, 0] = np.arange(30)
    values[4, 1] = 0.25
    interval = bootstrap_means(values)
    assert interval.mean[1] == interval.low[1] == interval.high[1] == 0.25


def test_nothing_defined_gives_nan():
    assert all(np.isnan(part).all() for part in bootstrap_means(np.full((3, 2), NAN)))
    assert all(np.isnan(part).all() for part in paired_differences(np.full((3, 2), NAN), np.ones((3, 2))))


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    """Of 400 intervals at 90 %, on 60 skewed users each; percentile intervals fall a little short there."""
    values = np.random.default_rng(2).exponential(size=(60, 400))
    interval = bootstrap_means(values, confidence=0.9)
    covered = np.mean((interval.low <= 1) & (interval.high >= 1))
    assert 0.84 < covered < 0.95


def test_false_alarms_are_as_rare_as_promised_and_real_differences_are_found():
    generator = np.random.default_rng(3)
    a, b = generator.random((2, 50, 400))
    result = paired_differences(a, b, num_permutations=1000)
    assert 0.02 < np.mean(result.p_value < 0.05) < 0.09  # 0.05 ± 4 standard errors
    assert np.mean(paired_differences(a + 0.4, b, num_permutations=1000).p_value < 0.05) > 0.99


@pytest.mark.parametrize("users", [1, 2, 6, 10])
def test_p_value_agrees_with_exact_enumeration(users):
    generator = np.random.default_rng(users)
    # tenths, so that sums tie but for rounding
    a, b = generator.integers(0, 4, size=(2, users, 3)) / 10
    result = paired_differences(a, b, num_permutations=20_000)
    for column in range(3):
        exact = oracles.sign_flip_p_value(list(a[:, column] - b[:, column]))
        assert abs(result.p_value[column] - exact) < 4 * math.sqrt(0.25 / 20_000)


def test_paired_differences_agree_with_scipy():
    generator = np.random.default_rng(5)
    a = generator.random((11, 1))
    b = a - 0.1 + 0.3 * generator.random((11, 1))
    theirs = scipy.stats.permutation_test(
        (a[:, 0], b[:, 0]), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=4096
    )  # 2^11 exchanges: exact
    ours = paired_differences(a, b, num_permutations=20_000)
    assert 0.001 < theirs.pvalue < 0.9
    assert abs(ours.p_value[0] - theirs.pvalue) < 0.015
    np.testing.assert_allclose(ours.mean, theirs.statistic, rtol=1e-12)
    t = scipy.stats.ttest_rel(a[:, 0], b[:, 0]).statistic
    np.testing.assert_allclose(ours.effect_size, t / math.sqrt(11), rtol=1e-12)


def test_paired_differences_by_hand():
    a = np.array([[0.5, 0.3, NAN], [0.9, 0.4, 0.1], [NAN, 0.2, NAN]])
    b = np.array([[0.1, 0.2, 0.5], [0.3, 0.3, NAN], [0.4, 0.1, 0.2]])
    result = paired_differences(a, b)
    np.testing.assert_allclose(result.mean, [0.5, 0.1, NAN])
    np.testing.assert_allclose(result.effect_size, [0.5 / math.sqrt(0.02), NAN, NAN])
    # two and three equal signs among 4 and 8: the exact values are 1/2 and 1/4
    np.testing.assert_allclose(result.p_value, [0.5, 0.25, NAN], atol=0.03)
    same = paired_differences(b, b)
    np.testing.assert_array_equal(same.p_value, [1, 1, 1])
    np.testing.assert_array_equal([same.mean, same.low, same.high], np.zeros((3, 3)))


def test_p_value_is_never_zero():
    result = paired_differences(np.ones((200, 1)), np.zeros((200, 1)), num_permutations=400)
    assert result.p_value == 1 / 401


def test_swapping_a_and_b_changes_the_sign_only():
    a, b = np.random.default_rng(6).random((2, 40, 3))
    forth, back = paired_differences(a, b), paired_differences(b, a)
    np.testing.assert_allclose(forth.mean, -back.mean, rtol=1e-12)
    np.testing.assert_allclose(forth.low, -back.high, rtol=1e-9)
    np.testing.assert_allclose(forth.effect_size, -back.effect_size, rtol=1e-12)
    np.testing.assert_array_equal(forth.p_value, back.p_value)


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    a, b = np.random.default_rng(7).random((2, 64, 3))
    first = paired_differences(a, b, seed=4)
    for part, again in zip(first, paired_differences(a, b, seed=4), strict=True):
        np.testing.assert_array_equal(part, again)
    other = paired_differences(a, b, seed=5)
    assert np.all(first.low != other.low)
    assert np.any(first.p_value != other.p_value)
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 64 * 7)
    for part, again in zip(first, paired_differences(a, b, seed=4), strict=True):
        np.testing.assert_allclose(part, again, rtol=1e-9)


def test_holm_by_hand():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1 = .02, .03, .06, .04, and none below the one before
    np.testing.assert_allclose(holm_correction([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm_correction([0.9, NAN, 0.6, 0.0]), [1, NAN, 1, 0])
    assert holm_correction([]).shape == (0,)


@given(
    p_values=st.lists(st.integers(0, 40).map(lambda n: n / 40), min_size=1, max_size=8),
    level=st.integers(1, 30).map(lambda n: n / 31),
)
@settings(max_examples=200, deadline=None)
def test_holm_rejects_what_the_procedure_rejects(p_values, level):
    assert (holm_correction(p_values) <= level).tolist() == oracles.holm_rejected(p_values, level)


def test_data_frames_are_taken_by_position_and_must_agree():
    frame = pd.DataFrame({"ndcg@10": [0.1, 0.5, NAN], "mrr": [0.2, 0.4, 0.9]}, index=["u1", "u2", "u3"])
    for part, expected in zip(bootstrap_means(frame), bootstrap_means(frame.to_numpy()), strict=True):
        np.testing.assert_array_equal(part, expected)
    nullable = frame.convert_dtypes()
    np.testing.assert_array_equal(bootstrap_means(nullable).mean, bootstrap_means(frame).mean)
    with pytest.raises(DataError, match="differ in their index"):
        paired_differences(frame, frame.loc[["u2", "u1", "u3"]])
    with pytest.raises(DataError, match="differ in their columns"):
        paired_differences(frame, frame[["mrr", "ndcg@10"]])


def test_bad_tables_are_refused():
    with pytest.raises(ShapeError, match=r"values has shape \(3,\), expected \[U, M\]"):
        bootstrap_means(np.ones(3))
    with pytest.raises(ShapeError, match=r"a has shape \(3, 1\) and b \(2, 1\)"):
        paired_differences(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(DataError, match="no users"):
        bootstrap_means(np.ones((0, 2)))
    with pytest.raises(DataError, match=r"values\[1, 0\] is inf"):
        bootstrap_means([[1.0], [math.inf]])
    with pytest.raises(DataError, match="not a table of numbers"):
        bootstrap_means(pd.DataFrame({"user": ["x", "y"]}))
    with pytest.raises(ShapeError, match="p_values has shape"):
        holm_correction([[0.1]])
    with pytest.raises(DataError, match=r"p_values has 1\.5"):
        holm_correction([0.1, 1.5])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"confidence": 95}, "confidence is 95"),
        ({"confidence": 0.0}, r"confidence is 0\.0"),
        ({"num_resamples": 10}, "num_resamples is 10"),
        ({"seed": -1}, "seed is -1"),
        ({"num_permutations": 0}, "num_permutations is 0"),
    ],
)
def test_bad_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        paired_differences(np.ones((3, 1)), np.ones((3, 1)), **option)
