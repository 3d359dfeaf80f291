"""What the benchmark scripts share: resolved configurations, training apart, the facts of a row, files of rows."""

from __future__ import annotations

import datetime
import hashlib
import json
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import yaml

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import parse_config
from seqrec_jax.training.log import read_log

Row = dict[str, Any]


class Experiment(NamedTuple):
    """A configuration file with some fields changed.

    Attributes:
      config: the typed configuration; its dataset is that of the file.
      digest: of everything that was written, but for the name: equal digests are equal experiments. Fields that
        were left to their defaults do not count, so that a field new in the library changes no digest.
    """

    config: ExperimentConfig
    digest: str


class Trained(NamedTuple):
    """A training run that has ended.

    Attributes:
      directory: of the run.
      facts: best_validation, epochs, best_step, seconds (of the steps), targets_per_second,
        peak_memory_bytes (of the process, or of the device where it says so).
    """

    directory: Path
    facts: Row


def experiment(configuration: str | Path, overrides: Row) -> Experiment:
    """Read a configuration file and change fields, given by dotted names; the run is named <file>-<digest>.

    Raises:
      ConfigError: a field of the data section or the name is changed, or the configuration is wrong.
    """
    base = parse_config(ExperimentConfig, path=configuration)
    values = yaml.safe_load(Path(configuration).read_text(encoding="utf-8"))
    for dotted, value in overrides.items():
        if dotted == "name" or dotted.partition(".")[0] == "data":
            raise ConfigError(f"{dotted} cannot be changed here, since all runs share the dataset of {configuration}")
        *sections, field = dotted.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    values["data"]["directory"] = base.dataset_directory
    written = json.dumps({**values, "name": None}, sort_keys=True)
    digest = hashlib.sha256(written.encode()).hexdigest()[:10]
    values["name"] = f"{base.name}-{digest}"
    return Experiment(parse_config(ExperimentConfig, values=values), digest)


def dataset_of(config: ExperimentConfig) -> Dataset:
    """The prepared dataset of a configuration, prepared now where it does not exist yet.

    After a change of the data section, remove the directory, or run scripts/prepare.py with --overwrite.
    """
    if not Path(config.dataset_directory).exists():
        pipeline.prepare(config)
    return read_dataset(config.dataset_directory)


def train_apart(config: ExperimentConfig, *, runs: Path) -> Trained:
    """Train in a process of its own, so that its peak of memory is its own, or continue; a finished run is kept.

    Raises:
      KeyboardInterrupt: the run was stopped; everything is saved.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        directory, progress = pool.submit(pipeline.train, config, show_progress=False, runs=runs).result()
    if not progress.finished:
        raise KeyboardInterrupt
    log = read_log(directory)
    facts = {
        "best_validation": progress.best_score,
        "epochs": progress.epoch,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 1),
        "targets_per_second": pipeline.median_speed(log),
        "peak_memory_bytes": max(row["memory_bytes"] for row in log if row["kind"] == "train"),
    }
    return Trained(directory, facts)


def circumstances(command: str) -> Row:
    """Where, when and how a row was made."""
    device = jax.devices()[0]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {device.platform} ({device.device_kind}), shared",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "date": datetime.date.today().isoformat(),
        "command": command,
    }


def interval(found: Any) -> Row:
    """Mean, low and high of the only metric of `bootstrap_means` or `paired_differences`."""
    return {name: float(getattr(found, name)[0]) for name in ("mean", "low", "high")}


def read_rows(path: Path, *, defaults: Row | None = None) -> list[Row]:
    """The rows of a results file, none where it does not exist; `defaults` are what older rows do not say."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [{**(defaults or {}), **row} for row in rows]


def write_rows(path: Path, rows: list[Row], *, keys: tuple[str, ...], defaults: Row | None = None) -> None:
    """Add rows to a results file, each instead of an older one that has the same value under every key."""
    together = {tuple(str(row[name]) for name in keys): row for row in [*read_rows(path, defaults=defaults), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [together[place] for place in sorted(together)]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def described(overrides: Row) -> str:
    """Changed fields in one line."""
    return ", ".join(f"{name} {value}" for name, value in overrides.items()) or "as written"
