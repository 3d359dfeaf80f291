"""Tables from files, and the checks that every column passes; text is kept exactly as written."""

from __future__ import annotations

import difflib
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api import types as dtypes

from seqrec_jax.errors import DataError

# the dtype that this pandas gives to text: "str" from version 3 on, object before; both mark missing as nan
TEXT = pd.Series([""]).dtype

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


def read_file(path: Path, wanted: list[str] | None = None, *, separator: str | None = None) -> pd.DataFrame:
    """A table from CSV, TSV, JSON lines or Parquet, by the file's ending.

    Args:
      path: ending in .csv, .tsv, .jsonl, .ndjson, .json (each also .gz) or .parquet; text is UTF-8.
      wanted: names of the columns to return; None for all.
      separator: character between the fields of a text file; needed for other endings.

    Returns:
      The table; the cells of text files are text, empty ones nan.

    Raises:
      DataError: the file is missing, empty, of an unknown kind or unreadable; a column is missing or doubled.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        raise DataError(f"{path} does not exist" + (f"; did you mean {path.with_name(near[0])}?" if near else ""))
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected one file")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); expected a header and rows")
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


def read_item_table(path: Path, *, item_id: str = "item_id", separator: str | None = None) -> pd.DataFrame:
    """The item table of a file, its id column under the name `item_id` and as text, like the log's ids.

    Args:
      path: see `read_file`.
      item_id: the file's name of the id column.
      separator: see `read_file`.

    Raises:
      DataError: see `read_file`; an id that is missing.
    """
    table = read_file(path, separator=separator)
    check_columns(list(table.columns), [item_id], source=str(path))
    ids = as_text(table[item_id], name=item_id)
    if ids.isna().any():
        row = int(np.flatnonzero(ids.isna())[0])
        raise DataError(f"{path}: column {item_id!r} is empty in row {row} (and {int(ids.isna().sum())} in all)")
    return table.drop(columns=item_id).assign(item_id=ids)


def check_columns(available: Sequence[Any], wanted: Any, *, source: str) -> None:
    """Raise a `DataError` if a wanted column is missing (with the nearest name) or doubled.

    Args:
      available: names of the columns that there are.
      wanted: names of the columns that are needed.
      source: name of the table for the message.

    Raises:
      DataError: the first column that is missing or doubled.
    """
    counts = Counter(available)
    for name in wanted:
        if counts[name] > 1:
            raise DataError(f"{source}: {counts[name]} columns are named {name!r}; give each column its own name")
        if not counts[name]:
            names = [str(column) for column in available]
            near = difflib.get_close_matches(name, names, n=1) or difflib.get_close_matches(
                name.lower(), [column.lower() for column in names], n=1
            )
            near = [column for column in names if column in near or column.lower() in near][:1]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if len(names) == 1 and (mark := next((mark for mark in ";\t|," if mark in names[0]), None)):
                hint = f"; the fields seem to be separated by {mark!r}: pass separator={mark!r}"
            raise DataError(f"{source}: no column {name!r}{hint} (columns found: {', '.join(names) or 'none'})")


def as_text(column: pd.Series, *, name: str) -> pd.Series:
    """Ids and words as text, nan for missing and for the empty string; numbers become their digits.

    Args:
      column: N cells of any kind.
      name: name of the column for messages.

    Returns:
      N texts under a new index 0…N-1.

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


def _read_delimited(path: Path, wanted: list[str] | None, *, separator: str) -> pd.DataFrame:
    options: dict[str, Any] = {
        "sep": separator,
        "dtype": str,
        "keep_default_na": False,
        "na_values": [""],
        "header": None,
    }
    try:
        header = pd.read_csv(path, nrows=1, **options).iloc[0].fillna("").tolist()
        wanted = header if wanted is None else wanted
        check_columns(header, wanted, source=str(path))
        # all columns, because pandas tells rows that are too long only then
        table = pd.read_csv(path, **options)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} holds no text; expected a header and rows") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not a table separated by {separator!r}: {error}") from error
    table = table[[header.index(name) for name in wanted]].set_axis(wanted, axis=1)
    return table.iloc[1:].reset_index(drop=True)


def _read_json_lines(path: Path, wanted: list[str] | None) -> pd.DataFrame:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix == ".gz"
        else open(path, encoding="utf-8-sig") as file
    ):
        text = file.read()
    records = _json_records(text, path)
    keys = list(dict.fromkeys(key for record in records for key in record))
    wanted = keys if wanted is None else wanted
    check_columns(keys, wanted, source=str(path))
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
            raise DataError(f"{path}, line {number}: expected one JSON object a line, found {line[:80]!r} ({problem})")
    raise DataError(f"{path}: expected one JSON object a line")


def _read_parquet(path: Path, wanted: list[str] | None) -> pd.DataFrame:
    try:
        names = pq.read_schema(path).names
        wanted = names if wanted is None else wanted
        check_columns(names, wanted, source=str(path))
        table = pq.ParquetFile(path).read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    # nullable integers, because a float would lose the digits of long ids where a column has missing cells
    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.uint64(): pd.UInt64Dtype()}
    return table.to_pandas(types_mapper=nullable.get)


def _cell_text(cell: Any, name: str) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bytes):
        return cell.decode()
    if isinstance(cell, list | dict | np.ndarray):
        raise DataError(f"column {name!r} holds {type(cell).__name__}s such as {cell!r}; expected one id or word a row")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a killed process leaves the whole old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
