"""RecTools' `calc_metrics` as a contender; the requests are those of `lists_data.py`.

From lists it is given its data frames of recommendations and interactions. From vectors, one of its rankers makes the
recommendations, and they become a data frame as in `ModelBase.recommend`. NDCG is divided by the best that a user's
held-out items can reach, as everywhere else; its default is another. MAP is divided by the number of held-out items,
where the others divide by K when that is less.

Runs in the environment of rectools.txt.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import rectools
from lists_data import BATCH, CUTOFFS, TOP, WARM_UP_USERS, pairs, read_inputs
from protocol import serve
from rectools import Columns
from rectools.metrics import MAP, MRR, NDCG, F1Beta, HitRate, Precision, Recall, calc_metrics
from rectools.models.rank import Distance, ImplicitRanker, TorchRanker

METRICS = {
    f"{name}@{k}": metric(k=k)
    for name, metric in {
        "hit_rate": HitRate,
        "precision": Precision,
        "recall": Recall,
        "f1": F1Beta,
        "ndcg": lambda k: NDCG(k=k, divide_by_achievable=True),
        "mrr": MRR,
        "map": MAP,
    }.items()
    for k in CUTOFFS
}


class RectoolsLists:
    """The contender; items are numbered from 0."""

    def prepare(self, folder: str, task: str, ranker: str = "torch") -> dict[str, Any]:
        warnings.simplefilter("ignore")
        inputs = read_inputs(folder, task)
        users, items = pairs(inputs.targets)
        self.interactions = pd.DataFrame({Columns.User: users, Columns.Item: items - 1})
        self.ranker = None
        if inputs.lists is None:
            self.num_users, v_y = len(inputs.v_x), inputs.v_y[1:]
            if ranker == "torch":
                self.ranker = TorchRanker(Distance.DOT, "cpu", inputs.v_x, v_y, batch_size=BATCH)
            else:
                self.ranker = ImplicitRanker(Distance.DOT, inputs.v_x, v_y)
        else:
            num_users = len(inputs.lists)
            self.recommended = pd.DataFrame(
                {
                    Columns.User: np.repeat(np.arange(num_users), TOP),
                    Columns.Item: inputs.lists.reshape(-1).astype(np.int64) - 1,
                    Columns.Rank: np.tile(np.arange(1, TOP + 1), num_users),
                }
            )
        return {"version": rectools.__version__}

    def warm_up(self) -> None:
        self.measure(None if self.ranker is None else WARM_UP_USERS)

    def measure(self, users: int | None = None) -> dict[str, Any]:
        started = time.perf_counter()
        recommended = self.recommended if self.ranker is None else self.recommend(users or self.num_users)
        figures = calc_metrics(METRICS, reco=recommended, interactions=self.interactions)
        return {"seconds": time.perf_counter() - started, "figures": figures}

    def recommend(self, num_users: int) -> pd.DataFrame:
        """The recommendations of the first users."""
        users, items, scores = self.ranker.rank(np.arange(num_users), k=TOP)
        frame = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Score: scores})
        frame[Columns.Rank] = frame.groupby(Columns.User, sort=False).cumcount() + 1
        return frame


if __name__ == "__main__":
    serve(RectoolsLists())
