"""Per-user event sequences as flat arrays with offsets, and how they are cut and packed into rows.

Nothing here is ever materialised as one padded row per prefix: a window is a start and a length into the flat
arrays, a row holds one window (padded) or several (packed), and every position of a row is a training target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from seqrec_jax.errors import ConfigError, DataError

_BLOCK_USERS = 2**16  # whose events are looked through at once


@dataclass(frozen=True)
class Sequences:
    """Ordered events of U users, N events in all, laid end to end.

    Attributes:
      user_ids: `[U]` raw user ids (str).
      offsets: `[U+1]` int64; the events of user u are `offsets[u]:offsets[u+1]`.
      item_ids: `[N]` int32 in 0…V (0 = an event without item, such as a search).
      timestamps: `[N]` int64 seconds UTC, or a running index where the log has an order but no times.
      behaviors: `[N]` int8 codes into the dataset's list of behaviours.
      values: `[N]` float32, the event's own value (price, rating, …), nan where it has none.
      query_ids: `[N]` int32 in 0…Q (0 = an event without query), None for a log without queries.
      queries: `[Q+1]` the texts of the queries (str), "" at place 0; None for a log without queries.
    """

    user_ids: np.ndarray
    offsets: np.ndarray
    item_ids: np.ndarray
    timestamps: np.ndarray
    behaviors: np.ndarray
    values: np.ndarray
    query_ids: np.ndarray | None = None
    queries: np.ndarray | None = None

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
        """`[U]` the text of each user's last event, "" where that has no query or there is none."""
        if self.query_ids is None or self.queries is None or not len(self.query_ids):
            return np.full(self.num_users, "", dtype=object)
        return self.queries[np.where(self.lengths > 0, self.query_ids[self.offsets[1:] - 1], 0)]

    def contain(self, users: Int[np.ndarray, " M"], item_ids: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
        """Which items are among the events of the users beside them; some users at a time, so that memory is bounded.

        Args:
          users: `[M]` indices in 0…U-1, in any order.
          item_ids: `[M]` an item for each.
        """
        order = np.argsort(users, kind="stable")
        ordered, found = users[order], np.zeros(len(users), dtype=bool)
        width = 1 + int(max(self.item_ids.max(initial=0), item_ids.max(initial=0)))
        for start in range(0, self.num_users, _BLOCK_USERS):
            stop = min(start + _BLOCK_USERS, self.num_users)
            asked = order[slice(*np.searchsorted(ordered, [start, stop]))]
            rows = np.repeat(np.arange(stop - start), self.lengths[start:stop])
            known = rows * width + self.item_ids[self.offsets[start] : self.offsets[stop]]
            found[asked] = np.isin((users[asked] - start) * width + item_ids[asked], known)
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
        return Sequences(
            user_ids=self.user_ids,
            offsets=counts[self.offsets],
            item_ids=self.item_ids[keep],
            timestamps=self.timestamps[keep],
            behaviors=self.behaviors[keep],
            values=self.values[keep],
            query_ids=None if self.query_ids is None else self.query_ids[keep],
            queries=self.queries,
        )

    def select_users(self, users: Int[np.ndarray, " U'"]) -> Sequences:
        """The users with the given indices `[U']` in 0…U-1, in that order; an index may come twice.

        Raises:
          DataError: an index outside 0…U-1.
        """
        if len(users) and not (users.min() >= 0 and users.max() < self.num_users):
            raise DataError(f"user indices must be 0 to {self.num_users - 1}, got {users.min()} to {users.max()}")
        lengths = self.lengths[users]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        events = np.repeat(self.offsets[users] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(
            user_ids=self.user_ids[users],
            offsets=offsets,
            item_ids=self.item_ids[events],
            timestamps=self.timestamps[events],
            behaviors=self.behaviors[events],
            values=self.values[events],
            query_ids=None if self.query_ids is None else self.query_ids[events],
            queries=self.queries,
        )


class Windows(NamedTuple):
    """Pieces of sequences: `starts` `[W]` int64 into the flat arrays and `lengths` `[W]` int64 in events."""

    starts: np.ndarray
    lengths: np.ndarray


class Packing(NamedTuple):
    """Which window lies where: R rows of at most M windows each.

    Attributes:
      lengths: `[R, M]` int32 length of the window in each slot, 0 for an empty slot.
      slot_ranks: `[R, M]` int32 place of the slot among all windows ordered by length, 0 for an empty slot.
        Any order of the windows of equal length fills the slots validly, which is how an epoch is shuffled
        without packing anew.
    """

    lengths: np.ndarray
    slot_ranks: np.ndarray


def last_windows(sequences: Sequences, *, length: int) -> Windows:
    """One window a user: the last `length` events; users without events get a window of length 0.

    Raises:
      ConfigError: length < 1.
    """
    _check_length(length)
    lengths = np.minimum(sequences.lengths, length)
    return Windows(sequences.offsets[1:] - lengths, lengths)


def sliding_windows(sequences: Sequences, *, length: int, stride: int | None = None, drop_last: int = 0) -> Windows:
    """Windows of at most `length` events that cover every event of every user, counted from the end.

    The last window of a user ends at the last event; the one before ends `stride` events earlier, and so on
    until the first event is covered. Users without events give no window.

    Args:
      sequences: U users.
      length: L.
      stride: events between the ends of two windows; None means `length`, so that windows do not overlap.
      drop_last: events at the end of each user that no window covers; 1 leaves every position of a training
        window a next event as its target.

    Returns:
      The windows, user by user, the latest first.

    Raises:
      ConfigError: length < 1, a stride outside 1…length, or drop_last < 0.
    """
    _check_length(length)
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise ConfigError(f"stride must be between 1 and length = {length}, got {stride}")
    if drop_last < 0:
        raise ConfigError(f"drop_last must be at least 0, got {drop_last}")
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
    """Item ids as one padded matrix, for export and small data; training gathers windows instead.

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
    _check_length(length)
    if side not in ("left", "right") or keep not in ("first", "last"):
        raise ConfigError(f"side must be left or right and keep first or last, got {side!r} and {keep!r}")
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
    """Put several windows in a row so that few positions are padding.

    Longest first into the fullest row that still has room, decided on the histogram of lengths, so that the
    cost depends on L and not on the number of windows.

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
    _check_length(row_length)
    if max_segments < 1:
        raise ConfigError(f"max_segments must be at least 1, got {max_segments}")
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


def _check_length(length: int) -> None:
    if length < 1:
        raise ConfigError(f"length must be at least 1, got {length}")
