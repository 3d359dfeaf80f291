"""The evaluation report: one HTML page without scripts or requests, to be handed to a colleague.

It opens with a verdict in plain words, which `verdict` derives from the paired comparisons; the rest lets the
reader check it. The page's markup and style are in `report.html` beside this file, its charts in `charts.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.charts import (
    SERIES_SIGNS,
    Curve,
    Interval,
    format_figure,
    grouped_chart,
    interval_chart,
    is_finite,
    line_chart,
    load_extra,
    training_curve,
)

SCHEMA_VERSION = 1
LEVEL = 0.05
"""Error level of the verdict, after Holm's correction."""

_MAIN_METRICS = ("ndcg@10", "hit_rate@10", "mrr@10", "recall@10", "mrr", "ndcg@20", "hit_rate@20", "map@10")
_MAX_ROWS = 30  # of a table or chart
_CHART_SYSTEMS, _CEILING_SERIES = 4, len(SERIES_SIGNS) - 1
_SLICES = {  # title and unit of the labels
    "history_length": ("length of the history", "events"),
    "target_popularity": ("popularity of the target in training", "events"),
}


class Verdict(NamedTuple):
    """What the comparisons allow one to say.

    Attributes:
      level: `better` (than every baseline compared), `worse` (than at least one), `unclear` (neither), or
        `open` (nothing was compared).
      headline: one sentence.
      details: further sentences: sizes of the differences, what was not compared, the ceiling.
    """

    level: Literal["better", "worse", "unclear", "open"]
    headline: str
    details: list[str]


