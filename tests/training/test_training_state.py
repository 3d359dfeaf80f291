"""Schedules and optimizers against values worked out by hand, and what the first state holds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import tiny_params

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.config import OptimizerConfig
from seqrec_jax.training.state import evaluated_params, init_state, make_optimizer, make_schedule

RATE = 0.25


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0, {0: 1.0, 9: 1.0}),
        ("constant", 4, {0: 0.0, 1: 0.25, 3: 0.75, 4: 1.0, 9: 1.0}),
        ("linear", 0, {0: 1.0, 5: 0.5, 9: 0.1, 10: 0.0}),
        ("linear", 2, {0: 0.0, 1: 0.5, 2: 1.0, 6: 0.5, 10: 0.0}),
        ("cosine", 0, {0: 1.0, 5: 0.5, 10: 0.0, 2: (1 + math.cos(math.pi / 5)) / 2}),
        ("cosine", 2, {0: 0.0, 1: 0.5, 2: 1.0, 4: (1 + math.cos(math.pi / 4)) / 2, 6: 0.5, 10: 0.0}),
    ],
)
def test_the_learning_rate_at_steps_worked_by_hand(schedule, warmup, expected):
    config = OptimizerConfig(learning_rate=RATE, schedule=schedule, warmup_steps=warmup)
    rate = make_schedule(config, total_steps=10)
    for step, share in expected.items():
        assert float(rate(step)) == pytest.approx(RATE * share, abs=1e-7), step


def test_a_warm_up_longer_than_the_run_is_refused():
    config = OptimizerConfig(warmup_steps=10)
    with pytest.raises(ConfigError, match="warmup_steps is 10, but the run has only 10 steps"):
        make_optimizer(config, total_steps=10)


@pytest.mark.parametrize(
    ("name", "first_update"),
    [
        # the first update by a gradient of 4 and of -0.5, from each method's own formula
        ("sgd", lambda g: -RATE * g),
        ("adam", lambda g: -RATE * math.copysign(1, g)),  # m̂ / √v̂ = g / |g|
        ("adamw", lambda g: -RATE * math.copysign(1, g)),
        ("lion", lambda g: -RATE * math.copysign(1, g)),
        ("adagrad", lambda g: -RATE * g / math.sqrt(0.1 + g * g)),  # Optax starts the sum of squares at 0.1
    ],
)
def test_the_first_update_of_each_optimizer(name, first_update):
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=RATE), total_steps=10)
    params = {"items": {"weight": jnp.array([[1.0, 2.0]])}}
    gradient = {"items": {"weight": jnp.array([[4.0, -0.5]])}}
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(update["items"]["weight"][0], [first_update(4.0), first_update(-0.5)], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "adagrad"])
def test_each_optimizer_lowers_a_loss(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=0.1), total_steps=40)
    target = jnp.array([[0.5, -1.0, 0.25]])

    def loss(params):
        return jnp.sum(jnp.square(params["items"]["weight"] - target))

    @jax.jit
    def step(params, state):
        update, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, update), state

    params = {"items": {"weight": jnp.zeros((1, 3))}}
    state = optimizer.init(params)
    for _ in range(40):
        params, state = step(params, state)
    assert float(loss(params)) < 0.1 * float(jnp.sum(jnp.square(target)))


def test_weight_decay_leaves_out_biases_norms_and_positions():
    params = jax.tree.map(jnp.asarray, tiny_params("sasrec"))
    decay = 0.5
    optimizer = make_optimizer(OptimizerConfig(learning_rate=RATE, weight_decay=decay), total_steps=10)
    update, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    names = {
        jax.tree_util.keystr(path, simple=True, separator="."): (old, np.asarray(change))
        for (path, old), change in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(update), strict=True
        )
    }
    kept = {name for name in names if name.endswith((".bias", ".scale")) or name == "events.positions"}
    assert len(kept) >= 9
    assert {name for name, (_, change) in names.items() if not change.any()} == kept
    for name in names.keys() - kept:
        old, change = names[name]
        np.testing.assert_allclose(change, -RATE * decay * np.asarray(old), rtol=1e-5, err_msg=name)


def test_clipping_shortens_only_gradients_that_are_too_long():
    optimizer = make_optimizer(OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0, clip_norm=1.0), total_steps=10)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    long = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}  # of norm 5
    short = {"a": jnp.array([0.3, 0.0]), "b": jnp.array([0.4])}
    for gradient, factor in ((long, 0.2), (short, 1.0)):
        update, _ = optimizer.update(gradient, optimizer.init(params), params)
        jax.tree.map(lambda u, g, f=factor: np.testing.assert_allclose(u, -f * g, rtol=1e-6), update, gradient)


def test_the_first_state_owns_its_arrays():
    params = {"a": jnp.ones(3)}
    optimizer = make_optimizer(OptimizerConfig(), total_steps=10)
    state = init_state(params, optimizer, with_average=True)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in (params["a"], state.params["a"], state.average["a"])}
    assert len(pointers) == 3
    assert int(state.step) == 0
    assert evaluated_params(state) is state.average
    assert evaluated_params(init_state(params, optimizer, with_average=False)) is not params
