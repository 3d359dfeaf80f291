"""The verdict: what the paired comparisons support, in plain words and no more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from seqrec_jax.reporting.wording import (
    format_count,
    format_figure,
    format_interval,
    format_p,
    format_percent,
    is_finite,
    join_names,
    number,
    sentence,
)

LEVEL = 0.05
"""Error level of the verdict, after Holm's correction."""

Outcome = Literal["better", "worse", "unclear"]
_NOT_EQUAL = "This does not show that they are equal, only that these users do not distinguish them."
_MAX_RUNS = 3  # of which the verdict gives details


class Verdict(NamedTuple):
    """What the comparisons support.

    Attributes:
      level: `better` (the model is better than every rival compared; of several runs, at least one is better than the
        first), `worse` (the model is worse than at least one rival; of several runs, all are worse than the first),
        `unclear` (neither), or `open` (nothing was compared, or not under one protocol).
      headline: one sentence.
      details: further sentences: sizes of the differences, what was not compared, the distance to the oracle.
    """

    level: Literal["better", "worse", "unclear", "open"]
    headline: str
    details: list[str]


def verdict(result: Mapping[str, Any]) -> Verdict:
    """The verdict on the model against its rivals, or on further runs against the first run.

    A difference counts only if its Holm-corrected p-value is below 0.05 and its interval excludes zero; it does not
    count where either is missing. Oracles, which use what no model can know, are no rivals. Runs that were measured
    under different protocols get no verdict.

    Args:
      result: the content of `metrics.json`; `comparisons` hold model minus baseline, or, where a row names a
        `system`, that system minus the first run, which is then its `baseline`.

    Returns:
      The verdict. It never states that two systems are equal, only that the data does not distinguish them.

    >>> systems = [{"name": "gru", "kind": "model", "metrics": {}}]
    >>> verdict({"primary_metric": "ndcg@10", "systems": systems}).headline
    'gru was not compared with any baseline on ndcg@10.'
    """
    rows = [row for row in result.get("comparisons") or [] if row["metric"] == result["primary_metric"]]
    found = _between_runs(result, rows) if is_comparison(result) else _against_rivals(result, rows)
    if not result.get("fingerprints_differ"):
        return found
    details = [
        "Evaluate all of them again under one protocol: the same prepared data, split, candidates, targets and rules.",
        f"Taken at face value: {found.headline}",
    ]
    return Verdict("open", "Not comparable: these figures were measured under different protocols.", details)


def is_comparison(result: Mapping[str, Any]) -> bool:
    """Whether the result compares several runs with the first one, instead of one model with its baselines."""
    first = (first_model(result) or {}).get("name")
    rows = result.get("comparisons") or []
    return result.get("kind") == "comparison" or any(row.get("system") not in (None, "", first) for row in rows)


