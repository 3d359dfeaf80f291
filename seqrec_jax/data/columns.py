"""The columns of a behaviour log: their names in the log, and how a prepared dataset holds those of its events.

A column is added in this file and nowhere else: as a field of `Columns`, so that a configuration can name it, and as an
entry of `EVENT_COLUMNS`, over which reading, preparing, selecting and writing loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from seqrec_jax.data.files import as_text
from seqrec_jax.errors import ConfigError


@dataclass(frozen=True)
class Columns:
    """The log's own names of the columns: a field is a column of the contract, its value the log's name for it.

    None means that the log has no such column. `timestamp=None` is for logs that have an order but no times; the row
    number then stands for the time.

    Raises:
      ConfigError: a name that is not text or is empty, or one column for users and items.

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
        """The columns that the log has: name in the contract to the log's name."""
        names = {key.name: getattr(self, key.name) for key in fields(self)}
        return {contract: name for contract, name in names.items() if name is not None}


class EventColumn(NamedTuple):
    """A column of a clean log and the array `[N]` that holds it, an entry for each of N events.

    Attributes:
      log_name: name of the column in a clean log, a field of `Columns`.
      dtype: dtype of the array.
      missing: entry of an event that has no value.
      kind: "event" for what `prepare_dataset` numbers itself; "number" for numbers; "text" for texts, held as places in
        a table of the distinct ones; "session" for texts that group a user's events, held as numbers 1, 2, … within the
        user, in the order of their first events.
      required: the array is there even if the log has no such column.
      in_fingerprint: a figure may depend on it. The others are only carried along, so that the fingerprint of a log
        prepared without them stays the same; `dataset.json` keeps a digest of each.
      texts: name of the table of texts, for the kind "text".
    """

    log_name: str
    dtype: type[np.generic]
    missing: float
    kind: Literal["event", "number", "text", "session"]
    required: bool = False
    in_fingerprint: bool = True
    texts: str = ""


EVENT_COLUMNS: dict[str, EventColumn] = {
    "item_ids": EventColumn("item_id", np.int32, 0, "event", required=True),
    "timestamps": EventColumn("timestamp", np.int64, 0, "event", required=True),
    "behaviors": EventColumn("behavior", np.int8, 0, "event", required=True),
    "values": EventColumn("value", np.float32, np.nan, "number", required=True),
    "query_ids": EventColumn("query", np.int32, 0, "text", texts="queries"),
    "session_ids": EventColumn("session_id", np.int32, 0, "session", in_fingerprint=False),
    "positions": EventColumn("position", np.int32, np.iinfo(np.int32).min, "number", in_fingerprint=False),
    "propensities": EventColumn("propensity", np.float64, np.nan, "number", in_fingerprint=False),
}
"""The arrays that `Sequences` may hold, by name, in the order in which they are written."""


def number_columns() -> dict[str, EventColumn]:
    """The columns that hold numbers, by their name in the log."""
    return {column.log_name: column for column in EVENT_COLUMNS.values() if column.kind == "number"}


def read_columns(
    events: pd.DataFrame, users: Int[np.ndarray, " N"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays of a clean log that need no vocabulary: all but those of the kind "event".

    Args:
      events: N clean events, a user's one after the other.
      users: `[N]` number of each event's user, not falling.

    Returns:
      The arrays `[N]` by name, without those of columns that are absent or empty and not required; and the tables of
      texts by name, object arrays with "" at place 0.
    """
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, np.ndarray] = {}
    for name, column in EVENT_COLUMNS.items():
        if column.kind == "event":
            continue
        written = events.get(column.log_name)
        if column.kind == "number":
            if written is not None and (column.required or written.notna().any()):
                arrays[name] = written.where(written.notna(), column.missing).to_numpy(dtype=column.dtype)
            elif column.required:
                arrays[name] = np.full(len(events), column.missing, dtype=column.dtype)
            continue
        if written is None:
            continue
        codes, table = number_texts(as_text(written, name=column.log_name))
        if codes is None or table is None:
            continue
        if column.kind == "text":
            arrays[name], texts[column.texts] = codes, table
        else:
            arrays[name] = _numbers_within_users(codes, users)
    return arrays, texts


def log_columns(arrays: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray]) -> dict[str, pd.Series]:
    """The columns of a clean log from which `read_columns` makes the arrays again: its inverse.

    Args:
      arrays: `[N]` arrays by name; those of the kind "event" are left out.
      texts: tables of texts by name.

    Returns:
      Series of N rows by the name in the log; missing entries are missing, sessions are the digits of their numbers.
    """
    found = {}
    for name, array in arrays.items():
        column = EVENT_COLUMNS[name]
        if column.kind == "text":
            found[column.log_name] = pd.Series(texts[column.texts][array])
        elif column.kind == "session":
            found[column.log_name] = pd.Series(array.astype(str).astype(object)).mask(array == column.missing)
        elif column.kind == "number":
            whole = np.issubdtype(column.dtype, np.integer)
            found[column.log_name] = pd.Series(
                pd.arrays.IntegerArray(array, array == column.missing) if whole else array
            )
    return found


def number_texts(texts: pd.Series) -> tuple[Int[np.ndarray, " N"] | None, np.ndarray | None]:
    """Texts of events as places in a table of the distinct ones.

    Args:
      texts: N texts as written; missing or "" for an event that has none.

    Returns:
      `[N]` int32 places in 0…Q, 0 = none, and the `[Q+1]` texts in string order (object), "" at place 0; None for both
      if no event has a text.

    >>> ids, queries = number_texts(pd.Series(["shoe", None, "hat", "shoe"]))
    >>> ids.tolist(), queries.tolist()
    ([2, 0, 1, 2], ['', 'hat', 'shoe'])
    """
    values = texts.fillna("").astype(object).to_numpy()
    table = np.array(sorted({"", *values}), dtype=object)
    if len(table) == 1:
        return None, None
    return pd.Index(table).get_indexer(pd.Index(values)).astype(np.int32), table


def _numbers_within_users(codes: Int[np.ndarray, " N"], users: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """`[N]` int32 numbers 1, 2, … of each user's codes in the order of their first events; 0 stays 0."""
    numbers = np.zeros(len(codes), dtype=np.int32)
    real = codes > 0
    owners = users[real].astype(np.int64)
    # numbered over all users in the order of first events, so a user's numbers are consecutive
    overall, _ = pd.factorize(owners * (int(codes.max(initial=0)) + 1) + codes[real])
    first = np.full(int(users.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, owners, overall)
    numbers[real] = overall - first[owners] + 1
    return numbers
