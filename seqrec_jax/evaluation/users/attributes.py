"""Tables of the evaluated users and of their targets, apart from any system: the columns that slices are cut by.

The time of a recommendation is that of the target's event: ages and gaps end there. In a log with an order but no
times these columns are nan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from seqrec_jax.data.attributes import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import TRAIN, EvaluationCases
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.settings import check_value

TAIL_SHARE = 0.2
"""The tail of a catalogue consists of its least popular items with at most this share of all training events."""
_MOST_ATTRIBUTES = 3


def training_counts(dataset: Dataset) -> Int[np.ndarray, " V1"]:
    """`[V+1]` int64 number of training events of each item, 0 for the padding."""
    counts = np.bincount(dataset.sequences.item_ids[dataset.split.parts == TRAIN], minlength=dataset.num_items + 1)
    counts[0] = 0
    return counts


def popularity_deciles(counts: Int[np.ndarray, " V1"]) -> Int[np.ndarray, " V1"]:
    """The tenth of the catalogue that each item is in by its number of events: 1 is the head, 10 the tail.

    Items with equally many events share the decile of their middle place, so that the order of ids has no effect.

    Args:
      counts: `[V+1]` integer number of events of each item; row 0 is ignored.

    Returns:
      `[V+1]` int64 in 1…10, 0 for the padding.

    >>> popularity_deciles(np.array([0, 9, 8, 7, 6, 5, 5, 5, 2, 1, 0])).tolist()
    [0, 1, 2, 3, 4, 6, 6, 6, 8, 9, 10]
    """
    deciles = np.zeros(len(counts), dtype=np.int64)
    if len(counts) > 1:
        _, level, sizes = np.unique(-np.asarray(counts)[1:], return_inverse=True, return_counts=True)
        middles = np.cumsum(sizes) - sizes + (sizes - 1) / 2
        deciles[1:] = 1 + (10 * (middles + 0.5) / (len(counts) - 1)).astype(np.int64)[level]
    return np.minimum(deciles, 10)


def tail_items(counts: Int[np.ndarray, " V1"], *, share: float = TAIL_SHARE) -> Bool[np.ndarray, " V1"]:
    """The least popular items that have at most a share of all events together.

    Items with equally many events are all in the tail or all outside.

    Args:
      counts: `[V+1]` integer number of events of each item; row 0 is ignored.
      share: largest share of the events, in (0, 1).

    Returns:
      `[V+1]` bool, row 0 False.

    Raises:
      ConfigError: a share outside (0, 1).

    >>> tail_items(np.array([0, 60, 30, 6, 4, 0])).tolist()
    [False, False, False, True, True, True]
    """
    check_value("share", share, "(0, 1)")
    levels, level = np.unique(np.asarray(counts)[1:], return_inverse=True)
    events = np.cumsum(np.bincount(level, weights=np.asarray(counts)[1:], minlength=len(levels)))
    inside = events <= share * (events[-1] if len(events) else 0) * (1 + 1e-12)
    return np.concatenate([[False], inside[level]])


def categorical_codes(dataset: Dataset, *, most: int) -> dict[str, Int[np.ndarray, " V1"]]:
    """`[V+1]` integer code of each item, 0 = none, in the first `most` categorical attributes, by attribute name."""
    chosen = dict(list(dataset.attributes.categorical.items())[:most])
    config = AttributeConfig(categorical=tuple(chosen))
    encoded, _ = encode_attributes(dataset.items, config, vocabulary=AttributeVocabulary(categorical=chosen))
    return encoded.categorical


def user_table(dataset: Dataset, cases: EvaluationCases, *, attributes: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row an evaluated user, in the order of the cases.

    Args:
      dataset: where the cases come from.
      cases: U users.
      attributes: further attributes of users by raw id, in a column `user_id` or in the index; users without a row get
        missing values.

    Returns:
      U rows: `user_id`, `history_length`, `targets` (their number); of the first target `first_target` (raw id),
      `first_target_popularity` (training events), `popularity_decile` (of the catalogue, 1 = head),
      `first_target_age_days` (since the item's first event in the log), `first_target_behavior` and
      `target_<name>` for the first three categorical attributes; `seconds_since_last_event` (from the last event of
      the history to the first target), `target_is_last_item` and `target_in_history`; `history_popularity` (mean
      of the natural logarithm of 1 + training events) and `last_behavior` of the history; then `attributes`.

    Raises:
      DataError: attributes without `user_id`, with a user twice, or with a column that the table has already.
    """
    firsts = cases.target_offsets[:-1]
    targets = _target_columns(dataset, cases, firsts)
    histories = cases.histories
    counts = training_counts(dataset)
    ends, has_history = histories.offsets[1:] - 1, histories.lengths > 0
    # a user without history has no last event: event 0 stands in and is masked
    last = np.where(has_history, ends, 0)
    last_items = np.where(has_history, _take(histories.item_ids, last), -1)
    gaps = np.full(len(firsts), np.nan)
    if dataset.time_kind == "seconds":
        times = dataset.sequences.timestamps[cases.target_events[firsts]]
        gaps = np.where(has_history, times - _take(histories.timestamps, last), np.nan)
    last_codes = np.where(has_history, _take(histories.behaviors, last), -1)
    table = pd.DataFrame(
        {
            "user_id": dataset.sequences.user_ids[cases.users],
            "history_length": histories.lengths,
            "targets": cases.num_targets,
            "first_target": targets["item"],
            "first_target_popularity": targets["popularity"],
            "popularity_decile": targets["popularity_decile"],
            "first_target_age_days": targets["age_days"],
            "first_target_behavior": targets["behavior"],
            "seconds_since_last_event": gaps,
            "target_is_last_item": cases.target_items[firsts] == last_items,
            "target_in_history": targets["in_history"],
            "history_popularity": _history_popularity(histories, counts),
            "last_behavior": pd.Categorical.from_codes(last_codes, categories=list(dataset.behaviors)),
        }
    )
    for name, values in _categories(dataset).items():
        table[f"target_{name}"] = pd.Categorical.from_codes(
            values.codes[cases.target_items[firsts]], categories=values.categories
        )
    return table if attributes is None else _with_attributes(table, attributes)


