"""An experiment's whole configuration: one section for each room that it touches."""

from __future__ import annotations

from dataclasses import dataclass, field

from seqrec_jax.data.cleaning import CleaningConfig
from seqrec_jax.data.events import Columns, TimestampUnit
from seqrec_jax.data.features import AttributeConfig
from seqrec_jax.data.shop_world import ShopConfig
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.model import ModelConfig
from seqrec_jax.training.config import TrainingConfig


@dataclass(frozen=True)
class ItemsFileConfig:
    """A file that describes the items.

    Attributes:
      path: CSV, TSV, JSON lines or Parquet; None where there is none.
      item_id: its column with the raw item id.
    """

    path: str | None = None
    item_id: str = "item_id"


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
      items: table of items; a column `title` is shown in lists, and `available_from` (a time) says from when an
        item can be recommended, where the first event of the item would say too late.
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
    items: ItemsFileConfig = field(default_factory=ItemsFileConfig)
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
                "data.separator and data.items, or data.reader"
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