def render_report(result: Mapping[str, Any], *, log: Sequence[Mapping], examples: Sequence[Mapping]) -> str:
    """The whole report as one HTML page.

    The same input gives the same bytes. Whatever is absent (log, cleaning, examples, comparisons, a figure
    that is nan or None) is said to be absent. Long tables are cut, and say so.

    Args:
      result: the content of `metrics.json`.
      log: rows of `log.jsonl`, of kind `train` and `validation`; may be empty.
      examples: users with `history`, `targets`, `recommended` and `target_ranks`; may be empty.

    Returns:
      HTML that loads nothing: style and charts are inside, its content policy forbids scripts and requests.

    Raises:
      DataError: another schema version, or no run name, systems or primary metric in `result`.
      MissingExtraError: jinja2 or matplotlib is not installed.
    """
    _check(result)
    jinja2, markupsafe = load_extra("jinja2"), load_extra("markupsafe")
    # Most keys are optional, at any depth; what is required was checked above.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        figure=format_figure,
        gain=lambda value: format_figure(value, signed=True),
        interval=format_interval,
        p_value=_format_p,
        score=lambda value: f"{value:.4g}".replace("-", "−") if is_finite(value) else "–",
        count=_format_count,
        percent=_format_percent,
        short=_shorten,
    )
    source = files("seqrec_jax.evaluation").joinpath("report.html").read_text("utf-8")
    primary = result["primary_metric"]
    curves = _curves(log, primary)
    charts = {key: markupsafe.Markup(svg) for key, svg in _charts(result, curves).items()}
    comparisons = list(result.get("comparisons") or [])
    page = environment.from_string(source).render(
        result=result,
        verdict=verdict(result),
        model=_model(result),
        primary=primary,
        protocol=result.get("protocol") or {},
        warnings=_warnings(result),
        systems=_by_figure(result),
        main_metrics=_main_metrics(result),
        all_metrics=_all_metrics(result),
        best=_best(result),
        comparisons=[row for row in comparisons if row["metric"] == primary],
        more_comparisons=[row for row in comparisons if row["metric"] != primary],
        outcome=lambda row: _outcome(row, lower_is_better=_lower_is_better(row["metric"])),
        slices=_slices(result),
        slice_systems=[(series, SERIES_SIGNS[series], name) for series, name in _chosen(result)],
        curves=curves,
        charts=charts,
        cleaning=_cleaning(result.get("cleaning")),
        examples=examples[:10],
        facts=_model_facts(result.get("model") or {}),
        config=_flatten(result.get("config") or {}),
        level=LEVEL,
        most_rows=_MAX_ROWS,
        is_number=is_finite,
    )
    # JSON can carry a lone surrogate, which has no UTF-8 form; the page must be writable all the same.
    return page.lstrip().encode("utf-8", "replace").decode("utf-8")


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Say in plain words how the model stands against the baselines on the primary metric.

    A difference counts only if its Holm-corrected p-value is below 0.05 and its interval excludes zero; where
    either is missing, it does not. Ceilings, which use what no model knows, are not baselines.

    Args:
      result: the content of `metrics.json`; `comparisons` hold model minus baseline.

    Returns:
      The verdict. It never says that two systems are equal, only that the data does not tell them apart.

    >>> systems = [{"name": "gru", "kind": "model", "metrics": {}}]
    >>> verdict({"primary_metric": "ndcg@10", "systems": systems}).headline
    'gru was not compared with any baseline on ndcg@10.'
    """
    metric, model = result["primary_metric"], _model(result)
    if model is None:
        return Verdict("open", "No trained model is part of this evaluation.", [])
    kinds = {system["name"]: system.get("kind") for system in result["systems"]}
    rows = [
        row
        for row in result.get("comparisons") or []
        if row["metric"] == metric and kinds.get(row["baseline"]) != "ceiling"
    ]
    compared = {row["baseline"] for row in rows}
    missing = [name for name, kind in kinds.items() if kind == "baseline" and name not in compared]
    name, lower_is_better = model["name"], _lower_is_better(metric)
    groups: dict[str, list[Mapping]] = {"better": [], "unclear": [], "worse": []}
    for row in rows:
        groups[_outcome(row, lower_is_better=lower_is_better)].append(row)
    # The hardest baseline first, whichever the direction of the metric.
    for group in groups.values():
        group.sort(key=lambda row: _gain(row, lower_is_better=lower_is_better))
    better, unclear, worse = groups["better"], groups["unclear"], groups["worse"]
    against = partial(_names, all_of=rows, complete=not missing)
    level: Literal["better", "worse", "unclear", "open"]
    details = []
    if not rows:
        level, headline = "open", f"{name} was not compared with any baseline on {metric}."
        details.append("Whether its figure is good stays open: it means little without a simple rival's.")
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
        what = "Difference" if len(unclear) == 1 else "Least favourable such difference"
        details.append(
            f"{what}: {_difference(unclear[0])}. "
            "This does not show that they are equal, only that these users do not tell them apart."
        )
    if better and level != "better":
        details.append(f"It does beat {_names(better)}.")
    if rows and missing:
        details.append(f"Not compared with {_join(missing)}.")
    details += _ceiling_details(result, model)
    return Verdict(level, headline, details)


def format_interval(row: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """`[low, high]` as text, or nothing where it is undefined.

    >>> format_interval({"low": 0.05, "high": 0.06})
    '[0.0500, 0.0600]'
    """
    if not row or not (is_finite(row.get("low")) and is_finite(row.get("high"))):
        return ""
    return f"[{format_figure(row['low'], signed=signed)}, {format_figure(row['high'], signed=signed)}]"


def _check(result: Mapping[str, Any]) -> None:
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"metrics.json: schema_version is {version!r}, this library reads {SCHEMA_VERSION}; evaluate the run again"
        )
    for key in ("run", "primary_metric", "systems"):
        if not result.get(key):
            raise DataError(f"metrics.json: key {key!r} is missing or empty; evaluate the run again")
    for number, system in enumerate(result["systems"]):
        if "name" not in system or "metrics" not in system:
            raise DataError(f"metrics.json: systems[{number}] needs name and metrics, found {sorted(system)}")
    primary = result["primary_metric"]
    if not any(primary in system["metrics"] for system in result["systems"]):
        known = sorted({metric for system in result["systems"] for metric in system["metrics"]})
        raise DataError(f"metrics.json: no system has the primary metric {primary!r}; known are {known}")
    for number, row in enumerate(result.get("comparisons") or []):
        if "baseline" not in row or "metric" not in row:
            raise DataError(f"metrics.json: comparisons[{number}] needs baseline, metric, not {sorted(row)}")


def _number(value: Any) -> float:
    return float(value) if is_finite(value) else math.nan


def _model(result: Mapping[str, Any]) -> Mapping | None:
    return next((system for system in result["systems"] if system.get("kind") == "model"), None)


def _lower_is_better(metric: str) -> bool:
    return metric.partition("@")[0] in ("mean_rank", "rank")


def _mean(system: Mapping, metric: str) -> float:
    return _number((system["metrics"].get(metric) or {}).get("mean"))


def _by_figure(result: Mapping[str, Any]) -> list[Mapping]:
    """Systems from best to worst on the primary metric, undefined ones last, the order given where equal."""
    metric = result["primary_metric"]
    sign = 1 if _lower_is_better(metric) else -1

    def key(system: Mapping) -> float:
        mean = _mean(system, metric)
        return sign * mean if is_finite(mean) else math.inf

    return sorted(result["systems"], key=key)


def _chosen(result: Mapping[str, Any]) -> list[tuple[int, str]]:
    """(series, name) of what the charts of slices show: models, the strongest baselines, one ceiling."""
    ordered = sorted(_by_figure(result), key=lambda system: system.get("kind") != "model")
    ceilings = [system["name"] for system in ordered if system.get("kind") == "ceiling"]
    others = [system["name"] for system in ordered if system.get("kind") != "ceiling"]
    return [*enumerate(others[:_CHART_SYSTEMS]), *((_CEILING_SERIES, name) for name in ceilings[:1])]


def _best(result: Mapping[str, Any]) -> dict[str, float]:
    """Per metric the best figure that a system other than a ceiling has."""
    best: dict[str, float] = {}
    for system in result["systems"]:
        for metric in system["metrics"]:
            mean = _mean(system, metric)
            if system.get("kind") != "ceiling" and is_finite(mean):
                better = min if _lower_is_better(metric) else max
                best[metric] = better(best.get(metric, mean), mean)
    return best


def _all_metrics(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(metric for system in result["systems"] for metric in system["metrics"]))


def _main_metrics(result: Mapping[str, Any]) -> list[str]:
    """Up to four metrics for the main table; one that equals another everywhere says nothing new."""
    known = _all_metrics(result)
    columns: dict[str, list[str]] = {}
    for metric in (result["primary_metric"], *_MAIN_METRICS, *known):
        figures = [format_figure(_mean(system, metric)) for system in result["systems"]]
        if metric in known and metric not in columns and figures not in columns.values():
            columns[metric] = figures
    return list(columns)[:4]


def _gain(row: Mapping, *, lower_is_better: bool) -> float:
    difference = _number(row.get("difference"))
    return math.inf if math.isnan(difference) else -difference if lower_is_better else difference


def _outcome(row: Mapping, *, lower_is_better: bool) -> Literal["better", "worse", "unclear"]:
    p_holm, low, high = (_number(row.get(key)) for key in ("p_holm", "low", "high"))
    if not p_holm < LEVEL or not (low > 0 or high < 0):
        return "unclear"
    return "better" if (low > 0) != lower_is_better else "worse"


def _difference(row: Mapping) -> str:
    """`+0.0120 [+0.0100, +0.0140] against item-to-item`."""
    figure = format_figure(row.get("difference"), signed=True).replace("–", "undefined")
    return " ".join(f"{figure} {format_interval(row, signed=True)} against {row['baseline']}".split())


def _names(
    rows: Sequence[Mapping], *, all_of: Sequence[Mapping] = (), complete: bool = True, negated: bool = False
) -> str:
    """The baselines by name, or "all baselines" where `rows` are `all_of` the comparisons."""
    if len(rows) < len(all_of) or not all_of:
        return _join([row["baseline"] for row in rows])
    if len(rows) == 1:
        return f"{rows[0]['baseline']}, the only baseline{'' if complete else ' it was compared with'},"
    if len(rows) == 2:
        every = "either baseline" if negated else "both baselines"
    else:
        every = f"any of the {len(rows)} baselines" if negated else f"all {len(rows)} baselines"
    return every if complete else f"{every} it was compared with"


def _join(names: Sequence[str]) -> str:
    shown = list(names[:4]) + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _ceiling_details(result: Mapping[str, Any], model: Mapping) -> list[str]:
    metric = result["primary_metric"]
    sentences = []
    for system in result["systems"]:
        share = _mean(model, metric) / (_mean(system, metric) or math.nan)
        if system.get("kind") == "ceiling" and is_finite(share) and not _lower_is_better(metric):
            ceiling = f"{system['name']}, a ceiling that uses the known truth"
            sentences.append(f"It reaches {_format_percent(share)} of {ceiling}.")
    return sentences


def _warnings(result: Mapping[str, Any]) -> list[str]:
    """The run's own warnings, and what the figures themselves give reason to say."""
    notes = []
    if result.get("stage") == "validation":
        notes.append(
            "These are validation figures, by which training chose its checkpoint; expect less on the test part."
        )
    protocol = result.get("protocol") or {}
    unreachable, targets = protocol.get("unreachable_targets") or 0, protocol.get("targets") or 0
    if targets and unreachable / targets > 0.05:
        notes.append(
            f"{_format_percent(unreachable / targets)} of the targets could not be ranked by the model "
            "(never seen in training) and count as misses."
        )
    model = _model(result)
    ties = (model or {}).get("ties") or {}
    if targets and (ties.get("tied_targets") or 0) / targets > 0.01:
        notes.append(
            f"{_format_count(ties['tied_targets'])} targets of the model are tied with other items; "
            "see best and worst case."
        )
    return notes + [str(text) for text in result.get("warnings") or []]


