"""The parameters that a run starts from: drawn anew, a language model's, an earlier run's, or another domain's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.encoders.config import LANGUAGE_KINDS
from seqrec_jax.encoders.language.encoder import pretrained_blocks
from seqrec_jax.encoders.language.trained import make_text_model
from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.items.table import ItemTable, make_item_table
from seqrec_jax.model import ModelConfig, SequenceModel, extend_item_rows, make_sequence_model
from seqrec_jax.parallel import init_on_mesh, make_mesh, rows_on_mesh, state_sharding
from seqrec_jax.runs import Run
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import dequantize_base
from seqrec_jax.training.adapters.low_rank import merge_adapters
from seqrec_jax.training.adapters.partition import describe, partition, trainable_paths
from seqrec_jax.training.adapters.paths import flat_params, nested_params
from seqrec_jax.training.adapters.wiring import add_adapters, trained_part_optimizer, with_adapters
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.state import make_optimizer

_CATALOGUE = ("ids", "attributes")
"""Parts of an item tower that belong to one catalogue, except attributes with the same values."""
_TOWERS = ("items", "output_items")
_BEHAVIORS = ("events/behaviors", "target_behaviors")


_MANY_STEPS = 2**31 - 1  # of a run whose optimizer is only shaped


class Start(NamedTuple):
    """The model of a run and the parameters that it starts from.

    Attributes:
      model: the model, with adapters if the fine-tuning has any.
      params: the model's parameters.
      item_table: content of the dataset's items.
      notes: sentences on where the parameters come from.
    """

    model: SequenceModel
    params: Any
    item_table: ItemTable
    notes: tuple[str, ...]


def build_model(config: ExperimentConfig, dataset: Dataset) -> tuple[SequenceModel, Any]:
    """The model of a configuration for a dataset, and its item table.

    Raises:
      ConfigError: the model needs one behaviour to predict, or real times, which the dataset lacks; or relations
        between items together with steps that hold only the items that they read.
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


def start_model(config: ExperimentConfig, dataset: Dataset, *, from_runs: bool = True) -> Start:
    """The model of a run and the parameters that it starts from.

    Args:
      config: the experiment.
      dataset: the training data.
      from_runs: False ignores training.warm_start and transfer_from, whose runs may have seen the future of a
        backtest.

    Raises:
      ConfigError: as `build_model`, or a fine-tuning whose patterns match nothing.
      CheckpointError: as `warm_start_params` and `transfer_params`.
    """
    model, item_table = build_model(config, dataset)
    training = config.training
    key = jax.random.key(training.seed)
    mesh = make_mesh(training.num_devices, model_devices=training.model_devices)
    params, notes = init_on_mesh(model.init, key, mesh), []
    if from_runs and training.warm_start is not None:
        params = warm_start_params(
            training.warm_start, dataset, like=params, seed=training.seed, model_devices=training.model_devices
        )
        notes.append(f"all parameters come from {training.warm_start}, but for the rows of new items")
    elif from_runs and training.transfer_from is not None:
        params, fresh = transfer_params(training.transfer_from, dataset, like=params)
        notes.append(f"parameters come from {training.transfer_from}, but for {', '.join(fresh) or 'none'}")
    else:
        params, notes = _with_language_models(params, config.model)
    params = add_adapters(params, training.fine_tuning, key=key)
    if training.fine_tuning != FineTuningConfig():
        notes.append(_in_words(params, training))
    params = jax.device_put(params, state_sharding(params, mesh))
    return Start(with_adapters(model, training.fine_tuning), params, item_table, tuple(notes))


def warm_start_params(run: str | Path | Run, dataset: Dataset, *, like: Any, seed: int, model_devices: int = 1) -> Any:
    """The best parameters of an earlier run, with fresh rows for items that are new in this dataset.

    Raises:
      CheckpointError: the earlier run's items are not the first ones of the dataset, or its model differs.
    """
    run = Run.open(run)
    old = list(run.items["item_id"])
    if list(dataset.items["item_id"][: len(old)]) != old:
        raise CheckpointError(
            f"the dataset does not begin with the {len(old)} items of {run}; prepare it with "
            f"--data.vocabulary_from {run}"
        )
    run.check_behaviors(dataset)
    params = extend_item_rows(
        _params_as_trained_whole(run),
        old_num_items=len(old),
        new_num_items=rows_on_mesh(dataset.num_items, model_devices=model_devices) - 1,
        key=jax.random.fold_in(jax.random.key(seed), len(old)),
    )
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, like)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"the model of {run} has other parameters than this configuration; use its model section")
    return params


