"""Novelty, diversity and overlap of lists, against plain Python walks over sets and pairs, and by hand."""

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

NUM_ITEMS = 9
PROBABILITIES = np.array([0, 0.5, 0.25, 0.125, 1.0, 0.3, 0.9, 0.01, 0.2, 0.6])
VECTORS = np.random.default_rng(0).normal(size=(NUM_ITEMS + 1, 3))
VECTORS[4] = 0  # no direction
VECTORS[0] = np.nan  # nobody's row
CODES = np.random.default_rng(1).integers(0, 4, (NUM_ITEMS + 1, 3))
CODES[6] = 0  # no attribute
CODES[0] = 3

# compiled once; eager calls are left to the tests of single cases
novelty = jax.jit(lambda lists: metrics.novelty(lists, PROBABILITIES))
vector_diversity = jax.jit(lambda lists: metrics.intra_list_diversity(lists, VECTORS))
code_diversity = jax.jit(lambda lists: metrics.attribute_diversity(lists, CODES))
list_overlap = jax.jit(metrics.list_overlap)
rank_biased_overlap = jax.jit(metrics.rank_biased_overlap, static_argnames="persistence")

lists_of_items = st.lists(st.integers(0, NUM_ITEMS), min_size=6, max_size=6)


def distinct(ids) -> list[int]:
    return list(dict.fromkeys(int(i) for i in ids if i > 0))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def cosine_distance(i: int, j: int) -> float:
    return 1 - VECTORS[i] @ VECTORS[j] / np.linalg.norm(VECTORS[i]) / np.linalg.norm(VECTORS[j])


def jaccard_distance(a: set, b: set) -> float:
    return 1 - len(a & b) / len(a | b)


def code_set(item: int) -> set[int]:
    return {int(code) for code in CODES[item] if code}


def rbo_extrapolated(first: list[int], second: list[int], p: float) -> float:
    """Equation 32 of Webber et al. (2010), term by term."""
    short, long = sorted((first, second), key=len)
    s, l = len(short), len(long)  # noqa: E741
    if not l:
        return math.nan
    if not s:
        return 0.0

    def common(d: int) -> int:
        return len(set(short[:d]) & set(long[:d]))

    seen = sum(common(d) / d * p**d for d in range(1, l + 1))
    unseen = sum(common(s) * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (seen + unseen) + ((common(l) - common(s)) / l + common(s) / s) * p**l


@given(lists=st.lists(lists_of_items, min_size=3, max_size=3), other=st.lists(lists_of_items, min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_match_plain_python(lists, other):
    """Lists with empty places and repeats."""
    array, second = np.array(lists), np.array(other)[:, :5]
    items, others = [distinct(row) for row in array], [distinct(row) for row in second]
    with_direction = [[i for i in row if i != 4] for row in items]
    with_codes = [[i for i in row if code_set(i)] for row in items]
    expected = {
        "novelty": [mean(-math.log2(PROBABILITIES[i]) for i in row) for row in items],
        "vectors": [mean(itertools.starmap(cosine_distance, itertools.combinations(row, 2))) for row in with_direction],
        "codes": [
            mean(jaccard_distance(code_set(i), code_set(j)) for i, j in itertools.combinations(row, 2))
            for row in with_codes
        ],
        "overlap": [
            1 - jaccard_distance(set(a), set(b)) if a or b else math.nan for a, b in zip(items, others, strict=True)
        ],
        "rbo": [rbo_extrapolated(a, b, 0.8) for a, b in zip(items, others, strict=True)],
    }
    values = {
        "novelty": novelty(array),
        "vectors": vector_diversity(array),
        "codes": code_diversity(array),
        "overlap": list_overlap(array, second),
        "rbo": rank_biased_overlap(array, second, persistence=0.8),
    }
    for name, value in values.items():
        assert value.dtype == jnp.float32 and value.shape == (3,), name
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_novelty_is_the_mean_inverse_user_frequency():
    """As RecTools defines it: -log2 of the share of users who have the item, over the list."""
    users_of_item = np.array([0, 3, 1, 4])
    value = metrics.novelty(np.array([[1, 2], [3, 1]]), users_of_item / 4)
    np.testing.assert_allclose(value, [(math.log2(4 / 3) + 2) / 2, math.log2(4 / 3) / 2], rtol=1e-6)
    assert np.isposinf(metrics.novelty(np.array([[1]]), np.array([0.0, 0.0])))
    np.testing.assert_array_equal(np.signbit(metrics.novelty(np.array([[4]]), PROBABILITIES)), [False])


def test_rank_biased_overlap_by_hand():
    """Two places in the other order: agreement 0 at depth 1 and 1 at depth 2."""
    p = 0.7
    value = rank_biased_overlap(np.array([[1, 2]]), np.array([[2, 1]]), persistence=p)
    np.testing.assert_allclose(value, [(1 - p) / p * p**2 + p**2], rtol=1e-6)
    swapped_late = rank_biased_overlap(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 4, 3]]))
    swapped_early = rank_biased_overlap(np.array([[1, 2, 3, 4]]), np.array([[2, 1, 3, 4]]))
    assert swapped_late[0] > swapped_early[0]
    same = np.array([[5, 1, 3, 0]])
    np.testing.assert_allclose(rank_biased_overlap(same, same), [1.0], rtol=1e-6)
    np.testing.assert_array_equal(rank_biased_overlap(same, np.zeros((1, 3), dtype=int)), [0.0])


