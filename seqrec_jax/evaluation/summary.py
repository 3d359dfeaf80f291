"""Evaluate and compare systems: figures with intervals, paired comparisons, slices and the parts of the report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jax.sharding import Mesh

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.audit.audit import audit
from seqrec_jax.evaluation.comparison import compare_systems
from seqrec_jax.evaluation.judging import Judged, judge, reachable_mean, reachable_targets
from seqrec_jax.evaluation.parts import report_parts, similarity_section
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.protocol_card import protocol_card, protocol_fingerprint
from seqrec_jax.evaluation.representation.section import LEAST_USERS
from seqrec_jax.evaluation.systems import COMPARED, RIVALS, Contender, System, judged_of
from seqrec_jax.evaluation.users.attributes import user_table
from seqrec_jax.evaluation.users.slices import FEWEST_USERS, figure, paired_slices, paired_slices_section, user_slices
from seqrec_jax.metrics import expected_calibration_error
from seqrec_jax.reporting.sections import plain
from seqrec_jax.statistics import bootstrap_means

SCHEMA_VERSION = 2
"""Version of the keys of `metrics.json`."""
_TARGETS = {
    "all": "all that followed the history",
    "next": "the first after the history",
    "basket": "the first after the history and those at its very time",
}


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
      result: the content of `metrics.json` in JSON's own types; a figure that is undefined for every user is None.
      per_user: the per-user table, one row a system and user.
      judged: the judged systems, one a contender, the model first.
    """

    result: dict[str, Any]
    per_user: pd.DataFrame
    judged: list[Judged]

    @property
    def figures(self) -> pd.DataFrame:
        """One row a system and metric: `system`, `kind`, `metric`, `mean`, `low`, `high`, `reachable_mean`."""
        return pd.DataFrame(
            [
                {"system": system["name"], "kind": system["kind"], "metric": metric, **figure}
                for system in self.result["systems"]
                for metric, figure in system["metrics"].items()
            ]
        )

    @property
    def comparisons(self) -> pd.DataFrame:
        """One row a pair of systems and metric, see `compare_systems`."""
        return pd.DataFrame(self.result["comparisons"])


