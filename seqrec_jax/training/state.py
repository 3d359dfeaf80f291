"""The training state, its start, and the Optax optimizer with its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from seqrec_jax.errors import ConfigError
from seqrec_jax.model import weight_decay_mask
from seqrec_jax.training.config import OptimizerConfig

Params: TypeAlias = dict[str, Any]


class TrainState(NamedTuple):
    """State of a run; a pytree of plain arrays.

    Attributes:
      params: parameters of the model.
      optimizer: state of the update, see `Update`; Optax state for the ordinary one.
      average: running average of the parameters; an empty dict if none is kept.
      step: int32 scalar, number of updates made.
    """

    params: Params
    optimizer: optax.OptState
    average: Params
    step: Int[Array, ""]


def make_schedule(config: OptimizerConfig, *, total_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up, then constant, or cosine or linear decay to zero after the last step.

    Args:
      config: peak, schedule and warm-up.
      total_steps: steps of the whole run.

    Raises:
      ConfigError: a warm-up that is as long as the run or longer.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup >= total_steps:
        raise ConfigError(
            f"training.optimizer.warmup_steps is {warmup}, but the run has only {total_steps} steps; lower it or "
            "raise training.max_epochs"
        )
    decay_steps = total_steps - warmup
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
    }[config.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(config: OptimizerConfig, *, total_steps: int) -> optax.GradientTransformation:
    """The Optax chain: clipping, then the optimizer with its schedule and masked weight decay.

    Args:
      config: the optimizer.
      total_steps: steps of the whole run, by which the schedule decays.

    Raises:
      ConfigError: a warm-up that is as long as the run or longer.
    """
    rate = make_schedule(config, total_steps=total_steps)
    update = {
        "adamw": lambda: optax.adamw(
            rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=weight_decay_mask
        ),
        "adam": lambda: optax.adam(rate, b1=config.b1, b2=config.b2),
        "sgd": lambda: optax.sgd(rate, momentum=config.b1),
        "adagrad": lambda: optax.adagrad(rate),
        "lion": lambda: optax.lion(
            rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=weight_decay_mask
        ),
    }[config.name]()
    if config.clip_norm is not None:
        update = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)

    def update_in_standard_promotion(*arguments: Any, **options: Any) -> tuple[Params, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes dtypes, also where the caller's rule is strict
            updated: tuple[Params, optax.OptState] = update.update(*arguments, **options)
        return updated

    return optax.GradientTransformation(update.init, update_in_standard_promotion)


@runtime_checkable
class _Initialises(Protocol):
    """An Optax optimizer or an `Update`, of which only `init` is used here."""

    @property
    def init(self) -> Callable[[Params], optax.OptState]: ...


def init_state(params: Params, optimizer: _Initialises, *, with_average: bool) -> TrainState:
    """The state before the first step, made of copies, since a step donates the buffers of its state.

    Args:
      params: parameters of the model.
      optimizer: an Optax optimizer or an `Update`, whose `init` makes its state.
      with_average: whether a running average of the parameters is kept.
    """
    average = jax.tree.map(jnp.copy, params) if with_average else {}
    params = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimizer.init(params), average, jnp.zeros((), dtype=jnp.int32))


def evaluated_params(state: TrainState) -> Params:
    """The parameters that are validated, saved for serving and reported: the average if one is kept."""
    return state.average or state.params
