"""What other systems take from a run: the vectors of users and items, and tables."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.errors import DataError
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs import Run


class VectorFiles(NamedTuple):
    """The files that `embed` writes.

    Attributes:
      users: a Parquet file of user_id and vector.
      items: a Parquet file of item_id and vector.
      weight: an NPY file of W.
    """

    users: Path
    items: Path
    weight: Path


def embed(
    run: str | Path | Run,
    output: str | Path,
    *,
    step: int | None = None,
    dataset: str | Path | Dataset | None = None,
) -> VectorFiles:
    """Write the vectors for other systems, a row for each raw id, and the W between them.

    `user_vectors.parquet` (user_id, vector) has v_x of every user after the whole history in the dataset, zeros
    without history; `item_vectors.parquet` (item_id, vector) has v_y of every item, zeros where the model cannot rank
    it; `bilinear_weight.npy` is W `[D, E]`, so that the score is `v_x @ W @ v_y`. All are float32.

    Args:
      run: the run or its directory.
      output: folder of the files.
      step: of the checkpoint; None for the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      CheckpointError: as `Recommender.load`, or a dataset that numbers its items differently.
      DataError: the dataset is missing or was changed, or the output cannot be written.
    """
    run = Run.open(run)
    sequences = run.dataset(dataset).sequences
    recommender = Recommender.load(run, step=step)
    output = Path(output)
    paths = VectorFiles(
        output / "user_vectors.parquet", output / "item_vectors.parquet", output / "bilinear_weight.npy"
    )
    users, items = recommender.user_vectors(sequences), recommender.item_vectors()[1:]
    try:
        output.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"user_id": sequences.user_ids, "vector": list(users)}).to_parquet(paths.users, index=False)
        pd.DataFrame({"item_id": run.items["item_id"], "vector": list(items)}).to_parquet(paths.items, index=False)
        np.save(paths.weight, recommender.project(np.eye(users.shape[1], dtype=np.float32)))
    except OSError as error:
        raise DataError(f"cannot write vectors to {output}: {error.strerror or error}") from error
    return paths


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as .parquet or .csv.

    Raises:
      DataError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path} must end in .parquet or .csv")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path, index=False) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
