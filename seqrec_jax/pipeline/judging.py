"""Runs and other systems' lists to figures and a report: evaluate one, or compare several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from jax.sharding import Mesh

from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.evaluation import summary
from seqrec_jax.evaluation.judging import judge_lists, mean_of_users
from seqrec_jax.evaluation.lists import match_lists, read_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.report.examples import example_users
from seqrec_jax.evaluation.report.model_card import model_card
from seqrec_jax.evaluation.summary import Contender, Evaluation
from seqrec_jax.parallel import make_mesh
from seqrec_jax.pipeline.cases import cases_of, references
from seqrec_jax.pipeline.decoders import RunDecoder, judged_decoder
from seqrec_jax.pipeline.starting import check_behaviors
from seqrec_jax.pipeline.training import median_speed
from seqrec_jax.pipeline.writing import make_folder, write_evaluation
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs.run import read_run
from seqrec_jax.settings import config_dict
from seqrec_jax.training.log import read_log


def evaluate(
    run: str | Path,
    config: EvaluationConfig,
    *,
    dataset: str | Path | None = None,
    step: int | None = None,
    lists: Sequence[str] = (),
    decoders: Sequence[str] = (),
) -> tuple[Evaluation, str | None]:
    """Judge a run's checkpoint, its decoders, the baselines and lists of other systems.

    Writes `metrics.json`, `per_user.parquet` and `report.html` into the run's directory.

    Args:
      run: the run's directory.
      config: the protocol.
      dataset: another prepared dataset over the same vocabulary; None for the run's own.
      step: of the checkpoint; None for the best.
      lists: `name=path` of files with other systems' lists, see `read_lists`.
      decoders: names of decoders of the run, see `fit_decoder`.

    Returns:
      The evaluation, and why no report was written (None where it was).

    Raises:
      CheckpointError: no run or decoder, a checkpoint over another vocabulary, or a place that cannot be written.
      DataError: the dataset is missing, was changed, or has nobody to evaluate; or lists that cannot be matched.
    """
    run = Path(run)
    settings, judged_on = _run_and_dataset(run, dataset)
    mesh = _mesh_of(config)
    recommender = _on_mesh(Recommender.load(run, step=step), mesh)
    cases = cases_of(judged_on, config)
    others, notes = _judged_lists(lists, judged_on, cases, config)
    decoded = [Contender(judged_decoder(RunDecoder.load(run, name), cases, config), "other") for name in decoders]
    contenders = [Contender(recommender, "model"), *decoded, *others, *references(judged_on, config)]
    evaluation = summary.evaluate(contenders, judged_on, cases, config=config, mesh=mesh)
    log = read_log(run)
    settings = {**settings, "evaluation": config_dict(config)}
    facts = _model_facts(recommender, settings, log)
    evaluation.result.update(run=run.name, model=facts, config=settings)
    evaluation.result["warnings"] += notes
    card = model_card(judged_on, settings=settings, facts=facts, result=evaluation.result)
    evaluation.result["model_card"] = card
    return evaluation, _written(run, evaluation, judged_on, cases, log=log)


def compare(
    runs: Sequence[str | Path],
    config: EvaluationConfig,
    *,
    output: str | Path,
    dataset: str | Path | None = None,
    lists: Sequence[str] = (),
) -> tuple[Evaluation, str | None]:
    """Judge runs, and lists of other systems, under one protocol: is any of them better than the first run?

    Writes `metrics.json`, `per_user.parquet` and `report.html` into the output directory.

    Args:
      runs: directories; the first is what runs today, and its dataset is what all are judged on.
      config: the protocol.
      output: where to write.
      dataset: another prepared dataset over the same vocabulary; None for the first run's own.
      lists: `name=path` of files with other systems' lists.

    Returns:
      The evaluation, and why no report was written (None where it was).

    Raises:
      CheckpointError: no run, a checkpoint over another vocabulary, or a place that cannot be written.
      ConfigError: fewer than two systems.
      DataError: as `evaluate`.
    """
    if len(runs) + len(lists) < 2 or not runs:
        raise ConfigError("compare takes two systems or more, the one that runs today first")
    paths = [Path(run) for run in runs]
    settings, judged_on = _run_and_dataset(paths[0], dataset)
    mesh = _mesh_of(config)
    cases = cases_of(judged_on, config)
    contenders, notes = [], []
    names = _names_of(paths)
    for run, name in zip(paths, names, strict=True):
        _, facts, items = read_run(run)
        _check_vocabulary(judged_on, items, run)
        check_behaviors(judged_on, facts, run)
        recommender = _on_mesh(Recommender.load(run), mesh)
        recommender.name = name
        contenders.append(Contender(recommender, "model"))
        if facts["fingerprint"] != judged_on.fingerprint:
            notes.append(
                f"{name} WAS TRAINED ON ANOTHER PREPARATION ({facts['fingerprint']}) than it is judged on "
                f"({judged_on.fingerprint}): whether it has seen the tested events is not known."
            )
    others, about_lists = _judged_lists(lists, judged_on, cases, config)
    contenders += [*others, *references(judged_on, config)]
    output = make_folder(output, what="comparison")
    evaluation = summary.compare(contenders, judged_on, cases, config=config, mesh=mesh)
    settings = {**settings, "evaluation": config_dict(config)}
    later = ", ".join([*names[1:], *(one.system.name for one in others)])
    evaluation.result.update(run=f"{later} against {names[0]}", config=settings)
    evaluation.result["warnings"] += [*notes, *about_lists]
    return evaluation, _written(output, evaluation, judged_on, cases, log=[])


def _written(
    directory: Path, evaluation: Evaluation, dataset: Dataset, cases: EvaluationCases, *, log: list[dict[str, Any]]
) -> str | None:
    """An evaluation with its per-user table and example users; why there is no report, None where there is one."""
    examples = example_users(evaluation, dataset, cases)
    return write_evaluation(
        directory, evaluation.result, what="evaluation", per_user=evaluation.per_user, log=log, examples=examples
    )


def _run_and_dataset(run: Path, dataset_directory: str | None) -> tuple[dict[str, Any], Dataset]:
    """A run's configuration, and the dataset to judge it on: its own, or another over the same items."""
    settings, facts, items = read_run(run)
    if dataset_directory is None:
        dataset = read_dataset(facts["directory"], fingerprint=facts["fingerprint"])
    else:
        dataset = read_dataset(dataset_directory)
    _check_vocabulary(dataset, items, run)
    check_behaviors(dataset, facts, run)
    return settings, dataset


