"""A base in 8 bits: how far values move, what it weighs, and adapters over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_network import base_params, golden, loss

from seqrec_jax.encoders.linear import linear
from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import dequantize_base, quantize_base
from seqrec_jax.training.adapters.low_rank import attach_adapters, init_adapters, merge_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths

CONFIG = FineTuningConfig(mode="lora", rank=2)


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(40, 30)) * rng.uniform(0.01, 3.0, size=30)
    kernel[:, 7] = 0.0
    kernel, bias = (jnp.asarray(array, jnp.float32) for array in (kernel, rng.normal(size=30)))
    return {"dense": {"kernel": kernel, "bias": bias}, "norm": {"scale": bias}}


def test_no_value_moves_by_more_than_half_a_step_of_its_column(base):
    quantized = quantize_base(base)
    assert quantized["dense"]["kernel_int8"].dtype == jnp.int8
    restored = dequantize_base(quantized)
    assert jax.tree.structure(restored) == jax.tree.structure(base)
    kernel = np.asarray(base["dense"]["kernel"])
    moved = np.abs(restored["dense"]["kernel"] - kernel)
    assert np.all(moved <= np.abs(kernel).max(axis=0) / 254 * (1 + 1e-5))
    assert np.all(restored["dense"]["kernel"][:, 7] == 0)
    assert restored["norm"]["scale"] is base["norm"]["scale"]


def test_a_kernel_takes_a_quarter_of_the_bytes(base):
    def num_bytes(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree["dense"]))

    assert num_bytes(quantize_base(base)) == 40 * 30 + 4 * 30 + 4 * 30
    assert num_bytes(base) == 4 * 40 * 30 + 4 * 30


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_layer_multiplies_by_what_the_numbers_stand_for(base, dtype):
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5, 40)), dtype)
    dense = jax.tree.map(
        lambda leaf: leaf if leaf.dtype == jnp.int8 else leaf.astype(dtype), quantize_base(base)["dense"]
    )
    outputs = jax.jit(linear)(dense, inputs)
    assert outputs.dtype == dtype
    expected = linear(dequantize_base({"dense": dense})["dense"], inputs)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(
        outputs.astype(jnp.float32), expected.astype(jnp.float32), rtol=tolerance, atol=20 * tolerance
    )


def test_adapters_are_trained_over_it_and_merged_into_it():
    arrays = golden("lora_sgd")
    base = quantize_base(base_params(arrays), patterns=("inner",))
    assert "kernel" in base["outer"] and "kernel" not in base["inner"]
    params = attach_adapters(base, init_adapters(base, config=CONFIG, key=jax.random.key(0)))
    trainable, frozen = partition(params, trainable_paths(params, CONFIG))

    def mean_loss(trainable, forward):
        return loss(forward(recombine(frozen, trainable)), arrays["inputs"], arrays["targets"])

    trainable = jax.tree.map(lambda leaf: leaf + 0.1, trainable)
    results = [jax.jit(jax.value_and_grad(mean_loss), static_argnums=1)(trainable, f) for f in (dict, merge_adapters)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), *results)
    assert "kernel" in merge_adapters(recombine(frozen, trainable))["inner"]


def test_errors(base):
    with pytest.raises(ConfigError, match=r"^patterns has 'dens', which matches no .*near it are \['dense'\]"):
        quantize_base(base, patterns=("dens",))
    with pytest.raises(ConfigError, match="dense/kernel_int8 has 8 bits and cannot be trained; choose lora"):
        trainable_paths(quantize_base(base), FineTuningConfig())
