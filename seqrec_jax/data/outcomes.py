"""Labelled rows of what users did after a moment: a return or a purchase within some days, or the next item."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import as_text, check_columns
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import check_value


class OutcomeRows(NamedTuple):
    """Labelled rows for a head.

    Attributes:
      rows: `user_id`, `timestamp` (the moment, seconds UTC) and `label` (0 or 1, or text), by moment and user.
      notes: sentences with the counts of rows and of moments that were left out.
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
    """A row for each moment and each user with an event before it, labelled 1 if an event follows within `days` days.

    The label counts the events from the moment on, that second included, and less than `days` later; a head that is
    fitted to the rows reads the events before the moment. A moment is left out, and counted in the notes, if its window
    ends after the log, since the label is unknown, or if its window contains the start of the validation or the test of
    a timeline, since the label would then reveal events of the later part.

    Args:
      dataset: a dataset with times in seconds.
      moments: moments in seconds UTC.
      days: length of the window in days.
      behaviors: behaviours of the events that count as the outcome, such as purchase; None counts all.
      active_days: only users with an event in so many days before the moment; None for all with a history.
      until: end of the log in seconds UTC; None means with its last event.

    Returns:
      The rows with labels 0 and 1.

    Raises:
      ConfigError: days that are not positive, or a behaviour that the log does not have.
      DataError: a log without times, or no moment is left.
    """
    _check(dataset, behaviors)
    check_value("days", days, "(0, inf)")
    check_value("active_days", active_days, "(0, inf)")
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
        active = np.flatnonzero(has(before))
        label = has(counts & (times >= moment) & (times < moment + window))[active]
        parts.append(pd.DataFrame({"user_id": sequences.user_ids[active], "timestamp": moment, "label": label * 1}))
    rows = pd.concat(parts, ignore_index=True)
    notes.append(f"{len(rows):,} rows at {len(kept)} moments, {rows['label'].mean():.1%} of them with the outcome")
    return OutcomeRows(rows, notes)


def next_value_rows(
    dataset: Dataset, moments: Sequence[int] | np.ndarray, *, column: str, behaviors: Collection[str] | None = None
) -> OutcomeRows:
    """A row for each moment and each user with an event before it, labelled with a column of the next event's item.

    The next event is the first from the moment on that has an item and one of the behaviours. A user without such an
    event, or on a timeline without one before the next part starts, gets no row.

    Args:
      dataset: a dataset with times in seconds.
      moments: moments in seconds UTC.
      column: name of a column of the item table, such as category; its values as text are the labels.
      behaviors: allowed behaviours of the next event, such as purchase; None allows any.

    Returns:
      The rows with text labels.

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
        found, first = np.unique(users[events], return_index=True)
        has_history = np.bincount(users[times < moment], minlength=sequences.num_users)[found] > 0
        labels = words[sequences.item_ids[events[first[has_history]]] - 1]
        of_users = sequences.user_ids[found[has_history]]
        parts.append(pd.DataFrame({"user_id": of_users, "timestamp": moment, "label": labels}))
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise DataError("no user with a history has an event after any of the moments")
    return OutcomeRows(rows, [f"{len(rows):,} rows at {rows['timestamp'].nunique()} moments"])


def _check(dataset: Dataset, behaviors: Collection[str] | None) -> None:
    if unknown := set(behaviors or ()) - set(dataset.behaviors):
        raise ConfigError(f"behaviors name {sorted(unknown)}, the log has {list(dataset.behaviors)}")
    if dataset.time_kind != "seconds":
        raise DataError(f"the events of {dataset.name} have an order and no times, so they cannot be cut at a moment")


def _of_behaviors(dataset: Dataset, behaviors: Collection[str] | None) -> np.ndarray:
    """`[N]` True for events of these behaviours."""
    names = dataset.behaviors if behaviors is None else behaviors
    return np.isin(dataset.sequences.behaviors, [dataset.behaviors.index(name) for name in names])
