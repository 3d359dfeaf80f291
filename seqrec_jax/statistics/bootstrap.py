"""Confidence intervals of means from resampled units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqrec_jax.settings import check_value
from seqrec_jax.statistics.inputs import Table, moments, unit_table
from seqrec_jax.statistics.resampling import resampled_deviations


class Interval(NamedTuple):
    """Means over units and their confidence intervals: `[M]` float64 each.

    Attributes:
      mean: mean over the units for which the metric is defined, nan without any.
      low: lower end of the confidence interval.
      high: upper end.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_means(values: Table, *, num_resamples: int = 2000, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Mean of each metric with a percentile interval from resampled units.

    Each resample draws as many units as there are, with replacement, and takes the mean over the drawn units for
    which the metric is defined. Above 1,024 units it draws each a Poisson number of times, which is equivalent
    for such numbers, and units with equal rows together. Up to 1,024 units the draws belong to rows by position, so
    that another order of the units changes the ends by chance, as another seed does; above they belong to distinct
    rows, so that other columns in the table change the ends by chance. Units for which nothing is defined are left
    out. A single unit gives low = high = mean, since the spread is unknown; below about 20 units, or 20 units whose
    value is not zero, percentile intervals are too short.

    Args:
      values: `[U, M]` numbers, one row for each unit, nan = undefined.
      num_resamples: number of resamples R, at least 100.
      seed: seed of the draws, not negative.
      confidence: probability that such an interval holds the true mean, between 0 and 1.

    Returns:
      `[M]` float64 mean, low and high of each column; nan for a column without a defined value.

    Raises:
      ShapeError: values that are not `[U, M]`.
      DataError: no units, infinite or non-numeric values.
      ConfigError: an option out of range.

    Source:
      Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.

    >>> interval = bootstrap_means([[0.0], [1.0], [1.0], [float("nan")]])
    >>> interval.mean.round(3), interval.low, interval.high
    (array([0.667]), array([0.]), array([1.]))
    """
    check_value("num_resamples", num_resamples, "[100, inf)")
    check_value("seed", seed, "[0, inf)")
    check_value("confidence", confidence, "(0, 1)")
    table = unit_table(values, "values")
    means = moments(table).mean
    deviations = resampled_deviations(table, means, num_resamples=num_resamples, seed=seed)
    return percentile_interval(means, deviations, confidence=confidence)


def percentile_interval(means: np.ndarray, deviations: np.ndarray, *, confidence: float) -> Interval:
    """The interval between two percentiles of the resampled means.

    Args:
      means: `[M]` float64.
      deviations: `[R, M]` float64 resampled means minus the means; nan for a resample without a defined value.
      confidence: share of the resamples between the two ends.

    Returns:
      `[M]` float64 mean, low and high; nan for a column whose resamples are all nan.
    """
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    ends = np.full((2, len(means)), np.nan)
    empty = np.isnan(deviations)
    whole = ~empty.any(axis=0)
    ends[:, whole] = np.quantile(deviations[:, whole], tails, axis=0)
    partly = ~whole & ~empty.all(axis=0)
    if partly.any():
        ends[:, partly] = np.nanquantile(deviations[:, partly], tails, axis=0)
    low, high = means + ends
    return Interval(means, low, high)
