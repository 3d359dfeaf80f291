"""Fit a classifier head to labelled rows over fixed vectors, and calibrate it on rows that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqrec_jax.errors import DataError
from seqrec_jax.heads.calibration import Calibration, fit_platt, fit_temperature
from seqrec_jax.heads.classifier import ClassifierHead
from seqrec_jax.heads.early_stopping import FittingConfig, fit_with_early_stopping
from seqrec_jax.losses import class_loss, click_and_conversion_loss, logistic_loss
from seqrec_jax.settings import check_choice
from seqrec_jax.types import ArrayLike

Params: TypeAlias = dict[str, Any]
Column: TypeAlias = Any
"""`[N]` integers: a NumPy array on the host, a JAX array on the device."""
HeadKind = Literal["yes_no", "click_and_conversion", "classes"]

_ROWS_AT_A_TIME = 2**14
_EXAMINED = 0.9  # initial probability that the most clicked position is examined; only its product with clicks is known


@dataclass(frozen=True)
class HeadTrainingConfig(FittingConfig):
    """Settings of a head and its fitting; `FittingConfig` describes the optimisation settings.

    Attributes:
      hidden_width: width of the hidden layer; None for a linear head.
      since_last: the time from the user's last event to the prediction is an input of the head; the state alone does
        not depend on the prediction time. For labels that do, such as whether a user comes back.
    """

    hidden_width: int | None = None
    since_last: bool = False


class Examples(NamedTuple):
    """N labelled rows, each about a user at a time and, if the head has an item_width, about an item.

    Attributes:
      moments: `[N]` int32 row of the states, one a user and time.
      labels: `[N]` int32, 0 or 1, or a class from 1.
      item_ids: `[N]` int32 row of the item vectors; None if the label is about the user alone.
      positions: `[N]` int32 position of the item from 1; None if positions are not an input.
      conversions: `[N]` int32, 1 if a click was followed by a conversion, else 0; None for other kinds.
    """

    moments: Column
    labels: Column
    item_ids: Column | None = None
    positions: Column | None = None
    conversions: Column | None = None


class FittedHead(NamedTuple):
    """Parameters, calibrations and loss history of a fitted head.

    Attributes:
      params: parameters of the epoch with the lowest validation loss, NumPy arrays.
      calibrations: one for all classes, one for a binary label, or one for clicks and one for conversions after a
        click.
      losses: a pair (training, validation) of mean losses an epoch.
    """

    params: Params
    calibrations: tuple[Calibration, ...]
    losses: list[tuple[float, float]]


def fit_head(
    head: ClassifierHead,
    states: Float[ArrayLike, "M D"],
    item_vectors: Float[ArrayLike, "V1 E"] | None,
    *,
    kind: HeadKind,
    training: Examples,
    validation: Examples,
    interaction: Float[np.ndarray, "D E"] | None = None,
    config: HeadTrainingConfig = HeadTrainingConfig(),
) -> FittedHead:
    """Fit a head to the training rows with early stopping on the validation rows, then calibrate its logits on these.

    Args:
      head: has the number of logits of the kind: 1, 2 (click, conversion after a click), or one a class.
      states: `[M, D]` float32 states of users at the times of the rows; not fitted.
      item_vectors: `[V+1, E]` float32, not fitted; None for a head about users alone.
      kind: decides the loss and the calibration: Platt scaling of each binary label, a temperature for classes.
      training: rows that the parameters are fitted to.
      validation: held-out rows, better after the training rows in time.
      interaction: `[D, E]` W of a model whose scores are v_xᵀ W v_y, initial value of the head's linear map; None
        keeps the random one.
      config: optimisation settings.

    Returns:
      Parameters, calibrations and losses.

    Raises:
      DataError: no rows, or rows of one outcome only, in either part.
      ConfigError: an unknown kind.
    """
    check_choice("kind", kind, HeadKind)
    for name, examples in (("training", training), ("validation", validation)):
        _check_outcomes(examples, kind, name)
    vectors = (jnp.asarray(states), None if item_vectors is None else jnp.asarray(item_vectors))
    examples = jax.tree.map(lambda column: jnp.asarray(column, jnp.int32), training)

    def batch_loss(params: Params, vectors: Any, batch: Examples, key: Array) -> Array:
        return jnp.mean(_losses(kind, _logits(head, params, vectors, batch), batch))

    def validation_loss(params: Params) -> float:
        logits = head_logits(head, params, states, item_vectors, validation)
        return float(jnp.mean(_losses(kind, jnp.asarray(logits), jax.tree.map(jnp.asarray, validation))))

    key = jax.random.key(config.seed)
    params = _start(head.init(key), training, kind=kind, interaction=interaction)
    best, losses = fit_with_early_stopping(
        params, examples, batch_loss, validation_loss, fixed=vectors, config=config, key=key
    )
    logits = head_logits(head, best, states, item_vectors, validation)
    return FittedHead(jax.tree.map(np.asarray, best), _calibrations(kind, logits, validation), losses)


def head_logits(
    head: ClassifierHead,
    params: Params,
    states: Float[ArrayLike, "M D"],
    item_vectors: Float[ArrayLike, "V1 E"] | None,
    rows: Examples,
) -> Float[np.ndarray, "N K"]:
    """Logits of labelled rows, without calibration; the labels are not used.

    Args:
      head: the classifier.
      params: of the head.
      states: `[M, D]` float32.
      item_vectors: `[V+1, E]` float32; None for a head about users alone.
      rows: N rows.

    Returns:
      `[N, K]` float32.
    """
    compute = jax.jit(partial(_logits, head))
    vectors = (jnp.asarray(states), None if item_vectors is None else jnp.asarray(item_vectors))
    count, parts = len(rows.moments), []
    size = min(_ROWS_AT_A_TIME, max(1, count))
    for start in range(0, count, size):
        part = np.minimum(np.arange(start, start + size), count - 1)  # one shape, so that it compiles once
        tile = jax.tree.map(lambda column, part=part: jnp.asarray(np.asarray(column)[part], jnp.int32), rows)
        parts.append(np.asarray(compute(params, vectors, tile)))
    return np.concatenate(parts)[:count]


def _start(params: Params, rows: Examples, *, kind: HeadKind, interaction: np.ndarray | None) -> Params:
    """Initial parameters: a bias with the frequency of each class or label, and of clicks at each position."""
    output = params["output"]
    labels = np.asarray(rows.labels)
    if kind == "classes":
        counts = np.bincount(labels, minlength=len(output["bias"]) + 1)[1:]
        bias = np.log((counts + 1) / (counts.sum() + len(counts)))
    else:
        chances = [labels.mean()]
        if kind == "click_and_conversion":
            chances.append(np.asarray(rows.conversions)[labels > 0].mean())
        if rows.positions is not None:
            examined = params["examination"]["logits"]
            shown = np.bincount(rows.positions, minlength=len(examined))
            rates = (np.bincount(rows.positions, weights=labels, minlength=len(examined)) + chances[0]) / (shown + 1)
            most = rates.max()
            params["examination"] = {"logits": jnp.asarray(_logit(_EXAMINED * rates / most), jnp.float32)}
            chances[0] = most / _EXAMINED
        bias = _logit(np.array(chances))
    params["output"] = {"kernel": jnp.zeros_like(output["kernel"]), "bias": jnp.asarray(bias, jnp.float32)}
    if interaction is not None:
        params["interaction"] = {**params["interaction"], "kernel": jnp.asarray(interaction, jnp.float32)}
    return params


def _logit(chances: np.ndarray) -> np.ndarray:
    return np.log(chances) - np.log1p(-np.minimum(chances, 0.999))


def _logits(head: ClassifierHead, params: Params, vectors: Any, rows: Examples) -> Float[Array, "N K"]:
    states, item_vectors = vectors
    about = None if item_vectors is None else item_vectors[rows.item_ids]
    return head.logits(params, states[rows.moments], about, rows.positions)


def _losses(kind: HeadKind, logits: Float[Array, "N K"], rows: Examples) -> Float[Array, " N"]:
    if kind == "classes":
        return class_loss(logits, rows.labels)
    if kind == "yes_no":
        return logistic_loss(logits[:, 0], rows.labels)
    assert rows.conversions is not None
    return click_and_conversion_loss(logits[:, 0], logits[:, 1], clicks=rows.labels, conversions=rows.conversions)


def _calibrations(kind: HeadKind, logits: np.ndarray, rows: Examples) -> tuple[Calibration, ...]:
    labels = np.asarray(rows.labels)
    if kind == "classes":
        return (fit_temperature(logits, labels),)
    of_click = fit_platt(logits[:, 0], labels > 0)
    if kind == "yes_no":
        return (of_click,)
    clicked = labels > 0
    return of_click, fit_platt(logits[clicked, 1], np.asarray(rows.conversions)[clicked] > 0)


def _check_outcomes(rows: Examples, kind: HeadKind, name: str) -> None:
    """Raise a DataError unless the rows have both outcomes, or two classes."""
    labels = np.asarray(rows.labels)
    if not len(labels):
        raise DataError(f"there are no {name} rows; a head needs rows before and after the validation's start")
    if kind == "classes":
        if len(np.unique(labels[labels > 0])) < 2:
            raise DataError(f"the {name} rows have fewer than two classes, so there is nothing to tell apart")
        return
    outcomes = {"label": labels}
    if kind == "click_and_conversion":
        outcomes["conversion after a click"] = np.asarray(rows.conversions)[labels > 0]
    for what, found in outcomes.items():
        if not found.any() or found.all():
            raise DataError(
                f"the {len(found):,} {name} rows for the {what} are all {'positive' if found.any() else 'negative'}; a "
                "head needs both outcomes in training and validation rows: give more rows"
            )
