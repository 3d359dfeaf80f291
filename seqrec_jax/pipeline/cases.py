"""The evaluation cases of a prepared dataset at a stage, the events known then, and the systems of every report."""

from __future__ import annotations

from typing import Any

import numpy as np

from seqrec_jax.baselines import FunctionRanker, baseline_rankers
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.bayes_filter import BayesFilter
from seqrec_jax.data.shop.simulator import init_shop
from seqrec_jax.data.shop.world import ShopConfig
from seqrec_jax.data.splits import TRAIN, VALIDATION, EvaluationCases, evaluation_cases
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.systems import Contender
from seqrec_jax.retrieval.policy import available_from
from seqrec_jax.settings import parse_config


def cases_of(dataset: Dataset, config: EvaluationConfig) -> EvaluationCases:
    """The evaluation cases (users, histories, targets, candidates) that a protocol selects.

    Raises:
      DataError: no user is left to evaluate, or an item's `available_from` that is no time.
      ConfigError: gains for a behaviour that the log does not have.
    """
    return evaluation_cases(dataset.sequences, dataset.split, stage=config.stage, **case_options(config, dataset))


def case_options(config: EvaluationConfig, dataset: Dataset) -> dict[str, Any]:
    """The keyword arguments of `evaluation_cases` besides the stage.

    Raises:
      DataError: an item's `available_from` that is no time.
      ConfigError: gains for a behaviour that the log does not have.
    """
    return {
        "num_items": dataset.num_items,
        "available_from": available_from(dataset.items),
        "targets": config.targets,
        "min_history": config.min_history,
        "gains": _gains(config, dataset),
    }


def _gains(config: EvaluationConfig, dataset: Dataset) -> np.ndarray | None:
    """`[H]` float32 gain of a target of each behaviour, 1 where none is named; None without gains."""
    if not config.gains:
        return None
    if unknown := set(config.gains) - set(dataset.behaviors):
        raise ConfigError(f"evaluation.gains names {sorted(unknown)}, the log has {list(dataset.behaviors)}")
    return np.array([config.gains.get(name, 1.0) for name in dataset.behaviors], dtype=np.float32)


def known_events(dataset: Dataset, stage: str) -> Sequences:
    """The events that are known at a stage, those of the validation part included: the baselines are made from them."""
    known = dataset.split.parts == TRAIN
    if stage == "test" and dataset.split.config.rule in ("leave_one_out", "global_timeline"):
        known |= dataset.split.parts == VALIDATION
    return dataset.sequences.select_events(known)


def references(dataset: Dataset, config: EvaluationConfig) -> list[Contender]:
    """Baselines, and the simulated shop's optimum where it is exact."""
    known = known_events(dataset, config.stage)
    rankers = baseline_rankers(known, num_items=dataset.num_items, time_kind=dataset.time_kind)
    optimum = oracle(dataset, config)
    return [
        *(Contender(ranker, "baseline") for ranker in rankers),
        *([Contender(optimum, "ceiling")] if optimum is not None else []),
    ]


def oracle(dataset: Dataset, config: EvaluationConfig) -> FunctionRanker | None:
    """The simulated shop's optimum as a ranker, for the next event of any behaviour; None where it is not exact."""
    if dataset.source.get("reader") != "simulator" or config.targets != "next":
        return None
    if dataset.split.config.rule in ("item_holdout", "random_ratio"):
        return None
    if dataset.sequences.query_ids is not None and dataset.split.config.rule == "global_timeline":
        return None  # a search may come between the cut and the target, which the filter would take for none
    # with a timeline, no event came between the history and the cut
    after = dataset.split.cuts.get(f"{config.stage}_start")
    if dataset.split.config.target_behaviors or sum((dataset.cleaning or {}).get("dropped", {}).values()):
        return None
    world, _ = init_shop(parse_config(ShopConfig, values=dataset.source["shop"]), dataset.source["seed"])
    bayes = BayesFilter(world, list(dataset.items["item_id"]))
    return FunctionRanker(
        "Bayes filter (optimum)", lambda histories: bayes.scores(histories, behaviors=dataset.behaviors, after=after)
    )
