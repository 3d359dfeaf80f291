"""The tables of docs/protocols.md, written from benchmarks/results/protocols.json by benchmarks/protocols.py.

Each table stands in the page below a comment with its name, such as `<!-- figures online_retail -->`, and ends with the
first empty line. The text around the tables is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PAGE = Path("docs/protocols.md")
EVERYBODY = "all systems"  # stands under `model` in a row that compares them
RULES = {"leave_one_out": "leave one out", "global_timeline": "timeline"}
FINDINGS = {
    "own_future": "trained on the user's own later events",
    "later_events": "trained on events after the recommendation",
    "unborn_items": "candidates that did not exist yet",
    "ambiguous_targets": "target shares its time with other events",
    "unreachable_targets": "targets that cannot be in a list",
    "users_left_out": "users left out",
}
MISSING = "not yet"


def write_page(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Replace every table of the page that is there by one of these rows."""
    if not page.exists():
        return
    makers: dict[str, Callable[..., list[str]]] = {
        "figures": figures_table,
        "protocols": protocols_table,
        "winners": winners_table,
        "leakage": leakage_table,
        "audit": audit_table,
    }

    def table(match: re.Match[str]) -> str:
        name, *logs = match["name"].split()
        return "\n".join([match["line"], *makers[name](rows, *logs), "", ""])

    text = page.read_text(encoding="utf-8")
    pattern = rf"(?m)^(?P<line><!-- (?P<name>(?:{'|'.join(makers)})[ \w]*) -->)\n(?:.+\n)*\n?"
    page.write_text(re.sub(pattern, table, text).rstrip() + "\n", encoding="utf-8")


def figures_table(rows: Sequence[Row], log: str) -> list[str]:
    """Under the main protocols of both rules: two figures with intervals, and models against the strongest baseline."""
    header = ["system"]
    for rule in RULES.values():
        header += [f"{rule}: NDCG@10", "HR@10", "NDCG@10 minus the strongest baseline"]
    lines = []
    for name in systems(rows, log):
        cells = [name]
        for rule in RULES:
            row = find(rows, log, rule, "main", name)
            if row is None:
                cells += [MISSING, "", ""]
                continue
            compared = [entry for entry in row["comparisons"] if entry["metric"] == "ndcg@10"]
            cells += [interval(row["figures"][metric]) for metric in ("ndcg@10", "hit_rate@10")]
            cells.append(difference(compared[0]) if compared else "")
        lines.append(cells)
    return markdown(header, lines)


def protocols_table(rows: Sequence[Row], log: str) -> list[str]:
    """NDCG@10 of every system under every protocol."""
    kinds = [row for row in protocols(rows, log) if not row["variant"].startswith("ties")]
    header = ["system", *(label(row) for row in kinds)]
    lines = []
    for name in systems(rows, log):
        means = [row["figures"].get(name, {}).get("ndcg@10") for row in kinds]
        best = [max(figure["ndcg@10"]["mean"] for figure in row["figures"].values()) for row in kinds]
        cells = ["" if one is None else f"{one['mean']:.3f}" for one in means]
        cells = [
            f"**{cell}**" if one and one["mean"] == top else cell
            for cell, one, top in zip(cells, means, best, strict=True)
        ]
        lines.append([name, *cells])
    return markdown(header, lines)


def winners_table(rows: Sequence[Row]) -> list[str]:
    """Who is first under the main protocols and those that change the order of systems, how surely, and what swaps."""
    header = ["log", "protocol", "first", "ahead of", "by", "not told from the first", "Kendall's tau", "clear swaps"]
    lines = []
    for log in logs(rows):
        for row in protocols(rows, log):
            told = row["rule"] not in RULES or row["variant"].startswith("ties") or "fitted on" in row["variant"]
            if told or (row["variant"] != "main" and row["kendall_tau"] > 0.999):
                continue
            winner = row["winner"]
            swaps = [f"{swap['better_here']} over {swap['better']}" for swap in row.get("swapped", ()) if swap["clear"]]
            apart = winner.get("not_told_apart")
            lines.append(
                [
                    log,
                    label(row),
                    winner["name"],
                    winner["runner_up"],
                    interval(winner["difference"], signed=True) if "difference" in winner else "",
                    "" if apart is None else ", ".join(apart) or "nobody",
                    f"{row['kendall_tau']:.2f}" if "kendall_tau" in row and row["variant"] != "main" else "",
                    "; ".join(swaps[:2]) + (f"; {len(swaps) - 2} more" if len(swaps) > 2 else ""),
                ]
            )
    return markdown(header, lines)


