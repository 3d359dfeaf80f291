"""Making a run's directory: for training, or from another run whose catalogue has grown."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax.numpy as jnp
import pandas as pd

from seqrec_jax.data.dataset import Dataset, describe_dataset, read_facts, write_items
from seqrec_jax.data.files import write_whole
from seqrec_jax.data.item_content import ItemContent, write_content
from seqrec_jax.errors import CheckpointError
from seqrec_jax.runs.run import Run
from seqrec_jax.settings import config_dict, config_yaml
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.state import TrainState

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
    dataset_directory: str | Path,
    overwrite: bool = False,
) -> Run:
    """Make a run's directory, or check that an existing one is the same run, to be continued.

    Args:
      directory: `runs/<name>`.
      config: the resolved configuration, a frozen dataclass; fields that an older run does not name have their
        defaults there.
      dataset: the training data.
      dataset_directory: where it was read from.
      overwrite: remove an existing run first.

    Returns:
      The run, without checkpoints where it is new.

    Raises:
      CheckpointError: the directory holds a run with another configuration or dataset, or checkpoints of unknown
        origin, or cannot be written.
      ConfigError: the configuration of the run there cannot be read any more.
    """
    try:
        if overwrite and (directory / "config.yaml").is_file():
            shutil.rmtree(directory)
        if (directory / "config.yaml").is_file():
            run = Run.open(directory)
            _check_same(run, config, dataset)
            return run
        if any((directory / "checkpoints").glob("*")):
            raise CheckpointError(
                f"{directory} has checkpoints but no config.yaml, so their configuration is unknown; choose another "
                "--name, or remove the directory"
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
    return Run.open(directory)


def write_grown_run(
    run: Run, output: str | Path, *, items: pd.DataFrame, content: ItemContent, params: dict[str, Any]
) -> Run:
    """Write a run that differs from another in its items and their parameters; it has one checkpoint, of step 0.

    Args:
      run: whose configuration and facts it takes over.
      output: its directory, which must not exist; it appears whole or not at all.
      items: V rows, the items of `run` first.
      content: of these items.
      params: with V+1 rows in the tables of items.

    Raises:
      CheckpointError: the output exists, cannot be written, or the parameters do not fit the model.
    """
    output = Path(output)
    if output.exists():
        raise CheckpointError(f"{output} exists; choose another output, since a run is never changed in place")
    facts = read_facts(run.directory)
    facts |= {"counts": {**facts["counts"], "items": len(items)}, "grown_from": str(run.directory.absolute())}
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent, ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary, "run")
            folder.mkdir()
            shutil.copy(run.directory / "config.yaml", folder)
            if (models := run.directory / "language_models").is_dir():
                shutil.copytree(models, folder / "language_models")
            (folder / "dataset.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            write_items(items, folder)
            write_content(content, folder)
            with closing(CheckpointStore(folder / "checkpoints")) as store:
                store.save(TrainState(params, {}, {}, jnp.int32(0)), {"num_items": len(items)})
            Run.open(folder).params()  # so that parameters that do not fit show now
            folder.rename(output)
    except OSError as error:
        raise CheckpointError(f"cannot write the run to {output}: {error.strerror or error}") from error
    return Run.open(output)


def _check_same(run: Run, config: Any, dataset: Dataset) -> None:
    facts, old = run.facts, run.section("", type(config))
    differences = [
        f"{name}: {before!r} there, {after!r} now"
        for name, before, after in _differences(config_dict(old), config_dict(config))
        if name not in _FREE_TO_CHANGE
    ]
    if differences:
        raise CheckpointError(
            f"{run} is a run with another configuration ({'; '.join(differences[:5])}); choose another --name, or "
            "--overwrite to start over"
        )
    if facts.fingerprint != dataset.fingerprint:
        raise CheckpointError(
            f"{run} was trained on a dataset with fingerprint {facts.fingerprint}, this one has "
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
