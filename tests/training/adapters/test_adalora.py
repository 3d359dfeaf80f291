"""AdaLoRA: step by step as peft does it, and its parts by hand."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_network import LAYERS, base_params, golden, loss, peft_adapters

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.adalora import (
    adalora_step,
    adapter_ranks,
    init_adalora,
    orthogonality_loss,
    rank_budget,
    with_adalora,
)
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.low_rank import attach_adapters, init_adapters, merge_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths

STEPS = 30  # this and the schedule as in golden/make_adapters.py
SCHEDULE = AdaLoraConfig(
    initial_rank=4,
    target_rank=2,
    warmup_steps=5,
    final_steps=8,
    interval=3,
    beta1=0.85,
    beta2=0.8,
    orthogonality=0.3,
)
CONFIG = FineTuningConfig(mode="adalora", alpha=8.0, adalora=SCHEDULE)


def start(name: str):
    """Golden arrays, and the two trees before the first step."""
    arrays = golden(name)
    base = base_params(arrays)
    made = init_adapters(base, config=CONFIG, key=jax.random.key(0))
    params = attach_adapters(base, recombine(made, peft_adapters(arrays, 0)))
    return arrays, *partition(params, trainable_paths(params, CONFIG))


def make_step(optimizer, arrays, *, merged=False):
    @jax.jit
    def step(trainable, frozen, state):
        def mean_loss(trainable):
            params = recombine(frozen, trainable)
            value = loss(merge_adapters(params) if merged else params, arrays["inputs"], arrays["targets"])
            return value + SCHEDULE.orthogonality * orthogonality_loss(trainable)

        value, grads = jax.value_and_grad(mean_loss)(trainable)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, trainable)
            return value, optax.apply_updates(trainable, updates), state

    return step


@pytest.mark.parametrize(
    ("name", "inner", "merged"), [("sgd", optax.sgd(0.2), False), ("adam", optax.adam(0.02), True)]
)
def test_it_is_trained_as_by_peft_step_by_step(name, inner, merged):
    arrays, trainable, frozen = start(f"adalora_{name}")
    optimizer = with_adalora(inner, config=SCHEDULE, total_steps=STEPS)
    state, step = optimizer.init(trainable), make_step(optimizer, arrays, merged=merged)
    for number, expected in enumerate(arrays["losses"]):
        value, trainable, state = step(trainable, frozen, state)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5),
            trainable,
            peft_adapters(arrays, number + 1),
        )
        for layer in LAYERS:
            np.testing.assert_array_equal(
                state.ranks.kept[layer]["adapter"]["singular"], arrays[f"mask.{layer}.lora_E.default"][number]
            )
    ranks = adapter_ranks(state.ranks)
    assert set(ranks) == set(LAYERS) and sum(ranks.values()) == 2 * SCHEDULE.target_rank
    assert step._cache_size() == 1


def test_the_optimizer_does_what_a_step_after_each_update_does():
    arrays, trainable, frozen = start("adalora_sgd")
    inner = optax.sgd(0.2)
    together = with_adalora(inner, config=SCHEDULE, total_steps=STEPS)
    step_together, step_plain = make_step(together, arrays), make_step(inner, arrays)
    state, ranks, plain = together.init(trainable), init_adalora(trainable), inner.init(trainable)
    other = trainable

    @jax.jit
    def allocate(ranks, before, after):
        grads = jax.tree.map(lambda old, new: (old - new) / 0.2, before, after)
        return adalora_step(ranks, after, grads, config=SCHEDULE, total_steps=STEPS)

    for _ in range(STEPS):
        _, trainable, state = step_together(trainable, frozen, state)
        _, moved, plain = step_plain(other, frozen, plain)
        ranks, other = allocate(ranks, other, moved)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), trainable, other)


def by_hand(state: dict, values: dict, grads: dict, config: AdaLoraConfig) -> dict:
    """One measurement and the scores of a layer's triplets, in plain loops."""
    for name, value in values.items():
        product = np.abs(value * grads[name])
        mean = config.beta1 * state[name][0] + (1 - config.beta1) * product
        state[name] = (mean, config.beta2 * state[name][1] + (1 - config.beta2) * np.abs(product - mean))
    scores = []
    for r in range(len(values["singular"])):
        parts = {name: mean * spread for name, (mean, spread) in state.items()}
        scores.append(parts["singular"][r] + np.mean(parts["a"][:, r]) + np.mean(parts["b"][r]))
    return dict(enumerate(scores))


