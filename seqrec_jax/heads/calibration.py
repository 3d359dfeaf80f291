"""Calibration of logits: a slope and an intercept, fitted on examples held out from training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.types import ArrayLike

_SLOPES = (1e-3, 1e3)  # for examples separated without error, the best slope would be infinite
_NUM_STEPS = 100


class Calibration(NamedTuple):
    """Calibrated logits are slope · logit + intercept; their sigmoid or softmax is the probability.

    Attributes:
      slope: 1 / temperature.
      intercept: 0 if only a temperature was fitted.
    """

    slope: float
    intercept: float

    def __call__(self, logits: Float[ArrayLike, "*B"]) -> Float[ArrayLike, "*B"]:
        """The calibrated logits, in the shape and dtype of `logits`."""
        return logits * self.slope + self.intercept


def fit_temperature(
    logits: Num[ArrayLike, "N K"] | Num[ArrayLike, " N"], classes: Int[ArrayLike, " N"] | Bool[ArrayLike, " N"]
) -> Calibration:
    """The temperature with the lowest cross entropy of the scaled logits; it does not change their order.

    Args:
      logits: `[N, K]` numbers of held-out examples, column j that of class j + 1; or `[N]` of a binary label.
      classes: `[N]` integers from 1 to K, 0 (unknown) is left out; or bool for a binary label.

    Returns:
      A slope from 0.001 to 1000, and intercept 0.

    Raises:
      ShapeError: arrays that do not fit.
      DataError: no example, or a logit that is not finite.

    Source:
      Guo et al. (2017), On Calibration of Modern Neural Networks.

    >>> round(fit_temperature(np.array([4.0, 4.0, 4.0, -4.0]), np.array([True, True, False, False])).slope, 3)
    0.275
    """
    scores, labels = _examples(logits, classes)
    if scores.ndim == 1:  # a binary label has a softmax of two logits, one of which is 0
        scores, labels = np.stack([np.zeros_like(scores), scores], axis=1), 1 + labels.astype(int)
    scores, labels = scores[labels > 0], labels[labels > 0]
    if not len(scores):
        raise DataError("no example with a class to fit a temperature on")
    own = scores[np.arange(len(scores)), labels - 1].mean()

    def rises(slope: float) -> bool:
        """Whether the loss, which is convex in the slope, rises there."""
        chances = np.exp(slope * scores - (slope * scores).max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return bool((chances * scores).sum(axis=1).mean() > own)

    low, high = np.log(_SLOPES)
    for _ in range(_NUM_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(np.exp(middle)) else (middle, high)
    return Calibration(float(np.exp(low)), 0.0)


def fit_platt(logits: Num[ArrayLike, " N"], labels: Bool[ArrayLike, " N"]) -> Calibration:
    """Platt scaling: the slope and intercept of a logistic regression of a binary label on its logit.

    The regression's targets are (N⁺ + 1) / (N⁺ + 2) and 1 / (N⁻ + 2) instead of 1 and 0, so that the slope stays finite
    if the logits separate the examples without error.

    Args:
      logits: `[N]` numbers of held-out examples.
      labels: `[N]` bool.

    Returns:
      Slope and intercept; the slope is negative if larger logits go with fewer positive labels.

    Raises:
      ShapeError: arrays that do not fit.
      DataError: no example, or a logit that is not finite.

    Source:
      Platt (1999), Probabilistic outputs for support vector machines; Lin et al. (2007), A note on Platt's
      probabilistic outputs, for Newton's method with steps that are halved.

    >>> calibration = fit_platt(np.zeros(4), np.array([True, False, False, False]))
    >>> bool(np.isclose(1 / (1 + np.exp(-calibration.intercept)), (2 / 3 + 3 / 5) / 4))
    True
    """
    scores, happened = _examples(logits, labels)
    if scores.ndim != 1:
        raise ShapeError(
            f"logits have shape {scores.shape}, expected [N] of a binary label; for classes use fit_temperature"
        )
    num_true = int(happened.sum())
    targets = np.where(happened, (num_true + 1) / (num_true + 2), 1 / (len(scores) - num_true + 2))
    centre, spread = scores.mean(), scores.std() or 1.0
    inputs = np.stack([(scores - centre) / spread, np.ones_like(scores)], axis=1)

    def loss(weights: np.ndarray) -> float:
        values = inputs @ weights
        return float(np.mean(np.logaddexp(0.0, values) - targets * values))

    weights = np.zeros(2)
    for _ in range(_NUM_STEPS):
        chances = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chances - targets) / len(scores)
        curvature = (inputs.T * (chances * (1 - chances))) @ inputs / len(scores)
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while size > 1e-6 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(gradient).max() < 1e-12:
            break
    return Calibration(float(weights[0] / spread), float(weights[1] - weights[0] * centre / spread))


def _examples(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Float64 logits and labels that fit them: bool beside `[N]`, classes beside `[N, K]`."""
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim not in (1, 2) or labels.shape != scores.shape[:1]:
        raise ShapeError(f"logits have shape {scores.shape} and labels {labels.shape}, expected [N] or [N, K], and [N]")
    if labels.dtype.kind not in ("b" if scores.ndim == 1 else "iu"):
        raise ShapeError(
            f"labels are {labels.dtype} beside logits of shape {scores.shape}, expected bool beside [N] and integer "
            "classes beside [N, K]"
        )
    if scores.ndim == 2 and len(labels) and not (labels.min() >= 0 and labels.max() <= scores.shape[1]):
        raise DataError(f"classes are from {labels.min()} to {labels.max()}, expected 0 (unknown) to {scores.shape[1]}")
    if not len(scores) or not np.isfinite(scores).all():
        raise DataError("calibration needs at least one example, and logits that are finite")
    return scores, labels
