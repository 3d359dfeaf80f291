"""Which parameters are fine-tuned, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from seqrec_jax.errors import ConfigError


@dataclass(frozen=True)
class AdaLoraConfig:
    """How AdaLoRA moves rank between layers.

    Attributes:
      initial_rank: rank of every adapter at the start.
      target_rank: mean rank of the adapters at the end.
      warmup_steps: steps before the first cut.
      final_steps: steps at the end in which the ranks stand still.
      interval: steps between cuts.
      beta1: decay of the smoothed sensitivity.
      beta2: decay of its uncertainty.
      orthogonality: weight of the term that keeps the adapters' factors orthogonal.
    """

    initial_rank: int = 12
    target_rank: int = 8
    warmup_steps: int = 0
    final_steps: int = 0
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.5

    def __post_init__(self) -> None:
        section = "fine_tuning.adalora"
        if not 1 <= self.target_rank <= self.initial_rank:
            raise ConfigError(
                f"{section}.target_rank must be from 1 to initial_rank ({self.initial_rank}), got {self.target_rank}"
            )
        if self.warmup_steps < 0 or self.final_steps < 0 or self.interval < 1:
            raise ConfigError(
                f"{section}.warmup_steps and final_steps must not be negative and interval at least 1, got "
                f"{self.warmup_steps}, {self.final_steps} and {self.interval}"
            )
        if not (0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ConfigError(f"{section}.beta1 and beta2 must be between 0 and 1, got {self.beta1} and {self.beta2}")
        if not 0 <= self.orthogonality < math.inf:
            raise ConfigError(f"{section}.orthogonality must not be negative, got {self.orthogonality}")


@dataclass(frozen=True)
class FineTuningConfig:
    """Which parameters are trained; all others are frozen.

    A pattern is a path of names, `attention/query`, in which `*` stands for any part of a name; it is looked for
    anywhere in a parameter's path, name by name, so that `key` finds `layers/0/attention/key/kernel` and not `keys`.

    Attributes:
      mode: whole, last_layers, bias, or an adapter beside every kernel, which lora gives a fixed rank and adalora one
        that it finds.
      targets: patterns of the paths that the mode is about; none means all.
      also_train: patterns of what is trained as it stands besides, as heads are.
      num_layers: last_layers only; how many of each stack of numbered layers.
      rank: lora only; rank of an adapter.
      alpha: an adapter's product is scaled by alpha / rank.
      ranks: rank by pattern, for adapters unlike the others; the last that matches counts.
      alphas: alpha by pattern, likewise.
      adalora: adalora only; how the ranks are found.
      base_bits: 8 keeps the kernels of language models, which are frozen, as whole numbers of 8 bits; only for modes
        that train none of them.
    """

    mode: Literal["whole", "last_layers", "bias", "lora", "adalora"] = "whole"
    targets: tuple[str, ...] = ()
    also_train: tuple[str, ...] = ()
    num_layers: int = 1
    rank: int = 8
    alpha: float = 16.0
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    adalora: AdaLoraConfig = field(default_factory=AdaLoraConfig)
    base_bits: Literal[8, 32] = 32

    def __post_init__(self) -> None:
        ranks = {"rank": self.rank} | {f"ranks[{pattern}]": rank for pattern, rank in self.ranks.items()}
        for name, rank in ({"num_layers": self.num_layers} | ranks).items():
            if rank < 1:
                raise ConfigError(f"fine_tuning.{name} must be at least 1, got {rank}")
        alphas = {"alpha": self.alpha} | {f"alphas[{pattern}]": alpha for pattern, alpha in self.alphas.items()}
        for name, alpha in alphas.items():
            if not 0 < alpha < math.inf:
                raise ConfigError(f"fine_tuning.{name} must be greater than 0, got {alpha}")
        self._check_together()

    def _check_together(self) -> None:
        """Raise a ConfigError for a field that the mode leaves without effect."""
        has_adapters = self.mode in ("lora", "adalora")
        if self.base_bits not in (8, 32):
            raise ConfigError(f"fine_tuning.base_bits must be 8 or 32, got {self.base_bits}")
        of_modes = {
            "num_layers": self.mode == "last_layers",
            "rank": self.mode == "lora",
            "alpha": has_adapters,
            "ranks": has_adapters,
            "alphas": has_adapters,
            "adalora": self.mode == "adalora",
            "base_bits": has_adapters or self.mode == "bias",
        }
        defaults = type(self).__dataclass_fields__
        for name, has_effect in of_modes.items():
            entry, value = defaults[name], getattr(self, name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            if not has_effect and value != default:
                raise ConfigError(f"fine_tuning.{name} is {value}, but mode {self.mode} does not use it; leave it out")
