"""RePlay's SasRec with full cross entropy: a user's last L+1 training events are a row, padded on the left.

Its own Parquet data module, transforms, Lightning module and prediction callback are used, with a callback that ends
training after some seconds.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
from histories import TOP, ndcg, read_histories
from lightning_clock import make_clock
from protocol import serve
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.data.nn.parquet.parquet_module import ParquetModule
from replay.nn.lightning import LightningModule
from replay.nn.lightning.callback import PandasTopItemsCallback
from replay.nn.lightning.postprocessor import SeenItemsFilter
from replay.nn.sequential.sasrec import SasRec
from replay.nn.transform.template.sasrec import make_default_sasrec_transforms


def count_targets(batch: Any) -> tuple[int, int]:
    """Targets and rows of a batch."""
    return int(batch["target_padding_mask"].sum()), len(batch["target_padding_mask"])


class ReplaySasrec:
    """The contender; items are numbered from 0, and padding is V."""

    def prepare(self, length: int, loss: str, heads: int = 2, dropout: float = 0.2, batch_size: int = 128) -> dict:
        if loss != "softmax":
            raise ValueError(f"RePlay's SasRec is run with softmax here, not {loss}")
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        lightning.seed_everything(0)
        self.histories = read_histories()
        self.batch_size = batch_size
        padding = self.histories.num_items
        item_id = TensorFeatureInfo(
            "item_id",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            embedding_dim=64,
            padding_value=padding,
            cardinality=padding,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
        )
        schema = TensorSchema([item_id])
        self.folder = tempfile.TemporaryDirectory()
        known = [sequence[:-1] for sequence in self.histories.sequences]
        longest = max(len(sequence) for sequence in known)
        self.data = ParquetModule(
            batch_size={"train": batch_size, "predict": 256},
            metadata={
                "train": {"user_id": {}, "item_id": {"shape": length + 1, "padding": padding}},
                "predict": {
                    "user_id": {},
                    "item_id": {"shape": length, "padding": padding},
                    "seen_ids": {"shape": longest, "padding": padding},
                },
            },
            transforms=make_default_sasrec_transforms(schema),
            train_path=self.write("train", self.histories.training),
            predict_path=self.write("predict", known),
        )
        model = SasRec.from_params(
            schema, embedding_dim=64, num_heads=heads, num_blocks=2, max_sequence_length=length, dropout=dropout
        )
        self.module = LightningModule(model)
        self.clock = make_clock(lightning.Callback, count_targets)
        return {
            "model": {"num_heads": heads, "dropout": dropout, "attention_dropout": dropout, "activation": "relu"},
            "batch_size": batch_size,
            "version": importlib.metadata.version("replay-rec"),
        }

    def write(self, name: str, sequences: list[np.ndarray]) -> str:
        """A Parquet file with a row a user."""
        path = Path(self.folder.name) / f"{name}.parquet"
        lists = [sequence - 1 for sequence in sequences]
        frame = pd.DataFrame({"user_id": np.arange(len(lists)), "item_id": lists, "seen_ids": lists})
        frame.to_parquet(path)
        return str(path)

    def trainer(self, **options: Any) -> lightning.Trainer:
        """A trainer that writes nothing."""
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return lightning.Trainer(accelerator="auto", enable_model_summary=False, **quiet, **options)

    def samples(self, path: str, batches: int) -> None:
        self.data.setup("fit")
        transform = self.data.compiled_transforms["train"]
        item_ids, targets = [], []
        for batch in itertools.islice(self.data.train_dataloader(), batches):  # an epoch has more, all of one size
            made = transform(batch)
            real = made["padding_mask"]
            item_ids.append(np.where(real, made["feature_tensors"]["item_id"] + 1, 0))
            # RePlay also predicts a user's first event, from padding alone
            where = made["target_padding_mask"][..., 0] & real
            targets.append(np.where(where, made["positive_labels"][..., 0] + 1, 0))
        np.savez(path, item_ids=np.stack(item_ids).astype(np.int32), targets=np.stack(targets).astype(np.int32))

    def train(self, seconds: float) -> dict:
        self.clock.seconds = seconds
        self.trainer(max_epochs=-1, limit_val_batches=0, callbacks=[self.clock]).fit(self.module, datamodule=self.data)
        return self.clock.reply

    def rank(self) -> dict:
        top = PandasTopItemsCallback(
            top_k=TOP,
            query_column="user_id",
            item_column="item_id",
            postprocessors=[SeenItemsFilter(self.histories.num_items)],
        )
        started = time.perf_counter()
        self.trainer(callbacks=[top], inference_mode=True).predict(
            self.module, datamodule=self.data, return_predictions=False
        )
        found = top.get_result()
        lists = found["item_id"].to_numpy().reshape(-1, TOP).astype(np.int64) + 1
        figure = ndcg(lists[np.argsort(found["user_id"].to_numpy()[::TOP])], self.histories.targets)
        return {"users": len(lists), "seconds": time.perf_counter() - started, "ndcg": figure}


if __name__ == "__main__":
    serve(ReplaySasrec())
