"""A run's directory: what is written there besides checkpoints, and whether a command continues it.

runs/<name>/config.yaml     the resolved configuration
runs/<name>/dataset.json    facts of the dataset, with the directory it was read from
runs/<name>/items.parquet   vocabulary and item attributes
runs/<name>/content.npz     feature vectors and relations of items, where there are any
runs/<name>/checkpoints/    see training/checkpoints.py
runs/<name>/log.jsonl       a line a chunk of steps, a validation, an end
runs/<name>/tensorboard/    the same as scalars
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from seqrec_jax.data.dataset import Dataset, describe_dataset, read_facts, read_items, write_items
from seqrec_jax.data.files import write_whole
from seqrec_jax.data.item_content import write_content
from seqrec_jax.errors import CheckpointError
from seqrec_jax.settings import config_dict, config_yaml, parse_config

# settings that change neither what is trained nor which checkpoint is the best
_FREE_TO_CHANGE = (
    "training.checkpoint_seconds",
    "evaluation.stage",
    "evaluation.cutoffs",
    "evaluation.num_resamples",
    "evaluation.score_bytes",
    "evaluation.num_devices",
    "evaluation.margin",
    "evaluation.parts",
)


def open_run(
    directory: Path,
    *,
    config: Any,
    dataset: Dataset,
    dataset_directory: str,
    overwrite: bool = False,
) -> None:
    """Make a run's directory, or check that an existing one is the same run, to be continued.

    Args:
      directory: `runs/<name>`.
      config: the resolved configuration, a frozen dataclass; fields that an older run does not name have their
        defaults there.
      dataset: what is trained on.
      dataset_directory: where it was read from.
      overwrite: remove an existing run first.

    Raises:
      CheckpointError: the directory holds a run with another configuration or dataset, or checkpoints of unknown
        origin, or cannot be written.
      ConfigError: the configuration of the run there cannot be read any more.
    """
    try:
        if overwrite and (directory / "config.yaml").is_file():
            shutil.rmtree(directory)
        if (directory / "config.yaml").is_file():
            _check_same(directory, config, dataset)
            return
        if any((directory / "checkpoints").glob("*")):
            raise CheckpointError(
                f"{directory} has checkpoints but no config.yaml, so it cannot be told what they are of; choose "
                "another --name, or remove the directory"
            )
        directory.mkdir(parents=True, exist_ok=True)
        facts = {**describe_dataset(dataset), "directory": str(Path(dataset_directory).absolute())}
        write_whole(directory / "dataset.json", json.dumps(facts, indent=1, ensure_ascii=False))
        write_items(dataset.items, directory)
        write_content(dataset.content, directory)
        # last, since its presence says that the directory is a run
        write_whole(directory / "config.yaml", config_yaml(config))
    except OSError as error:
        raise CheckpointError(f"cannot write the run to {directory}: {error.strerror or error}") from error


def read_run(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """The configuration, dataset facts and items of a run.

    Raises:
      CheckpointError: the directory is missing, not a run, or its configuration is damaged.
      DataError: its dataset facts or items are damaged.
    """
    directory = Path(directory)
    if not (directory / "config.yaml").is_file():
        found = "is empty or something else" if directory.is_dir() else "does not exist"
        raise CheckpointError(f"{directory} is not a run: it {found}; give the directory that `seqrec train` wrote")
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory / 'config.yaml'} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{directory / 'config.yaml'} is empty or damaged; train again, or bring the file back")
    return config, read_facts(directory), read_items(directory)


def _check_same(directory: Path, config: Any, dataset: Dataset) -> None:
    _, facts, _ = read_run(directory)
    old = parse_config(type(config), path=directory / "config.yaml")
    differences = [
        f"{name}: {before!r} there, {after!r} now"
        for name, before, after in _differences(config_dict(old), config_dict(config))
        if name not in _FREE_TO_CHANGE
    ]
    if differences:
        raise CheckpointError(
            f"{directory} is a run with another configuration ({'; '.join(differences[:5])}); choose another --name, "
            "or --overwrite to start over"
        )
    if facts["fingerprint"] != dataset.fingerprint:
        raise CheckpointError(
            f"{directory} was trained on a dataset with fingerprint {facts['fingerprint']}, this one has "
            f"{dataset.fingerprint}; choose another --name, or --overwrite to start over"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted names whose values differ between two nested dictionaries."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in {**old, **new}
            for found in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix, old, new)]
