"""Made run_0_1/ with version 0.1.0: a dataset, a run with a head and a decoder, and the lists it gave.

A later version must open all of it and give the same lists; do not make it anew.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import seqrec_jax
from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig
from seqrec_jax.heads.fitting import HeadTrainingConfig
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "run_0_1")
VALUES = {
    "name": "tiny",
    "data": {
        "reader": "simulator",
        "shop": {"num_users": 40, "num_items": 30, "num_tastes": 4, "num_categories": 4, "num_days": 30},
        "cleaning": {"behaviors": ["view", "click", "cart", "purchase"]},
        "attributes": {"categorical": ["category"], "numeric": ["price"]},
    },
    "model": {
        "encoder": {"kind": "sasrec", "width": 8, "num_layers": 1, "num_heads": 1, "max_length": 10},
        "events": {"behavior": True},
        "items": {"width": 8, "attributes": ["category", "price"]},
        "bilinear": "full",
    },
    "training": {"batch_size": 32, "max_epochs": 2, "num_devices": 1, "optimizer": {"learning_rate": 0.01}},
    "evaluation": {"targets": "next", "num_resamples": 100, "parts": []},
}


def labelled(dataset) -> pd.DataFrame:
    """Whether a user's event at a moment was a purchase, by the item."""
    sequences = dataset.sequences
    return pd.DataFrame(
        {
            "user_id": sequences.user_ids[sequences.users_of_events],
            "timestamp": sequences.timestamps,
            "item_id": dataset.items["item_id"].to_numpy()[sequences.item_ids - 1],
            "label": (sequences.behaviors >= 2).astype(int),
        }
    )


def main() -> None:
    assert seqrec_jax.__version__ == "0.1.0"
    config = parse_config(ExperimentConfig, values=VALUES, overrides=["--data.directory", str(FOLDER / "dataset")])
    dataset = pipeline.prepare(config, overwrite=True)
    run, _ = pipeline.train_run(config, runs=FOLDER, show_progress=False, overwrite=True)
    pipeline.fit_run_head(run, labelled(dataset), name="buys", config=HeadTrainingConfig(max_epochs=2, hidden_width=4))
    codes = parse_config(
        DecoderTrainingConfig,
        overrides=[
            "--codes.codebook_size",
            "8",
            "--codes.num_levels",
            "2",
            "--max_epochs",
            "2",
            "--decoder.width",
            "8",
        ],
    )
    pipeline.fit_run_decoder(run, config=codes)
    pipeline.evaluate_run(run, config.evaluation)
    histories = dataset.sequences
    Recommender.load(run).recommend(histories, 5).table.to_csv(FOLDER / "lists.csv", index=False)
    pipeline.RunDecoder.load(run).recommend(histories, 5).table.to_csv(FOLDER / "decoder_lists.csv", index=False)
    ids = np.tile(np.arange(1, 4), (histories.num_users, 1))
    np.save(FOLDER / "head_probabilities.npy", pipeline.RunHead.load(run, "buys").probabilities(histories, ids))
    shutil.rmtree(run / "tensorboard")
    for name in ("report.html", "per_user.parquet"):
        (run / name).unlink()


if __name__ == "__main__":
    main()
