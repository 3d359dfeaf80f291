"""Passes over examples that end by themselves: the loop that fits every head to vectors which stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array

from seqrec_jax.errors import ConfigError


@dataclass(frozen=True)
class PassesConfig:
    """How parameters go through examples.

    Attributes:
      batch_size: examples a step.
      max_epochs: passes over the examples.
      patience: passes without a better loss on the validation examples before the end.
      learning_rate: of AdamW.
      weight_decay: of AdamW.
      seed: of the first parameters and of the order of examples.
    """

    batch_size: int = 512
    max_epochs: int = 30
    patience: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"learning_rate must be positive and weight_decay not negative, got {self.learning_rate} and "
                f"{self.weight_decay}"
            )


def fit_by_passes(
    params: Any,
    examples: Any,
    batch_loss: Callable[[Any, Any, Any, Array], Array],
    validation_loss: Callable[[Any], float],
    *,
    fixed: Any,
    config: PassesConfig,
    key: Array,
) -> tuple[Any, list[tuple[float, float]]]:
    """Passes over shuffled examples until the validation loss has not fallen for so many; the best pass stays.

    Args:
      params: to begin with.
      examples: a pytree of device arrays `[N, ...]`, a row an example.
      batch_loss: `batch_loss(params, fixed, batch, key)`, a scalar; the key is for what is drawn in a step.
      validation_loss: parameters to the figure that ends the passes.
      fixed: arrays that every step reads and none changes.
      config: how.
      key: PRNG key, consumed.

    Returns:
      The parameters of the pass with the least validation loss, and a pair (training, validation) a pass.
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
