"""Which parameters are fine-tuned, and by what."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields


@dataclass(frozen=True)
class AdaLoraConfig:
    """The schedule by which AdaLoRA moves rank between layers.

    Attributes:
      initial_rank: rank of every adapter at the start.
      target_rank: mean rank of the adapters at the end.
      warmup_steps: steps before the first cut.
      final_steps: steps at the end in which the ranks stay as they are.
      interval: steps between cuts.
      beta1: decay of the smoothed sensitivity.
      beta2: decay of its uncertainty.
      orthogonality: weight of the term that keeps the adapters' factors orthogonal.
    """

    initial_rank: Annotated[int, Interval("[1, inf)")] = 12
    target_rank: Annotated[int, Interval("[1, inf)")] = 8
    warmup_steps: Annotated[int, Interval("[0, inf)")] = 0
    final_steps: Annotated[int, Interval("[0, inf)")] = 0
    interval: Annotated[int, Interval("[1, inf)")] = 1
    beta1: Annotated[float, Interval("(0, 1)")] = 0.85
    beta2: Annotated[float, Interval("(0, 1)")] = 0.85
    orthogonality: Annotated[float, Interval("[0, inf)")] = 0.5

    def __post_init__(self) -> None:
        check_fields(self, "fine_tuning.adalora")
        if self.target_rank > self.initial_rank:
            raise ConfigError(
                f"fine_tuning.adalora.target_rank is {self.target_rank}, which is above initial_rank, "
                f"{self.initial_rank}; lower it or raise initial_rank"
            )


@dataclass(frozen=True)
class FineTuningConfig:
    """Which parameters are trained; all others are frozen.

    A pattern is a path of names, `attention/query`, in which `*` stands for any part of a name. It may match anywhere
    in a parameter's path, name by name: `key` matches `layers/0/attention/key/kernel` and not `layers/0/keys`.

    Attributes:
      mode: whole, last_layers, bias, or an adapter beside every kernel, of fixed rank (lora) or of a rank that is
        found while training (adalora).
      targets: patterns of the paths that the mode applies to; none means all.
      also_train: patterns of parameters that are trained as they stand besides, such as heads.
      num_layers: last_layers only; how many of each stack of numbered layers.
      rank: lora only; rank of an adapter.
      alpha: an adapter's product is scaled by alpha / rank.
      ranks: rank by pattern, for adapters unlike the others; the last pattern that matches counts.
      alphas: alpha by pattern, likewise.
      adalora: adalora only; the schedule of ranks.
      base_bits: 8 keeps the frozen kernels of language models as int8; only for modes that train none of them.
    """

    mode: Literal["whole", "last_layers", "bias", "lora", "adalora"] = "whole"
    targets: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()
    num_layers: Annotated[int, Interval("[1, inf)")] = 1
    rank: Annotated[int, Interval("[1, inf)")] = 8
    alpha: Annotated[float, Interval("(0, inf)")] = 16.0
    ranks: dict[str, Annotated[int, Interval("[1, inf)")]] = field(default_factory=dict)
    alphas: dict[str, Annotated[float, Interval("(0, inf)")]] = field(default_factory=dict)
    adalora: AdaLoraConfig = field(default_factory=AdaLoraConfig)
    base_bits: Literal[8, 32] = 32

    def __post_init__(self) -> None:
        check_fields(self, "fine_tuning")
        has_adapters = self.mode in ("lora", "adalora")
        of_modes = {
            "num_layers": self.mode == "last_layers",
            "rank": self.mode == "lora",
            "alpha": has_adapters,
            "ranks": has_adapters,
            "alphas": has_adapters,
            "adalora": self.mode == "adalora",
            "base_bits": has_adapters or self.mode == "bias",
        }
        for entry in fields(self):
            value = getattr(self, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            if not of_modes.get(entry.name, True) and value != default:
                raise ConfigError(
                    f"fine_tuning.{entry.name} is {value}, but mode {self.mode} does not use it; leave it out"
                )
