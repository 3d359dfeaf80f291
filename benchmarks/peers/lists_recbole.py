"""RecBole's evaluation as a contender; the requests are those of `lists_data.py`.

From lists its `Evaluator` is given the matrix `rec.topk` of hits and numbers of held-out items, so that finding the
hits is not in its time. From vectors, its `Collector` makes that matrix of the scores of each batch, as its trainer
lets it do; the scores are a plain product, whose column of padding is -inf, also as in its trainer.

Runs in the environment of recbole.txt.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from typing import Any

import numpy as np
import recbole
import torch
from lists_data import BATCH, CUTOFFS, TOP, WARM_UP_USERS, read_inputs
from protocol import serve
from recbole.config import Config
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.collector import DataStruct

METRICS = ("Hit", "Precision", "Recall", "NDCG", "MRR", "MAP")


class RecboleLists:
    """The contender."""

    def prepare(self, folder: str, task: str) -> dict[str, Any]:
        inputs = read_inputs(folder, task)
        self.folder = tempfile.TemporaryDirectory()
        os.chdir(self.folder.name)  # RecBole writes logs where it is started
        settings = {
            "metrics": list(METRICS),
            "topk": list(CUTOFFS),
            "valid_metric": f"NDCG@{TOP}",
            "metric_decimal_place": 12,
            "use_gpu": False,
        }
        self.config = Config(model="BPR", dataset="lists", config_dict=settings)
        logging.disable(logging.INFO)
        self.evaluator = Evaluator(self.config)
        self.targets = torch.from_numpy(inputs.targets.astype(np.int64))
        if inputs.lists is None:
            self.v_x, self.v_y = torch.from_numpy(inputs.v_x), torch.from_numpy(inputs.v_y)
        else:
            self.v_x = None
            hits = (inputs.lists[:, :, None] == inputs.targets[:, None, :]).any(axis=2)
            counts = (inputs.targets > 0).sum(axis=1, keepdims=True)
            self.hits = torch.from_numpy(np.concatenate([hits, counts], axis=1).astype(np.int32))
        return {"version": recbole.__version__}

    def warm_up(self) -> None:
        self.measure(None if self.v_x is None else WARM_UP_USERS)

    def measure(self, users: int | None = None) -> dict[str, Any]:
        started = time.perf_counter()
        if self.v_x is None:
            collected = DataStruct()
            collected.set("rec.topk", self.hits)
        else:
            collected = self.collect(users)
        figures = self.evaluator.evaluate(collected)
        return {
            "seconds": time.perf_counter() - started,
            "figures": {name.replace("hit@", "hit_rate@"): float(figure) for name, figure in figures.items()},
        }

    @torch.no_grad()
    def collect(self, users: int | None) -> DataStruct:
        """The matrix of hits of all users or the first ones."""
        collector = Collector(self.config)
        for v_x, targets in zip(self.v_x[:users].split(BATCH), self.targets[:users].split(BATCH), strict=True):
            scores = torch.matmul(v_x, self.v_y.T)
            scores[:, 0] = -torch.inf
            rows, places = torch.nonzero(targets, as_tuple=True)
            collector.eval_batch_collect(scores, None, rows, targets[rows, places])
        return collector.get_data_struct()


if __name__ == "__main__":
    serve(RecboleLists())
