"""The evaluation report: one HTML page without scripts or requests, to be handed to a colleague.

It opens with a verdict in plain words (`verdict.py`), the protocol and the findings of the audit; the rest lets the
reader check them. The markup is in `report.html` beside this file, which extends the frame of `reporting/page.html`.
The sections of the other parts of the evaluation are drawn by `reporting`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.report.verdict import (
    LEVEL,
    first_model,
    is_comparison,
    lower_is_better,
    mean_of,
    outcome,
    verdict,
)
from seqrec_jax.evaluation.summary import SCHEMA_VERSION
from seqrec_jax.reporting.blocks import MAX_ROWS, Numbers, tabulate
from seqrec_jax.reporting.charts import Interval, grouped_chart, interval_chart
from seqrec_jax.reporting.curves import Curve, line_chart, training_curve
from seqrec_jax.reporting.page import check_sections, draw_sections, fill_template
from seqrec_jax.reporting.svg import SERIES_SIGNS
from seqrec_jax.reporting.wording import (
    format_count,
    format_figure,
    format_percent,
    is_finite,
    join_names,
    number,
    sentence,
    shorten,
)

_MAIN_METRICS = ("ndcg@10", "hit_rate@10", "mrr@10", "recall@10", "mrr", "ndcg@20", "hit_rate@20", "map@10")
_CHART_SYSTEMS, _ORACLE_SERIES, _OTHER_SERIES = 4, len(SERIES_SIGNS) - 1, 1
_SLICES = {  # title and unit of the labels
    "history_length": ("length of the history", "events"),
    "target_popularity": ("popularity of the target in training", "events"),
    "popularity_decile": ("popularity of the target, from the most popular tenth of the items", ""),
    "target_age_days": ("age of the target", "days"),
    "time_since_last_event": ("time since the last event", ""),
    "target_behavior": ("behaviour of the target", ""),
    "last_behavior": ("behaviour of the last event", ""),
    "repeat": ("whether the target is an item of the history", ""),
    "target_category": ("category of the target", ""),
}
_SEVERITIES = ("error", "warning", "info")
_CARD = {
    "intended_use": "Intended use",
    "data": "Data",
    "training": "Training",
    "evaluation": "Evaluation",
    "limits": "Limits",
}


def render_report(
    result: Mapping[str, Any], *, log: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]]
) -> str:
    """The report of an evaluation or of a comparison of runs, as one HTML page.

    The same input gives the same bytes. The page states what is absent (log, cleaning, examples, comparisons, a figure
    that is nan or None) and what is cut from long tables.

    Args:
      result: the content of `metrics.json`. Required are `schema_version`, `run`, `primary_metric` and `systems`;
        `kind` is `comparison` where runs are compared with the first system. Optional are
        `protocol` (with `protocol_fingerprint` and `card`), `fingerprints_differ`, `fingerprints`, `audit`,
        `comparisons`, `slices`, `sections`, `cleaning`, `model`, `config`, `model_card`, `warnings`.
      log: rows of `log.jsonl`, of kind `train` and `validation`; may be empty.
      examples: users with `history`, `targets`, `recommended` and `target_ranks`, and perhaps `other`: a second
        system's `name`, `recommended` and `target_ranks`; may be empty.

    Returns:
      HTML that loads nothing: style and charts are inside, its content policy forbids scripts and requests.

    Raises:
      DataError: another schema version, a required key is missing, or a section is not one.
      MissingExtraError: jinja2 or matplotlib is not installed.
    """
    _check(result)
    primary = result["primary_metric"]
    curves = _curves(log, primary)
    comparisons = list(result.get("comparisons") or [])
    return fill_template(
        "seqrec_jax.evaluation.report",
        "report.html",
        result=result,
        title=result.get("run") or " and ".join(str(system["name"]) for system in result["systems"]),
        comparing=is_comparison(result),
        verdict=verdict(result),
        model=first_model(result),
        has_rivals=any(system.get("kind") == "other" for system in result["systems"]),
        primary=primary,
        protocol=result.get("protocol") or {},
        card=_flatten((result.get("protocol") or {}).get("card") or {}),
        findings=_findings(result.get("audit")),
        warnings=_warnings(result),
        systems=_by_figure(result),
        main_metrics=_main_metrics(result),
        all_metrics=_all_metrics(result),
        best=_best(result),
        comparisons=[row for row in comparisons if row["metric"] == primary],
        more_comparisons=[row for row in comparisons if row["metric"] != primary],
        runs=[system for system in result["systems"] if system.get("kind") in ("model", "other")][:_CHART_SYSTEMS],
        outcome=outcome,
        remarks=_remarks,
        slices=_slices(result),
        slice_systems=[(series, SERIES_SIGNS[series], name) for series, name in _chosen(result)],
        sections=draw_sections(result.get("sections") or []),
        curves=curves,
        curve_numbers={key: _curve_numbers(curve) for key, curve in curves.items()},
        charts=_charts(result, curves),
        cleaning=_cleaning(result.get("cleaning")),
        examples=examples[:10],
        facts=_model_facts(result.get("model") or {}),
        config=_flatten(result.get("config") or {}),
        model_card=_model_card(result.get("model_card")),
        level=LEVEL,
        data_file="metrics.json",
    )


def _check(result: Mapping[str, Any]) -> None:
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"metrics.json: schema_version is {version!r}, this library reads {SCHEMA_VERSION}; evaluate the run again"
        )
    required = ("primary_metric", "systems") if is_comparison(result) else ("run", "primary_metric", "systems")
    for key in required:
        if not result.get(key):
            raise DataError(f"metrics.json: key {key!r} is missing or empty; evaluate the run again")
    for place, system in enumerate(result["systems"]):
        if "name" not in system or "metrics" not in system:
            raise DataError(f"metrics.json: systems[{place}] needs name and metrics, found {sorted(system)}")
    primary = result["primary_metric"]
    if not any(primary in system["metrics"] for system in result["systems"]):
        known = sorted({metric for system in result["systems"] for metric in system["metrics"]})
        raise DataError(f"metrics.json: no system has the primary metric {primary!r}; known are {known}")
    for place, row in enumerate(result.get("comparisons") or []):
        if "baseline" not in row or "metric" not in row:
            raise DataError(f"metrics.json: comparisons[{place}] needs baseline, metric, not {sorted(row)}")
    check_sections(result.get("sections") or [], where="metrics.json: sections")


def _by_figure(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Systems from best to worst on the primary metric, undefined ones last, the order given where equal."""
    metric = result["primary_metric"]
    sign = 1 if lower_is_better(metric) else -1

    def key(system: Mapping[str, Any]) -> float:
        mean = mean_of(system, metric)
        return sign * mean if is_finite(mean) else math.inf

    return sorted(result["systems"], key=key)


