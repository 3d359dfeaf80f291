"""AdaLoRA: which singular values of the adapters are kept, by how much the loss depends on them.

An adapter is `scale a diag(singular) b`. After each update the products of parameter and gradient say how important
every part is; on a schedule the least important singular values of all adapters together are set to zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ConfigError
from seqrec_jax.training.adapters.config import AdaLoraConfig
from seqrec_jax.training.adapters.paths import flat_params, nested_params

Params = dict[str, Any]
_SINGULAR = "/adapter/singular"


class AdaLoraState(NamedTuple):
    """What is remembered from step to step, arrays by path.

    Attributes:
      step: int32 number of updates seen.
      sensitivity: running mean of `|parameter × gradient|`, for every factor.
      uncertainty: running mean of its distance from that mean.
      kept: `[R]` bool a layer, which singular values the last cut left.
    """

    step: Int[Array, ""]
    sensitivity: dict[str, Array]
    uncertainty: dict[str, Array]
    kept: dict[str, Array]


def init_adalora(trainable: Params) -> AdaLoraState:
    """The state before the first step: nothing measured, everything kept.

    Raises:
      ConfigError: there is no adapter with singular values.
    """
    factors = _factors(flat_params(trainable))
    zeros = jax.tree.map(jnp.zeros_like, factors)
    kept = {layer: jnp.ones(factors[layer + _SINGULAR].shape, dtype=bool) for layer in _layers(factors)}
    return AdaLoraState(jnp.zeros((), dtype=jnp.int32), zeros, zeros, kept)


def adalora_step(
    state: AdaLoraState, trainable: Params, grads: Params, *, config: AdaLoraConfig, total_steps: int
) -> tuple[AdaLoraState, Params]:
    """Measure importance after an update, and set to zero the singular values that are over the budget.

    Importance of a triplet is that of its singular value plus the means of those of its column of `a` and row of
    `b`, each the product of sensitivity and uncertainty. Of all triplets the least important are cut until the
    budget is met; those as important as the last of them go too. Until the final steps a value that was cut may grow
    again.

    Args:
      state: of `init_adalora` or the step before.
      trainable: parameters after the optimizer's update; what is no adapter stays as it is.
      grads: the gradient that the update was made from, with that of the orthogonality.
      config: schedule and decays.
      total_steps: steps of the whole run.

    Returns:
      The next state, and the parameters with what was cut set to zero.

    Raises:
      ConfigError: warm-up and final steps that leave no step to cut in.

    Source:
      Zhang et al. (2023), AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning.
    """
    first_final = _first_final_step(config, total_steps)
    flat, step = flat_params(trainable), state.step + 1
    factors, flat_grads = _factors(flat), flat_params(grads)
    is_measuring = step < first_final
    sensitivity, uncertainty = {}, {}
    for path, value in factors.items():
        product, old = jnp.abs(value * flat_grads[path]), state.sensitivity[path]
        mean = config.beta1 * old + (1 - config.beta1) * product
        spread = config.beta2 * state.uncertainty[path] + (1 - config.beta2) * jnp.abs(product - mean)
        sensitivity[path] = jnp.where(is_measuring, mean, old)
        uncertainty[path] = jnp.where(is_measuring, spread, state.uncertainty[path])
    scores = {layer: _triplet_scores(sensitivity, uncertainty, layer) for layer in state.kept}
    ordered = jnp.sort(jnp.concatenate(list(scores.values())))
    targets = config.target_rank * len(scores)
    budgets = [
        rank_budget(number, initial=len(ordered), target=targets, config=config, total_steps=total_steps)
        for number in range(first_final + 1)
    ]
    num_cut = len(ordered) - jnp.asarray(budgets, dtype=jnp.int32)[jnp.minimum(step, first_final)]
    threshold = jnp.where(num_cut > 0, ordered[jnp.maximum(num_cut, 1) - 1], -jnp.inf)
    is_due = (step > config.warmup_steps) & (step < first_final) & (step % config.interval == 0)
    is_due |= step == first_final
    kept = {layer: jnp.where(is_due, score > threshold, state.kept[layer]) for layer, score in scores.items()}
    is_cut = is_due | (step > first_final)
    for layer, keep in kept.items():
        singular = flat[layer + _SINGULAR]
        flat[layer + _SINGULAR] = jnp.where(is_cut & ~keep, jnp.zeros_like(singular), singular)
    return AdaLoraState(step, sensitivity, uncertainty, kept), nested_params(flat)


def rank_budget(step: int, *, initial: int, target: int, config: AdaLoraConfig, total_steps: int) -> int:
    """Singular values that all adapters together may have after a step: a cubic from `initial` to `target`.

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
    """Mean over the factors of `‖aᵀa - I‖` and `‖b bᵀ - I‖` in the Frobenius norm; add it to the loss by its weight."""
    factors = _factors(flat_params(trainable))
    distances = []
    for layer in _layers(factors):
        a, b = factors[f"{layer}/adapter/a"], factors[f"{layer}/adapter/b"]
        for products in (a.T @ a, b @ b.T):
            distances.append(optax.safe_norm(products - jnp.eye(len(products), dtype=products.dtype), 0.0))
    return jnp.mean(jnp.stack(distances))


class AdaLoraOptimizerState(NamedTuple):
    """State of an optimizer and of the ranks that it moves."""

    inner: optax.OptState
    ranks: AdaLoraState


def with_adalora(
    optimizer: optax.GradientTransformation, *, config: AdaLoraConfig, total_steps: int
) -> optax.GradientTransformation:
    """An optimizer whose updates also move rank between adapters, as `adalora_step` after each update would."""

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


def _layers(factors: dict[str, Array]) -> list[str]:
    return [path.removesuffix(_SINGULAR) for path in factors if path.endswith(_SINGULAR)]


def _factors(flat: dict[str, Any]) -> dict[str, Array]:
    """`a`, `b` and `singular` of every adapter, by path."""
    layers = _layers(flat)
    if not layers:
        raise ConfigError("there is no adapter with singular values; make adapters with fine_tuning.mode adalora")
    return {f"{layer}/adapter/{name}": flat[f"{layer}/adapter/{name}"] for layer in layers for name in ("a", "b")} | {
        layer + _SINGULAR: flat[layer + _SINGULAR] for layer in layers
    }


def _triplet_scores(sensitivity: dict[str, Array], uncertainty: dict[str, Array], layer: str) -> Float[Array, " R"]:
    """Importance of a layer's triplets."""
    names = {name: f"{layer}/adapter/{name}" for name in ("a", "b", "singular")}
    scores = {name: sensitivity[path] * uncertainty[path] for name, path in names.items()}
    return scores["singular"] + scores["a"].mean(axis=0) + scores["b"].mean(axis=1)
