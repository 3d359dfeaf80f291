"""Parameters in two trees, trained and frozen, and back in one."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import optax

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.paths import flat_params, is_adapter, matching, nested_params, require_matches

Params = dict[str, Any]
_NUMBERED = re.compile(r"^(.*?_)?(\d+)$")  # layers/3 or block_3


def trainable_paths(params: Params, config: FineTuningConfig) -> list[str]:
    """Sorted paths of the parameters that a configuration trains.

    Args:
      params: the tree; for lora and adalora with adapters attached.
      config: the mode, its targets, and what is trained besides.

    Raises:
      ConfigError: a pattern, or the mode, that matches nothing.
    """
    paths = [path for path, leaf in flat_params(params).items() if not isinstance(leaf, dict)]
    plain = [path for path in paths if not is_adapter(path)]
    require_matches(config.targets, plain, field="fine_tuning.targets", kind="parameter")
    require_matches(config.also_train, plain, field="fine_tuning.also_train", kind="parameter")
    targeted = matching(config.targets, paths) if config.targets else paths
    if config.mode in ("lora", "adalora"):
        chosen = [path for path in targeted if is_adapter(path) and not path.endswith("/scale")]
    else:
        chosen = [path for path in targeted if not is_adapter(path)]
    if config.mode == "last_layers":
        chosen = _last_layers(chosen, config.num_layers)
    elif config.mode == "bias":
        chosen = [path for path in chosen if path.rpartition("/")[2] == "bias"]
    if not chosen:
        what = {"last_layers": "numbered layer", "bias": "bias"}.get(config.mode, "adapter; attach adapters first")
        raise ConfigError(
            f"fine_tuning.mode is {config.mode}, but there is no {what} at {config.targets or 'any path'}"
        )
    chosen = sorted({*chosen, *matching(config.also_train, plain)})
    if quantized := [path for path in chosen if path.endswith("/kernel_int8")]:
        raise ConfigError(
            f"{quantized[0]} has 8 bits and cannot be trained; choose lora, or keep it out of the patterns"
        )
    return chosen


def partition(params: Params, paths: Collection[str]) -> tuple[Params, Params]:
    """`(trainable, frozen)`: the tree of the parameters at the paths, and that of all others."""
    flat, chosen = flat_params(params), set(paths)
    trainable = {path: leaf for path, leaf in flat.items() if path in chosen}
    return nested_params(trainable), nested_params({path: flat[path] for path in flat if path not in chosen})


def recombine(frozen: Params, trainable: Params) -> Params:
    """One tree of two; of a parameter in both, that of `trainable` is taken."""
    return nested_params(flat_params(frozen) | flat_params(trainable))


class FineTuningSummary(NamedTuple):
    """Sizes of a fine-tuning.

    Attributes:
      num_parameters: parameters, trained and frozen.
      num_trainable: trained parameters.
      share: trained parameters over all, in [0, 1].
      parameter_bytes: bytes of all parameters.
      optimizer_bytes: bytes of the optimizer's state.
    """

    num_parameters: int
    num_trainable: int
    share: float
    parameter_bytes: int
    optimizer_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.num_trainable:,} of {self.num_parameters:,} parameters are trained ({self.share:.2%}); parameters "
            f"{self.parameter_bytes / 1e6:,.1f} MB, optimizer {self.optimizer_bytes / 1e6:,.1f} MB"
        )


def describe(trainable: Params, frozen: Params, *, optimizer: optax.GradientTransformation) -> FineTuningSummary:
    """Counts and bytes of a fine-tuning; the optimizer's state is not allocated.

    Args:
      trainable: trained parameters, as `partition` gives them.
      frozen: all others.
      optimizer: optimizer of the trained parameters.
    """
    trained, still = jax.tree.leaves(trainable), jax.tree.leaves(frozen)
    num_trainable = sum(leaf.size for leaf in trained)
    num_parameters = num_trainable + sum(leaf.size for leaf in still)
    state = jax.tree.leaves(jax.eval_shape(optimizer.init, trainable))
    return FineTuningSummary(
        num_parameters=num_parameters,
        num_trainable=num_trainable,
        share=num_trainable / num_parameters,
        parameter_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in trained + still),
        optimizer_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in state),
    )


def _last_layers(paths: list[str], num_layers: int) -> list[str]:
    """Paths in the last layers of each outermost stack of numbered layers."""
    layer_of: dict[str, tuple[str, int]] = {}
    for path in paths:
        names = path.split("/")[:-1]
        for depth, name in enumerate(names):
            if found := _NUMBERED.match(name):
                layer_of[path] = ("/".join([*names[:depth], found[1] or ""]), int(found[2]))
                break
    layers: dict[str, set[int]] = {}
    for stack, number in layer_of.values():
        layers.setdefault(stack, set()).add(number)
    if layers and num_layers > (most := max(map(len, layers.values()))):
        raise ConfigError(f"fine_tuning.num_layers is {num_layers}, but there are only {most} layers; choose fewer")
    last = {(stack, number) for stack, numbers in layers.items() for number in sorted(numbers)[-num_layers:]}
    return [path for path in paths if layer_of.get(path) in last]