def _chosen(result: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(series, name) of the systems in the charts of slices: models, the strongest others, one oracle."""
    ordered = sorted(_by_figure(result), key=lambda system: system.get("kind") != "model")
    oracles = [system["name"] for system in ordered if system.get("kind") == "ceiling"]
    others = [system["name"] for system in ordered if system.get("kind") != "ceiling"]
    return [*enumerate(others[:_CHART_SYSTEMS]), *((_ORACLE_SERIES, name) for name in oracles[:1])]


def _best(result: Mapping[str, Any]) -> dict[str, float]:
    """The best figure of each metric over all systems but oracles."""
    best: dict[str, float] = {}
    for system in result["systems"]:
        for metric in system["metrics"]:
            mean = mean_of(system, metric)
            if system.get("kind") != "ceiling" and is_finite(mean):
                better = min if lower_is_better(metric) else max
                best[metric] = better(best.get(metric, mean), mean)
    return best


def _all_metrics(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(metric for system in result["systems"] for metric in system["metrics"]))


def _main_metrics(result: Mapping[str, Any]) -> list[str]:
    """Up to four metrics for the main table, without those that equal an earlier one for every system."""
    known = _all_metrics(result)
    columns: dict[str, list[str]] = {}
    for metric in (result["primary_metric"], *_MAIN_METRICS, *known):
        figures = [format_figure(mean_of(system, metric)) for system in result["systems"]]
        if metric in known and metric not in columns and figures not in columns.values():
            columns[metric] = figures
    return list(columns)[:4]


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(names, sentences) beside the figures of comparisons; the same text is written once, for all its names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        text = " ".join(sentence(row[key]) for key in ("equivalence", "for_whom", "shop") if row.get(key))
        if text:
            names.setdefault(text, []).append(str(row.get("system") or row["baseline"]))
    return [(join_names(list(dict.fromkeys(found))), text) for text, found in names.items()]


def _findings(audit: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """The audit's findings, the most severe first; None where there was no audit."""
    if audit is None:
        return None
    findings = []
    for finding in audit:
        severity, effect = finding.get("severity"), finding.get("effect")
        if isinstance(effect, Mapping):
            effect = ", ".join(f"{format_figure(value, signed=True)} on {metric}" for metric, value in effect.items())
        findings.append(
            {
                **finding,
                "severity": severity if severity in _SEVERITIES else "warning",
                "effect": format_figure(effect, signed=True) if is_finite(effect) else effect,
            }
        )
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))


