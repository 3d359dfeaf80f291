"""Queries as events, from a simulated shop to a list: trained with the visits, asked after a history or alone."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tiny import VALUES

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.batches import history_batch
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.queries import append_query
from seqrec_jax.errors import ConfigError
from seqrec_jax.model import Event
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config

OVERRIDES = {
    "name": "searched",
    "data": {
        **VALUES["data"],
        "shop": {**VALUES["data"]["shop"], "search": 0.7},
        "cleaning": {
            "behaviors": ["view", "click", "cart", "purchase", "search"],
            "item_free_behaviors": ["search"],
        },
        "attributes": {},
    },
    "model": {**VALUES["model"], "events": {"behavior": True, "query": True}, "items": {"width": 8}},
    "training": {**VALUES["training"], "max_epochs": 20, "optimizer": {"learning_rate": 0.03}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    words = ["--data.directory", str(folder / "data")]
    config = parse_config(ExperimentConfig, values={**VALUES, **OVERRIDES}, overrides=words)
    pipeline.prepare(config)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        directory, _ = pipeline.train(config, show_progress=False, runs=folder / "runs")
    return directory


@pytest.fixture(scope="module")
def dataset(run) -> Dataset:
    return read_dataset(run.parents[1] / "data")


@pytest.fixture(scope="module")
def recommender(run) -> Recommender:
    return Recommender.load(run)


def test_a_search_leads_to_items_of_its_category(dataset, recommender):
    """Trained for a few epochs only, the first item is of the asked category for most categories."""
    assert dataset.query_behavior == "search"
    category = dict(zip(dataset.items["item_id"], dataset.items["category"], strict=True))
    hits = []
    for name in sorted(set(category.values())):
        found = recommender.recommend([], 5, query=name)
        assert not found.without_history  # a query alone is no empty history
        hits.append(np.mean([category[item] == name for item in found.table["item_id"]]))
    assert np.mean(hits) > 0.5, hits


def test_a_query_may_be_told_in_every_form_of_a_history(dataset, recommender):
    items = dataset.items["item_id"].tolist()[:3]
    behaviors = ["view", "view", "view"]
    frame = pd.DataFrame({"item_id": items, "behavior": behaviors})
    asked = recommender.recommend(frame, query="red kitchen").table
    row = pd.DataFrame({"item_id": [None], "behavior": ["search"], "query": ["red kitchen"]})
    told = recommender.recommend(pd.concat([frame, row], ignore_index=True))
    assert told.unknown_items == []
    pd.testing.assert_frame_equal(told.table, asked)
    bare = pd.DataFrame({"item_id": [None], "query": ["red kitchen"]})
    pd.testing.assert_frame_equal(
        recommender.recommend(bare).table, recommender.recommend([], query="red kitchen").table
    )
    sequences, _ = recommender.histories([frame], ["history"])
    pd.testing.assert_frame_equal(recommender.recommend(sequences, query="red kitchen").table, asked)
    assert not recommender.recommend(frame, query="shoes").table.equals(asked)
    unheard = recommender.recommend(frame, query="never said before").table
    assert np.isfinite(unheard["score"]).all()


def test_events_one_by_one_give_the_state_of_the_whole_sequence(run, dataset, recommender):
    config = parse_config(ExperimentConfig, values={**VALUES, **OVERRIDES})
    model, item_table = pipeline.build_model(config, dataset)
    longest = dataset.sequences.select_users(np.argsort(-dataset.sequences.lengths)[:2])
    batch = jax.tree.map(jnp.asarray, history_batch(longest, length=10, first_timestamp=dataset.first_timestamp))
    assert (batch.query_words > 0).any()
    cache, append = model.start(2), jax.jit(model.append)
    for column in range(10):
        event = Event(
            batch.item_ids[:, column],
            batch.behaviors[:, column],
            batch.timestamps[:, column],
            query_words=batch.query_words[:, column],
        )
        v_x, cache = append(recommender.params, item_table, cache, event)
    whole = jax.jit(model.encode_last)(recommender.params, item_table, batch)
    np.testing.assert_allclose(v_x, whole, rtol=2e-4, atol=2e-5)


def test_a_model_without_queries_cannot_be_asked(loaded):
    with pytest.raises(ConfigError, match=r"cannot be asked for 'shoes'.*model\.events\.query"):
        loaded.recommend([], query="shoes")


def test_asking_adds_one_event_to_each_user(dataset):
    users = dataset.sequences.select_users(np.array([3, 0])).select_events
    histories = dataset.sequences.select_users(np.array([3, 0]))
    keep = histories.users_of_events == 0
    asked = append_query(users(keep), "shoes", behavior=4, first_timestamp=7)
    assert asked.lengths.tolist() == [histories.lengths[0] + 1, 1]
    assert asked.last_queries.tolist() == ["shoes", "shoes"]
    assert asked.behaviors[asked.offsets[1:] - 1].tolist() == [4, 4]
    last = histories.timestamps[histories.offsets[1] - 1]
    assert asked.timestamps[asked.offsets[1:] - 1].tolist() == [last, 7]
    without = asked.select_events(np.arange(len(asked.item_ids)) != asked.offsets[1] - 1)
    np.testing.assert_array_equal(without.item_ids[:-1], histories.item_ids[keep])


def test_the_command_line_asks(run, call):
    code, lines, _ = call("recommend", "--checkpoint", run, "--query", "kitchen", "--k", 3)
    assert code == 0 and len(lines) >= 3
