"""The main job step by step, each a function of a configuration or a run: prepare, train, evaluate, embed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax.baselines import Ranker, baseline_rankers
from seqrec_jax.config import DataConfig, ExperimentConfig
from seqrec_jax.data.bayes_filter import BayesFilter
from seqrec_jax.data.cleaning import clean_events
from seqrec_jax.data.dataset import (
    COUNTED_COLUMNS,
    Dataset,
    prepare_dataset,
    read_dataset,
    read_facts,
    read_items,
    write_dataset,
)
from seqrec_jax.data.events import Columns, RawEvents, read_events
from seqrec_jax.data.features import AttributeVocabulary
from seqrec_jax.data.files import read_item_table
from seqrec_jax.data.readers import READERS
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop_world import ShopConfig
from seqrec_jax.data.simulator import init_shop, simulate
from seqrec_jax.data.splits import TRAIN, VALIDATION, evaluation_cases
from seqrec_jax.data.timestamps import parse_timestamps
from seqrec_jax.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from seqrec_jax.evaluation.protocol import EvaluationConfig, judge, mean_of_users
from seqrec_jax.evaluation.report import render_report
from seqrec_jax.evaluation.summary import Contender, Evaluation, evaluate, example_users
from seqrec_jax.items.table import make_item_table
from seqrec_jax.model import SequenceModel, extend_item_rows, make_sequence_model
from seqrec_jax.parallel import init_on_mesh, is_first_process, make_mesh, rows_on_mesh, wait_for_processes
from seqrec_jax.retrieval import Recommender
from seqrec_jax.training.config import config_dict, parse_config
from seqrec_jax.training.loop import Progress, TrainingData, train
from seqrec_jax.training.run import open_run, read_log, read_run

RUNS = Path("runs")


def prepare(config: ExperimentConfig, *, strict: bool = False, overwrite: bool = False) -> Dataset:
    """Read, clean, number and split the log of a configuration, and write the prepared dataset.

    Args:
      config: the experiment.
      strict: any dropped row is an error.
      overwrite: replace a prepared dataset of the same place.

    Raises:
      DataError, ConfigError: see `read_events`, `clean_events`, `prepare_dataset` and `write_dataset`.
    """
    data = config.data
    directory = Path(config.dataset_directory)
    if directory.exists() and not overwrite:
        raise DataError(f"{directory} exists; add --overwrite to prepare it anew, or set data.directory")
    earlier, numbered = _earlier_vocabulary(data.vocabulary_from)
    raw, items, source = read_source(data)
    events, report = clean_events(raw, data.cleaning, strict=strict)
    dataset = prepare_dataset(
        events,
        name=config.name,
        split=data.split,
        items=_with_earlier_items(items, earlier),
        attributes=data.attributes,
        behaviors=list(report.behaviors),
        time_kind=raw.time_kind,
        cleaning=report.to_dict(),
        source=source,
        **numbered,
    )
    _available_from(dataset)  # so that a wrong column shows now, and not after training
    write_dataset(dataset, directory, overwrite=overwrite)
    return dataset


def read_source(data: DataConfig) -> tuple[RawEvents, pd.DataFrame | None, dict[str, Any]]:
    """The raw events and item table that a configuration names, and what tells them from others.

    Raises:
      ConfigError: neither source nor reader, or an unknown reader.
      DataError: files that cannot be read.
    """
    if data.reader == "simulator":
        shop = simulate(data.shop, data.shop_seed)
        source = {"reader": "simulator", "shop": config_dict(data.shop), "seed": data.shop_seed}
        columns = Columns(behavior="behavior", session_id="session_id", value="value")
        raw = read_events(shop.events, columns, timestamp_unit="s")
        return raw, shop.items, source
    if data.reader is not None and data.reader not in READERS:
        raise ConfigError(f"data.reader {data.reader!r} is unknown; there are {', '.join([*READERS, 'simulator'])}")
    if data.source is None:
        what = "the path of the log, or data.reader simulator" if data.reader is None else f"where {data.reader} lies"
        raise ConfigError(f"data.source is not set; give {what}")
    if data.reader is not None:
        public = READERS[data.reader](data.source)
        return public.events, public.items, {"reader": data.reader, "fingerprint": public.events.fingerprint}
    raw = read_events(data.source, data.columns, separator=data.separator, timestamp_unit=data.timestamp_unit)
    items = None
    if data.items.path is not None:
        items = read_item_table(Path(data.items.path), item_id=data.items.item_id)
    return raw, items, {"path": Path(data.source).name, "fingerprint": raw.fingerprint}


def train_run(
    config: ExperimentConfig, *, overwrite: bool = False, show_progress: bool = True, runs: Path = RUNS
) -> tuple[Path, Progress]:
    """Train the model of a configuration in `runs/<name>`, or continue a run that was stopped.

    Args:
      config: the experiment; its dataset must be prepared.
      overwrite: start over where the run exists.
      show_progress: draw a progress bar.
      runs: parent of the run's directory.

    Returns:
      The run's directory and where it stands.

    Raises:
      DataError: no such prepared dataset.
      CheckpointError: the run exists with another configuration or dataset.
      DivergenceError: the loss is not finite.
    """
    dataset = read_dataset(config.dataset_directory)
    directory = runs / config.name
    model, item_table = build_model(config, dataset)
    weights = behavior_weights(config, dataset)
    mesh = make_mesh(config.training.num_devices, model_devices=config.training.model_devices)
    params = init_on_mesh(model.init, jax.random.key(config.training.seed), mesh)
    if config.training.warm_start is not None:
        params = warm_start_params(
            config.training.warm_start,
            dataset,
            like=params,
            seed=config.training.seed,
            model_devices=config.training.model_devices,
        )
    cases = evaluation_cases(
        dataset.sequences, dataset.split, stage="validation", **_case_options(config.evaluation, dataset)
    )
    description: dict[str, Any] = {
        "config": config_dict(config),
        "dataset": dataset,
        "dataset_directory": config.dataset_directory,
    }
    if is_first_process():
        open_run(directory, overwrite=overwrite, **description)
    wait_for_processes("the run's directory is there")
    if not is_first_process():
        open_run(directory, **description)
    length = config.model.encoder.max_length
    recommender = Recommender.for_dataset(dataset, model, params, item_table, length=length, name=config.name)

    def validate(params: Any) -> dict[str, float]:
        judged = judge(recommender.with_params(params), cases, config=config.evaluation)
        return {name: mean_of_users(values) for name, values in judged.per_user.items() if name != "rank"}

    progress = train(
        model,
        params,
        TrainingData(
            sequences=dataset.training_sequences,
            first_timestamp=dataset.first_timestamp,
            behavior_weights=weights,
            num_items=dataset.num_items,
        ),
        item_table,
        config=config.training,
        length=length,
        directory=directory,
        validate=validate,
        metric=config.evaluation.metric,
        show_progress=show_progress,
    )
    return directory, progress


def evaluate_run(
    run: str | Path,
    config: EvaluationConfig,
    *,
    dataset_directory: str | None = None,
    step: int | None = None,
) -> tuple[Evaluation, str | None]:
    """Judge a run's checkpoint and the baselines; write `metrics.json`, `per_user.parquet` and `report.html`.

    Args:
      run: the run's directory.
      config: the protocol.
      dataset_directory: another prepared dataset over the same vocabulary; None for the run's own.
      step: of the checkpoint; None for the best.

    Returns:
      The evaluation, and why no report was written (None where it was).

    Raises:
      CheckpointError: no run, a checkpoint over another vocabulary, or a place that cannot be written.
      DataError: the dataset is missing, was changed, or has nobody to evaluate.
    """
    run = Path(run)
    settings, facts, items = read_run(run)
    if dataset_directory is None:
        dataset = read_dataset(facts["directory"], fingerprint=facts["fingerprint"])
    else:
        dataset = read_dataset(dataset_directory)
        if list(dataset.items["item_id"]) != list(items["item_id"]):
            raise CheckpointError(
                f"{dataset_directory} numbers its items differently from {run}; prepare it with "
                f"--data.vocabulary_from {run}, and train on it with training.warm_start {run} if it has new items"
            )
        _check_behaviors(dataset, facts, run)
    recommender = Recommender.load(run, step=step)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage=config.stage, **_case_options(config, dataset))
    rankers = baseline_rankers(
        _known_events(dataset, config.stage), num_items=dataset.num_items, time_kind=dataset.time_kind
    )
    contenders = [Contender(recommender, "model"), *(Contender(ranker, "baseline") for ranker in rankers)]
    ceiling = _ceiling(dataset, config)
    contenders += [Contender(ceiling, "ceiling")] if ceiling is not None else []
    evaluation = evaluate(contenders, dataset, cases, config=config)
    log = read_log(run)
    settings = {**settings, "evaluation": config_dict(config)}
    evaluation.result.update(run=run.name, model=_model_facts(recommender, settings, log), config=settings)
    reason = None
    try:
        (run / "metrics.json").write_text(
            json.dumps(evaluation.result, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )
        evaluation.per_user.to_parquet(run / "per_user.parquet", index=False)
        examples = example_users(evaluation, dataset, cases)
        (run / "report.html").write_text(render_report(evaluation.result, log=log, examples=examples), encoding="utf-8")
    except MissingExtraError as error:
        reason = str(error)
    except OSError as error:
        raise CheckpointError(f"cannot write the evaluation to {run}: {error.strerror or error}") from error
    return evaluation, reason


def embed_run(run: str | Path, output: str | Path, *, step: int | None = None) -> tuple[Path, Path, Path]:
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


def build_model(config: ExperimentConfig, dataset: Dataset) -> tuple[SequenceModel, Any]:
    """The model of a configuration for a dataset, and its item table.

    Raises:
      ConfigError: a model that depends on what the dataset does not have: one behaviour to predict, or real times.
    """
    events, behaviors = config.model.events, dataset.split.config.target_behaviors
    if config.model.target_behavior and len(behaviors) != 1:
        raise ConfigError(
            f"model.target_behavior needs one behaviour to predict, but split.target_behaviors of {dataset.name} is "
            f"{list(behaviors)}; the log has {list(dataset.behaviors)}"
        )
    if (events.hour or events.weekday) and dataset.time_kind != "seconds":
        raise ConfigError(
            f"model.events.hour and weekday need real times, but the log of {dataset.name} has only an order; switch "
            "them off"
        )
    num_rows = rows_on_mesh(dataset.num_items, model_devices=config.training.model_devices)
    item_table = make_item_table(dataset.items, dataset.attributes, num_rows=num_rows)
    model = make_sequence_model(
        config.model,
        num_items=num_rows - 1,
        num_behaviors=len(dataset.behaviors),
        item_table=item_table,
    )
    return model, item_table


def behavior_weights(config: ExperimentConfig, dataset: Dataset) -> np.ndarray:
    """`[H]` float32 weight of a training target by its behaviour, 1 where none is named.

    Behaviours that the split does not predict are trained on too: a shop has many views for each purchase.

    Raises:
      ConfigError: a weight for a behaviour that the log does not have.
    """
    unknown = set(config.training.behavior_weights) - set(dataset.behaviors)
    if unknown:
        raise ConfigError(f"training.behavior_weights names {sorted(unknown)}, the log has {list(dataset.behaviors)}")
    weights = config.training.behavior_weights
    return np.array([weights.get(name, 1.0) for name in dataset.behaviors], dtype=np.float32)


def warm_start_params(run: str, dataset: Dataset, *, like: Any, seed: int, model_devices: int = 1) -> Any:
    """The best parameters of an earlier run, with fresh rows for items that are new in this dataset.

    Raises:
      CheckpointError: the earlier run's items are not the first ones of the dataset, or its model differs.
    """
    _, facts, items = read_run(run)
    old = list(items["item_id"])
    if list(dataset.items["item_id"][: len(old)]) != old:
        raise CheckpointError(
            f"the dataset does not begin with the {len(old)} items of {run}; prepare it with "
            f"--data.vocabulary_from {run}"
        )
    _check_behaviors(dataset, facts, run)
    earlier = Recommender.load(run)
    params = extend_item_rows(
        earlier.params,
        old_num_items=len(old),
        new_num_items=rows_on_mesh(dataset.num_items, model_devices=model_devices) - 1,
        key=jax.random.fold_in(jax.random.key(seed), len(old)),
    )
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, like)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"the model of {run} has other parameters than this configuration; use its model section")
    return params


def _check_behaviors(dataset: Dataset, facts: dict[str, Any], run: str | Path) -> None:
    if list(dataset.behaviors) != facts["behaviors"]:
        raise CheckpointError(
            f"{run} was trained with the behaviours {facts['behaviors']}, the dataset has {list(dataset.behaviors)}; "
            "set data.cleaning.behaviors to the former"
        )


def _dataset_of_run(run: str | Path) -> Dataset:
    """The prepared dataset that a run was trained on, unchanged since."""
    _, facts, _ = read_run(run)
    return read_dataset(facts["directory"], fingerprint=facts["fingerprint"])


def _earlier_vocabulary(directory: str | None) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """The item table of an earlier dataset or run, and what it had numbered and trained."""
    if directory is None:
        return None, {}
    facts, items = read_facts(Path(directory)), read_items(Path(directory))
    numbered = {
        "vocabulary": list(items["item_id"]),
        "known_items": list(items["item_id"][items["known"]]),
        "attribute_vocabulary": AttributeVocabulary.from_dict(facts["attributes"]),
    }
    return items.drop(columns=list(COUNTED_COLUMNS)), numbered


def _with_earlier_items(items: pd.DataFrame | None, earlier: pd.DataFrame | None) -> pd.DataFrame | None:
    """The item table, with the earlier one's rows of items that it lacks."""
    if items is None or earlier is None:
        return earlier if items is None else items
    return pd.concat([items, earlier[~earlier["item_id"].isin(items["item_id"])]], ignore_index=True)


