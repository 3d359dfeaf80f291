"""One small experiment for every test that needs a trained run: a simulated shop and a narrow model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.settings import config_yaml, parse_config

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
    "evaluation": {"targets": "next", "num_resamples": 200, "parts": ["audit"]},
}

SMALL_HEADER = "user_id,item_id,timestamp\n"
_SMALL_ROWS = [f"u{user},i{(user + n) % 3},{1_700_000_000 + 60 * n + user}\n" for user in range(3) for n in range(4)]
SMALL_LOG = SMALL_HEADER + "".join(_SMALL_ROWS)
"""A log of three users and three items that can be prepared and no more."""


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


def write_small(folder: Path, *, log: str | None = SMALL_LOG) -> Path:
    """A log.csv (None for none) and a c.yaml that prepares it into data, all in `folder`."""
    if log is not None:
        (folder / "log.csv").write_text(log, encoding="utf-8")
    data = {"source": "log.csv", "directory": "data", "split": {"rule": "leave_one_out"}}
    (folder / "c.yaml").write_text(yaml.safe_dump({"name": "small", "data": data}), encoding="utf-8")
    return folder / "c.yaml"
