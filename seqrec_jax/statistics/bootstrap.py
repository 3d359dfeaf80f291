"""Intervals of means from resampled users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from seqrec_jax.statistics.inputs import check_count, check_seed, check_share, metric_table, moments
from seqrec_jax.statistics.resampling import resampled_deviations


class Interval(NamedTuple):
    """Means over users and where they may lie: `[M]` float64 each.

    Attributes:
      mean: mean over the users for whom the metric is defined, nan without any.
      low: lower end of the confidence interval.
      high: upper end.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_means(
    values: ArrayLike | pd.DataFrame, *, num_resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean of each metric with a percentile interval from resampled users.

    Each resample draws as many users as there are, with replacement, and takes the mean over those drawn for
    whom the metric is defined. Above 1,024 users it draws each a Poisson number of times, which is the same
    for such numbers, and users with equal rows together. Up to there draws belong to places, so that in another
    order of the users the ends differ by chance, as with another seed; above they belong to distinct rows, so
    that the ends differ by chance when other columns stand beside. Users for whom nothing is defined are left
    out. One user alone gives low = high = mean, which says that nothing is known about the spread, not that
    there is none; below about 20 users, or 20 users whose value is not zero, percentile intervals are too short.

    Args:
      values: `[U, M]` one row a user, nan = undefined.
      num_resamples: number of resamples, at least 100.
      seed: seed of the draws, not negative.
      confidence: share of such intervals that should hold the true mean, between 0 and 1.

    Returns:
      Mean, low and high of each of the M columns; nan for a column without a defined value.

    Raises:
      ShapeError: values that are not `[U, M]`.
      DataError: no users, infinite or non-numeric values.
      ConfigError: an option out of range.

    Source:
      Efron and Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.

    >>> interval = bootstrap_means([[0.0], [1.0], [1.0], [float("nan")]])
    >>> interval.mean.round(3), interval.low, interval.high
    (array([0.667]), array([0.]), array([1.]))
    """
    check_count("num_resamples", num_resamples)
    check_seed(seed)
    check_share("confidence", confidence)
    table = metric_table(values, "values")
    means = moments(table).mean
    deviations = resampled_deviations(table, means, num_resamples=num_resamples, seed=seed)
    return percentile_interval(means, deviations, confidence=confidence)


def percentile_interval(means: np.ndarray, deviations: np.ndarray, *, confidence: float) -> Interval:
    """The interval between two percentiles of the resampled means.

    Args:
      means: `[M]`.
      deviations: `[R, M]` resampled means minus the means; nan where a resample says nothing.
      confidence: share of the resamples between the two ends.

    Returns:
      Mean, low and high `[M]`; nan for a column without any resample that says something.
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
