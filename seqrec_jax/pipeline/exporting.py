"""What other systems take from a run: vectors, whole histories, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import Stage
from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs.run import read_run
from seqrec_jax.settings import parse_config


def embed(run: str | Path, output: str | Path, *, step: int | None = None) -> tuple[Path, Path, Path]:
    """Write the vectors for other systems, a row a raw id, and the W between them.

    `user_vectors.parquet` (user_id, vector) has v_x of every user after the whole history in the run's dataset,
    zeros without history; `item_vectors.parquet` (item_id, vector) has v_y of every item, zeros where the model
    cannot rank it; `bilinear_weight.npy` is W `[D, E]`, so that the score is `v_x @ W @ v_y`.

    Returns:
      The three paths.

    Raises:
      CheckpointError: as `Recommender.load`.
      DataError: the dataset is missing or was changed, or the output cannot be written.
    """
    dataset = _dataset_of_run(run)
    recommender = Recommender.load(run, step=step)
    output = Path(output)
    paths = output / "user_vectors.parquet", output / "item_vectors.parquet", output / "bilinear_weight.npy"
    users, items = recommender.user_vectors(dataset.sequences), recommender.item_vectors()[1:]
    try:
        output.mkdir(parents=True, exist_ok=True)
        user_table = pd.DataFrame({"user_id": dataset.sequences.user_ids, "vector": list(users)})
        user_table.to_parquet(paths[0], index=False)
        pd.DataFrame({"item_id": dataset.items["item_id"], "vector": list(items)}).to_parquet(paths[1], index=False)
        np.save(paths[2], recommender.project(np.eye(users.shape[1], dtype=np.float32)))
    except OSError as error:
        raise DataError(f"cannot write vectors to {output}: {error.strerror or error}") from error
    return paths


def user_histories(run: str | Path, users: list[str] | None, *, before: Stage | None = None) -> Sequences:
    """Histories of users of a run's dataset; an unknown user has an empty one.

    Args:
      run: the run's directory.
      users: raw ids, None for all.
      before: end each history before what that stage holds out, as an evaluation does, and leave out users whom it
        does not ask; None for whole histories.

    Raises:
      DataError: the dataset is missing or was changed.
    """
    dataset = _dataset_of_run(run)
    sequences = dataset.sequences
    if before is not None:
        protocol = parse_config(EvaluationConfig, values=read_run(run)[0].get("evaluation", {}))
        sequences = cases_of(dataset, replace(protocol, stage=before)).histories
    if users is None:
        return sequences
    rows = pd.Index(sequences.user_ids).get_indexer(pd.Index(users, dtype=object))
    found = sequences.select_users(np.maximum(rows, 0))
    known = found.select_events((rows >= 0)[found.users_of_events])
    return replace(known, user_ids=np.asarray(users, dtype=object))


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


def _dataset_of_run(run: str | Path) -> Dataset:
    """The prepared dataset that a run was trained on, unchanged since."""
    _, facts, _ = read_run(run)
    return read_dataset(facts["directory"], fingerprint=facts["fingerprint"])
