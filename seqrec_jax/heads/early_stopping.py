"""Epochs over examples with early stopping: the loop that fits every head to fixed vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from seqrec_jax.settings import Interval, check_fields


@dataclass(frozen=True)
class FittingConfig:
    """Optimisation settings of a head.

    Attributes:
      batch_size: examples a step.
      max_epochs: largest number of epochs, each a pass over the training examples.
      patience: epochs without a lower validation loss after which fitting stops.
      learning_rate: of AdamW.
      weight_decay: of AdamW.
      seed: of the initial parameters and of the order of examples.
    """

    batch_size: Annotated[int, Interval("[1, inf)")] = 512
    max_epochs: Annotated[int, Interval("[1, inf)")] = 30
    patience: Annotated[int, Interval("[1, inf)")] = 3
    learning_rate: Annotated[float, Interval("(0, inf)")] = 1e-3
    weight_decay: Annotated[float, Interval("[0, inf)")] = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "heads")


def fit_with_early_stopping(
    params: Any,
    examples: Any,
    batch_loss: Callable[[Any, Any, Any, Array], Array],
    validation_loss: Callable[[Any], float],
    *,
    fixed: Any,
    config: FittingConfig,
    key: PRNGKeyArray,
) -> tuple[Any, list[tuple[float, float]]]:
    """Fit parameters with AdamW over shuffled examples; stop when the validation loss no longer falls.

    Args:
      params: initial parameters.
      examples: pytree of device arrays `[N, ...]`, one row an example.
      batch_loss: `batch_loss(params, fixed, batch, key)`, a scalar; `key` is for random draws of the step.
      validation_loss: parameters to the loss that decides when to stop.
      fixed: pytree of arrays that every step reads and that are not fitted.
      config: optimisation settings.
      key: PRNG key, consumed.

    Returns:
      The parameters of the epoch with the lowest validation loss, and a pair (training, validation) loss an epoch.
    """
    num_rows = len(jax.tree.leaves(examples)[0])
    batch_size = min(config.batch_size, num_rows)
    num_steps = num_rows // batch_size
    optimizer = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    @jax.jit
    def one_pass(params: Any, moments: Any, fixed: Any, examples: Any, key: Array) -> Any:
        order = jax.random.permutation(key, num_rows)[: num_steps * batch_size].reshape(num_steps, batch_size)

        def step(carry: Any, drawn: Any) -> Any:
            (params, moments), (rows, step_key) = carry, drawn
            batch = jax.tree.map(lambda column: column[rows], examples)
            value, gradient = jax.value_and_grad(batch_loss)(params, fixed, batch, step_key)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        step_keys = jax.random.split(jax.random.fold_in(key, 0), num_steps)
        return jax.lax.scan(step, (params, moments), (order, step_keys))

    moments, best, least, since, losses = optimizer.init(params), params, np.inf, 0, []
    for number in range(1, config.max_epochs + 1):
        (params, moments), values = one_pass(params, moments, fixed, examples, jax.random.fold_in(key, number))
        value = validation_loss(params)
        losses.append((float(values.mean()), value))
        since += 1
        if value < least:
            least, best, since = value, params, 0
        if since >= config.patience:
            break
    return best, losses
