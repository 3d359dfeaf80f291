"""Behaviour logs to one table under the contract's column names; nothing is judged or dropped here."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api import types as dtypes

from seqrec_jax.data.timestamps import TimestampUnit, parse_timestamps
from seqrec_jax.errors import ConfigError, DataError

# the dtype that this pandas gives to text: "str" from version 3 on, object before; both mark missing as nan
TEXT = pd.Series([""]).dtype

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Columns:
    """How the log names what the contract needs: contract name -> the log's column, None = not in the log.

    `timestamp=None` is for logs that have an order but no times; the row number then stands for the time.

    >>> Columns(user_id="CustomerID", item_id="StockCode", session_id="InvoiceNo").named()["session_id"]
    'InvoiceNo'
    """

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    behavior: str | None = None
    session_id: str | None = None
    query: str | None = None
    value: str | None = None
    domain: str | None = None
    position: str | None = None
    propensity: str | None = None

    def __post_init__(self) -> None:
        for key in fields(self):
            name = getattr(self, key.name)
            optional = key.name not in ("user_id", "item_id")
            if not (isinstance(name, str) and name) and not (optional and name is None):
                kind = "a column name or None" if optional else "a column name"
                raise ConfigError(f"columns.{key.name} must be {kind}, got {name!r}")
        if self.user_id == self.item_id:
            raise ConfigError(f"columns.user_id and columns.item_id both name the column {self.user_id!r}")

    def named(self) -> dict[str, str]:
        """The columns that the log has: contract name -> the log's name."""
        names = {key.name: getattr(self, key.name) for key in fields(self)}
        return {contract: name for contract, name in names.items() if name is not None}


@dataclass(frozen=True)
class RawEvents:
    """A log as read, under the contract's names, every row in its original place.

    Attributes:
      frame: `user_id`, `item_id` and the other text columns (text, nan where missing), `timestamp` (nullable
        Int64 seconds UTC, missing where absent or unparsable), `value` float32, `position` nullable Int32,
        `propensity` float64, `row` (int64 0-based row number), and `timestamp_as_written` where some time
        could not be parsed.
      time_kind: "seconds", or "order" where `timestamp` is only the row number.
      source: the file's path, or a name for a dataframe.
      fingerprint: sha256 of the file's bytes, or of a dataframe's content.
      unreadable: column -> how many of its values are no finite number (kept as missing).
    """

    frame: pd.DataFrame
    time_kind: Literal["seconds", "order"]
    source: str
    fingerprint: str
    unreadable: Mapping[str, int] = field(default_factory=dict)


