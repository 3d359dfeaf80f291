"""Figures of the catalogue as a whole, against formulas in NumPy, scipy and loops over pairs of users."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax import metrics
from seqrec_jax.errors import ConfigError, DataError, ShapeError

GROUPS = np.array([2, 1, 1, 2, 0, 3, 3, 3])
TAIL = np.array([True, False, False, True, True, False, True, False])


@jax.jit
def judge_all(counts, where):
    return {
        "coverage": metrics.catalogue_coverage(counts, where=where),
        "gini": metrics.gini(counts, where=where),
        "entropy": metrics.exposure_entropy(counts, where=where),
        "evenness": metrics.exposure_entropy(counts, where=where, normalized=True),
        "tail": metrics.tail_share(counts, TAIL, where=where),
        "groups": metrics.group_exposure(counts, GROUPS, num_groups=3, where=where),
    }


def by_hand(counts: list[int], where: list[bool]) -> dict[str, float | list[float]]:
    """Each figure by its definition; the Gini index from the differences of all pairs."""
    items = [i for i in range(1, 8) if where[i]]
    shown = [counts[i] for i in items]
    total, n = sum(shown), len(items)
    if not total:
        coverage = 0.0 if n else math.nan
        nothing = dict.fromkeys(("gini", "entropy", "evenness", "tail"), math.nan)
        return {"coverage": coverage, **nothing, "groups": [math.nan] * 4}
    entropy = -sum(c / total * math.log2(c / total) for c in shown if c)
    return {
        "coverage": sum(c > 0 for c in shown) / n,
        "gini": sum(abs(a - b) for a in shown for b in shown) / (2 * n * total),
        "entropy": entropy,
        "evenness": entropy / math.log2(n) if n > 1 else math.nan,
        "tail": sum(counts[i] for i in items if TAIL[i]) / total,
        "groups": [sum(counts[i] for i in items if GROUPS[i] == g) / total for g in range(4)],
    }


@given(
    counts=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    where=st.lists(st.booleans(), min_size=8, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_match_the_definitions(counts, where):
    expected = by_hand(counts, where)
    for name, value in judge_all(np.array(counts), np.array(where)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_agrees_with_scipy_and_numpy_for_a_large_catalogue():
    """A million items, of which few get most: float32 sums must not lose the many."""
    stats = pytest.importorskip("scipy.stats")
    counts = np.random.default_rng(0).zipf(1.6, 1_000_001).clip(max=2_000_000)
    counts[0] = 7
    shown = counts[1:].astype(np.float64)
    n, total = len(shown), shown.sum()
    slope = 2 * np.arange(1, n + 1) - n - 1
    np.testing.assert_allclose(jax.jit(metrics.gini)(counts), slope @ np.sort(shown) / n / total, rtol=1e-5)
    entropy = stats.entropy(shown, base=2)
    np.testing.assert_allclose(jax.jit(metrics.exposure_entropy)(counts), entropy, rtol=1e-5)
    groups = np.arange(len(counts)) % 4
    value = metrics.group_exposure(counts, groups, num_groups=3)
    expected = np.bincount(groups[1:], shown) / total
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_counts_of_lists():
    generator = np.random.default_rng(2)
    lists = generator.integers(-1, 8, (40, 5))
    counts = metrics.exposure_counts(lists, num_items=7)
    assert counts.dtype == jnp.int32
    np.testing.assert_array_equal(counts, [0, *np.bincount(lists[lists > 0], minlength=8)[1:]])
    discounted = metrics.exposure_counts(lists, num_items=7, discounted=True)
    weights = np.broadcast_to(1 / np.log2(np.arange(2, 7)), lists.shape)
    expected = np.bincount(lists[lists > 0], weights[lists > 0], minlength=8)
    np.testing.assert_allclose(discounted, expected, rtol=1e-6)
    parts = sum(metrics.exposure_counts(part, num_items=7) for part in np.split(lists, 4))
    np.testing.assert_array_equal(parts, counts)
    beyond = jax.jit(lambda ids: metrics.exposure_counts(ids, num_items=7))(np.array([[9, 7]]))
    np.testing.assert_array_equal(beyond, [0] * 7 + [1])


def test_discounted_counts_do_not_saturate():
    """A weight of 0.63 added to 3e5 a million times would be rounded each time."""
    lists = jnp.broadcast_to(jnp.array([2, 1]), (1_000_000, 2))
    counts = metrics.exposure_counts(lists, num_items=2, discounted=True)
    np.testing.assert_allclose(counts, [0, 1e6 / math.log2(3), 1e6], rtol=1e-6)


distances = jax.jit(metrics.mean_list_distance, static_argnames="num_items")


@given(order=st.lists(st.permutations(range(1, 7)), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_distance_is_the_mean_over_pairs_of_users(order):
    lists = np.array(order)[:, :3]
    expected = np.mean([1 - len(set(a) & set(b)) / 3 for a, b in itertools.combinations(lists.tolist(), 2)])
    np.testing.assert_allclose(distances(lists, num_items=6), expected, rtol=1e-5, atol=1e-6)


def test_distance_of_short_lists_repeats_and_empty_lists():
    """Of 5 listed items, two are met again in the only other list; repeats and the empty list change nothing."""
    lists = np.array([[1, 2, 2], [1, 2, 3], [0, 0, 0]])
    np.testing.assert_allclose(metrics.mean_list_distance(lists), 1 - 4 / 5, rtol=1e-6)
    np.testing.assert_allclose(distances(np.tile([4, 5, 0], (3, 1)), num_items=6), 0)
    np.testing.assert_allclose(distances(np.arange(1, 13).reshape(2, 3, 2), num_items=12), 1)
    assert math.isnan(distances(np.array([[1, 2, 0], [0, 0, 0], [0, 0, 0]]), num_items=6))


def test_disparity_is_exposure_over_merit():
    value = metrics.exposure_disparity(np.array([0.2, 0.8, 0.0]), np.array([0.4, 0.6, 0.0]))
    np.testing.assert_allclose(value, [0.5, 4 / 3, math.nan], rtol=1e-6)


def test_bad_input_is_refused():
    counts = np.array([0, 1, 2])
    with pytest.raises(DataError, match="counts hold -1"):
        metrics.gini(np.array([0, -1]))
    with pytest.raises(ShapeError, match=r"counts has shape \(1, 3\)"):
        metrics.catalogue_coverage(counts[None])
    with pytest.raises(ShapeError, match="where has shape"):
        metrics.exposure_entropy(counts, where=np.ones(2, dtype=bool))
    with pytest.raises(ShapeError, match=r"tail is int32 \(3,\), expected bool \(3,\)"):
        metrics.tail_share(counts, counts)
    with pytest.raises(DataError, match="groups has group 2, expected 0"):
        metrics.group_exposure(counts, counts, num_groups=1)
    with pytest.raises(ShapeError, match=r"groups is int32 \(2,\)"):
        metrics.group_exposure(counts, np.array([0, 1]), num_groups=1)
    with pytest.raises(DataError, match="lists has id 9, expected at most 7"):
        metrics.exposure_counts(np.array([[9]]), num_items=7)
    with pytest.raises(ShapeError, match="num_items is None"):
        jax.jit(metrics.mean_list_distance)(np.array([[1]]))
    with pytest.raises(ConfigError, match="num_items must be at least 1, got 0"):
        metrics.exposure_counts(np.array([[1]]), num_items=0)
