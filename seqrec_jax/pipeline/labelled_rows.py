"""Labelled rows of a log, such as impressions with clicks, as arrays over the moments of the decisions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import as_text, check_columns
from seqrec_jax.data.moments import histories_before
from seqrec_jax.data.timestamps import parse_timestamps
from seqrec_jax.errors import DataError
from seqrec_jax.heads.fitting import Examples
from seqrec_jax.retrieval import Recommender
from seqrec_jax.retrieval.run_head import with_time_since

_LATEST = 0.2
"""Share of the rows, the latest ones, that validate if the run's split is not by time."""


def labelled_examples(
    recommender: Recommender,
    dataset: Dataset,
    rows: pd.DataFrame,
    *,
    label: str,
    conversion: str | None,
    since_last: bool = False,
) -> tuple[Examples, np.ndarray, np.ndarray, list[str], list[str]]:
    """N rows as arrays over the M moments of the decisions.

    Args:
      recommender: the run's model.
      dataset: the run's dataset, later events included.
      rows: `user_id`, `timestamp`, the label, and perhaps `item_id` and `position`.
      label: column of 0 and 1, or of words, which are classes.
      conversion: column of 0 and 1; None for no conversions.
      since_last: whether states end with the columns of `with_time_since`.

    Returns:
      The rows; their times `[N]` int64 seconds UTC; the states `[M, D]` float32; names of the classes; sentences of
      counts.

    Raises:
      DataError: columns that are absent, times that are none, labels other than 0 and 1 (or words), an item that the
        run does not know, a position below 1.
    """
    wanted = ["user_id", "timestamp", label, *([] if conversion is None else [conversion])]
    check_columns(list(rows.columns), wanted, source="the labelled rows")
    if not len(rows):
        raise DataError("there are no labelled rows")
    parsed = parse_timestamps(rows["timestamp"], name="timestamp", source="the labelled rows")
    if parsed.isna().any():
        wrong = rows["timestamp"][parsed.isna().to_numpy()].iloc[0]
        raise DataError(f"the labelled rows' timestamp has {wrong!r}, which is no time; use seconds or ISO times")
    times = parsed.to_numpy(dtype=np.int64)
    names = as_text(rows["user_id"], name="user_id").to_numpy(dtype=object)
    users = pd.Index(dataset.sequences.user_ids).get_indexer(pd.Index(names))
    moments, of_rows = np.unique(np.stack([users, times], axis=1), axis=0, return_inverse=True)
    of_rows = of_rows.reshape(-1).astype(np.int32)
    histories = histories_before(dataset.sequences, moments[:, 0], moments[:, 1], length=recommender.length)
    notes = [f"{len(rows):,} rows at {len(moments):,} moments of {len(np.unique(users[users >= 0])):,} users"]
    if empty := int((histories.lengths == 0).sum()):
        notes.append(f"{empty:,} moments before any known event of the user")
    item_ids = None
    if "item_id" in rows:
        item_ids = recommender.catalogue.known_numbers(rows["item_id"], source="the labelled rows")
    labels, classes = _labels(rows[label], name=label, words=conversion is None)
    examples = Examples(
        moments=of_rows,
        labels=labels,
        item_ids=item_ids,
        positions=_positions(rows["position"]) if "position" in rows else None,
        conversions=None if conversion is None else _labels(rows[conversion], name=conversion, words=False)[0],
    )
    states = recommender.user_vectors(histories)
    if since_last:
        states = with_time_since(states, histories, moments[:, 1])
    return examples, times, states, classes, notes


def _labels(column: pd.Series, *, name: str, words: bool) -> tuple[np.ndarray, list[str]]:
    """int32 0 and 1 and no classes, or classes from 1 and their names."""
    if column.isna().any():
        raise DataError(
            f"column {name!r} of the labelled rows is empty in {int(column.isna().sum())} rows; leave them out"
        )
    numbers = pd.to_numeric(column, errors="coerce")  # a file of text has its numbers as words
    if numbers.notna().all():
        values = numbers.to_numpy(dtype=np.float64)
        if len(odd := values[(values != 0) & (values != 1)]):
            raise DataError(
                f"column {name!r} of the labelled rows has {odd[0]:g}, expected 0 and 1; compare numbers with a level "
                "first, or write classes as words"
            )
        return values.astype(np.int32), []
    if not words:
        raise DataError(f"column {name!r} of the labelled rows has {column.iloc[0]!r}, expected 0 and 1")
    codes, classes = pd.factorize(as_text(column, name=name), sort=True)
    return (codes + 1).astype(np.int32), [str(one) for one in classes]


def _positions(column: pd.Series) -> np.ndarray:
    numbers = np.asarray(pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
    wrong = ~((numbers >= 1) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise DataError(f"position has {column[wrong].tolist()[0]!r}, expected whole numbers from 1")
    return numbers.astype(np.int32)


def training_and_validation(dataset: Dataset, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Indices of the rows that train and of those that validate, and a sentence on how they were chosen.

    Args:
      dataset: the run's dataset, at whose cuts the rows are divided; if its split is not by time, the latest fifth of
        the rows validates.
      times: `[N]` int64 seconds UTC of the rows.
    """
    cuts = dataset.split.cuts
    if cuts:
        training = np.flatnonzero(times < cuts["validation_start"])
        validation = np.flatnonzero((times >= cuts["validation_start"]) & (times < cuts["test_start"]))
        later = len(times) - len(training) - len(validation)
        how = f"the run's timeline; {later:,} later rows left out"
    else:
        cut = np.quantile(times, 1 - _LATEST)
        training, validation = np.flatnonzero(times < cut), np.flatnonzero(times >= cut)
        how = "the latest fifth validates"
    return training, validation, f"{len(training):,} rows to learn from, {len(validation):,} to validate on ({how})"