def _case_options(config: EvaluationConfig, dataset: Dataset) -> dict[str, Any]:
    return {
        "num_items": dataset.num_items,
        "available_from": _available_from(dataset),
        "first_target_only": config.first_target_only,
        "min_history": config.min_history,
    }


def _available_from(dataset: Dataset) -> np.ndarray | None:
    """`[V+1]` seconds from which each item can be recommended, None where the item table does not say."""
    if "available_from" not in dataset.items:
        return None
    written = dataset.items["available_from"]
    seconds = parse_timestamps(written, name="available_from", source="the item table")
    wrong = (seconds.isna() & written.notna()).to_numpy()
    if wrong.any():
        raise DataError(
            f"the item table's column available_from has {written[wrong].iloc[0]!r}, which is no time; it says from "
            "when an item can be recommended: use seconds or ISO times, or name the column otherwise"
        )
    # an item that was in the log earlier was there earlier; one without a time always was
    first = np.minimum(
        seconds.fillna(np.iinfo(np.int64).min).to_numpy(dtype=np.int64), dataset.items["first_timestamp"].to_numpy()
    )
    return np.concatenate([[0], first])


def _known_events(dataset: Dataset, stage: str) -> Sequences:
    """The events that a shop would know at a stage: baselines get them all, also those that only validate."""
    known = dataset.split.parts == TRAIN
    if stage == "test" and dataset.split.config.rule in ("leave_one_out", "global_timeline"):
        known |= dataset.split.parts == VALIDATION
    return dataset.sequences.select_events(known)


