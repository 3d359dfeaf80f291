"""Serendipity, repeats, popularity lift and miscalibration, against plain Python and by hand."""

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

NUM_ITEMS = 7
POPULARITY = np.array([99.0, 5, 1, 2, 0, 8, 3, 3])
CATEGORIES = np.array([[1, 2], [1, 0], [2, 3], [3, 3], [0, 0], [1, 2], [2, 0], [1, 3]])
SMOOTHING = 0.05


@jax.jit
def judge_all(lists, histories, relevant, expected):
    return {
        "serendipity": metrics.serendipity(lists, relevant, expected),
        "repeats": metrics.repeat_rate(lists, histories),
        "lift": metrics.popularity_lift(lists, histories, POPULARITY),
        "divergence": metrics.calibration_divergence(
            lists, histories, CATEGORIES, num_categories=3, smoothing=SMOOTHING
        ),
    }


def real(ids) -> list[int]:
    return [int(i) for i in ids if i > 0]


def distinct(ids) -> list[int]:
    return list(dict.fromkeys(real(ids)))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def category_mix(items: list[int]) -> list[float] | None:
    known = [set(CATEGORIES[i].tolist()) - {0} for i in items]
    known = [codes for codes in known if codes]
    return [mean((c in codes) / len(codes) for codes in known) for c in (1, 2, 3)] if known else None


def divergence(items: list[int], history: list[int]) -> float:
    """Steck's equation, category by category."""
    p, q = category_mix(history), category_mix(items)
    if p is None or q is None:
        return math.nan
    mixed = [(1 - SMOOTHING) * b + SMOOTHING * a for a, b in zip(p, q, strict=True)]
    return sum(a * math.log(a / b) for a, b in zip(p, mixed, strict=True) if a)


def lift(items: list[int], history: list[int]) -> float:
    before = mean(POPULARITY[i] for i in history)
    return mean(POPULARITY[i] for i in items) / before - 1 if before > 0 else math.nan


def rows(width: int):
    return st.lists(st.lists(st.integers(0, NUM_ITEMS), min_size=width, max_size=width), min_size=3, max_size=3)


@given(lists=rows(5), histories=rows(6), relevant=rows(3), expected=rows(4))
@settings(max_examples=40, deadline=None)
def test_match_plain_python(lists, histories, relevant, expected):
    """Lists with repeats and empty places, histories with repeated events."""
    values = judge_all(*(np.array(array) for array in (lists, histories, relevant, expected)))
    for user in range(3):
        items, history, targets = distinct(lists[user]), real(histories[user]), set(real(relevant[user]))
        expected_values = {
            "serendipity": mean(i in targets and i not in expected[user] for i in items) if targets else math.nan,
            "repeats": mean(i in history for i in items),
            "lift": lift(items, history),
            "divergence": divergence(items, history),
        }
        for name, value in expected_values.items():
            np.testing.assert_allclose(values[name][user], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_hand_worked_divergence():
    """The history is 3/4 of category 1 and 1/4 of category 2, the list one of each."""
    categories = np.array([0, 1, 2])
    value = metrics.calibration_divergence(
        np.array([[1, 2]]), np.array([[1, 1, 1, 2]]), categories, num_categories=2, smoothing=0.01
    )
    q = (0.99 * 0.5 + 0.01 * 0.75, 0.99 * 0.5 + 0.01 * 0.25)
    np.testing.assert_allclose(value, [0.75 * math.log(0.75 / q[0]) + 0.25 * math.log(0.25 / q[1])], rtol=1e-5)


def test_extremes():
    generator = np.random.default_rng(0)
    lists = generator.permuted(np.tile([1, 2, 3, 5, 6], (4, 1)), axis=1)
    itself = judge_all(lists, lists, lists[:, :3], np.full((4, 2), 7))
    np.testing.assert_allclose(itself["repeats"], 1)
    np.testing.assert_allclose(itself["serendipity"], 3 / 5)
    np.testing.assert_allclose(itself["lift"], 0, atol=1e-6)
    np.testing.assert_allclose(itself["divergence"], 0, atol=1e-6)
    expected_anyway = judge_all(lists, np.full((4, 6), 7), lists[:, :3], lists)
    np.testing.assert_array_equal(expected_anyway["serendipity"], 0)
    np.testing.assert_array_equal(expected_anyway["repeats"], 0)
    apart = metrics.calibration_divergence(np.array([[1]]), np.array([[6]]), CATEGORIES, num_categories=3)
    np.testing.assert_allclose(apart, [-math.log(0.01)], rtol=1e-5)


def test_padding_and_order_of_users_change_nothing():
    generator = np.random.default_rng(3)
    arrays = [generator.integers(0, NUM_ITEMS + 1, (6, width)) for width in (5, 6, 3, 4)]
    expected = judge_all(*arrays)
    order = generator.permutation(6)
    padded = judge_all(*(np.pad(array[order], ((0, 0), (0, 2))) for array in arrays))
    for name, value in expected.items():
        np.testing.assert_allclose(padded[name], value[order], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_is_undefined_is_nan():
    empty, some = jnp.zeros((2, 3), dtype=jnp.int32), jnp.ones((2, 3), dtype=jnp.int32)
    for name, value in judge_all(empty, some, some, some).items():
        assert np.isnan(value).all(), name
    without_history = judge_all(some, empty, empty, empty)
    assert np.isnan(without_history.pop("serendipity")).all()
    np.testing.assert_array_equal(without_history.pop("repeats"), 0)
    for name, value in without_history.items():
        assert np.isnan(value).all(), name


def test_bad_input_is_refused():
    one = np.array([[1]])
    with pytest.raises(DataError, match="histories has id 8, expected at most 7"):
        metrics.popularity_lift(one, np.array([[8]]), POPULARITY)
    with pytest.raises(DataError, match="item_popularity hold -1"):
        metrics.popularity_lift(one, one, np.array([0, -1]))
    with pytest.raises(DataError, match="item_categories has code 3, expected at most num_categories = 2"):
        metrics.calibration_divergence(one, one, CATEGORIES, num_categories=2)
    with pytest.raises(ShapeError, match="item_categories has 3 axes"):
        metrics.calibration_divergence(one, one, CATEGORIES[None], num_categories=3)
    with pytest.raises(ConfigError, match="smoothing must be greater than 0 and less than 1, got 1"):
        metrics.calibration_divergence(one, one, CATEGORIES, num_categories=3, smoothing=1)
    two = np.array([[1], [2]])
    with pytest.raises(ShapeError, match=r"lists has shape \(1, 1\) and histories \(2, 1\)"):
        metrics.repeat_rate(one, two)
    with pytest.raises(ShapeError, match=r"lists has shape \(1, 1\) and expected_lists \(2, 1\)"):
        metrics.serendipity(one, one, two)
