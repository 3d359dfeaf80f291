"""This library's evaluation as a contender; the requests are those of `lists_data.py`.

Two ways: `lists`, where `judge_lists` measures the lists (from vectors: those of `top_k`), and `ranks`, where `judge`
ranks every target among all items, for which it has AUC, mean rank and ties besides. After the figures come the
intervals of all of them, and then those of the deciding one in every slice.

Runs with the benchmark's Python.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from lists_data import CUTOFFS, TOP, WARM_UP_USERS, Inputs, pairs, read_inputs
from protocol import serve

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.judging import Judged, judge, judge_lists, mean_of_users
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.slices import user_slices
from seqrec_jax.scoring import TopK, catalogue_order, top_k
from seqrec_jax.statistics import bootstrap_means

CONFIG = EvaluationConfig(cutoffs=CUTOFFS)
TILE = 256


class Vectors:
    """A ranker by the product of vectors; a user's history is its number and nothing else."""

    name = "vectors"

    def __init__(self, v_x: np.ndarray, v_y: np.ndarray):
        self._v_x, self._v_y = jnp.asarray(v_x), jnp.asarray(v_y)

    def scores(self, histories: Sequences) -> jax.Array:
        """`[U, V+1]` scores."""
        return _product(self._v_x, self._v_y, histories.user_ids)

    def lists(self, num_users: int) -> np.ndarray:
        """`[U, K]` the first items of the first users, in tiles of a fixed number of them."""
        priority = catalogue_order(len(self._v_y) - 1, jax.random.key(CONFIG.seed))
        starts = range(0, num_users, TILE)
        # the last user fills up the last tile
        tiles = [np.minimum(np.arange(start, start + TILE), num_users - 1) for start in starts]
        found = [_top(self._v_x, self._v_y, users, priority).item_ids for users in tiles]
        return np.concatenate(found)[:num_users]


@jax.jit
def _product(v_x: jax.Array, v_y: jax.Array, users: jax.Array) -> jax.Array:
    return v_x[users] @ v_y.T


@jax.jit
def _top(v_x: jax.Array, v_y: jax.Array, users: jax.Array, priority: jax.Array) -> TopK:
    return top_k(v_x[users], None, v_y, k=TOP, priority=priority)


class SeqrecLists:
    """The contender."""

    def prepare(self, folder: str, task: str, way: str = "lists") -> dict[str, Any]:
        inputs = read_inputs(folder, task)
        num_items = int(np.load(Path(folder) / "num_items.npy"))
        self.users = pd.DataFrame(dict(np.load(Path(folder) / "users.npz")))
        self.way, self.lists = way, inputs.lists
        self.cases = cases_of(inputs, num_items)
        self.first_cases = cases_of(Inputs(inputs.targets[:WARM_UP_USERS]), num_items)
        self.vectors = None if inputs.v_x is None else Vectors(inputs.v_x, inputs.v_y)
        return {"version": jax.__version__}

    def warm_up(self) -> None:
        if self.vectors is None:
            self.measure()
        else:
            self.judge(self.first_cases)

    def measure(self) -> dict[str, Any]:
        started = time.perf_counter()
        judged = self.judge(self.cases)
        table = judged.per_user.drop(columns="rank").dropna(axis=1, how="all")
        figures = {name: mean_of_users(column) for name, column in table.items()}
        seconds = time.perf_counter() - started
        bootstrap_means(table, num_resamples=CONFIG.num_resamples, seed=CONFIG.seed)
        intervals_seconds = time.perf_counter() - started - seconds
        user_slices([judged], self.users, config=CONFIG)
        return {
            "seconds": seconds,
            "intervals_seconds": intervals_seconds,
            "slices_seconds": time.perf_counter() - started - seconds - intervals_seconds,
            "figures": figures,
        }

    def judge(self, cases: EvaluationCases) -> Judged:
        """The table of users, from whatever is there."""
        if self.vectors is None:
            return judge_lists("lists", self.lists, cases, config=CONFIG)
        if self.way == "lists":
            return judge_lists("lists", self.vectors.lists(len(cases.users)), cases, config=CONFIG)
        return judge(self.vectors, cases, config=CONFIG)


def cases_of(inputs: Inputs, num_items: int) -> EvaluationCases:
    """Cases of the users, whose histories are empty, since nobody here looks at them."""
    users, items = pairs(inputs.targets)
    num_users = len(inputs.targets)
    none = {"item_ids": np.int32, "timestamps": np.int64, "behaviors": np.int8, "values": np.float32}
    histories = Sequences(
        user_ids=np.arange(num_users),
        offsets=np.zeros(num_users + 1, dtype=np.int64),
        **{name: np.zeros(0, dtype=dtype) for name, dtype in none.items()},
    )
    return EvaluationCases(
        users=np.arange(num_users),
        histories=histories,
        target_offsets=np.searchsorted(users, np.arange(num_users + 1)),
        target_items=items.astype(np.int32),
        target_events=np.arange(len(items)),
        candidates=np.arange(num_items + 1) > 0,
        users_without_history=0,
    )


if __name__ == "__main__":
    serve(SeqrecLists())
