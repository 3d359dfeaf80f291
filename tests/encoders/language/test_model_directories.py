"""Directories of language models: what is read of them, and each way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seqrec_jax.encoders.language import (
    LanguageConfig,
    Pooling,
    load_text_encoder,
    load_tokenizer,
    read_language_config,
    read_pooling,
    read_weights,
)
from seqrec_jax.errors import ConfigError, DataError, MissingExtraError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "language"
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the tiny BERT."""
    return shutil.copytree(GOLDEN / "bert", tmp_path / "bert")


def rewrite(path: Path, **changes: object) -> None:
    """Change or, with None, remove keys of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def read(folder: Path):
    return read_weights(folder, read_language_config(folder))


def test_a_configuration_is_read():
    assert read_language_config(GOLDEN / "bert") == LanguageConfig(
        family="bert", vocab_size=60, width=16, num_layers=2, num_heads=4, num_key_value_heads=4, head_width=4,
        hidden_width=24, max_length=24, norm_epsilon=1e-12, activation="gelu", num_token_types=2,
    )  # fmt: skip
    roberta = read_language_config(GOLDEN / "roberta")
    assert (roberta.position_offset, roberta.max_length, roberta.causal) == (2, 22, False)
    qwen3 = read_language_config(GOLDEN / "qwen3")
    assert (qwen3.num_key_value_heads, qwen3.head_width, qwen3.query_key_value_bias, qwen3.causal) == (
        2,
        6,
        False,
        True,
    )


def test_older_files_name_rotary_positions_otherwise(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "llama")
    new = json.loads((folder / "config.json").read_text(encoding="utf-8"))["rope_parameters"]
    expected = read_language_config(folder)
    scaling = {key: value for key, value in new.items() if key != "rope_theta"}
    rewrite(folder / "config.json", rope_parameters=None, rope_theta=new["rope_theta"], rope_scaling=scaling)
    assert read_language_config(folder) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type is 't5'; supported are bert, roberta, gpt2, llama, qwen2, qwen3"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_act": "swiglu"}, "hidden_act is 'swiglu'; supported are gelu"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; supported is 'absolute'",
        ),
        ({"num_attention_heads": 3}, "a width of 16 does not divide into 3 heads"),
        ({"num_hidden_layers": 0}, "num_layers must be at least 1, got 0"),
    ],
)
def test_a_model_that_is_not_supported_says_so(folder, changes, message):
    rewrite(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        read_language_config(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_sliding_window": True}, "use_sliding_window is True; supported is False"),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rotary scaling 'yarn' is not supported; 'default' and 'llama3' are",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' lacks low_freq_factor"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3"),
    ],
)
def test_a_decoder_that_is_not_supported_says_so(tmp_path, changes, message):
    folder = shutil.copytree(GOLDEN / "qwen2", tmp_path / "qwen2")
    rewrite(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        read_language_config(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_an_incomplete_directory_says_what_is_there(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"needs {name}, which .*bert does not have; there is: .*model.safetensors"):
        load_text_encoder(folder)
    with pytest.raises(ConfigError, match="no such folder"):
        read_language_config(folder / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_not_json_is_named(folder, name):
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{name} is not JSON"):
        load_text_encoder(folder)


def test_a_tokenizer_of_another_kind_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer.json cannot be read as a tokenizer"):
        load_tokenizer(folder, max_length=8)


def test_a_tokenizer_of_another_model_is_refused(folder):
    rewrite(folder / "config.json", vocab_size=50)
    with pytest.raises(ConfigError, match=r"token id 59, and config.json a vocab_size of 50"):
        load_text_encoder(folder)


@pytest.mark.parametrize(("length", "message"), [(2, "above the 2 tokens"), (25, "the model has 24 positions")])
def test_lengths_that_cannot_be_are_refused(folder, length, message):
    with pytest.raises(ConfigError, match=message):
        load_text_encoder(folder, max_length=length)


def test_weights_are_named_when_they_are_missing_or_of_another_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: array for name, array in tensors.items() if name != QUERY}, folder / "model.safetensors")
    with pytest.raises(DataError, match=rf"tensor {QUERY} is missing; expected it of shape \(16, 16\)"):
        read(folder)
    save_file(tensors | {QUERY: np.zeros((16, 12), np.float32)}, folder / "model.safetensors")
    with pytest.raises(DataError, match=rf"{QUERY} has shape \(16, 12\), and \(16, 16\) is expected by config.json"):
        read(folder)
    save_file({"something.else": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"word_embeddings.weight is missing, with or without .*something.else"):
        read(folder)


def test_files_without_safetensors_are_told_from_none(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"neither .*; pytorch_model.bin must be converted to safetensors first"):
        read(folder)


def test_a_damaged_file_is_named(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:500])
    with pytest.raises(DataError, match=r"model.safetensors cannot be read as safetensors"):
        read(folder)


def test_prefixes_old_names_parts_and_heads_change_nothing(folder):
    expected, tensors = read(folder), load_file(folder / "model.safetensors")
    assert expected.unused == ("pooler.dense.bias", "pooler.dense.weight")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, array in tensors.items():
        for new_end, old_end in old.items():
            name = name.replace(new_end, old_end)
        renamed[f"bert.{name}"] = array
    renamed["cls.predictions.bias"] = np.zeros(60, np.float32)
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(renamed)}
    for part in set(places.values()):
        save_file({name: array for name, array in renamed.items() if places[name] == part}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    found = read(folder)
    assert found.unused == ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "cls.predictions.bias")
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"index.json names model-1.safetensors, which is not there"):
        read(folder)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_weights_that_are_stored_in_half_precision_are_read(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: array.astype(dtype) for name, array in tensors.items()}, folder / "model.safetensors")
    found = read(folder).params["embeddings"]["tokens"]
    assert found.dtype == jnp.float32
    stored = tensors["embeddings.word_embeddings.weight"].astype(dtype)
    np.testing.assert_array_equal(found, stored.astype(np.float32))


def test_arrays_go_where_they_are_put(folder):
    seen = {}
    config = read_language_config(folder)
    read_weights(folder, config, dtype=jnp.bfloat16, put=lambda path, array: seen.setdefault(path, array))
    assert seen["layers.1.feed_forward.up.kernel"].shape == (16, 24)
    assert seen["embeddings.tokens"].dtype == jnp.bfloat16


def test_the_pooling_is_what_the_directory_says(folder):
    config = read_language_config(folder)
    assert read_pooling(folder, config) == Pooling("mean")
    assert read_pooling(GOLDEN / "gpt2", read_language_config(GOLDEN / "gpt2")) == Pooling("last")
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules += [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    modules += [{"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    settings = folder / "1_Pooling" / "config.json"
    settings.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}), "utf-8")
    assert read_pooling(folder, config) == Pooling("cls", normalize=True)
    settings.write_text(json.dumps({"pooling_mode": "lasttoken"}), encoding="utf-8")
    assert read_pooling(folder, config) == Pooling("last", normalize=True)
    settings.write_text(json.dumps({"pooling_mode_max_tokens": True}), encoding="utf-8")
    with pytest.raises(ConfigError, match="the pooling is pooling_mode_max_tokens; supported is one of"):
        read_pooling(folder, config)
    modules[1]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ConfigError, match="the module 'Dense' is not supported"):
        read_pooling(folder, config)


@pytest.mark.parametrize("library", ["tokenizers", "safetensors"])
def test_the_extra_is_named_where_it_is_absent(folder, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"{library}; install it with: pip install 'seqrec_jax\[language\]'"):
        load_text_encoder(folder)
