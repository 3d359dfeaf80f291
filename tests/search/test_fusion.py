"""Fused scores against sums worked by hand."""

from functools import partial

import numpy as np
import pytest

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.queries import query_sequences
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.search import convex_combination, fused, reciprocal_rank_fusion

NONE = -np.inf
FIRST = np.array([[5.0, 3.0, 1.0, 1.0, NONE], [5.0, 0.0, 0.0, 0.0, 0.0]])
SECOND = np.array([[0.0, NONE, 0.2, 0.4, NONE], [0.0, 1.0, 2.0, NONE, 5.0]])


def test_places_by_hand():
    found = reciprocal_rank_fusion([FIRST, SECOND], k=10)
    expected = [
        [NONE, 1 / 11, 1 / 12 + 1 / 12, 1 / 12 + 1 / 11, NONE],
        [NONE, 1 / 11 + 1 / 13, 1 / 11 + 1 / 12, 1 / 11, 1 / 11 + 1 / 11],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_scaled_scores_by_hand():
    found = convex_combination([FIRST, SECOND], weights=[0.25, 0.75])
    expected = [[NONE, 0.25, 0.0, 0.75, NONE], [NONE, 0.0, 0.75 * 0.25, 0.0, 0.75]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_neither_the_scale_of_scores_nor_the_place_of_an_item_matters():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 20)).astype(np.float32)
    order = np.concatenate([[0], 1 + rng.permutation(19)])
    for fusion in (reciprocal_rank_fusion, partial(convex_combination, weights=[0.3, 0.7])):
        plain = fusion([first, second])
        np.testing.assert_allclose(fusion([first * 7 + 2, second]), plain, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(fusion([first[:, order], second[:, order]]), plain[:, order], rtol=1e-6)


def test_fused_ranker_asks_the_others():
    rankers = [FunctionRanker("first", lambda _: FIRST), FunctionRanker("second", lambda _: SECOND)]
    ranker = fused("both", rankers, reciprocal_rank_fusion)
    np.testing.assert_array_equal(ranker.scores(query_sequences(["a", "b"])), reciprocal_rank_fusion([FIRST, SECOND]))


def test_what_is_wrong_is_named():
    with pytest.raises(ConfigError, match="k must be greater than 0"):
        reciprocal_rank_fusion([FIRST], k=0)
    with pytest.raises(ConfigError, match="sum of 1"):
        convex_combination([FIRST, SECOND], weights=[0.5, 0.6])
    with pytest.raises(ShapeError, match="one system or more"):
        convex_combination([FIRST, SECOND[:1]], weights=[0.5, 0.5])
