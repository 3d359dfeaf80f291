"""RecBole's SASRec with cross entropy: every prefix of a history is a sample with one target.

Its own data set, loader, trainer and full-sort evaluation are used; only the loader is cut short, so that training
stops after some seconds. Its feed-forward layer is given the model's width (the default is four times that).
"""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import recbole
import torch
from histories import TOP, read_histories
from protocol import serve
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


class Shortened:
    """A loader that ends after some seconds, and says what went through."""

    def __init__(self, batches: Iterator[Any], seconds: float):
        self.batches, self.seconds, self.steps, self.samples = batches, seconds, 0, 0

    def __iter__(self) -> Iterator[Any]:
        started = time.perf_counter()
        while not self.steps or time.perf_counter() - started < self.seconds:
            batch = next(self.batches)
            yield batch
            self.steps, self.samples = self.steps + 1, self.samples + len(batch)


class RecboleSasrec:
    """The contender."""

    def prepare(self, length: int, loss: str, heads: int = 2, dropout: float = 0.2, batch_size: int = 2048) -> dict:
        if loss != "softmax":
            raise ValueError(f"RecBole's SASRec is run with softmax here, not {loss}")
        self.folder = tempfile.TemporaryDirectory()
        self.length = length
        place = Path(self.folder.name) / "movielens"
        place.mkdir()
        with (place / "movielens.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user, sequence in enumerate(read_histories().sequences):
                file.writelines(f"{user}\t{item}\t{order}\n" for order, item in enumerate(sequence))
        settings = {
            "data_path": self.folder.name,
            "checkpoint_dir": self.folder.name,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": length,
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "n_layers": 2,
            "n_heads": heads,
            "hidden_size": 64,
            "inner_size": 64,
            "hidden_dropout_prob": dropout,
            "attn_dropout_prob": dropout,
            "train_batch_size": batch_size,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "metrics": ["NDCG"],
            "topk": [TOP],
            "valid_metric": f"NDCG@{TOP}",
            "show_progress": False,
            "use_gpu": torch.cuda.is_available(),
        }
        os.chdir(self.folder.name)  # RecBole writes logs where it is started
        config = Config(model="SASRec", dataset="movielens", config_dict=settings)
        logging.disable(logging.INFO)
        init_seed(config["seed"], config["reproducibility"])
        self.training, _, self.test = data_preparation(config, create_dataset(config))
        model = get_model("SASRec")(config, self.training.dataset).to(config["device"])
        self.trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
        self.batches = itertools.chain.from_iterable(itertools.repeat(self.training))
        self.users = len(self.test.dataset)
        return {
            "model": {
                "num_heads": heads,
                "dropout": dropout,
                "attention_dropout": dropout,
                "activation": "gelu",
                "norm": "post",
            },
            "batch_size": batch_size,
            "version": recbole.__version__,
        }

    def samples(self, path: str, batches: int) -> None:
        item_ids, targets = [], []
        for batch in itertools.islice(iter(self.training), batches):
            rows = batch["item_id_list"].numpy().astype(np.int32)
            wanted = np.zeros_like(rows)
            wanted[np.arange(len(rows)), batch["item_length"].numpy() - 1] = batch["item_id"].numpy()
            item_ids.append(rows)
            targets.append(wanted)
        np.savez(path, item_ids=np.stack(item_ids), targets=np.stack(targets))

    def train(self, seconds: float) -> dict:
        batches = Shortened(self.batches, seconds)
        started = time.perf_counter()
        loss = self.trainer._train_epoch(batches, 0)
        return {
            "steps": batches.steps,
            "targets": batches.samples,
            "samples": batches.samples,
            "seconds": time.perf_counter() - started,
            "loss": loss / batches.steps,
        }

    def rank(self) -> dict:
        started = time.perf_counter()
        figures = self.trainer.evaluate(self.test, load_best_model=False)
        return {
            "users": self.users,
            "seconds": time.perf_counter() - started,
            "ndcg": float(figures[f"ndcg@{TOP}"]),
        }


if __name__ == "__main__":
    serve(RecboleSasrec())
