"""One small experiment for every test that needs a trained run: a simulated shop and a narrow model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.training.config import config_yaml, parse_config

VALUES: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "reader": "simulator",
        "shop": {"num_users": 150, "num_items": 60, "num_tastes": 4, "num_categories": 4, "num_days": 30},
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
    "evaluation": {"first_target_only": True, "num_resamples": 200},
}


class TinyRun(NamedTuple):
    """A run that was prepared, trained and evaluated; copy it before changing anything.

    Attributes:
      folder: where everything lies: data/tiny, runs/tiny and tiny.yaml.
      config: the experiment's.
    """

    folder: Path
    config: ExperimentConfig

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def dataset(self) -> Path:
        return self.folder / "data" / "tiny"

    @property
    def yaml(self) -> Path:
        return self.folder / "tiny.yaml"


def tiny_config(folder: Path, *overrides: str) -> ExperimentConfig:
    """The experiment with its prepared dataset in `folder`/data/tiny, and changes as on the command line."""
    words = ["--data.directory", str(folder / "data" / "tiny"), *overrides]
    return parse_config(ExperimentConfig, values=VALUES, overrides=words)


def write_config(config: ExperimentConfig, path: Path) -> Path:
    path.write_text(config_yaml(config), encoding="utf-8")
    return path
