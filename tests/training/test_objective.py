"""Every objective against a loop in NumPy, on a case small enough to read."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.negatives import popularity_sampler, sample_negatives
from seqrec_jax.training.config import LossConfig
from seqrec_jax.training.objective import make_objective

COUNTS = np.array([9, 4, 0, 1, 2, 0, 3])  # row 0 never counts; items 2 and 5 have no training event
TRAINED = [1, 3, 4, 6]
TARGETS = np.array([[1, 3, 0], [6, 4, 1]], dtype=np.int32)
WEIGHTS = np.array([[1.0, 0.5, 0.0], [2.0, 1.0, 0.25]], dtype=np.float32)
STEP_KEY = jax.random.key(5)
ROW_KEYS = jax.random.split(jax.random.key(6), 2)
NEGATIVES, TEMPERATURE, POWER = 7, 0.7, 0.75
CONFIG = LossConfig(num_negatives=NEGATIVES, temperature=TEMPERATURE, negatives_power=POWER)
KINDS = ("softmax", "sampled_softmax", "binary_cross_entropy", "bpr")


def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)


def drawn_ids(kind):
    """`[2, 3, N]` negatives of each target, by the sampler that has tests of its own."""
    sampler = popularity_sampler(np.where(COUNTS > 0, COUNTS, 0), power=POWER)
    if kind == "sampled_softmax":
        shared = np.asarray(sample_negatives(sampler, (NEGATIVES,), STEP_KEY).ids)
        return np.broadcast_to(shared, (2, 3, NEGATIVES))
    return np.stack([np.asarray(sample_negatives(sampler, (3, NEGATIVES), key).ids) for key in ROW_KEYS])


def log_q(item):
    return np.log(COUNTS[item] ** POWER / sum(COUNTS[j] ** POWER for j in TRAINED))


def loss_of_target(kind, query, v_y, target, negatives):
    def score(item):
        return float(query.astype(np.float64) @ v_y[item]) / TEMPERATURE

    others = [j for j in negatives if j != target]
    if kind == "softmax":
        return np.log(sum(np.exp(score(j)) for j in TRAINED)) - score(target)
    if kind == "sampled_softmax":
        logits = [score(j) - log_q(j) for j in (target, *others)]
        return np.log(np.sum(np.exp(logits))) - logits[0]
    if kind == "binary_cross_entropy":
        return np.log1p(np.exp(-score(target))) + sum(np.log1p(np.exp(score(j))) for j in others)
    return sum(np.log1p(np.exp(score(j) - score(target))) for j in others)


def value(kind, queries, v_y, targets=TARGETS, weights=WEIGHTS):
    objective = make_objective(replace(CONFIG, kind=kind), item_counts=COUNTS, axis_name=None)
    return objective(queries, v_y, jnp.asarray(targets), jnp.asarray(weights), STEP_KEY, ROW_KEYS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_the_weighted_mean_of_a_loop(kind):
    queries, v_y = vectors()
    negatives = drawn_ids(kind)
    assert set(negatives.ravel()) <= set(TRAINED)
    assert (negatives == TARGETS[..., None]).any(), "a hit on a target should be part of the case"
    total = sum(
        WEIGHTS[row, place] * loss_of_target(kind, queries[row, place], v_y, TARGETS[row, place], negatives[row, place])
        for row, place in zip(*np.nonzero(TARGETS), strict=True)
    )
    got = jax.jit(lambda *arrays: value(kind, *arrays))(queries, v_y)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(total / WEIGHTS.sum(), rel=1e-5)
    assert float(value(kind, queries, v_y)) == pytest.approx(float(got), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_training_events_are_not_pushed(kind):
    queries, v_y = vectors()
    gradient = np.asarray(jax.jit(jax.grad(lambda v: value(kind, jnp.asarray(queries), v)))(v_y))
    assert (gradient[[0, 2, 5]] == 0).all()
    assert (np.abs(gradient[TRAINED]).max(axis=1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_target_it_is_zero_with_finite_gradients(kind):
    queries, v_y = vectors()
    nothing = np.zeros_like(TARGETS)

    def loss(queries, v_y):
        return value(kind, queries, v_y, nothing, np.zeros_like(WEIGHTS))

    loss_value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(queries, v_y)
    assert float(loss_value) == 0.0
    assert all((np.asarray(gradient) == 0).all() for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_vectors_give_a_float32_value(kind):
    queries, v_y = vectors()
    rough = value(kind, jnp.asarray(queries, dtype=jnp.bfloat16), jnp.asarray(v_y, dtype=jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert float(rough) == pytest.approx(float(value(kind, queries, v_y)), rel=0.03)
