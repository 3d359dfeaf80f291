"""Times as they are written in logs to integer seconds UTC."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from seqrec_jax.errors import DataError
from seqrec_jax.settings import check_choice

TimestampUnit = Literal["auto", "s", "ms", "us", "ns"]

SECONDS_PER_DAY = 86_400
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# "auto": below 1e11 seconds (year 5138), below 1e14 milliseconds, and so on; real times are far from these
_AUTO_LIMITS = np.array([1e11, 1e14, 1e17])
_UNIT_NAMES = ("seconds", "milliseconds", "microseconds", "nanoseconds")


def parse_timestamps(
    written: pd.Series, *, unit: TimestampUnit = "auto", name: str = "timestamp", source: str = "the column"
) -> pd.Series:
    """Seconds UTC of numbers, numeric strings, ISO 8601 strings and datetimes, also mixed in one column.

    Fractions are floored; strings and datetimes without a zone are taken as UTC.

    Args:
      written: N times as the log has them.
      unit: unit of the numbers; "auto" decides by the magnitude of the positive ones, for the whole column at once.
      name: the column's name, for messages.
      source: the file's name, for messages.

    Returns:
      N nullable Int64, missing where the time is missing or cannot be parsed.

    Raises:
      ConfigError: an unknown unit.
      DataError: with "auto", numbers of different units, or numbers that are dates written as YYYYMMDD.

    >>> import pandas as pd
    >>> parse_timestamps(pd.Series(["1396437466940", "2014-04-02T13:17:46+02:00", "soon"])).tolist()
    [1396437466, 1396437466, <NA>]
    """
    check_choice("timestamp_unit", unit, TimestampUnit)
    if dtypes.is_datetime64_any_dtype(written.dtype):
        return pd.Series(_datetime_seconds(pd.DatetimeIndex(written)))
    numbers = pd.to_numeric(written, errors="coerce")
    approximate = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    numeric = np.abs(approximate) < 2**63  # False for nan and infinity
    seconds = np.zeros(len(written), dtype=np.int64)
    known = numeric.copy()
    if numeric.any():
        # read again without the others: all integers then stay exact instead of becoming floats
        exact = pd.to_numeric(written[numeric]).to_numpy()
        rows = np.flatnonzero(numeric)
        per_second = _PER_SECOND[unit] if unit != "auto" else _guessed_unit(exact, rows, name=name, source=source)
        seconds[numeric] = exact // per_second
    texts = np.flatnonzero(~numeric & written.notna().to_numpy())
    if len(texts):
        words = written.iloc[texts].astype(str)
        # pandas would take "now" and "today" for times
        dated = words.str.strip().str[:1].str.isdigit().to_numpy(dtype=bool)
        parsed = _datetime_seconds(
            pd.DatetimeIndex(pd.to_datetime(words[dated], format="ISO8601", utc=True, errors="coerce"))
        )
        good = ~parsed.isna()
        seconds[texts[dated][good]] = parsed[good].to_numpy(dtype=np.int64)
        known[texts[dated][good]] = True
    return pd.Series(pd.arrays.IntegerArray(seconds, ~known))


def _datetime_seconds(stamps: pd.DatetimeIndex) -> pd.arrays.IntegerArray:
    missing = np.asarray(stamps.isna())
    return pd.arrays.IntegerArray(np.where(missing, 0, stamps.asi8 // _PER_SECOND[stamps.unit]), missing)


def _guessed_unit(numbers: np.ndarray, rows: np.ndarray, *, name: str, source: str) -> int:
    """Ticks per second by magnitude; numbers up to zero are 1970 or earlier in any unit and do not vote."""
    positive = numbers > 0
    numbers, rows = numbers[positive], rows[positive]
    if not len(numbers):
        return 1
    kinds = np.searchsorted(_AUTO_LIMITS, numbers.astype(np.float64), side="right")
    found = np.unique(kinds)
    if len(found) > 1:
        groups = []
        for kind in found:
            of_kind = np.flatnonzero(kinds == kind)
            low, high = numbers[of_kind].min(), numbers[of_kind].max()
            groups.append(
                f"{len(of_kind)} look like {_UNIT_NAMES[kind]} ({low} to {high}, "
                f"as in row {rows[of_kind[0]]}: {numbers[of_kind[0]]})"
            )
        raise DataError(
            f"{source}: column {name!r} mixes units of time: {' and '.join(groups)}; bring them to one unit, "
            "or set timestamp_unit to s, ms, us or ns if they are of one"
        )
    if found[0] == 0 and numbers.min() >= 19000101 and numbers.max() <= 21001231:
        month, day = numbers // 100 % 100, numbers % 100
        if ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all():
            raise DataError(
                f"{source}: column {name!r} looks like dates written as YYYYMMDD (as in row {rows[0]}: "
                f"{numbers[0]}); write them as YYYY-MM-DD, or set timestamp_unit='s' if they are seconds"
            )
    return list(_PER_SECOND.values())[found[0]]