def test_diversity_of_near_copies_is_near_zero():
    vectors = jnp.ones((51, 64)).at[:, 0].add(jnp.linspace(0, 1e-3, 51))
    value = metrics.intra_list_diversity(jnp.arange(1, 51)[None], vectors)
    assert 0 <= value[0] < 1e-5


def test_padding_changes_nothing_and_order_only_what_ranks():
    generator = np.random.default_rng(4)
    lists = generator.permuted(np.tile(np.arange(1, 10), (5, 1)), axis=1)[:, :6]
    other = generator.permuted(np.tile(np.arange(1, 10), (5, 1)), axis=1)[:, :6]
    wide, wide_other = (np.pad(array, ((0, 0), (0, 3))) for array in (lists, other))
    shuffled = generator.permuted(lists, axis=1)
    for name, metric, ordered in (
        ("novelty", lambda a, _: novelty(a), False),
        ("vectors", lambda a, _: vector_diversity(a), False),
        ("codes", lambda a, _: code_diversity(a), False),
        ("overlap", list_overlap, False),
        ("rbo", rank_biased_overlap, True),
    ):
        expected = metric(lists, other)
        np.testing.assert_allclose(metric(wide, wide_other), expected, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(metric(lists[::-1], other[::-1]), expected[::-1], rtol=1e-6, err_msg=name)
        assert np.allclose(metric(shuffled, other), expected, rtol=1e-5) != ordered, name


def test_overlaps_are_symmetric():
    first, second = np.array([[1, 2, 3, 0], [4, 5, 0, 0]]), np.array([[3, 2, 9], [5, 6, 7]])
    for metric in (list_overlap, rank_biased_overlap):
        np.testing.assert_allclose(metric(first, second), metric(second, first), rtol=1e-6)


def test_too_short_lists_are_nan():
    empty = np.zeros((2, 3), dtype=int)
    for value in (
        metrics.novelty(empty, PROBABILITIES),
        metrics.intra_list_diversity(np.array([[1, 1, 0], [4, 2, 0]]), VECTORS),
        metrics.attribute_diversity(np.array([[1, 1, 0], [6, 2, 0]]), CODES),
        metrics.list_overlap(empty, empty),
        metrics.rank_biased_overlap(empty, empty),
        metrics.intra_list_diversity(jnp.zeros((2, 0), dtype=jnp.int32), jnp.ones((3, 2))),
    ):
        assert value.shape == (2,) and np.isnan(value).all()


def test_an_id_beyond_the_table_is_refused_or_visible():
    with pytest.raises(DataError, match="lists has id 10, expected at most 9"):
        metrics.novelty(np.array([[10]]), PROBABILITIES)
    with pytest.raises(DataError, match="lists has id 10"):
        metrics.attribute_diversity(np.array([[10]]), CODES)
    assert np.isnan(metrics.novelty(jnp.array([[10, 1]]), PROBABILITIES)).all()
    assert np.isnan(metrics.intra_list_diversity(jnp.array([[10, 1]]), VECTORS)).all()


def test_bad_input_is_refused():
    one = np.array([[1]])
    with pytest.raises(DataError, match="item_probabilities hold 3"):
        metrics.novelty(one, np.array([0.0, 3.0]))
    with pytest.raises(ShapeError, match="item_probabilities has shape"):
        metrics.novelty(one, np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"vectors has shape \(3,\), expected 2 axes"):
        metrics.intra_list_diversity(one, np.ones(3))
    with pytest.raises(ShapeError, match="codes has dtype float64, expected integers"):
        metrics.attribute_diversity(one, np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"first has shape \(1, 1\) and second \(2, 1\)"):
        metrics.list_overlap(one, np.ones((2, 1), dtype=int))
    with pytest.raises(ShapeError, match="lists has dtype float64"):
        metrics.novelty(np.ones((1, 2)), PROBABILITIES)
    for persistence in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="persistence must be greater than 0 and less than 1"):
            metrics.rank_biased_overlap(one, one, persistence=persistence)