def first_model(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The system that the report is about, the first of kind "model"; None without one."""
    return next((system for system in result["systems"] if system.get("kind") == "model"), None)


def lower_is_better(metric: str) -> bool:
    """Whether smaller values of a metric are better.

    >>> lower_is_better("mean_rank"), lower_is_better("ndcg@10")
    (True, False)
    """
    return metric.partition("@")[0] in ("mean_rank", "rank", "log_loss", "calibration_error")


def mean_of(system: Mapping[str, Any], metric: str) -> float:
    """A system's mean of a metric, nan where it has none."""
    return number((system["metrics"].get(metric) or {}).get("mean"))


def outcome(row: Mapping[str, Any]) -> Outcome:
    """The outcome that one comparison supports, for the system in question."""
    p_holm, low, high = (number(row.get(key)) for key in ("p_holm", "low", "high"))
    if not p_holm < LEVEL or not (low > 0 or high < 0):
        return "unclear"
    return "better" if (low > 0) != lower_is_better(row["metric"]) else "worse"


def _against_rivals(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Verdict:
    metric, model = result["primary_metric"], first_model(result)
    if model is None:
        return Verdict("open", "No trained model is part of this evaluation.", [])
    kinds = {system["name"]: system.get("kind") for system in result["systems"]}
    rows = [row for row in rows if kinds.get(row["baseline"]) != "ceiling"]
    compared = {row["baseline"] for row in rows}
    missing = [name for name, kind in kinds.items() if kind in ("baseline", "other") and name not in compared]
    what = "rival" if any(kinds.get(name) in ("model", "other") for name in compared) else "baseline"
    name = model["name"]
    groups = _grouped(rows)
    better, unclear, worse = groups["better"], groups["unclear"], groups["worse"]
    against = partial(_names, all_of=rows, complete=not missing, what=what)
    level: Literal["better", "worse", "unclear", "open"]
    details = []
    if not rows:
        level, headline = "open", f"{name} was not compared with any baseline on {metric}."
        details.append("Whether its figure is good stays open: a figure means little without that of a simple rival.")
    elif worse:
        level, headline = "worse", f"{name} is worse than {against(worse)} on {metric}."
        details.append(f"Largest shortfall: {_difference(worse[0])}.")
    elif unclear:
        names = against(unclear, negated=True)
        level, headline = "unclear", f"{name} is not distinguishable from {names} on {metric}."
    else:
        level, headline = "better", f"{name} beats {against(better)} on {metric}."
        details.append(f"{'Gain' if len(better) == 1 else 'Smallest gain'}: {_difference(better[0])}.")
    if unclear:
        if worse:
            details.append(f"Not distinguishable from {_names(unclear)}.")
        which = "Difference" if len(unclear) == 1 else "Least favourable such difference"
        details.append(f"{which}: {_difference(unclear[0])}. {_NOT_EQUAL}")
        details += _reach(unclear[0])
    if better and level != "better":
        details.append(f"It does beat {_names(better)}.")
    if rows and missing:
        details.append(f"Not compared with {join_names(missing)}.")
    details += _oracle_details(result, model)
    return Verdict(level, headline, details)


def _between_runs(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Verdict:
    metric = result["primary_metric"]
    rows = [row for row in rows if row.get("system")]
    if not rows:
        return Verdict("open", f"The runs were not compared on {metric}.", [])
    groups = {key: group[::-1] for key, group in _grouped(rows).items()}  # the most favourable first
    level: Outcome = next(level for level in ("better", "unclear", "worse") if groups[level])
    words = {"better": "better than", "unclear": "not distinguishable from", "worse": "worse than"}
    first, clauses = rows[0]["baseline"], []
    for key, group in groups.items():
        if group:
            names = join_names([row["system"] for row in group])
            clauses.append(f"{names} {'is' if len(group) == 1 else 'are'} {words[key]} {first}")
    detailed = [row for group in groups.values() for row in group][:_MAX_RUNS]
    details = [text for row in detailed for text in _run(row)]
    if len(rows) > _MAX_RUNS:
        details.append(f"{len(rows) - _MAX_RUNS} more comparisons are in the table below.")
    return Verdict(level, f"{'; '.join(clauses)} on {metric}.", details)


def _run(row: Mapping[str, Any]) -> list[str]:
    """Size and certainty of the difference to the first run, by kind of user, and what it means in the shop."""
    figure = format_figure(row.get("difference"), signed=True).replace("–", "undefined")
    size = " ".join(f"{row['system']} minus {row['baseline']}: {figure} {format_interval(row, signed=True)}".split())
    if is_finite(row.get("relative")):
        size += f", which is {format_percent(row['relative'], signed=True)} of {row['baseline']}'s figure"
    if is_finite(row.get("p_holm")):
        size += f"; p {'' if row['p_holm'] < 0.001 else '= '}{format_p(row['p_holm'])} after Holm's correction"
    unclear = outcome(row) == "unclear"
    sentences = [f"{size}." + (f" {_NOT_EQUAL}" if unclear else "")]
    if unclear:
        sentences += _reach(row)
    keys = ("equivalence", "for_whom", "shop") if unclear else ("for_whom", "shop")
    return sentences + [sentence(row[key]) for key in keys if row.get(key)]


def _grouped(rows: Sequence[Mapping[str, Any]]) -> dict[Outcome, list[Mapping[str, Any]]]:
    """Rows by outcome, the least favourable first, for metrics of either direction."""
    groups: dict[Outcome, list[Mapping[str, Any]]] = {"better": [], "unclear": [], "worse": []}
    for row in sorted(rows, key=_gain):
        groups[outcome(row)].append(row)
    return groups


def _gain(row: Mapping[str, Any]) -> float:
    difference = number(row.get("difference"))
    return math.inf if math.isnan(difference) else -difference if lower_is_better(row["metric"]) else difference


def _reach(row: Mapping[str, Any]) -> list[str]:
    """The smallest difference that these users could show, and how many users the one found would need."""
    sentences = []
    if is_finite(row.get("minimal_detectable")):
        smallest = format_figure(row["minimal_detectable"])
        sentences.append(f"A true difference below about {smallest} would probably not be detected with these users.")
    if is_finite(row.get("users_needed")):
        users = format_count(row["users_needed"])
        sentences.append(f"To detect a difference of the size found, about {users} users would be needed.")
    return sentences


def _difference(row: Mapping[str, Any]) -> str:
    """`+0.0120 [+0.0100, +0.0140] against item-to-item`."""
    figure = format_figure(row.get("difference"), signed=True).replace("–", "undefined")
    return " ".join(f"{figure} {format_interval(row, signed=True)} against {row['baseline']}".split())


def _names(
    rows: Sequence[Mapping[str, Any]],
    *,
    all_of: Sequence[Mapping[str, Any]] = (),
    complete: bool = True,
    negated: bool = False,
    what: str = "baseline",
) -> str:
    """The rivals by name, or "all baselines" where `rows` are `all_of` the comparisons."""
    if len(rows) < len(all_of) or not all_of:
        return join_names([row["baseline"] for row in rows])
    if len(rows) == 1:
        return f"{rows[0]['baseline']}, the only {what}{'' if complete else ' it was compared with'},"
    if len(rows) == 2:
        every = f"either {what}" if negated else f"both {what}s"
    else:
        every = f"any of the {len(rows)} {what}s" if negated else f"all {len(rows)} {what}s"
    return every if complete else f"{every} it was compared with"


def _oracle_details(result: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    metric = result["primary_metric"]
    sentences = []
    for system in result["systems"]:
        share = mean_of(model, metric) / (mean_of(system, metric) or math.nan)
        if system.get("kind") == "ceiling" and is_finite(share) and not lower_is_better(metric):
            oracle = f"{system['name']}, an oracle that uses the known truth"
            sentences.append(f"It reaches {format_percent(share)} of {oracle}.")
    return sentences
