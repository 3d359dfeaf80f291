"""The softmax against sampled negatives: against loops, what it learns, and the same on eight devices."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from loss_cases import close, normal, softmax_problem
from scipy import optimize

from seqrec_jax import losses, negatives
from seqrec_jax.errors import ShapeError


def slow_sampled_softmax(v, v_y, target, drawn, log_q):
    """One target; without log q nothing is corrected."""
    real = [item for item in drawn if item != 0]
    correction = np.zeros(len(v_y)) if log_q is None else log_q
    hits = 1.0 if log_q is None else 1.0 + len(real) * np.exp(log_q[target])
    own = v @ v_y[target] - correction[target]
    others = [v @ v_y[item] - correction[item] for item in real if item != target]
    return np.log(hits * np.exp(own) + np.sum(np.exp(others))) - own


@pytest.mark.parametrize("shared", [(), (2,), (2, 3)], ids=["batch", "row", "target"])
@pytest.mark.parametrize("corrected", [True, False])
def test_sampled_softmax_equals_a_loop(shared, corrected):
    case = softmax_problem(3, rows=6)
    v, targets = case["v"].reshape(2, 3, -1), case["targets"].reshape(2, 3)
    rng = np.random.default_rng(3)
    log_q = np.log(rng.dirichlet(np.ones(14))).astype(np.float32) if corrected else None
    ids = rng.integers(0, 14, (*shared, 30)).astype(np.int32)
    found = losses.sampled_softmax_loss(v, case["v_y"], targets, negative_ids=ids, log_q=log_q)
    v_y = np.asarray(case["v_y"], dtype=np.float64)
    everyone = np.broadcast_to(ids.reshape(*shared, *(1,) * (2 - len(shared)), 30), (2, 3, 30))
    expected = [
        [slow_sampled_softmax(v[b, i], v_y, int(targets[b, i]), everyone[b, i], log_q) for i in range(3)]
        for b in range(2)
    ]
    assert (everyone == targets[..., None]).any() and (everyone == 0).any()
    close(found, np.array(expected))


def test_all_items_as_negatives_make_the_full_softmax():
    v, v_y, targets, _, _ = softmax_problem().values()
    found = losses.sampled_softmax_loss(v, v_y, targets, negative_ids=jnp.arange(14), temperature=0.5)
    close(found, losses.softmax_loss(v, v_y, targets, temperature=0.5))


def test_the_scores_of_a_rows_negatives_hold_no_vector_for_each_target():
    batch, length, num_negatives, width = 8, 50, 32, 64
    arguments = (
        jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
        jax.ShapeDtypeStruct((1000, width), jnp.float32),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
    )

    def temporary_bytes(*shared):
        def mean(v, v_y, targets):
            ids = jnp.ones((*shared, num_negatives), dtype=jnp.int32) + targets[0, 0]
            return jnp.mean(losses.sampled_softmax_loss(v, v_y, targets, negative_ids=ids))

        compiled = jax.jit(jax.grad(mean, argnums=(0, 1))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    each = batch * length * num_negatives * width * 4
    assert temporary_bytes(batch, length) >= each
    assert temporary_bytes(batch) < each / 3


def test_bfloat16_products_are_accumulated_in_float32():
    v, v_y = normal(0, 2, 3, 64).astype(jnp.bfloat16), normal(1, 9, 64).astype(jnp.bfloat16)
    ids = jnp.arange(1, 9)
    found = losses.negative_scores(v, v_y, negative_ids=ids)
    assert found.dtype == jnp.float32
    close(found, losses.negative_scores(v.astype(jnp.float32), v_y.astype(jnp.float32), negative_ids=ids), atol=1e-4)


def test_an_item_that_is_never_drawn_leaves_everything_finite():
    v, v_y, targets, _, _ = softmax_problem().values()
    log_q = jnp.full(14, jnp.log(1 / 12)).at[0].set(-jnp.inf).at[targets[0]].set(-jnp.inf)
    function = jax.value_and_grad(
        lambda v: jnp.sum(losses.sampled_softmax_loss(v, v_y, targets, negative_ids=jnp.arange(14), log_q=log_q))
    )
    assert all(np.isfinite(array).all() for array in function(v))


# --- what is learnt ---


def learnt_distribution(counts, *, corrected):
    """Softmax of the scores that minimise the loss of a batch with these counts of V items, user-independent.

    Every target of the batch is a negative of all the others, so its hits are many.
    """
    batch = np.repeat(np.arange(1, len(counts) + 1), counts)
    targets, shares = jnp.arange(1, len(counts) + 1), jnp.asarray(counts / counts.sum(), dtype=jnp.float32)
    log_q = jnp.log(jnp.concatenate([jnp.zeros(1), shares])) if corrected else None

    @jax.jit
    def loss(scores):
        v_y = jnp.concatenate([jnp.zeros(1), scores])[:, None]
        ones = jnp.ones((len(counts), 1))
        values = losses.sampled_softmax_loss(ones, v_y, targets, negative_ids=batch, log_q=log_q)
        return losses.weighted_mean(values, shares)

    def function(scores):
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(scores, dtype=jnp.float32))
        return float(value), np.asarray(gradient, dtype=np.float64)

    result = optimize.minimize(function, np.zeros(len(counts)), jac=True, method="L-BFGS-B")
    return np.exp(result.x - np.logaddexp.reduce(result.x))


def test_in_batch_negatives_need_log_q_to_learn_the_distribution():
    counts = np.maximum(1, (60 / np.arange(1, 21)).astype(int))  # Zipf over V = 20
    truth = counts / counts.sum()
    corrected = learnt_distribution(counts, corrected=True)
    np.testing.assert_allclose(corrected, truth, rtol=0.02)
    # without it popularity is undone: popular items are negatives as often as they are targets
    uncorrected = learnt_distribution(counts, corrected=False)
    assert 0.5 * np.abs(uncorrected - truth).sum() > 0.3
    assert truth[0] / truth[-1] > 19 and uncorrected[0] / uncorrected[-1] < 3


def test_the_gradient_is_that_of_the_full_softmax_with_many_negatives():
    rng = np.random.default_rng(0)
    v, v_y = (jnp.asarray(0.7 * rng.normal(size=shape), dtype=jnp.float32) for shape in ((4, 6), (31, 6)))
    targets = jnp.array([1, 5, 9, 30], dtype=jnp.int32)
    sampler = negatives.popularity_sampler(np.arange(31) + 1.0)
    drawn = negatives.sample_negatives(sampler, (20_000,), jax.random.key(2))

    def gradient(log_q):
        def total(v):
            return jnp.sum(losses.sampled_softmax_loss(v, v_y, targets, negative_ids=drawn.ids, log_q=log_q))

        return jax.jit(jax.grad(total))(v)

    expected = jax.grad(lambda v: jnp.sum(losses.softmax_loss(v, v_y, targets)))(v)
    error, uncorrected = (float(jnp.abs(gradient(log_q) - expected).max()) for log_q in (drawn.log_q, None))
    assert 3 * error < 0.15 < uncorrected


# --- devices ---


def test_negatives_from_the_batch_are_the_same_on_one_and_on_eight_devices():
    case = softmax_problem(5, rows=48)
    v, targets = case["v"].reshape(16, 3, -1), case["targets"].reshape(16, 3).at[:3].set(0)  # one device has none
    log_q = negatives.popularity_sampler(np.arange(14)).log_q

    def draw(targets, axis_name):
        uniform, key = negatives.uniform_sampler(13), jax.random.key(7)
        return negatives.mixed_negatives(targets, log_q, uniform, num_negatives=20, axis_name=axis_name, key=key)

    def mean(v, v_y, targets, axis_name=None):
        drawn = draw(targets, axis_name)
        values = losses.sampled_softmax_loss(v, v_y, targets, negative_ids=drawn.ids, log_q=drawn.log_q)
        return losses.weighted_mean(values, where=targets > 0, axis_name=axis_name)

    function = jax.value_and_grad(mean, argnums=(0, 1))
    expected = jax.jit(function)(v, case["v_y"], targets)
    on_devices = jax.value_and_grad(partial(mean, axis_name="data"), argnums=(0, 1))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(on_devices, mesh=mesh, in_specs=(rows, whole, rows), out_specs=(whole, (rows, whole)))
    close(jax.block_until_ready(jax.jit(mapped)(v, case["v_y"], targets)), expected)

    def step(v, targets):
        value, (_, by_v_y) = on_devices(v, case["v_y"], targets)
        return value, jax.lax.pmean(by_v_y, "data"), draw(targets, "data").ids

    parts = (array.reshape(8, 2, *array.shape[1:]) for array in (v, targets))
    value, by_v_y, ids = jax.block_until_ready(jax.pmap(step, axis_name="data")(*parts))
    close((value, by_v_y), (np.full(8, expected[0]), np.broadcast_to(expected[1][1], by_v_y.shape)))
    np.testing.assert_array_equal(ids, np.broadcast_to(draw(targets, None).ids, ids.shape))


def test_shapes_that_do_not_fit_are_refused():
    v, v_y, targets, _, _ = softmax_problem().values()
    with pytest.raises(ShapeError, match=r"negative_ids has shape \(3, 4\), expected the first axes"):
        losses.sampled_softmax_loss(v, v_y, targets, negative_ids=jnp.ones((3, 4), dtype=jnp.int32))
    with pytest.raises(ShapeError, match=r"log_q has shape \(4,\), expected \(14,\)"):
        losses.sampled_softmax_loss(v, v_y, targets, negative_ids=jnp.arange(4), log_q=jnp.zeros(4))
    with pytest.raises(ShapeError, match="same E"):
        losses.sampled_softmax_loss(v, v_y[:, 1:], targets, negative_ids=jnp.arange(4))
    with pytest.raises(ShapeError, match="targets has shape"):
        losses.sampled_softmax_loss(v, v_y, targets[:3], negative_ids=jnp.arange(4))
