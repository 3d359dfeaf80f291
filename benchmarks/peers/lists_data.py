"""What every contender of `evaluation_system.py` reads: lists or vectors, and the held-out items of each user.

A contender has the methods

- `prepare(folder, task, …) -> version`: read the files and bring them to the form that the library works on; task is
  lists or vectors;
- `warm_up()`: a turn that does not count: all lists, or the vectors of the first users;
- `measure() -> seconds, figures`: from that form to the means over users, by names such as `ndcg@10`. Ours adds
  `intervals_seconds` and `slices_seconds`.

Needs NumPy only.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

CUTOFFS = (5, 10, 20)
TOP = max(CUTOFFS)
WARM_UP_USERS = 512
BATCH = 128
"""Users whose scores a peer has in memory at once, the default of RecTools; RecBole's own default would be one user."""


class Inputs(NamedTuple):
    """Arrays of one task; item ids are 1…V, and 0 is no item.

    Attributes:
      targets: `[U, P]` int32 held-out items of each user, at least one, the empty places last.
      lists: `[U, K]` int32 recommended items, best first; None for vectors.
      v_x: `[U, E]` float32 user vectors; None for lists.
      v_y: `[V+1, E]` float32 item vectors, row 0 of zeros; None for lists.
    """

    targets: np.ndarray
    lists: np.ndarray | None = None
    v_x: np.ndarray | None = None
    v_y: np.ndarray | None = None


def read_inputs(folder: str, task: str) -> Inputs:
    """The arrays of a task.

    Raises:
      ValueError: another task than lists or vectors.
    """
    names = {"lists": ("targets", "lists"), "vectors": ("targets", "v_x", "v_y")}
    if task not in names:
        raise ValueError(f"the task is {task!r}, expected {' or '.join(names)}")
    return Inputs(**{name: np.load(Path(folder) / f"{name}.npy") for name in names[task]})


def pairs(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Users (0…U-1) and held-out items, `[T]` int64 each, user by user."""
    users, places = np.nonzero(targets)
    return users, targets[users, places].astype(np.int64)
