"""Low-rank adapters: as peft trains them, and what they are made, attached and merged to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_network import base_params, golden, loss, peft_adapters

from seqrec_jax.encoders.linear import linear
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.int8 import quantize_base
from seqrec_jax.training.adapters.low_rank import (
    attach_adapters,
    detach_adapters,
    init_adapters,
    merge_adapters,
    unmerge_adapters,
)
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths

OPTIMIZERS = {"sgd": optax.sgd(0.2), "adam": optax.adam(0.02)}
LORA = FineTuningConfig(mode="lora", rank=2, alpha=4.0, ranks={"outer": 3}, alphas={"outer": 9.0})
ADALORA = FineTuningConfig(mode="adalora", adalora=AdaLoraConfig(initial_rank=4, target_rank=2))


@pytest.fixture(scope="module")
def base():
    return base_params(golden("lora_sgd"))


def trained(base, seed=1):
    """Adapters with random factors in place of those that change nothing."""
    adapters = init_adapters(base, config=ADALORA, key=jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), adapters)


def assert_close(actual, expected, *, atol=1e-6):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=atol), actual, expected)


@pytest.mark.parametrize(("name", "merged"), [("sgd", False), ("adam", True)])
def test_lora_is_trained_as_by_peft_step_by_step(name, merged):
    arrays, optimizer = golden(f"lora_{name}"), OPTIMIZERS[name]
    base = base_params(arrays)
    made = init_adapters(base, config=LORA, key=jax.random.key(0))
    params = attach_adapters(base, recombine(made, peft_adapters(arrays, 0)))
    trainable, frozen = partition(params, trainable_paths(params, LORA))
    state = optimizer.init(trainable)

    @jax.jit
    def step(trainable, state):
        def mean_loss(trainable):
            params = recombine(frozen, trainable)
            return loss(merge_adapters(params) if merged else params, arrays["inputs"], arrays["targets"])

        value, grads = jax.value_and_grad(mean_loss)(trainable)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, trainable)
            return value, optax.apply_updates(trainable, updates), state

    for number, expected in enumerate(arrays["losses"]):
        value, trainable, state = step(trainable, state)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5)
        assert_close(trainable, peft_adapters(arrays, number + 1), atol=1e-5)


@pytest.mark.parametrize("config", [LORA, ADALORA])
def test_new_adapters_change_nothing(base, config):
    arrays = golden("lora_sgd")
    params = attach_adapters(base, init_adapters(base, config=config, key=jax.random.key(0)))
    value, expected = (loss(tree, arrays["inputs"], arrays["targets"]) for tree in (params, base))
    assert value == expected
    assert_close(merge_adapters(params), base, atol=0)


def test_a_new_lora_adapter_is_uniform_within_the_bound_of_a_linear_layer():
    base = {"wide": {"kernel": jnp.zeros((100, 30))}}
    [adapter] = init_adapters(
        base, config=FineTuningConfig(mode="lora", rank=64, alpha=32.0), key=jax.random.key(0)
    ).values()
    a = np.asarray(adapter["adapter"]["a"])
    assert a.shape == (100, 64) and adapter["adapter"]["b"].shape == (64, 30)
    assert np.abs(a).max() <= 0.1 and np.abs(a).max() > 0.099
    np.testing.assert_allclose(a.std(), 0.1 / np.sqrt(3), rtol=0.02)
    assert adapter["adapter"]["scale"] == 0.5


def test_a_new_adalora_adapter_is_normal_with_zero_singular_values():
    base = {"wide": {"kernel": jnp.zeros((200, 100))}}
    config = FineTuningConfig(mode="adalora", adalora=AdaLoraConfig(initial_rank=50))
    adapter = init_adapters(base, config=config, key=jax.random.key(0))["wide"]["adapter"]
    for name in ("a", "b"):
        np.testing.assert_allclose(np.std(adapter[name]), 0.02, rtol=0.03)
    assert not np.any(adapter["singular"]) and adapter["singular"].shape == (50,)
    assert not np.allclose(adapter["a"][:100], adapter["b"].T)


def test_targets_ranks_and_alphas_go_by_pattern():
    kernels = {"query": {"kernel": jnp.zeros((3, 4))}, "output": {"kernel": jnp.zeros((4, 3))}}
    base = {"layers": {str(n): {"attention": kernels, "norm": {"scale": jnp.ones(3)}} for n in range(2)}}
    config = FineTuningConfig(
        mode="lora",
        targets=("attention/query", "layers/1/*/output"),
        rank=2,
        alpha=2.0,
        ranks={"layers/1": 3, "output": 4},
        alphas={"output": 1.0},
    )
    layers = init_adapters(base, config=config, key=jax.random.key(0))["layers"]
    assert "output" not in layers["0"]["attention"] and "norm" not in layers["0"]
    found = {
        (number, name): (layer["adapter"]["a"].shape[1], float(layer["adapter"]["scale"]))
        for number in layers
        for name, layer in layers[number]["attention"].items()
    }
    assert found == {("0", "query"): (2, 1.0), ("1", "query"): (3, pytest.approx(2 / 3)), ("1", "output"): (4, 0.25)}
    a, b = (layers[number]["attention"]["query"]["adapter"]["a"] for number in "01")
    assert not np.allclose(a[:, :2], b[:, :2])


def test_a_merged_network_computes_as_with_the_adapters_beside_it(base):
    arrays, adapters = golden("lora_sgd"), trained(base)
    attached = attach_adapters(base, adapters)
    merged = merge_adapters(attached)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_allclose(
        *(loss(tree, arrays["inputs"], arrays["targets"]) for tree in (merged, attached)), rtol=1e-5
    )
    adapter = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), adapters["inner"]["adapter"])
    by_hand = base["inner"]["kernel"] + adapter["scale"] * adapter["a"] @ np.diag(adapter["singular"]) @ adapter["b"]
    np.testing.assert_allclose(merged["inner"]["kernel"], by_hand, rtol=1e-5, atol=1e-5)
    assert_close(unmerge_adapters(merged, adapters), base, atol=3e-6)


def test_detaching_gives_back_what_was_attached(base):
    adapters = trained(base)
    detached = detach_adapters(attach_adapters(base, adapters))
    for actual, expected in zip(detached, (base, adapters), strict=True):
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        assert all(one is other for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True))


def test_several_adapters_share_one_base(base):
    arrays = golden("lora_sgd")
    named = {name: trained(base, seed) for seed, name in enumerate(("shop", "news"))}
    params = {name: attach_adapters(base, adapters) for name, adapters in named.items()}
    assert params["shop"]["inner"]["kernel"] is params["news"]["inner"]["kernel"] is base["inner"]["kernel"]
    losses = [loss(tree, arrays["inputs"], arrays["targets"]) for tree in params.values()]
    assert losses[0] != losses[1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *named.values())
    together = jax.vmap(lambda adapters: loss(attach_adapters(base, adapters), arrays["inputs"], arrays["targets"]))(
        stacked
    )
    np.testing.assert_allclose(together, losses, rtol=1e-5)


def test_a_merge_passes_the_gradient_that_the_attached_adapters_get(base):
    arrays, adapters = golden("lora_sgd"), trained(base)

    def of(forward):
        return lambda adapters: loss(forward(attach_adapters(base, adapters)), arrays["inputs"], arrays["targets"])

    grads = [jax.jit(jax.grad(of(forward)))(adapters) for forward in (merge_adapters, lambda params: params)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), *grads)


@pytest.mark.parametrize("prepare", [lambda base: base, quantize_base])
def test_adapters_of_32_bits_are_trained_over_a_base_of_16(base, prepare):
    half = prepare(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base))
    inputs = jnp.ones((2, 6), jnp.bfloat16)

    def total(adapters):
        outputs = linear(attach_adapters(half, adapters)["inner"], inputs)
        assert outputs.dtype == jnp.bfloat16
        return jnp.sum(outputs.astype(jnp.float32))

    grads = jax.jit(jax.grad(total))(trained(base))
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    assert np.any(grads["inner"]["adapter"]["a"])


def test_errors_name_the_layer_and_what_is_near(base):
    adapters = init_adapters(base, config=LORA, key=jax.random.key(0))
    with pytest.raises(ConfigError, match=r"targets has 'iner', which matches no layer with a kernel; near .*inner"):
        init_adapters(base, config=FineTuningConfig(mode="lora", targets=("iner",)), key=jax.random.key(0))
    with pytest.raises(ConfigError, match="ranks has 'outer', which matches no targeted layer"):
        config = FineTuningConfig(mode="lora", targets=("inner",), ranks={"outer": 3})
        init_adapters(base, config=config, key=jax.random.key(0))
    with pytest.raises(ConfigError, match="no layer with a kernel"):
        init_adapters({"norm": {"scale": jnp.ones(2)}}, config=FineTuningConfig(mode="lora"), key=jax.random.key(0))
    with pytest.raises(ConfigError, match="mode bias has no adapters"):
        init_adapters(base, config=FineTuningConfig(mode="bias"), key=jax.random.key(0))
    with pytest.raises(ConfigError, match="no layer inner with a kernel"):
        attach_adapters({"outer": base["outer"]}, adapters)
    with pytest.raises(ConfigError, match="inner has an adapter"):
        attach_adapters(attach_adapters(base, adapters), adapters)
    with pytest.raises(ConfigError, match=r"inner must have a, b, scale .*, found \['a', 'b'\]"):
        attach_adapters(base, peft_adapters(golden("lora_sgd"), 0))
    with pytest.raises(ConfigError, match=r"no parameter outer/bais; near it are \['outer/bias'"):
        attach_adapters(base, {"outer": {"bais": base["outer"]["bias"]}})
    with pytest.raises(ShapeError, match=r"outer/bias is \(5,\), but the base has \(4,\) there"):
        attach_adapters(base, {"outer": {"bias": base["inner"]["bias"]}})
    odd = {"a": jnp.ones((6, 2)), "b": jnp.float32(1), "scale": jnp.float32(1)}
    with pytest.raises(ShapeError, match=r"inner/adapter/a is \(6, 2\), but .* needs \(6, 0\)"):
        attach_adapters(base, {"inner": {"adapter": odd}})
    wrong = {"inner": {"adapter": adapters["outer"]["adapter"]}}
    with pytest.raises(ShapeError, match=r"inner/adapter/a is \(5, 3\), but its kernel \(6, 5\) needs \(6, 3\)"):
        attach_adapters(base, wrong)
