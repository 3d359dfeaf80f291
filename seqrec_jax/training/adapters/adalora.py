"""AdaLoRA: ranks of the adapters by the importance of their singular values for the loss.

An adapter is `scale a diag(singular) b`. After each update the products of parameter and gradient give the importance
of every part; on a schedule the least important singular values of all adapters together are set to zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import AdaLoraConfig
from seqrec_jax.training.adapters.paths import flat_params, nested_params
from seqrec_jax.types import ArrayLike

Params = dict[str, Any]
_SINGULAR = "/adapter/singular"


class AdaLoraState(NamedTuple):
    """Importance of the adapters' parts after some updates, in trees like that of the adapters.

    Attributes:
      step: int32 scalar, number of updates.
      sensitivity: running mean of `|parameter × gradient|` for every factor.
      uncertainty: running mean of the distance from that mean.
      kept: `[R]` bool beside every `singular`, True for the values that the last cut kept.
    """

    step: Int[Array, ""]
    sensitivity: Params
    uncertainty: Params
    kept: Params


def init_adalora(trainable: Params) -> AdaLoraState:
    """The state before the first step: importance zero, all singular values kept.

    Args:
      trainable: trained parameters with adapters of mode adalora.

    Raises:
      ConfigError: there is no adapter with singular values.
    """
    factors = _factors(flat_params(trainable))
    zeros = nested_params(jax.tree.map(jnp.zeros_like, factors))
    kept = {path: jnp.ones(leaf.shape, dtype=bool) for path, leaf in factors.items() if path.endswith(_SINGULAR)}
    return AdaLoraState(jnp.zeros((), dtype=jnp.int32), zeros, zeros, nested_params(kept))


def adalora_step(
    state: AdaLoraState, trainable: Params, grads: Params, *, config: AdaLoraConfig, total_steps: int
) -> tuple[AdaLoraState, Params]:
    """Measure importance after an update, and set the singular values beyond the budget to zero.

    The importance of a triplet is that of its singular value plus the mean importances of its column of `a` and its
    row of `b`, each the product of sensitivity and uncertainty. The least important triplets are cut until the budget
    is met, with all that are as important as the last of them. Until the final steps a value that was cut may grow
    again.

    Args:
      state: the state of `init_adalora` or of the step before.
      trainable: parameters after the optimizer's update; only adapters are changed.
      grads: the gradient of the update, that of the orthogonality term included.
      config: schedule and decays.
      total_steps: steps of the whole run.

    Returns:
      The next state, and the parameters with the cut values set to zero.

    Raises:
      ConfigError: warm-up and final steps that leave no step to cut in.

    Source:
      Zhang et al. (2023), AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning.
    """
    first_final = _first_final_step(config, total_steps)
    flat, step = flat_params(trainable), state.step + 1
    factors, flat_grads = _factors(flat), flat_params(grads)
    means, spreads = flat_params(state.sensitivity), flat_params(state.uncertainty)
    is_measuring = step < first_final
    for path, value in factors.items():
        product = jnp.abs(value * flat_grads[path])
        mean = config.beta1 * means[path] + (1 - config.beta1) * product
        spread = config.beta2 * spreads[path] + (1 - config.beta2) * jnp.abs(product - mean)
        means[path] = jnp.where(is_measuring, mean, means[path])
        spreads[path] = jnp.where(is_measuring, spread, spreads[path])
    layers = _layers(factors)
    scores = {layer: _triplet_scores(means, spreads, layer) for layer in layers}
    ordered = jnp.sort(jnp.concatenate(list(scores.values())))
    target = min(config.target_rank * len(layers), len(ordered))
    budget = partial(rank_budget, initial=len(ordered), target=target, config=config, total_steps=total_steps)
    budgets = jnp.asarray([budget(number) for number in range(first_final + 1)], dtype=jnp.int32)
    num_cut = len(ordered) - budgets[jnp.minimum(step, first_final)]
    threshold = jnp.where(num_cut > 0, ordered[jnp.maximum(num_cut, 1) - 1], -jnp.inf)
    is_due = (step > config.warmup_steps) & (step < first_final) & (step % config.interval == 0)
    is_due |= step == first_final
    kept = flat_params(state.kept)
    for layer in layers:
        path = layer + _SINGULAR
        kept[path] = jnp.where(is_due, scores[layer] > threshold, kept[path])
        is_cut = (is_due | (step > first_final)) & ~kept[path]
        flat[path] = jnp.where(is_cut, jnp.zeros_like(flat[path]), flat[path])
    return AdaLoraState(step, *map(nested_params, (means, spreads, kept))), nested_params(flat)


def adapter_ranks(state: AdaLoraState) -> dict[str, int]:
    """Number of singular values that the last cut kept, by the path of the layer."""
    return {path.removesuffix(_SINGULAR): int(kept.sum()) for path, kept in flat_params(state.kept).items()}


def rank_budget(step: int, *, initial: int, target: int, config: AdaLoraConfig, total_steps: int) -> int:
    """Number of singular values of all adapters together after a step: a cubic from `initial` to `target`.

    >>> config = AdaLoraConfig(warmup_steps=10, final_steps=10)
    >>> [rank_budget(step, initial=24, target=16, config=config, total_steps=100) for step in (10, 11, 50, 90, 100)]
    [24, 23, 17, 16, 16]
    """
    first_final = _first_final_step(config, total_steps)
    if step <= config.warmup_steps:
        return initial
    left = 1 - (min(step, first_final) - config.warmup_steps) / (first_final - config.warmup_steps)
    return int((initial - target) * left**3 + target)


def orthogonality_loss(trainable: Params) -> Float[Array, ""]:
    """Mean over the factors of `‖aᵀa - I‖` and `‖b bᵀ - I‖` in the Frobenius norm, float32 scalar.

    Args:
      trainable: trained parameters with adapters of mode adalora.

    Raises:
      ConfigError: there is no adapter with singular values.
    """
    factors = _factors(flat_params(trainable))
    distances = []
    for layer in _layers(factors):
        a, b = factors[f"{layer}/adapter/a"], factors[f"{layer}/adapter/b"]
        for products in (a.T @ a, b @ b.T):
            distances.append(optax.safe_norm(products - jnp.eye(len(products), dtype=products.dtype), 0.0))
    return jnp.mean(jnp.stack(distances))


class AdaLoraOptimizerState(NamedTuple):
    """State of an optimizer, and importance of the adapters' parts."""

    inner: optax.OptState
    ranks: AdaLoraState


