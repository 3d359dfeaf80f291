"""Classifiers of a user, or of a user and an item: next category, purchase intent, churn, click, conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ShapeError
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike

Params: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ClassifierHeadConfig:
    """Settings of a classifier.

    Attributes:
      num_logits: K, number of exclusive classes, 1 for a binary label, or 2 for click and conversion.
      state_width: D, width of the user's states.
      item_width: E, width of the item vectors; None if the label is about the user alone.
      hidden_width: width of one hidden layer; None for a linear classifier.
      num_positions: P, number of positions of a page. The first logit is then that of an item being examined and
        clicked; the probability of examination is learned, one number a position, the same for all users. None if
        positions are not an input.
    """

    num_logits: Annotated[int, Interval("[1, inf)")] = 1
    state_width: Annotated[int, Interval("[1, inf)")] = 64
    item_width: Annotated[int, Interval("[1, inf)")] | None = None
    hidden_width: Annotated[int, Interval("[1, inf)")] | None = None
    num_positions: Annotated[int, Interval("[1, inf)")] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "heads")


class ClassifierHead(NamedTuple):
    """Pure functions over one parameter pytree.

    The logits go to `class_loss`, `logistic_loss` or `click_and_conversion_loss`, and through a `Calibration` to
    probabilities.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      logits: `logits(params, states [*B, D], item_vectors=None, positions=None) -> [*B, K]`, float32 for float32
        states; item vectors `[*B, E]` if the head has an item_width, positions `[*B]` int32 from 1 to P if it has
        num_positions. ShapeError for arrays that do not fit (at trace time).
    """

    init: Callable[[jax.Array], Params]
    logits: Callable[..., jax.Array]


def make_classifier_head(config: ClassifierHeadConfig) -> ClassifierHead:
    """The classifier that a config describes.

    The inputs for a user and an item are both vectors, and the elementwise product of the item's vector with a linear
    map of the user's; the sum of that product's entries would be a bilinear score.

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
        states: Float[ArrayLike, "*B D"],
        item_vectors: Float[ArrayLike, "*B E"] | None = None,
        positions: Int[ArrayLike, "*B"] | None = None,
    ) -> Float[Array, "*B K"]:
        if states.shape[-1] != config.state_width:
            raise ShapeError(f"states have shape {states.shape}, expected [*B, {config.state_width}]")
        if (item_vectors is None) != (config.item_width is None):
            expected = "no item vectors" if config.item_width is None else f"item vectors [*B, {config.item_width}]"
            raise ShapeError(f"the head takes {expected}, as heads.item_width says")
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
            raise ShapeError(f"the head takes {expected}, as heads.num_positions says")
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


def _linear(params: Params, inputs: Float[ArrayLike, "*B I"]) -> Float[Array, "*B O"]:
    outputs = inputs @ params["kernel"]
    return outputs + jnp.broadcast_to(params["bias"], outputs.shape)
