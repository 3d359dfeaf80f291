"""Content of items from files through preparing and training to lists, on a small simulated shop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.simulator import simulate
from seqrec_jax.retrieval import Recommender


def write_features(config: ExperimentConfig, path: Path, *, width: int = 6) -> Path:
    """Vectors that tell categories apart, for all items but the first, and for one that the shop does not have."""
    items = simulate(config.data.shop, config.data.shop_seed).items
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, width))
    codes = pd.factorize(items["category"])[0]
    vectors = centers[codes] + 0.1 * rng.normal(size=(len(items), width))
    ids = [*items["item_id"][1:], "nowhere"]
    table = pd.DataFrame({"item_id": ids, "vector": [*vectors[1:].astype(np.float32), np.ones(width, np.float32)]})
    table.to_parquet(path, index=False)
    return path


def test_features_from_a_file_are_trained_on_and_saved_with_the_run(tmp_path: Path) -> None:
    path = write_features(tiny_config(tmp_path), tmp_path / "pictures.parquet")
    config = tiny_config(
        tmp_path,
        f"--data.items.features={{picture: {path}}}",
        "--model.items.attributes=[category]",
        "--model.items.features=[picture]",
        "--model.items.fusion=gate",
        "--model.items.id_dropout=0.3",
    )
    dataset = pipeline.prepare(config)
    assert dataset.content.notes == (
        "picture: 59 of 60 items have a vector of 6 numbers; 1 vectors are of unknown items and were left out",
    )
    run, progress = pipeline.train_run(config, show_progress=False, runs=tmp_path / "runs")
    assert progress.finished
    recommender = Recommender.load(run)
    assert recommender.params["items"]["features"]["picture"]["kernel"].shape == (6, 8)
    assert len(recommender.recommend(list(dataset.items["item_id"][:2]), 5).table) == 5