def _params_as_trained_whole(run: Run) -> Any:
    """The best parameters of a run, with adapters merged and an int8 base in floating point."""
    return dequantize_base(merge_adapters(run.params()))


def _with_language_models(params: Any, config: ModelConfig) -> tuple[Any, list[str]]:
    """Parameters with the weights of the language models in their places, and sentences on them."""
    notes = []
    if config.encoder.kind in LANGUAGE_KINDS:
        params = {**params, "encoder": {**params["encoder"], **pretrained_blocks(config.encoder)}}
        notes.append(f"the encoder starts from the language model in {config.encoder.language_model}")
    if (directory := config.items.language_model) is not None:
        weights = make_text_model(directory).pretrained()
        towers = {name: {**params[name], "language": weights} for name in _TOWERS if name in params}
        params = {**params, **towers}
        notes.append(f"the item tower starts from the language model in {directory}")
    return params, notes


def _in_words(params: Any, config: TrainingConfig) -> str:
    """A sentence on the trained and the frozen parameters."""
    fine_tuning = config.fine_tuning
    trained, frozen = partition(params, trainable_paths(params, fine_tuning))
    optimizer = make_optimizer(config.optimizer, total_steps=_MANY_STEPS)
    optimizer = trained_part_optimizer(optimizer, fine_tuning, total_steps=_MANY_STEPS)
    return f"fine-tuning {fine_tuning.mode}: {describe(trained, frozen, optimizer=optimizer)}"


def transfer_params(run: str | Path | Run, dataset: Dataset, *, like: Any) -> tuple[Any, list[str]]:
    """The parameters of a run of another domain, except those that belong to its catalogue or log.

    Embeddings of item ids stay fresh, and so do those of attributes and behaviours whose values differ between the
    datasets. Taken over are the encoder, W, the fusion, and the layers over feature vectors, which must come from the
    same model in both.

    Args:
      run: the run of the other domain, or its directory; its adapters are merged.
      dataset: the training data of this domain.
      like: fresh parameters for this dataset.

    Returns:
      The parameters, and the parts of them that stay fresh.

    Raises:
      CheckpointError: a part that should be taken over has another shape or is missing there.
    """
    run = Run.open(run)
    theirs, ours = flat_params(_params_as_trained_whole(run)), flat_params(like)
    same = {
        name
        for values in run.facts.attributes.to_dict().values()
        for name, codes in values.items()
        if list(codes) == list(_values_of(dataset).get(name, ()))
    }
    same_behaviors = dataset.behaviors == run.facts.behaviors
    fresh = [path for path in ours if _is_local(path, same_attributes=same, same_behaviors=same_behaviors)]
    for path in ours.keys() - set(fresh):
        found = getattr(theirs.get(path), "shape", None)  # an empty part has none
        if found != (expected := getattr(ours[path], "shape", None)) or path not in theirs:
            raise CheckpointError(
                f"{run} has {found or 'nothing'} for the parameter {path}, this configuration needs {expected}; use "
                "its model section, with the same features from the same models"
            )
    taken = {path: ours[path] if path in fresh else theirs[path] for path in ours}
    return nested_params(taken), sorted({path.removesuffix("/embedding") for path in fresh})


def _values_of(dataset: Dataset) -> dict[str, Any]:
    """The values behind the codes, or the scale, of each attribute of a dataset."""
    return {name: values for kind in dataset.attributes.to_dict().values() for name, values in kind.items()}


def _is_local(path: str, *, same_attributes: set[str], same_behaviors: bool) -> bool:
    """Whether a parameter belongs to its own dataset only."""
    if path.startswith(_BEHAVIORS):
        return not same_behaviors
    tower, _, rest = path.partition("/")
    part, _, rest = rest.partition("/")
    if tower not in _TOWERS or part not in _CATALOGUE:
        return False
    return part == "ids" or rest.partition("/")[0] not in same_attributes
