"""Fine-tuning in a training run: what moves, what stands still, and models over parameters with adapters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrec_jax.data.batches import history_batch
from seqrec_jax.encoders.linear import linear
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import id_table
from seqrec_jax.training.adapters.adalora import orthogonality_loss
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.low_rank import merge_adapters
from seqrec_jax.training.adapters.paths import flat_params
from seqrec_jax.training.adapters.wiring import (
    add_adapters,
    fine_tuning_optimizer,
    merge_where_unread,
    with_adapters,
)
from seqrec_jax.training.checkpoints import load_params
from seqrec_jax.training.config import OptimizerConfig
from seqrec_jax.training.loop import train
from seqrec_jax.training.state import make_optimizer
from tests.training.tiny_training import (
    CONFIG,
    FIRST_TIMESTAMP,
    LENGTH,
    NUM_ITEMS,
    tiny_data,
    tiny_model,
    tiny_params,
    tiny_sequences,
)

LORA = FineTuningConfig(mode="lora", targets=("encoder", "language"), rank=2, also_train=("head",))


def tree(key: int = 0) -> dict:
    names = ("encoder", "language", "items", "head")
    keys = jax.random.split(jax.random.key(key), len(names))
    return {
        name: {"kernel": jax.random.normal(k, (3, 3)), "bias": jnp.ones(3)} for name, k in zip(names, keys, strict=True)
    }


def forward(params: dict, x: jax.Array) -> jax.Array:
    for name in ("encoder", "language", "items", "head"):
        x = jnp.tanh(linear(params[name], x))
    return x


def adam() -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(name="adam", learning_rate=0.1), total_steps=10)


def moved(config: FineTuningConfig, *, steps: int = 3) -> tuple[dict, dict, optax.OptState]:
    params = add_adapters(tree(), config, key=jax.random.key(1))
    optimizer = fine_tuning_optimizer(adam(), config, total_steps=steps)
    state, now = optimizer.init(params), params
    for _ in range(steps):
        grads = jax.grad(lambda params: jnp.sum(forward(params, jnp.ones((2, 3))) ** 2))(now)
        updates, state = optimizer.update(grads, state, now)
        now = optax.apply_updates(now, updates)
    return flat_params(params), flat_params(now), state


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LORA, {f"{n}/adapter/{p}" for n in ("encoder", "language") for p in "ab"} | {"head/kernel", "head/bias"}),
        (FineTuningConfig(mode="bias"), {f"{name}/bias" for name in tree()}),
        (FineTuningConfig(targets=("items",)), {"items/kernel", "items/bias"}),
    ],
)
def test_only_what_is_trained_moves_and_has_a_state(config, expected):
    before, after, state = moved(config)
    changed = {path for path, leaf in before.items() if np.any(np.asarray(leaf) != np.asarray(after[path]))}
    assert changed == expected
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert numbers == 2 * sum(before[path].size for path in expected)


def test_gradients_of_what_stands_still_are_not_computed():
    """The compiled update has no product of the size of a frozen kernel's gradient."""
    config = FineTuningConfig(mode="bias", targets=("head",))
    params = {name: {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)} for name in ("encoder", "head")}
    optimizer = fine_tuning_optimizer(optax.sgd(0.1), config, total_steps=1)

    def loss(params):
        return jnp.sum(jnp.tanh(linear(params["head"], linear(params["encoder"], jnp.ones((2, 64))))))

    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step).lower(params, optimizer.init(params)).compile()
    costs = compiled.cost_analysis()
    forward_products = 2 * 2 * (2 * 64 * 64)
    assert costs["flops"] < 1.5 * forward_products  # whole training has three times as many


def test_adapters_are_merged_but_where_layers_read_them():
    params = add_adapters(tree(), LORA, key=jax.random.key(1))
    params["encoder"]["adapter"]["b"] = params["language"]["adapter"]["b"] = jnp.ones((2, 3))
    merged = merge_where_unread(params)
    assert "adapter" in merged["language"] and "adapter" not in merged["encoder"]
    x = jnp.linspace(-1, 1, 6).reshape(2, 3)
    np.testing.assert_allclose(forward(merged, x), forward(params, x), rtol=1e-5)
    np.testing.assert_allclose(forward(merge_adapters(params), x), forward(params, x), rtol=1e-5)


def test_the_orthogonality_of_adalora_comes_in_by_its_gradient():
    config = FineTuningConfig(mode="adalora", adalora=AdaLoraConfig(initial_rank=2, target_rank=1))
    params = add_adapters(tree(), config, key=jax.random.key(1))
    optimizer = fine_tuning_optimizer(optax.sgd(1.0), config, total_steps=50)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    factors = {path: leaf for path, leaf in flat_params(params).items() if "adapter" in path}
    expected = flat_params(jax.grad(orthogonality_loss)(params))
    for path in factors:
        if path[-2:] in ("/a", "/b"):
            np.testing.assert_allclose(flat_params(updates)[path], -0.5 * expected[path], rtol=1e-4, atol=1e-6)


def test_a_sequence_model_is_trained_by_adapters_alone(tmp_path):
    """Fresh adapters change nothing; a run changes only them, and its checkpoint is of the model over them."""
    config = FineTuningConfig(mode="lora", targets=("encoder",), rank=2)
    model = with_adapters(tiny_model("sasrec", dropout=0.0), config)
    params = add_adapters(tiny_params("sasrec"), config, key=jax.random.key(0))
    table = id_table(NUM_ITEMS)
    batch = jax.tree.map(jnp.asarray, history_batch(tiny_sequences(8), length=LENGTH, first_timestamp=FIRST_TIMESTAMP))
    np.testing.assert_array_equal(
        model.encode(params, table, batch),
        tiny_model("sasrec", dropout=0.0).encode(tiny_params("sasrec"), table, batch),
    )
    run_config = replace(CONFIG, max_epochs=1, fine_tuning=config)
    train(model, params, tiny_data(), table, config=run_config, length=LENGTH, directory=tmp_path, show_progress=False)
    trained, _ = load_params(model, tmp_path)
    before, after = flat_params(params), flat_params(trained)
    changed = {path for path in before if np.any(np.asarray(before[path]) != np.asarray(after[path]))}
    assert changed == {path for path in before if path.endswith(("adapter/a", "adapter/b"))} != set()


def test_patterns_that_match_nothing_are_refused():
    with pytest.raises(ConfigError, match="encodr"):
        add_adapters(tree(), replace(LORA, targets=("encodr",)), key=jax.random.key(0))
    assert with_adapters(tiny_model(), FineTuningConfig()) is tiny_model()


def test_an_int8_base_without_a_language_model_is_refused():
    config = FineTuningConfig(mode="lora", rank=2, base_bits=8)
    with pytest.raises(ConfigError, match=r"base_bits is 8, .* and the model has no language model; leave it out"):
        add_adapters({"encoder": {"query": {"kernel": jnp.ones((4, 4))}}}, config, key=jax.random.key(0))
