"""Raw item ids and their numbers 1…V, and the histories that come with a request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from seqrec_jax.data.files import as_text
from seqrec_jax.data.live import LogVocabulary, read_histories
from seqrec_jax.data.queries import append_query
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.scoring import catalogue_order

History: TypeAlias = Sequence[str | float | None] | pd.DataFrame | Sequences
"""Raw item ids of one user in order of time, raw events of one user or of many, or the sequences of many users."""


class ItemCatalogue:
    """The items and behaviours that a model was trained on, as raw values and as numbers."""

    def __init__(
        self, items: pd.DataFrame, behaviors: Sequence[str], *, first_timestamp: int, query_behavior: str | None = None
    ):
        """A catalogue from the facts of a dataset.

        Args:
          items: V rows in vocabulary order with `item_id` (raw) and `training_events`.
          behaviors: names of the behaviour codes 0, 1, ….
          first_timestamp: seconds UTC of the dataset's first event.
          query_behavior: the behaviour of a search; None for a model whose events have no queries.

        Raises:
          ConfigError: a query_behavior that is not among the behaviours.
        """
        self.items = items
        self.behaviors = tuple(behaviors)
        self.raw_ids = items["item_id"].to_numpy(dtype=object)
        self.first_timestamp = first_timestamp
        self._query_code = None if query_behavior is None else self.behavior_code(query_behavior)
        self._vocabulary = LogVocabulary(pd.Index(items["item_id"]), self.behaviors, first_timestamp, query_behavior)

    @property
    def num_items(self) -> int:
        """V, the number of items."""
        return len(self.raw_ids)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {raw: number for number, raw in enumerate(self.raw_ids.tolist(), start=1)}

    @cached_property
    def popularity(self) -> Float[np.ndarray, " V1"]:
        """`[V+1]` float32 training events of each item, 0 in row 0."""
        return np.concatenate([[0], self.items["training_events"].to_numpy()]).astype(np.float32)

    @cached_property
    def order(self) -> Int[Array, " V1"]:
        """`[V+1]` int32 place of each item in the one order that settles ties, 0 in row 0."""
        return catalogue_order(self.num_items, jax.random.key(0))

    def behavior_code(self, behavior: str) -> int:
        """The code of a behaviour.

        Raises:
          ConfigError: a behaviour that the model was not trained with.
        """
        if behavior not in self.behaviors:
            raise ConfigError(f"behaviour {behavior!r} is unknown to the model; it knows {list(self.behaviors)}")
        return self.behaviors.index(behavior)

    def numbers(self, raw_ids: Iterable[object]) -> tuple[Int[np.ndarray, " N"], list[str]]:
        """int32 numbers `[N]` of those raw item ids that the catalogue has, and the other ids in string order.

        Raises:
          DataError: floats that are too large to be exact ids.
        """
        raw: list[Any] = list(raw_ids)
        if not all(type(one) is str for one in raw):
            raw = as_text(pd.Series(raw), name="item_id").fillna("").tolist()
        known = self._numbers
        found = [known[one] for one in raw if one in known]
        return np.array(found, dtype=np.int32), sorted({one for one in raw if one not in known})

    def known_numbers(self, raw_ids: Iterable[object], *, source: str) -> Int[np.ndarray, " N"]:
        """`[N]` int32 numbers 1…V of raw item ids.

        Args:
          raw_ids: N raw ids.
          source: how an error's text starts, such as "the candidates".

        Raises:
          DataError: an id that the catalogue does not have.
        """
        names = as_text(pd.Series(list(raw_ids)), name="item_id").fillna("").tolist()
        numbers = np.array([self._numbers.get(name, 0) for name in names], dtype=np.int32)
        if len(numbers) and not numbers.all():
            unknown = names[int((numbers == 0).argmax())]
            raise DataError(
                f"{source} name item {unknown!r} ({int((numbers == 0).sum()):,} rows in all), which is not among the "
                f"{self.num_items:,} items of the run; leave them out, or add the items with `seqrec add-items`"
            )
        return numbers

    def histories(self, histories: Sequence[pd.DataFrame], user_ids: Sequence[str]) -> tuple[Sequences, list[str]]:
        """Sequences of raw events; see `Recommender.histories`."""
        return read_histories(histories, user_ids, self._vocabulary)

    def read(self, history: History) -> tuple[Sequences, list[str]]:
        """The sequences behind any form of a request's history, and the unknown raw item ids, which are skipped.

        Args:
          history: raw item ids of one user in order of time; or a frame as in `Recommender.histories`, of many users if
            it has a column `user_id`; or the sequences of many users.

        Raises:
          DataError: no user, or as `Recommender.histories`.
        """
        if isinstance(history, Sequences):
            if not history.num_users:
                raise DataError("there is no user to recommend to")
            return history, []
        if isinstance(history, pd.DataFrame):
            if "user_id" not in history:
                return self.histories([history], ["history"])
            names = as_text(history["user_id"], name="user_id").to_numpy(dtype=object)
            frames = dict(list(history.groupby(names, sort=False)))
            if not frames:
                raise DataError("there is no user to recommend to")
            return self.histories(list(frames.values()), list(frames))
        item_ids, unknown = self.numbers(history)
        size = len(item_ids)
        sequences = Sequences(
            user_ids=np.array(["history"], dtype=object),
            offsets=np.array([0, size]),
            item_ids=item_ids,
            timestamps=np.full(size, self.first_timestamp, dtype=np.int64),
            behaviors=np.zeros(size, dtype=np.int8),
            values=np.full(size, np.nan, dtype=np.float32),
        )
        return sequences, unknown

    def with_query(self, histories: Sequences, query: str) -> Sequences:
        """The same users, each with a search for the query as one more event.

        Raises:
          ConfigError: the model takes no queries.
        """
        if self._query_code is None:
            raise ConfigError(
                f"the model cannot be asked for {query!r}: it takes no queries; train one with model.events.query on, "
                "on a log whose searches have a query and no item"
            )
        return append_query(histories, query, behavior=self._query_code, first_timestamp=self.first_timestamp)
