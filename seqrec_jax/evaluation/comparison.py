"""Paired comparisons of systems, user by user: size of the difference, its certainty, and what the users can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import plain
from seqrec_jax.reporting.wording import format_count, format_figure
from seqrec_jax.statistics import (
    benjamini_hochberg_correction,
    equivalence,
    holm_correction,
    minimal_detectable_difference,
    paired_differences,
    units_needed,
)

Row = dict[str, Any]
"""One comparison in JSON's own types, as `compare_systems` returns it."""


def compare_systems(
    pairs: Sequence[tuple[Judged, Judged]], metrics: Sequence[str], *, config: EvaluationConfig
) -> list[Row]:
    """A row a pair and metric: the first system minus the second, paired by user, p-values corrected over all rows.

    Args:
      pairs: (system in question, baseline), judged on the same users in the same order.
      metrics: columns of the per-user tables.
      config: resamples, seed and the margin of non-inferiority.

    Returns:
      Rows with `system`, `baseline`, `metric`, `difference`, `low`, `high`, `relative` (share of the baseline's mean),
      `effect_size`, `p_value` (permutation), `p_bootstrap`, `p_t`, `p_wilcoxon`, `p_holm` and `p_bh` (of the
      permutation test, corrected over the rows), `users`, `minimal_detectable` (difference that these users show with
      a probability of 80 %), `users_needed` (to show the difference found with that probability), `equivalence`
      (non-inferiority in a sentence) and `shop` (visitors that a test in the shop would need).

    Raises:
      DataError: two systems over different numbers of users.
    """
    rows = [row for system, baseline in pairs for row in _rows_of_pair(system, baseline, metrics, config)]
    p_values = np.array([row["p_value"] for row in rows])
    for row, holm, rate in zip(rows, holm_correction(p_values), benjamini_hochberg_correction(p_values), strict=True):
        row.update(p_holm=float(holm), p_bh=float(rate))
    in_json: list[Row] = plain(rows)
    return in_json


def shared_users(
    first: pd.DataFrame, second: pd.DataFrame, *, names: tuple[str, str] = ("the first", "the second")
) -> tuple[pd.DataFrame, pd.DataFrame, str | None]:
    """Two per-user tables cut to the users of both, in the same order, and a sentence on what was left out.

    Args:
      first: one row a user, with a column `user_id`.
      second: likewise.
      names: of the two systems, for the sentence.

    Returns:
      Both tables, one row a shared user, and the sentence, None where no user was left out.

    Raises:
      DataError: no shared user, or a user twice in one table.
    """
    indexed = []
    for name, table in zip(names, (first, second), strict=True):
        if "user_id" not in table:
            raise DataError(f"the table of {name} has no column user_id, only {list(table.columns)}")
        twice = table["user_id"][table["user_id"].duplicated()]
        if len(twice):
            raise DataError(f"the table of {name} has user {twice.iloc[0]!r} twice; give one system's rows only")
        indexed.append(table.set_index("user_id"))
    users = indexed[0].index[indexed[0].index.isin(indexed[1].index)]
    if not len(users):
        examples = [str(table.index[0]) if len(table) else "none" for table in indexed]
        raise DataError(
            f"{names[0]} and {names[1]} have no user in common (such as {examples[0]!r} and {examples[1]!r}); judge "
            "both on the same cases"
        )
    left = [len(table) - len(users) for table in indexed]
    sentence = None
    if any(left):
        sentence = (
            f"Only the {len(users):,} users of both are compared: {left[0]:,} of {names[0]} and {left[1]:,} of "
            f"{names[1]} have no counterpart."
        )
    return (*(table.loc[users].reset_index() for table in indexed), sentence)


def _rows_of_pair(system: Judged, baseline: Judged, metrics: Sequence[str], config: EvaluationConfig) -> list[Row]:
    if len(system.per_user) != len(baseline.per_user):
        raise DataError(
            f"{system.name} was judged on {len(system.per_user):,} users and {baseline.name} on "
            f"{len(baseline.per_user):,}; judge both on the same cases"
        )
    first, second = (one.per_user[list(metrics)].astype(np.float64) for one in (system, baseline))
    found = paired_differences(first, second, num_resamples=config.num_resamples, seed=config.seed)
    both = first.notna() & second.notna()
    means = second.where(both).mean().to_numpy()
    smallest = minimal_detectable_difference(found.deviation, found.units)
    needed = units_needed(found.deviation, found.mean)
    # a metric that is undefined for all users, or zero for the baseline, has no relative margin
    usable = np.flatnonzero((found.units >= 2) & (means > 0))
    sentences = dict.fromkeys(range(len(metrics)), "")
    if len(usable):
        tested = equivalence(
            first.iloc[:, usable],
            second.iloc[:, usable],
            relative_margin=config.margin,
            question="non-inferiority",
            level=0.025,
            unit_name="users",
        )
        sentences |= dict(zip(usable.tolist(), map(str, tested.reason), strict=True))
    return [
        {
            "system": system.name,
            "baseline": baseline.name,
            "metric": metric,
            "difference": found.mean[column],
            "low": found.low[column],
            "high": found.high[column],
            "relative": found.mean[column] / means[column] if means[column] else math.nan,
            "effect_size": found.effect_size[column],
            "p_value": found.p_value[column],
            "p_bootstrap": found.p_bootstrap[column],
            "p_t": found.p_t[column],
            "p_wilcoxon": found.p_wilcoxon[column],
            "users": found.units[column],
            "minimal_detectable": smallest[column],
            "users_needed": needed[column],
            # a system that is better needs no test of non-inferiority
            "equivalence": "" if found.low[column] > 0 else sentences[column],
            "shop": _in_the_shop(metric, first[metric], second[metric]) if metric.startswith("hit_rate@") else "",
        }
        for column, metric in enumerate(metrics)
    ]


def _in_the_shop(metric: str, first: pd.Series, second: pd.Series, *, power: float = 0.8) -> str:
    """What a difference in hit rate means for a test with two groups of visitors, if every hit became a click."""
    rates = float(first.mean()), float(second.mean())
    difference = rates[0] - rates[1]
    if not math.isfinite(difference) or difference == 0:
        return ""
    spread = sum(rate * (1 - rate) for rate in rates)
    visitors = math.ceil((ndtri(0.975) + ndtri(power)) ** 2 * spread / difference**2)
    more = "more" if difference > 0 else "fewer"
    seen, against = format_count(abs(1000 * difference)), " against ".join(map(format_figure, rates))
    return (
        f"Of 1,000 visitors {seen} {more} would find their next item in the first {metric.partition('@')[2]} "
        f"({against}). If every hit became a click, a test with two equal groups would need about "
        f"{format_count(visitors)} visitors in each to show it."
    )
