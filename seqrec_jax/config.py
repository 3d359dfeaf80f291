"""The whole configuration of an experiment: one section for each room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.cleaning import CleaningConfig
from seqrec_jax.data.columns import Columns
from seqrec_jax.data.item_edges import SharedPairs
from seqrec_jax.data.shop.world import ShopConfig
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.data.timestamps import TimestampUnit
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.model import ModelConfig
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.training.config import TrainingConfig


@dataclass(frozen=True)
class TextConfig:
    """Texts of items, encoded by a frozen language model as a feature with the name text.

    Attributes:
      columns: columns of the item table whose texts are joined in this order; none for no texts.
      model: directory of the language model in the Hugging Face layout.
      cache: directory where vectors are kept by the content of texts and model; None keeps none.
      tokens: number of tokens of each text that are kept instead of its vector, for `model.items.texts` or an encoder
        of kind text, whose language model is trained with the rest; 0 keeps vectors.
    """

    columns: tuple[str, ...] = ()
    model: str | None = None
    cache: str | None = "data/text_vectors"
    tokens: Annotated[int, Interval("[0, inf)")] = 0

    def __post_init__(self) -> None:
        check_fields(self, "data.items.text")
        if bool(self.columns) != (self.model is not None):
            raise ConfigError("data.items.text needs both the columns to encode and the model that encodes them")


@dataclass(frozen=True)
class ItemsConfig:
    """What describes the items.

    Attributes:
      path: file of the item table: CSV, TSV, JSON lines or Parquet; None for no table, or for that of the reader.
      item_id: the column with the raw item id, in the table and in files of features.
      features: name of a modality (picture, sound, …) to a Parquet or NPZ file with its vectors by raw item id.
      text: columns to encode by a language model.
      edges: name of a relation (complement, substitute, …) to a file with two columns of raw item ids, or to a column
        of the item table with lists of them.
      max_neighbors: most neighbours of an item in each relation; the first ones are kept.
      shared_pairs: the treatment of a pair in several relations, such as a substitute that is also a complement:
        error, kept in all of them, or dropped from all of them.
      parents: column of a tree to a file with two columns, a place and the place above it; the column's values are
        then written as paths, as data.attributes.paths takes them.
    """

    path: str | None = None
    item_id: str = "item_id"
    features: Mapping[str, str] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    edges: Mapping[str, str] = field(default_factory=dict)
    max_neighbors: Annotated[int, Interval("[1, inf)")] = 16
    shared_pairs: SharedPairs = "error"
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "data.items")
        names = [*self.features, *(["text"] if self.text.columns else []), *self.edges]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"data.items has two features or relations of the name {min(doubled)!r}; rename one")
        if wrong := [name for name in names if not name or "/" in name or name == "ids"]:
            raise ConfigError(f"a feature or relation of data.items cannot have the name {wrong[0]!r}; take another")


@dataclass(frozen=True)
class DataConfig:
    """Where the log is and how it becomes a prepared dataset.

    Attributes:
      source: the log's file, or the folder or file of a public data set.
      reader: the reader of a public data set, whose place is `source`, or simulator; None reads `source` by `columns`.
      columns: the log's own column names.
      separator: character between the values of a text file; None takes that of the file's ending.
      timestamp_unit: unit of numeric times.
      items: the item table and other descriptions of items. Its column `title` is shown in lists; its column
        `available_from` (a time) is when an item can first be recommended, if that is before its first event.
      attributes: columns of the item table that a model may use.
      cleaning: which events are dropped.
      split: how the log is split.
      shop: the simulated shop, for reader simulator.
      shop_seed: seed of the simulated shop.
      vocabulary_from: a prepared dataset or run whose item numbers are kept, so that its checkpoint can be continued.
      directory: directory of the prepared dataset; None for data/<name>.
    """

    source: str | None = None
    reader: str | None = None
    columns: Columns = field(default_factory=Columns)
    separator: str | None = None
    timestamp_unit: TimestampUnit = "auto"
    items: ItemsConfig = field(default_factory=ItemsConfig)
    attributes: AttributeConfig = field(default_factory=AttributeConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    shop: ShopConfig = field(default_factory=ShopConfig)
    shop_seed: int = 0
    vocabulary_from: str | None = None
    directory: str | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.reader == "simulator":
            raise ConfigError("data.reader simulator makes its own log; leave data.source out")
        if self.reader is not None and (self.columns != Columns() or self.items.path or self.separator):
            raise ConfigError(
                f"data.reader {self.reader} knows its own columns and items; leave out data.columns, "
                "data.separator and data.items.path, or data.reader"
            )


@dataclass(frozen=True)
class ExperimentConfig:
    """From a log to a report.

    Attributes:
      name: name of the run, which is written to runs/<name>.
      data: the log and its preparation.
      model: the sequence model.
      training: the objective, the optimizer and the length of training.
      evaluation: the protocol.
    """

    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ConfigError(f"name must be a plain folder name, got {self.name!r}")

    @property
    def dataset_directory(self) -> str:
        """Where the prepared dataset lies."""
        return self.data.directory or f"data/{self.name}"
