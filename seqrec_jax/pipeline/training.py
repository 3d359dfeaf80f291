"""A prepared dataset to a trained run: model, parameters, validation, training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.evaluation.protocol import judge, mean_of_users
from seqrec_jax.items.table import make_item_table
from seqrec_jax.model import SequenceModel, extend_item_rows, make_sequence_model
from seqrec_jax.parallel import init_on_mesh, is_first_process, make_mesh, rows_on_mesh, wait_for_processes
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.retrieval import Recommender
from seqrec_jax.training.adapters.wiring import add_adapters, with_adapters
from seqrec_jax.training.config import config_dict
from seqrec_jax.training.loop import Progress, TrainingData, train
from seqrec_jax.training.run import open_run, read_run

RUNS = Path("runs")


def train_run(
    config: ExperimentConfig, *, overwrite: bool = False, show_progress: bool = True, runs: Path = RUNS
) -> tuple[Path, Progress]:
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
    directory = runs / config.name
    model, params, item_table = start_model(config, dataset, warm_start=config.training.warm_start)
    data = training_data(config, dataset, dataset.training_sequences)
    cases = cases_of(dataset, replace(config.evaluation, stage="validation"))
    description: dict[str, Any] = {
        "config": config_dict(config),
        "dataset": dataset,
        "dataset_directory": config.dataset_directory,
    }
    if is_first_process():
        open_run(directory, overwrite=overwrite, **description)
    wait_for_processes("the run's directory is there")
    if not is_first_process():
        open_run(directory, **description)
    length = config.model.encoder.max_length
    recommender = Recommender.for_dataset(dataset, model, params, item_table, length=length, name=config.name)

    def validate(params: Any) -> dict[str, float]:
        judged = judge(recommender.with_params(params), cases, config=config.evaluation)
        return {name: mean_of_users(values) for name, values in judged.per_user.items() if name != "rank"}

    progress = train(
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
    return directory, progress


def build_model(config: ExperimentConfig, dataset: Dataset) -> tuple[SequenceModel, Any]:
    """The model of a configuration for a dataset, and its item table.

    Raises:
      ConfigError: a model that depends on what the dataset does not have: one behaviour to predict, or real times;
        or relations between items with steps that see the items that they read only.
    """
    events, behaviors = config.model.events, dataset.split.config.target_behaviors
    if config.model.target_behavior and len(behaviors) != 1:
        raise ConfigError(
            f"model.target_behavior needs one behaviour to predict, but split.target_behaviors of {dataset.name} is "
            f"{list(behaviors)}; the log has {list(dataset.behaviors)}"
        )
    if (events.hour or events.weekday) and dataset.time_kind != "seconds":
        raise ConfigError(
            f"model.events.hour and weekday need real times, but the log of {dataset.name} has only an order; switch "
            "them off"
        )
    if config.model.items.edges and config.training.optimizer.rows == "read":
        raise ConfigError(
            "model.items.edges needs the rows of neighbours, which a step with training.optimizer.rows: read does not "
            "have; set rows: all, or leave the edges out"
        )
    num_rows = rows_on_mesh(dataset.num_items, model_devices=config.training.model_devices)
    item_table = make_item_table(dataset.items, dataset.attributes, content=dataset.content, num_rows=num_rows)
    model = make_sequence_model(
        config.model,
        num_items=num_rows - 1,
        num_behaviors=len(dataset.behaviors),
        item_table=item_table,
    )
    return model, item_table


def start_model(
    config: ExperimentConfig, dataset: Dataset, *, warm_start: str | None = None
) -> tuple[SequenceModel, Any, Any]:
    """The model that a run trains, the parameters it starts from, and its item table.

    Args:
      config: the experiment.
      dataset: whose items it is for.
      warm_start: run whose parameters are continued; None starts afresh.

    Raises:
      ConfigError: as `build_model`, or a fine-tuning whose patterns match nothing.
      CheckpointError: as `warm_start_params`.
    """
    model, item_table = build_model(config, dataset)
    training = config.training
    key = jax.random.key(training.seed)
    params = init_on_mesh(model.init, key, make_mesh(training.num_devices, model_devices=training.model_devices))
    if warm_start is not None:
        params = warm_start_params(
            warm_start, dataset, like=params, seed=training.seed, model_devices=training.model_devices
        )
    params = add_adapters(params, training.fine_tuning, key=key)
    return with_adapters(model, training.fine_tuning), params, item_table


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


def warm_start_params(run: str, dataset: Dataset, *, like: Any, seed: int, model_devices: int = 1) -> Any:
    """The best parameters of an earlier run, with fresh rows for items that are new in this dataset.

    Raises:
      CheckpointError: the earlier run's items are not the first ones of the dataset, or its model differs.
    """
    _, facts, items = read_run(run)
    old = list(items["item_id"])
    if list(dataset.items["item_id"][: len(old)]) != old:
        raise CheckpointError(
            f"the dataset does not begin with the {len(old)} items of {run}; prepare it with "
            f"--data.vocabulary_from {run}"
        )
    check_behaviors(dataset, facts, run)
    earlier = Recommender.load(run)
    params = extend_item_rows(
        earlier.params,
        old_num_items=len(old),
        new_num_items=rows_on_mesh(dataset.num_items, model_devices=model_devices) - 1,
        key=jax.random.fold_in(jax.random.key(seed), len(old)),
    )
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, like)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"the model of {run} has other parameters than this configuration; use its model section")
    return params


def check_behaviors(dataset: Dataset, facts: dict[str, Any], run: str | Path) -> None:
    if list(dataset.behaviors) != facts["behaviors"]:
        raise CheckpointError(
            f"{run} was trained with the behaviours {facts['behaviors']}, the dataset has {list(dataset.behaviors)}; "
            "set data.cleaning.behaviors to the former"
        )


def median_speed(log: list[dict[str, Any]], name: str = "targets_per_second") -> float | None:
    """The median over the logged pieces of a training run, of which the first compiles; None without any."""
    speeds = [row[name] for row in log if row["kind"] == "train"]
    return float(np.median(speeds)) if speeds else None
