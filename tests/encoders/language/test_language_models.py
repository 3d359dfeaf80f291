"""Language models against PyTorch's transformers; golden/make_language.py says how the files were made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.encoders.language import LanguageConfig, hidden_states, read_language_config, read_weights
from seqrec_jax.errors import ShapeError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "language"
FAMILIES = ("bert", "roberta", "gpt2", "llama", "qwen2", "qwen3")
DECODERS = FAMILIES[2:]


class Model(NamedTuple):
    """Configuration, parameters, a compiled forward pass, and what is expected of it."""

    config: LanguageConfig
    params: dict
    apply: Callable[..., jax.Array]
    expected: dict[str, np.ndarray]


@functools.cache
def model(family: str) -> Model:
    config = read_language_config(GOLDEN / family)
    params = read_weights(GOLDEN / family, config).params
    apply = jax.jit(functools.partial(hidden_states, config=config), static_argnames="checkpoint_layers")
    return Model(config, params, apply, dict(np.load(GOLDEN / family / "expected.npz")))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family):
    _, params, apply, expected = model(family)
    token_ids, mask = np.array(expected["token_ids"]), expected["mask"]
    states = apply(params, token_ids, mask)
    noisy = apply(params, np.where(mask, token_ids, 7), mask)
    np.testing.assert_allclose(np.asarray(noisy)[mask], np.asarray(states)[mask], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_never_looks_ahead_and_a_bidirectional_model_does(family):
    config, params, _, _ = model(family)
    mask = jnp.ones((1, 6), bool)
    embeddings = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, config.width)), jnp.float32)

    def one_state(embeddings, place):
        states = hidden_states(params, None, mask, config=config, embeddings=embeddings)
        return jnp.sum(jnp.take(states[0], place, axis=0) * jnp.arange(config.width, dtype=jnp.float32))

    gradients = jax.jit(jax.vmap(jax.grad(one_state), in_axes=(None, 0)))(embeddings, jnp.arange(6))
    reached = np.abs(np.asarray(gradients)[:, 0]).sum(-1) > 0  # [state, input]
    np.testing.assert_array_equal(reached, np.tri(6, dtype=bool) if family in DECODERS else np.ones((6, 6), bool))


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_vectors_can_stand_in_for_tokens(family):
    _, params, apply, expected = model(family)
    embeddings = params["embeddings"]["tokens"][expected["token_ids"]]
    states = apply(params, None, expected["mask"], embeddings=embeddings)
    np.testing.assert_allclose(states, apply(params, expected["token_ids"], expected["mask"]), atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_positions_can_be_given(family):
    _, params, apply, expected = model(family)
    token_ids, mask = expected["token_ids"][:1], expected["mask"][:1]
    columns = np.arange(9, dtype=np.int32)[None]
    states = apply(params, token_ids, mask)
    np.testing.assert_allclose(apply(params, token_ids, mask, positions=columns), states, atol=1e-6)
    moved = apply(params, token_ids, mask, positions=columns + 5)
    # rotary attention knows distances only
    assert np.allclose(moved, states, atol=1e-4) == (family == "llama")


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_bfloat16_stays_near(family):
    config, _, _, expected = model(family)
    half = read_weights(GOLDEN / family, config, dtype=jnp.bfloat16).params
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    states = jax.jit(functools.partial(hidden_states, config=config))(half, expected["token_ids"], expected["mask"])
    assert states.dtype == jnp.bfloat16
    difference = np.asarray(states, np.float32) - expected["hidden_states"]
    assert np.sqrt(np.mean(difference[expected["mask"]] ** 2)) < 0.03


def test_it_works_under_vmap():
    _, params, apply, expected = model("qwen2")
    states = jax.vmap(lambda ids, mask: apply(params, ids[None], mask[None])[0])(
        expected["token_ids"], expected["mask"]
    )
    np.testing.assert_allclose(states, apply(params, expected["token_ids"], expected["mask"]), atol=1e-5)


def test_an_adapter_beside_a_kernel_is_used():
    _, params, apply, expected = model("llama")
    layer = params["layers"]["0"]
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 2), (2, 16)))
    query = layer["attention"]["query"]

    def with_query(query):
        return params | {
            "layers": params["layers"] | {"0": layer | {"attention": layer["attention"] | {"query": query}}}
        }

    adapted = with_query(query | {"adapter": {"a": a, "b": b, "scale": np.float32(0.1)}})
    merged = with_query({"kernel": query["kernel"] + 0.1 * a @ b})
    inputs = (expected["token_ids"], expected["mask"])
    np.testing.assert_allclose(apply(adapted, *inputs), apply(merged, *inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": None}, "token_ids or embeddings, one of the two"),
        (
            {"mask": np.ones((2, 5), bool)},
            r"token_ids \[B, L\] and mask \[B, L\] must agree, got \(2, 4\) and \(2, 5\)",
        ),
        (
            {"token_ids": np.ones((1, 25), np.int32), "mask": np.ones((1, 25), bool)},
            "positions for 24 tokens, got rows of 25",
        ),
        ({"token_ids": None, "embeddings": np.ones((2, 4, 3), np.float32)}, r"embeddings \[B, L, 16\]"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    config, params, _, _ = model("bert")
    arrays = {"token_ids": np.ones((2, 4), np.int32), "mask": np.ones((2, 4), bool)} | change
    with pytest.raises(ShapeError, match=message):
        hidden_states(params, config=config, **arrays)


def test_kernels_spread_over_devices_give_the_same_states():
    config, _, apply, expected = model("qwen3")
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def put(path, array):
        # what comes out of up, gate, query, key and value is split, and so is what goes into down and output
        ends = ("down.kernel", "attention.output.kernel")
        spec = (("model", None) if path.endswith(ends) else (None, "model")) if path.endswith("kernel") else ()
        return jax.device_put(array, jax.NamedSharding(mesh, jax.P(*spec)))

    params = read_weights(GOLDEN / "qwen3", config, put=put).params
    assert len(params["layers"]["0"]["feed_forward"]["up"]["kernel"].sharding.device_set) == 2
    states = np.asarray(apply(params, expected["token_ids"], expected["mask"]))
    np.testing.assert_allclose(states[expected["mask"]], expected["hidden_states"][expected["mask"]], atol=1e-5)
