"""What the terminal shows: the evaluation's table with intervals, and lists."""

from __future__ import annotations

from typing import Any

import pandas as pd

_COLUMNS = ("ndcg", "hit_rate", "recall", "mrr")


def evaluation_table(result: dict[str, Any]) -> str:
    """The figures of every system with 95 % intervals, the protocol they hold under, and the comparisons."""
    primary, protocol = result["primary_metric"], result["protocol"]
    k = primary.split("@")[1] if "@" in primary else "10"
    wished = dict.fromkeys([primary, *(f"{name}@{k}" for name in _COLUMNS), "auc"])
    names = [name for name in wished if name in result["systems"][0]["metrics"]]
    width = max(len(system["name"]) for system in result["systems"]) + 2
    lines = [
        f"dataset    {protocol['dataset']} ({protocol['fingerprint']}), {result['stage']} stage",
        f"split      {protocol['split']}",
        f"protocol   {protocol['users']:,} users, {protocol['targets']:,} targets ({protocol['targets_per_user']}); "
        f"candidates {protocol['candidates']}; seen items {protocol['seen_items']}",
        f"unreachable {protocol['unreachable_targets']:,} targets count as misses; ties: {protocol['tie_rule']}",
        "",
        " " * width + "".join(f"{name:>26}" for name in names) + f"{'tied':>8}{'users/s':>10}",
    ]
    for system in result["systems"]:
        cells = [_interval(system["metrics"][name]) for name in names]
        tied = system["ties"]["tied_targets"] / max(1, protocol["targets"])
        lines.append(
            f"{system['name']:<{width}}"
            + "".join(f"{cell:>26}" for cell in cells)
            + f"{tied:>8.1%}{system['users_per_second']:>10,.0f}"
        )
    if result["comparisons"]:
        lines += [
            "",
            f"{result['systems'][0]['name']} minus baseline, {primary}, paired by user, Holm-corrected:",
        ]
        for row in result["comparisons"]:
            difference = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(f"  {row['baseline']:<{width}}{difference:>30}   p = {row['p_holm']:.4f}")
    lines += [f"note: {warning}" for warning in result["warnings"]]
    return "\n".join(lines)


def recommendation_table(table: pd.DataFrame, items: pd.DataFrame, *, max_rows: int = 200) -> str:
    """Lists as text, with titles where the catalogue has them."""
    shown = table.head(max_rows)
    if "title" in items:
        shown = shown.merge(items[["item_id", "title"]], on="item_id", how="left")
    text = shown.to_string(index=False, float_format=lambda score: f"{score:.4f}")
    left = len(table) - len(shown)
    return text + (f"\n… {left:,} more rows; --output writes them all" if left else "")


def _interval(figure: dict[str, float]) -> str:
    digits = 4 if abs(figure["mean"]) < 10 else 1
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
