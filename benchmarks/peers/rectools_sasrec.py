"""RecTools' SASRecModel with its softmax loss: a user's last L+1 training events are a row, padded on the left.

Its own data preparator, Lightning module and trainer are used, with a callback that ends training after some seconds.
"""

from __future__ import annotations

import itertools
import logging
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning
import rectools
from histories import TOP, ndcg, read_histories
from lightning_clock import make_clock
from protocol import serve
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

CLOCK = make_clock(pytorch_lightning.Callback, lambda batch: (int((batch["y"] > 0).sum()), len(batch["y"])))


def make_trainer() -> pytorch_lightning.Trainer:
    """The default trainer of RecTools, and the clock."""
    return pytorch_lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="auto",
        callbacks=[CLOCK],
    )


def table(sequences: list[np.ndarray]) -> pd.DataFrame:
    """Interactions of all users."""
    lengths = [len(sequence) for sequence in sequences]
    orders = np.concatenate([np.arange(length) for length in lengths])
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(sequences)), lengths),
            Columns.Item: np.concatenate(sequences),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(orders, unit="s"),
        }
    )


class RectoolsSasrec:
    """The contender."""

    def prepare(self, length: int, loss: str, heads: int = 2, dropout: float = 0.2, batch_size: int = 128) -> dict:
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        pytorch_lightning.seed_everything(0)
        self.histories = read_histories()
        self.data = Dataset.construct(table(self.histories.training))
        self.known = Dataset.construct(table([sequence[:-1] for sequence in self.histories.sequences]))
        self.model = SASRecModel(
            n_blocks=2,
            n_heads=heads,
            n_factors=64,
            dropout_rate=dropout,
            session_max_len=length,
            batch_size=batch_size,
            loss={"softmax": "softmax", "binary_cross_entropy": "BCE"}[loss],
            get_trainer_func=make_trainer,
        )
        return {
            "model": {"num_heads": heads, "dropout": dropout, "attention_dropout": dropout, "activation": "relu"},
            "batch_size": batch_size,
            "version": rectools.__version__,
        }

    def samples(self, path: str, batches: int) -> None:
        self.model.data_preparator.process_dataset_train(self.data)
        loader = self.model.data_preparator.get_dataloader_train()
        drawn = list(itertools.islice(loader, batches))  # an epoch has more, all of one size
        item_ids, targets = (np.stack([batch[key] for batch in drawn]).astype(np.int32) for key in ("x", "y"))
        np.savez(path, item_ids=item_ids, targets=targets)

    def train(self, seconds: float) -> dict:
        CLOCK.seconds = seconds
        self.model.fit_partial(self.data, min_epochs=0, max_epochs=10**6)
        return CLOCK.reply

    def rank(self) -> dict:
        users = np.arange(len(self.histories.sequences))
        started = time.perf_counter()
        found = self.model.recommend(users=users, dataset=self.known, k=TOP, filter_viewed=True)
        lists = np.zeros((len(users), TOP), dtype=np.int64)
        lists[found[Columns.User], found[Columns.Rank] - 1] = found[Columns.Item]
        figure = ndcg(lists, self.histories.targets)
        return {"users": len(users), "seconds": time.perf_counter() - started, "ndcg": figure}


if __name__ == "__main__":
    serve(RectoolsSasrec())
