"""Runs and other systems' lists to figures and a report: evaluate one, or compare several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation import summary
from seqrec_jax.evaluation.judging import judge_lists, mean_of_users
from seqrec_jax.evaluation.lists import match_lists, read_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.report.examples import example_users
from seqrec_jax.evaluation.report.model_card import model_card
from seqrec_jax.evaluation.summary import Evaluation
from seqrec_jax.evaluation.systems import Contender
from seqrec_jax.parallel import make_mesh
from seqrec_jax.pipeline.cases import cases_of, references
from seqrec_jax.pipeline.decoders import judged_decoder
from seqrec_jax.pipeline.training import median_speed
from seqrec_jax.pipeline.writing import make_folder, write_evaluation
from seqrec_jax.retrieval import Recommender, RunDecoder
from seqrec_jax.runs import Run
from seqrec_jax.settings import config_dict
from seqrec_jax.training.config import LossConfig


class Evaluated(NamedTuple):
    """An evaluation that was written.

    Attributes:
      evaluation: figures, per-user values and lists.
      no_report: why `report.html` was not written, such as a missing extra; None where it was.
    """

    evaluation: Evaluation
    no_report: str | None


def evaluate(
    run: str | Path | Run,
    config: EvaluationConfig | None = None,
    *,
    dataset: str | Path | Dataset | None = None,
    step: int | None = None,
    lists: Mapping[str, str | Path] | None = None,
    decoders: Sequence[str] = (),
) -> Evaluated:
    """Judge a run's checkpoint, its decoders, the baselines and lists of other systems.

    Writes `metrics.json`, `per_user.parquet` and `report.html` into the run's directory.

    Args:
      run: the run or its directory.
      config: the protocol; None for the one that the run was made with.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.
      step: of the checkpoint; None for the best by validation.
      lists: name of another system to a file with its lists, see `read_lists`.
      decoders: names of decoders of the run, see `fit_decoder`.

    Returns:
      The evaluation, and why no report was written (None where it was).

    Raises:
      CheckpointError: no run or decoder, a checkpoint over another vocabulary, or a place that cannot be written.
      DataError: the dataset is missing, was changed, or has no user to evaluate; or lists that cannot be matched.
    """
    run = Run.open(run)
    config = config or run.section("evaluation", EvaluationConfig)
    judged_on = _dataset_of(run, dataset)
    mesh = _mesh_of(config)
    recommender = _on_mesh(Recommender.load(run, step=step), mesh)
    cases = cases_of(judged_on, config)
    others, notes = _judged_lists(lists or {}, judged_on, cases, config)
    decoded = [Contender(judged_decoder(RunDecoder.load(run, name), cases, config), "other") for name in decoders]
    contenders = [Contender(recommender, "model"), *decoded, *others, *references(judged_on, config)]
    evaluation = summary.evaluate(contenders, judged_on, cases, config=config, mesh=mesh)
    log = run.log()
    settings = run.settings(evaluation=config_dict(config))
    facts = _model_facts(recommender, run, log)
    evaluation.result.update(run=run.name, model=facts, config=settings)
    evaluation.result["warnings"] += notes
    card = model_card(judged_on, settings=settings, facts=facts, result=evaluation.result)
    evaluation.result["model_card"] = card
    return _written(run.directory, evaluation, judged_on, cases, log=log)


def compare(
    runs: Sequence[str | Path | Run],
    config: EvaluationConfig | None = None,
    *,
    output: str | Path,
    dataset: str | Path | Dataset | None = None,
    lists: Mapping[str, str | Path] | None = None,
) -> Evaluated:
    """Judge runs, and lists of other systems, under one protocol: is any of them better than the first run?

    Writes `metrics.json`, `per_user.parquet` and `report.html` into the output directory.

    Args:
      runs: runs or their directories; the first is what runs today, and its dataset is what all are judged on.
      config: the protocol; None for the one that the first run was made with.
      output: where to write.
      dataset: another prepared dataset over the same items, or its directory; None for the first run's own.
      lists: name of another system to a file with its lists.

    Returns:
      The evaluation, and why no report was written (None where it was).

    Raises:
      CheckpointError: no run, a checkpoint over another vocabulary, or a place that cannot be written.
      ConfigError: fewer than two systems.
      DataError: as `evaluate`.
    """
    lists = lists or {}
    if len(runs) + len(lists) < 2 or not runs:
        raise ConfigError("compare takes two systems or more, the one that runs today first")
    opened = [Run.open(run) for run in runs]
    config = config or opened[0].section("evaluation", EvaluationConfig)
    judged_on = _dataset_of(opened[0], dataset)
    mesh = _mesh_of(config)
    cases = cases_of(judged_on, config)
    contenders, notes = [], []
    names = _names_of(opened)
    for run, name in zip(opened, names, strict=True):
        run.check_dataset(judged_on)
        recommender = _on_mesh(Recommender.load(run), mesh)
        recommender.name = name
        contenders.append(Contender(recommender, "model"))
        if run.facts.fingerprint != judged_on.fingerprint:
            notes.append(
                f"{name} WAS TRAINED ON ANOTHER PREPARATION ({run.facts.fingerprint}) than it is judged on "
                f"({judged_on.fingerprint}): whether it has seen the tested events is not known."
            )
    others, about_lists = _judged_lists(lists, judged_on, cases, config)
    contenders += [*others, *references(judged_on, config)]
    output = make_folder(output, what="comparison")
    evaluation = summary.compare(contenders, judged_on, cases, config=config, mesh=mesh)
    settings = opened[0].settings(evaluation=config_dict(config))
    later = ", ".join([*names[1:], *(one.system.name for one in others)])
    evaluation.result.update(run=f"{later} against {names[0]}", config=settings)
    evaluation.result["warnings"] += [*notes, *about_lists]
    return _written(output, evaluation, judged_on, cases, log=[])


def _written(
    directory: Path, evaluation: Evaluation, dataset: Dataset, cases: EvaluationCases, *, log: list[dict[str, Any]]
) -> Evaluated:
    """Write an evaluation with its per-user table and example users."""
    examples = example_users(evaluation, dataset, cases)
    reason = write_evaluation(
        directory, evaluation.result, what="evaluation", per_user=evaluation.per_user, log=log, examples=examples
    )
    return Evaluated(evaluation, reason)


def _dataset_of(run: Run, dataset: str | Path | Dataset | None) -> Dataset:
    """The dataset to judge a run on: its own, or another one over the same items and behaviours."""
    found = run.dataset(dataset)
    run.check_dataset(found)  # a run whose catalogue has grown has more items than its own dataset
    return found


def _judged_lists(
    lists: Mapping[str, str | Path], dataset: Dataset, cases: EvaluationCases, config: EvaluationConfig
) -> tuple[list[Contender], list[str]]:
    """Other systems from files of lists, and sentences on the files that a reader must know."""
    found, notes = [], []
    for name, path in lists.items():
        matched = match_lists(
            read_lists(path),
            dataset,
            cases,
            k=max(config.cutoffs),
            seen_items=config.seen_items,
            seed=config.seed,
            source=str(path),
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


def _names_of(runs: Sequence[Run]) -> list[str]:
    """The runs' own names, or their paths where two have the same name."""
    names = [run.name for run in runs]
    return [str(run) if names.count(run.name) > 1 else run.name for run in runs]


def _mesh_of(config: EvaluationConfig) -> Mesh | None:
    return None if config.num_devices == 1 else make_mesh(config.num_devices)


def _on_mesh(recommender: Recommender, mesh: Mesh | None) -> Recommender:
    return recommender if mesh is None else recommender.on_mesh(mesh)


def _model_facts(recommender: Recommender, run: Run, log: list[dict[str, Any]]) -> dict[str, Any]:
    """What a report says of the model and its training."""
    leaves = jax.tree.leaves(recommender.params)
    end: dict[str, Any] = next((row for row in reversed(log) if row["kind"] == "end"), {})
    return {
        "encoder": run.model_config.encoder.kind,
        "loss": run.section("training.loss", LossConfig).kind,
        "parameters": sum(leaf.size for leaf in leaves),
        "bytes": sum(leaf.nbytes for leaf in leaves),
        "steps": end.get("step"),
        "epochs": end.get("epoch"),
        "training_seconds": end.get("seconds"),
        "targets_per_second": median_speed(log, "targets_per_second"),
        "sequences_per_second": median_speed(log, "sequences_per_second"),
    }
