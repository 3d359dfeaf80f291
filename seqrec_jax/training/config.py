"""What a training run can be told, and how typed configurations are read from YAML and the command line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import jsonargparse
import yaml

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.views import ContrastiveConfig

Config = TypeVar("Config")
LossKind = Literal[
    "softmax", "sampled_softmax", "binary_cross_entropy", "generalized_binary_cross_entropy", "bpr", "bpr_max"
]

# the parser's words in the language of a configuration file
_PLAIN_WORDS = (
    (r"<class '(\w+)'>", r"\1"),
    (r"\ba typing\.Literal\[([^]]*)\]", r"one of \1"),
    (r"\ba int\b", "an int"),
    ("Parser key", "key"),
)


@dataclass(frozen=True)
class LossConfig:
    """The objective.

    Attributes:
      kind: softmax (over all items), sampled_softmax (logQ corrected), binary_cross_entropy,
        generalized_binary_cross_entropy (gBCE), bpr or bpr_max.
      num_negatives: negatives of each target; at most so many where they come from the batch.
      negatives: uniform over the items of training, by popularity, in_batch (other targets) or mixed (half in_batch,
        half uniform).
      negatives_per: who shares them, the whole batch, a row, or each target its own (slow, and large in memory); None
        means batch for in_batch and mixed, else row.
      popularity_power: popularity draws by training counts to this power.
      temperature: divides the scores.
      label_smoothing: softmax only; share of the loss that is spread over all items.
      calibration: generalized_binary_cross_entropy only; t, from 0 (plain) to 1 (scores become probabilities).
      score_penalty: bpr_max only; weight of the negatives' squared scores.
      propensity_power: a target weighs by its item's count to minus this power; 0 weighs all alike, 0.5 is usual.
    """

    kind: LossKind = "softmax"
    num_negatives: int = 256
    negatives: Literal["uniform", "popularity", "in_batch", "mixed"] = "uniform"
    negatives_per: Literal["batch", "row", "target"] | None = None
    popularity_power: float = 0.75
    temperature: float = 1.0
    label_smoothing: float = 0.0
    calibration: float = 0.75
    score_penalty: float = 1.0
    propensity_power: float = 0.0

    def __post_init__(self) -> None:
        require_positive("training.loss", num_negatives=self.num_negatives, temperature=self.temperature)
        for name in ("popularity_power", "score_penalty", "propensity_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"training.loss.{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"training.loss.label_smoothing must be from 0 to below 1, got {self.label_smoothing}")
        if not 0 <= self.calibration <= 1:
            raise ConfigError(f"training.loss.calibration must be from 0 to 1, got {self.calibration}")
        self._check_together()

    def _check_together(self) -> None:
        """Raise a ConfigError for a field that the other fields leave without effect or sense."""
        is_sampled = self.kind != "softmax"
        needs = {
            "negatives": (is_sampled, "kind softmax has no negatives; choose another kind"),
            "negatives_per": (is_sampled, "kind softmax has no negatives; choose another kind"),
            "popularity_power": (is_sampled and self.negatives == "popularity", "it needs negatives: popularity"),
            "label_smoothing": (not is_sampled, "it needs kind: softmax"),
            "calibration": (
                self.kind == "generalized_binary_cross_entropy",
                "it needs kind: generalized_binary_cross_entropy",
            ),
            "score_penalty": (self.kind == "bpr_max", "it needs kind: bpr_max"),
        }
        for entry in fields(self):
            has_effect, need = needs.get(entry.name, (True, ""))
            if not has_effect and getattr(self, entry.name) != entry.default:
                raise ConfigError(
                    f"training.loss.{entry.name} is {getattr(self, entry.name)} without effect, since kind is "
                    f"{self.kind} and negatives are {self.negatives}: {need}, or leave it out"
                )
        from_batch = self.negatives in ("in_batch", "mixed")
        if from_batch and self.negatives_per not in (None, "batch"):
            raise ConfigError(
                f"training.loss.negatives_per is {self.negatives_per}, but {self.negatives} negatives are shared by "
                "the batch; leave it out, or choose uniform or popularity negatives"
            )
        if self.negatives == "mixed" and self.num_negatives < 2:
            raise ConfigError(
                f"training.loss.num_negatives is {self.num_negatives}, but mixed negatives need at least 2, one from "
                "the batch and one drawn"
            )
        if self.kind == "generalized_binary_cross_entropy" and self.negatives != "uniform":
            raise ConfigError(
                f"training.loss.negatives is {self.negatives}, but generalized_binary_cross_entropy is calibrated for "
                "uniform negatives; leave it out, or choose another kind"
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """The Optax optimizer and its schedule.

    Attributes:
      name: adamw, adam, sgd, adagrad or lion.
      learning_rate: at the peak of the schedule.
      schedule: constant, cosine or linear decay to zero at the last step.
      warmup_steps: linear rise from zero.
      weight_decay: adamw and lion only; biases, norms and position and behaviour embeddings are left out.
      clip_norm: global gradient norm; None for no clipping.
      b1: first-moment decay, or momentum of sgd.
      b2: second-moment decay.
      rows: which rows of the id embeddings a step changes: all, or those that it reads, whose cost does not grow with
        the catalogue. Of the others the moments then stand still and weight decay waits.
    """

    name: Literal["adamw", "adam", "sgd", "adagrad", "lion"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    b1: float = 0.9
    b2: float = 0.999
    rows: Literal["all", "read"] = "all"

    def __post_init__(self) -> None:
        require_positive("training.optimizer", learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        if self.warmup_steps < 0 or not self.weight_decay >= 0:
            raise ConfigError(
                "training.optimizer.warmup_steps and weight_decay must not be negative, got "
                f"{self.warmup_steps} and {self.weight_decay}"
            )
        if self.weight_decay and self.name not in ("adamw", "lion"):
            raise ConfigError(
                f"training.optimizer.weight_decay is {self.weight_decay}, but {self.name} has none; choose adamw or "
                "lion, or leave it 0"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ConfigError(
                f"training.optimizer.b1 and b2 must be at least 0 and less than 1, got {self.b1} and {self.b2}"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
      loss: the objective.
      contrastive: views of the sequences that are to be told apart, added to the loss.
      optimizer: optimizer and schedule.
      batch_size: rows of a step, over all devices.
      max_epochs: passes over the training windows.
      packing: put several users in a row, so that few positions are padding.
      stride: events between the ends of a long user's windows; None means windows that do not overlap.
      mask_rate: share of the events that a model which predicts masked events (bert4rec) does not see.
      mask_last_share: share of the sequences of which it does not see the last event only, as when it recommends.
      behavior_weights: weight of a target by its behaviour; those not named weigh 1, and 0 leaves one out. What is
        predicted in an evaluation is split.target_behaviors.
      precision: float32, or bfloat16 for the encoder's arithmetic (parameters stay float32).
      ema_decay: decay of the running average of the parameters, which is then what is evaluated; None for none.
      validate_every: epochs between validations.
      patience: validations without improvement before training stops; None never stops early.
      checkpoint_seconds: seconds between checkpoints besides those at validations.
      stream_batches: batches whose events are on the device at a time, for a log that does not fit there; None keeps
        all events on the device, which is faster.
      num_devices: devices to use; None means all that are visible.
      model_devices: devices that share the tables of items, the softmax over all items and the optimizer's numbers
        for them; num_devices / model_devices share the batch.
      fine_tuning: which parameters are trained, all by default; adapters (lora, adalora) among them.
      warm_start: run directory whose parameters are continued; the dataset must extend its vocabulary.
      transfer_from: run of another domain whose parameters are taken over, but for those of its items and its log; what
        both domains know of their items must come from the same features.
      seed: seed of initialisation, order, dropout and negatives.
    """

    loss: LossConfig = field(default_factory=LossConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_size: int = 128
    max_epochs: int = 20
    packing: bool = True
    stride: int | None = None
    mask_rate: float = 0.3
    mask_last_share: float = 0.2
    behavior_weights: dict[str, float] = field(default_factory=dict)
    precision: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float | None = None
    validate_every: int = 1
    patience: int | None = 5
    checkpoint_seconds: float = 60.0
    stream_batches: int | None = None
    num_devices: int | None = None
    model_devices: int = 1
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    warm_start: str | None = None
    transfer_from: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(
            "training",
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            stride=self.stride,
            validate_every=self.validate_every,
            patience=self.patience,
            checkpoint_seconds=self.checkpoint_seconds,
            stream_batches=self.stream_batches,
            num_devices=self.num_devices,
            model_devices=self.model_devices,
        )
        if not (0 < self.mask_rate < 1 and 0 <= self.mask_last_share <= 1):
            raise ConfigError(
                "training.mask_rate must be between 0 and 1 and training.mask_last_share from 0 to 1, got "
                f"{self.mask_rate} and {self.mask_last_share}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay must be between 0 and 1, got {self.ema_decay}")
        if self.optimizer.rows == "read" and (self.loss.kind == "softmax" or self.ema_decay is not None):
            raise ConfigError(
                "training.optimizer.rows is read, but a softmax over all items and a running average (ema_decay) read "
                "every row in each step; choose a loss with negatives and no average, or rows: all"
            )
        if self.fine_tuning.base_bits == 8 and self.ema_decay is not None:
            raise ConfigError(
                "training.fine_tuning.base_bits is 8, whole numbers of which there is no running average; leave out "
                "training.ema_decay"
            )
        if self.warm_start is not None and self.transfer_from is not None:
            raise ConfigError(
                "training.warm_start goes on with a run and training.transfer_from begins another one from it; set one"
            )
        negative = {name: weight for name, weight in self.behavior_weights.items() if not weight >= 0}
        if negative:
            raise ConfigError(f"training.behavior_weights must not be negative, got {negative}")


def require_positive(section: str, **values: float | None) -> None:
    """Raise a ConfigError that names a field of a section unless its value is None or finite and positive."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{section}.{name} must be greater than 0, got {value}")


def parse_config(
    cls: type[Config], *, path: str | Path | None = None, overrides: Sequence[str] = (), values: Any = None
) -> Config:
    """A typed configuration from a YAML file or nested values, and `--section.field value` overrides.

    Args:
      cls: a frozen dataclass.
      path: YAML file.
      overrides: command-line words, which win.
      values: nested dictionary instead of a file, for example one that `config_dict` made.

    Returns:
      The configuration.

    Raises:
      ConfigError: no such file, not YAML, an unknown or doubled key (with the nearest valid one), a value of the
        wrong type or out of range.
    """
    where = "the configuration" if path is None else str(path)
    values = (values or {}) if path is None else _read_yaml(Path(path))
    _check_keys(cls, values, where=where)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, prog="", allow_abbrev=False)
    parser.add_class_arguments(cls)
    place = where
    try:
        namespace = parser.parse_object(values)
        place = "the command line" if overrides else where
        namespace = parser.parse_args(list(overrides), namespace=namespace)
        return _build(cls, namespace)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        if unknown := re.search(r"unrecognized arguments: --([\w.-]+)", text):
            raise ConfigError(_unknown_key(unknown[1], cls, place)) from error
        for pattern, plain in _PLAIN_WORDS:
            text = re.sub(pattern, plain, text)
        raise ConfigError(f"{place}: {text}") from error


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists, for YAML or JSON."""
    return yaml.safe_load(config_yaml(config))


def config_yaml(config: Any) -> str:
    """A configuration as YAML text, every field written out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True)


def field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of every field of a nested configuration."""
    names = []
    for entry in fields(cls):
        names.append(prefix + entry.name)
        if (section := _section(entry)) is not None:
            names += field_names(section, f"{prefix}{entry.name}.")
    return names


def _build(cls: Any, namespace: Any, prefix: str = "") -> Any:
    """Nested dataclasses out of parsed values; their own checks run here."""
    values, hints = {}, get_type_hints(cls)
    for entry in fields(cls):
        value, section = namespace[entry.name], _section(entry)
        if section is not None and not is_dataclass(value):
            value = _build(section, value, f"{prefix}{entry.name}.")
        if value is None and type(None) not in get_args(hints[entry.name]):  # the parser lets every null pass
            raise ConfigError(f"{prefix}{entry.name} must have a value, got null; leave it out for its default")
        values[entry.name] = value
    return cls(**values)


class _Loader(yaml.SafeLoader):
    """YAML without doubled keys, of which all but the last would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        if doubled := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {min(doubled)} occurs twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections and fields, found {type(values).__name__}")
    return values


def _check_keys(cls: type, values: Any, *, where: str, prefix: str = "", root: type | None = None) -> None:
    """Raise a ConfigError for a key that no field has, or a plain value where a section belongs."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix.rstrip('.')} is a section with fields of its own, got {values!r}")
    sections = {entry.name: _section(entry) for entry in fields(cls)}
    for key, value in values.items():
        if key not in sections:
            raise ConfigError(_unknown_key(f"{prefix}{key}", root or cls, where))
        section = sections[key]
        if section is not None:
            _check_keys(section, value, where=where, prefix=f"{prefix}{key}.", root=root or cls)


def _section(entry: Any) -> type | None:
    """The dataclass of a nested section, None for a plain field."""
    default = entry.default_factory() if callable(entry.default_factory) else entry.default
    return type(default) if is_dataclass(default) else None


def _unknown_key(key: str, cls: type, where: str) -> str:
    """The text for an unknown key: near names in its section, else the same or a near name elsewhere."""
    names = field_names(cls)
    section, _, last = key.rpartition(".")
    siblings = [name for name in names if name.rpartition(".")[0] == section]

    def near(candidates: list[str], cutoff: float) -> list[str]:
        lasts = [name.rpartition(".")[2] for name in candidates]
        found = difflib.get_close_matches(last, lasts, n=1, cutoff=cutoff)
        return [name for name, end in zip(candidates, lasts, strict=True) if end in found]

    nearest = near(siblings, 0.6) or near(names, 1.0) or near(names, 0.6)
    hint = f"did you mean {' or '.join(nearest[:3])}?" if nearest else f"the fields are {siblings}"
    return f"{where}: unknown key {key}; {hint}"
