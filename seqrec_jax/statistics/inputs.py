"""Tables users × metrics at the door, and their moments over the users for whom a metric is defined."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from seqrec_jax.errors import ConfigError, DataError, ShapeError


class Moments(NamedTuple):
    """Of each of M columns, over the users for whom it is defined.

    Attributes:
      mean: `[M]` float64, nan without any user.
      deviation: `[M]` float64 standard deviation (n - 1 below the line), nan with fewer than two users, and
        exactly 0 where the values are equal up to rounding.
      users: `[M]` int64, for how many it is defined.
    """

    mean: np.ndarray
    deviation: np.ndarray
    users: np.ndarray


def metric_table(values: ArrayLike | pd.DataFrame, name: str) -> np.ndarray:
    """The values as `[U, M]` float64 without infinities, or an error that calls them by `name`.

    Raises:
      ShapeError: not `[U, M]`.
      DataError: no users, infinite or non-numeric values.
    """
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


def paired_tables(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both as `[U, M]` float64, checked to hold the same users and metrics as far as they tell.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike.
      DataError: no users, infinite or non-numeric values, data frames of different users or metrics.
    """
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        for axis in ("index", "columns"):
            if not getattr(a, axis).equals(getattr(b, axis)):
                raise DataError(
                    f"a and b differ in their {axis}, so rows or columns would be paired wrongly; "
                    "align them first, as with b.reindex_like(a)"
                )
    first, second = metric_table(a, "a"), metric_table(b, "b")
    if first.shape != second.shape:
        raise ShapeError(f"a has shape {first.shape} and b {second.shape}, expected the same users and metrics")
    return first, second


def moments(table: np.ndarray) -> Moments:
    """Mean, standard deviation and number of users of each column of `[U, M]`, nan left out."""
    undefined = np.isnan(table)
    users = len(table) - undefined.sum(axis=0)
    filled = np.where(undefined, 0.0, table)
    means = np.divide(filled.sum(axis=0), users, out=np.full(users.shape, np.nan), where=users > 0)
    largest = np.abs(filled).max(axis=0)
    filled -= means
    filled[undefined] = 0.0
    squares = np.einsum("um,um->m", filled, filled)
    deviation = np.sqrt(np.divide(squares, users - 1, out=np.full(users.shape, np.nan), where=users > 1))
    # equal values differ from their mean by rounding only
    deviation[deviation <= 1e-12 * largest] = 0.0
    return Moments(means, deviation, users)


def check_count(name: str, count: int) -> None:
    """Raise a ConfigError unless there are at least 100 draws."""
    if count < 100:
        raise ConfigError(f"{name} is {count}, expected at least 100; fewer give no usable percentiles")


def check_share(name: str, share: float) -> None:
    """Raise a ConfigError unless the share lies strictly between 0 and 1."""
    if not 0 < share < 1:
        raise ConfigError(f"{name} is {share}, expected a share between 0 and 1 such as 0.95")


def check_seed(seed: int) -> None:
    """Raise a ConfigError for a negative seed."""
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
