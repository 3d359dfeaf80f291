"""Behaviour logs to one table under the contract's column names, with every row of the log; `cleaning` drops rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from seqrec_jax.data.columns import Columns, number_columns
from seqrec_jax.data.files import as_text, check_columns, read_file
from seqrec_jax.data.timestamps import TimestampUnit, parse_timestamps
from seqrec_jax.errors import DataError


@dataclass(frozen=True)
class RawEvents:
    """A log as it was read, under the contract's names, every row in its original place.

    Attributes:
      frame: `user_id`, `item_id` and the other text columns (text, nan where missing), `timestamp` (nullable
        Int64 seconds UTC, missing where absent or unparsable), `value` float32, `position` nullable Int32,
        `propensity` float64, `row` (int64 0-based row number), and `timestamp_as_written` where some time
        could not be parsed.
      time_kind: "seconds", or "order" where `timestamp` is only the row number.
      source: the file's path, or a name for a dataframe.
      fingerprint: sha256 of the file's bytes, or of a dataframe's content.
      unreadable: column -> number of its values that are not finite numbers (kept as missing).
    """

    frame: pd.DataFrame
    time_kind: Literal["seconds", "order"]
    source: str
    fingerprint: str
    unreadable: Mapping[str, int] = field(default_factory=dict)


def read_events(
    source: str | Path | pd.DataFrame,
    columns: Columns | None = None,
    *,
    separator: str | None = None,
    timestamp_unit: TimestampUnit = "auto",
) -> RawEvents:
    """Read a behaviour log from CSV, TSV, JSON lines, Parquet or a dataframe.

    Ids stay exactly as written: leading zeros, spaces, unicode and words such as NA are ids, only the empty string is
    missing. Integers become their digits, and so do whole numbers that are stored as floats.

    Args:
      source: a dataframe, or a file ending in .csv, .tsv, .jsonl, .ndjson, .json (each also .gz) or .parquet;
        text is UTF-8.
      columns: the log's column names; None means user_id, item_id and timestamp under these names.
      separator: character between the fields of a text file; needed for other endings (.txt, .inter, .dat).
      timestamp_unit: unit of numeric times; "auto" decides by their magnitude, for the whole column at once.

    Returns:
      All rows in their original order.

    Raises:
      DataError: the file is missing, empty, of an unknown kind or unreadable; a column is missing or doubled;
        the log has no rows; numeric times of mixed units.

    >>> import pandas as pd
    >>> times = ["2024-03-01", ""]
    >>> log = pd.DataFrame({"user_id": ["u1", "u2"], "item_id": ["007", "NA"], "timestamp": times})
    >>> read_events(log).frame[["user_id", "item_id", "timestamp"]].values.tolist()
    [['u1', '007', 1709251200], ['u2', 'NA', <NA>]]
    """
    columns = columns or Columns()
    if isinstance(source, pd.DataFrame):
        name, fingerprint = "the dataframe", ""
        check_columns(list(source.columns), columns.named().values(), source=name)
        table = source
    else:
        name = str(source)
        table = read_file(Path(source), list(dict.fromkeys(columns.named().values())), separator=separator)
        with open(source, "rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    if not len(table):
        raise DataError(f"{name} has column names but no rows; expected at least one event")
    frame, unreadable = _contract_frame(table, columns, timestamp_unit=timestamp_unit, source=name)
    return RawEvents(
        frame=frame,
        time_kind="order" if columns.timestamp is None else "seconds",
        source=name,
        fingerprint=fingerprint or frame_fingerprint(frame),
        unreadable=unreadable,
    )


def frame_fingerprint(frame: pd.DataFrame) -> str:
    """sha256 of a frame's column names and content, the same for the same content in any container."""
    digest = hashlib.sha256()
    for name, column in frame.items():
        digest.update(f"\x1e{name}\x1e".encode())
        if dtypes.is_numeric_dtype(column.dtype):
            digest.update(column.isna().to_numpy().tobytes())
            kind = np.float64 if dtypes.is_float_dtype(column.dtype) else np.int64
            digest.update(column.fillna(0).to_numpy(dtype=kind).tobytes())
        else:
            digest.update("\x1f".join(column.fillna("\x00").tolist()).encode())
    return digest.hexdigest()


def _contract_frame(
    table: pd.DataFrame, columns: Columns, *, timestamp_unit: TimestampUnit, source: str
) -> tuple[pd.DataFrame, dict[str, int]]:
    frame: dict[str, Any] = {}
    unreadable: dict[str, int] = {}
    rows, numeric = np.arange(len(table), dtype=np.int64), number_columns()
    for contract, name in columns.named().items():
        written = table[name].reset_index(drop=True)
        if contract == "timestamp":
            seconds = parse_timestamps(written, unit=timestamp_unit, name=name, source=source)
            frame[contract] = seconds
            if bool((seconds.isna() & written.notna()).any()):
                frame["timestamp_as_written"] = as_text(written, name=name)
        elif contract in numeric:
            numbers = pd.to_numeric(written, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            readable, dtype = np.isfinite(numbers), numeric[contract].dtype
            if issubclass(dtype, np.integer):
                readable &= (np.abs(numbers) <= np.iinfo(dtype).max) & (np.floor(numbers) == numbers)
                frame[contract] = pd.arrays.IntegerArray(np.where(readable, numbers, 0).astype(dtype), ~readable)
            else:
                frame[contract] = np.where(readable, numbers, np.nan).astype(dtype)
            if count := int((~readable & as_text(written, name=name).notna().to_numpy()).sum()):
                unreadable[contract] = count
        else:
            frame[contract] = as_text(written, name=name)
    if columns.timestamp is None:
        frame["timestamp"] = pd.array(rows, dtype="Int64")
    return pd.DataFrame({**frame, "row": rows}), unreadable