def _interval(label: str, row: Mapping | None, *, key: str = "mean", series: int | None = None) -> Interval:
    mean, low, high = (_number((row or {}).get(name)) for name in (key, "low", "high"))
    return Interval(label, mean, low, high, series=series)


def _charts(result: Mapping[str, Any], curves: Mapping[str, Curve]) -> dict[str, str]:
    primary, charts = result["primary_metric"], {}
    series = {"model": 0, "ceiling": _CEILING_SERIES}
    rows = []
    for system in _by_figure(result)[:_MAX_ROWS]:
        kind, label = system.get("kind", ""), _shorten(system["name"], 20)
        label += " *" if kind == "ceiling" else ""
        rows.append(_interval(label, system["metrics"].get(primary), series=series.get(kind)))
    if any(is_finite(row.mean) for row in rows):
        charts["primary"] = interval_chart(rows, name="chart-primary", title=f"{primary} by system", label=primary)
    comparisons = [row for row in result.get("comparisons") or [] if row["metric"] == primary][:_MAX_ROWS]
    if comparisons:
        rows = [_interval(str(row["baseline"]), row, key="difference", series=0) for row in comparisons]
        title = f"difference in {primary}, model minus baseline"
        charts["gains"] = interval_chart(rows, name="chart-gains", title=title, label=title, signed=True)
    for number, (kind, slice) in enumerate(_slices(result).items()):
        groups = []
        for group in slice["bins"]:
            systems = group["systems"]
            rows = [
                _interval(name, systems.get(name), series=place) for place, name in _chosen(result) if name in systems
            ]
            label = f"{_shorten(group['label'], 14)} {slice['unit']}"
            groups.append((f"{label}\n{_format_count(group.get('users'))} users", rows))
        charts[kind] = grouped_chart(
            groups, name=f"chart-slice-{number}", title=f"{primary} by {slice['title']}", label=primary
        )
    return charts | {key: line_chart(curve, name=f"chart-{key}") for key, curve in curves.items()}