def _warnings(result: Mapping[str, Any]) -> list[str]:
    """The run's own warnings, after those that follow from the figures."""
    notes = []
    if result.get("stage") == "validation":
        notes.append(
            "These are validation figures, by which training chose its checkpoint; expect lower ones on the test part."
        )
    protocol = result.get("protocol") or {}
    unreachable, targets = protocol.get("unreachable_targets") or 0, protocol.get("targets") or 0
    if targets and unreachable / targets > 0.05:
        notes.append(
            f"{format_percent(unreachable / targets)} of the targets could not be ranked by the model "
            "(not seen in training) and count as misses."
        )
    ties = (first_model(result) or {}).get("ties") or {}
    if targets and (ties.get("tied_targets") or 0) / targets > 0.01:
        notes.append(
            f"{format_count(ties['tied_targets'])} targets of the model are tied with other items; "
            "see best and worst case."
        )
    return notes + [str(text) for text in result.get("warnings") or []]


def _interval(label: str, row: Mapping[str, Any] | None, *, key: str = "mean", series: int | None = None) -> Interval:
    mean, low, high = (number((row or {}).get(name)) for name in (key, "low", "high"))
    return Interval(label, mean, low, high, series=series)


def _charts(result: Mapping[str, Any], curves: Mapping[str, Curve]) -> dict[str, str]:
    primary, charts = result["primary_metric"], {}
    series = {"model": 0, "ceiling": _ORACLE_SERIES, "other": _OTHER_SERIES}
    rows = []
    for system in _by_figure(result)[:MAX_ROWS]:
        kind, label = system.get("kind", ""), shorten(system["name"], 20)
        label += " *" if kind == "ceiling" else ""
        rows.append(_interval(label, system["metrics"].get(primary), series=series.get(kind)))
    if any(is_finite(row.mean) for row in rows):
        charts["primary"] = interval_chart(rows, name="chart-primary", title=f"{primary} by system", label=primary)
    comparisons = [row for row in result.get("comparisons") or [] if row["metric"] == primary][:MAX_ROWS]
    if comparisons:
        rows = [
            _interval(str(row.get("system") or row["baseline"]), row, key="difference", series=0)
            for row in comparisons
        ]  # fmt: skip
        against = f"run minus {shorten(comparisons[0]['baseline'], 20)}"
        title = f"difference in {primary}, {against if is_comparison(result) else 'model minus baseline'}"
        charts["gains"] = interval_chart(rows, name="chart-gains", title=title, label=title, signed=True)
    for place, (kind, slice) in enumerate(_slices(result).items()):
        groups = []
        for group in slice["bins"]:
            systems = group["systems"]
            rows = [
                _interval(name, systems.get(name), series=place) for place, name in _chosen(result) if name in systems
            ]
            label = f"{shorten(group['label'], 20)} {slice['unit']}"
            groups.append((f"{label}\n{format_count(group.get('users'))} users", rows))
        charts[kind] = grouped_chart(
            groups, name=f"chart-slice-{place}", title=f"{primary} by {slice['title']}", label=primary
        )
    return charts | {key: line_chart(curve, name=f"chart-{key}") for key, curve in curves.items()}


