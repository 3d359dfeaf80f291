"""Raw events to clean, ordered events, and a report that accounts for every row that was read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from seqrec_jax.data.events import RawEvents
from seqrec_jax.data.files import TEXT
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import Interval, check_fields

_EXAMPLES = 3
_COLUMNS = ("user_id", "item_id", "timestamp", "behavior", "value")


@dataclass(frozen=True)
class CleaningConfig:
    """The rules by which rows of a log are dropped.

    Attributes:
      behaviors: the allowed behaviours in the order of their codes; None allows all that occur, sorted by name.
      item_free_behaviors: behaviours of events that may have no item and then need a query, such as a search.
      drop_exact_duplicates: drop a row that equals an earlier one in every column; not applied to a log that has only
        an order, since two equal rows are two events there.
      collapse_repeats_seconds: drop an event if the same user, item and behaviour occurred at most so many seconds
        before it (whether or not that event was kept); the first of a chain stays. None drops none.
      max_events_per_user_per_day: drop all events of a user who has more than this on some day (UTC); None drops none.
      min_timestamp: earliest time that is kept, seconds UTC.
      user_k_core: drop users with fewer events with an item than this (1 drops none) …
      item_k_core: … and items with fewer events than this, in turn until nothing changes.

    Raises:
      ConfigError: a number out of its range, a text in place of a list, a behaviour that is listed twice, or an
        item-free behaviour that is not allowed.
    """

    behaviors: tuple[str, ...] | None = None
    item_free_behaviors: tuple[str, ...] = ()
    drop_exact_duplicates: bool = True
    collapse_repeats_seconds: Annotated[int | None, Interval("[1, inf)")] = None
    max_events_per_user_per_day: Annotated[int | None, Interval("[1, inf)")] = None
    min_timestamp: int = 0
    user_k_core: Annotated[int, Interval("[1, inf)")] = 1
    item_k_core: Annotated[int, Interval("[1, inf)")] = 1

    def __post_init__(self) -> None:
        check_fields(self, "cleaning")
        for key in ("behaviors", "item_free_behaviors"):
            if isinstance(getattr(self, key), str):
                raise ConfigError(f"cleaning.{key} must be a list of names, got the text {getattr(self, key)!r}")
        if self.behaviors is None:
            return
        if not self.behaviors or len(set(self.behaviors)) < len(self.behaviors):
            raise ConfigError(f"cleaning.behaviors must name each behaviour once, got {list(self.behaviors)}")
        if unknown := set(self.item_free_behaviors) - set(self.behaviors):
            raise ConfigError(
                f"cleaning.item_free_behaviors {sorted(unknown)} are not in behaviors {list(self.behaviors)}"
            )


@dataclass(frozen=True)
class CleaningReport:
    """Counts of the rows that were kept and dropped: `rows_read == rows_kept + sum(dropped.values())`.

    Attributes:
      source: the log's path or name.
      time_kind: "seconds" or "order".
      rows_read: rows of the log.
      rows_kept: rows of the clean frame.
      dropped: reason -> rows; a row is counted under the first reason that applies, in the order listed.
      examples: reason -> up to 3 of its rows (contract names and the row number).
      behaviors: behaviour -> kept rows, in the order of the codes.
      users: number of users kept.
      items: number of items kept.
      tied_timestamps: kept rows that share user and time with another kept row; their order is the log's.
      first_timestamp: earliest kept time in seconds UTC, or row number for a log that has only an order.
      last_timestamp: latest kept time, likewise.
      unreadable: column -> values of the log that are not numbers; such events stay, without the value.
    """

    source: str
    time_kind: Literal["seconds", "order"]
    rows_read: int
    rows_kept: int
    dropped: dict[str, int]
    examples: dict[str, list[dict[str, Any]]]
    behaviors: dict[str, int]
    users: int
    items: int
    tied_timestamps: int
    first_timestamp: int | None
    last_timestamp: int | None
    unreadable: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and text, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CleaningReport:
        """The report that `to_dict` wrote.

        Raises:
          DataError: keys that are missing or unknown.
        """
        names = {key.name for key in fields(cls)}
        if names != set(content):
            lacking, unknown = sorted(names - set(content)), sorted(set(content) - names)
            raise DataError(f"a cleaning report lacks the keys {lacking} and has unknown keys {unknown}")
        return cls(**content)

    def __str__(self) -> str:
        rows = [("rows read", self.rows_read, ""), ("rows kept", self.rows_kept, "")]
        for reason, count in self.dropped.items():
            where = ", ".join(str(example["row"]) for example in self.examples[reason])
            rows.append((f"  dropped: {reason}", count, f"{count / self.rows_read:7.2%}  rows {where}, …"))
        for column, count in self.unreadable.items():
            rows.append((f"  {column} not a number", count, "kept without it"))
        rows += [("users", self.users, ""), ("items", self.items, "")]
        rows += [(f"  {name}", count, "") for name, count in self.behaviors.items()]
        if self.time_kind == "order":
            rows.append(("times", 0, "the log has an order only"))
        else:
            rows.append(("tied timestamps", self.tied_timestamps, "same user, same second: kept in the log's order"))
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:<{width}}  {count:>13,}  {note}".rstrip() for name, count, note in rows]
        if self.time_kind == "seconds" and self.first_timestamp is not None and self.last_timestamp is not None:
            lines.append(f"{'times':<{width}}  {_utc(self.first_timestamp)} to {_utc(self.last_timestamp)} UTC")
        return "\n".join([f"Cleaning of {self.source}", *lines])


def clean_events(
    raw: RawEvents,
    config: CleaningConfig = CleaningConfig(),
    *,
    strict: bool = False,
    now: int | None = None,
) -> tuple[pd.DataFrame, CleaningReport]:
    """Drop the rows that are not clean events, count them, and sort the rest.

    Args:
      raw: N rows of a log.
      config: the rules.
      strict: raise an error if any row is dropped.
      now: seconds UTC after which a time lies in the future; None takes the clock's time.

    Returns:
      The clean events and the report. The columns are `user_id`, `item_id` ("" for an item-free event without item),
      `timestamp` int64, `behavior`, `value` float32 (nan = none), the other columns that the log has, such as
      `session_id` and `query`, and `row`. Rows are sorted by user (code points of the id), time and original row.

    Raises:
      DataError: no row is left, or only one user or one item; a row was dropped and `strict` is set; item-free
        behaviours without a query column; rules in seconds for a log without times.
    """
    frame, ordered_only = raw.frame, raw.time_kind == "order"
    for key in ("collapse_repeats_seconds", "max_events_per_user_per_day"):
        if ordered_only and getattr(config, key) is not None:
            raise DataError(f"cleaning.{key} needs times, but {raw.source} has only an order; leave it out")
    if config.item_free_behaviors and "query" not in frame:
        raise DataError(
            f"{raw.source}: item-free behaviours {list(config.item_free_behaviors)} need a query, but the "
            "log was read without a query column; name it in columns.query"
        )
    drops = _Drops(len(frame))
    behavior = frame["behavior"] if "behavior" in frame else pd.Series("event", index=frame.index, dtype=TEXT)
    allowed = config.behaviors or tuple(sorted(behavior.dropna().unique()))
    behavior_codes = pd.Index(allowed, dtype=object).get_indexer(behavior.astype(object))
    users = pd.factorize(frame["user_id"])[0]
    items = pd.factorize(frame["item_id"])[0]
    _drop_malformed(drops, raw, behavior, behavior_codes, config=config, allowed=allowed)
    if not ordered_only:
        times = frame["timestamp"].to_numpy(dtype=np.int64, na_value=0)
        limit = int(time.time()) if now is None else now
        earliest = "1970" if config.min_timestamp == 0 else _utc(config.min_timestamp)
        drops.add(f"time before {earliest}", times < config.min_timestamp)
        drops.add("time in the future", times > limit)
        if config.drop_exact_duplicates:
            rows = np.flatnonzero(drops.kept)
            same = frame.iloc[rows].drop(columns=["row", "timestamp_as_written"], errors="ignore").duplicated()
            drops.add_rows("exact duplicate", rows[same.to_numpy()])
        if config.collapse_repeats_seconds is not None:
            what = [users, behavior_codes, items]
            if config.item_free_behaviors:
                what.append(np.where(items < 0, pd.factorize(frame["query"])[0], -1))
            repeats = _repeats(drops.kept, what, times, seconds=config.collapse_repeats_seconds)
            drops.add_rows("repeat within the time gap", repeats)
        if config.max_events_per_user_per_day is not None:
            rows = np.flatnonzero(drops.kept)
            days = pd.DataFrame({"user": users[rows], "day": times[rows] // SECONDS_PER_DAY})
            sizes = days.groupby(["user", "day"])["user"].transform("size").to_numpy()
            bots = np.unique(users[rows][sizes > config.max_events_per_user_per_day])
            drops.add("bot-like repetition", np.isin(users, bots))
    _drop_below_core(drops, users, items, user_k=config.user_k_core, item_k=config.item_k_core)
    clean = _ordered(frame[drops.kept].assign(behavior=behavior[drops.kept]))
    report = _report(raw, clean, drops, allowed)
    _check_result(report, config, strict=strict)
    return clean, report


class _Drops:
    """The rows that are still kept `[N]` bool, and the dropped ones by reason."""

    def __init__(self, size: int) -> None:
        self.kept = np.ones(size, dtype=bool)
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, reason: str, where: np.ndarray) -> None:
        self.add_rows(reason, np.flatnonzero(where & self.kept))

    def add_rows(self, reason: str, rows: np.ndarray) -> None:
        if len(rows):
            self.kept[rows] = False
            self.rows.setdefault(reason, []).append(rows)


def _drop_malformed(
    drops: _Drops,
    raw: RawEvents,
    behavior: pd.Series,
    behavior_codes: np.ndarray,
    *,
    config: CleaningConfig,
    allowed: tuple[str, ...],
) -> None:
    frame = raw.frame
    no_item = frame["item_id"].isna().to_numpy()
    item_free = np.isin(behavior_codes, [allowed.index(name) for name in config.item_free_behaviors if name in allowed])
    drops.add("missing user id", frame["user_id"].isna().to_numpy())
    drops.add("missing behaviour", behavior.isna().to_numpy())
    drops.add("unknown behaviour", behavior_codes < 0)
    drops.add("missing item id", no_item & ~item_free)
    if item_free.any():
        drops.add("missing item id and query", no_item & frame["query"].isna().to_numpy())
    no_time = frame["timestamp"].isna().to_numpy()
    if "timestamp_as_written" in frame:
        drops.add("unparsable time", no_time & frame["timestamp_as_written"].notna().to_numpy())
    drops.add("missing time", no_time)


def _repeats(kept: np.ndarray, what: list[np.ndarray], times: np.ndarray, *, seconds: int) -> np.ndarray:
    """Rows whose predecessor with the same codes lies at most `seconds` back."""
    rows = np.flatnonzero(kept)
    order = rows[np.lexsort([times[rows], *(codes[rows] for codes in what)])]
    same = np.diff(times[order]) <= seconds
    for codes in what:
        same &= np.diff(codes[order]) == 0
    return order[1:][same]


def _drop_below_core(drops: _Drops, users: np.ndarray, items: np.ndarray, *, user_k: int, item_k: int) -> None:
    """Rounds of users, then items, until a round changes nothing; events without item do not count.

    A core of 1 is none: it leaves users all of whose events are without item.
    """
    while user_k > 1 or item_k > 1:
        before = drops.kept.sum()
        for reason, codes, k in (("user below k-core", users, user_k), ("item below k-core", items, item_k)):
            counts = np.bincount(codes[drops.kept & (items >= 0)], minlength=codes.max(initial=0) + 1)
            drops.add(reason, (codes >= 0) & (counts[codes] < k) & (k > 1))
        if drops.kept.sum() == before:
            return


def _ordered(kept: pd.DataFrame) -> pd.DataFrame:
    codes, ids = pd.factorize(kept["user_id"].to_numpy(dtype=object))
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[np.argsort(ids)] = np.arange(len(ids))
    times = kept["timestamp"].to_numpy(dtype=np.int64)
    kept = kept.iloc[np.lexsort((kept["row"].to_numpy(), times, ranks[codes]))].reset_index(drop=True)
    kept = kept.assign(timestamp=kept["timestamp"].astype(np.int64), item_id=kept["item_id"].fillna(""))
    if "value" not in kept:
        kept["value"] = np.full(len(kept), np.nan, dtype=np.float32)
    others = [name for name in kept if name not in (*_COLUMNS, "row", "timestamp_as_written")]
    return kept[[*_COLUMNS, *others, "row"]]


def _report(raw: RawEvents, clean: pd.DataFrame, drops: _Drops, allowed: tuple[str, ...]) -> CleaningReport:
    rows = {reason: np.concatenate(parts) for reason, parts in drops.rows.items()}
    times = clean["timestamp"].to_numpy()
    counts = clean["behavior"].value_counts()
    together = (np.diff(times) == 0) & (clean["user_id"].to_numpy()[1:] == clean["user_id"].to_numpy()[:-1])
    return CleaningReport(
        source=raw.source,
        time_kind=raw.time_kind,
        rows_read=len(raw.frame),
        rows_kept=len(clean),
        dropped={reason: len(of_reason) for reason, of_reason in rows.items()},
        examples={reason: _examples(raw.frame, of_reason) for reason, of_reason in rows.items()},
        behaviors={name: int(counts.get(name, 0)) for name in allowed},
        users=int(clean["user_id"].nunique()),
        items=int(clean.loc[clean["item_id"] != "", "item_id"].nunique()),
        tied_timestamps=int((np.append(together, False) | np.append(False, together)).sum()) if len(clean) else 0,
        first_timestamp=int(times.min()) if len(clean) else None,
        last_timestamp=int(times.max()) if len(clean) else None,
        unreadable=dict(raw.unreadable),
    )


def _examples(frame: pd.DataFrame, rows: np.ndarray) -> list[dict[str, Any]]:
    cells = frame.iloc[np.sort(rows)[:_EXAMPLES]].astype(object)
    return cells.where(cells.notna(), None).to_dict("records")


def _check_result(report: CleaningReport, config: CleaningConfig, *, strict: bool) -> None:
    if report.rows_kept == 0:
        worst = max(report.dropped, key=lambda reason: report.dropped[reason])
        raise DataError(
            f"{report.source}: no row is left of {report.rows_read}; most were dropped as {worst!r} "
            f"({report.dropped[worst]} rows){_way_out(worst, config)}\n{report}"
        )
    if strict and report.dropped:
        raise DataError(f"strict cleaning allows no dropped rows, {report.rows_read - report.rows_kept} were\n{report}")
    if report.items < 2:
        raise DataError(f"{report.source}: only {report.items} item is left; a recommender needs at least 2\n{report}")
    if report.users < 2:
        raise DataError(f"{report.source}: only 1 user is left; training and evaluation need at least 2\n{report}")


def _way_out(reason: str, config: CleaningConfig) -> str:
    if "k-core" in reason:
        cores = f"user_k_core ({config.user_k_core}) or cleaning.item_k_core ({config.item_k_core})"
        return f"; lower cleaning.{cores}"
    if "behaviour" in reason:
        return f"; check cleaning.behaviors ({config.behaviors}) against columns.behavior"
    if "bot-like" in reason:
        return f"; raise cleaning.max_events_per_user_per_day ({config.max_events_per_user_per_day})"
    return "; check the column names and the unit of time, and see the examples in the report"


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
