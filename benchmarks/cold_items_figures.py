"""Figures of benchmarks/cold_items.py: systems on slices of the targets, against each other and against the optimum.

Where the optimum is known, so is the probability of every item to be the next one, given the history. `expected`
figures are what a list reaches on average over all that its user may do next: they are free of the chance of what the
user did, whose spread hides small differences, and count users alike, however likely these are to choose such an item.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import plain
from seqrec_jax.statistics import (
    bootstrap_means,
    equivalence,
    holm_correction,
    minimal_detectable_difference,
    paired_differences,
)

Row = dict[str, Any]
FUSED, IDS, OPTIMUM = "ids and content", "ids alone", "Bayes filter (optimum)"
METRIC, CUTOFF = "ndcg@10", 10
NEW, KNOWN, AGAIN, ALL = "new", "known", "again", "all"
MARGINS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Of the id model's figure; the smallest that the spread of the differences can carry is asked."""


class Ranking(NamedTuple):
    """All systems on the same candidates: what was judged, and the cases."""

    judged: list[Judged]
    cases: EvaluationCases


def slices_of(cases: EvaluationCases, known: np.ndarray) -> dict[str, np.ndarray]:
    """`[U]` users whose one target is a new item, a known one, or one that they had before; and all users.

    New and known are without what the user had before, which any ranker finds in the history.
    """
    again = cases.targets_seen()
    trained = known[cases.target_items]
    found = {NEW: ~trained & ~again, KNOWN: trained & ~again, AGAIN: again}
    return {name: members for name, members in found.items() if members.any()} | {ALL: np.ones(len(again), dtype=bool)}


def describe(
    rankings: dict[str, Ranking],
    slices: dict[str, np.ndarray],
    *,
    known: np.ndarray,
    probabilities: np.ndarray | None,
    config: EvaluationConfig,
) -> Row:
    """The figures of a row: `figures` of what users did, and `expected` ones where probabilities are given."""
    found: Row = {"figures": {}}
    asked = [*(("all items", name) for name in slices), ("new items", NEW), ("known items", KNOWN)]
    for among, name in asked:
        ranking = rankings[among]
        tables = {one.name: one.per_user[METRIC].to_numpy()[slices[name]] for one in ranking.judged}
        found["figures"][f"{name}, among {among}"] = compare(tables, config)
    if probabilities is not None:
        found["expected"] = {}
        for among, name in asked:
            ranking = rankings[among]
            counted = counted_probabilities(probabilities, name, known=known, cases=ranking.cases)
            has_any = counted.sum(axis=1) > 0
            tables = {one.name: expected_ndcg(one.lists, counted)[has_any] for one in ranking.judged}
            found["expected"][f"{name}, among {among}"] = compare(tables, config)
    return plain(found)


def counted_probabilities(
    probabilities: np.ndarray, name: str, *, known: np.ndarray, cases: EvaluationCases
) -> np.ndarray:
    """`[U, V+1]` probability of each target of a slice to be the user's next, 0 for other items."""
    had = np.zeros(probabilities.shape, dtype=bool)
    had[np.repeat(np.arange(len(had)), cases.histories.lengths), cases.histories.item_ids] = True
    of_slice = {NEW: ~had & ~known, KNOWN: ~had & known, AGAIN: had, ALL: np.ones_like(had)}[name]
    return np.where(of_slice, probabilities, 0.0).astype(np.float64)


