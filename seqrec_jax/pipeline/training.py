"""A prepared dataset to a trained run: model, parameters, validation, training."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.judging import judge, mean_of_users
from seqrec_jax.parallel import is_first_process, wait_for_processes
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.pipeline.starting import start_model
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs import open_run
from seqrec_jax.training import loop
from seqrec_jax.training.language_files import keep_language_models
from seqrec_jax.training.loop import Progress, TrainingData

RUNS = Path("runs")
_LOGGER = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A run and where its training stands.

    Attributes:
      run: the run's directory, which every other verb takes.
      progress: epochs, the best validation and whether training has ended.
    """

    run: Path
    progress: Progress


def train(
    config: ExperimentConfig, *, overwrite: bool = False, show_progress: bool = True, runs: str | Path = RUNS
) -> Trained:
    """Train the model of a configuration in `runs/<name>`, or continue a run that was stopped.

    Args:
      config: the experiment; its dataset must be prepared.
      overwrite: start over where the run exists.
      show_progress: draw a progress bar.
      runs: parent of the run's directory.

    Returns:
      The run's directory and where it stands.

    Raises:
      DataError: no such prepared dataset.
      CheckpointError: the run exists with another configuration or dataset.
      DivergenceError: the loss is not finite.
    """
    dataset = read_dataset(config.dataset_directory)
    directory = Path(runs) / config.name
    model, params, item_table, notes = start_model(config, dataset)
    data = training_data(config, dataset, dataset.training_sequences)
    cases = cases_of(dataset, replace(config.evaluation, stage="validation"))
    description: dict[str, Any] = {
        "config": config,
        "dataset": dataset,
        "dataset_directory": config.dataset_directory,
    }
    if is_first_process():
        open_run(directory, overwrite=overwrite, **description)
        keep_language_models(config.model, directory)
    wait_for_processes("the run's directory is there")
    if not is_first_process():
        open_run(directory, **description)
    for note in notes if is_first_process() else ():
        _LOGGER.info("%s", note)
    length = config.model.encoder.max_length
    recommender = Recommender.for_dataset(dataset, model, params, item_table, length=length, name=config.name)

    def validate(params: Any) -> dict[str, float]:
        judged = judge(recommender.with_params(params), cases, config=config.evaluation)
        return {name: mean_of_users(values) for name, values in judged.per_user.items() if name != "rank"}

    progress = loop.train(
        model,
        params,
        data,
        item_table,
        config=config.training,
        length=length,
        directory=directory,
        validate=validate,
        metric=config.evaluation.metric,
        show_progress=show_progress,
    )
    return Trained(directory, progress)


def training_data(config: ExperimentConfig, dataset: Dataset, sequences: Sequences) -> TrainingData:
    """Some events of a dataset as the trainer takes them.

    Raises:
      ConfigError: as `behavior_weights`.
    """
    return TrainingData(
        sequences=sequences,
        first_timestamp=dataset.first_timestamp,
        behavior_weights=behavior_weights(config, dataset),
        num_items=dataset.num_items,
    )


def behavior_weights(config: ExperimentConfig, dataset: Dataset) -> np.ndarray:
    """`[H]` float32 weight of a training target by its behaviour, 1 where none is named.

    Behaviours that the split does not predict are trained on too: a shop has many views for each purchase.

    Raises:
      ConfigError: a weight for a behaviour that the log does not have.
    """
    unknown = set(config.training.behavior_weights) - set(dataset.behaviors)
    if unknown:
        raise ConfigError(f"training.behavior_weights names {sorted(unknown)}, the log has {list(dataset.behaviors)}")
    weights = config.training.behavior_weights
    return np.array([weights.get(name, 1.0) for name in dataset.behaviors], dtype=np.float32)


def median_speed(log: list[dict[str, Any]], name: str = "targets_per_second") -> float | None:
    """The median speed over the logged chunks of a training; None without any.

    Args:
      log: as `Run.log` gives it.
      name: targets_per_second or sequences_per_second.
    """
    speeds = [row[name] for row in log if row["kind"] == "train"]
    return float(np.median(speeds)) if speeds else None
