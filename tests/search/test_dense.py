"""Dense search: scores are products, and training moves W towards what was judged."""

import jax
import numpy as np
import pytest

from seqrec_jax.data.judgments import Judgments
from seqrec_jax.data.queries import query_sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.search import DenseConfig, dense, fit_bilinear

WIDTH, ITEMS, QUERIES = 6, 40, 200
CONFIG = DenseConfig(steps=150, batch_size=32, num_negatives=16, learning_rate=0.02, temperature=0.2)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Queries whose best item is the nearest under a rotation that the frozen vectors do not know."""
    rng = np.random.default_rng(0)
    items, queries = unit(rng.normal(size=(ITEMS + 1, WIDTH))), unit(rng.normal(size=(QUERIES, WIDTH)))
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    truth = queries @ rotation @ items.T
    truth[:, 0] = -np.inf
    judged = np.argsort(-truth, axis=1)[:, [0, 1, 10]].astype(np.int32)
    gains = np.tile(np.array([2.0, 1.0, 0.0], np.float32), QUERIES)
    texts = np.array([f"query {number}" for number in range(QUERIES)], dtype=object)
    return items, queries, truth, Judgments(texts, np.arange(0, 3 * QUERIES + 1, 3), judged.ravel(), gains)


def test_scores_are_products_with_the_query_alone():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 2.0], "": [9.0, 9.0]}
    ranker = dense(
        "frozen",
        lambda texts: np.array([vectors[text] for text in texts]),
        np.array([[0, 0], [1, 2], [3, 4]], np.float32),
    )
    scores = np.asarray(ranker.scores(query_sequences(["b", "a", ""])))
    np.testing.assert_allclose(scores[:, 1:], [[4, 8], [1, 3], [0, 0]])


def test_training_finds_the_rotation(world):
    items, queries, truth, judgments = world
    train, test = np.arange(150), np.arange(150, QUERIES)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        weight = fit_bilinear(queries[train], items, judgments.select(train), config=CONFIG)
    frozen, tuned = queries[test] @ items.T, queries[test] @ weight @ items.T
    best = truth[test].argmax(axis=1)

    def first_places(scores):
        return float((scores[:, 1:].argmax(axis=1) + 1 == best).mean())

    assert first_places(frozen) < 0.2
    assert first_places(tuned) > 0.5


def test_without_steps_worth_the_name_w_stays_the_identity(world):
    items, queries, _, judgments = world
    config = DenseConfig(steps=1, batch_size=8, num_negatives=4, learning_rate=1e-6)
    with jax.numpy_dtype_promotion("standard"):
        weight = fit_bilinear(queries, items, judgments, config=config)
    np.testing.assert_allclose(weight, np.eye(WIDTH), atol=2e-6)


def test_what_is_wrong_is_named(world):
    items, queries, _, judgments = world
    with pytest.raises(ShapeError, match="one a query"):
        fit_bilinear(queries[:5], items, judgments)
    worthless = Judgments(judgments.queries, judgments.offsets, judgments.item_ids, 0 * judgments.gains)
    with pytest.raises(DataError, match="nothing to train on"):
        fit_bilinear(queries, items, worthless)
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        DenseConfig(steps=0)
    with pytest.raises(ConfigError, match="judged_weight"):
        DenseConfig(judged_weight=2)
