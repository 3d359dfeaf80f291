"""Metrics of scores and probabilities with binary labels, such as click or no click; nothing is ranked.

Arrays are `[*B, N]`: N decisions, of one user or of the whole log (`[N]`), with one value for each of `*B`. A label is
True, or 1, if the event happened. A nan in the input is nan in the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.metrics.inputs import count_true, defined, mask_like, number_array, share, static_integer, visible
from seqrec_jax.types import ArrayLike


def log_loss(
    probabilities: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Float[Array, "*B"]:
    """Mean −log of the forecast probability of the observed label; smaller is better.

    Probabilities are kept 1.2e-7 away from 0 and 1, so that one certain and wrong forecast costs 16 and not infinity.

    Args:
      probabilities: `[*B, N]` numbers, probability of a True label, in [0, 1].
      labels: `[*B, N]` bool, or integers 0 and 1.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      `[*B]` float32 in nats; nan without decisions.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a NumPy value that is no probability or no label.

    Source:
      Good (1952), Rational decisions.

    >>> log_loss(jnp.array([0.5, 0.25]), jnp.array([True, False])).round(4)  # (log 2 + log 4/3) / 2
    Array(0.4904, dtype=float32)
    """
    chances, happened, where = _forecasts(probabilities, labels, where)
    margin = float(np.finfo(np.float32).eps)
    kept = jnp.clip(chances, margin, 1 - margin)
    losses = -jnp.log(jnp.where(happened, kept, 1 - kept))
    return share(jnp.sum(jnp.where(where, losses, 0.0), axis=-1), count_true(where))


def brier_score(
    probabilities: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Float[Array, "*B"]:
    """Mean squared distance between the probability and the label; smaller is better.

    Args:
      probabilities: `[*B, N]` numbers, probability of a True label, in [0, 1].
      labels: `[*B, N]` bool, or integers 0 and 1.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without decisions.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a NumPy value that is no probability or no label.

    Source:
      Brier (1950), Verification of forecasts expressed in terms of probability.

    >>> brier_score(jnp.array([0.5, 1.0]), jnp.array([True, False]))
    Array(0.625, dtype=float32)
    """
    chances, happened, where = _forecasts(probabilities, labels, where)
    squares = jnp.square(chances - happened.astype(jnp.float32))
    return share(jnp.sum(jnp.where(where, squares, 0.0), axis=-1), count_true(where))


class Reliability(NamedTuple):
    """Forecast and observed frequency, by bins of the forecast.

    Attributes:
      forecast: `[*B, bins]` float32 mean probability of the decisions in a bin, nan in an empty one.
      frequency: `[*B, bins]` float32 share of their labels that are True, nan in an empty one.
      counts: `[*B, bins]` int32 number of decisions in a bin.
    """

    forecast: Float[Array, "*B bins"]
    frequency: Float[Array, "*B bins"]
    counts: Int[Array, "*B bins"]


def reliability(
    probabilities: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    num_bins: int = 10,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Reliability:
    """The reliability curve: whether events forecast at 30 % happen in 30 % of cases.

    Bins are equally wide and closed on the right: (0, 1/n], (1/n, 2/n], …; the first holds 0 as well.

    Args:
      probabilities: `[*B, N]` numbers, probability of a True label, in [0, 1].
      labels: `[*B, N]` bool, or integers 0 and 1.
      num_bins: number of bins, at least 1.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      Forecast, frequency and number of decisions of each bin.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: num_bins < 1.
      DataError: a NumPy value that is no probability or no label.

    >>> reliability(jnp.array([0.1, 0.3, 0.9]), jnp.array([False, True, True]), num_bins=2).frequency
    Array([0.5, 1. ], dtype=float32)
    """
    chances, happened, where = _forecasts(probabilities, labels, where)
    bins = static_integer(num_bins, "num_bins")
    inner_edges = jnp.asarray(np.linspace(0, 1, bins + 1)[1:-1], dtype=jnp.float32)
    # a nan makes the forecast of the bin that it falls into nan
    bin_of = jnp.searchsorted(inner_edges, chances, side="left", method="compare_all")
    shape = (*chances.shape[:-1], bins, chances.shape[-1])
    member = bin_of[..., None, :] == jax.lax.broadcasted_iota(bin_of.dtype, shape, len(shape) - 2)
    member &= where[..., None, :]
    counts = count_true(member)
    forecast = share(jnp.sum(jnp.where(member, chances[..., None, :], 0.0), axis=-1), counts)
    return Reliability(forecast, share(count_true(member & happened[..., None, :]), counts), counts)


def expected_calibration_error(
    probabilities: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    num_bins: int = 10,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Float[Array, "*B"]:
    """Mean distance between forecast and frequency over the bins of `reliability`, weighted by their decisions.

    It depends on the number of bins, and is above 0 by chance even if the forecasts are right: report the numbers of
    bins and of decisions with it.

    Args:
      probabilities: `[*B, N]` numbers, probability of a True label, in [0, 1].
      labels: `[*B, N]` bool, or integers 0 and 1.
      num_bins: number of bins, at least 1.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without decisions.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      ConfigError: num_bins < 1.
      DataError: a NumPy value that is no probability or no label.

    Source:
      Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian binning.

    >>> expected_calibration_error(jnp.array([0.25, 0.25, 0.75]), jnp.array([False, True, True]), num_bins=2)
    Array(0.25, dtype=float32)
    """
    curve = reliability(probabilities, labels, num_bins=num_bins, where=where)
    counts = curve.counts.astype(jnp.float32)
    distances = jnp.where(counts > 0, jnp.abs(curve.forecast - curve.frequency) * counts, 0.0)
    return share(jnp.sum(distances, axis=-1), jnp.sum(counts, axis=-1))


def roc_auc(
    scores: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> Float[Array, "*B"]:
    """Probability that a True decision has a higher score than a False one, a tie counting half.

    Over one user's candidates it is the user's AUC; over all pairs of the log (`[N]`) it is the global AUC, which
    also compares users with each other. `grouped_auc` averages the former.

    Args:
      scores: `[*B, N]` numbers, higher is more likely; any monotone scale.
      labels: `[*B, N]` bool, or integers 0 and 1.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      `[*B]` float32 in [0, 1]; nan without a True or without a False decision.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a NumPy value that is no label.

    Source:
      Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.

    >>> roc_auc(jnp.array([0.9, 0.4, 0.4, 0.1]), jnp.array([True, True, False, False]))
    Array(0.875, dtype=float32)
    """
    values, happened, where = _decisions(scores, labels, where, "scores")
    positive, negative = happened & where, ~happened & where
    axis = values.ndim - 1
    signs = positive.astype(jnp.int32) - negative.astype(jnp.int32)
    order, signs = jax.lax.sort((values, signs), dimension=axis, num_keys=1)
    starts = jnp.concatenate(
        [jnp.ones_like(order[..., :1], dtype=bool), order[..., 1:] != order[..., :-1]], axis=-1
    )  # of a group of equal scores
    ends = jnp.concatenate([starts[..., 1:], jnp.ones_like(starts[..., :1])], axis=-1)
    lost = (signs < 0).astype(jnp.int32)
    through = jnp.cumsum(lost, axis=-1)
    below = jax.lax.cummax(jnp.where(starts, through - lost, 0), axis=axis)
    below_or_tied = jax.lax.cummin(jnp.where(ends, through, values.shape[-1]), axis=axis, reverse=True)
    # one share a decision before the sum, since the number of pairs may pass int32
    num_negative = count_true(negative)
    won = 0.5 * (below.astype(jnp.float32) + below_or_tied.astype(jnp.float32))
    shares = won / jnp.maximum(num_negative, 1).astype(jnp.float32)[..., None]
    area = share(jnp.sum(jnp.where(signs > 0, shares, 0.0), axis=-1), count_true(positive))
    return defined(area, (num_negative > 0) & ~jnp.any(jnp.isnan(values) & where, axis=-1))


class ThresholdMetrics(NamedTuple):
    """Metrics of decisions made by a threshold, `[*B]` float32 in [0, 1] each.

    Attributes:
      accuracy: share of right decisions; nan without decisions.
      precision: share of the decisions for True that are right; nan without any.
      recall: share of the True labels that were decided for True; nan without any.
      f1: harmonic mean of the two, 2 TP / (2 TP + FP + FN); nan if neither a decision nor a label is True.
    """

    accuracy: Float[Array, "*B"]
    precision: Float[Array, "*B"]
    recall: Float[Array, "*B"]
    f1: Float[Array, "*B"]


def threshold_metrics(
    scores: Real[ArrayLike, "*B N"],
    labels: Bool[ArrayLike, "*B N"] | Integer[ArrayLike, "*B N"],
    *,
    threshold: float = 0.5,
    where: Bool[ArrayLike, "*B N"] | None = None,
) -> ThresholdMetrics:
    """Accuracy, precision, recall and F1 where a score of at least the threshold decides for True.

    Args:
      scores: `[*B, N]` numbers, probabilities or other scores.
      labels: `[*B, N]` bool, or integers 0 and 1.
      threshold: the smallest score that decides for True.
      where: `[*B, N]` bool, True for decisions that count; None means all.

    Returns:
      Accuracy, precision, recall and F1.

    Raises:
      ShapeError: shapes or dtypes that do not match (at trace time).
      DataError: a NumPy value that is no label.

    Source:
      Manning et al. (2008), Introduction to Information Retrieval, ch. 8.

    >>> threshold_metrics(jnp.array([0.9, 0.6, 0.2, 0.1]), jnp.array([True, False, True, False])).f1
    Array(0.5, dtype=float32)
    """
    values, happened, where = _decisions(scores, labels, where, "scores")
    decided = values >= threshold
    right = count_true(decided & happened & where)
    num_decided, num_happened = count_true(decided & where), count_true(happened & where)
    accuracy = share(count_true((decided == happened) & where), count_true(where))
    known = ~jnp.any(jnp.isnan(values) & where, axis=-1)
    figures = (accuracy, share(right, num_decided), share(right, num_happened))
    # in floats, since twice a count may pass int32
    f1 = share(2 * right.astype(jnp.float32), num_decided.astype(jnp.float32) + num_happened.astype(jnp.float32))
    return ThresholdMetrics(*(defined(figure, known) for figure in (*figures, f1)))


def _decisions(
    scores: Any, labels: Any, where: Any, name: str
) -> tuple[Float[Array, "*B N"], Bool[Array, "*B N"], Bool[Array, "*B N"]]:
    """float32 scores, bool labels and the mask, all of one shape."""
    values = number_array(scores, name)
    if not isinstance(labels, jax.Array):
        labels = np.asarray(labels)
    if labels.dtype != bool and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ShapeError(f"labels have dtype {labels.dtype}, expected bool, or integers 0 and 1")
    if labels.shape != values.shape:
        raise ShapeError(f"labels have shape {labels.shape}, expected that of {name}, {values.shape}")
    mask = mask_like(where, values, name)
    real = visible(labels, where)
    if (odd := real[(real != 0) & (real != 1)]).size:
        raise DataError(f"labels hold {odd[0]}, expected 0 and 1 only; compare them with a level first")
    return values, jnp.asarray(labels).astype(bool), mask


def _forecasts(
    probabilities: Any, labels: Any, where: Any
) -> tuple[Float[Array, "*B N"], Bool[Array, "*B N"], Bool[Array, "*B N"]]:
    """As `_decisions`; a value outside [0, 1] is refused in a NumPy array and nan in a JAX array."""
    chances, happened, mask = _decisions(probabilities, labels, where, "probabilities")
    real = visible(probabilities, where)
    if (odd := real[~((real >= 0) & (real <= 1))]).size:
        raise DataError(f"probabilities hold {odd[0]}, expected numbers in [0, 1]; give scores through a sigmoid first")
    return defined(chances, (chances >= 0) & (chances <= 1)), happened, mask