def _ceiling(dataset: Dataset, config: EvaluationConfig) -> Ranker | None:
    """The simulated shop's own optimum, where it is exact: the next event of any behaviour, from all before it."""
    if dataset.source.get("reader") != "simulator" or not config.first_target_only:
        return None
    if dataset.split.config.rule in ("item_holdout", "random_ratio"):
        return None
    # a timeline tells besides that no event came between the history and the cut
    after = dataset.split.cuts.get(f"{config.stage}_start")
    if dataset.split.config.target_behaviors or sum((dataset.cleaning or {}).get("dropped", {}).values()):
        return None
    world, _ = init_shop(parse_config(ShopConfig, values=dataset.source["shop"]), dataset.source["seed"])
    bayes = BayesFilter(world, list(dataset.items["item_id"]))
    return Ranker(
        "Bayes filter (optimum)", lambda histories: bayes.scores(histories, behaviors=dataset.behaviors, after=after)
    )


def _model_facts(recommender: Recommender, settings: dict[str, Any], log: list[dict[str, Any]]) -> dict[str, Any]:
    leaves = jax.tree.leaves(recommender.params)
    end: dict[str, Any] = next((row for row in reversed(log) if row["kind"] == "end"), {})
    return {
        "encoder": settings["model"]["encoder"]["kind"],
        "loss": settings["training"]["loss"]["kind"],
        "parameters": sum(leaf.size for leaf in leaves),
        "bytes": sum(leaf.nbytes for leaf in leaves),
        "steps": end.get("step"),
        "epochs": end.get("epoch"),
        "training_seconds": end.get("seconds"),
        "targets_per_second": median_speed(log, "targets_per_second"),
        "sequences_per_second": median_speed(log, "sequences_per_second"),
    }


def median_speed(log: list[dict[str, Any]], name: str = "targets_per_second") -> float | None:
    """The median over the logged pieces of a training run, of which the first compiles; None without any."""
    speeds = [row[name] for row in log if row["kind"] == "train"]
    return float(np.median(speeds)) if speeds else None


def user_histories(run: str | Path, users: list[str] | None) -> Sequences:
    """Whole histories of users of a run's dataset, None for all; an unknown user has an empty one.

    Raises:
      DataError: the dataset is missing or was changed.
    """
    dataset = _dataset_of_run(run)
    sequences = dataset.sequences
    if users is None:
        return sequences
    rows = dataset.user_index(users)
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
