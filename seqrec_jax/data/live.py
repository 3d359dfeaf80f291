"""Histories that arrive with a request: frames of raw events to `Sequences`, numbered as the log of a dataset is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from seqrec_jax.data.columns import number_texts
from seqrec_jax.data.files import as_text
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError


class LogVocabulary(NamedTuple):
    """The numbering of a dataset's log, by which live histories are read.

    Attributes:
      item_ids: V raw item ids (text); the one at place j-1 has the item id j. Its hash table is built once, at the
        first look-up, so keep the vocabulary between requests.
      behaviors: names of the behaviours in the order of their codes.
      first_timestamp: seconds UTC of the dataset's first event, the time of events that have none.
      query_behavior: behaviour of an event with a query and without an item where the frame names no behaviours;
        None for a model that reads no queries.
    """

    item_ids: pd.Index
    behaviors: tuple[str, ...]
    first_timestamp: int
    query_behavior: str | None = None


def read_histories(
    histories: Sequence[pd.DataFrame], user_ids: Sequence[str], vocabulary: LogVocabulary
) -> tuple[Sequences, list[str]]:
    """Sequences of raw events, and the raw item ids that the vocabulary lacks; their events are left out.

    Args:
      histories: U frames, one a user, in order of time, with the column `item_id` (raw) and optionally `behavior`,
        `timestamp` (whole seconds UTC) and `query`, each in all of the frames or in none. Without `behavior` every
        event has the first one, without `timestamp` the time of the dataset's first event. With `query`, an event
        may have a query and no item; it then is a search where there is no `behavior`.
      user_ids: U raw user ids (text).
      vocabulary: the numbering.

    Returns:
      The events of U users, a user whose events were all left out included; and the unknown ids in string order.

    Raises:
      DataError: a frame without item_id, a behaviour that the vocabulary lacks, times that are not whole seconds, or
        times that fall within a user.

    >>> vocabulary = LogVocabulary(pd.Index(["hat", "shoe"]), ("view",), first_timestamp=0)
    >>> found, unknown = read_histories([pd.DataFrame({"item_id": ["shoe", "sock", "hat"]})], ["u"], vocabulary)
    >>> found.item_ids.tolist(), unknown
    ([2, 1], ['sock'])
    """
    for history in histories:
        if "item_id" not in history:
            raise DataError(f"a history needs the column item_id, found {list(history.columns)}")
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    filled = [history for history in histories if len(history)]
    events = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame({"item_id": []}, dtype=object)
    raw_ids = as_text(events["item_id"], name="item_id").fillna("").to_numpy(dtype=object)
    item_ids = (vocabulary.item_ids.get_indexer(pd.Index(raw_ids)) + 1).astype(np.int32)
    query_ids, queries = number_texts(as_text(events["query"], name="query")) if "query" in events else (None, None)
    searches = np.zeros(len(raw_ids), dtype=bool) if query_ids is None else (query_ids > 0) & (raw_ids == "")
    behaviors = _behavior_codes(events, searches, vocabulary)
    sequences = Sequences(
        user_ids=np.asarray(user_ids, dtype=object),
        offsets=offsets,
        item_ids=item_ids,
        timestamps=_seconds(events, offsets, first_timestamp=vocabulary.first_timestamp),
        behaviors=behaviors,
        values=np.full(len(item_ids), np.nan, dtype=np.float32),
        query_ids=query_ids,
        queries=queries,
    )
    unknown = sorted(set(raw_ids[(item_ids == 0) & ~searches]))
    return sequences.select_events((item_ids > 0) | searches), unknown


def _behavior_codes(events: pd.DataFrame, searches: np.ndarray, vocabulary: LogVocabulary) -> Int[np.ndarray, " N"]:
    """`[N]` int8 codes of the behaviours; `searches` `[N]` bool are the events with a query and no item."""
    codes = np.zeros(len(events), dtype=np.int64)
    if "behavior" in events:
        codes = pd.Index(vocabulary.behaviors, dtype=object).get_indexer(events["behavior"].astype(object))
    elif vocabulary.query_behavior is not None:
        codes[searches] = vocabulary.behaviors.index(vocabulary.query_behavior)
    if (codes < 0).any():
        unknown = events["behavior"][codes < 0].iloc[0]
        raise DataError(f"behaviour {unknown!r} is unknown to the model; it knows {list(vocabulary.behaviors)}")
    return codes.astype(np.int8)


def _seconds(events: pd.DataFrame, offsets: np.ndarray, *, first_timestamp: int) -> Int[np.ndarray, " N"]:
    """`[N]` int64 times of raw events, which must not fall within a user."""
    if "timestamp" not in events:
        return np.full(len(events), first_timestamp, dtype=np.int64)
    written = events["timestamp"]
    numbers = pd.to_numeric(written, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    broken = numbers != np.floor(numbers)
    if pd.api.types.is_datetime64_any_dtype(written.dtype) or broken.any():
        found = written[broken].iloc[0] if broken.any() else written.dtype
        raise DataError(f"a history's timestamp must be whole seconds UTC, found {found}")
    seconds = numbers.astype(np.int64)
    falls = np.diff(seconds) < 0
    falls[offsets[(offsets > 0) & (offsets < len(seconds))] - 1] = False  # between two users
    if falls.any():
        raise DataError(
            f"a history must be in order of time, found {seconds[:-1][falls][0]} before {seconds[1:][falls][0]}; "
            "sort it by timestamp"
        )
    return seconds
