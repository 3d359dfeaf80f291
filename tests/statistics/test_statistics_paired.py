"""Paired comparisons against scipy, exact enumeration and hand-worked cases."""

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
from seqrec_jax.statistics import paired_differences, sign_flips

NAN = math.nan


@pytest.mark.parametrize("users", [1, 2, 6, 10])
def test_few_users_are_enumerated_exactly(users):
    generator = np.random.default_rng(users)
    # tenths, so that sums tie but for rounding
    a, b = generator.integers(0, 4, size=(2, users, 3)) / 10
    result = paired_differences(a, b)
    exact = [oracles.sign_flip_p_value(list(a[:, column] - b[:, column])) for column in range(3)]
    np.testing.assert_allclose(result.p_value, exact, rtol=1e-12)


@pytest.mark.parametrize("users", [15, 60, 700])
def test_permutation_agrees_with_random_flips_of_scipy(users):
    generator = np.random.default_rng(users)
    differences = np.where(generator.random(users) < 0.6, generator.normal(0.12, 1, users), 0.0)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros(users)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        batch=2000,
        rng=3,
    )
    ours = [sign_flips.sign_flip_p_values(differences[:, None], num_flips=2**14, seed=seed)[0] for seed in range(3)]
    assert 0.01 < theirs.pvalue < 0.99
    np.testing.assert_allclose(ours, theirs.pvalue, atol=5 * math.sqrt(0.25 / 16_000))


@pytest.mark.parametrize("bits", [1, 5, 6, 7, 11, 14])
def test_walsh_hadamard_is_the_product_with_the_matrix(bits):
    rows = np.random.default_rng(bits).normal(size=(3, 2**bits))
    ours = sign_flips._walsh_hadamard(rows, bits)
    some = np.random.default_rng(1).permutation(2**bits)[:50]
    signs = [[(-1) ** (int(i) & j).bit_count() for i in some] for j in range(2**bits)]
    np.testing.assert_allclose(ours[:, some], rows @ np.array(signs, dtype=float), atol=1e-9)


@pytest.mark.parametrize("users", [40, 127, 128, 5000])
def test_all_users_have_their_own_column(users):
    """Σ over the flips of the squared sum is then Σ of squares: flips of any two users are independent."""
    differences = np.random.default_rng(1).normal(size=(users, 1))
    seen = {}
    original = sign_flips._walsh_hadamard

    def spy(rows, bits):
        seen["sums"] = original(rows, bits)
        return seen["sums"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sign_flips, "_walsh_hadamard", spy)
        sign_flips.sign_flip_p_values(differences, num_flips=100, seed=0)
    assert seen["sums"].shape[1] == max(128, 2 ** math.ceil(math.log2(users + 1)))
    np.testing.assert_allclose(np.mean(seen["sums"] ** 2), np.sum(differences**2), rtol=1e-9)
    np.testing.assert_allclose(seen["sums"][0, 0], differences.sum(), rtol=1e-9)


def test_paired_differences_agree_with_scipy():
    generator = np.random.default_rng(5)
    a = generator.random((11, 1))
    b = a - 0.1 + 0.3 * generator.random((11, 1))
    theirs = scipy.stats.permutation_test(
        (a[:, 0], b[:, 0]), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=4096
    )  # 2^11 exchanges: exact
    ours = paired_differences(a, b)
    assert 0.001 < theirs.pvalue < 0.9
    np.testing.assert_allclose(ours.p_value[0], theirs.pvalue, rtol=1e-12)
    np.testing.assert_allclose(ours.mean, theirs.statistic, rtol=1e-12)
    t = scipy.stats.ttest_rel(a[:, 0], b[:, 0])
    np.testing.assert_allclose(ours.effect_size, t.statistic / math.sqrt(11), rtol=1e-12)
    np.testing.assert_allclose(ours.p_t, t.pvalue, rtol=1e-9)


