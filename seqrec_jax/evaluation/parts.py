"""The parts of the report beside figures, comparisons and slices: sections that `EvaluationConfig.parts` names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.audit.sampled import candidates_of_users, ranking_changes, sampled_section
from seqrec_jax.evaluation.beyond.cost import cost_section, measure_cost
from seqrec_jax.evaluation.beyond.exposure import exposure_correction, exposure_correction_section
from seqrec_jax.evaluation.beyond.lists import beyond_accuracy, beyond_accuracy_section
from seqrec_jax.evaluation.judging import Judged, judge, mean_of_users
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.representation.modalities import modality_ablation, modality_section
from seqrec_jax.evaluation.representation.section import representation_section
from seqrec_jax.evaluation.representation.similarity import sensitivity, similarity_table
from seqrec_jax.evaluation.robustness import perturbations
from seqrec_jax.evaluation.robustness.curves import default_changes, robustness, robustness_section
from seqrec_jax.evaluation.robustness.list_changes import promotion, spread_cases, stability, taste_change
from seqrec_jax.evaluation.systems import RIVALS, System, judged_of
from seqrec_jax.evaluation.users.segments import segments_section
from seqrec_jax.evaluation.users.shop_questions import cutoff, shop_question_sections
from seqrec_jax.items.table import without_modality
from seqrec_jax.metrics import RANKING_METRICS
from seqrec_jax.reporting.sections import Section, section, table

SAMPLED_NEGATIVES = 100
_ROBUSTNESS_USERS, _ROBUSTNESS_RATES = 1000, (0.0, 0.1, 0.2, 0.4)
_SIMILARITY_USERS = 5000
_MODALITY_USERS = 10_000
_SIMPLE = ("item to item", "last item again")  # compared with the model under worse histories; they use the history


def report_parts(
    systems: Sequence[System],
    dataset: Dataset,
    cases: EvaluationCases,
    users: pd.DataFrame,
    *,
    config: EvaluationConfig,
) -> list[Section]:
    """The sections that `config.parts` names, in the report's order.

    Args:
      systems: the judged systems, the model first. A part that needs a ranker leaves out systems without one.
      dataset: where the cases come from.
      cases: the U users.
      users: as `user_table` makes it.
      config: the protocol.
    """
    judged, rivals = [system.judged for system in systems], judged_of(systems[1:], RIVALS)
    model, k = systems[0].ranker, cutoff(config)
    has_vectors = all(hasattr(model, name) for name in ("user_vectors", "item_vectors", "project"))
    sections: list[Section] = []
    if "questions" in config.parts:
        sections += shop_question_sections(judged, dataset, cases, users, config=config)
    if "segments" in config.parts:
        sections.append(segments_section(judged, users, config=config, other=_strongest(rivals, config)))
    if "beyond_accuracy" in config.parts:
        vectors = model.item_vectors() if has_vectors else None  # type: ignore[union-attr]
        found = beyond_accuracy(judged, dataset, cases, k=k, config=config, item_vectors=vectors)
        sections.append(beyond_accuracy_section(found, k=k, model=judged[0].name))
    if "representation" in config.parts and has_vectors:
        sections.append(_representation(model, dataset, cases, seed=config.seed))
    if "robustness" in config.parts and model is not None:
        by_name = {system.name: system.ranker for system in systems[1:] if system.ranker is not None}
        simple = [by_name[name] for name in _SIMPLE if name in by_name][:1]
        sections.append(_robustness([model, *simple], dataset, cases, config=config, k=k))
    if "exposure" in config.parts:
        corrected = exposure_correction([judged[0], *rivals], dataset, cases, config=config)
        sections.append(exposure_correction_section(corrected, metric=config.metric))
    if "sampled" in config.parts and _can_be_sampled(cases, config):
        sections.append(sampled_section(ranking_changes(judged, cases, config=config, num_negatives=SAMPLED_NEGATIVES)))
    if "modalities" in config.parts and len(getattr(model, "modalities", ())) > 1:
        sections.append(_modalities(model, dataset, cases, config=config))
    if "cost" in config.parts:
        sections += _cost(systems, cases, config)
    return sections


def similarity_section(models: Sequence[Any], cases: EvaluationCases, *, seed: int) -> Section:
    """The section on the similarity of several models' vectors for the same users, each against the first model's.

    Args:
      models: two or more, each with a `name` and `user_vectors`, a function of histories to `[U, D]`.
      cases: the evaluated users.
      seed: of the permutations that give the figures of chance.
    """
    some = spread_cases(cases, _SIMILARITY_USERS).histories
    first, *others = [model.user_vectors(some) for model in models]
    rows, words = [], []
    for model, vectors in zip(models[1:], others, strict=True):
        found = similarity_table(first, vectors, seed=seed)
        rows += [[model.name, name.replace("_", " "), row["value"], row["permuted"]] for name, row in found.iterrows()]
        words.append(
            f"{model.name} shares {found.loc['common_neighbours', 'value']:.0%} of each user's nearest users with "
            f"{models[0].name} ({found.loc['common_neighbours', 'permuted']:.0%} by chance)"
        )
    columns = ["model", f"vectors beside those of {models[0].name}", "value", "users permuted"]
    block = table("alike", columns, rows, note="The last column is what chance gives.")
    return section("similarity", "How alike the models' vectors are", f"{'; '.join(words)}.", [block])


def _can_be_sampled(cases: EvaluationCases, config: EvaluationConfig) -> bool:
    """Whether the deciding metric is a ranking metric at k and every user has enough candidates to sample from."""
    stem, _, k = config.metric.partition("@")
    fewest = candidates_of_users(cases, config) - cases.num_targets
    return bool(k) and stem in RANKING_METRICS and bool((fewest >= SAMPLED_NEGATIVES).all())


def _strongest(rivals: Sequence[Judged], config: EvaluationConfig) -> Judged | None:
    """The rival with the best deciding figure."""
    return max(rivals, key=lambda one: mean_of_users(one.per_user[config.metric]), default=None)


def _representation(model: Any, dataset: Dataset, cases: EvaluationCases, *, seed: int) -> Section:
    some = spread_cases(cases, _ROBUSTNESS_USERS).histories
    options: dict[str, Any] = {"num_items": dataset.num_items, "rng": np.random.default_rng(seed)}
    changes = {
        "a tenth of the events dropped": partial(perturbations.drop_events, rate=0.1, **options),
        "a tenth of the events swapped with a neighbour": partial(perturbations.swap_adjacent, rate=0.1, **options),
        "a tenth of the events random": partial(perturbations.inject_noise, rate=0.1, **options),
        "the older half left out": partial(perturbations.truncate, rate=0.5, **options),
        "all events in random order": partial(perturbations.shuffle_order, rate=1.0, **options),
    }
    v_x = model.user_vectors(cases.histories)
    return representation_section(
        v_x,
        model.item_vectors(),
        model.project(v_x),
        dataset,
        cases,
        sensitivities=sensitivity(model.user_vectors, some, changes),
        seed=seed,
    )


def _modalities(model: Any, dataset: Dataset, cases: EvaluationCases, *, config: EvaluationConfig) -> Section:
    """The model against itself over items that lack one modality."""
    some = spread_cases(cases, _MODALITY_USERS)
    known = np.concatenate([[False], dataset.items["known"].to_numpy()])
    warm = known[some.target_items[some.target_offsets[:-1]]]
    without = {
        name: judge(model.with_item_table(without_modality(model.item_table, name)), some, config=config)
        for name in model.modalities
    }
    found = modality_ablation(judge(model, some, config=config), without, warm=warm, config=config)
    return modality_section(found, metric=config.metric, model=model.name)


def _robustness(
    rankers: Sequence[Ranker], dataset: Dataset, cases: EvaluationCases, *, config: EvaluationConfig, k: int
) -> Section:
    """The model and one simple system under the same changes."""
    changes = default_changes(cases, behaviors=dataset.behaviors, time_kind=dataset.time_kind)
    few = spread_cases(cases, _ROBUSTNESS_USERS)
    options: dict[str, Any] = {"config": config, "num_users": _ROBUSTNESS_USERS}
    results = [
        robustness(ranker, few, changes=changes, rates=_ROBUSTNESS_RATES, seed=config.seed, **options)
        for ranker in rankers
    ]
    lists: dict[str, Any] = {**options, "k": k, "seed": config.seed}
    return robustness_section(
        results,
        stability=pd.concat([stability(ranker, few, **lists) for ranker in rankers]),
        taste=taste_change(rankers[0], few, **lists) if few.histories.num_users > 1 else None,
        promoted=promotion(rankers[0], few, **lists),
    )


def _cost(systems: Sequence[System], cases: EvaluationCases, config: EvaluationConfig) -> list[Section]:
    rows = [
        {
            **measure_cost(system.ranker, cases.histories, params=getattr(system.ranker, "params", None)),
            "figure": {"mean": mean_of_users(system.judged.per_user[config.metric]), "low": None, "high": None},
        }
        for system in systems
        if system.ranker is not None
    ]
    return [cost_section(rows, metric=config.metric)] if rows else []
