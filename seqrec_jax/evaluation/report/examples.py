"""Example users for the report: history, targets, and the lists of two systems side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.judging import Judged, mean_of_users
from seqrec_jax.evaluation.summary import Evaluation
from seqrec_jax.evaluation.systems import COMPARED, RIVALS
from seqrec_jax.reporting.sections import plain
from seqrec_jax.scoring import UNREACHABLE


def example_users(
    evaluation: Evaluation,
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    count: int = 6,
    last_events: int = 12,
    k: int = 10,
) -> list[dict[str, Any]]:
    """Some users with history, targets and the lists of two systems: half of them hits, half misses.

    Users are taken evenly over the cases, so that they are no hand-picked selection. The second system is the one with
    the best deciding figure among those that the first one is compared with.

    Args:
      evaluation: of the cases; its first system is the one shown.
      dataset: where the cases come from.
      cases: the U evaluated users.
      count: number of users.
      last_events: events of each history.
      k: length of the lists.

    Returns:
      One dictionary a user, as `render_report` takes them.
    """
    judged = evaluation.judged[0]
    metric, comparing = evaluation.result["primary_metric"], evaluation.result.get("kind") == "comparison"
    kinds = [row["kind"] for row in evaluation.result["systems"]]
    wanted = COMPARED if comparing else RIVALS
    rivals = [one for one, kind in zip(evaluation.judged[1:], kinds[1:], strict=True) if kind in wanted]
    other = max(rivals, key=lambda one: mean_of_users(one.per_user[metric]), default=None)
    k = min(k, judged.lists.shape[1])
    best = np.minimum.reduceat(judged.ranks, cases.target_offsets[:-1])
    hits, misses = np.flatnonzero(best <= k), np.flatnonzero(best > k)
    half = max(count // 2, count - len(misses))
    chosen = [_spread(hits, half), _spread(misses, count - min(half, len(hits)))]
    return [
        _example(judged, other, dataset, cases, int(case), last_events=last_events, k=k)
        for case in np.concatenate(chosen)
    ]


def _example(
    judged: Judged,
    other: Judged | None,
    dataset: Dataset,
    cases: EvaluationCases,
    case: int,
    *,
    last_events: int,
    k: int,
) -> dict[str, Any]:
    history = cases.histories.select_users(np.array([case]))
    own = slice(cases.target_offsets[case], cases.target_offsets[case + 1])
    events = range(max(0, len(history.item_ids) - last_events), len(history.item_ids))
    example = {
        "user": str(history.user_ids[0]),
        "history": [
            {
                **_item(dataset, int(history.item_ids[event])),
                "behavior": dataset.behaviors[history.behaviors[event]],
                "time": _minutes(int(history.timestamps[event])) if dataset.time_kind == "seconds" else None,
            }
            for event in events
        ],
        "targets": [_item(dataset, int(target)) for target in cases.target_items[own][:20]],
        **_answer(judged, dataset, cases, case, k),
    }
    if other is not None:
        example["other"] = {"name": other.name, **_answer(other, dataset, cases, case, k)}
    return example


def _answer(judged: Judged, dataset: Dataset, cases: EvaluationCases, case: int, k: int) -> dict[str, Any]:
    """One system's list for a user, and the ranks of the targets."""
    own = slice(cases.target_offsets[case], cases.target_offsets[case + 1])
    items, scores = judged.lists[case, :k], judged.list_scores[case, :k]
    return {
        "recommended": [
            {
                "rank": place + 1,
                **_item(dataset, int(items[place])),
                "score": plain(scores[place]),
                "hit": bool(items[place] in cases.target_items[own]),
            }
            for place in np.flatnonzero(items > 0).tolist()
        ],
        "target_ranks": [None if rank == UNREACHABLE else int(rank) for rank in judged.ranks[own][:20]],
    }


def _item(dataset: Dataset, item_id: int) -> dict[str, Any]:
    if not 1 <= item_id <= dataset.num_items:
        return {"item": "(no item)" if item_id == 0 else "(no item of the catalogue)", "title": None}
    title = None
    if "title" in dataset.items and not pd.isna(dataset.items["title"].iloc[item_id - 1]):
        title = str(dataset.items["title"].iloc[item_id - 1])
    return {"item": dataset.items["item_id"].iloc[item_id - 1], "title": title}


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, evenly spaced."""
    count = min(count, len(values))
    return values[np.linspace(0, len(values) - 1, count).astype(int)] if count else values[:0]


def _minutes(seconds: int) -> str:
    return str(pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d %H:%M"))
