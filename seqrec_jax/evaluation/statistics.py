"""How sure a figure is: bootstrap intervals over users, paired comparisons, correction for many of them.

All work on tables users × metrics as the evaluation writes them, where nan says that a metric is undefined
for a user. Users are the unit of chance throughout: they are drawn whole, with the same draw for every
metric, so that the dependence between metrics and between a user's targets needs no model. The same seed
gives the same figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from seqrec_jax.errors import ConfigError, DataError, ShapeError

_BLOCK_ELEMENTS = 2**22
"""Entries of one block of draws × users; 32 MiB of float64, whatever the number of draws."""


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


class PairedDifference(NamedTuple):
    """How a differs from b on the same users: `[M]` float64 each.

    Attributes:
      mean: mean of a - b over the users for whom both are defined, nan without any.
      low: lower end of the confidence interval of the mean.
      high: upper end.
      p_value: two-sided, under the hypothesis that a and b are exchangeable within each user.
      effect_size: Cohen's d_z, the mean over the standard deviation of the differences; nan where these do
        not vary.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    effect_size: np.ndarray


def bootstrap_means(
    values: ArrayLike | pd.DataFrame, *, num_resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Mean of each metric with a percentile interval from resampled users.

    Each resample draws as many users as there are, with replacement, and takes the mean over those drawn for
    whom the metric is defined. Users for whom nothing is defined are left out. One user alone gives
    low = high = mean, which says that nothing is known about the spread, not that there is none; below about
    20 users percentile intervals are too short.

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
    _check_options(num_resamples=num_resamples, seed=seed, confidence=confidence)
    table = _table(values, "values")
    table = table[~np.isnan(table).all(axis=1)]
    means = _means(table)
    if not len(table):
        return Interval(means, means.copy(), means.copy())
    defined = ~np.isnan(table)
    deviations = np.where(defined, table - means, 0.0)
    # columns that are undefined for the same users share their count of users drawn
    patterns, pattern = np.unique(defined, axis=1, return_inverse=True)
    resampled = np.empty((num_resamples, table.shape[1]))
    start = 0
    for counts in _resample_counts(len(table), num_resamples, np.random.default_rng(seed)):
        drawn = (counts @ patterns.astype(np.float64))[:, pattern.reshape(-1)]
        block = resampled[start : start + len(counts)]
        block.fill(np.nan)
        np.divide(counts @ deviations, drawn, out=block, where=drawn > 0)
        start += len(counts)
    low, high = np.full_like(means, np.nan), np.full_like(means, np.nan)
    known = ~np.isnan(means)
    tail = (1 - confidence) / 2
    # a resample may draw no user for whom a rarely defined metric is defined: it says nothing and is left out
    low[known], high[known] = means[known] + np.nanquantile(resampled[:, known], [tail, 1 - tail], axis=0)
    return Interval(means, low, high)


def paired_differences(
    a: ArrayLike | pd.DataFrame,
    b: ArrayLike | pd.DataFrame,
    *,
    num_resamples: int = 2000,
    num_permutations: int = 5000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference:
    """Difference a - b of each metric on the same users, with interval, p-value and effect size.

    The p-value comes from exchanging a and b at random within users, which flips the sign of a user's
    difference: `(1 + exchanges at least as far from 0 as the data) / (1 + num_permutations)`, so it is never
    below `1 / (1 + num_permutations)`.

    Args:
      a: `[U, M]` one row a user, nan = undefined. Data frames must have the same index and columns.
      b: `[U, M]` the same users and metrics in the same order.
      num_resamples: number of bootstrap resamples for the interval, at least 100.
      num_permutations: number of random exchanges for the p-value, at least 100.
      seed: seed of all draws, not negative.
      confidence: share of such intervals that should hold the true mean, between 0 and 1.

    Returns:
      Mean, low, high, p_value and effect_size of each of the M columns; nan for a column without a user for
      whom both are defined.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike.
      DataError: no users, infinite or non-numeric values, data frames of different users or metrics.
      ConfigError: an option out of range.

    Source:
      Smucker, Allan and Carterette (2007), A comparison of statistical significance tests for information
      retrieval evaluation; Phipson and Smyth (2010) for the added 1; Lakens (2013) for d_z.

    >>> result = paired_differences([[0.9], [0.8], [0.7], [0.9]], [[0.1], [0.1], [0.2], [0.3]])
    >>> result.mean.round(3), result.effect_size.round(2)
    (array([0.65]), array([5.03]))
    """
    _check_options(num_resamples=num_resamples, seed=seed, confidence=confidence)
    _check_count("num_permutations", num_permutations)
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        for axis in ("index", "columns"):
            if not getattr(a, axis).equals(getattr(b, axis)):
                raise DataError(
                    f"a and b differ in their {axis}, so rows or columns would be paired wrongly; "
                    "align them first, as with b.reindex_like(a)"
                )
    first, second = _table(a, "a"), _table(b, "b")
    if first.shape != second.shape:
        raise ShapeError(f"a has shape {first.shape} and b {second.shape}, expected the same users and metrics")
    differences = first - second
    interval = bootstrap_means(differences, num_resamples=num_resamples, seed=seed, confidence=confidence)
    p_values = _sign_flip_p_values(differences, num_permutations, np.random.default_rng((seed, 1)))
    return PairedDifference(*interval, p_values, _effect_sizes(differences, interval.mean))


def holm_correction(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p-values of M hypotheses; rejecting those below α errs in any with probability at most α.

    The i-th smallest of m p-values becomes the largest of `(m - j + 1) · p_j` over j ≤ i, at most 1.

    Args:
      p_values: `[M]` in [0, 1]; nan = not tested, stays nan and does not count.

    Returns:
      `[M]` float64 in the order given.

    Raises:
      ShapeError: p_values that are not `[M]`.
      DataError: a value outside [0, 1].

    Source:
      Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm_correction([0.01, 0.04, 0.03]).round(3)
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ShapeError(f"p_values has shape {p.shape}, expected [M]; pass p_values.ravel() to correct over all")
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise DataError(f"p_values has {p[outside][0]}, expected values in [0, 1]")
    adjusted = np.full_like(p, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _resample_counts(users: int, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Blocks `[R, U]` of how often each user is drawn, R in all = `resamples`."""
    rows = max(1, min(resamples, _BLOCK_ELEMENTS // users))
    buffer = np.empty((rows, users))
    for start in range(0, resamples, rows):
        block = buffer[: min(rows, resamples - start)]
        for row in block:
            row[:] = np.bincount(generator.integers(0, users, size=users), minlength=users)
        yield block


def _sign_flip_p_values(differences: np.ndarray, permutations: int, generator: np.random.Generator) -> np.ndarray:
    known = ~np.isnan(differences).all(axis=0)
    moves = np.nan_to_num(differences, nan=0.0)
    moves = moves[moves.any(axis=1)]  # a user without any difference is the same either way
    total, scale = moves.sum(axis=0), np.abs(moves).sum(axis=0)
    threshold = np.abs(total) - 1e-10 * scale  # sums in another order must not decide ties
    extreme = np.zeros(differences.shape[1], dtype=np.int64)
    rows = max(1, min(permutations, _BLOCK_ELEMENTS // max(len(moves), 1)))
    for start in range(0, permutations, rows):
        size = (min(rows, permutations - start), -(-len(moves) // 8))
        bits = np.unpackbits(generator.integers(0, 256, size=size, dtype=np.uint8), axis=1, count=len(moves))
        flipped = bits.astype(np.float64) @ moves
        extreme += (np.abs(total - 2 * flipped) >= threshold).sum(axis=0)
    return np.where(known, (1 + extreme) / (1 + permutations), np.nan)


def _effect_sizes(differences: np.ndarray, means: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(differences)
    counts = defined.sum(axis=0)
    squares = np.where(defined, differences - means, 0.0) ** 2
    deviation = np.sqrt(squares.sum(axis=0) / np.maximum(counts - 1, 1))
    largest = np.where(defined, np.abs(differences), 0.0).max(axis=0)
    vary = deviation > 1e-12 * largest  # equal differences are equal up to rounding
    return np.divide(means, deviation, out=np.full_like(means, np.nan), where=vary)


def _means(table: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(table)).sum(axis=0)
    sums = np.nansum(table, axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _table(values: ArrayLike | pd.DataFrame, name: str) -> np.ndarray:
    try:
        if isinstance(values, pd.DataFrame):
            table = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not a table of numbers ({error}); keep only columns of metrics") from error
    if table.ndim != 2:
        raise ShapeError(f"{name} has shape {table.shape}, expected [U, M]; pass {name}[:, None] for one metric")
    if not len(table):
        raise DataError(f"{name} has no users, expected at least one row")
    infinite = np.isinf(table)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise DataError(f"{name}[{row}, {column}] is {table[row, column]}, expected finite values or nan = undefined")
    return table


def _check_options(*, num_resamples: int, seed: int, confidence: float) -> None:
    _check_count("num_resamples", num_resamples)
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}, expected a share between 0 and 1 such as 0.95")


def _check_count(name: str, count: int) -> None:
    if count < 100:
        raise ConfigError(f"{name} is {count}, expected at least 100; fewer give no usable percentiles")
