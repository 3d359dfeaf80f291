"""Checks of tables units × metrics, and their moments over the units for which a metric is defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.types import ArrayLike

Numbers: TypeAlias = float | ArrayLike | Sequence[float] | Sequence[Sequence[float]] | pd.Series
"""A number, or numbers of any shape."""
Table: TypeAlias = ArrayLike | Sequence[Sequence[float]] | pd.DataFrame
"""Numbers `[U, M]`, a row for each unit and a column for each metric."""


class Moments(NamedTuple):
    """Moments of each of M columns, over the units for which it is defined.

    Attributes:
      mean: `[M]` float64, nan without any unit.
      deviation: `[M]` float64 standard deviation (with n - 1 in the denominator), nan with fewer than two units, and
        exactly 0 where the values are equal up to rounding.
      units: `[M]` int64 number of units for which it is defined.
    """

    mean: np.ndarray
    deviation: np.ndarray
    units: np.ndarray


def unit_table(values: Table, name: str) -> np.ndarray:
    """The values as `[U, M]` float64 without infinities.

    Raises:
      ShapeError: values that are not `[U, M]`; the message calls them by `name`.
      DataError: no units, infinite or non-numeric values.
    """
    table: np.ndarray
    try:
        if isinstance(values, pd.DataFrame):
            table = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not a table of numbers ({error}); keep only columns of numbers") from error
    if table.ndim != 2:
        raise ShapeError(f"{name} has shape {table.shape}, expected [U, M]; pass {name}[:, None] for one metric")
    if not len(table):
        raise DataError(f"{name} has no rows, expected at least one")
    infinite = np.isinf(table)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise DataError(f"{name}[{row}, {column}] is {table[row, column]}, expected finite values or nan = undefined")
    return table


def paired_tables(a: Table, b: Table) -> tuple[np.ndarray, np.ndarray]:
    """Both as `[U, M]` float64; data frames are checked to hold the same units and metrics.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike.
      DataError: no units, infinite or non-numeric values, data frames of different units or metrics.
    """
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        for axis in ("index", "columns"):
            if not getattr(a, axis).equals(getattr(b, axis)):
                raise DataError(
                    f"a and b differ in their {axis}, so rows or columns would be paired wrongly; "
                    "align them first, as with b.reindex_like(a)"
                )
    first, second = unit_table(a, "a"), unit_table(b, "b")
    if first.shape != second.shape:
        raise ShapeError(f"a has shape {first.shape} and b {second.shape}, expected the same units and metrics")
    return first, second


def moments(table: np.ndarray) -> Moments:
    """Mean, standard deviation and number of units of each column of a `[U, M]` float64 table, nan left out."""
    undefined = np.isnan(table)
    units = len(table) - undefined.sum(axis=0)
    filled = np.where(undefined, 0.0, table)
    means = np.divide(filled.sum(axis=0), units, out=np.full(units.shape, np.nan), where=units > 0)
    largest = np.abs(filled).max(axis=0)
    filled -= means
    filled[undefined] = 0.0
    squares = np.einsum("um,um->m", filled, filled)
    deviation = np.sqrt(np.divide(squares, units - 1, out=np.full(units.shape, np.nan), where=units > 1))
    # equal values differ from their mean by rounding only
    deviation[deviation <= 1e-12 * largest] = 0.0
    return Moments(means, deviation, units)