def _slices(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    slices = {}
    for kind, bins in (result.get("slices") or {}).items():
        if bins:
            title, unit = _SLICES.get(kind, (kind.replace("_", " "), ""))
            slices[kind] = {"title": title, "unit": unit, "bins": bins[:MAX_ROWS]}
    return slices


def _curves(log: Sequence[Mapping[str, Any]], primary: str) -> dict[str, Curve]:
    """Training loss and validation metric; of steps that a resumed run logs twice, the later row counts."""

    def points(kind: str, key: str) -> dict[int, float | None]:
        return {row["step"]: row[key] for row in log if row.get("kind") == kind and key in row}

    best: Literal["highest", "lowest"] = "lowest" if lower_is_better(primary) else "highest"
    curves = {
        "loss": training_curve(points("train", "loss"), name="Training loss"),
        "validation": training_curve(points("validation", primary), name=f"{primary} on validation users", best=best),
    }
    return {key: curve for key, curve in curves.items() if curve is not None}


def _curve_numbers(curve: Curve) -> Numbers:
    rows = [[f"{step:,.0f}", value] for step, value in zip(curve.steps, curve.values, strict=True)]
    return tabulate(["training step", curve.name], rows, evenly=True)


def _cleaning(cleaning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts by reason, largest first, with a few examples, and the rows that the counts do not explain."""
    if cleaning is None:
        return None
    examples, dropped = cleaning.get("examples") or {}, cleaning.get("dropped") or {}
    read, kept = cleaning.get("rows_read") or 0, cleaning.get("rows_kept") or 0
    reasons = [
        {"reason": reason, "count": dropped[reason], "share": dropped[reason] / read if read else math.nan}
        | {"rows": [list(row.items())[:8] for row in (examples.get(reason) or [])[:3]]}
        for reason in sorted(dropped, key=lambda reason: -dropped[reason])
        if dropped[reason]
    ]
    kept_share = kept / read if read else math.nan
    unexplained = read - kept - sum(dropped.values())
    span = [_day(cleaning.get(f"{end}_timestamp")) for end in ("first", "last")]
    if cleaning.get("time_kind") != "seconds" or None in span:
        span = [cleaning.get("first_time"), cleaning.get("last_time")]
    return {
        **cleaning,
        "reasons": reasons,
        "kept_share": kept_share,
        "unexplained": unexplained,
        "span": span,
    }


def _day(seconds: Any) -> str | None:
    return str(datetime.fromtimestamp(seconds, UTC).date()) if is_finite(seconds) else None


def _model_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The model's entries as (name, value), sizes in megabytes and times in minutes."""
    facts = []
    for key, value in model.items():
        name, text = key.replace("_", " "), str(value)
        if is_finite(value) and not isinstance(value, bool):
            whole = isinstance(value, int) or abs(value) >= 100
            text = format_count(value) if whole else format_figure(value)
        if key == "bytes" and is_finite(value):
            name, text = "size", f"{value / 1e6:,.1f} MB"
        if key == "training_seconds" and is_finite(value):
            name, text = "training time", f"{value // 60:.0f} min {value % 60:.0f} s"
        facts.append((name, text))
    return facts


def _model_card(card: Mapping[str, Any] | None) -> list[tuple[str, list[str]]]:
    """(heading, paragraphs) of the model card: the usual parts first, then all others."""
    card = card or {}
    ordered = [*(key for key in _CARD if key in card), *(key for key in card if key not in _CARD)]
    parts = []
    for key in ordered:
        texts = [card[key]] if isinstance(card[key], str) else card[key]
        if isinstance(texts, Mapping):
            texts = [f"{name}: {value}" for name, value in _flatten(texts)]
        elif not isinstance(texts, Sequence):
            texts = [] if texts is None else [texts]
        if texts and texts[0] != "":
            parts.append((_CARD.get(key, key.replace("_", " ").capitalize()), [str(text) for text in texts]))
    return parts


def _flatten(config: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, prefix=f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
