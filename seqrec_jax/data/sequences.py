"""Per-user event sequences as flat arrays with offsets, their windows, and the packing of windows into rows.

A window is a start and a length into the flat arrays; a row holds one window (padded) or several (packed), and every
position of a row has a training target. No padded row per prefix is ever made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from seqrec_jax.data.columns import EVENT_COLUMNS
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import check_choice, check_value

_BLOCK_USERS = 2**16  # users whose events are compared at once


@dataclass(frozen=True, init=False, eq=False)
class Sequences:
    """Ordered events of U users, N events in all, laid end to end.

    The four arrays `item_ids`, `timestamps`, `behaviors` and `values` are always there, the others of
    `data.columns.EVENT_COLUMNS` where the log has them.

    Attributes:
      user_ids: `[U]` raw user ids (str).
      offsets: `[U+1]` int64; the events of user u are `offsets[u]:offsets[u+1]`.
      columns: name to an array `[N]` with an entry an event, in the order of `EVENT_COLUMNS`; `item_ids`, `session_ids`
        (int32 number of the session within the user, from 1; 0 = none), `positions` (int32, the least int32 = none),
        `propensities` (float64, nan = none), …
      texts: name to a table of texts (str), "" at place 0, that an array of `columns` has the places of.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    texts: Mapping[str, np.ndarray]

    def __init__(
        self,
        user_ids: np.ndarray,
        offsets: np.ndarray,
        item_ids: np.ndarray | None = None,
        timestamps: np.ndarray | None = None,
        behaviors: np.ndarray | None = None,
        values: np.ndarray | None = None,
        *,
        columns: Mapping[str, np.ndarray] | None = None,
        texts: Mapping[str, np.ndarray] | None = None,
        **others: np.ndarray | None,
    ) -> None:
        """Sequences from arrays, each under its own name or in `columns` and `texts`; its own name wins.

        Args:
          user_ids: `[U]` raw user ids (str).
          offsets: `[U+1]` int64.
          item_ids: `[N]` int32.
          timestamps: `[N]` int64.
          behaviors: `[N]` int8.
          values: `[N]` float32.
          columns: arrays `[N]` by name.
          texts: tables of texts by name.
          **others: further arrays and tables by name, such as `query_ids` and `queries`; None means that there is none.

        Raises:
          DataError: an array that is required is missing, or a name is unknown.
        """
        required = {"item_ids": item_ids, "timestamps": timestamps, "behaviors": behaviors, "values": values}
        others |= {name: array for name, array in required.items() if array is not None}
        together = {**(columns or {}), **(texts or {}), **others}
        given = {name: array for name, array in together.items() if array is not None}
        tables = {column.texts for column in EVENT_COLUMNS.values() if column.texts}
        if unknown := set(given) - set(EVENT_COLUMNS) - tables:
            raise DataError(f"events have no column {min(unknown)!r}; known are {', '.join(EVENT_COLUMNS)}")
        if missing := [name for name, column in EVENT_COLUMNS.items() if column.required and name not in given]:
            raise DataError(f"sequences need the array {missing[0]}")
        # a frozen dataclass sets its fields so
        object.__setattr__(self, "user_ids", user_ids)
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "columns", {name: given[name] for name in EVENT_COLUMNS if name in given})
        object.__setattr__(self, "texts", {name: given[name] for name in tables if name in given})

    @property
    def item_ids(self) -> np.ndarray:
        """`[N]` int32 in 0…V (0 = an event without item, such as a search)."""
        return self.columns["item_ids"]

    @property
    def timestamps(self) -> np.ndarray:
        """`[N]` int64 seconds UTC, or a running index where the log has an order but no times."""
        return self.columns["timestamps"]

    @property
    def behaviors(self) -> np.ndarray:
        """`[N]` int8 codes into the dataset's list of behaviours."""
        return self.columns["behaviors"]

    @property
    def values(self) -> np.ndarray:
        """`[N]` float32, the event's own value (price, rating, …), nan where it has none."""
        return self.columns["values"]

    @property
    def query_ids(self) -> np.ndarray | None:
        """`[N]` int32 in 0…Q (0 = an event without query), None for a log without queries."""
        return self.columns.get("query_ids")

    @property
    def queries(self) -> np.ndarray | None:
        """`[Q+1]` the texts of the queries (str), "" at place 0; None for a log without queries."""
        return self.texts.get("queries")

    @property
    def num_users(self) -> int:
        """U, the number of users."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """`[U]` int64 number of events of each user."""
        return np.diff(self.offsets)

    @property
    def users_of_events(self) -> np.ndarray:
        """`[N]` int64 index of the user each event belongs to."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    @property
    def last_queries(self) -> np.ndarray:
        """`[U]` the query (str) of each user's last event, "" for an event without query or a user without events."""
        if self.query_ids is None or self.queries is None or not len(self.query_ids):
            return np.full(self.num_users, "", dtype=object)
        return self.queries[np.where(self.lengths > 0, self.query_ids[self.offsets[1:] - 1], 0)]

    def contain(self, users: Int[np.ndarray, " M"], item_ids: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
        """For pairs of a user and an item, whether the item is among the user's events.

        The users are compared in blocks of 65,536, so that the memory is bounded.

        Args:
          users: `[M]` indices in 0…U-1, in any order.
          item_ids: `[M]` an item for each.

        Returns:
          `[M]` bool.
        """
        order = np.argsort(users, kind="stable")
        ordered, found = users[order], np.zeros(len(users), dtype=bool)
        width = 1 + int(max(self.item_ids.max(initial=0), item_ids.max(initial=0)))
        for start in range(0, self.num_users, _BLOCK_USERS):
            stop = min(start + _BLOCK_USERS, self.num_users)
            pairs = order[slice(*np.searchsorted(ordered, [start, stop]))]
            rows = np.repeat(np.arange(stop - start), self.lengths[start:stop])
            known = rows * width + self.item_ids[self.offsets[start] : self.offsets[stop]]
            found[pairs] = np.isin((users[pairs] - start) * width + item_ids[pairs], known)
        return found

    def select_events(self, keep: Bool[np.ndarray, " N"]) -> Sequences:
        """The same users with only the events where `keep` `[N]` is True, order unchanged.

        Raises:
          DataError: `keep` is not one bool an event.
        """
        if keep.dtype != bool or keep.shape != self.item_ids.shape:
            raise DataError(f"keep must be bool {self.item_ids.shape}, got {keep.dtype} {keep.shape}")
        counts = np.zeros(len(keep) + 1, dtype=np.int64)
        np.cumsum(keep, out=counts[1:])
        return self._with_events(keep, user_ids=self.user_ids, offsets=counts[self.offsets])

    def select_users(self, users: Int[np.ndarray, " U2"]) -> Sequences:
        """The users with the given indices `[U']` in 0…U-1, in that order; an index may come twice.

        Raises:
          DataError: an index outside 0…U-1.
        """
        if len(users) and not (users.min() >= 0 and users.max() < self.num_users):
            raise DataError(f"user indices must be 0 to {self.num_users - 1}, got {users.min()} to {users.max()}")
        return self.select_ranges(self.offsets[users], self.lengths[users], user_ids=self.user_ids[users])

    def select_ranges(
        self, starts: Int[np.ndarray, " M"], lengths: Int[np.ndarray, " M"], *, user_ids: np.ndarray
    ) -> Sequences:
        """M users, each with a range of consecutive events; ranges may overlap.

        Args:
          starts: `[M]` place in 0…N of the first event of each range.
          lengths: `[M]` number of events of each.
          user_ids: `[M]` raw user ids (str) of the result.
        """
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        events = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return self._with_events(events, user_ids=user_ids, offsets=offsets)

    def with_columns(self, **columns: np.ndarray) -> Sequences:
        """The same users and events with some arrays of `columns` exchanged or added, each `[N]` under its name.

        Raises:
          DataError: an unknown name.
        """
        return Sequences(self.user_ids, self.offsets, columns={**self.columns, **columns}, texts=self.texts)

    def insert_events(
        self, places: Int[np.ndarray, " M"], users: Int[np.ndarray, " M"], **columns: np.ndarray | float
    ) -> Sequences:
        """The same users with M events more.

        Args:
          places: `[M]` place in 0…N before which each event comes; events of one place keep their order.
          users: `[M]` index in 0…U-1 of each event's user.
          **columns: entries `[M]` of the new events by the name of the array, or one for all; other arrays get their
            missing value, and an array that was not there gets it for the old events.

        Raises:
          DataError: an unknown name.
        """
        added = np.bincount(users, minlength=self.num_users)

        def joined(name: str) -> np.ndarray:
            column = EVENT_COLUMNS[name]
            old = self.columns.get(name)
            if old is None:
                old = np.full(len(self.item_ids), column.missing, dtype=column.dtype)
            new = np.broadcast_to(columns.get(name, column.missing), len(places))
            return np.insert(old, places, new.astype(old.dtype))

        if unknown := set(columns) - set(EVENT_COLUMNS):
            raise DataError(f"events have no column {min(unknown)!r}; known are {', '.join(EVENT_COLUMNS)}")
        return Sequences(
            self.user_ids,
            self.offsets + np.concatenate([[0], np.cumsum(added)]),
            columns={name: joined(name) for name in (*self.columns, *(set(columns) - set(self.columns)))},
            texts=self.texts,
        )

    def _with_events(self, events: np.ndarray, *, user_ids: np.ndarray, offsets: np.ndarray) -> Sequences:
        """The events at some places `[M]`, or where a mask `[N]` is True, under other users."""
        chosen = {name: array[events] for name, array in self.columns.items()}
        return Sequences(user_ids, offsets, columns=chosen, texts=self.texts)


class Windows(NamedTuple):
    """Pieces of sequences: `starts` `[W]` int64 into the flat arrays and `lengths` `[W]` int64 in events."""

    starts: np.ndarray
    lengths: np.ndarray


class Packing(NamedTuple):
    """The places of windows in R rows of at most M windows each.

    Attributes:
      lengths: `[R, M]` int32 length of the window in each slot, 0 for an empty slot.
      slot_ranks: `[R, M]` int32 place of the slot among all windows ordered by length, 0 for an empty slot.
        Windows of equal length may fill the slots in any order, so an epoch is shuffled without packing anew.
    """

    lengths: np.ndarray
    slot_ranks: np.ndarray


def last_windows(sequences: Sequences, *, length: int) -> Windows:
    """One window a user: the last `length` events; users without events get a window of length 0.

    Raises:
      ConfigError: length < 1.
    """
    check_value("length", length, "[1, inf)")
    lengths = np.minimum(sequences.lengths, length)
    return Windows(sequences.offsets[1:] - lengths, lengths)


def sliding_windows(sequences: Sequences, *, length: int, stride: int | None = None, drop_last: int = 0) -> Windows:
    """Windows of at most `length` events that together cover every event of every user, counted from the end.

    The last window of a user ends at the last event; the one before ends `stride` events earlier, and so on
    until the first event is covered. Users without events give no window.

    Args:
      sequences: U users.
      length: L.
      stride: events between the ends of two windows; None means `length`, so that windows do not overlap.
      drop_last: number of events at each user's end that no window covers; with 1 every position of a training window
        has a next event as its target.

    Returns:
      The windows, user by user, the latest first.

    Raises:
      ConfigError: length < 1, a stride outside 1…length, or drop_last < 0.
    """
    check_value("length", length, "[1, inf)")
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise ConfigError(f"stride must be between 1 and length = {length}, got {stride}")
    check_value("drop_last", drop_last, "[0, inf)")
    sizes = np.maximum(sequences.lengths - drop_last, 0)
    counts = np.where(sizes > 0, 1 + np.maximum(0, -(-(sizes - length) // stride)), 0)
    users = np.repeat(np.arange(sequences.num_users), counts)
    firsts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    steps_back = np.arange(len(users)) - np.repeat(firsts, counts)
    ends = sequences.offsets[1:][users] - drop_last - steps_back * stride
    starts = np.maximum(sequences.offsets[:-1][users], ends - length)
    return Windows(starts, ends - starts)


def pad_sequences(
    sequences: Sequences,
    *,
    length: int,
    side: Literal["left", "right"] = "right",
    keep: Literal["first", "last"] = "last",
) -> Int[np.ndarray, "U L"]:
    """Item ids as one padded matrix, for export and small data; training gathers windows from the flat arrays instead.

    Args:
      sequences: U users.
      length: L, the number of columns.
      side: where the padding zeros go.
      keep: which events of a longer sequence stay.

    Returns:
      `[U, L]` int32 item ids, 0 = padding.

    Raises:
      ConfigError: length < 1 or an unknown side or keep.
    """
    check_value("length", length, "[1, inf)")
    check_choice("side", side, ("left", "right"))
    check_choice("keep", keep, ("first", "last"))
    sizes = np.minimum(sequences.lengths, length)
    starts = sequences.offsets[:-1] if keep == "first" else sequences.offsets[1:] - sizes
    columns = np.arange(length)[None, :] - (length - sizes[:, None] if side == "left" else 0)
    real = (columns >= 0) & (columns < sizes[:, None])
    padded = np.zeros((sequences.num_users, length), dtype=np.int32)
    padded[real] = sequences.item_ids[(starts[:, None] + columns)[real]]
    return padded


def one_window_per_row(lengths: Int[np.ndarray, " W"]) -> Packing:
    """The trivial packing of windows of the given lengths `[W]`: R = W rows with one window each."""
    order = np.argsort(lengths, kind="stable")
    ranks = np.empty(len(lengths), dtype=np.int32)
    ranks[order] = np.arange(len(lengths), dtype=np.int32)
    return Packing(lengths.astype(np.int32)[:, None], ranks[:, None])


def pack_windows(lengths: Int[np.ndarray, " W"], *, row_length: int, max_segments: int = 16) -> Packing:
    """The packing of several windows into a row, so that few positions are padding.

    The longest window goes first, into the fullest row that still has room. The choice is made on the histogram of
    lengths, so that the cost depends on L and not on the number of windows.

    Args:
      lengths: `[W]` lengths, 1 to `row_length`.
      row_length: L.
      max_segments: M at most, the number of windows that one row may hold.

    Returns:
      The packing, with M the largest number of windows that a row really holds.

    Raises:
      DataError: a window length outside 1…`row_length`.
      ConfigError: row_length < 1 or max_segments < 1.

    Source:
      Krell et al. (2021), Efficient Sequence Packing without Cross-contamination (longest-pack-first).
    """
    check_value("row_length", row_length, "[1, inf)")
    check_value("max_segments", max_segments, "[1, inf)")
    if len(lengths) and not (lengths.min() >= 1 and lengths.max() <= row_length):
        raise DataError(f"window lengths must be 1 to {row_length}, got {lengths.min()} to {lengths.max()}")
    # rooms[r] lists (pattern, count): `count` rows hold windows of the pattern's lengths and have r positions left
    rooms: list[list[tuple[tuple[int, ...], int]]] = [[] for _ in range(row_length + 1)]
    done: list[tuple[tuple[int, ...], int]] = []
    histogram = np.bincount(lengths, minlength=row_length + 1)

    def put(pattern: tuple[int, ...], count: int) -> None:
        room = row_length - sum(pattern)
        full = room == 0 or len(pattern) == max_segments
        (done if full else rooms[room]).append((pattern, count))

    for size in range(row_length, 0, -1):
        left = int(histogram[size])
        while left:
            room = next((r for r in range(size, row_length + 1) if rooms[r]), None)
            if room is None:
                copies = min(row_length // size, max_segments)
                rows, rest = divmod(left, copies)
                if rows:
                    put((size,) * copies, rows)
                if rest:
                    put((size,) * rest, 1)
                break
            pattern, count = rooms[room].pop()
            used = min(left, count)
            if used < count:
                rooms[room].append((pattern, count - used))
            put((*pattern, size), used)
            left -= used
    patterns = done + [entry for entries in rooms for entry in entries]
    num_rows = sum(count for _, count in patterns)
    width = max((len(pattern) for pattern, _ in patterns), default=1)
    slots = np.zeros((num_rows, width), dtype=np.int32)
    row = 0
    for pattern, count in patterns:
        slots[row : row + count, : len(pattern)] = pattern
        row += count
    ranks = np.zeros(slots.size, dtype=np.int32)
    filled = np.flatnonzero(slots.ravel())
    ranks[filled[np.argsort(slots.ravel()[filled], kind="stable")]] = np.arange(len(filled), dtype=np.int32)
    return Packing(slots, ranks.reshape(slots.shape))
