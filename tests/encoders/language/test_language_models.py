"""Language models against PyTorch's transformers; golden/make_language.py says how the files were made."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.encoders.language import hidden_states, read_language_config, read_weights
from seqrec_jax.errors import ShapeError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "language"
FAMILIES = ("bert", "roberta", "gpt2", "llama", "qwen2", "qwen3")
DECODERS = FAMILIES[2:]


@functools.cache
def model(family: str):
    """Configuration, parameters, a compiled forward pass, and what is expected of it."""
    config = read_language_config(GOLDEN / family)
    params = read_weights(GOLDEN / family, config).params
    apply = jax.jit(functools.partial(hidden_states, config=config), static_argnames="checkpoint_layers")
    return config, params, apply, dict(np.load(GOLDEN / family / "expected.npz"))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(family):
    _, params, apply, expected = model(family)
    states = np.asarray(apply(params, expected["token_ids"], expected["mask"]))
    real = expected["mask"]
    np.testing.assert_allclose(states[real], expected["hidden_states"][real], atol=1e-5)
    assert np.isfinite(states).all()


@pytest.mark.parametrize(("family", "part"), [("bert", "query"), ("qwen3", "key")])
@pytest.mark.parametrize("checkpoint_layers", [False, True])
def test_the_gradient_is_that_of_transformers(family, part, checkpoint_layers):
    _, params, apply, expected = model(family)

    def loss(params):
        states = apply(params, expected["token_ids"], expected["mask"], checkpoint_layers=checkpoint_layers)
        return jnp.sum(states * expected["weights"])

    gradient = jax.grad(loss)(params)["layers"]["0"]["attention"][part]["kernel"]
    np.testing.assert_allclose(gradient, expected["gradient"], atol=1e-4, rtol=1e-4)
