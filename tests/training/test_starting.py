"""Where a run's parameters come from: a run of another domain, a language model, adapters over an earlier run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig, ItemsConfig, TextConfig
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.items import ItemTowerConfig
from seqrec_jax.pipeline.content import make_content
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.low_rank import low_rank_product
from seqrec_jax.training.adapters.paths import flat_params
from seqrec_jax.training.config import LossConfig

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "language"
SASREC = {"kind": "sasrec", "width": 16, "num_layers": 1, "max_length": 6, "dropout": 0.0}


def experiment(folder, name, *, items, colours=("blue", "red"), encoder=SASREC, behaviors=("view",), **training):
    """A small prepared domain with a colour and a size for each item, and its configuration."""
    rng = np.random.default_rng(len(name))
    events = pd.DataFrame(
        {
            "user_id": np.repeat([f"{name}{number}" for number in range(20)], 6),
            "item_id": rng.choice(items, 120),
            "timestamp": np.tile(np.arange(6), 20),
            "behavior": rng.choice(behaviors, 120),
        }
    )
    table = pd.DataFrame(
        {"item_id": items, "colour": np.resize(colours, len(items)), "size": np.resize([1, 2, 5], len(items))}
    )
    attributes = AttributeConfig(categorical=("colour",), numeric_buckets={"size": 2})
    split = SplitConfig("leave_one_out")
    write_dataset(
        prepare_dataset(events, name=name, split=split, items=table, attributes=attributes),
        folder / name,
        overwrite=True,
    )
    values = {
        "name": name,
        "data": {"directory": str(folder / name)},
        "model": {
            "encoder": encoder,
            "items": {"width": 16, "attributes": ["colour", "size"]},
            "events": {"behavior": True},
        },
        "training": {"max_epochs": 1, "batch_size": 8, "patience": None, **training},
    }
    return parse_config(ExperimentConfig, values=values)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained run of one domain, and its folder."""
    folder = tmp_path_factory.mktemp("domains")
    config = experiment(folder, "shop", items=[f"s{n}" for n in range(9)])
    return folder, pipeline.train(config, runs=folder / "runs", show_progress=False)[0]


def start(config):
    return pipeline.start_model(config, read_dataset(config.dataset_directory))


def test_another_domain_takes_over_all_that_is_not_of_the_catalogue(source):
    folder, run = source
    config = experiment(folder, "news", items=[f"n{n}" for n in range(14)], transfer_from=str(run))
    found = start(config)
    theirs, ours = flat_params(Recommender.load(run).params), flat_params(found.params)
    taken = {path for path in ours if path in theirs and np.array_equal(ours[path], theirs[path])}
    assert {path for path in ours if path.startswith("encoder/")} <= taken
    assert "items/attributes/colour/embedding" in taken and "events/behaviors" in taken
    assert "items/ids/embedding" not in taken and ours["items/ids/embedding"].shape == (15, 16)
    assert found.notes == (f"parameters come from {run}, but for items/ids",)


def test_attributes_and_behaviours_with_other_values_stay_fresh(source):
    folder, run = source
    config = experiment(
        folder,
        "toys",
        items=["t1", "t2", "t3"],
        colours=("red", "green"),
        behaviors=("buy", "view"),
        transfer_from=str(run),
    )
    (note,) = start(config).notes
    assert note.endswith("but for events/behaviors, items/attributes/colour, items/ids")


def test_another_model_is_refused_by_the_name_of_a_parameter(source):
    folder, run = source
    wider = experiment(folder, "wide", items=["w1", "w2"], encoder={**SASREC, "num_layers": 2}, transfer_from=str(run))
    with pytest.raises(CheckpointError, match=r"has nothing for the parameter encoder/block_1/"):
        start(wider)
    with pytest.raises(ConfigError, match="set one"):
        experiment(folder, "both", items=["w1"], transfer_from="a", warm_start="b")


def test_adapters_over_an_earlier_run(source):
    """Only adapters move from where the earlier run ended, and the checkpoint is read like any other."""
    folder, run = source
    lora = {"mode": "lora", "targets": ["encoder"], "rank": 2}
    config = experiment(folder, "shop", items=[f"s{n}" for n in range(9)], warm_start=str(run), fine_tuning=lora)
    tuned, _ = pipeline.train(config, runs=folder / "tuned", show_progress=False)
    before, after = (flat_params(Recommender.load(one).params) for one in (run, tuned))
    moved = {path for path in after if path not in before or not np.array_equal(before[path], after[path])}
    assert moved and all("/adapter/" in path for path in moved)
    again = experiment(folder, "shop", items=[f"s{n}" for n in range(9)], warm_start=str(tuned))
    merged = flat_params(start(again).params)
    assert merged.keys() == before.keys()
    assert not np.array_equal(
        merged["encoder/block_0/attention/output/kernel"], before["encoder/block_0/attention/output/kernel"]
    )