def evaluate(
    contenders: Sequence[Contender],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    protocol: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Judge the first contender and its rivals on the same cases, with intervals and paired comparisons.

    Args:
      contenders: the model first; it is compared with every baseline and other system on the deciding metric.
      dataset: where the cases come from.
      cases: the evaluation cases.
      config: the protocol.
      protocol: further facts for the protocol's card that change figures.
      mesh: devices that share the users; None for the default device.

    Returns:
      Figures, per-user table and lists.

    Raises:
      ConfigError: two contenders with one name, or cases of another configuration.
      DataError: a contender that was judged on other cases.
    """
    systems, users, result = _judge_all(contenders, dataset, cases, config=config, protocol=protocol, mesh=mesh)
    rivals = judged_of(systems[1:], RIVALS)
    if systems[0].kind == "model" and rivals:
        rows = compare_systems([(systems[0].judged, rival) for rival in rivals], [config.metric], config=config)
        # the system in question is always the first one
        result["comparisons"] = [{name: value for name, value in row.items() if name != "system"} for row in rows]
    return _finished(systems, users, result, dataset, cases, config)


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    protocol: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> Evaluation:
    """Compare every later contender with the first one, which runs today, also by kind of user.

    Args:
      contenders: the system that runs today first; every further model or other system is compared with it, on the
        deciding metric and the others of the same list length. Baselines and oracles are listed beside them.
      dataset: where the cases come from.
      cases: the evaluation cases.
      config: the protocol.
      protocol: further facts for the protocol's card that change figures.
      mesh: devices that share the users; None for the default device.

    Returns:
      Figures, per-user table and lists.

    Raises:
      ConfigError: nothing to compare, two contenders with one name, or cases of another configuration.
      DataError: a contender that was judged on other cases.
    """
    compared = [contender for contender in contenders if contender.kind in COMPARED]
    if len(compared) < 2 or compared[0] is not contenders[0]:
        raise ConfigError("compare takes two systems or more, the one that runs today first")
    systems, users, result = _judge_all(contenders, dataset, cases, config=config, protocol=protocol, mesh=mesh)
    first, *others = judged_of(systems, COMPARED)
    k = config.metric.partition("@")[2] or str(max(config.cutoffs))
    family = [config.metric, *(f"{name}@{k}" for name in ("ndcg", "hit_rate", "recall", "mrr", "map"))]
    metrics = [name for name in dict.fromkeys(family) if name in first.per_user]
    metrics = [name for place, name in enumerate(metrics) if not _repeats(name, metrics[:place], [first, *others])]
    rows = compare_systems([(other, first) for other in others], metrics, config=config)
    for row in rows:
        if row["metric"] == config.metric:
            shop = (one["shop"] for one in rows if one["system"] == row["system"] and one["shop"])
            row["shop"] = next(shop, "")
    result |= {"kind": "comparison", "comparisons": rows}
    evaluation = _finished(systems, users, result, dataset, cases, config)
    parts = []
    for number, other in enumerate(others, start=1):
        by_slice = paired_slices([other, first], users, config=config)
        part = paired_slices_section(by_slice, model=other.name, metric=config.metric)
        parts.append({**part, "key": f"{part['key']}_{number}", "title": f"For whom {other.name} is better"})
        for row in rows:
            if row["system"] == other.name and row["metric"] == config.metric:
                row["for_whom"] = f"By kind of user: {part['summary']}"
    models = [system.ranker for system in systems if system.kind == "model" and system.ranker is not None]
    if "representation" in config.parts and len(models) > 1 and len(cases.users) >= LEAST_USERS:
        parts.append(similarity_section(models, cases, seed=config.seed))
    evaluation.result["sections"][:0] = parts
    return evaluation


def _repeats(name: str, earlier: Sequence[str], systems: Sequence[Judged]) -> bool:
    """Whether a metric equals an earlier one for every user, as recall equals hit rate with one target."""
    return any(all(one.per_user[name].equals(one.per_user[other]) for one in systems) for other in earlier)


def _few_users(count: int) -> list[str]:
    if count >= FEWEST_USERS:
        return []
    return [
        f"ONLY {count} USERS: intervals of fewer than {FEWEST_USERS} are too short, and no figure is worth acting on."
    ]


def _judge_all(
    contenders: Sequence[Contender],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    protocol: Mapping[str, Any] | None,
    mesh: Mesh | None,
) -> tuple[list[System], pd.DataFrame, dict[str, Any]]:
    """Every contender judged, the table of users, and the result without comparisons and sections."""
    names = [contender.system.name for contender in contenders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two systems are called {twice[0]!r}; give each a name of its own")
    for name, value in (cases.selection or {}).items():
        if value != getattr(config, name):
            raise ConfigError(
                f"the cases were made with {name} {value!r}, the configuration says {getattr(config, name)!r}; make "
                "them with the configuration's (pipeline.cases_of)"
            )
    systems = [
        System(system, kind, None)
        if isinstance(system, Judged)
        else System(judge(system, cases, config=config, mesh=mesh), kind, system)
        for system, kind in contenders
    ]
    judged = [system.judged for system in systems]
    for entry in judged:
        if len(entry.per_user) != len(cases.users) or len(entry.ranks) != len(cases.target_items):
            raise DataError(
                f"{entry.name} was judged on {len(entry.per_user):,} users with {len(entry.ranks):,} targets, these "
                f"cases have {len(cases.users):,} and {len(cases.target_items):,}; judge it on the same cases"
            )
    users = user_table(dataset, cases)
    measured = [one.per_user.drop(columns="rank") for one in judged]
    columns = [name for name in measured[0] if any(table[name].notna().any() for table in measured)]
    result = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "stage": config.stage,
        "primary_metric": config.metric,
        "protocol": _protocol(dataset, cases, judged[0], config, protocol),
        "systems": [_figures(system, cases, columns, config) for system in systems],
        "comparisons": [],
        "slices": user_slices(judged, users, config=config),
        "sections": [],
        "cleaning": dataset.cleaning,
        "warnings": _few_users(len(cases.users)),
    }
    return systems, users, result


def _finished(
    systems: list[System],
    users: pd.DataFrame,
    result: dict[str, Any],
    dataset: Dataset,
    cases: EvaluationCases,
    config: EvaluationConfig,
) -> Evaluation:
    """The evaluation, with the findings of the audit and the other parts of the report."""
    judged = [system.judged for system in systems]
    if "audit" in config.parts:
        result["audit"] = plain([asdict(found) for found in audit(dataset, cases, judged, config=config)])
    result["sections"] = report_parts(systems, dataset, cases, users, config=config)
    tables = [pd.concat([users, entry.per_user], axis=1).assign(system=entry.name) for entry in judged]
    return Evaluation(result, pd.concat(tables, ignore_index=True), judged)


def _protocol(
    dataset: Dataset,
    cases: EvaluationCases,
    judged: Judged,
    config: EvaluationConfig,
    further: Mapping[str, Any] | None,
) -> dict[str, Any]:
    num_candidates = int(cases.candidates.sum())
    card = protocol_card(dataset, cases, config, further=further)
    of_a_user = f"; of these {card['candidates of a user']} for a user" if cases.user_candidates is not None else ""
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "protocol_fingerprint": protocol_fingerprint(card),
        "split": dataset.split.describe(),
        "order": card["order of events"],
        "candidates": f"{num_candidates:,} of {dataset.num_items:,} items: {card['candidate rule']}{of_a_user}",
        "seen_items": config.seen_items,
        "users": len(cases.users),
        "users_without_history": cases.users_without_history,
        "targets": len(cases.target_items),
        "targets_per_user": _TARGETS.get(config.targets, f"the {config.targets} events after the history"),
        "unreachable_targets": int((~reachable_targets(judged, cases)).sum()),
        "tie_rule": card["tie rule"],
        "intervals": f"95 %, {config.num_resamples} resamples of users",
        "card": card,
    }


def _figures(system: System, cases: EvaluationCases, names: list[str], config: EvaluationConfig) -> dict[str, Any]:
    """One system's entry of the result: figures with intervals, ties and speed."""
    judged = system.judged
    interval = bootstrap_means(judged.per_user[names], num_resamples=config.num_resamples, seed=config.seed)
    measured: dict[str, Any] = {
        name: {**figure(interval, column), "reachable_mean": reachable_mean(judged, cases, name)}
        for column, name in enumerate(names)
    }
    if "confidence" in names:
        sure, right = (judged.per_user[name].to_numpy(np.float32) for name in ("confidence", "accuracy@1"))
        # a share may come out an ulp above 1
        error = expected_calibration_error(
            np.nan_to_num(sure).clip(0, 1)[None], right[None] > 0, num_bins=15, where=~np.isnan(sure)[None]
        )[0]
        measured["calibration_error"] = {"mean": error, "low": None, "high": None, "reachable_mean": None}
    ties = {"tied_targets": judged.tied_targets, "best": judged.best, "worst": judged.worst}
    in_json: dict[str, Any] = plain(
        {
            "name": judged.name,
            "kind": system.kind,
            "metrics": measured,
            "ties": ties,
            "users_per_second": len(cases.users) / judged.seconds,
        }
    )
    return in_json
