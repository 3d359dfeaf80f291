"""Adapters as files: what comes back, and every way in which a file and a base may not fit."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_network import base_params, golden, loss

from seqrec_jax.errors import CheckpointError, MissingExtraError
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.files import load_trained, save_trained
from seqrec_jax.training.adapters.low_rank import attach_adapters, init_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths
from seqrec_jax.training.fingerprint import params_fingerprint

CONFIGS = {
    "lora": FineTuningConfig(mode="lora", targets=("inner",), rank=2, ranks={"inner": 3}, also_train=("outer/bias",)),
    "adalora": FineTuningConfig(mode="adalora", adalora=AdaLoraConfig(initial_rank=4, target_rank=2)),
    "bias": FineTuningConfig(mode="bias"),
}


@pytest.fixture(scope="module")
def base():
    return base_params(golden("lora_sgd"))


def trained_with(base, config, shift=0.5):
    """The two trees after something was learnt."""
    params = base
    if config.mode != "bias":
        params = attach_adapters(base, init_adapters(base, config=config, key=jax.random.key(0)))
    trainable, frozen = partition(params, trainable_paths(params, config))
    return jax.tree.map(lambda leaf: leaf + shift, trainable), frozen


def saved(tmp_path, base, name, shift=0.5):
    path = tmp_path / f"{name}{shift}.safetensors"
    trainable, frozen = trained_with(base, CONFIGS[name], shift)
    save_trained(path, trainable, frozen, config=CONFIGS[name])
    return path, recombine(frozen, trainable)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_trained_comes_back_over_the_same_base(tmp_path, base, name):
    path, expected = saved(tmp_path, base, name)
    assert path.stat().st_size < 2000
    trained, config = load_trained(path, base)
    assert config == CONFIGS[name]
    params = attach_adapters(base, trained)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    assert all(np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, (params, expected)), strict=True))


def test_several_are_loaded_over_one_base_and_exchanged(tmp_path, base):
    arrays = golden("lora_sgd")
    named = {shift: load_trained(saved(tmp_path, base, "lora", shift)[0], base)[0] for shift in (0.1, 0.2)}
    losses = {}
    for shift, trained in named.items():
        params = attach_adapters(base, trained)
        assert params["outer"]["kernel"] is base["outer"]["kernel"]
        losses[shift] = float(loss(params, arrays["inputs"], arrays["targets"]))
        again, _ = load_trained(saved(tmp_path, base, "lora", shift)[0], params | {"outer": base["outer"]})
        assert all(np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, (again, trained)), strict=True))
    assert losses[0.1] != losses[0.2]


def test_arrays_that_are_views_and_of_16_bits_are_written_as_they_are(tmp_path):
    base = {"head": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T, "bias": jnp.ones(2, jnp.bfloat16)}}
    config = FineTuningConfig()
    save_trained(tmp_path / "head", base, {}, config=config)
    trained, _ = load_trained(tmp_path / "head", base)
    np.testing.assert_array_equal(trained["head"]["kernel"], base["head"]["kernel"])
    assert trained["head"]["bias"].dtype == jnp.bfloat16


def test_a_fingerprint_sees_names_types_shapes_and_values():
    base = {"a": {"kernel": np.zeros((2, 3), np.float32)}, "b": np.zeros(1, np.float32)}
    others = [
        {"c": base["a"], "b": base["b"]},
        {"a": {"kernel": np.zeros((3, 2), np.float32)}, "b": base["b"]},
        {"a": {"kernel": np.zeros((2, 3), np.int32)}, "b": base["b"]},
        {"a": {"kernel": np.full((2, 3), 1e-30, np.float32)}, "b": base["b"]},
    ]
    assert len({params_fingerprint(tree) for tree in (base, *others)}) == 5
    assert params_fingerprint(jax.tree.map(jnp.asarray, {"b": base["b"], "a": base["a"]})) == params_fingerprint(base)


def test_a_file_for_another_base_is_refused(tmp_path, base):
    path, _ = saved(tmp_path, base, "lora")
    inner, outer = base["inner"], base["outer"]
    other = {"inner": inner, "outer": outer | {"kernel": outer["kernel"] + 1e-6}}
    with pytest.raises(CheckpointError, match="trained beside other parameters"):
        load_trained(path, other)
    with pytest.raises(CheckpointError, match=r"there is no layer inner .* near it are \['outer'\]"):
        load_trained(path, {"outer": outer})
    with pytest.raises(CheckpointError, match=r"inner/adapter/a is \(6, 3\), .* \(7, 5\) needs \(7, 3\)"):
        load_trained(path, {"inner": inner | {"kernel": jnp.zeros((7, 5))}, "outer": outer})
    with pytest.raises(CheckpointError, match=r"outer/bias is \(4,\), but the base has \(3,\)"):
        load_trained(path, {"inner": inner, "outer": outer | {"bias": jnp.zeros(3)}})
    with pytest.raises(CheckpointError, match="no parameter outer/bias"):
        load_trained(path, {"inner": inner, "outer": {"kernel": outer["kernel"]}})


def test_a_trained_bias_is_no_part_of_the_base(tmp_path, base):
    path, _ = saved(tmp_path, base, "bias")
    fresh = {name: layer | {"bias": layer["bias"] + 9} for name, layer in base.items()}
    load_trained(path, fresh)


def test_what_is_no_file_of_adapters_is_refused(tmp_path, base):
    import safetensors.numpy

    with pytest.raises(CheckpointError, match="there is no file"):
        load_trained(tmp_path / "nowhere", base)
    path, _ = saved(tmp_path, base, "lora")
    whole = path.read_bytes()
    for content in (b"", b"no such thing", whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a safetensors file, or only a part"):
            load_trained(path, base)
    for metadata in (None, {"schema_version": "99", "config": "{}", "base": ""}):
        safetensors.numpy.save_file({"x": np.zeros(1)}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match=r"has schema version (None|99), this version .* reads 1"):
            load_trained(path, base)


def test_without_safetensors_the_extra_is_named(tmp_path, base, monkeypatch):
    path, _ = saved(tmp_path, base, "lora")
    imported = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'seqrec_jax\[language\]'"):
        load_trained(path, base)
