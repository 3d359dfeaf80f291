"""Losses against loops, Optax and finite differences, and under every transform."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from seqrec_jax import losses
from seqrec_jax.errors import ShapeError


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype=jnp.float32)


def softmax_problem(seed=0, *, rows=24, num_items=13, width=5):
    rng = np.random.default_rng(seed)
    return {
        "v": jnp.asarray(rng.normal(size=(rows, width)), dtype=jnp.float32),
        "v_y": jnp.asarray(rng.normal(size=(num_items + 1, width)), dtype=jnp.float32),
        "targets": jnp.asarray(rng.integers(1, num_items + 1, rows), dtype=jnp.int32),
        "weights": jnp.asarray(rng.random(rows), dtype=jnp.float32),
        "where": jnp.asarray(rng.random(rows) < 0.8),
    }


def plain_softmax_losses(v, v_y, targets, temperature=1.0, allowed=None):
    """The whole `[T, V]` at once, by Optax."""
    logits = v @ v_y.T / temperature
    usable = jnp.arange(len(v_y)) > 0 if allowed is None else allowed & (jnp.arange(len(v_y)) > 0)
    logits = jnp.where(usable[None, :], logits, -1e30)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def close(found, expected, rtol=2e-5, atol=2e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=rtol, atol=atol)


# --- the mean ---


def test_weighted_mean_worked_by_hand():
    values, weights = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 3.0, 4.0])
    assert float(losses.weighted_mean(values)) == 3.0
    assert float(losses.weighted_mean(values, weights)) == (1 + 6 + 24) / 8
    assert float(losses.weighted_mean(values, weights, where=jnp.array([True, True, False]))) == 7 / 4


def test_weighted_mean_of_nothing_is_zero_with_zero_gradient():
    nothing = jnp.zeros(3)
    value, gradient = jax.value_and_grad(losses.weighted_mean)(jnp.full(3, jnp.nan), nothing)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_weighted_mean_over_devices_is_that_of_all_values():
    values, weights = normal(0, 8, 3), jnp.abs(normal(1, 8, 3)).at[2:5].set(0.0)

    def mean(values, weights):
        return losses.weighted_mean(values, weights, axis_name="data")

    found = jax.block_until_ready(jax.pmap(mean, axis_name="data")(values, weights))
    close(found, np.full(8, np.average(values, weights=weights)))


# --- pointwise and pairwise losses ---


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_pointwise_and_pairwise_losses_equal_their_formulas(seed, scale):
    positive, negative, labels = scale * normal(seed, 4), scale * normal(seed + 1, 4, 3), normal(seed + 2, 4)
    close(losses.squared_error_loss(positive, labels), (np.asarray(positive) - np.asarray(labels)) ** 2)
    positive_terms = optax.sigmoid_binary_cross_entropy(positive, jnp.ones(4))
    negative_terms = optax.sigmoid_binary_cross_entropy(negative, jnp.zeros((4, 3)))
    close(losses.binary_cross_entropy_loss(positive, negative), positive_terms + negative_terms.sum(axis=1))
    gaps = np.asarray(positive, dtype=np.float64)[:, None] - np.asarray(negative)
    close(losses.bpr_loss(positive, negative), np.logaddexp(0, -gaps).sum(axis=1))


@pytest.mark.parametrize("loss", [losses.binary_cross_entropy_loss, losses.bpr_loss])
def test_a_masked_negative_counts_for_nothing(loss):
    positive, negative = normal(0, 4), normal(1, 4, 3)
    keep = jnp.array([True, True, False])
    close(
        loss(positive, negative.at[:, 2].set(1e4), negative_where=jnp.tile(keep, (4, 1))),
        loss(positive, negative[:, :2]),
    )


POINTWISE = {
    "squared error": lambda v, **how: losses.squared_error_loss(v[:, 0], v[:, 1], **how),
    "binary cross entropy": lambda v, **how: losses.binary_cross_entropy_loss(v[:, 0], v[:, 1:], **how),
    "bpr": lambda v, **how: losses.bpr_loss(v[:, 0], v[:, 1:], **how),
    "softmax": lambda v, **how: losses.softmax_loss(
        v, normal(7, 9, 5), jnp.arange(len(v)) % 8 + 1, chunk_size=3, **how
    ),
    "sampled softmax": lambda v, **how: losses.sampled_softmax_loss(
        v, normal(7, 9, 5), jnp.arange(len(v)) % 8 + 1, negative_ids=jnp.arange(1, 5), **how
    ),
}


@pytest.mark.parametrize("name", POINTWISE)
class TestEveryLoss:
    def test_weights_multiply_and_where_removes(self, name):
        v, weights = normal(3, 8, 5), jnp.arange(8, dtype=jnp.float32)
        plain, where = POINTWISE[name](v), weights < 6
        assert plain.shape == (8,) and plain.dtype == jnp.float32
        expected = plain * jnp.where(where, weights, 0.0)
        close(POINTWISE[name](v, weights=weights, where=where), expected)

    def test_gradient_equals_finite_differences(self, name):
        weights = jnp.abs(normal(4, 8))
        loss = jax.jit(lambda v, weights: POINTWISE[name](v, weights=weights))
        check_grads(loss, (normal(3, 8, 5), weights), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)

    def test_masked_rows_of_nan_leave_values_and_gradients_finite(self, name):
        v = normal(3, 8, 5)
        for where in (jnp.zeros(8, dtype=bool), jnp.arange(8) < 4):
            spoilt = jnp.where(where[:, None], v, jnp.nan)

            def mean(v, where=where):
                return losses.weighted_mean(POINTWISE[name](v, where=where), where=where)

            expected, gradient = jax.value_and_grad(mean)(spoilt)
            clean = jax.value_and_grad(mean)(v)
            close((expected, gradient), clean)
            np.testing.assert_array_equal(gradient[~where], 0.0)

    def test_eager_jit_vmap_pmap_and_shards_agree(self, name):
        loss, v, weights = POINTWISE[name], normal(3, 16, 5), jnp.abs(normal(4, 16))

        def value_and_gradient(v, weights):
            values = loss(v, weights=weights)
            return values, jax.grad(lambda v: jnp.sum(loss(v, weights=weights)))(v)

        expected = value_and_gradient(v, weights)
        close(jax.jit(value_and_gradient)(v, weights), expected)
        # the targets of the test follow the row's number modulo 8, so that pieces of 8 rows give the same
        pieces = v.reshape(2, 8, 5), weights.reshape(2, 8)
        for mapped in (jax.vmap(value_and_gradient), jax.pmap(value_and_gradient)):
            found = jax.block_until_ready(mapped(*pieces))
            close(jax.tree.map(lambda array: array.reshape(16, *array.shape[2:]), found), expected)
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        sharded = jax.device_put((v, weights), rows)
        close(jax.block_until_ready(jax.jit(value_and_gradient)(*sharded)), expected)


# --- softmax over all items ---


@partial(jax.jit, static_argnames=("kind", "chunk_size"))
def softmax_value_and_gradients(kind, arguments, targets, where, allowed, chunk_size=None):
    def mean(v, v_y, temperature, weights):
        if kind == "plain":
            values = plain_softmax_losses(v, v_y, targets, temperature, allowed)
            kept = weights * where.astype(jnp.float32)
            return jnp.sum(kept * values) / jnp.sum(kept)
        how = {"chunk_size": chunk_size, "allowed": allowed, "temperature": temperature, "where": where}
        if kind == "fused":
            return losses.mean_softmax_loss(v, v_y, targets, weights=weights, **how)
        return losses.weighted_mean(losses.softmax_loss(v, v_y, targets, **how), weights, where=where)

    return mean(*arguments), jax.value_and_grad(mean, argnums=(0, 1, 2, 3))(*arguments)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    chunk_size=st.sampled_from([1, 7, None]),
    temperature=st.sampled_from([1.0, 0.05]),
    restricted=st.booleans(),
)
def test_softmax_equals_the_plain_one_in_value_and_gradient(seed, chunk_size, temperature, restricted):
    case = softmax_problem(seed)
    v, v_y, targets, weights, where = case.values()
    some = jnp.asarray(np.random.default_rng(seed).random(14) < 0.5).at[targets].set(True)
    allowed = some if restricted else jnp.ones_like(some)
    inputs = (v, v_y, jnp.float32(temperature), weights), targets, where, allowed
    expected = softmax_value_and_gradients("plain", *inputs)
    for kind in ("chunked", "fused"):
        found = softmax_value_and_gradients(kind, *inputs, chunk_size=chunk_size)
        close(found, expected, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(found[1][1][1][0], 0.0)  # row 0 is never scored


def test_mean_softmax_is_differentiated_rightly():
    v, v_y, targets, weights, where = softmax_problem(2, rows=6, num_items=4, width=3).values()
    loss = jax.jit(
        lambda v, v_y, t: losses.mean_softmax_loss(
            v, v_y, targets, temperature=t, weights=weights, where=where, chunk_size=4
        )
    )
    check_grads(loss, (v, v_y, jnp.float32(0.7)), order=1, modes=["rev"], rtol=1e-2, atol=1e-2)


def test_mean_softmax_of_nothing_is_zero_with_zero_gradients():
    v, v_y, targets, _, _ = softmax_problem().values()
    nothing = jnp.zeros(len(v), dtype=bool)
    value, gradients = jax.value_and_grad(losses.mean_softmax_loss, argnums=(0, 1))(
        jnp.full_like(v, jnp.nan), v_y, targets, where=nothing
    )
    assert float(value) == 0.0
    close(gradients, (jnp.zeros_like(v), jnp.zeros_like(v_y)), rtol=0, atol=0)


def test_targets_of_zero_count_as_masked():
    v, v_y, targets, _, _ = softmax_problem().values()
    some = targets.at[::3].set(0)
    values = losses.softmax_loss(v, v_y, some)
    np.testing.assert_array_equal(values[::3], 0.0)
    kept = some > 0
    close(losses.mean_softmax_loss(v, v_y, some), np.mean(plain_softmax_losses(v, v_y, targets)[kept]))


def test_a_target_that_is_not_allowed_has_an_infinite_loss():
    v, v_y, targets, _, _ = softmax_problem().values()
    allowed = jnp.ones(len(v_y), dtype=bool).at[targets[0]].set(False)
    values = losses.softmax_loss(v, v_y, targets, allowed=allowed)
    np.testing.assert_array_equal(np.isinf(values), targets == targets[0])


def test_bfloat16_inputs_stay_close_to_float32():
    case = softmax_problem(1, rows=64, num_items=200, width=32)
    v, v_y = 0.3 * case["v"], 0.3 * case["v_y"]
    v, v_y = (array.astype(jnp.bfloat16) for array in (v, v_y))
    function = jax.value_and_grad(losses.mean_softmax_loss, argnums=(0, 1))
    value, gradients = function(v, v_y, case["targets"], chunk_size=16)
    exact, expected = function(v.astype(jnp.float32), v_y.astype(jnp.float32), case["targets"])
    assert value.dtype == jnp.float32 and all(g.dtype == jnp.bfloat16 for g in gradients)
    close(value, exact, rtol=1e-5)
    for one, other in zip(gradients, expected, strict=True):
        scale = float(jnp.max(jnp.abs(other)))
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.01 * scale, rtol=0.02)


def test_the_scores_of_all_rows_are_never_held():
    rows, num_items, width = 2048, 3000, 8
    arguments = (
        jax.ShapeDtypeStruct((rows, width), jnp.float32),
        jax.ShapeDtypeStruct((num_items + 1, width), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )

    def temporary_bytes(loss):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = rows * num_items * 4
    assert temporary_bytes(lambda v, v_y, t: jnp.mean(plain_softmax_losses(v, v_y, t))) >= whole
    for loss in (losses.mean_softmax_loss, lambda *a, **how: jnp.mean(losses.softmax_loss(*a, **how))):
        assert temporary_bytes(lambda v, v_y, t, loss=loss: loss(v, v_y, t, chunk_size=128)) < whole / 4


@pytest.mark.parametrize("loss_name", ["mean_softmax_loss", "softmax_loss"])
def test_gradients_over_devices_are_those_of_one(loss_name):
    case = softmax_problem(4, rows=40)
    case["where"] = case["where"].at[:5].set(False)  # the first device has nothing that counts
    v, v_y, targets, weights, where = case.values()

    def mean(v, v_y, targets, weights, where, axis_name=None):
        if loss_name == "mean_softmax_loss":
            return losses.mean_softmax_loss(
                v, v_y, targets, weights=weights, where=where, chunk_size=2, axis_name=axis_name
            )
        values = losses.softmax_loss(v, v_y, targets, chunk_size=2)
        return losses.weighted_mean(values, weights, where=where, axis_name=axis_name)

    function = jax.value_and_grad(mean, argnums=(0, 1))
    expected = function(v, v_y, targets, weights, where)

    def on_devices(v, v_y, *rest):
        return jax.value_and_grad(partial(mean, axis_name="data"), argnums=(0, 1))(v, v_y, *rest)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        on_devices,
        mesh=mesh,
        in_specs=(rows, whole, rows, rows, rows),
        out_specs=(whole, (rows, whole)),
    )
    close(jax.block_until_ready(jax.jit(mapped)(v, v_y, targets, weights, where)), expected)

    split = [array.reshape(8, -1, *array.shape[1:]) for array in (v, targets, weights, where)]

    def step(v, targets, weights, where):
        value, (by_v, by_v_y) = on_devices(v, v_y, targets, weights, where)
        return value, by_v, jax.lax.pmean(by_v_y, "data")

    value, _, by_v_y = jax.block_until_ready(jax.pmap(step, axis_name="data")(*split))
    close(value, np.full(8, expected[0]))
    close(by_v_y, np.broadcast_to(expected[1][1], by_v_y.shape))

    sharding = NamedSharding(mesh, rows)
    sharded = [jax.device_put(array, sharding) for array in (v, targets, weights, where)]
    found = jax.jit(function)(sharded[0], jax.device_put(v_y, NamedSharding(mesh, whole)), *sharded[1:])
    close(jax.block_until_ready(found), expected)


def test_mean_softmax_under_vmap_is_a_loop():
    cases = [softmax_problem(seed, rows=6) for seed in range(3)]
    stacked = [jnp.stack([case[name] for case in cases]) for name in ("v", "v_y", "targets")]
    function = jax.value_and_grad(lambda *a: losses.mean_softmax_loss(*a, chunk_size=4), argnums=(0, 1))
    found = jax.vmap(function)(*stacked)
    for index, case in enumerate(cases):
        expected = function(case["v"], case["v_y"], case["targets"])
        close(jax.tree.map(lambda array, index=index: array[index], found), expected)


# --- sampled softmax ---


def slow_sampled_softmax(v, v_y, target, negatives, log_q):
    logits = [v @ v_y[target] - log_q[target]]
    logits += [v @ v_y[item] - log_q[item] for item in negatives if item not in (target, 0)]
    return np.log(np.sum(np.exp(logits))) - logits[0]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_sampled_softmax_equals_a_loop(shared, corrected):
    case = softmax_problem(3, rows=6)
    rng = np.random.default_rng(3)
    log_q = np.log(rng.dirichlet(np.ones(14))).astype(np.float32) if corrected else np.zeros(14, np.float32)
    negatives = rng.integers(0, 14, (8,) if shared else (6, 8)).astype(np.int32)
    how = {}
    if corrected:
        how = {"negative_log_q": log_q[negatives], "target_log_q": log_q[case["targets"]]}
    arguments = case["v"], case["v_y"], case["targets"]
    found = losses.sampled_softmax_loss(*arguments, negative_ids=negatives, **how)
    v, v_y = (np.asarray(case[name], dtype=np.float64) for name in ("v", "v_y"))
    expected = [
        slow_sampled_softmax(v[t], v_y, int(target), negatives if shared else negatives[t], log_q)
        for t, target in enumerate(case["targets"])
    ]
    close(found, np.array(expected))


def test_all_items_as_negatives_make_the_full_softmax():
    v, v_y, targets, _, _ = softmax_problem().values()
    found = losses.sampled_softmax_loss(v, v_y, targets, negative_ids=jnp.arange(14), temperature=0.5)
    close(found, losses.softmax_loss(v, v_y, targets, temperature=0.5))


# --- errors ---


def test_shapes_that_do_not_fit_are_refused():
    v, v_y, targets, weights, _ = softmax_problem().values()
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), expected \(24,\)"):
        losses.softmax_loss(v, v_y, targets, weights=weights[:3])
    with pytest.raises(ShapeError, match="same E"):
        losses.mean_softmax_loss(v, v_y[:, 1:], targets)
    with pytest.raises(ShapeError, match="allowed has shape"):
        losses.softmax_loss(v, v_y, targets, allowed=jnp.ones(3, dtype=bool))
    with pytest.raises(ShapeError, match="chunk_size must be at least 1, got 0"):
        losses.softmax_loss(v, v_y, targets, chunk_size=0)
    with pytest.raises(ShapeError, match="labels has shape"):
        losses.squared_error_loss(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ShapeError, match="negative_scores must have the shape"):
        losses.bpr_loss(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ShapeError, match="negative_where has shape"):
        losses.bpr_loss(jnp.ones(3), jnp.ones((3, 2)), negative_where=jnp.ones(3, dtype=bool))
    with pytest.raises(ShapeError, match="both negative_log_q and target_log_q, or neither"):
        losses.sampled_softmax_loss(
            v, v_y, targets, negative_ids=jnp.arange(4), negative_log_q=jnp.zeros(4, dtype=jnp.float32)
        )
    with pytest.raises(ShapeError, match="where has shape"):
        losses.weighted_mean(jnp.ones(3), where=jnp.ones(4, dtype=bool))
