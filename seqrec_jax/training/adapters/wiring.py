"""A fine-tuning in a training run: the optimizer that trains a part, and a model whose parameters hold adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqrec_jax.model import SequenceModel
from seqrec_jax.training.adapters.adalora import orthogonality_loss, with_adalora
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import quantize_base
from seqrec_jax.training.adapters.low_rank import attach_adapters, detach_adapters, init_adapters, merge_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths
from seqrec_jax.training.adapters.paths import flat_params, nested_params

Params = dict[str, Any]
READS_ADAPTERS = "language"
"""Name of the subtrees whose layers add their adapters themselves; everywhere else they are merged."""
_ADAPTER_STREAM = 0xADA7  # keeps the adapters' key apart from those of the parameters


def fine_tuning_optimizer(
    optimizer: optax.GradientTransformation, config: FineTuningConfig, *, total_steps: int
) -> optax.GradientTransformation:
    """An optimizer that moves what a fine-tuning trains, and holds no state for the rest.

    The updates of the rest are zeros whatever their gradients, which a compiled step then does not compute. AdaLoRA's
    orthogonality comes in by its gradient, so that the loss stays that of the task.

    Args:
      optimizer: of the trained part.
      config: what is trained.
      total_steps: steps of the run, by which AdaLoRA moves ranks.
    """
    if config.mode == "whole" and not config.targets:
        return optimizer
    inner = trained_part_optimizer(optimizer, config, total_steps=total_steps)

    def trainable(params: Params) -> tuple[Params, Params]:
        return partition(params, trainable_paths(params, config))

    def init(params: Params) -> optax.OptState:
        return inner.init(trainable(params)[0])

    def update(grads: Params, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        trained, frozen = trainable(params)
        paths = list(flat_params(trained))
        updates, state = inner.update(partition(grads, paths)[0], state, trained)
        return recombine(jax.tree.map(jnp.zeros_like, frozen), updates), state

    return optax.GradientTransformation(init, update)


def trained_part_optimizer(
    optimizer: optax.GradientTransformation, config: FineTuningConfig, *, total_steps: int
) -> optax.GradientTransformation:
    """What `fine_tuning_optimizer` applies to the trained part alone: the optimizer, with AdaLoRA's share around it."""
    if config.mode != "adalora":
        return optimizer
    moving = with_adalora(optimizer, config=config.adalora, total_steps=total_steps)
    return _with_orthogonality(moving, config.adalora.orthogonality)


def with_adapters(model: SequenceModel, config: FineTuningConfig) -> SequenceModel:
    """The model over parameters as `add_adapters` leaves them, which its own `init` makes.

    Raises:
      ConfigError: a pattern that matches no layer (when parameters are made).
    """

    def init(key: jax.Array) -> Params:
        return add_adapters(model.init(key), config, key=key)

    if config.mode not in ("lora", "adalora"):
        return model if config.base_bits == 32 else model._replace(init=init)

    def over_merged(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *arguments, **options: function(merge_where_unread(params), *arguments, **options)

    return model._replace(
        init=init,
        encode=over_merged(model.encode),
        encode_last=over_merged(model.encode_last),
        item_vectors=over_merged(model.item_vectors),
        project=over_merged(model.project),
        append=over_merged(model.append),
    )


def add_adapters(params: Params, config: FineTuningConfig, *, key: jax.Array) -> Params:
    """Parameters with fresh adapters, which change nothing yet, over a base of the configured bits."""
    if config.mode in ("lora", "adalora"):
        adapters = init_adapters(params, config=config, key=jax.random.fold_in(key, _ADAPTER_STREAM))
        params = attach_adapters(params, adapters)
    return quantize_base(params, patterns=(READS_ADAPTERS,)) if config.base_bits == 8 else params


def merge_where_unread(params: Params) -> Params:
    """Parameters whose adapters are merged into their kernels, but where a language model's layers read them."""
    base, adapters = detach_adapters(params)
    flat = flat_params(adapters)
    read = {path: leaf for path, leaf in flat.items() if READS_ADAPTERS in path.split("/")}
    others = {path: leaf for path, leaf in flat.items() if path not in read}
    merged = merge_adapters(attach_adapters(base, nested_params(others)))
    return attach_adapters(merged, nested_params(read))


def _with_orthogonality(optimizer: optax.GradientTransformation, weight: float) -> optax.GradientTransformation:
    def update(grads: Params, state: optax.OptState, trained: Any = None) -> tuple[Any, optax.OptState]:
        penalty = jax.grad(lambda factors: weight * orthogonality_loss(factors))(trained)
        return optimizer.update(jax.tree.map(jnp.add, grads, penalty), state, trained)

    return optax.GradientTransformation(optimizer.init, update)
