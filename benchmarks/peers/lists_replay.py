"""RePlay's metrics as contenders; the requests are those of `lists_data.py`.

It has two ways from lists to figures: `OfflineMetrics` on data frames (polars or pandas) of queries, items and ratings,
which goes through the users in Python, and `TorchMetricsBuilder` on tensors, which its callbacks use during training
and which has no hit rate. From vectors, the latter is given batches of the top of their scores, as in its
`ComputeMetricsCallback`; the scores are a plain product.

Runs in the environment of replay.txt.
"""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from lists_data import BATCH, CUTOFFS, TOP, WARM_UP_USERS, pairs, read_inputs
from protocol import serve
from replay.metrics import MAP, MRR, NDCG, HitRate, OfflineMetrics, Precision, Recall
from replay.metrics.torch_metrics_builder import TorchMetricsBuilder


class ReplayLists:
    """The contender; items are numbered from 0."""

    def prepare(self, folder: str, task: str, form: str = "tensors") -> dict[str, Any]:
        warnings.simplefilter("ignore")
        inputs = read_inputs(folder, task)
        self.form, self.v_x = form, None
        if form == "tensors":
            self.targets = torch.from_numpy(inputs.targets.astype(np.int64)) - 1
            if inputs.lists is None:
                self.v_x, self.v_y = torch.from_numpy(inputs.v_x), torch.from_numpy(inputs.v_y[1:])
            else:
                self.lists = torch.from_numpy(inputs.lists.astype(np.int64)) - 1
        else:
            if inputs.lists is None:
                raise ValueError("RePlay's data frames do not start from vectors")
            users, items = pairs(inputs.targets)
            frame = {"polars": pl.DataFrame, "pandas": pd.DataFrame}[form]
            self.held_out = frame({"query_id": users, "item_id": items - 1})
            self.recommended = frame(
                {
                    "query_id": np.repeat(np.arange(len(inputs.lists)), TOP),
                    "item_id": inputs.lists.reshape(-1).astype(np.int64) - 1,
                    "rating": np.tile(1 / np.arange(1, TOP + 1), len(inputs.lists)),
                }
            )
        return {"version": importlib.metadata.version("replay-rec")}

    def warm_up(self) -> None:
        self.measure(None if self.v_x is None else WARM_UP_USERS)

    def measure(self, users: int | None = None) -> dict[str, Any]:
        started = time.perf_counter()
        figures = self.from_tensors(users) if self.form == "tensors" else self.from_frames()
        return {
            "seconds": time.perf_counter() - started,
            "figures": {name: float(figure) for name, figure in figures.items()},
        }

    @torch.no_grad()
    def from_tensors(self, users: int | None) -> dict[str, float]:
        """Figures by the builder, of all users or the first ones."""
        builder = TorchMetricsBuilder(["recall", "precision", "ndcg", "map", "mrr"], list(CUTOFFS))
        if self.v_x is None:
            builder.add_prediction(self.lists, self.targets)
        else:
            for v_x, targets in zip(self.v_x[:users].split(BATCH), self.targets[:users].split(BATCH), strict=True):
                scores = torch.matmul(v_x, self.v_y.T)
                builder.add_prediction(torch.topk(scores, k=builder.max_k, dim=1).indices, targets)
        return dict(builder.get_metrics())

    def from_frames(self) -> dict[str, float]:
        """Figures by `OfflineMetrics`."""
        metrics = [metric(list(CUTOFFS)) for metric in (HitRate, Precision, Recall, NDCG, MRR, MAP)]
        figures = OfflineMetrics(metrics)(self.recommended, self.held_out)
        return {name.replace("HitRate", "hit_rate").lower(): figure for name, figure in figures.items()}


if __name__ == "__main__":
    serve(ReplayLists())