def test_the_least_important_triplets_of_all_layers_are_cut():
    rng = np.random.default_rng(0)
    config = AdaLoraConfig(initial_rank=3, target_rank=1, final_steps=1)
    shapes = {"a": (4, 3), "b": (3, 2), "singular": (3,)}

    def draw():
        return {n: {"adapter": {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}} for n in "xy"}

    trainable = draw() | {"head": {"kernel": np.ones(2, np.float32)}}
    state, step_of = init_adalora(trainable), jax.jit(partial(adalora_step, config=config, total_steps=4))
    hand = {n: dict.fromkeys(shapes, (0.0, 0.0)) for n in "xy"}
    for step in (1, 2):
        grads = draw() | {"head": {"kernel": np.ones(2, np.float32)}}
        scores = {n: by_hand(hand[n], trainable[n]["adapter"], grads[n]["adapter"], config) for n in "xy"}
        state, trainable = step_of(state, trainable, grads)
        trainable = jax.tree.map(np.asarray, trainable)
        assert int(state.step) == step
        budget = rank_budget(step, initial=6, target=2, config=config, total_steps=4)
        ranked = sorted(((score, n, r) for n in "xy" for r, score in scores[n].items()), reverse=True)
        kept = {(n, r) for _, n, r in ranked[:budget]}
        assert kept == {(n, int(r)) for n in "xy" for r in np.flatnonzero(state.kept[n]["adapter"]["singular"])}
        assert kept == {(n, int(r)) for n in "xy" for r in np.flatnonzero(trainable[n]["adapter"]["singular"])}
    assert budget < 6 and np.all(trainable["head"]["kernel"] == 1)


def test_the_budget_is_a_cubic_between_warm_up_and_final_steps():
    config = AdaLoraConfig(warmup_steps=2, final_steps=3)
    budgets = [rank_budget(n, initial=20, target=10, config=config, total_steps=15) for n in range(16)]
    middle = [10 + math.floor(10 * (k / 10) ** 3) for k in range(9, 0, -1)]
    assert budgets == [20] * 3 + middle + [10] * 4


def test_orthogonality_by_hand():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    adapter = {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32), "singular": jnp.zeros(2)}
    # aᵀa - I has one entry 3; b bᵀ - I is [[1, 1], [1, 0]]
    expected = (3.0 + math.sqrt(3.0)) / 2
    value_and_grad = jax.jit(jax.value_and_grad(orthogonality_loss))
    np.testing.assert_allclose(value_and_grad({"x": {"adapter": adapter}})[0], expected, rtol=1e-6)
    orthogonal = {"x": {"adapter": {"a": jnp.eye(3, 2), "b": jnp.eye(2), "singular": jnp.zeros(2)}}}
    value, grads = value_and_grad(orthogonal)
    assert value == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def test_it_maps_over_several_runs():
    _, trainable, _ = start("adalora_sgd")
    state = init_adalora(trainable)._replace(step=jnp.int32(5))
    grads = jax.tree.map(jnp.ones_like, trainable)
    step = jax.jit(lambda tree: adalora_step(state, tree, grads, config=SCHEDULE, total_steps=STEPS))
    runs = [jax.tree.map(lambda leaf, sign=sign: leaf + sign, trainable) for sign in (-1.0, 1.0)]
    together = jax.jit(jax.vmap(step))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))
    for number, run in enumerate(runs):
        jax.tree.map(lambda all, one, n=number: np.testing.assert_allclose(all[n], one, rtol=1e-6), together, step(run))


def test_errors():
    _, trainable, _ = start("adalora_sgd")
    state = init_adalora(trainable)
    with pytest.raises(ConfigError, match=r"warmup_steps \(5\) and final_steps \(8\) leave none of the 13 steps"):
        adalora_step(state, trainable, trainable, config=SCHEDULE, total_steps=13)
    with pytest.raises(ConfigError, match="no adapter with singular values"):
        init_adalora({"x": {"kernel": jnp.ones((2, 2))}})
    for fields in (
        {"target_rank": 5},
        {"target_rank": 0},
        {"interval": 0},
        {"warmup_steps": -1},
        {"beta1": 1.0},
        {"orthogonality": -0.1},
    ):
        with pytest.raises(ConfigError, match=next(iter(fields))):
            replace(SCHEDULE, **fields)
