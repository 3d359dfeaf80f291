"""Recurrent and attention encoders against PyTorch; golden/make_golden.py says how the files were made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def one_segment(rows: int, length: int) -> Batch:
    ones = jnp.ones((rows, length), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], ones.shape)
    return Batch(ones, ones, ones, positions, ones, ones, jnp.ones(ones.shape, jnp.float32))


def linear(golden: dict[str, np.ndarray], weight: str, bias: str) -> dict[str, np.ndarray]:
    return {"kernel": golden[weight].T, "bias": golden[bias]}


def norm(golden: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": golden[f"{name}.weight"], "bias": golden[f"{name}.bias"]}


def recurrent_params(golden: dict[str, np.ndarray]) -> dict:
    return {
        f"layer_{n}": {
            "inputs": linear(golden, f"weight_ih_l{n}", f"bias_ih_l{n}"),
            "recurrent": linear(golden, f"weight_hh_l{n}", f"bias_hh_l{n}"),
        }
        for n in range(2)
    }


def attention_params(golden: dict[str, np.ndarray]) -> dict:
    params = {}
    for n in range(2):
        torch = f"layers.{n}"
        attention = f"{torch}.self_attn"
        params[f"block_{n}"] = {
            "attention_norm": norm(golden, f"{torch}.norm1"),
            "attention": {
                "queries_keys_values": linear(golden, f"{attention}.in_proj_weight", f"{attention}.in_proj_bias"),
                "output": linear(golden, f"{attention}.out_proj.weight", f"{attention}.out_proj.bias"),
            },
            "feed_forward_norm": norm(golden, f"{torch}.norm2"),
            "feed_forward": {
                "inner": linear(golden, f"{torch}.linear1.weight", f"{torch}.linear1.bias"),
                "outer": linear(golden, f"{torch}.linear2.weight", f"{torch}.linear2.bias"),
            },
        }
    if "norm.weight" in golden:
        params["norm"] = norm(golden, "norm")
    return params


CASES = {
    "gru": (EncoderConfig(kind="gru", width=8), recurrent_params),
    "lstm": (EncoderConfig(kind="lstm", width=8), recurrent_params),
    "transformer_pre_gelu": (EncoderConfig(width=8, feed_forward_multiple=1.5), attention_params),
    "transformer_pre_relu": (
        EncoderConfig(width=8, feed_forward_multiple=1.5, activation="relu"),
        attention_params,
    ),
    "transformer_post_gelu": (
        EncoderConfig(width=8, feed_forward_multiple=1.5, norm="post"),
        attention_params,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_states_and_gradients_equal_pytorch(name: str) -> None:
    config, convert = CASES[name]
    with np.load(GOLDEN / f"{name}.npz") as archive:
        golden = dict(archive)
    encoder = make_encoder(config)
    params = jax.tree.map(jnp.asarray, convert(golden))
    expected_shapes = jax.tree.map(jnp.shape, encoder.init(jax.random.key(0)))
    assert jax.tree.map(jnp.shape, params) == expected_shapes
    inputs = jnp.asarray(golden["inputs"])
    batch = one_segment(*inputs.shape[:2])
    states = jax.jit(encoder.encode)(params, inputs, batch)
    np.testing.assert_allclose(states, golden["outputs"], rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(encoder.encode(params, x, batch) ** 2)))(inputs)
    np.testing.assert_allclose(gradient, golden["gradient"], rtol=1e-4, atol=1e-4)