def expected_ndcg(lists: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """`[U]` NDCG at the cutoff that a list reaches on average over the user's next item, given that it is counted.

    Args:
      lists: `[U, K]` item ids, 0 = none.
      counted: `[U, V+1]` probability of each item that counts.
    """
    found = np.take_along_axis(counted, lists[:, :CUTOFF], axis=1) * (lists[:, :CUTOFF] > 0)
    discounts = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    total = counted.sum(axis=1)
    return found @ discounts[: found.shape[1]] / np.where(total > 0, total, 1.0)


def compare(tables: dict[str, np.ndarray], config: EvaluationConfig) -> Row:
    """Means with intervals, differences of the fused system from each other, and its share of the optimum."""
    names = list(tables)
    interval = bootstrap_means(np.column_stack([tables[name] for name in names]), num_resamples=config.num_resamples)
    fused = tables[FUSED][:, None]
    others = [name for name in names if name != FUSED]
    paired = {
        name: paired_differences(fused, tables[name][:, None], num_resamples=config.num_resamples) for name in others
    }
    adjusted = holm_correction(np.array([paired[name].p_value[0] for name in others]))
    found: Row = {
        "users": len(fused),
        "systems": {
            name: {"mean": interval.mean[place], "low": interval.low[place], "high": interval.high[place]}
            for place, name in enumerate(names)
        },
        f"{FUSED} minus": {
            name: {
                "difference": paired[name].mean[0],
                "low": paired[name].low[0],
                "high": paired[name].high[0],
                "p_holm": p_holm,
            }
            for name, p_holm in zip(others, adjusted, strict=True)
        },
        "not inferior to ids alone": non_inferiority(fused, tables[IDS][:, None]),
    }
    if OPTIMUM in tables:
        best, deviation = interval.mean[names.index(OPTIMUM)], float(paired[OPTIMUM].deviation[0])
        found["detectable share of the optimum"] = float(minimal_detectable_difference(deviation, len(fused))) / best
        found["share of the optimum"] = {
            name: share_of(tables[name], tables[OPTIMUM], config) for name in names if name != OPTIMUM
        }
    return found


def share_of(figures: np.ndarray, optimum: np.ndarray, config: EvaluationConfig) -> Row:
    """A system's mean as a share of the optimum's, with the interval of the linearised ratio."""
    share = float(figures.mean() / optimum.mean())
    residuals = (figures - share * optimum) / optimum.mean()
    interval = bootstrap_means(residuals[:, None], num_resamples=config.num_resamples)
    return {"mean": share, "low": share + float(interval.low[0]), "high": share + float(interval.high[0])}


def non_inferiority(fused: np.ndarray, ids: np.ndarray) -> Row:
    """Whether the fused system is not worse than ids alone by the smallest margin that these users can carry."""
    if not ids.any():
        return {"verdict": "not asked", "reason": "ids alone find none of these items"}
    for margin in MARGINS:
        found = equivalence(fused, ids, relative_margin=margin, question="non-inferiority", unit_name="users")
        if found.verdict[0] != "refused":
            break
    return {"relative_margin": margin, "verdict": str(found.verdict[0]), "reason": str(found.reason[0])}


def print_row(row: Row) -> None:
    """The row as Markdown: a table of means with intervals, a column a slice, and what was asked."""
    print(
        f"\n### {row['data']}: {row['users']:,} users, "
        f"{row['known_items']:,} known and {row['new_items']:,} new items\n"
    )
    for kind in ("figures", "expected"):
        if kind not in row:
            continue
        slices = row[kind]
        heads = [f"{name} ({figures['users']:,})" for name, figures in slices.items()]
        print(f"{kind}\n\n| {METRIC} | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
        for name in next(iter(slices.values()))["systems"]:
            print(f"| {name} | " + " | ".join(_cell(figures["systems"][name]) for figures in slices.values()) + " |")
        if "share of the optimum" in next(iter(slices.values())):
            for name in next(iter(slices.values()))["share of the optimum"]:
                cells = [_cell(figures["share of the optimum"][name]) for figures in slices.values()]
                print(f"| {name}, share of the optimum | " + " | ".join(cells) + " |")
            cells = [f"{figures['detectable share of the optimum']:.4f}" for figures in slices.values()]
            print("| detectable share | " + " | ".join(cells) + " |")
        print()
        for slice_name, figures in slices.items():
            asked = figures["not inferior to ids alone"]
            margin = f" at {100 * asked['relative_margin']:g} %" if "relative_margin" in asked else ""
            print(f"- {slice_name}: {FUSED} against {IDS}{margin}: {asked['verdict']}: {asked['reason']}")
            for name, one in figures[f"{FUSED} minus"].items():
                interval = f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"
                print(f"    minus {name}: {interval}, p = {one['p_holm']:.4f}")
        print()


def _cell(figure: Row) -> str:
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
