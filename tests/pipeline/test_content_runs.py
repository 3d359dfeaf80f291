"""Content of items from files through preparing, training, judging and adding items, on a small simulated shop."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
from builders import make_sequences
from tiny import tiny_config

from seqrec_jax import cli, pipeline
from seqrec_jax.config import DataConfig, ExperimentConfig, ItemsConfig, TextConfig
from seqrec_jax.data.growing import NewItems
from seqrec_jax.data.item_content import FeatureFile
from seqrec_jax.data.shop.simulator import simulate
from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.parts import report_parts
from seqrec_jax.evaluation.systems import System
from seqrec_jax.evaluation.users.attributes import user_table
from seqrec_jax.pipeline.content import make_content, text_feature
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config

CENTERS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


class ContentRun(NamedTuple):
    folder: Path
    config: ExperimentConfig
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> ContentRun:
    """A run on pictures, a relation, a tree and buckets of prices, with gates and dropped ids."""
    folder = tmp_path_factory.mktemp("content")
    shop = tiny_config(folder).data
    items = simulate(shop.shop, shop.shop_seed).items
    codes = pd.factorize(items["category"])[0]
    # of all items but the first, and of one that the shop does not have
    ids = [*items["item_id"][1:], "nowhere"]
    pictures = pd.DataFrame({"item_id": ids, "vector": list(CENTERS[[*codes[1:], 0]])})
    pictures.to_parquet(folder / "pictures.parquet", index=False)
    same = [(a, b) for a, x in zip(items["item_id"], codes, strict=True) for b in items["item_id"][codes == x]]
    pd.DataFrame(same, columns=["item", "other"]).to_csv(folder / "same.csv", index=False)
    parents = pd.DataFrame({"child": sorted(set(items["category"].astype(str)))}).assign(parent="everything")
    parents.to_csv(folder / "tree.csv", index=False)
    config = tiny_config(
        folder,
        f"--data.items.features={{picture: {folder / 'pictures.parquet'}}}",
        f"--data.items.edges={{same: {folder / 'same.csv'}}}",
        "--data.items.max_neighbors=3",
        f"--data.items.parents={{category: {folder / 'tree.csv'}}}",
        "--data.attributes={categorical: [], numeric: [], paths: [category], numeric_buckets: {price: 4}}",
        "--model.items.attributes=[category, price]",
        "--model.items.features=[picture]",
        "--model.items.edges=[same]",
        "--model.items.fusion=gate",
        "--model.items.id_dropout=0.3",
        "--data.split={rule: item_holdout}",
    )
    pipeline.prepare(config)
    run, progress = pipeline.train(config, show_progress=False, runs=folder / "runs")
    assert progress.finished
    return ContentRun(folder, config, run)


def test_what_was_counted_stands_in_the_dataset_and_content_in_the_run(trained):
    facts = json.loads((trained.folder / "data" / "tiny" / "dataset.json").read_text())
    assert facts["content_notes"][0] == (
        "picture: 59 of 60 items have a vector of 6 numbers; 1 vectors are of unknown items and were left out"
    )
    assert facts["content_notes"][1].startswith("same: 60 of 60 items have neighbours, 180 pairs; left out: 60 join an")
    assert all(place.startswith("everything") for place in facts["attributes"]["paths"]["category"])
    shutil.copytree(trained.run, trained.folder / "alone")
    assert Recommender.load(trained.folder / "alone").params["items"]["features"]["picture"]["kernel"].shape == (6, 8)


def test_items_that_were_never_trained_on_are_ranked_by_their_content(trained):
    recommender = Recommender.load(trained.run)
    unseen = np.flatnonzero(~recommender.items["known"]) + 1
    assert len(unseen)
    vectors = recommender.item_vectors()
    assert np.any(vectors[unseen], axis=1).all()
    assert np.isfinite(recommender.scores(make_sequences([[1, 2]]))[0, unseen]).all()
    ids = recommender.params["items"]["ids"]["embedding"]
    changed = {**recommender.params["items"], "ids": {"embedding": ids.at[unseen].add(9.0)}}
    other = recommender.with_params({**recommender.params, "items": changed})
    np.testing.assert_array_equal(other.item_vectors(), vectors)


def new_items(trained: ContentRun) -> NewItems:
    category = Recommender.load(trained.run).items["category"].iloc[5].rpartition(" > ")[2]
    table = pd.DataFrame({"item_id": ["new 1", "new 2"], "category": [category, "unheard of"], "price": [3.0, None]})
    pictures = FeatureFile(np.array(["new 1"], dtype=object), CENTERS[:1])
    return NewItems(table, {"picture": pictures}, {"same": pd.DataFrame({"first": ["new 2"], "second": ["new 1"]})})


def test_added_items_are_recommended_and_the_old_ones_scores_do_not_move(trained, tmp_path):
    notes = pipeline.add_items(trained.run, new_items(trained), output=tmp_path / "grown")
    assert notes[0] == "2 new items after 60" and "category: 1 values are unknown" in notes[1]
    old, grown = Recommender.load(trained.run), Recommender.load(tmp_path / "grown")
    assert list(grown.items["item_id"][60:]) == ["new 1", "new 2"]
    np.testing.assert_array_equal(grown.item_vectors()[:61], old.item_vectors())
    histories = make_sequences([[1, 2, 3], [4], [7, 9]])
    np.testing.assert_array_equal(grown.scores(histories)[:, :61], old.scores(histories))
    listed = grown.recommend(["new 1"], 62).table
    assert np.isfinite(listed["score"]).all() and {"new 1", "new 2"} <= set(listed["item_id"])
    assert old.recommend(["new 1"], 5).unknown_items == ["new 1"]
    with pytest.raises(CheckpointError, match="exists; choose another output"):
        pipeline.add_items(trained.run, new_items(trained), output=tmp_path / "grown")
    with pytest.raises(CheckpointError, match="numbers its 60 items differently from the 62"):
        pipeline.evaluate(tmp_path / "grown", trained.config.evaluation)


def test_items_are_added_from_the_command_line(trained, tmp_path, capsys):
    new = new_items(trained)
    new.items.to_csv(tmp_path / "new.csv", index=False)
    vectors = new.features["picture"]
    np.savez(tmp_path / "new.npz", item_id=vectors.raw_ids.astype(str), vectors=vectors.vectors)
    words = ["add-items", "--checkpoint", str(trained.run), "--items", str(tmp_path / "new.csv")]
    words += ["--output", str(tmp_path / "grown")]
    assert cli.run([*words, "--features", f"picture={tmp_path / 'new.npz'}"]) == 0
    assert "picture: 1 of 2 new items have a vector" in capsys.readouterr().out
    assert cli.run([*words, "--features", "picture"]) == 2
    assert "name=path" in capsys.readouterr().err


def test_the_report_shows_what_each_modality_contributes(trained):
    recommender = Recommender.load(trained.run)
    assert recommender.modalities == ("ids", "category", "price", "picture", "same")
    dataset = pipeline.training.read_dataset(trained.folder / "data" / "tiny")
    protocol = replace(trained.config.evaluation, parts=("modalities",), num_resamples=100)
    cases = pipeline.cases_of(dataset, protocol)
    system = System(judge(recommender, cases, config=protocol), "model", recommender)
    (found,) = report_parts([system], dataset, cases, user_table(dataset, cases), config=protocol)
    rows = found["blocks"][0]["rows"]
    assert [row[0] for row in rows if row[1] == "all"] == list(recommender.modalities)
    # all test targets are unseen items here, to which ids do nothing but through the histories
    assert {row[1] for row in rows} == {"all", "target not seen"}
    assert rows[0][3] == pytest.approx(system.judged.per_user["ndcg@10"].mean(), abs=1e-6)


def test_a_step_of_few_rows_takes_dropped_ids_and_refuses_neighbours(trained):
    dataset = pipeline.training.read_dataset(trained.folder / "data" / "tiny")
    optimizer = replace(trained.config.training.optimizer, rows="read")
    loss = replace(trained.config.training.loss, kind="sampled_softmax", num_negatives=8)
    training = replace(trained.config.training, optimizer=optimizer, loss=loss, max_epochs=1)
    with pytest.raises(ConfigError, match="rows of neighbours"):
        pipeline.build_model(replace(trained.config, training=training), dataset)
    model = replace(trained.config.model, items=replace(trained.config.model.items, edges=()))
    model = replace(model, encoder=replace(model.encoder, kind="mean"))
    config = replace(trained.config, name="few rows", training=training, model=model)
    run, progress = pipeline.train(config, show_progress=False, runs=trained.folder / "runs")
    assert progress.finished
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(Recommender.load(run).params))


def test_texts_become_a_feature_by_whatever_encodes_them():
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x <b>y</b>", "", "zzz"], "known": [True] * 3})
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts]), "none was cut"

    config = ItemsConfig(text=TextConfig(columns=("title",), model="somewhere"))
    content = make_content(config, items, encode=encode)
    assert asked == ["x y", "zzz"]
    assert content.features["text"].item_ids.tolist() == [1, 3]
    np.testing.assert_array_equal(content.features["text"].vectors, [[3, 1], [3, 1]])
    assert content.notes[-2:] == ("text: none was cut", "text: 2 of 3 items have a vector of 2 numbers")
    with pytest.raises(DataError, match="no item has a text in title"):
        text_feature(items.assign(title=""), config.text, encode=encode)
    with pytest.raises(DataError, match="no column 'brand'"):
        text_feature(items, TextConfig(columns=("brand",), model="m"), encode=encode)


def test_bad_settings_of_content_are_refused(tmp_path):
    items = pd.DataFrame({"item_id": ["a"], "known": [True]})
    with pytest.raises(ConfigError, match="both the columns to encode and the model"):
        TextConfig(columns=("title",))
    with pytest.raises(ConfigError, match="two features or relations of the name 'text'"):
        ItemsConfig(features={"text": "t.npz"}, text=TextConfig(columns=("title",), model="m"))
    with pytest.raises(ConfigError, match=r"a feature or relation of data\.items cannot have the name 'ids'"):
        ItemsConfig(features={"ids": "t.npz"})
    with pytest.raises(ConfigError, match="max_neighbors must be at least 1, got 0"):
        ItemsConfig(max_neighbors=0)
    with pytest.raises(ConfigError, match="shared_pairs must be one of error, kept, dropped"):
        parse_config(ItemsConfig, values={"shared_pairs": "ignored"})
    with pytest.raises(DataError, match="'bought' is neither a column of the item table"):
        make_content(ItemsConfig(edges={"bought": "bought"}), items)
    with pytest.raises(DataError, match=r"parents names 'category', the item table has \['item_id'"):
        pipeline.preparing.with_paths(items, ItemsConfig(parents={"category": "tree.csv"}))
    assert DataConfig(reader="amazon_grocery", source="x", items=ItemsConfig(features={"picture": "p.npz"})).reader
