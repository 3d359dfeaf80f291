"""Equivalence, power and numbers of users against hand computation, scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.statistics import (
    equivalence,
    minimal_detectable_difference,
    power_sentence,
    units_needed,
)

NAN = math.nan


def table_with(mean: float, deviation: float, users: int) -> np.ndarray:
    """`[U, 1]` of exactly this mean and standard deviation."""
    values = np.resize([-1.0, 1.0], users)
    values -= values.mean()
    return mean + deviation * (values / values.std(ddof=1))[:, None]


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.0, "equivalent"),
        (0.03, "equivalent"),
        (-0.03, "equivalent"),
        (0.10, "not inferior"),
        (0.045, "not inferior"),
        (-0.045, "undecided"),
        (-0.06, "undecided"),
        (-0.08, "inferior"),
    ],
)
def test_verdicts(mean, verdict):
    """Margin 0.05; the 90 % interval of 100 users with deviation 0.1 is ± 0.0166."""
    b = np.linspace(0, 1, 100)[:, None]
    result = equivalence(b + table_with(mean, 0.1, 100), b, margin=0.05)
    assert result.verdict == verdict
    half = scipy.stats.t.ppf(0.95, 99) * 0.01
    np.testing.assert_allclose([result.low[0], result.high[0]], [mean - half, mean + half])
    assert result.reason[0].startswith("the 90 % interval [")
    # turned around, for a metric where lower is better
    turned = equivalence(b - table_with(mean, 0.1, 100), b, margin=0.05, higher_is_better=False)
    assert turned.verdict == verdict
    np.testing.assert_allclose(turned.p_not_inferior, result.p_not_inferior)
    resampled = equivalence(b + table_with(mean, 0.1, 100), b, margin=0.05, interval="bootstrap")
    assert resampled.verdict == verdict


def test_p_values_agree_with_scipy_and_statsmodels():
    generator = np.random.default_rng(0)
    b = generator.random((60, 3))
    a = b + generator.normal(-0.01, 0.08, size=(60, 3))
    result = equivalence(a, b, margin=[0.03, 0.05, 0.02])
    for column, margin in enumerate([0.03, 0.05, 0.02]):
        difference = a[:, column] - b[:, column]
        worse = scipy.stats.ttest_1samp(difference, -margin, alternative="greater").pvalue
        better = scipy.stats.ttest_1samp(difference, margin, alternative="less").pvalue
        np.testing.assert_allclose(result.p_not_inferior[column], worse, rtol=1e-9)
        np.testing.assert_allclose(result.p_equivalent[column], max(worse, better), rtol=1e-9)
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    theirs = weightstats.ttost_paired(a[:, 1], b[:, 1], -0.05, 0.05)[0]
    np.testing.assert_allclose(result.p_equivalent[1], theirs, rtol=1e-9)


def test_bootstrap_and_t_agree_on_many_users():
    generator = np.random.default_rng(1)
    b = generator.exponential(size=(4000, 2))
    a = b + generator.exponential(0.5, size=(4000, 2)) - 0.5
    margin = 0.025
    by_t = equivalence(a, b, margin=margin)
    by_resampling = equivalence(a, b, margin=margin, interval="bootstrap", num_resamples=10_000)
    np.testing.assert_allclose(by_t.p_equivalent, by_resampling.p_equivalent, atol=0.01)
    np.testing.assert_allclose(by_t.p_not_inferior, by_resampling.p_not_inferior, atol=0.01)
    np.testing.assert_allclose(by_t.low, by_resampling.low, atol=0.001)


def test_what_the_data_cannot_carry_is_refused_whatever_the_outcome():
    """100 users, deviation 0.1: (1.660 + 1.282) · 0.01 = 0.0294 for equivalence, 0.0250 for non-inferiority."""
    zero = np.zeros((100, 1))
    for mean in (0.0, 0.2, -0.2):
        result = equivalence(table_with(mean, 0.1, 100), zero, margin=0.028, unit_name="users")
        assert result.verdict == "refused"
        np.testing.assert_allclose(result.smallest_margin, 0.0294, atol=5e-5)
    assert "100 users can carry a margin of 0.0294 or more with power 0.8" in result.reason[0]
    assert "about 110 users" in result.reason[0]  # 100 · (0.0294 / 0.028)²
    asked = equivalence(table_with(0.0, 0.1, 100), zero, margin=0.028, question="non-inferiority")
    assert asked.verdict == "equivalent"
    np.testing.assert_allclose(asked.smallest_margin, 0.0250, atol=5e-5)
    assert equivalence(table_with(0.0, 0.1, 100), zero, margin=0.028, power=0.7).verdict != "refused"


@pytest.mark.parametrize("question", ["equivalence", "non-inferiority"])
def test_the_smallest_margin_has_the_power_that_it_promises(question):
    """At no difference and the smallest margin the answer is yes in 80 % of 4,000 experiments."""
    differences = np.random.default_rng(2).normal(0, 0.1, size=(80, 4000))
    margin = float(np.median(equivalence(differences, differences * 0, margin=1.0, question=question).smallest_margin))
    result = equivalence(differences, differences * 0, margin=margin, question=question)
    p_values = result.p_equivalent if question == "equivalence" else result.p_not_inferior
    assert abs(np.mean(p_values <= 0.05) - 0.8) < 0.025


def test_a_relative_margin_is_a_share_of_the_baseline():
    generator = np.random.default_rng(3)
    b = generator.random((500, 2))
    b[:100, 1] = NAN
    a = b + generator.normal(0, 0.05, size=(500, 2))
    a[100:200, 1] = NAN
    result = equivalence(a, b, relative_margin=[0.02, 0.05])
    np.testing.assert_allclose(result.margin, [0.02 * b[:, 0].mean(), 0.05 * b[200:, 1].mean()])
    np.testing.assert_array_equal(result.units, [500, 300])
    nothing = equivalence(np.ones((5, 1)), np.zeros((5, 1)), relative_margin=0.1)
    assert nothing.verdict == "refused" and "mean is 0" in nothing.reason[0]


def test_same_systems_lone_users_and_undefined_metrics():
    b = np.random.default_rng(4).random((50, 3))
    a = b.copy()
    a[:, 1] = NAN
    a[1:, 2] = NAN
    for interval in ("t", "bootstrap"):
        result = equivalence(a, b, margin=0.01, interval=interval)
        assert result.verdict.tolist() == ["equivalent", "refused", "refused"]
        assert "nothing can be said" in result.reason[1]


def test_bad_options_are_refused():
    a = np.ones((5, 2))
    for options, error, message in (
        ({}, ConfigError, "pass one of margin"),
        ({"margin": 0.1, "relative_margin": 0.1}, ConfigError, "pass one of margin"),
        ({"margin": 0.0}, ConfigError, r"margin is 0\.0, expected above 0"),
        ({"margin": [0.1, NAN]}, ConfigError, "expected above 0"),
        ({"margin": [0.1, 0.1, 0.1]}, ShapeError, r"margin has shape \(3,\), expected one number or one for each of 2"),
        (
            {"margin": 0.1, "question": "better"},
            ConfigError,
            "question must be one of equivalence, non-inferiority, got 'better'",
        ),
        ({"margin": 0.1, "interval": "z"}, ConfigError, "interval must be one of t, bootstrap, got 'z'"),
        ({"margin": 0.1, "level": 0.5}, ConfigError, r"level must be greater than 0 and less than \S+, got 0\.5"),
        ({"margin": 0.1, "power": 80}, ConfigError, r"power must be greater than 0 and less than \S+, got 80"),
    ):
        with pytest.raises(error, match=message):
            equivalence(a, a, **options)
    with pytest.raises(DataError, match="differ in their index"):
        equivalence(pd.DataFrame(a), pd.DataFrame(a, index=range(1, 6)), margin=0.1)


@pytest.mark.parametrize("users", [10, 30, 400])
def test_detectable_differences_have_the_power_that_they_promise(users):
    """By the noncentral t distribution, which is exact for normal differences."""
    smallest = float(minimal_detectable_difference(0.3, users))
    shift = smallest / 0.3 * math.sqrt(users)
    limit = scipy.stats.t.ppf(0.975, users - 1)
    power = scipy.stats.nct.sf(limit, users - 1, shift) + scipy.stats.nct.cdf(-limit, users - 1, shift)
    assert abs(power - 0.8) < (0.01 if users < 30 else 0.002)
    assert units_needed(0.3, smallest * 1.0001) == users
    assert units_needed(0.3, -smallest * 0.9999) == users + 1


def test_detectable_differences_agree_with_statsmodels():
    statsmodels = pytest.importorskip("statsmodels.stats.power")
    for users, level, power in ((40, 0.05, 0.8), (500, 0.01, 0.9)):
        theirs = statsmodels.TTestPower().solve_power(nobs=users, alpha=level, power=power)
        ours = minimal_detectable_difference(1.0, users, level=level, power=power)
        np.testing.assert_allclose(ours, theirs, rtol=0.01)


def test_detectable_differences_of_arrays_and_edges():
    ours = minimal_detectable_difference([0.1, 0.2, 0.0, NAN, 0.1], [100, 100, 100, 100, 1])
    np.testing.assert_allclose(ours[1], 2 * ours[0])
    np.testing.assert_array_equal(ours[2:], [0, NAN, NAN])
    # 2.802 · 0.1 / sqrt(100 - 1.92)
    np.testing.assert_allclose(ours[0], 0.028289, rtol=1e-4)
    needed = units_needed([0.1, 0.1, 0.0, NAN], [0.01, 0.0, 0.1, 0.1])
    np.testing.assert_array_equal(needed, [787, math.inf, 2, NAN])  # 784.9 + 1.92
    for call in (minimal_detectable_difference, units_needed):
        with pytest.raises(ConfigError, match=r"level must be greater than 0 and less than \S+, got 5"):
            call(0.1, 100, level=5)
        with pytest.raises(ConfigError, match=r"power must be greater than 0 and less than \S+, got 1"):
            call(0.1, 100, power=1)


def test_power_in_words():
    usual = power_sentence("recall@10", baseline=0.05, deviation=0.2, unit_name="users", units=1000)
    assert "1,000 users, a true difference of 0.0177 (35 % of 0.05) in recall@10" in usual
    assert usual.endswith("To find one of 1 % as reliably takes about 1,260,000 users.")
    other = power_sentence(
        "recall@10", baseline=0.05, deviation=0.2, unit_name="users", units=1000, share=0.1, power=0.9, level=0.1
    )
    assert "found 90 times in 100" in other and "one of 10 % as" in other
    assert power_sentence("mrr", baseline=0.0, deviation=0.2, unit_name="users", units=1000).endswith(
        "more likely missed."
    )
    assert "nothing can be said" in power_sentence("mrr", baseline=0.1, deviation=NAN, unit_name="users", units=1)
    assert "by the same amount" in power_sentence("mrr", baseline=0.1, deviation=0.0, unit_name="users", units=50)
    with pytest.raises(ShapeError, match=r"deviation has shape \(2,\)"):
        power_sentence("mrr", baseline=0.1, deviation=np.ones(2), unit_name="users", units=50)
    with pytest.raises(ConfigError, match=r"share must be greater than 0 and less than \S+, got 10"):
        power_sentence("mrr", baseline=0.1, deviation=0.1, unit_name="users", units=50, share=10)