@pytest.mark.parametrize("bits", [32, 8])
def test_a_language_model_as_the_encoder_starts_from_its_weights_and_lives_on_without_its_directory(tmp_path, bits):
    directory = tmp_path / "qwen3"
    shutil.copytree(GOLDEN / "qwen3", directory)
    encoder = {"kind": "language", "width": 16, "num_layers": 1, "max_length": 6, "language_model": str(directory)}
    lora = {"mode": "lora", "targets": ["language"], "rank": 2, "also_train": ["items", "events"], "base_bits": bits}
    config = experiment(tmp_path, "shop", items=[f"s{n}" for n in range(9)], encoder=encoder, fine_tuning=lora)
    found = start(config)
    origin, size = found.notes
    assert origin == f"the encoder starts from the language model in {directory}"
    assert size.startswith("fine-tuning lora: ") and "parameters are trained" in size
    run, _ = pipeline.train(config, runs=tmp_path, show_progress=False)
    shutil.rmtree(directory)
    recommender = Recommender.load(run)
    before, after = flat_params(found.params), flat_params(recommender.params)
    layer = "encoder/language/layers/0/attention/query"
    frozen = f"{layer}/kernel_int8" if bits == 8 else f"{layer}/kernel"
    np.testing.assert_array_equal(after[frozen], before[frozen])
    assert not np.array_equal(after[f"{layer}/adapter/b"], before[f"{layer}/adapter/b"])
    assert len(recommender.recommend(["s1", "s2"], k=3).table) == 3
    assert all(np.isfinite(np.asarray(leaf, dtype=np.float32)).all() for leaf in jax.tree.leaves(recommender.params))
    shutil.copytree(GOLDEN / "qwen3", directory)
    later = replace(config, training=replace(config.training, warm_start=str(run), fine_tuning=FineTuningConfig()))
    merged = after[frozen].astype(np.float32) * (after[f"{layer}/kernel_scale"][None] if bits == 8 else 1.0)
    merged = merged + low_rank_product({name: after[f"{layer}/adapter/{name}"] for name in ("a", "b", "scale")})
    np.testing.assert_allclose(flat_params(start(later).params)[f"{layer}/kernel"], merged, rtol=1e-5, atol=1e-6)


def test_texts_are_read_by_a_language_model_that_is_trained_with_the_rest(tmp_path):
    """Items are told apart by their titles alone; one of them is never trained on and still has a vector."""
    directory = tmp_path / "bert"
    shutil.copytree(GOLDEN / "bert", directory)
    words = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = [word for word in words if word.isalpha()][:10]
    config = experiment(tmp_path, "shop", items=[f"s{n}" for n in range(9)])
    dataset = read_dataset(config.dataset_directory)
    titled = dataset.items.assign(title=[f"{words[n]} {words[n + 1]}" for n in range(9)])
    titled.loc[8, ["known", "training_events"]] = False, 0
    text = TextConfig(columns=("title",), model=str(directory), tokens=5)
    content = make_content(ItemsConfig(text=text), titled)
    assert content.features["text"].vectors.dtype == np.int32 and content.features["text"].vectors.shape == (9, 5)
    write_dataset(replace(dataset, items=titled, content=content), tmp_path / "shop", overwrite=True)
    items = ItemTowerConfig(width=16, ids=False, texts=("text",), language_model=str(directory))
    training = replace(
        config.training,
        loss=LossConfig(kind="sampled_softmax", num_negatives=4, negatives_per="batch"),
        optimizer=replace(config.training.optimizer, rows="read"),
    )
    config = replace(config, model=replace(config.model, items=items), training=training)
    found = start(config)
    run, _ = pipeline.train(config, runs=tmp_path / "runs", show_progress=False)
    shutil.rmtree(directory)
    recommender = Recommender.load(run)
    before, after = flat_params(found.params), flat_params(recommender.params)
    moved = {path for path in after if not np.array_equal(before[path], after[path])}
    assert "items/language/layers/0/attention/query/kernel" in moved
    vectors = recommender.item_vectors()
    assert np.all(np.abs(vectors[1:]).max(axis=1) > 0) and len(np.unique(vectors, axis=0)) == 10
    wrong = replace(
        config, model=replace(config.model, items=replace(items, texts=(), features=("text",), language_model=None))
    )
    with pytest.raises(ConfigError, match=r"as tokens of texts; name it under model.items.texts"):
        start(wrong)