def with_adalora(
    optimizer: optax.GradientTransformation, *, config: AdaLoraConfig, total_steps: int
) -> optax.GradientTransformation:
    """An optimizer whose updates also move rank between adapters, as `adalora_step` after each update would.

    Args:
      optimizer: optimizer of the trained parameters.
      config: schedule and decays.
      total_steps: steps of the whole run.
    """

    def init(trainable: Params) -> AdaLoraOptimizerState:
        return AdaLoraOptimizerState(optimizer.init(trainable), init_adalora(trainable))

    def update(grads: Params, state: AdaLoraOptimizerState, trainable: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(grads, state.inner, trainable)
        moved = optax.apply_updates(trainable, updates)
        ranks, allocated = adalora_step(state.ranks, moved, grads, config=config, total_steps=total_steps)
        updates = jax.tree.map(
            lambda update, before, after, wanted: jnp.where(after == wanted, update, wanted - before),
            updates,
            trainable,
            moved,
            allocated,
        )
        return updates, AdaLoraOptimizerState(inner, ranks)

    return optax.GradientTransformation(init, update)


def _first_final_step(config: AdaLoraConfig, total_steps: int) -> int:
    first_final = total_steps - config.final_steps
    if config.warmup_steps >= first_final:
        raise ConfigError(
            f"fine_tuning.adalora.warmup_steps ({config.warmup_steps}) and final_steps ({config.final_steps}) leave "
            f"none of the {total_steps} steps of the run to cut ranks in; lower them"
        )
    return first_final


def _layers(flat: dict[str, Any]) -> list[str]:
    return [path.removesuffix(_SINGULAR) for path in flat if path.endswith(_SINGULAR)]


def _factors(flat: dict[str, Any]) -> dict[str, ArrayLike]:
    """`a`, `b` and `singular` of every adapter, by path."""
    layers = _layers(flat)
    if not layers:
        raise ConfigError("there is no adapter with singular values; make adapters with fine_tuning.mode adalora")
    paths = [f"{layer}/adapter/{name}" for layer in layers for name in ("a", "b", "singular")]
    return {path: flat[path] for path in paths}


def _triplet_scores(means: dict[str, Array], spreads: dict[str, Array], layer: str) -> Float[Array, " R"]:
    """Importance of a layer's triplets."""
    a, b, singular = (
        means[path] * spreads[path] for path in (f"{layer}/adapter/{name}" for name in ("a", "b", "singular"))
    )
    return singular + a.mean(axis=0) + b.mean(axis=1)
