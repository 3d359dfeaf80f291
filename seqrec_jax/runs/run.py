"""A trained run as a typed value: configuration, facts, items, model, parameters, dataset and log.

`Run.open(path)` is the only reader of a run's files:

runs/<name>/config.yaml        the resolved configuration
runs/<name>/dataset.json       facts of the dataset, with the directory it was read from
runs/<name>/items.parquet      vocabulary and item attributes
runs/<name>/content.npz        feature vectors and relations of items, where there are any
runs/<name>/checkpoints/       see training/checkpoints.py
runs/<name>/log.jsonl          a line for each chunk of steps, validation and end
runs/<name>/tensorboard/       the same as scalars
runs/<name>/heads/, decoders/  see artifacts.py
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import yaml

from seqrec_jax.data.dataset import Dataset, read_dataset, read_items
from seqrec_jax.data.item_content import ItemContent, read_content
from seqrec_jax.errors import CheckpointError, DataError
from seqrec_jax.items import ItemTable
from seqrec_jax.items.table import make_item_table
from seqrec_jax.model import ModelConfig, SequenceModel, make_sequence_model
from seqrec_jax.runs.facts import DatasetFacts
from seqrec_jax.settings import parse_config
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.wiring import with_adapters
from seqrec_jax.training.checkpoints import CheckpointStore, load_params
from seqrec_jax.training.language_files import with_kept_language_models
from seqrec_jax.training.log import read_log

Section = TypeVar("Section")
_LOGGER = logging.getLogger(__name__)
_PARENTS = 4
"""Folders above a run in which a dataset that was moved with it is looked for."""


class Checkpoint(NamedTuple):
    """The parameters of one step.

    Attributes:
      params: nested dictionaries of arrays, as the run's model takes them.
      step: of the training.
    """

    params: Any
    step: int


class Run:
    """A run's directory, opened once and read on demand; `Run.open(path)` makes one."""

    def __init__(self, directory: Path, settings: dict[str, Any]):
        """A run from its directory and its configuration as nested values; see `open`."""
        self.directory = directory
        self._settings = settings
        self._loaded: tuple[int | None, Checkpoint] | None = None

    @classmethod
    def open(cls, run: str | Path | Run) -> Run:
        """Open a run's directory; an open run is returned as it is.

        Args:
          run: the directory that training wrote, usually `runs/<name>`.

        Raises:
          CheckpointError: the directory is missing, is no run, or its configuration is damaged.
        """
        if isinstance(run, Run):
            return run
        directory = Path(run)
        path = directory / "config.yaml"
        if not path.is_file():
            found = "is empty or something else" if directory.is_dir() else "does not exist"
            raise CheckpointError(f"{directory} is not a run: it {found}; give the directory that `seqrec train` wrote")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is damaged: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise CheckpointError(f"{path} is empty or damaged; train again, or bring the file back")
        return cls(directory, settings)

    def __str__(self) -> str:
        return str(self.directory)

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        return self.directory.name

    def section(self, name: str, config: type[Section], *, overrides: Sequence[str] = ()) -> Section:
        """A part of the configuration that the run was made with.

        Args:
          name: dotted, such as `training.loss`; "" for the whole. Defaults stand in for a part that the run does not
            have, since the run may be older than it.
          config: the part's dataclass.
          overrides: words of the command line such as `--kind`, which win.

        Raises:
          ConfigError: the part cannot be read as `config`.
        """
        values: Any = self._settings
        for key in name.split(".") if name else ():
            values = values.get(key) or {}
        return parse_config(config, values=values, overrides=overrides)

    def settings(self, **sections: Any) -> dict[str, Any]:
        """The configuration as nested values, for a report, with other values for whole sections."""
        return {**self._settings, **sections}

    @cached_property
    def facts(self) -> DatasetFacts:
        """Facts of the dataset that the run was trained on.

        Raises:
          DataError: `dataset.json` is missing or damaged.
        """
        return DatasetFacts.read(self.directory)

    @cached_property
    def items(self) -> pd.DataFrame:
        """V rows in vocabulary order: `item_id` (raw), `training_events`, `known`, … and the item table's own columns.

        Raises:
          DataError: `items.parquet` is missing or damaged.
        """
        return read_items(self.directory)

    @cached_property
    def content(self) -> ItemContent:
        """Feature vectors and relations of the items.

        Raises:
          DataError: `content.npz` is damaged.
        """
        return read_content(self.directory)

    @cached_property
    def item_table(self) -> ItemTable:
        """The items as the model takes them, V+1 rows."""
        return make_item_table(self.items, self.facts.attributes, content=self.content)

    @cached_property
    def model_config(self) -> ModelConfig:
        """The model's configuration; language models are described by the run's own copies of their files."""
        return with_kept_language_models(self.section("model", ModelConfig), self.directory)

    @cached_property
    def model(self) -> SequenceModel:
        """The model over the run's items, with adapters where the run has any."""
        model = make_sequence_model(
            self.model_config,
            num_items=len(self.items),
            num_behaviors=len(self.facts.behaviors),
            item_table=self.item_table,
        )
        return with_adapters(model, self.section("training.fine_tuning", FineTuningConfig))

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The parameters of a step, and which step that is.

        Args:
          step: None for the best by validation.

        Raises:
          CheckpointError: no such checkpoint, or one of another model or schema version.
        """
        if self._loaded is None or step not in (self._loaded[0], self._loaded[1].step):
            self._loaded = step, Checkpoint(*load_params(self.model, self.directory, step=step))
        return self._loaded[1]

    def params(self, step: int | None = None) -> Any:
        """The parameters of a step, None for the best by validation; as `checkpoint`."""
        return self.checkpoint(step).params

    @property
    def steps(self) -> tuple[int | None, int | None]:
        """The best step by validation and the last step that have a checkpoint; None where there is none.

        Raises:
          CheckpointError: the run has no folder of checkpoints.
        """
        with closing(CheckpointStore(self.directory / "checkpoints", read_only=True)) as store:
            return store.best_step, store.last_step

    def log(self) -> list[dict[str, Any]]:
        """The lines of the training log, empty where there is none."""
        return read_log(self.directory)

    def dataset(self, other: str | Path | Dataset | None = None) -> Dataset:
        """The prepared dataset that the run was trained on, or another one over the same items and behaviours.

        The run's own is found by its fingerprint: in the directory where it was, else at the same place below one of
        the folders above the run, as in a project folder that was moved or copied.

        Args:
          other: another prepared dataset or its directory; None for the run's own.

        Raises:
          CheckpointError: another dataset that numbers its items or behaviours differently.
          DataError: no prepared dataset there, or one that was changed since the run was made.
        """
        if other is None:
            return self._own_dataset
        dataset = other if isinstance(other, Dataset) else read_dataset(other)
        if dataset.fingerprint != self.facts.fingerprint:
            self.check_dataset(dataset)
        return dataset

    @cached_property
    def _own_dataset(self) -> Dataset:
        facts = self.facts
        stored = facts.directory
        if stored is None:
            raise DataError(
                f"{self.directory / 'dataset.json'} does not say where the dataset was; give its directory (--dataset)"
            )
        found = next((place for place in self._places(stored) if _fingerprint(place) == facts.fingerprint), None)
        if found is None:
            try:
                return read_dataset(stored, fingerprint=facts.fingerprint)
            except DataError as error:
                raise DataError(f"{error}; if the dataset was moved, give its directory (--dataset)") from error
        if found != stored:
            _LOGGER.info("the dataset of %s is not at %s any more; reading %s", self.directory, stored, found)
        return read_dataset(found, fingerprint=facts.fingerprint)

    def _places(self, stored: Path) -> list[Path]:
        """Where the run's own dataset may be: where it was, then the ends of that path below folders near the run."""
        parents = list(self.directory.absolute().parents)[:_PARENTS]
        ends = [Path(*stored.parts[-count:]) for count in range(min(_PARENTS, len(stored.parts) - 1), 0, -1)]
        return [stored, *(parent / end for parent in parents for end in ends)]

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise a CheckpointError unless a dataset numbers items and behaviours as the run does."""
        if list(dataset.items["item_id"]) != list(self.items["item_id"]):
            shared = len(set(dataset.items["item_id"]) & set(self.items["item_id"]))
            raise CheckpointError(
                f"{dataset.name} numbers its {dataset.num_items:,} items differently from the {len(self.items):,} of "
                f"{self} ({shared:,} in common); prepare it with --data.vocabulary_from {self}, and train on it with "
                f"training.warm_start {self} if it has new items"
            )
        self.check_behaviors(dataset)

    def check_behaviors(self, dataset: Dataset) -> None:
        """Raise a CheckpointError unless a dataset has the behaviours of the run in the same order."""
        if dataset.behaviors != self.facts.behaviors:
            raise CheckpointError(
                f"{self} was trained with the behaviours {list(self.facts.behaviors)}, the dataset has "
                f"{list(dataset.behaviors)}; set data.cleaning.behaviors to the former"
            )


def _fingerprint(directory: Path) -> str | None:
    """The fingerprint that a prepared dataset states, None where there is none."""
    if not (directory / "sequences.parquet").is_file():  # a run has a dataset.json too
        return None
    try:
        return DatasetFacts.read(directory).fingerprint
    except DataError:
        return None
