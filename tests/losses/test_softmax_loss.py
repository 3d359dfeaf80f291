"""The softmax over all items against Optax on the whole `[T, V]`, on one device and on eight."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from loss_cases import close, normal, plain_softmax_losses, softmax_problem

from seqrec_jax import losses
from seqrec_jax.errors import ConfigError, ShapeError


@partial(jax.jit, static_argnames=("kind", "chunk_size", "label_smoothing"))
def softmax_value_and_gradients(kind, arguments, targets, where, allowed, chunk_size=None, label_smoothing=0.0):
    def mean(v, v_y, temperature, weights):
        if kind == "plain":
            values = plain_softmax_losses(v, v_y, targets, temperature, allowed, label_smoothing)
            kept = weights * where.astype(jnp.float32)
            return jnp.sum(kept * values) / jnp.sum(kept)
        how = {"chunk_size": chunk_size, "allowed": allowed, "temperature": temperature, "where": where}
        how["label_smoothing"] = label_smoothing
        if kind == "fused":
            return losses.mean_softmax_loss(v, v_y, targets, weights=weights, **how)
        return losses.weighted_mean(losses.softmax_loss(v, v_y, targets, **how), weights, where=where)

    return mean(*arguments), jax.value_and_grad(mean, argnums=(0, 1, 2, 3))(*arguments)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    static=st.sampled_from([(1, 0.0), (7, 0.2), (None, 0.2)]),  # each is compiled
    temperature=st.sampled_from([1.0, 0.05]),
    restricted=st.booleans(),
)
def test_softmax_equals_the_plain_one_in_value_and_gradient(seed, static, temperature, restricted):
    chunk_size, label_smoothing = static
    case = softmax_problem(seed)
    v, v_y, targets, weights, where = case.values()
    some = jnp.asarray(np.random.default_rng(seed).random(14) < 0.5).at[targets].set(True)
    allowed = some if restricted else jnp.ones_like(some)
    inputs = (v, v_y, jnp.float32(temperature), weights), targets, where, allowed
    expected = softmax_value_and_gradients("plain", *inputs, label_smoothing=label_smoothing)
    for kind in ("chunked", "fused"):
        found = softmax_value_and_gradients(kind, *inputs, chunk_size=chunk_size, label_smoothing=label_smoothing)
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


TIES = ("separate", "tied", "bilinear")


def tied_problem(tie, dtype):
    """Parameters, and what makes v `[T, E]` and v_y of them: the last item's vector is v where they are tied."""
    case = softmax_problem(1, rows=64, num_items=200, width=16)
    items = jnp.arange(64) * 3 + 1
    params = {"v": 0.3 * case["v"], "v_y": 0.3 * case["v_y"], "weight": jnp.eye(16) + 0.2 * normal(5, 16, 16)}
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def vectors(params):
        v = params["v"] if tie == "separate" else params["v_y"][items]
        return (v @ params["weight"] if tie == "bilinear" else v), params["v_y"]

    return params, vectors, case["targets"]


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tied_vectors_and_a_matrix_between_get_the_gradients_of_the_plain_softmax(tie, dtype):
    params, vectors, targets = tied_problem(tie, dtype)

    def fused(params):
        v, v_y = vectors(params)
        return losses.mean_softmax_loss(v, v_y, targets, chunk_size=16, label_smoothing=0.1)

    def plain(params):
        v, v_y = (array.astype(jnp.float32) for array in vectors(params))
        return jnp.mean(plain_softmax_losses(v, v_y, targets, label_smoothing=0.1))

    value, gradients = jax.jit(jax.value_and_grad(fused))(params)
    # the plain one on the same rounded vectors, so that only the loss's own rounding is left
    expected, wanted = jax.jit(jax.value_and_grad(plain))(params)
    assert value.dtype == jnp.float32
    # between two products a compiler may leave out the rounding to bfloat16
    close(value, expected, rtol=1e-5 if dtype == jnp.float32 else 1e-3)
    for name in params:
        assert gradients[name].dtype == dtype
        found, exact = (np.asarray(leaf[name].astype(jnp.float32)) for leaf in (gradients, wanted))
        tolerance = 1e-5 if dtype == jnp.float32 else 0.02
        np.testing.assert_allclose(found, exact, atol=tolerance * max(float(np.abs(exact).max()), 1e-3))


def test_label_smoothing_worked_by_hand():
    v_y = jnp.array([[0.0], [0.0], [np.log(2.0)], [0.0]])
    found = losses.softmax_loss(jnp.ones((1, 1)), v_y, jnp.array([2]), label_smoothing=0.3)
    # p = 1/4, 1/2, 1/4, so that the cross entropies of the three items are 2, 1 and 2 times log 2
    close(found, [np.log(2.0) * (0.7 * 1 + 0.3 * 5 / 3)])


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
                v, v_y, targets, weights=weights, where=where, chunk_size=2, label_smoothing=0.1, axis_name=axis_name
            )
        values = losses.softmax_loss(v, v_y, targets, chunk_size=2, label_smoothing=0.1)
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


def test_inputs_that_do_not_fit_are_refused():
    v, v_y, targets, weights, _ = softmax_problem().values()
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), expected \(24,\)"):
        losses.softmax_loss(v, v_y, targets, weights=weights[:3])
    with pytest.raises(ShapeError, match="same E"):
        losses.mean_softmax_loss(v, v_y[:, 1:], targets)
    with pytest.raises(ShapeError, match="allowed has shape"):
        losses.softmax_loss(v, v_y, targets, allowed=jnp.ones(3, dtype=bool))
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, got 0"):
        losses.softmax_loss(v, v_y, targets, chunk_size=0)
    with pytest.raises(ConfigError, match="label_smoothing must be at least 0 and less than 1, got 1"):
        losses.mean_softmax_loss(v, v_y, targets, label_smoothing=1)
