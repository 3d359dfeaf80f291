"""Means over several training runs: intervals for both units and seeds as samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.settings import check_value
from seqrec_jax.statistics.inputs import Table, unit_table
from seqrec_jax.types import ArrayLike


class SeedInterval(NamedTuple):
    """Means over units and seeds, with intervals of the mean over all of both: `[M]` float64 each except `units`.

    Attributes:
      mean: mean over seeds and units, nan if fewer than two units count.
      low: lower end of the confidence interval.
      high: upper end.
      seed_deviation: standard deviation of the seeds' means, as it is usually printed after ±: the spread of single
        training runs, not of their mean.
      seed_share: share of the mean's variance that comes from the seeds, in [0, 1]: near 1 more seeds are
        needed, near 0 more units.
      degrees: degrees of freedom of the t-interval, between seeds - 1 and units - 1.
      units: int64 number of units for which the metric is defined with every seed; only those count.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_deviation: np.ndarray
    seed_share: np.ndarray
    degrees: np.ndarray
    units: np.ndarray


def two_level_intervals(values: ArrayLike | Sequence[Table], *, confidence: float = 0.95) -> SeedInterval:
    """Mean of each metric over seeds and units, with an interval that allows for the chance in both.

    A unit's value with a seed is modelled as `mean + unit + seed + rest`, each independent, so that the
    variance of the mean of S seeds and U units is `σ²_unit / U + σ²_seed / S + σ²_rest / (S U)`. It is
    estimated from the mean squares of the two-way table, `(MS_unit + max(MS_seed - MS_rest, 0)) / (S U)`, and
    the interval is Student's with Satterthwaite's degrees of freedom: with 5 seeds that differ more than
    units explain, 4 degrees, and 2.8 in place of 2 standard errors. A bootstrap of few seeds is too short:
    from 5 seeds its variance is too small by a fifth, and it has no such allowance.

    For two systems pass the difference of their tables; where run s of one has nothing in common with run s
    of the other this holds as well.

    Args:
      values: `[S, U, M]` numbers, the same units in the same order for each of at least 2 seeds, nan = undefined.
      confidence: probability that such an interval holds the true mean, between 0 and 1.

    Returns:
      `[M]` mean, low, high, the seeds' deviation and share, degrees of freedom and units of each column.

    Raises:
      ShapeError: values that are not `[S, U, M]`.
      DataError: fewer than two seeds, no units, infinite or non-numeric values.
      ConfigError: a confidence out of range.

    Source:
      Satterthwaite (1946), An approximate distribution of estimates of variance components; Brennan (2001),
      Generalizability Theory, for tables of persons × conditions; McCullagh (2000), Resampling and
      exchangeable arrays, for why no resampling of both units and seeds gives the right variance.

    >>> runs = [[[0.2], [0.4], [0.9]], [[0.3], [0.5], [1.0]]]
    >>> interval = two_level_intervals(runs)
    >>> interval.mean.round(3), interval.seed_deviation.round(3)
    (array([0.55]), array([0.071]))
    """
    check_value("confidence", confidence, "(0, 1)")
    try:
        seeds = len(values)
        tables = [unit_table(values[seed], f"values[{seed}]") for seed in range(seeds)]
    except TypeError as single:
        raise ShapeError("values is a single number, expected [S, U, M]") from single
    if seeds < 2:
        raise DataError(
            f"values has {seeds} seed(s), expected at least two: one run does not tell how runs differ; "
            "bootstrap_means gives the interval over units alone"
        )
    shapes = sorted({table.shape for table in tables})
    if len(shapes) > 1:
        raise ShapeError(f"the seeds' tables have shapes {shapes[0]} and {shapes[1]}, expected the same units")
    counts = ~np.isnan(tables[0])
    for table in tables[1:]:
        counts &= ~np.isnan(table)
    units = counts.sum(axis=0)
    some = np.where(units > 1, units, np.nan)

    seed_means = np.stack([np.where(counts, table, 0.0).sum(axis=0) for table in tables]) / some
    mean = seed_means.mean(axis=0)
    unit_sum = np.zeros(counts.shape)
    squares = np.zeros(counts.shape[1])
    for table in tables:
        moved = np.where(counts, table - mean, 0.0)
        unit_sum += moved
        squares += np.einsum("um,um->m", moved, moved)
    of_units = np.einsum("um,um->m", unit_sum, unit_sum) / seeds
    of_seeds = some * ((seed_means - mean) ** 2).sum(axis=0)
    of_rest = np.maximum(squares - of_units - of_seeds, 0.0)
    degrees_of = np.stack([some - 1, np.full_like(some, seeds - 1), (some - 1) * (seeds - 1)])
    by_unit, by_seed, by_rest = np.stack([of_units, of_seeds, of_rest]) / degrees_of

    extra = np.maximum(by_seed - by_rest, 0.0)
    total = by_unit + extra
    parts = np.stack([by_unit, np.where(extra > 0, by_seed, 0.0), np.where(extra > 0, by_rest, 0.0)])
    spread = (parts**2 / degrees_of).sum(axis=0)
    degrees = np.divide(total**2, spread, out=some - 1, where=spread > 0)
    degrees = np.clip(degrees, seeds - 1, np.maximum(some - 1, seeds - 1))
    error = np.sqrt(total / (seeds * some)) * stdtrit(degrees, (1 + confidence) / 2)
    share = np.divide(extra, total, out=0.0 * total, where=total > 0)
    return SeedInterval(mean, mean - error, mean + error, np.sqrt(by_seed / some), share, degrees, units)
