"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.views import ContrastiveConfig

LossKind = Literal[
    "softmax", "sampled_softmax", "binary_cross_entropy", "generalized_binary_cross_entropy", "bpr", "bpr_max"
]


@dataclass(frozen=True)
class LossConfig:
    """The objective.

    Attributes:
      kind: softmax (over all items), sampled_softmax (logQ corrected), binary_cross_entropy,
        generalized_binary_cross_entropy (gBCE), bpr or bpr_max.
      num_negatives: negatives of each target; fewer if a batch has fewer targets to draw them from.
      negatives: uniform over the items with training events, by popularity, in_batch (other targets) or mixed (half
        in_batch, half uniform).
      negatives_per: unit that shares negatives: the whole batch, a row, or a target (slow, and large in memory); None
        means batch for in_batch and mixed, else row.
      popularity_power: popularity draws by training counts to this power.
      temperature: divides the scores.
      label_smoothing: softmax only; share of the loss that is spread over all items.
      calibration: generalized_binary_cross_entropy only; t, from 0 (plain) to 1 (scores become probabilities).
      score_penalty: bpr_max only; weight of the negatives' squared scores.
      propensity_power: targets are weighted by the count of their item to minus this power; 0 weighs all alike, 0.5 is
        usual.
    """

    kind: LossKind = "softmax"
    num_negatives: Annotated[int, Interval("[1, inf)")] = 256
    negatives: Literal["uniform", "popularity", "in_batch", "mixed"] = "uniform"
    negatives_per: Literal["batch", "row", "target"] | None = None
    popularity_power: Annotated[float, Interval("[0, inf)")] = 0.75
    temperature: Annotated[float, Interval("(0, inf)")] = 1.0
    label_smoothing: Annotated[float, Interval("[0, 1)")] = 0.0
    calibration: Annotated[float, Interval("[0, 1]")] = 0.75
    score_penalty: Annotated[float, Interval("[0, inf)")] = 1.0
    propensity_power: Annotated[float, Interval("[0, inf)")] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "training.loss")
        self._check_together()

    def _check_together(self) -> None:
        """Raise a ConfigError for a field that has no effect or makes no sense beside the others."""
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
      learning_rate: learning rate at the peak of the schedule.
      schedule: constant, or cosine or linear decay to zero at the last step.
      warmup_steps: steps of linear rise from zero.
      weight_decay: adamw and lion only; biases, norms and position and behaviour embeddings are exempt.
      clip_norm: largest global gradient norm; None for no clipping.
      b1: decay of the first moment, or momentum of sgd.
      b2: decay of the second moment.
      rows: rows of the id embeddings that a step updates: all, or those that it reads, at a cost that does not grow
        with the catalogue; moments and weight decay of the other rows then wait.
    """

    name: Literal["adamw", "adam", "sgd", "adagrad", "lion"] = "adamw"
    learning_rate: Annotated[float, Interval("(0, inf)")] = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Annotated[int, Interval("[0, inf)")] = 0
    weight_decay: Annotated[float, Interval("[0, inf)")] = 0.0
    clip_norm: Annotated[float, Interval("(0, inf)")] | None = None
    b1: Annotated[float, Interval("[0, 1)")] = 0.9
    b2: Annotated[float, Interval("[0, 1)")] = 0.999
    rows: Literal["all", "read"] = "all"

    def __post_init__(self) -> None:
        check_fields(self, "training.optimizer")
        if self.weight_decay and self.name not in ("adamw", "lion"):
            raise ConfigError(
                f"training.optimizer.weight_decay is {self.weight_decay}, but {self.name} has none; choose adamw or "
                "lion, or leave it 0"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
      loss: the objective.
      contrastive: a contrastive loss between two views of each sequence, added to the objective.
      optimizer: optimizer and schedule.
      batch_size: rows of a step, over all devices.
      max_epochs: passes over the training windows.
      packing: put several users into a row, so that few positions are padding.
      stride: events between the ends of a long user's windows; None means windows that do not overlap.
      mask_rate: share of the events that are masked for a model that predicts masked events (bert4rec).
      mask_last_share: share of the sequences of which only the last event is masked, as in a recommendation.
      behavior_weights: weight of a target by its behaviour; 1 if not named, and 0 excludes it. The targets of an
        evaluation are set by split.target_behaviors.
      precision: float32, or bfloat16 for the encoder's arithmetic (parameters stay float32).
      ema_decay: decay of a running average of the parameters, which is then evaluated and saved; None for no average.
      validate_every: epochs between validations.
      patience: validations without improvement before training stops; None never stops early.
      checkpoint_seconds: seconds between checkpoints besides those at validations.
      stream_batches: batches whose events are on the device at a time, for a log that does not fit there; None keeps
        all events on the device, which is faster.
      num_devices: devices to use; None means all that are visible.
      model_devices: devices over which item tables, the softmax over all items and their optimizer state are split;
        the batch is split over num_devices / model_devices.
      fine_tuning: which parameters are trained, all by default; adapters (lora, adalora) among them.
      warm_start: run directory whose parameters are continued; the dataset must extend its vocabulary.
      transfer_from: run of another domain whose parameters are the start, except those of its items and its log; the
        content of the items must come from the same features in both domains.
      seed: seed of initialisation, order, dropout and negatives.
    """

    loss: LossConfig = field(default_factory=LossConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_size: Annotated[int, Interval("[1, inf)")] = 128
    max_epochs: Annotated[int, Interval("[1, inf)")] = 20
    packing: bool = True
    stride: Annotated[int, Interval("[1, inf)")] | None = None
    mask_rate: Annotated[float, Interval("(0, 1)")] = 0.3
    mask_last_share: Annotated[float, Interval("[0, 1]")] = 0.2
    behavior_weights: dict[str, Annotated[float, Interval("[0, inf)")]] = field(default_factory=dict)
    precision: Literal["float32", "bfloat16"] = "float32"
    ema_decay: Annotated[float, Interval("(0, 1)")] | None = None
    validate_every: Annotated[int, Interval("[1, inf)")] = 1
    patience: Annotated[int, Interval("[1, inf)")] | None = 5
    checkpoint_seconds: Annotated[float, Interval("(0, inf)")] = 60.0
    stream_batches: Annotated[int, Interval("[1, inf)")] | None = None
    num_devices: Annotated[int, Interval("[1, inf)")] | None = None
    model_devices: Annotated[int, Interval("[1, inf)")] = 1
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    warm_start: str | None = None
    transfer_from: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "training")
        if self.optimizer.rows == "read" and (self.loss.kind == "softmax" or self.ema_decay is not None):
            raise ConfigError(
                "training.optimizer.rows is read, but a softmax over all items and a running average (ema_decay) read "
                "every row in each step; choose a loss with negatives and no average, or rows: all"
            )
        if self.fine_tuning.base_bits == 8 and self.ema_decay is not None:
            raise ConfigError(
                "an int8 base (training.fine_tuning.base_bits: 8) cannot be combined with training.ema_decay; "
                "remove one of the two"
            )
        if self.warm_start is not None and self.transfer_from is not None:
            raise ConfigError(
                "training.warm_start continues a run and training.transfer_from starts one in another domain; "
                "set one of the two"
            )
