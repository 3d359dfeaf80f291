"""MovieLens-1M for the peers: users' events in order, the last two held out. Python 3.9, NumPy only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

MOVIELENS = Path("../shared/data/movielens_1m/ml-1m.txt")
TOP = 10


class Histories(NamedTuple):
    """Leave-one-out.

    Attributes:
      sequences: item ids 1…V of each user, in order; the last is for the test, the one before it for validation.
      num_items: V.
    """

    sequences: list[np.ndarray]
    num_items: int

    @property
    def training(self) -> list[np.ndarray]:
        """What models are trained on."""
        return [sequence[:-2] for sequence in self.sequences]

    @property
    def targets(self) -> np.ndarray:
        """`[U]` the test event, predicted from all before it."""
        return np.array([sequence[-1] for sequence in self.sequences])


def read_histories(path: Path = MOVIELENS) -> Histories:
    """The file's `user item` rows."""
    users, items = np.array(path.read_text().split(), dtype=np.int64).reshape(-1, 2).T
    starts = np.flatnonzero(np.diff(users)) + 1
    return Histories(np.split(items, starts), int(items.max()))


def padded_left(sequences: list[np.ndarray], length: int) -> np.ndarray:
    """`[U, length]` the last events of each sequence, zeros before them."""
    rows = np.zeros((len(sequences), length), dtype=np.int64)
    for number, sequence in enumerate(sequences):
        kept = sequence[-length:]
        rows[number, length - len(kept) :] = kept
    return rows


def ndcg(lists: np.ndarray, targets: np.ndarray) -> float:
    """Mean NDCG of lists `[U, K]` with one relevant item each."""
    _, places = np.nonzero(lists == targets[:, None])
    return float(np.sum(1 / np.log2(places + 2)) / len(targets))
