"""A history as one text: against the language model on the joined text, and what each event may know."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from encoder_cases import make_batch
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder
from seqrec_jax.encoders.events import EventInputConfig
from seqrec_jax.encoders.language import hidden_states, read_pooling, text_vectors
from seqrec_jax.encoders.language.encoder import blocks_config, pretrained_blocks
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTowerConfig, id_table
from seqrec_jax.items.table import without_modality
from seqrec_jax.model import ModelConfig, make_sequence_model
from seqrec_jax.retrieval import Recommender
from seqrec_jax.training.adapters.paths import flat_params

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "language"
WIDTH, NUM_TOKENS = 16, 3
FAMILIES = ("bert", "gpt2")
TOKENS = np.array([[0, 0, 0], [3, 6, 9], [5, 0, 0], [8, 2, 0], [0, 0, 0], [4, 7, 3]], np.int32)
"""Of five items, of which number 4 has no text."""


def config_of(family: str, **settings: object) -> EncoderConfig:
    settings = {"width": WIDTH, "num_layers": 1, "max_length": 6, "dropout": 0.0, **settings}
    return EncoderConfig(kind="text", language_model=str(GOLDEN / family), **settings)


@functools.cache
def built(family: str) -> tuple[Encoder, dict]:
    encoder = make_encoder(config_of(family))
    params = {**encoder.init(jax.random.key(0)), **pretrained_blocks(config_of(family))}
    return encoder._replace(encode=jax.jit(encoder.encode)), params


def states_of(family: str, params: dict, token_ids: np.ndarray | None, length: int, **options: object) -> np.ndarray:
    """The language model's own states of one text."""
    states = jax.jit(functools.partial(hidden_states, config=blocks_config(config_of(family))))
    return np.asarray(states(params["language"], token_ids, jnp.ones((1, length), bool), **options)[0])


def batch_of(items: list[list[int]], segment_ids: list[list[int]] | None = None):
    batch = make_batch(np.asarray(items) > 0 if segment_ids is None else segment_ids)
    item_ids = jnp.asarray(items, jnp.int32)
    return batch._replace(item_ids=item_ids, item_tokens=jnp.asarray(TOKENS)[item_ids])


