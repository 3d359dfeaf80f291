"""What users did after a moment, as labelled rows: did they come back or buy within days, and what came next?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import as_text, check_columns
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError


class OutcomeRows(NamedTuple):
    """Rows for a head, and what was left out.

    Attributes:
      rows: `user_id`, `timestamp` (the moment, seconds) and `label` (0 or 1, or words), by moment and user.
      notes: sentences on what was counted.
    """

    rows: pd.DataFrame
    notes: list[str]


def outcome_rows(
    dataset: Dataset,
    moments: Sequence[int] | np.ndarray,
    *,
    days: float,
    behaviors: Collection[str] | None = None,
    active_days: float | None = None,
    until: int | None = None,
) -> OutcomeRows:
    """A row for each moment and each user with an event before it: did one follow within so many days?

    The label looks at the events from the moment on, that second included, and less than `days` later; a head that is
    fitted to the rows sees the events before the moment. Moments are left out, and told, whose days end after the log
    does, since nobody knows their labels, or lie on both sides of the start of the validation or the test on a
    timeline, since the label would tell what later rows are to judge.

    Args:
      dataset: with times in seconds.
      moments: seconds UTC.
      days: length of the window.
      behaviors: which events count as the outcome, such as purchase; None counts all.
      active_days: only users with an event in so many days before the moment; None for all with a history.
      until: seconds at which the log ends; None means with its last event.

    Raises:
      ConfigError: days that are not positive, or a behaviour that the log does not have.
      DataError: a log without times, or no moment that is left.
    """
    _check(dataset, behaviors)
    if days <= 0 or (active_days is not None and active_days <= 0):
        raise ConfigError(f"days and active_days must be positive, got {days} and {active_days}")
    sequences, window = dataset.sequences, int(days * SECONDS_PER_DAY)
    until = int(sequences.timestamps.max()) + 1 if until is None else until
    moments = np.unique(np.asarray(moments, dtype=np.int64))
    starts = np.array(sorted(dataset.split.cuts.values()), dtype=np.int64)
    late = moments + window > until
    across = ((moments[:, None] < starts) & (moments[:, None] + window > starts)).any(axis=1) & ~late
    kept = moments[~late & ~across]
    notes = []
    if late.any():
        notes.append(f"{int(late.sum())} of {len(moments)} moments left out: the log ends within {days:g} days of them")
    if across.any():
        notes.append(
            f"{int(across.sum())} of {len(moments)} moments left out: their {days:g} days reach over the start of the "
            "validation or the test"
        )
    if not len(kept):
        raise DataError(f"no moment is left to make rows for{': ' if notes else ''}{'; '.join(notes)}")
    counts = _of_behaviors(dataset, behaviors)
    users, times = sequences.users_of_events, sequences.timestamps

    def has(where: np.ndarray) -> np.ndarray:
        return np.bincount(users[where], minlength=sequences.num_users) > 0

    parts = []
    for moment in kept.tolist():
        before = times < moment
        if active_days is not None:
            before &= times >= moment - int(active_days * SECONDS_PER_DAY)
        asked = np.flatnonzero(has(before))
        label = has(counts & (times >= moment) & (times < moment + window))[asked]
        parts.append(pd.DataFrame({"user_id": sequences.user_ids[asked], "timestamp": moment, "label": label * 1}))
    rows = pd.concat(parts, ignore_index=True)
    notes.append(f"{len(rows):,} rows at {len(kept)} moments, {rows['label'].mean():.1%} of them with the outcome")
    return OutcomeRows(rows, notes)


def next_value_rows(
    dataset: Dataset, moments: Sequence[int] | np.ndarray, *, column: str, behaviors: Collection[str] | None = None
) -> OutcomeRows:
    """A row for each moment and each user with an event before it: what the item table says of the next event's item.

    The next event is the first from the moment on that has an item and one of the behaviours. Where there is none, or
    on a timeline none before the next start of a part, there is no row.

    Args:
      dataset: with times in seconds.
      moments: seconds UTC.
      column: of the item table, such as category; its values are the labels, in words.
      behaviors: of the next event, such as purchase; None takes any.

    Raises:
      ConfigError: a behaviour that the log does not have.
      DataError: a log without times, no such column, or no row.
    """
    _check(dataset, behaviors)
    check_columns(list(dataset.items.columns), [column], source="the item table")
    sequences = dataset.sequences
    users, times = sequences.users_of_events, sequences.timestamps
    words = as_text(dataset.items[column], name=column).to_numpy(dtype=object)
    counts = _of_behaviors(dataset, behaviors) & (sequences.item_ids > 0)
    counts &= np.concatenate([[False], pd.notna(words)])[sequences.item_ids]
    starts, parts = sorted(dataset.split.cuts.values()), []
    for moment in np.unique(np.asarray(moments, dtype=np.int64)).tolist():
        end = min([start for start in starts if start > moment], default=np.iinfo(np.int64).max)
        events = np.flatnonzero(counts & (times >= moment) & (times < end))
        asked, first = np.unique(users[events], return_index=True)
        has_history = np.bincount(users[times < moment], minlength=sequences.num_users)[asked] > 0
        labels = words[sequences.item_ids[events[first[has_history]]] - 1]
        of_users = sequences.user_ids[asked[has_history]]
        parts.append(pd.DataFrame({"user_id": of_users, "timestamp": moment, "label": labels}))
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise DataError("no user with a history has an event after any of the moments")
    return OutcomeRows(rows, [f"{len(rows):,} rows at {rows['timestamp'].nunique()} moments"])


def _check(dataset: Dataset, behaviors: Collection[str] | None) -> None:
    if unknown := set(behaviors or ()) - set(dataset.behaviors):
        raise ConfigError(f"behaviors name {sorted(unknown)}, the log has {list(dataset.behaviors)}")
    if dataset.time_kind != "seconds":
        raise DataError(f"the events of {dataset.name} have an order and no times, so no moment can be asked about")


def _of_behaviors(dataset: Dataset, behaviors: Collection[str] | None) -> np.ndarray:
    """`[N]` True for events of these behaviours."""
    names = dataset.behaviors if behaviors is None else behaviors
    return np.isin(dataset.sequences.behaviors, [dataset.behaviors.index(name) for name in names])