def read_events(
    source: str | Path | pd.DataFrame,
    columns: Columns = Columns(),
    *,
    separator: str | None = None,
    timestamp_unit: TimestampUnit = "auto",
) -> RawEvents:
    """Read a behaviour log from CSV, TSV, JSON lines, Parquet or a dataframe.

    Ids stay exactly as written: leading zeros, spaces, unicode and words such as NA are ids, only the empty
    string is missing. Integers become their digits, and so do whole numbers stored as floats.

    Args:
      source: a dataframe, or a file ending in .csv, .tsv, .jsonl, .ndjson, .json (each also .gz) or .parquet;
        text is UTF-8.
      columns: the log's column names.
      separator: between the fields of a text file; needed for other endings (.txt, .inter, .dat).
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
    if isinstance(source, pd.DataFrame):
        name, fingerprint = "the dataframe", ""
        check_columns(list(source.columns), columns.named().values(), source=name)
        table = source
    else:
        name = str(source)
        table = _read_file(Path(source), list(dict.fromkeys(columns.named().values())), separator=separator)
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


def check_columns(available: Sequence[Any], wanted: Any, *, source: str) -> None:
    """Raise a `DataError` if a wanted column is missing from `available` (naming the nearest) or doubled."""
    counts = Counter(available)
    for name in wanted:
        if counts[name] > 1:
            raise DataError(
                f"{source}: {counts[name]} columns are named {name!r}; give each column its own name"
            )
        if not counts[name]:
            names = [str(column) for column in available]
            near = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(
                name.lower(), [column.lower() for column in names], n=1
            )
            near = [column for column in names if column in near or column.lower() in near][:1]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if len(names) == 1 and (mark := next((mark for mark in ";\t|," if mark in names[0]), None)):
                hint = f"; the fields seem to be separated by {mark!r}: pass separator={mark!r}"
            raise DataError(
                f"{source}: no column {name!r}{hint} (columns found: {', '.join(names) or 'none'})"
            )


def as_text(column: pd.Series, *, name: str) -> pd.Series:
    """Ids and words as text with nan for missing and for the empty string; numbers become their digits.

    Raises:
      DataError: floats too large to be exact, or cells that are lists or objects.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    missing = column.isna().to_numpy()
    if dtypes.is_float_dtype(column.dtype):
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        known = numbers[~missing]
        if np.array_equal(known, np.floor(known)):
            if len(known) and np.abs(known).max() >= 2**53:
                raise DataError(
                    f"column {name!r} holds ids as floats up to {np.abs(known).max():.0f}, which have lost "
                    "digits; store them as integers or text"
                )
            column = pd.Series(np.where(missing, 0, numbers).astype(np.int64))
    if column.dtype == object and dtypes.infer_dtype(column, skipna=True) != "string":
        cells = column[~missing]
        column = pd.Series([""] * len(column), dtype=object)
        column[~missing] = [_cell_text(cell, name) for cell in cells]
    # astype(str) makes words of missing cells, so they are put back afterwards
    text = column if column.dtype == TEXT else column.astype(str).astype(TEXT)
    text = text.reset_index(drop=True)
    return text.mask(missing | (text == "").to_numpy(dtype=bool))


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
    rows = np.arange(len(table), dtype=np.int64)
    for contract, name in columns.named().items():
        written = table[name].reset_index(drop=True)
        if contract == "timestamp":
            seconds = parse_timestamps(written, unit=timestamp_unit, name=name, source=source)
            frame[contract] = seconds
            if bool((seconds.isna() & written.notna()).any()):
                frame["timestamp_as_written"] = as_text(written, name=name)
        elif contract in ("value", "position", "propensity"):
            numbers = pd.to_numeric(written, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            readable = np.isfinite(numbers)
            if contract == "position":
                readable &= (np.abs(numbers) < 2**31) & (np.floor(numbers) == numbers)
                frame[contract] = pd.arrays.IntegerArray(
                    np.where(readable, numbers, 0).astype(np.int32), ~readable
                )
            else:
                numbers = np.where(readable, numbers, np.nan)
                frame[contract] = numbers.astype(np.float32 if contract == "value" else np.float64)
            if count := int((~readable & as_text(written, name=name).notna().to_numpy()).sum()):
                unreadable[contract] = count
        else:
            frame[contract] = as_text(written, name=name)
    if columns.timestamp is None:
        frame["timestamp"] = pd.array(rows, dtype="Int64")
    return pd.DataFrame({**frame, "row": rows}), unreadable


def _cell_text(cell: Any, name: str) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, list | dict | np.ndarray):
        raise DataError(
            f"column {name!r} holds {type(cell).__name__}s such as {cell!r}; expected one id or word a row"
        )
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _read_file(path: Path, wanted: list[str], *, separator: str | None) -> pd.DataFrame:
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        raise DataError(
            f"{path} does not exist" + (f"; did you mean {path.with_name(near[0])}?" if near else "")
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected one file of events")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); expected a header and events")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    ending = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    try:
        if separator is not None or ending in _SEPARATORS:
            return _read_delimited(path, wanted, separator=separator or _SEPARATORS[ending])
        if ending in _JSON_ENDINGS:
            return _read_json_lines(path, wanted)
        if ending == ".parquet":
            return _read_parquet(path, wanted)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error}); convert it, or read it with pandas and pass the dataframe"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    raise DataError(
        f"{path}: cannot tell the format from the ending {ending!r}; known are "
        f"{', '.join([*_SEPARATORS, *_JSON_ENDINGS])} (each also with .gz) and .parquet; for other text "
        "files pass separator="
    )


def _read_delimited(path: Path, wanted: list[str], *, separator: str) -> pd.DataFrame:
    options: dict[str, Any] = {
        "sep": separator,
        "dtype": str,
        "keep_default_na": False,
        "na_values": [""],
        "header": None,
    }
    try:
        header = pd.read_csv(path, nrows=1, **options).iloc[0].fillna("").tolist()
        check_columns(header, wanted, source=str(path))
        # all columns, because pandas tells rows that are too long only then
        table = pd.read_csv(path, **options)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} holds no text; expected a header and events") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not a table separated by {separator!r}: {error}") from error
    table = table[[header.index(name) for name in wanted]].set_axis(wanted, axis=1)
    return table.iloc[1:].reset_index(drop=True)


def _read_json_lines(path: Path, wanted: list[str]) -> pd.DataFrame:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix == ".gz"
        else open(path, encoding="utf-8-sig") as file
    ):
        text = file.read()
    records = _json_records(text, path)
    check_columns(list(dict.fromkeys(key for record in records for key in record)), wanted, source=str(path))
    return pd.DataFrame({name: pd.Series([r.get(name) for r in records], dtype=object) for name in wanted})


def _json_records(text: str, path: Path) -> list[dict[str, Any]]:
    """The objects of JSON lines, or of one JSON list."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no text; expected one JSON object a line")
    try:
        # one call for all lines is several times faster than one a line
        is_list = lines[0].lstrip().startswith("[")
        records = json.loads(text if is_list else f"[{','.join(lines)}]")
        if all(isinstance(record, dict) for record in records) and (is_list or len(records) == len(lines)):
            return records
    except json.JSONDecodeError:
        pass
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            whole = not line.strip() or isinstance(json.loads(line), dict)
            problem = "not an object"
        except json.JSONDecodeError as error:
            whole, problem = False, str(error)
        if not whole:
            raise DataError(
                f"{path}, line {number}: expected one JSON object a line, found {line[:80]!r} ({problem})"
            )
    raise DataError(f"{path}: expected one JSON object a line")


def _read_parquet(path: Path, wanted: list[str]) -> pd.DataFrame:
    try:
        check_columns(pq.read_schema(path).names, wanted, source=str(path))
        table = pq.ParquetFile(path).read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    # nullable integers, because a float would lose the digits of long ids where a column has missing cells
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.uint64(): pd.UInt64Dtype()}
    return table.to_pandas(types_mapper=nullable.get)
