"""Adapters and 8 bits in a language model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.encoders.language import hidden_states, read_language_config, read_weights
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import quantize_base
from seqrec_jax.training.adapters.low_rank import attach_adapters, init_adapters, merge_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "language"
TOKENS = np.arange(1, 13, dtype=np.int32).reshape(2, 6)


def test_a_language_model_computes_with_adapters_as_with_merged_ones():
    config = read_language_config(GOLDEN / "qwen3")
    base = read_weights(GOLDEN / "qwen3", config).params
    lora = FineTuningConfig(mode="lora", targets=("attention/query", "feed_forward"), rank=2)
    attached = attach_adapters(base, init_adapters(base, config=lora, key=jax.random.key(0)))
    trainable, frozen = partition(attached, trainable_paths(attached, lora))
    trainable = jax.tree.map(lambda leaf: leaf + 0.05, trainable)

    @jax.jit
    def states(params):
        return hidden_states(params, TOKENS, jnp.ones(TOKENS.shape, bool), config=config)

    def total(trainable, frozen):
        return jnp.sum(jnp.square(states(recombine(frozen, trainable))))

    plain, adapted = states(base), states(recombine(frozen, trainable))
    assert np.abs(adapted - plain).max() > 1e-3
    np.testing.assert_allclose(states(merge_adapters(recombine(frozen, trainable))), adapted, atol=1e-5)
    quantized = states(quantize_base(base))
    assert 0 < np.abs(quantized - plain).max() < 0.02 * np.abs(plain).max()
    grads = jax.jit(jax.grad(total))(trainable, quantize_base(frozen))
    assert all(np.any(leaf) and np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