def target_table(dataset: Dataset, cases: EvaluationCases) -> pd.DataFrame:
    """One row a target, in the order of `Judged.ranks`.

    Args:
      dataset: where the cases come from.
      cases: U users with T targets.

    Returns:
      T rows: `case` (0…U-1), `item` (raw id), `popularity` (training events), `popularity_decile`, `age_days`,
      `behavior` (of the target's event) and `in_history`.
    """
    events = np.arange(len(cases.target_items))
    case = np.repeat(np.arange(len(cases.users)), cases.num_targets)
    return pd.DataFrame({"case": case, **_target_columns(dataset, cases, events)})


def check_users(users: pd.DataFrame | pd.Series, count: int) -> None:
    """Raise a ShapeError unless the table has one row for each of `count` users.

    Raises:
      ShapeError: another number of rows.
    """
    if len(users) != count:
        raise ShapeError(
            f"the table of users has {len(users)} rows, {count} users were judged; make it from their cases"
        )


def _target_columns(dataset: Dataset, cases: EvaluationCases, targets: Int[np.ndarray, " T"]) -> dict[str, Any]:
    """Columns of some targets, given by their places in `cases.target_items`."""
    items, events = cases.target_items[targets], cases.target_events[targets]
    counts = training_counts(dataset)
    ages = np.full(len(targets), np.nan)
    if dataset.time_kind == "seconds":
        born = dataset.items["first_timestamp"].to_numpy(dtype=np.int64)[items - 1]
        ages = (dataset.sequences.timestamps[events] - born) / SECONDS_PER_DAY
    behaviors = dataset.sequences.behaviors[events]
    return {
        "item": dataset.items["item_id"].to_numpy(dtype=object)[items - 1],
        "popularity": counts[items],
        "popularity_decile": popularity_deciles(counts)[items],
        "age_days": ages,
        "behavior": pd.Categorical.from_codes(behaviors, categories=list(dataset.behaviors)),
        "in_history": cases.targets_seen()[targets],
    }


def _history_popularity(histories: Sequences, counts: Int[np.ndarray, " V1"]) -> Float[np.ndarray, " U"]:
    """`[U]` mean of log(1 + count) over the events with an item, nan without any."""
    real, users = histories.item_ids > 0, histories.users_of_events
    logs = np.log1p(counts)[histories.item_ids[real]]
    sums = np.bincount(users[real], weights=logs, minlength=histories.num_users)
    sizes = np.bincount(users[real], minlength=histories.num_users)
    return np.asarray(np.divide(sums, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0))


def _categories(dataset: Dataset) -> dict[str, pd.Categorical]:
    """The first categorical attributes of the items, `[V+1]` each."""
    return {
        name: pd.Categorical.from_codes(codes - 1, categories=list(dataset.attributes.categorical[name]))
        for name, codes in categorical_codes(dataset, most=_MOST_ATTRIBUTES).items()
    }


def _with_attributes(table: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    if "user_id" in attributes:
        attributes = attributes.set_index("user_id")
    elif attributes.index.name != "user_id":
        raise DataError(
            f"the users' attributes have the columns {list(attributes.columns)} and no user_id; "
            "name the column or the index of raw ids user_id"
        )
    doubled = attributes.index[attributes.index.duplicated()]
    if len(doubled):
        raise DataError(f"the users' attributes have user {doubled[0]!r} more than once; keep one row a user")
    taken = [name for name in attributes.columns if name in table]
    if taken:
        raise DataError(f"the users' attributes have the columns {taken}, which the table has itself; rename them")
    found = attributes.reindex(table["user_id"]).reset_index(drop=True)
    return pd.concat([table, found], axis=1)


def _take(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`values[places]`, zeros where there are no values at all."""
    return values[places] if len(values) else np.zeros(len(places), dtype=values.dtype)
