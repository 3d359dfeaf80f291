"""Human judgments of pairs of a query and an item as arrays: the judged items of each query and their gains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from seqrec_jax.errors import DataError


@dataclass(frozen=True)
class Judgments:
    """Q queries with the items that were judged for each, T pairs in all, laid end to end.

    Attributes:
      queries: `[Q]` distinct texts (str).
      offsets: `[Q+1]` int64; the pairs of query q are `offsets[q]:offsets[q+1]`.
      item_ids: `[T]` int32 in 1…V, distinct within a query.
      gains: `[T]` float32 gain of the item as an answer, not negative.
    """

    queries: np.ndarray
    offsets: np.ndarray
    item_ids: np.ndarray
    gains: np.ndarray

    @property
    def num_judged(self) -> np.ndarray:
        """`[Q]` int64 number of judged items of each query."""
        return np.diff(self.offsets)

    @property
    def queries_of_pairs(self) -> np.ndarray:
        """`[T]` int64 index in 0…Q-1 of each pair's query."""
        return np.repeat(np.arange(len(self.queries)), self.num_judged)

    def select(self, places: Int[np.ndarray, " Q2"]) -> Judgments:
        """The queries with the given indices `[Q']` in 0…Q-1, in that order."""
        lengths = self.num_judged[places]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        pairs = np.repeat(self.offsets[places] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Judgments(self.queries[places], offsets, self.item_ids[pairs], self.gains[pairs])

    def padded(self, of_pairs: np.ndarray) -> np.ndarray:
        """`[Q, P]` values of pairs by query, from a value a pair `[T]`; P is the most pairs of a query, 0 = none."""
        padded = np.zeros((len(self.queries), int(self.num_judged.max(initial=0))), dtype=of_pairs.dtype)
        padded[np.arange(padded.shape[1]) < self.num_judged[:, None]] = of_pairs
        return padded


def encode_judgments(
    pairs: pd.DataFrame, *, item_numbers: pd.Series, gain_column: str = "relevance", least: float = 0.0
) -> tuple[Judgments, int]:
    """Judged pairs as arrays under the catalogue's numbering.

    A pair with several judgments gets the mean of its grades.

    Args:
      pairs: the columns `query`, `item_id` and a column of grades, a row a judgment.
      item_numbers: item id 1…V by raw item id.
      gain_column: name of the column of grades.
      least: grade of gain 0; the gain is the grade minus it.

    Returns:
      The judgments, queries in the order of their first row; and the number of rows with an unknown item, which are
      left out, as are queries without any other item.

    Raises:
      DataError: a column is missing, a grade is below `least` or not a number, or no pair is left.
    """
    if missing := [name for name in ("query", "item_id", gain_column) if name not in pairs]:
        raise DataError(f"the judgments have no column {missing[0]}, only {list(pairs.columns)}")
    grades = pairs[gain_column].to_numpy(dtype=np.float64)
    if not (grades >= least).all():
        place = int(np.flatnonzero(~(grades >= least))[0])
        raise DataError(
            f"{gain_column} of query {pairs['query'].iloc[place]!r} and item {pairs['item_id'].iloc[place]!r} is "
            f"{grades[place]}, expected a number of at least {least}; give the smallest grade as `least`"
        )
    numbers = pairs["item_id"].map(item_numbers)
    known = numbers.notna().to_numpy()
    if not known.any():
        raise DataError(
            f"none of the {len(pairs):,} judged pairs is of an item of the catalogue (the first is of "
            f"{pairs['item_id'].iloc[0] if len(pairs) else None!r}); number the items by their raw ids"
        )
    table = pd.DataFrame(
        {"query": pairs["query"][known], "item": numbers[known].astype(np.int32), "gain": grades[known] - least}
    )
    table["code"], texts = pd.factorize(table["query"])
    table = table.groupby(["code", "item"], sort=True, as_index=False)["gain"].mean()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(table["code"], minlength=len(texts)))]).astype(np.int64)
    judgments = Judgments(
        np.asarray(texts, dtype=object),
        offsets,
        table["item"].to_numpy(dtype=np.int32),
        table["gain"].to_numpy(dtype=np.float32),
    )
    return judgments, int((~known).sum())
