"""Classifiers of a user's state, or of a user and an item: next category, purchase intent, churn, click, conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ConfigError, ShapeError

Params: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ClassifierHeadConfig:
    """Settings of a classifier.

    Attributes:
      num_logits: K: classes that exclude each other, one for a single yes or no, or two for click and conversion.
      state_width: D of the user's states.
      item_width: E of the vectors of the items that the decision is about; None where it is about the user alone.
      hidden_width: of one layer in between; None for a linear classifier.
      num_positions: P, places of a page. The first logit is then that of an item which is looked at and taken: how
        often a place is looked at is learnt, one number a place, the same for all users. None where there are none.
    """

    num_logits: int = 1
    state_width: int = 64
    item_width: int | None = None
    hidden_width: int | None = None
    num_positions: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_logits", "state_width", "item_width", "hidden_width", "num_positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"heads.{name} must be at least 1, got {value}")


class ClassifierHead(NamedTuple):
    """Pure functions over one parameter pytree.

    The logits go to `class_loss`, `logistic_loss` or `click_and_conversion_loss`, and through a `Calibration` to
    probabilities.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      logits: `logits(params, states [*B, D], item_vectors=None, positions=None) -> [*B, K]`; item vectors `[*B, E]`
        where the decision is about an item, positions `[*B]` int32 from 1 to P where it stands in a place.
    """

    init: Callable[[jax.Array], Params]
    logits: Callable[..., jax.Array]


def make_classifier_head(config: ClassifierHeadConfig) -> ClassifierHead:
    """The classifier that a config describes.

    Of a user and an item it sees both vectors, and the product of the item's with a linear map of the user's: the sum
    of that product's entries would be a bilinear score.

    >>> head = make_classifier_head(ClassifierHeadConfig(num_logits=3, state_width=4))
    >>> head.logits(head.init(jax.random.key(0)), jnp.ones((2, 5, 4))).shape
    (2, 5, 3)
    """
    width = config.state_width if config.item_width is None else config.state_width + 2 * config.item_width
    inner_width = width if config.hidden_width is None else config.hidden_width

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        params: Params = {"output": _init_linear(keys[0], inner_width, config.num_logits)}
        if config.hidden_width is not None:
            params["hidden"] = _init_linear(keys[1], width, inner_width)
        if config.item_width is not None:
            params["interaction"] = _init_linear(keys[2], config.state_width, config.item_width)
        if config.num_positions is not None:
            params["examination"] = {"logits": jnp.zeros(config.num_positions + 1, jnp.float32)}
        return params

    def logits(
        params: Params,
        states: Float[Array, "*B D"],
        item_vectors: Float[Array, "*B E"] | None = None,
        positions: Int[Array, "*B"] | None = None,
    ) -> Float[Array, "*B K"]:
        if states.shape[-1] != config.state_width:
            raise ShapeError(f"states have shape {states.shape}, expected [*B, {config.state_width}]")
        if (item_vectors is None) != (config.item_width is None):
            expected = "no item vectors" if config.item_width is None else f"item vectors [*B, {config.item_width}]"
            raise ShapeError(f"the head is for {expected}, as heads.item_width says")
        inputs = states
        if item_vectors is not None:
            if item_vectors.shape != (*states.shape[:-1], config.item_width):
                raise ShapeError(
                    f"item_vectors have shape {item_vectors.shape}, expected {(*states.shape[:-1], config.item_width)}"
                )
            product = _linear(params["interaction"], states) * item_vectors
            inputs = jnp.concatenate([states, item_vectors, product], axis=-1)
        if config.hidden_width is not None:
            inputs = jax.nn.gelu(_linear(params["hidden"], inputs))
        outputs = _linear(params["output"], inputs)
        if (positions is None) != (config.num_positions is None):
            expected = "no positions" if config.num_positions is None else f"positions 1 to {config.num_positions}"
            raise ShapeError(f"the head is for {expected}, as heads.num_positions says")
        if positions is None:
            return outputs
        if positions.shape != states.shape[:-1]:
            raise ShapeError(f"positions have shape {positions.shape}, expected {states.shape[:-1]}")
        taken = _logit_of_both(params["examination"]["logits"][positions], outputs[..., 0])
        return jnp.concatenate([taken[..., None], outputs[..., 1:]], axis=-1)

    return ClassifierHead(init, logits)


def _logit_of_both(first: Float[Array, "*B"], second: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The logit of σ(first) σ(second), since (1 − p) / p = e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ for p = σ(a) σ(b)."""
    return -jax.nn.logsumexp(jnp.stack([-first, -second, -first - second]), axis=0)


def _init_linear(key: Array, num_inputs: int, num_outputs: int) -> Params:
    kernel = jax.nn.initializers.lecun_normal()(key, (num_inputs, num_outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(num_outputs, jnp.float32)}


def _linear(params: Params, inputs: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    outputs = inputs @ params["kernel"]
    return outputs + jnp.broadcast_to(params["bias"], outputs.shape)