def silent(batch) -> jax.Array:
    return jnp.zeros((*batch.item_ids.shape, WIDTH))


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_decoder_reads_the_joined_text(family):
    encoder, params = built(family)
    batch = batch_of([[2, 1, 3, 5, 0]])
    states = encoder.encode(params, silent(batch), batch)[0]
    text = np.concatenate([TOKENS[item][TOKENS[item] > 0] for item in (2, 1, 3, 5)])[None] - 1
    ends = np.cumsum([1, 3, 2, 3]) - 1
    np.testing.assert_allclose(states[:4], states_of(family, params, text, 9)[ends], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_event_is_the_vector_of_its_text(family):
    encoder, params = built(family)
    batch = batch_of([[1], [2], [3], [5]])
    config = blocks_config(config_of(family))
    vectors = jax.jit(functools.partial(text_vectors, config=config, pooling=read_pooling(GOLDEN / family, config)))
    tokens = batch.item_tokens[:, 0]
    expected = vectors(params["language"], jnp.maximum(tokens - 1, 0), tokens > 0)
    np.testing.assert_allclose(encoder.encode(params, silent(batch), batch)[:, 0], expected, atol=1e-5)


def test_a_model_that_looks_both_ways_does_so_within_each_text_and_back():
    """The states are those of the joined text with a mask, token by token, and their means."""
    encoder, params = built("bert")
    batch = batch_of([[3, 1, 2]])
    text, events = np.array([[8, 2, 3, 6, 9, 5]]) - 1, np.array([0, 0, 1, 1, 1, 2])
    found = states_of("bert", params, text, 6, where=jnp.asarray(events[:, None] >= events)[None])
    expected = [found[events == event].mean(axis=0) for event in range(3)]
    np.testing.assert_allclose(encoder.encode(params, silent(batch), batch)[0], np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_know_their_own_and_earlier_texts_of_their_segment_and_no_others(family):
    """By the gradient of what is added to each event's tokens; texts of their own, an event without, and padding."""
    encoder, params = built(family)
    segments = [[0, 1, 1, 1, 2, 2]]
    batch = batch_of([[0, 1, 4, 2, 3, 5]], segments)
    noise = 0.1 * jax.random.normal(jax.random.key(1), (1, 6, WIDTH))
    jacobian = jax.jit(jax.jacobian(lambda vectors: encoder.encode(params, vectors, batch)[0]))(noise)
    influence = np.abs(np.asarray(jacobian)[:, :, 0]).max(axis=(1, 3))
    ids = np.array(segments[0])
    real = ids > 0
    np.testing.assert_array_equal(influence[real] > 0, ((ids[:, None] == ids) & np.tri(6, dtype=bool))[real])
    # and by the words themselves
    states = encoder.encode(params, silent(batch), batch)[0]
    for changed, others in ((3, [1, 2, 4, 5]), (1, [4, 5])):
        tokens = batch.item_tokens.at[0, changed].set(jnp.array([2, 2, 2]))
        moved = np.abs(encoder.encode(params, silent(batch), batch._replace(item_tokens=tokens))[0] - states)
        assert moved[others].max() < 1e-6 < moved[changed].max()


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_padding_nor_neighbours_nor_longer_rows_of_tokens_change_a_state(family):
    encoder, params = built(family)
    alone = batch_of([[1, 4, 2]])
    expected = encoder.encode(params, silent(alone), alone)[0]
    for items, segments in (([[0, 0, 1, 4, 2, 0]], [[0, 0, 1, 1, 1, 0]]), ([[5, 3, 3, 1, 4, 2]], [[1, 1, 1, 2, 2, 2]])):
        batch = batch_of(items, segments)
        columns = np.flatnonzero(np.asarray(batch.segment_ids[0]) == max(segments[0]))
        np.testing.assert_allclose(encoder.encode(params, silent(batch), batch)[0, columns], expected, atol=1e-5)
    wider = alone._replace(item_tokens=jnp.pad(alone.item_tokens, ((0, 0), (0, 0), (0, 2))))
    np.testing.assert_allclose(encoder.encode(params, silent(wider), wider)[0], expected, atol=1e-5)


def test_an_event_without_text_is_one_token_of_its_own_that_knows_what_came_before():
    encoder, params = built("gpt2")
    vectors = jax.random.normal(jax.random.key(2), (1, 3, WIDTH))
    batch = batch_of([[1, 4, 0]], [[1, 1, 1]])
    states = encoder.encode(params, vectors, batch)[0]
    assert np.isfinite(states).all()
    table = params["language"]["embeddings"]["tokens"]
    embeddings = jnp.concatenate([table[TOKENS[1] - 1] + vectors[:, 0], params["textless"][None] + vectors[0, 1:]])[
        None
    ]
    expected = states_of("gpt2", params, None, 5, embeddings=embeddings)
    np.testing.assert_allclose(states, expected[2:], atol=1e-5)


TABLE = id_table(5)._replace(
    features={"text": jnp.asarray(TOKENS), "picture": jnp.ones((6, 2))},
    has={"text": jnp.asarray(TOKENS[:, 0] > 0)},
)


def model_of(encoder: EncoderConfig, table=TABLE, **events: object):
    config = ModelConfig(encoder, EventInputConfig(**events), ItemTowerConfig(width=8), bilinear="full")
    return make_sequence_model(config, num_items=5, num_behaviors=2, item_table=table)


def test_a_model_gives_the_encoder_the_texts_of_the_table():
    model, (encoder, pretrained) = model_of(config_of("bert"), position=False), built("bert")
    params = {**model.init(jax.random.key(3)), "encoder": pretrained}
    assert params["events"] == {}
    batch = batch_of([[1, 4, 2], [5, 3, 0]])
    encode = jax.jit(model.encode)
    states = encode(params, TABLE, batch._replace(item_tokens=None))
    np.testing.assert_allclose(states, encoder.encode(pretrained, silent(batch), batch), atol=1e-5)
    last = jax.jit(model.encode_last)(params, TABLE, batch._replace(item_tokens=None))
    np.testing.assert_allclose(last, states[jnp.arange(2), jnp.array([2, 1])], atol=1e-6)
    wordless = encode(params, without_modality(TABLE, "text"), batch._replace(item_tokens=None))
    np.testing.assert_allclose(
        wordless, encoder.encode(pretrained, silent(batch), make_batch([[1, 1, 1], [1, 1, 0]])), atol=1e-5
    )
    with pytest.raises(ConfigError, match="cannot be appended with encoder text"):
        model.start(2)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"text": "title"},
            r"'title', which the dataset has not at all; .* those of text; prepare it with data.items.te",
        ),
        ({"text": "picture"}, "'picture', which the dataset has as vectors"),
        ({"max_length": 9}, r"max_length is 9 .* up to 3 tokens, which makes 27, .* positions for 24"),
        ({"width": 8}, r"encoder.width is 8, but the vectors of .* have 16 numbers"),
        ({"num_layers": 9}, r"num_layers is 9, but .* has 2 layers"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(settings, text):
    config = config_of("bert", **settings)
    with pytest.raises(ConfigError, match=text):
        model_of(config)


def test_tokens_of_another_model_and_item_vectors_are_refused():
    foreign = TABLE._replace(features={"text": jnp.asarray(TOKENS).at[2, 0].set(5001)})
    with pytest.raises(ConfigError, match=r"a token 5000, but .* prepare the dataset with encoder.language_model as"):
        model_of(config_of("bert"), foreign)
    with pytest.raises(ConfigError, match=r"events.item must be true"):
        model_of(config_of("bert"), item=False, behavior=True)
    with pytest.raises(ConfigError, match="text needs a language model's directory"):
        EncoderConfig(kind="text")


def test_a_run_from_texts_to_lists(tmp_path):
    """Prepared, trained with LoRA from the directory's weights, judged and asked, without the directory at the end."""
    directory = tmp_path / "bert"
    shutil.copytree(GOLDEN / "bert", directory)
    words = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = [word for word in words if word.isalpha()]
    rng = np.random.default_rng(0)
    items = [f"i{number}" for number in range(9)]
    log = pd.DataFrame(
        {"user_id": np.repeat(range(20), 6), "item_id": rng.choice(items, 120), "timestamp": np.tile(range(6), 20)}
    )
    log.to_csv(tmp_path / "log.csv", index=False)
    titles = [f"{words[number]} {words[number + 1]}" for number in range(8)] + [""]
    pd.DataFrame({"item_id": items, "title": titles}).to_csv(tmp_path / "items.csv", index=False)
    config = tiny_config(
        tmp_path,
        "--data.reader=null",
        f"--data.source={tmp_path / 'log.csv'}",
        f"--data.items={{path: {tmp_path / 'items.csv'}, text: {{columns: [title], model: {directory}, tokens: 3}}}}",
        "--data.attributes={categorical: [], numeric: []}",
        "--data.cleaning.behaviors=null",
        "--data.split={rule: leave_one_out}",
        f"--model.encoder={{kind: text, language_model: {directory}, width: 16, num_layers: 1, max_length: 5}}",
        "--model.events={position: true}",
        "--model.items={width: 8, attributes: []}",
        "--training.fine_tuning={mode: lora, targets: [language], rank: 2, also_train: [items, bilinear, textless]}",
        "--training.max_epochs=1",
        "--training.loss={kind: sampled_softmax, num_negatives: 4}",
        "--training.optimizer.rows=read",
    )
    pipeline.prepare(config)
    run, progress = pipeline.train(config, show_progress=False, runs=tmp_path / "runs")
    assert progress.finished
    started = flat_params(pretrained_blocks(config.model.encoder))
    shutil.rmtree(directory)
    pipeline.evaluate(run, replace(config.evaluation, parts=()))
    assert "ndcg@10" in (run / "metrics.json").read_text("utf-8")
    recommender = Recommender.load(run)
    params = flat_params(recommender.params["encoder"])
    assert np.any(params["language/layers/0/attention/query/adapter/b"])  # zeros at first
    for path, weights in started.items():
        np.testing.assert_array_equal(params[path], weights)
    assert len(recommender.recommend(["i1", "i8"], k=3).table) == 3
