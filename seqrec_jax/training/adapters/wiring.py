"""Fine-tuning within a training run: an optimizer of some of the parameters, and a model with adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from seqrec_jax.errors import ConfigError
from seqrec_jax.model import SequenceModel
from seqrec_jax.training.adapters.adalora import orthogonality_loss, with_adalora
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.int8 import quantize_base
from seqrec_jax.training.adapters.low_rank import attach_adapters, detach_adapters, init_adapters, merge_adapters
from seqrec_jax.training.adapters.partition import partition, recombine, trainable_paths
from seqrec_jax.training.adapters.paths import flat_params, nested_params

Params = dict[str, Any]
Rest = ParamSpec("Rest")
Output = TypeVar("Output")
READS_ADAPTERS = "language"
"""Key of the subtrees whose layers read adapters and int8 kernels; adapters elsewhere are merged into their kernels."""
_ADAPTER_STREAM = 0xADA7  # keeps the adapters' key apart from those of the parameters


def fine_tuning_optimizer(
    optimizer: optax.GradientTransformation, config: FineTuningConfig, *, total_steps: int
) -> optax.GradientTransformation:
    """An optimizer that updates the trained parameters only, and holds state for no others.

    Updates of frozen parameters are zeros whatever their gradients, which a compiled step then does not compute. The
    gradient of AdaLoRA's orthogonality term is added to that of the loss, so that the loss stays that of the task.

    Args:
      optimizer: optimizer of the trained parameters.
      config: which parameters are trained.
      total_steps: steps of the run, by which AdaLoRA moves ranks.

    Raises:
      ConfigError: a pattern that matches nothing (when the state is made).
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
    """The optimizer that `fine_tuning_optimizer` applies to the trained parameters, AdaLoRA's part included."""
    if config.mode != "adalora":
        return optimizer
    moving = with_adalora(optimizer, config=config.adalora, total_steps=total_steps)
    return _with_orthogonality(moving, config.adalora.orthogonality)


def with_adapters(model: SequenceModel, config: FineTuningConfig) -> SequenceModel:
    """The model whose parameters hold adapters, as its `init` and `add_adapters` make them.

    Args:
      model: the model without adapters.
      config: which layers get adapters; for other modes the model is returned with at most another `init`.

    Raises:
      ConfigError: a pattern that matches no layer (when parameters are made).
    """

    def init(key: PRNGKeyArray) -> Params:
        return add_adapters(model.init(key), config, key=key)

    if config.mode not in ("lora", "adalora"):
        return model if config.base_bits == 32 else model._replace(init=init)

    def over_merged(
        function: Callable[Concatenate[Params, Rest], Output],
    ) -> Callable[Concatenate[Params, Rest], Output]:
        def with_merged(params: Params, /, *arguments: Rest.args, **options: Rest.kwargs) -> Output:
            return function(merge_where_unread(params), *arguments, **options)

        return with_merged

    return model._replace(
        init=init,
        encode=over_merged(model.encode),
        encode_last=over_merged(model.encode_last),
        item_vectors=over_merged(model.item_vectors),
        project=over_merged(model.project),
        append=over_merged(model.append),
    )


def add_adapters(params: Params, config: FineTuningConfig, *, key: PRNGKeyArray) -> Params:
    """Parameters with new adapters, which change no output yet, over a base of the configured bits.

    Args:
      params: parameters of the model without adapters.
      config: mode, targets and bits of the base.
      key: consumed.

    Raises:
      ConfigError: a pattern that matches no layer, or `base_bits: 8` for a model without a language model.
    """
    if config.mode in ("lora", "adalora"):
        adapters = init_adapters(params, config=config, key=jax.random.fold_in(key, _ADAPTER_STREAM))
        params = attach_adapters(params, adapters)
    if config.base_bits != 8:
        return params
    if not any(READS_ADAPTERS in path.split("/") for path in flat_params(params)):
        raise ConfigError(
            "fine_tuning.base_bits is 8, which is for kernels of language models, and the model has no language model; "
            "leave it out"
        )
    return quantize_base(params, patterns=(READS_ADAPTERS,))


def merge_where_unread(params: Params) -> Params:
    """Parameters whose adapters are merged into their kernels, except those that layers of language models read."""
    base, adapters = detach_adapters(params)
    flat = flat_params(adapters)
    read = {path: leaf for path, leaf in flat.items() if READS_ADAPTERS in path.split("/")}
    others = {path: leaf for path, leaf in flat.items() if path not in read}
    merged = merge_adapters(attach_adapters(base, nested_params(others)))
    return attach_adapters(merged, nested_params(read))


def _with_orthogonality(optimizer: optax.GradientTransformation, weight: float) -> optax.GradientTransformation:
    def update(grads: Params, state: optax.OptState, trained: Any = None) -> tuple[Any, optax.OptState]:
        penalty = jax.grad(lambda factors: weight * orthogonality_loss(factors))(trained)
        updates, state = optimizer.update(jax.tree.map(jnp.add, grads, penalty), state, trained)
        return updates, state

    return optax.GradientTransformation(optimizer.init, update)