@given(
    differences=st.lists(st.integers(-6, 6), min_size=1, max_size=30),
    undefined=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_t_and_signed_ranks_agree_with_scipy_on_ties_and_zeros(differences, undefined):
    values = np.array(differences, dtype=float)
    table = np.concatenate([values, np.full(undefined, NAN)])[:, None]
    ours = paired_differences(table, np.zeros_like(table), num_resamples=100, num_permutations=100)
    assert ours.units[0] == len(values)
    if values.any():
        theirs = scipy.stats.wilcoxon(values, zero_method="pratt", correction=False, method="asymptotic").pvalue
        np.testing.assert_allclose(ours.p_wilcoxon[0], theirs, rtol=1e-9)
    else:
        assert ours.p_wilcoxon[0] == 1
    if len(values) > 1 and np.ptp(values) > 0:
        np.testing.assert_allclose(ours.p_t[0], scipy.stats.ttest_1samp(values, 0).pvalue, rtol=1e-9)
        np.testing.assert_allclose(ours.deviation[0], values.std(ddof=1), rtol=1e-9)
    elif len(values) > 1:
        assert ours.deviation[0] == 0 and (ours.p_t[0] == 1 if values[0] == 0 else np.isnan(ours.p_t[0]))


def test_ties_up_to_rounding_are_ties():
    a = np.array([[0.3], [0.8], [0.1], [0.6], [0.2], [0.9]])
    b = np.array([[0.1], [0.6], [0.3], [0.5], [0.1], [0.4]])
    exact = np.array([2, 2, -2, 1, 1, 5])
    theirs = scipy.stats.wilcoxon(exact, zero_method="pratt", correction=False, method="asymptotic").pvalue
    np.testing.assert_allclose(paired_differences(a, b).p_wilcoxon[0], theirs, rtol=1e-9)


def test_bootstrap_p_value_agrees_with_t_on_many_users():
    generator = np.random.default_rng(2)
    differences = generator.exponential(size=(3000, 6)) - 1 + np.linspace(0, 0.06, 6)
    result = paired_differences(differences, np.zeros_like(differences), num_resamples=20_000)
    np.testing.assert_allclose(result.p_bootstrap, result.p_t, atol=0.02)
    assert result.p_bootstrap.min() < 0.02 and result.p_bootstrap.max() > 0.1


def test_paired_differences_by_hand():
    a = np.array([[0.5, 0.3, NAN], [0.9, 0.4, 0.1], [NAN, 0.2, NAN]])
    b = np.array([[0.1, 0.2, 0.5], [0.3, 0.3, NAN], [0.4, 0.1, 0.2]])
    result = paired_differences(a, b)
    np.testing.assert_allclose(result.mean, [0.5, 0.1, NAN])
    np.testing.assert_allclose(result.effect_size, [0.5 / math.sqrt(0.02), NAN, NAN])
    np.testing.assert_allclose(result.deviation, [math.sqrt(0.02), 0, NAN], atol=1e-12)
    np.testing.assert_array_equal(result.units, [2, 3, 0])
    # two and three equal signs among 4 and 8
    np.testing.assert_allclose(result.p_value, [0.5, 0.25, NAN])
    same = paired_differences(b, b)
    for p_values in (same.p_value, same.p_bootstrap, same.p_t, same.p_wilcoxon):
        np.testing.assert_array_equal(p_values, [1, 1, 1])
    np.testing.assert_array_equal([same.mean, same.low, same.high], np.zeros((3, 3)))
    nothing = paired_differences(np.full((3, 2), NAN), np.ones((3, 2)))
    assert all(np.isnan(part).all() for part in nothing[:-1])
    np.testing.assert_array_equal(nothing.units, [0, 0])


def test_p_value_is_never_zero():
    result = paired_differences(np.ones((200, 1)), np.zeros((200, 1)), num_permutations=400)
    assert result.p_value == 1 / 512
    assert result.p_bootstrap == 1 / 2001


def test_tests_can_be_chosen():
    a, b = np.random.default_rng(6).random((2, 40, 3))
    everything = paired_differences(a, b)
    some = paired_differences(a, b, tests=["t"])
    np.testing.assert_array_equal(some.p_t, everything.p_t)
    np.testing.assert_array_equal(some.low, everything.low)
    assert np.isnan([some.p_value, some.p_bootstrap, some.p_wilcoxon]).all()
    with pytest.raises(ConfigError, match="tests must be one of permutation, bootstrap, t, wilcoxon, got 'sign'"):
        paired_differences(a, b, tests=["sign"])


def test_swapping_a_and_b_changes_the_sign_only():
    a, b = np.random.default_rng(6).random((2, 40, 3))
    forth, back = paired_differences(a, b), paired_differences(b, a)
    np.testing.assert_allclose(forth.mean, -back.mean, rtol=1e-12)
    np.testing.assert_allclose(forth.low, -back.high, rtol=1e-9)
    np.testing.assert_allclose(forth.effect_size, -back.effect_size, rtol=1e-12)
    for name in ("p_value", "p_bootstrap", "p_t", "p_wilcoxon"):
        np.testing.assert_allclose(getattr(forth, name), getattr(back, name), rtol=1e-9)


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    a, b = np.random.default_rng(7).random((2, 64, 3))
    first = paired_differences(a, b, seed=4)
    for part, again in zip(first, paired_differences(a, b, seed=4), strict=True):
        np.testing.assert_array_equal(part, again)
    other = paired_differences(a, b, seed=5)
    assert np.all(first.low != other.low)
    assert np.any(first.p_value != other.p_value)
    monkeypatch.setattr(sign_flips, "_BLOCK_ELEMENTS", 1)
    for part, again in zip(first, paired_differences(a, b, seed=4), strict=True):
        np.testing.assert_allclose(part, again, rtol=1e-9)


def test_columns_do_not_change_each_other():
    a, b = np.random.default_rng(7).random((2, 50, 3))
    together = paired_differences(a, b)
    for column in range(3):
        alone = paired_differences(a[:, [column]], b[:, [column]])
        for part, expected in zip(alone, together, strict=True):
            np.testing.assert_allclose(part[0], expected[column], rtol=1e-9)


def test_bad_tables_and_options_are_refused():
    frame = pd.DataFrame({"ndcg@10": [0.1, 0.5, NAN], "mrr": [0.2, 0.4, 0.9]}, index=["u1", "u2", "u3"])
    with pytest.raises(DataError, match="differ in their index"):
        paired_differences(frame, frame.loc[["u2", "u1", "u3"]])
    with pytest.raises(DataError, match="differ in their columns"):
        paired_differences(frame, frame[["mrr", "ndcg@10"]])
    with pytest.raises(ShapeError, match=r"a has shape \(3, 1\) and b \(2, 1\)"):
        paired_differences(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(DataError, match=r"b\[1, 0\] is -inf"):
        paired_differences([[1.0], [2.0]], [[1.0], [-math.inf]])
    for option, message in (
        ({"confidence": 95}, r"confidence must be greater than 0 and less than \S+, got 95"),
        ({"num_resamples": 10}, "num_resamples must be at least 100, got 10"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_permutations": 0}, "num_permutations must be at least 100, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            paired_differences(np.ones((3, 1)), np.ones((3, 1)), **option)
