"""Figures of several training runs: how sure they are when both the users and the seeds are a sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.statistics.inputs import check_share, metric_table


class SeedInterval(NamedTuple):
    """Means over users and seeds, and where the mean over all users and all seeds may lie: `[M]` each.

    Attributes:
      mean: mean over seeds and users, nan where fewer than two users count.
      low: lower end of the confidence interval.
      high: upper end.
      seed_deviation: standard deviation of the seeds' means, as it is usually printed after ±; it says how
        far another training run may lie, not how sure the mean is.
      seed_share: share of the mean's variance that comes from the seeds, in [0, 1]: near 1 more seeds are
        needed, near 0 more users.
      degrees: degrees of freedom of the t-interval, between seeds - 1 and users - 1.
      users: int64, users for whom the metric is defined with every seed; only those count.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_deviation: np.ndarray
    seed_share: np.ndarray
    degrees: np.ndarray
    users: np.ndarray


def two_level_intervals(values: ArrayLike, *, confidence: float = 0.95) -> SeedInterval:
    """Mean of each metric over seeds and users, with an interval that allows for the chance in both.

    A user's value with a seed is taken as `mean + user + seed + rest`, each varying by itself, so that the
    variance of the mean of S seeds and U users is `σ²_user / U + σ²_seed / S + σ²_rest / (S U)`. It is
    estimated from the mean squares of the two-way table, `(MS_user + max(MS_seed - MS_rest, 0)) / (S U)`, and
    the interval is Student's with Satterthwaite's degrees of freedom: with 5 seeds that differ more than
    users explain, 4 degrees, and 2.8 in place of 2 standard errors. A bootstrap of few seeds is too short:
    from 5 seeds its variance is too small by a fifth, and it has no such allowance.

    For two systems pass the difference of their tables; where run s of one has nothing in common with run s
    of the other this holds as well.

    Args:
      values: `[S, U, M]` the same users in the same order for each of at least 2 seeds, nan = undefined.
      confidence: share of such intervals that should hold the true mean, between 0 and 1.

    Returns:
      Mean, low, high, the seeds' deviation and share, degrees of freedom and users of each of the M columns.

    Raises:
      ShapeError: values that are not `[S, U, M]`.
      DataError: fewer than two seeds, no users, infinite or non-numeric values.
      ConfigError: a confidence out of range.

    Source:
      Satterthwaite (1946), An approximate distribution of estimates of variance components; Brennan (2001),
      Generalizability Theory, for tables of persons × conditions; McCullagh (2000), Resampling and
      exchangeable arrays, for why no resampling of both users and seeds gives the right variance.

    >>> runs = [[[0.2], [0.4], [0.9]], [[0.3], [0.5], [1.0]]]
    >>> interval = two_level_intervals(runs)
    >>> interval.mean.round(3), interval.seed_deviation.round(3)
    (array([0.55]), array([0.071]))
    """
    check_share("confidence", confidence)
    try:
        seeds = len(values)  # type: ignore[arg-type]
        tables = [metric_table(values[seed], f"values[{seed}]") for seed in range(seeds)]  # type: ignore[index]
    except TypeError as single:
        raise ShapeError("values is a single number, expected [S, U, M]") from single
    if seeds < 2:
        raise DataError(
            f"values has {seeds} seed(s), expected at least two: one run does not tell how runs differ; "
            "bootstrap_means gives the interval over users alone"
        )
    shapes = sorted({table.shape for table in tables})
    if len(shapes) > 1:
        raise ShapeError(f"the seeds' tables have shapes {shapes[0]} and {shapes[1]}, expected the same users")
    counts = ~np.isnan(tables[0])
    for table in tables[1:]:
        counts &= ~np.isnan(table)
    users = counts.sum(axis=0)
    some = np.where(users > 1, users, np.nan)

    seed_means = np.stack([np.where(counts, table, 0.0).sum(axis=0) for table in tables]) / some
    mean = seed_means.mean(axis=0)
    user_sum = np.zeros(counts.shape)
    squares = np.zeros(counts.shape[1])
    for table in tables:
        moved = np.where(counts, table - mean, 0.0)
        user_sum += moved
        squares += np.einsum("um,um->m", moved, moved)
    of_users = np.einsum("um,um->m", user_sum, user_sum) / seeds
    of_seeds = some * ((seed_means - mean) ** 2).sum(axis=0)
    of_rest = np.maximum(squares - of_users - of_seeds, 0.0)
    degrees_of = np.stack([some - 1, np.full_like(some, seeds - 1), (some - 1) * (seeds - 1)])
    by_user, by_seed, by_rest = np.stack([of_users, of_seeds, of_rest]) / degrees_of

    extra = np.maximum(by_seed - by_rest, 0.0)
    total = by_user + extra
    parts = np.stack([by_user, np.where(extra > 0, by_seed, 0.0), np.where(extra > 0, by_rest, 0.0)])
    spread = (parts**2 / degrees_of).sum(axis=0)
    degrees = np.divide(total**2, spread, out=some - 1, where=spread > 0)
    degrees = np.clip(degrees, seeds - 1, np.maximum(some - 1, seeds - 1))
    error = np.sqrt(total / (seeds * some)) * stdtrit(degrees, (1 + confidence) / 2)
    share = np.divide(extra, total, out=0.0 * total, where=total > 0)
    return SeedInterval(mean, mean - error, mean + error, np.sqrt(by_seed / some), share, degrees, users)