def _slices(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    slices = {}
    for kind, bins in (result.get("slices") or {}).items():
        if bins:
            title, unit = _SLICES.get(kind, (kind.replace("_", " "), ""))
            slices[kind] = {"title": title, "unit": unit, "bins": bins[:_MAX_ROWS]}
    return slices


def _curves(log: Sequence[Mapping], primary: str) -> dict[str, Curve]:
    """Training loss and validation metric; a resumed run logs some steps twice, of which the last counts."""

    def points(kind: str, key: str) -> dict[int, float]:
        return {row["step"]: row[key] for row in log if row.get("kind") == kind and key in row}

    best: Literal["highest", "lowest"] = "lowest" if _lower_is_better(primary) else "highest"
    curves = {
        "loss": training_curve(points("train", "loss"), name="Training loss"),
        "validation": training_curve(points("validation", primary), name=f"{primary} on validation users", best=best),
    }
    return {key: curve for key, curve in curves.items() if curve is not None}


def _cleaning(cleaning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Counts per reason, largest first, with a few examples, and what the counts leave unexplained."""
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
    """The model's own entries as (name, value) with units a reader knows."""
    facts = []
    for key, value in model.items():
        name, text = key.replace("_", " "), str(value)
        if is_finite(value) and not isinstance(value, bool):
            whole = isinstance(value, int) or abs(value) >= 100
            text = _format_count(value) if whole else format_figure(value)
        if key == "bytes" and is_finite(value):
            name, text = "size", f"{value / 1e6:,.1f} MB"
        if key == "training_seconds" and is_finite(value):
            name, text = "training time", f"{value // 60:.0f} min {value % 60:.0f} s"
        facts.append((name, text))
    return facts


def _flatten(config: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, prefix=f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def _format_p(value: Any) -> str:
    return "–" if not is_finite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _format_count(value: Any) -> str:
    return f"{value:,.0f}" if is_finite(value) else "–"


def _format_percent(value: Any) -> str:
    return f"{100 * value:.{1 if abs(value) < 0.1 else 0}f} %" if is_finite(value) else "–"


def _shorten(value: Any, width: int = 120) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"