def _check_vocabulary(dataset: Dataset, items: pd.DataFrame, run: Path) -> None:
    if list(dataset.items["item_id"]) != list(items["item_id"]):
        shared = len(set(dataset.items["item_id"]) & set(items["item_id"]))
        raise CheckpointError(
            f"{dataset.name} numbers its {dataset.num_items:,} items differently from the {len(items):,} of {run} "
            f"({shared:,} in common); prepare it with --data.vocabulary_from {run}, and train on it with "
            f"training.warm_start {run} if it has new items"
        )


def _judged_lists(
    lists: Sequence[str], dataset: Dataset, cases: EvaluationCases, config: EvaluationConfig
) -> tuple[list[Contender], list[str]]:
    """Other systems from files of lists, `name=path` each, and what a reader must know of the files."""
    found, notes = [], []
    for words in lists:
        name, equals, path = words.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"lists are given as name=path, such as today=lists.parquet, got {words!r}")
        matched = match_lists(
            read_lists(path),
            dataset,
            cases,
            k=max(config.cutoffs),
            seen_items=config.seen_items,
            seed=config.seed,
            source=path,
        )
        judged = judge_lists(name, matched.lists, cases, config=config, list_scores=matched.scores)
        found.append(Contender(judged, "other"))
        notes += [f"{name}: {sentence}" for sentence in matched.sentences]
        if not matched.covered.all():
            covered = mean_of_users(judged.per_user[config.metric][matched.covered])
            notes.append(
                f"{name}: over the {int(matched.covered.sum()):,} users with a list {config.metric} is {covered:.4f}."
            )
        notes.append(
            f"{name}: a file does not tell what its lists were made from. If they were made after the tested events, "
            "they know the answers; `seqrec recommend --before test` makes lists that do not."
        )
    return found, notes


def _names_of(runs: Sequence[Path]) -> list[str]:
    """The runs' own names, with their parents' where two are called the same."""
    names = [run.name for run in runs]
    return [str(run) if names.count(run.name) > 1 else run.name for run in runs]


def _mesh_of(config: EvaluationConfig) -> Mesh | None:
    return None if config.num_devices == 1 else make_mesh(config.num_devices)


def _on_mesh(recommender: Recommender, mesh: Mesh | None) -> Recommender:
    return recommender if mesh is None else recommender.on_mesh(mesh)


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
