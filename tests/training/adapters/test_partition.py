"""Which parameters each mode trains, and the two trees they come in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.low_rank import attach_adapters, init_adapters
from seqrec_jax.training.adapters.partition import describe, partition, recombine, trainable_paths
from seqrec_jax.training.adapters.paths import flat_params, matches, nested_params


def layer() -> dict:
    dense = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
    return {"attention": {"query": dense, "key": dense}, "norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}


@pytest.fixture(scope="module")
def params() -> dict:
    return {
        "text": {"layers": {str(n): layer() for n in range(11)}, "words": jnp.ones((5, 2)), "dropout": {}},
        "encoder": {f"block_{n}": layer() for n in range(2)},
        "head": {"kernel": jnp.ones((3, 1))},
    }


def chosen(params, mode, **fields) -> list[str]:
    return trainable_paths(params, FineTuningConfig(mode=mode, **fields))


def test_whole_trains_all(params):
    assert len(chosen(params, "whole")) == len(jax.tree.leaves(params))
    of_text = chosen(params, "whole", targets=("text",), also_train=("head",))
    assert len(of_text) == 6 * 11 + 2 and "head/kernel" in of_text


def test_last_layers_are_the_highest_numbers_of_each_stack(params):
    paths = chosen(params, "last_layers", num_layers=2)
    stacks = {"/".join(path.split("/")[: 3 if path.startswith("text") else 2]) for path in paths}
    assert stacks == {"text/layers/9", "text/layers/10", "encoder/block_0", "encoder/block_1"}
    assert len(paths) == 4 * 6
    assert {path.split("/")[1] for path in chosen(params, "last_layers", targets=("encoder",))} == {"block_1"}


def test_bias_trains_what_is_called_bias(params):
    paths = chosen(params, "bias", targets=("text/layers/10", "encoder"), also_train=("words",))
    assert len(paths) == 3 * 3 + 1
    assert {path.rpartition("/")[2] for path in paths} == {"bias", "words"}


def test_lora_trains_the_factors_and_what_is_named(params):
    config = FineTuningConfig(mode="lora", targets=("text/*/*/attention/query",), rank=1, also_train=("head",))
    attached = attach_adapters(params, init_adapters(params, config=config, key=jax.random.key(0)))
    paths = trainable_paths(attached, config)
    assert len(paths) == 11 * 2 + 1
    assert "text/layers/3/attention/query/adapter/a" in paths and "text/layers/3/attention/query/kernel" not in paths
    assert not any(path.endswith("/scale") for path in paths)


@pytest.mark.parametrize("mode", ["whole", "last_layers", "bias"])
def test_two_trees_make_the_one_they_came_from(params, mode):
    trainable, frozen = partition(params, chosen(params, mode))
    assert len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(params))
    for whole in (recombine(frozen, trainable), recombine(trainable, frozen)):
        assert jax.tree.structure(whole) == jax.tree.structure(params)
        assert all(one is other for one, other in zip(*map(jax.tree.leaves, (whole, params)), strict=True))


def test_the_frozen_get_neither_gradient_nor_optimizer_state(params):
    trainable, frozen = partition(params, chosen(params, "bias"))

    @jax.jit
    def grads_of(trainable, frozen):
        def total(trainable):
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(recombine(frozen, trainable)))

        return jax.grad(total)(trainable)

    grads = grads_of(trainable, frozen)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable)
    moments = optax.adam(0.1).init(trainable)[0].mu
    assert {path.rpartition("/")[2] for path in flat_params(moments)} == {"bias"}


def test_description_counts_by_hand():
    params = {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}
    trainable, frozen = partition(params, ["bias"])
    summary = describe(trainable, frozen, optimizer=optax.adam(0.1))
    assert summary == (25, 5, 0.2, 100, 2 * 5 * 4 + 4)
    assert str(summary) == "5 of 25 parameters are trained (20.00%); parameters 0.0 MB, optimizer 0.0 MB"


def test_a_pattern_goes_name_by_name():
    path = "text/layers/0/attention/query/kernel"
    for pattern in ("text", "attention/query", "layers/*/attention", "q*y", "/kernel/", path):
        assert matches(pattern, path)
    for pattern in ("tex", "attention/key", "layers/attention", "layers/*/query", "quer"):
        assert not matches(pattern, path)


def test_flat_and_nested_are_inverse(params):
    assert jax.tree.structure(nested_params(flat_params(params))) == jax.tree.structure(params)
    assert nested_params(flat_params(params))["text"]["dropout"] == {}
    for bad in ({"a/b": 1}, {0: 1}, {"a": {"b/c": np.zeros(1)}}):
        with pytest.raises(ConfigError, match="string keys without a slash"):
            flat_params(bad)


def test_what_matches_nothing_is_an_error_that_lists_near_paths(params):
    with pytest.raises(ConfigError, match=r"targets has 'atention/query', which .*near it are .*attention/query"):
        chosen(params, "whole", targets=("atention/query",))
    with pytest.raises(ConfigError, match=r"also_train has 'heads', .*head/kernel"):
        chosen(params, "bias", also_train=("heads",))
    with pytest.raises(ConfigError, match=r"mode is bias, but there is no bias at \('head',\)"):
        chosen(params, "bias", targets=("head",))
    with pytest.raises(ConfigError, match="mode is last_layers, but there is no numbered layer"):
        chosen(params, "last_layers", targets=("words",))
    with pytest.raises(ConfigError, match="num_layers is 12, but there are only 11"):
        chosen(params, "last_layers", num_layers=12)
    with pytest.raises(ConfigError, match="num_layers is 3, but there are only 2"):
        chosen(params, "last_layers", num_layers=3, targets=("encoder",))
    with pytest.raises(ConfigError, match="attach adapters first"):
        chosen(params, "lora")
