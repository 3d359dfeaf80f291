"""Training at one origin after another, judged on the events that follow: how a model ages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.baselines import baseline_rankers
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.robustness import backtest as rolling
from seqrec_jax.pipeline.cases import case_options
from seqrec_jax.pipeline.starting import start_model
from seqrec_jax.pipeline.training import training_data
from seqrec_jax.pipeline.writing import cannot_write, make_folder
from seqrec_jax.reporting.sections import Section
from seqrec_jax.retrieval import Recommender
from seqrec_jax.training.checkpoints import load_params
from seqrec_jax.training.loop import train


def backtest(
    config: ExperimentConfig,
    *,
    num_origins: int,
    window_days: float,
    output: str | Path,
    retrain: bool = True,
    show_progress: bool = True,
) -> tuple[pd.DataFrame, Section]:
    """Train a configuration's model at rolling origins; judge every older one beside the newest and the baselines.

    There is no validation: each training lasts `training.max_epochs`, on all events before its origin. Writes
    `backtest.parquet` and `backtest.json` (the section) into the output directory.

    Args:
      config: the experiment; its dataset must be prepared. Of its split only the target behaviours count.
      num_origins: how many, the last one a window before the end of the log.
      window_days: from one origin to the next.
      output: folder of the files.
      retrain: at every origin, or only at the first.
      show_progress: draw a progress bar for each training.

    Returns:
      The rows, see `evaluation.robustness.backtest`, and the section that sums them up.

    Raises:
      ConfigError: window_days not positive, or as `rolling_origins`.
      DataError: no such prepared dataset, a log without times, or windows that do not fit in it.
      CheckpointError: the output directory cannot be written.
    """
    if not window_days > 0:
        raise ConfigError(f"window_days must be above 0, got {window_days}")
    dataset = read_dataset(config.dataset_directory)
    output = make_folder(output, what="backtest")  # before the trainings, which may take hours
    window = max(1, round(window_days * SECONDS_PER_DAY))
    cuts = rolling.rolling_origins(dataset.sequences, num_origins=num_origins, window_seconds=window)

    def fit(known: Sequences) -> list[Ranker]:
        baselines = baseline_rankers(known, num_items=dataset.num_items, time_kind=dataset.time_kind)
        return [_trained(config, dataset, known, show_progress=show_progress), *baselines]

    options = case_options(config.evaluation, dataset)
    rows = rolling.backtest(
        dataset,
        cuts=cuts,
        fit=fit,
        config=config.evaluation,
        retrain=retrain,
        max_age=None,
        case_options=options,
    )
    section = rolling.freshness_section(rows)
    try:
        rows.to_parquet(output / "backtest.parquet", index=False)
        (output / "backtest.json").write_text(json.dumps(section, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise cannot_write(output, "backtest", error) from error
    return rows, section


def _trained(config: ExperimentConfig, dataset: Dataset, known: Sequences, *, show_progress: bool) -> Recommender:
    """The model after training on some events of a dataset; nothing stays on the disk."""
    counts = np.bincount(known.item_ids, minlength=dataset.num_items + 1)[1:]
    seen = replace(dataset, items=dataset.items.assign(training_events=counts, known=counts > 0))
    model, params, item_table, _ = start_model(config, seen, from_runs=False)
    data = training_data(config, dataset, known)
    options: dict[str, Any] = {"config": config.training, "length": config.model.encoder.max_length}
    with TemporaryDirectory() as directory:
        train(model, params, data, item_table, directory=Path(directory), show_progress=show_progress, **options)
        params, _ = load_params(model, directory)
    name = config.model.encoder.kind
    return Recommender.for_dataset(seen, model, params, item_table, length=options["length"], name=name)
