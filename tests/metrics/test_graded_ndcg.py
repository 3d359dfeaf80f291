"""NDCG with graded gains, and grouped AUC, against scikit-learn, rax and by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax import metrics
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.metrics import MISSING_RANK


@pytest.fixture(scope="module")
def graded():
    """Scores and gains of 15 items for 10 users, and the ranks of up to 6 relevant ones; gains 0 occur."""
    generator = np.random.default_rng(1)
    scores = generator.permuted(np.tile(np.arange(15.0), (10, 1)), axis=1)
    gains, ranks = np.zeros((10, 15)), np.ones((10, 6), dtype=np.int32)
    of_items, where = np.zeros((10, 6)), np.zeros((10, 6), dtype=bool)
    for user in range(10):
        items = generator.choice(15, size=1 + user % 6, replace=False)
        gains[user, items] = generator.integers(0, 4, len(items))
        gains[user, items[0]] = 2
        ranks[user, : len(items)] = 15 - scores[user, items]
        of_items[user, : len(items)] = gains[user, items]
        where[user, : len(items)] = True
    return scores, gains, ranks, of_items, where


@pytest.mark.parametrize("k", [1, 4, 15])
def test_agrees_with_scikit_learn(graded, k):
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    scores, gains, ranks, of_items, where = graded
    linear = metrics.graded_ndcg_at_k(ranks, of_items, k=k, where=where)
    exponential = metrics.graded_ndcg_at_k(ranks, of_items, k=k, exponential=True, where=where)
    for user in range(10):
        np.testing.assert_allclose(linear[user], ndcg_score([gains[user]], [scores[user]], k=k), rtol=1e-5)
        np.testing.assert_allclose(
            exponential[user], ndcg_score([2 ** gains[user] - 1], [scores[user]], k=k), rtol=1e-5
        )


def test_exponential_gain_agrees_with_rax(graded):
    rax = pytest.importorskip("rax")
    scores, gains, ranks, of_items, where = graded
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = rax.ndcg_metric(jnp.float32(scores), jnp.float32(gains), topn=5, reduce_fn=None)
    value = metrics.graded_ndcg_at_k(ranks, of_items, k=5, exponential=True, where=where)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_equal_gains_give_the_binary_metric(graded):
    _, _, ranks, of_items, where = graded
    for k in (2, 10):
        value = metrics.graded_ndcg_at_k(ranks, np.full_like(of_items, 2.5), k=k, where=where)
        np.testing.assert_allclose(value, metrics.ndcg_at_k(ranks, k=k, where=where), rtol=1e-6)


def test_hand_worked():
    """A view at place 1 and a purchase worth 4 at place 3; the best list has them the other way round."""
    ranks, gains = np.array([[1, 3]]), np.array([[1.0, 4.0]])
    expected = (1 + 4 / 2) / (4 + 1 / math.log2(3))
    np.testing.assert_allclose(metrics.graded_ndcg_at_k(ranks, gains, k=10), [expected], rtol=1e-6)
    np.testing.assert_allclose(metrics.graded_ndcg_at_k(ranks, gains, k=2), [1 / (4 + 1 / math.log2(3))], rtol=1e-6)
    missed = metrics.graded_ndcg_at_k(np.array([[1, MISSING_RANK]]), gains, k=10)
    np.testing.assert_allclose(missed, [1 / (4 + 1 / math.log2(3))], rtol=1e-6)


def test_order_padding_and_scale_of_gains_do_not_matter(graded):
    _, _, ranks, of_items, where = graded
    expected = metrics.graded_ndcg_at_k(ranks, of_items, k=5, where=where)
    order = np.random.default_rng(2).permutation(6)
    shuffled = metrics.graded_ndcg_at_k(ranks[:, order], 7 * of_items[:, order], k=5, where=where[:, order])
    np.testing.assert_allclose(shuffled, expected, rtol=1e-6)
    wide = [np.pad(array, ((0, 0), (1, 2)), constant_values=value) for array, value in ((ranks, 1), (of_items, -9.0))]
    padded = metrics.graded_ndcg_at_k(*wide, k=5, where=np.pad(where, ((0, 0), (1, 2))))
    np.testing.assert_allclose(padded, expected, rtol=1e-6)


def test_without_positive_gain_is_nan():
    assert np.isnan(metrics.graded_ndcg_at_k(np.array([[1, 2]]), np.zeros((1, 2)), k=3)).all()
    empty = metrics.graded_ndcg_at_k(jnp.ones((2, 0), dtype=jnp.int32), jnp.ones((2, 0)), k=3)
    assert empty.shape == (2,) and np.isnan(empty).all()


def test_grouped_auc_weighs_users_and_leaves_out_the_undefined():
    generator = np.random.default_rng(0)
    scores, labels = generator.random((5, 8)), generator.random((5, 8)) < 0.4
    labels[2] = False
    per_user = metrics.roc_auc(scores, labels)
    weights = labels.sum(axis=1)
    known = np.flatnonzero(~np.isnan(per_user))
    assert 1 < len(known) < 5
    expected = sum(float(per_user[u]) * weights[u] for u in known) / weights[known].sum()
    np.testing.assert_allclose(metrics.grouped_auc(per_user, weights), expected, rtol=1e-6)
    assert math.isnan(metrics.grouped_auc(jnp.array([jnp.nan]), jnp.array([3])))


def test_bad_input_is_refused():
    ranks = np.array([[1, 2]])
    with pytest.raises(DataError, match="gains hold -1"):
        metrics.graded_ndcg_at_k(ranks, np.array([[1.0, -1.0]]), k=3)
    with pytest.raises(ShapeError, match=r"gains has shape \(1, 3\), expected \(1, 2\)"):
        metrics.graded_ndcg_at_k(ranks, np.ones((1, 3)), k=3)
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        metrics.graded_ndcg_at_k(ranks, np.ones((1, 2)), k=0)
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\)"):
        metrics.grouped_auc(np.ones(2), np.ones(3))
    with pytest.raises(DataError, match="weights hold -2"):
        metrics.grouped_auc(np.ones(2), np.array([1, -2]))
