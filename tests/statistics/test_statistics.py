"""User bootstrap and corrections against scipy, statsmodels, exact distributions and hand-worked cases."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import oracles
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.statistics import (
    benjamini_hochberg_correction,
    bootstrap_means,
    holm_correction,
    resampling,
)
from seqrec_jax.statistics.inputs import moments

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
    for values in ([[0.1, 0.7]], [[0.1, 0.7]] * 7, [[0.1, 0.7]] * 5000):
        interval = bootstrap_means(values, num_resamples=200)
        np.testing.assert_allclose(interval.mean, [0.1, 0.7], rtol=1e-12)
        np.testing.assert_allclose(interval.low, interval.mean, rtol=1e-12)
        np.testing.assert_allclose(interval.high, interval.mean, rtol=1e-12)


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


@pytest.mark.parametrize("users", [3, 7, 64])
def test_exact_counts_have_the_moments_of_drawing_with_replacement(users):
    rows = 400_000 // users
    counts = np.concatenate(list(resampling._multinomial_counts(np.random.SFC64(5), users, rows)))
    assert counts.shape == (rows, users)
    seen = np.bincount(counts.astype(int).ravel(), minlength=9)[:6] / counts.size
    expected = scipy.stats.binom(users, 1 / users).pmf(np.arange(6))
    np.testing.assert_allclose(seen, expected, atol=4 * math.sqrt(0.25 / counts.size))
    np.testing.assert_array_equal(counts.sum(axis=1), users)
    # each pair of users, such as the first two, is negatively correlated by -1 / (U - 1)
    covariance = np.mean((counts[:, 0] - 1) * (counts[:, 1] - 1))
    assert abs(covariance + 1 / users) < 5 / math.sqrt(rows)


@pytest.mark.parametrize("power", [0, 1, 5, 16])
def test_counts_of_equal_users_are_independent_poisson_numbers(power):
    """Of users who are 2^power alike."""
    mean = 2.0**power
    counts = np.concatenate(list(resampling._poisson_counts(np.random.SFC64(5), 4099, 97, power))).astype(np.float64)
    assert counts.shape == (97, 4099)
    assert counts.min() >= 0 and np.array_equal(counts, counts.round())
    scaled = (counts - mean) / math.sqrt(mean)
    for limit in (-2, -1, 0, 1, 2):
        at_most = scipy.stats.poisson(mean).cdf(math.floor(mean + limit * math.sqrt(mean)))
        assert abs(np.mean(scaled <= limit) - at_most) < 4 * math.sqrt(0.25 / counts.size)
    assert abs(scaled.mean()) < 4 / math.sqrt(counts.size)
    assert abs(scaled.var() - 1) < 4 * math.sqrt((2 + 1 / mean) / counts.size)
    assert abs(np.mean(scaled[:, :-1] * scaled[:, 1:])) < 5 / math.sqrt(counts.size)
    # what 16 bits cannot tell apart takes next to nothing from the moments
    quantiles = resampling._poisson_quantiles(power).astype(np.float64)
    np.testing.assert_allclose([quantiles.mean() / mean, quantiles.var() / mean], 1, rtol=2e-4)


def test_poisson_and_exact_draws_agree():
    """The same table both ways: spread and both tails, of a skewed metric and of one with gaps."""
    generator = np.random.default_rng(8)
    table = np.where(generator.random((5000, 3)) < 0.05, generator.random((5000, 3)), 0.0)
    table[generator.random(5000) < 0.5, 2] = NAN
    means = moments(table).mean
    ways = [
        resampling.resampled_deviations(table, means, num_resamples=8000, seed=1, poisson=poisson)
        for poisson in (False, True)
    ]
    spread = [way.std(axis=0) for way in ways]
    np.testing.assert_allclose(spread[0], spread[1], rtol=5 / math.sqrt(8000))
    exact = moments(table)
    np.testing.assert_allclose(spread[1], exact.deviation / np.sqrt(exact.units), rtol=4 / math.sqrt(8000))
    for share in (0.025, 0.5, 0.975):
        ends = [np.quantile(way, share, axis=0) for way in ways]
        assert np.all(np.abs(ends[0] - ends[1]) < 0.12 * spread[0])


def test_users_who_are_drawn_together_spread_as_each_by_itself(monkeypatch):
    """A table of few distinct rows, most of them all zeros, by groups and with one row a user, over several seeds."""
    generator = np.random.default_rng(3)
    places = np.where(generator.random(3000) < 0.7, 99, generator.integers(1, 8, 3000))
    table = np.stack([places <= 2, 1.0 / places * (places < 99), np.where(places % 3 == 1, np.nan, places < 9)], axis=1)
    first, copies = resampling._distinct_rows(table)
    assert len(first) == 8 and copies.sum() == 3000 and copies.max() > 2000
    means = moments(table).mean
    draw = partial(resampling.resampled_deviations, table, means, num_resamples=2000)
    together = np.concatenate([draw(seed=seed) for seed in range(10)])
    monkeypatch.setattr(resampling, "_distinct_rows", lambda table: (np.arange(len(table)), np.ones(len(table), int)))
    alone = np.concatenate([draw(seed=seed) for seed in range(4)])
    spread = together.std(axis=0)
    exact = moments(table)
    np.testing.assert_allclose(spread, exact.deviation / np.sqrt(exact.units), rtol=4 / math.sqrt(20_000))
    np.testing.assert_allclose(alone.std(axis=0), spread, rtol=4 / math.sqrt(8000))
    for share in (0.025, 0.5, 0.975):
        ends = [np.quantile(way, share, axis=0) for way in (together, alone)]
        assert np.all(np.abs(ends[0] - ends[1]) < 0.08 * spread)
    np.testing.assert_allclose(np.corrcoef(together.T), np.corrcoef(alone.T), atol=0.05)


def test_many_users_in_another_order_have_the_same_interval(monkeypatch):
    table = np.random.default_rng(5).integers(0, 40, (5000, 2)) / 40
    table[:50, 1] = NAN
    shuffled = table[np.random.default_rng(6).permutation(5000)]
    first, again = bootstrap_means(table, num_resamples=300), bootstrap_means(shuffled, num_resamples=300)
    for part, expected in zip(again, first, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)
    # rows that are told apart by no key are each drawn by itself
    monkeypatch.setattr(pd.util, "hash_pandas_object", lambda frame, index: pd.Series(np.zeros(len(frame), np.uint64)))
    np.testing.assert_array_equal(resampling._distinct_rows(table)[0], np.arange(5000))
    alone = bootstrap_means(table, num_resamples=300)
    assert np.all(alone.low != first.low)
    np.testing.assert_allclose(alone.high - alone.low, first.high - first.low, rtol=0.25)


def test_many_users_have_the_width_of_the_normal_distribution():
    values = np.random.default_rng(4).exponential(size=(30_000, 2))
    interval = bootstrap_means(values, num_resamples=4000)
    half = 1.96 * values.std(axis=0) / math.sqrt(30_000)
    np.testing.assert_allclose(interval.high - interval.mean, half, rtol=0.1)
    np.testing.assert_allclose(interval.mean - interval.low, half, rtol=0.1)


def test_undefined_users_are_left_out():
    generator = np.random.default_rng(1)
    values = generator.random((60, 1))
    with_gaps = np.concatenate([values[:30], np.full((25, 1), NAN), values[30:]])
    for ours, expected in zip(bootstrap_means(with_gaps), bootstrap_means(values), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
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


@pytest.mark.parametrize("users", [30, 5000])
def test_a_metric_defined_for_one_user_among_many(users):
    values = np.full((users, 2), NAN)
    values[:, 0] = np.arange(users)
    values[4, 1] = 0.25
    interval = bootstrap_means(values, num_resamples=200)
    assert interval.mean[1] == interval.low[1] == interval.high[1] == 0.25


def test_nothing_defined_gives_nan():
    assert all(np.isnan(part).all() for part in bootstrap_means(np.full((3, 2), NAN)))


@pytest.mark.parametrize("users", [64, 9000])
def test_the_seed_decides_and_blocks_and_threads_do_not(users, monkeypatch):
    table = np.random.default_rng(7).random((users, 3))
    first = bootstrap_means(table, seed=4, num_resamples=300)
    for part, again in zip(first, bootstrap_means(table, seed=4, num_resamples=300), strict=True):
        np.testing.assert_array_equal(part, again)
    assert np.all(first.low != bootstrap_means(table, seed=5, num_resamples=300).low)
    monkeypatch.setattr(resampling.os, "cpu_count", lambda: 1)
    for part, again in zip(first, bootstrap_means(table, seed=4, num_resamples=300), strict=True):
        np.testing.assert_array_equal(part, again)
    monkeypatch.setattr(resampling, "_BLOCK_ELEMENTS", 64 * 7)
    for part, again in zip(first, bootstrap_means(table, seed=4, num_resamples=300), strict=True):
        np.testing.assert_allclose(part, again, rtol=1e-12 if users == 64 else 1e-7)


def test_holm_by_hand():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1 = .02, .03, .06, .04, and none below the one before
    np.testing.assert_allclose(holm_correction([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm_correction([0.9, NAN, 0.6, 0.0]), [1, NAN, 1, 0])
    assert holm_correction([]).shape == (0,)


def test_benjamini_hochberg_by_hand():
    # sorted .005, .01, .03, .04 times 4/1, 4/2, 4/3, 4/4 = .02, .02, .04, .04
    np.testing.assert_allclose(benjamini_hochberg_correction([0.01, 0.04, 0.03, 0.005]), [0.02, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(benjamini_hochberg_correction([0.9, NAN, 0.6, 0.0]), [0.9, NAN, 0.9, 0])
    assert benjamini_hochberg_correction([]).shape == (0,)


@given(
    p_values=st.lists(st.integers(0, 40).map(lambda n: n / 40), min_size=1, max_size=8),
    level=st.integers(1, 30).map(lambda n: n / 31),
)
@settings(max_examples=200, deadline=None)
def test_corrections_reject_what_the_procedures_reject(p_values, level):
    assert (holm_correction(p_values) <= level).tolist() == oracles.holm_rejected(p_values, level)
    # Benjamini-Hochberg: all up to the largest k with p_(k) <= k / m * level
    ordered = sorted(p_values)
    passing = [k for k in range(1, len(ordered) + 1) if ordered[k - 1] * len(ordered) / k <= level]
    limit = ordered[passing[-1] - 1] if passing else -1
    assert (benjamini_hochberg_correction(p_values) <= level).tolist() == [p <= limit for p in p_values]


def test_corrections_agree_with_other_libraries():
    p_values = np.random.default_rng(9).random(40) ** 3
    np.testing.assert_allclose(
        benjamini_hochberg_correction(p_values), scipy.stats.false_discovery_control(p_values), rtol=1e-12
    )
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for ours, name in ((holm_correction, "holm"), (benjamini_hochberg_correction, "fdr_bh")):
        np.testing.assert_allclose(ours(p_values), multitest.multipletests(p_values, method=name)[1], rtol=1e-12)


@pytest.mark.parametrize("correction", [holm_correction, benjamini_hochberg_correction])
def test_a_family_may_have_any_shape(correction):
    p_values = np.random.default_rng(2).random((3, 4, 2)) ** 4
    p_values[1, 2] = NAN
    adjusted = correction(p_values)
    assert adjusted.shape == p_values.shape
    np.testing.assert_array_equal(adjusted.ravel(), correction(p_values.ravel()))
    assert np.isnan(adjusted[1, 2]).all() and np.isnan(adjusted).sum() == 2
    tested = p_values[~np.isnan(p_values)]
    np.testing.assert_array_equal(adjusted[~np.isnan(adjusted)], correction(tested))
    for wrong in (1.5, -0.1):
        with pytest.raises(DataError, match=f"p_values has {wrong}"):
            correction([0.1, wrong])


def test_data_frames_are_taken_by_position():
    frame = pd.DataFrame({"ndcg@10": [0.1, 0.5, NAN], "mrr": [0.2, 0.4, 0.9]}, index=["u1", "u2", "u3"])
    for part, expected in zip(bootstrap_means(frame), bootstrap_means(frame.to_numpy()), strict=True):
        np.testing.assert_array_equal(part, expected)
    nullable = frame.convert_dtypes()
    np.testing.assert_array_equal(bootstrap_means(nullable).mean, bootstrap_means(frame).mean)


def test_bad_tables_are_refused():
    with pytest.raises(ShapeError, match=r"values has shape \(3,\), expected \[U, M\]"):
        bootstrap_means(np.ones(3))
    with pytest.raises(DataError, match="values has no rows"):
        bootstrap_means(np.ones((0, 2)))
    with pytest.raises(DataError, match=r"values\[1, 0\] is inf"):
        bootstrap_means([[1.0], [math.inf]])
    with pytest.raises(DataError, match="not a table of numbers"):
        bootstrap_means(pd.DataFrame({"user": ["x", "y"]}))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"confidence": 95}, r"confidence must be greater than 0 and less than \S+, got 95"),
        ({"confidence": 0.0}, r"confidence must be greater than 0 and less than \S+, got 0\.0"),
        ({"num_resamples": 10}, "num_resamples must be at least 100, got 10"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        bootstrap_means(np.ones((3, 1)), **option)
