"""An evaluation as text for the terminal: the figures with intervals, the comparisons and the verdict; and lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from seqrec_jax.evaluation.report.verdict import is_comparison, verdict
from seqrec_jax.reporting.terminal import WIDTH, figure_text, frame_table, interval_text, labelled
from seqrec_jax.reporting.wording import shorten

_METRICS = ("ndcg", "hit_rate", "recall", "mrr")
_MOST_COLUMNS = 3
_LONGEST_NAME = 40


def evaluation_table(result: Mapping[str, Any]) -> str:
    """The figures of every system with 95 % intervals, the protocol they hold under, and the comparisons.

    Args:
      result: the content of `metrics.json`.

    Returns:
      Lines of at most `WIDTH` characters.
    """
    return "\n".join(
        [*_protocol(result), "", *_figures(result), *_ties(result), *_comparisons(result), *_words(result)]
    )


def recommendation_table(table: pd.DataFrame, items: pd.DataFrame, *, max_rows: int = 200) -> str:
    """Lists as text, with titles where the catalogue has them.

    Args:
      table: `user_id`, `rank`, `item_id` and `score`, as `Recommendations` has them.
      items: the catalogue, with `item_id` and perhaps `title`.
      max_rows: number of rows shown.
    """
    if table.empty:
        return "nothing is left to recommend"
    shown = table.head(max_rows)
    if "title" in items:
        shown = shown.merge(items[["item_id", "title"]], on="item_id", how="left").fillna({"title": ""})
    left = len(table) - len(shown)
    return frame_table(shown, numbers=("rank", "score")) + (
        f"\n… {left:,} more rows; --output writes them all" if left else ""
    )


def _protocol(result: Mapping[str, Any]) -> Iterator[str]:
    protocol, model, primary = result["protocol"], result["systems"][0], result["primary_metric"]
    unreachable = protocol["unreachable_targets"]
    reachable = figure_text(model["metrics"][primary]["reachable_mean"])
    rows = {
        "dataset": f"{protocol['dataset']} ({protocol['fingerprint']}), {result['stage']} stage",
        "protocol": f"fingerprint {protocol['protocol_fingerprint']}; figures under another one are not comparable",
        "split": protocol["split"],
        "users": f"{protocol['users']:,} with {protocol['targets']:,} targets ({protocol['targets_per_user']})",
        "candidates": f"{protocol['candidates']}; seen items {protocol['seen_items']}",
        "misses": f"{unreachable:,} of these targets cannot be in a list of {_name(model)} and count as misses; "
        f"{primary} over the users without such targets: {reachable}",
        "tie rule": protocol["tie_rule"],
        "figures": f"mean over users [{protocol['intervals']}]",
        "speed": f"{_name(model)} ranked all candidates for {model['users_per_second']:,.0f} users a second",
    }
    if not unreachable:
        del rows["misses"]
    for name, text in rows.items():
        yield from labelled(name, text)


def _figures(result: Mapping[str, Any]) -> Iterator[str]:
    """The table, without columns that equal an earlier one for every system."""
    systems, primary = result["systems"], result["primary_metric"]
    k = primary.split("@")[1] if primary[:8] != "accuracy" and "@" in primary else "10"
    columns: dict[str, list[str]] = {}
    for name in dict.fromkeys([primary, *(f"{metric}@{k}" for metric in _METRICS), "auc"]):
        cells = [interval_text(system["metrics"].get(name)) for system in systems]
        if any(cells) and cells not in columns.values():
            columns[name] = cells
    columns = dict(list(columns.items())[:_MOST_COLUMNS])
    width = max(len(_name(system)) for system in systems) + 1
    yield f"{'':<{width}}" + "".join(f"{name:>26}" for name in columns)
    for row, system in enumerate(systems):
        yield f"{_name(system):<{width}}" + "".join(f"{cells[row]:>26}" for cells in columns.values())


def _ties(result: Mapping[str, Any]) -> Iterator[str]:
    """The best and worst case of ties, for the systems where they differ."""
    primary, targets = result["primary_metric"], result["protocol"]["targets"]
    for system in result["systems"]:
        worst, best = (figure_text(system["ties"][name]) for name in ("worst", "best"))
        if worst != best:
            share = system["ties"]["tied_targets"] / max(1, targets)
            text = f"{_name(system)}: {share:.0%} of the targets tie, {primary} {worst} if all were lost, {best} if won"
            yield from labelled("ties", text)


def _comparisons(result: Mapping[str, Any]) -> Iterator[str]:
    rows = result["comparisons"]
    if not rows:
        return
    yield ""
    comparing = is_comparison(result)
    who, several = "system" if comparing else "baseline", len({row["metric"] for row in rows}) > 1
    what = f"minus {rows[0]['baseline']}" if comparing else f"{_name(result['systems'][0])} minus each other system"
    what += "" if several else f", {rows[0]['metric']}"
    text = (
        f"{what}, paired by user, p after Holm's correction; last, the smallest difference detectable with these users:"
    )
    yield from textwrap.wrap(text, WIDTH)
    names = [f"{row[who]}, {row['metric']}" if several else row[who] for row in rows]
    width = min(max(map(len, names)), _LONGEST_NAME) + 1
    for name, row in zip(names, rows, strict=True):
        interval = interval_text({"mean": row["difference"], "low": row["low"], "high": row["high"]}, sign="+")
        p = row["p_holm"]
        probability = "undefined" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
        seen = figure_text(row["minimal_detectable"])
        yield f"{shorten(name, _LONGEST_NAME):<{width}}{interval:>29}   {probability:<10}  {seen:>9}"


def _words(result: Mapping[str, Any]) -> Iterator[str]:
    """Warnings, the findings of the audit, and the verdict."""
    yield ""
    for warning in result["warnings"]:
        yield from labelled("WARNING", warning)
    for found in result.get("audit", []):
        if found["severity"] != "info":
            yield from labelled(found["severity"], found["text"])
    words = verdict(result)
    yield from labelled("verdict", " ".join([words.headline, *words.details]))


def _name(system: Mapping[str, Any]) -> str:
    return shorten(system["name"], _LONGEST_NAME)
