"""An experiment's whole configuration: one section for each room that it touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

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
from seqrec_jax.training.config import TrainingConfig


@dataclass(frozen=True)
class TextConfig:
    """Texts of items that a frozen language model makes a feature of; the feature is called text.

    Attributes:
      columns: of the item table, joined in this order; none switches it off.
      model: directory of the language model in the Hugging Face layout.
      cache: directory where vectors are kept by the content of texts and model; None keeps none.
      tokens: so many tokens of each text are kept instead of its vector, for `model.items.texts` or an encoder of
        kind text, where the language model is trained with all else; 0 keeps vectors.
    """

    columns: tuple[str, ...] = ()
    model: str | None = None
    cache: str | None = "data/text_vectors"
    tokens: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise ConfigError(f"data.items.text.tokens must be at least 0, got {self.tokens}")
        if bool(self.columns) != (self.model is not None):
            raise ConfigError("data.items.text needs both the columns to encode and the model that encodes them")


@dataclass(frozen=True)
class ItemsConfig:
    """What describes the items.

    Attributes:
      path: their table: CSV, TSV, JSON lines or Parquet; None where there is none, or where the reader brings it.
      item_id: the column with the raw item id, in the table and in files of features.
      features: name of a modality (picture, sound, …) to a Parquet or NPZ file with its vectors by raw item id.
      text: columns that are encoded by a language model.
      edges: name of a relation (complement, substitute, …) to a file with two columns of raw item ids, or to a column
        of the item table with lists of them.
      max_neighbors: of an item in each relation; the first ones are kept.
      shared_pairs: what becomes of a pair that is in several relations, such as a substitute that is a complement as
        well: error, kept in all of them, or dropped from all of them.
      parents: column of a tree to a file with two columns, a place and the place above it; the column's values are
        then written as paths, as data.attributes.paths takes them.
    """

    path: str | None = None
    item_id: str = "item_id"
    features: Mapping[str, str] = field(default_factory=dict)
    text: TextConfig = field(default_factory=TextConfig)
    edges: Mapping[str, str] = field(default_factory=dict)
    max_neighbors: int = 16
    shared_pairs: SharedPairs = "error"
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_neighbors < 1:
            raise ConfigError(f"data.items.max_neighbors must be at least 1, got {self.max_neighbors}")
        if self.shared_pairs not in get_args(SharedPairs):
            raise ConfigError(
                f"data.items.shared_pairs must be one of {', '.join(get_args(SharedPairs))}, got {self.shared_pairs!r}"
            )
        names = [*self.features, *(["text"] if self.text.columns else []), *self.edges]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"data.items calls two features or relations {min(doubled)!r}; rename one")
        if wrong := [name for name in names if not name or "/" in name or name == "ids"]:
            raise ConfigError(f"data.items cannot call a feature or relation {wrong[0]!r}; take another name")


@dataclass(frozen=True)
class DataConfig:
    """Where the log is and how it becomes a prepared dataset.

    Attributes:
      source: the log's file, or the folder or file of a public data set.
      reader: name of a public data set's reader (then source is where it lies), or simulator; None reads `source`
        by `columns`.
      columns: the log's own column names.
      separator: between the values of a text file; None goes by the file's ending.
      timestamp_unit: of numeric times.
      items: table of items and what else describes them; a column `title` is shown in lists, and `available_from` (a
        time) says from when an item can be recommended, where the first event of the item would say too late.
      attributes: columns of the item table that a model may use.
      cleaning: what counts as a clean event.
      split: how the log is split.
      shop: the simulated shop, for reader simulator.
      shop_seed: its seed.
      vocabulary_from: a prepared dataset or run whose item numbers are kept, so that its checkpoint can be continued.
      directory: where the prepared dataset goes; None means data/<name>.
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
      name: of the run; it goes to runs/<name>.
      data: the log and its preparation.
      model: the sequence model.
      training: how it is trained.
      evaluation: how it is judged.
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
