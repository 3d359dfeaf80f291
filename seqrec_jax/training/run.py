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
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from seqrec_jax.data.dataset import Dataset, describe_dataset, read_facts, read_items, write_items
from seqrec_jax.data.item_content import write_content
from seqrec_jax.errors import CheckpointError
from seqrec_jax.training.config import config_dict, config_yaml, parse_config

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
        _write_whole(directory / "dataset.json", json.dumps(facts, indent=1, ensure_ascii=False))
        write_items(dataset.items, directory)
        write_content(dataset.content, directory)
        # last, since its presence says that the directory is a run
        _write_whole(directory / "config.yaml", config_yaml(config))
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


class RunLog:
    """Appends what happens to `log.jsonl` and TensorBoard, at once, so that a kill loses nothing.

    TensorBoard's file is written by its synchronous writer: the usual one has a thread, which hangs on a full disk.
    """

    def __init__(self, directory: Path, *, resume_step: int, active: bool = True):
        """Open the log, without the lines after the step that training continues from.

        Args:
          directory: of the run.
          resume_step: the step that training continues from.
          active: False writes nothing, for all but one of the processes that share the run.

        Raises:
          CheckpointError: the directory cannot be written.
        """
        self._path, self._active = directory / "log.jsonl", active
        if not active:
            return
        kept = [row for row in read_log(directory) if row["step"] <= resume_step]
        try:
            _write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
            (directory / "tensorboard").mkdir(exist_ok=True)
            # a name of its own, also for a run continued within the same second
            suffix = f".{os.getpid()}.{resume_step}"
            self._events = EventsWriter(str(directory / "tensorboard" / "events"), filename_suffix=suffix)
            # TensorBoard leaves out what an earlier process wrote from this step on
            self._write_event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One event: a JSON line, null for numbers that are not finite, and a scalar for each number in it.

        Raises:
          CheckpointError: the disk is full or the file cannot be written.
        """
        if not self._active:
            return
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        scalars = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n")
            self._write_event(step, summary=Summary(value=scalars))
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Release the files."""
        if self._active:
            self._events.close()

    def _write_event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()

    def _cannot_write(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write the log of the run to {self._path.parent}: {error.strerror or error}")


def read_log(directory: Path) -> list[dict[str, Any]]:
    """The lines of `log.jsonl`; a last line cut short by a kill is left out."""
    path = directory / "log.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


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


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
