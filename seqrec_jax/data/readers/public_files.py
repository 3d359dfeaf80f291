"""The result of a reader of a public data set, and the functions by which readers find and read its files."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from seqrec_jax.data.columns import Columns
from seqrec_jax.data.events import RawEvents, read_events
from seqrec_jax.data.timestamps import TimestampUnit
from seqrec_jax.errors import DataError


@dataclass(frozen=True)
class PublicDataset:
    """A public data set with the ids of its files.

    Attributes:
      events: the log, not cleaned.
      items: one row an item, `item_id` first; None for a set without such a table.
      users: one row a user, `user_id` first; None for a set without such a table.
    """

    events: RawEvents
    items: pd.DataFrame | None = None
    users: pd.DataFrame | None = None


def find_file(path: str | Path, *names: str) -> Path:
    """`path` itself if it is a file, else the first of `names` (each also with .gz) in the folder `path`.

    Raises:
      DataError: there is no such file.
    """
    path = Path(path)
    found = path if path.is_file() else beside(path, *names)
    if found is None:
        what = "holds none of" if path.is_dir() else "does not exist; expected a file, or a folder with one of"
        raise DataError(f"{path} {what} {', '.join(names)}")
    return found


def beside(path: str | Path, *names: str) -> Path | None:
    """The first of `names` (each also with .gz) in the folder `path`, or in the folder of the file `path`."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    return next((file for name in names for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def read_table(
    path: Path,
    *,
    separator: str,
    names: list[str] | None = None,
    encoding: str = "utf-8",
    quoted: bool = True,
) -> pd.DataFrame:
    """A text table with every cell as text, nan where empty.

    Args:
      path: the file, or its .gz.
      separator: one character, or "::".
      names: the columns of a file without a header.
      encoding: encoding of the text.
      quoted: whether quotation marks around a field are removed.

    Raises:
      DataError: the file is not such a table.
    """
    source: Path | io.StringIO = path
    if len(separator) > 1:
        # pandas splits at several characters by a slow regular expression
        source, separator = io.StringIO(read_text(path, encoding=encoding).replace(separator, "\x1f")), "\x1f"
    try:
        return pd.read_csv(
            source,
            sep=separator,
            names=names,
            header=0 if names is None else None,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
            encoding=encoding,
            index_col=False,
            quoting=0 if quoted else 3,
        )
    except (
        pd.errors.EmptyDataError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        UnicodeDecodeError,
    ) as error:
        raise DataError(f"{path} is not the expected table: {error}") from error


def read_text(path: Path, *, encoding: str = "utf-8") -> str:
    """The whole text of a file or of a .gz."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode(encoding)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a text file that has one a line; empty lines are skipped.

    Raises:
      DataError: a line that is not JSON.
    """
    records = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: expected one JSON object a line ({error})") from error
    return records


def require(table: pd.DataFrame, *names: str, path: Path) -> None:
    """Raise a `DataError` if `table` lacks one of the columns `names`."""
    if missing := [name for name in names if name not in table]:
        raise DataError(f"{path} lacks the columns {missing}; found {list(table.columns)}")


def public_events(
    table: pd.DataFrame, columns: Columns, *, path: Path, timestamp_unit: TimestampUnit = "auto"
) -> RawEvents:
    """The events of a table that was read from a file.

    Args:
      table: the table.
      columns: its names of the contract's columns.
      path: the file, for messages and as the source of the events.
      timestamp_unit: see `read_events`.

    Raises:
      DataError: a missing column, no rows, or see `read_events`.
    """
    require(table, *columns.named().values(), path=path)
    if not len(table):
        raise DataError(f"{path} holds no events")
    return replace(read_events(table, columns, timestamp_unit=timestamp_unit), source=str(path))


def most_frequent(values: pd.Series, *, by: pd.Series) -> pd.Series:
    """The commonest value of each key, the first in alphabetical order among equally common ones.

    Args:
      values: N values.
      by: N keys.

    Returns:
      A value for each distinct key, which is the index.
    """
    counts = pd.DataFrame({"key": by, "value": values}).dropna().value_counts().rename("count").reset_index()
    counts = counts.sort_values(["key", "count", "value"], ascending=[True, False, True])
    return counts.drop_duplicates("key").set_index("key")["value"]