def leakage_table(rows: Sequence[Row]) -> list[str]:
    """NDCG@10 of the next basket, of baselines that knew what came before it and of those that knew what came later."""
    found = [row for row in rows if "without_later_events" in row]
    found.sort(key=lambda row: logs(rows).index(row["data"]))
    header = [
        "system",
        *(f"{row['data']}: {what}" for row in found for what in ("before the cut", "more with later events")),
    ]
    lines = []
    for name in systems(rows, found[0]["data"])[:5] if found else ():
        cells = [name]
        for row in found:
            clean = row["without_later_events"][name]["ndcg@10"]
            compared = next(one for one in row["comparisons"] if one["system"] == name)
            cells += [f"{clean['mean']:.4f}", difference(compared)]
        lines.append(cells)
    return markdown(header, lines)


def audit_table(rows: Sequence[Row]) -> list[str]:
    """Shares and largest changes of what the audit found for the best model, by log and rule."""
    found = [row for log in logs(rows) for row in protocols(rows, log) if row["variant"] == "main" and row.get("audit")]
    header = ["finding", *(f"{row['data']}, {RULES.get(row['rule'], 'random')} ({row['audited']})" for row in found)]
    lines = []
    for key, title in FINDINGS.items():
        cells = [title]
        for row in found:
            entries = [one for one in row["audit"] if one["key"] == key and row["audited"] in one["title"]]
            entries = entries or [one for one in row["audit"] if one["key"] == key and ": " not in one["title"]]
            cells.append(finding(entries[0]) if entries else "")
        if any(cells[1:]):
            lines.append(cells)
    return markdown(header, lines)


def find(rows: Sequence[Row], log: str, rule: str, variant: str, model: str) -> Row | None:
    """The row under these keys."""
    keys = (log, rule, variant, model)
    return next((row for row in rows if (row["data"], row["rule"], row["variant"], row["model"]) == keys), None)


def logs(rows: Sequence[Row]) -> list[str]:
    """Logs that have rows, e-commerce first."""
    order = ("online_retail", "amazon_grocery", "movielens_100k")
    return [log for log in order if any(row["data"] == log for row in rows)]


def protocols(rows: Sequence[Row], log: str) -> list[Row]:
    """Rows of all systems, a protocol each, by rule, the main one first."""
    own = [
        row for row in rows if row["data"] == log and row["model"] == EVERYBODY and row["variant"] != "order of systems"
    ]
    order = [*RULES, "random_ratio"]
    return sorted(own, key=lambda row: (order.index(row["rule"]), row["variant"] != "main", row["variant"]))


def systems(rows: Sequence[Row], log: str) -> list[str]:
    """Names, baselines first."""
    own = [row for row in rows if row["data"] == log and row["model"] != EVERYBODY]
    named = dict.fromkeys(row["model"] for row in sorted(own, key=lambda row: row["kind"]))
    order = ["most popular", "popular in the last 7 days", "last item again", "item to item", "EASE"]
    order += ["gru", "bert4rec", "sasrec", "hstu"]
    return sorted(named, key=lambda name: order.index(name) if name in order else len(order))


def label(row: Row) -> str:
    """Rule and variant in words."""
    rule = RULES.get(row["rule"], "random split")
    return rule if row["variant"] == "main" else f"{rule}, {row['variant']}"


def interval(figure: Row, *, signed: bool = False) -> str:
    """Mean and interval."""
    sign = "+" if signed else ""
    return f"{figure['mean']:{sign}.4f} [{figure['low']:{sign}.4f}, {figure['high']:{sign}.4f}]"


def difference(compared: Row) -> str:
    """A paired difference with its interval, and what it would have taken to see one."""
    p = compared["p_holm"]
    text = interval({**compared, "mean": compared["difference"]}, signed=True)
    return f"{text}, p {'< 0.01' if p < 0.01 else f'= {p:.2f}'}"


def finding(entry: Row) -> str:
    """Share of those concerned and the largest change of the deciding figure."""
    effect = (entry["effect"] or {}).get("ndcg@10")
    return f"{100 * entry['share']:.1f} %" + ("" if effect is None else f", {effect:+.4f}")


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines)]
