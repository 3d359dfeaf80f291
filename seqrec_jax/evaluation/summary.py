"""From judged rankers to what is reported: figures with intervals, paired comparisons, slices, example users."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import TRAIN, EvaluationCases
from seqrec_jax.evaluation.protocol import EvaluationConfig, Judged, Ranker, judge, reachable_mean
from seqrec_jax.evaluation.statistics import Interval, bootstrap_means, holm_correction, paired_differences
from seqrec_jax.scoring import UNREACHABLE

SCHEMA_VERSION = 1
_FEWEST_USERS = 30  # percentile intervals of fewer are too short
Kind = Literal["model", "baseline", "ceiling"]


class Contender(NamedTuple):
    """A ranker and its part in the report."""

    ranker: Ranker
    kind: Kind


class Evaluation(NamedTuple):
    """An evaluation's outcome.

    Attributes:
      result: the content of `metrics.json`; a figure that is undefined for every user is None.
      per_user: the per-user table, a row a system and user.
      judged: one entry a contender, the model first.
    """

    result: dict[str, Any]
    per_user: pd.DataFrame
    judged: list[Judged]


def evaluate(
    contenders: Sequence[Contender],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    protocol: dict[str, Any] | None = None,
) -> Evaluation:
    """Judge every contender on the same cases, and say how sure the figures are.

    Args:
      contenders: the model first.
      dataset: where the cases come from.
      cases: whom to ask what.
      config: the protocol.
      protocol: further facts for the protocol's card.

    Returns:
      Figures, per-user table and lists.
    """
    judged = [judge(contender.ranker, cases, config=config) for contender in contenders]
    names = [column for column in judged[0].per_user.columns if column != "rank"]
    users = _user_table(dataset, cases, judged[0])
    result = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "stage": config.stage,
        "primary_metric": config.metric,
        "protocol": {**_protocol(dataset, cases, judged[0], config), **(protocol or {})},
        "systems": [
            _system(entry, contender.kind, cases, names, config)
            for entry, contender in zip(judged, contenders, strict=True)
        ],
        "comparisons": _comparisons(judged, contenders, config),
        "slices": _slices(judged, users, config),
        "cleaning": dataset.cleaning,
        "warnings": _warnings(dataset, cases),
    }
    tables = [pd.concat([users, entry.per_user], axis=1).assign(system=entry.name) for entry in judged]
    return Evaluation(result, pd.concat(tables, ignore_index=True), judged)


def example_users(
    evaluation: Evaluation,
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    count: int = 6,
    last_events: int = 12,
    k: int = 10,
) -> list[dict[str, Any]]:
    """Some users with history, targets and the model's list side by side: half of them hits, half misses.

    Users are drawn evenly over the cases, so that they are examples and not a selection.
    """
    judged = evaluation.judged[0]
    k = min(k, judged.lists.shape[1])
    best = np.minimum.reduceat(judged.ranks, cases.target_offsets[:-1])
    hits, misses = np.flatnonzero(best <= k), np.flatnonzero(best > k)
    half = max(count // 2, count - len(misses))
    chosen = [_spread(hits, half), _spread(misses, count - min(half, len(hits)))]
    return [_example(judged, dataset, cases, int(case), last_events, k) for case in np.concatenate(chosen)]


def _example(
    judged: Judged, dataset: Dataset, cases: EvaluationCases, case: int, last_events: int, k: int
) -> dict[str, Any]:
    history = cases.histories.select_users(np.array([case]))
    targets = cases.target_items[cases.target_offsets[case] : cases.target_offsets[case + 1]]
    ranks = judged.ranks[cases.target_offsets[case] : cases.target_offsets[case + 1]]
    titles = dataset.items.get("title")

    def item(item_id: int) -> dict[str, Any]:
        if item_id == 0:
            return {"item": "(no item)", "title": None}
        title = None if titles is None or pd.isna(titles.iloc[item_id - 1]) else str(titles.iloc[item_id - 1])
        return {"item": dataset.items["item_id"].iloc[item_id - 1], "title": title}

    events = range(max(0, len(history.item_ids) - last_events), len(history.item_ids))
    listed = [place for place in range(min(k, judged.lists.shape[1])) if judged.lists[case, place] > 0]
    return {
        "user": str(history.user_ids[0]),
        "history": [
            {
                **item(int(history.item_ids[event])),
                "behavior": dataset.behaviors[history.behaviors[event]],
                "time": _minutes(int(history.timestamps[event])) if dataset.time_kind == "seconds" else None,
            }
            for event in events
        ],
        "targets": [item(int(target)) for target in targets[:20]],
        "recommended": [
            {
                "rank": place + 1,
                **item(int(judged.lists[case, place])),
                "score": float(judged.list_scores[case, place]),
                "hit": bool(judged.lists[case, place] in targets),
            }
            for place in listed
        ],
        "target_ranks": [None if rank == UNREACHABLE else int(rank) for rank in ranks[:20]],
    }


def _user_table(dataset: Dataset, cases: EvaluationCases, judged: Judged) -> pd.DataFrame:
    """What is known of each evaluated user and target, apart from any system."""
    first = cases.target_items[cases.target_offsets[:-1]]
    counts = np.bincount(dataset.sequences.item_ids[dataset.split.parts == TRAIN], minlength=dataset.num_items + 1)
    return pd.DataFrame(
        {
            "user_id": dataset.sequences.user_ids[cases.users],
            "history_length": cases.histories.lengths,
            "targets": cases.num_targets,
            "first_target": dataset.items["item_id"].to_numpy()[first - 1],
            "first_target_popularity": counts[first],
        }
    )


def _protocol(dataset: Dataset, cases: EvaluationCases, judged: Judged, config: EvaluationConfig) -> dict[str, Any]:
    num_candidates = int(cases.candidates.sum())
    order = "time, then row" if dataset.time_kind == "seconds" else "the log's own order"
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": dataset.split.describe(),
        "order": order,
        "candidates": f"{num_candidates:,} of {dataset.num_items:,} items: all that could be recommended at the time",
        "seen_items": config.seen_items,
        "users": len(cases.users),
        "users_without_history": cases.users_without_history,
        "targets": len(cases.target_items),
        "targets_per_user": "the first after the history"
        if config.first_target_only
        else "all that followed the history",
        "unreachable_targets": int((judged.ranks == UNREACHABLE).sum()),
        "tie_rule": "one random order of the catalogue, the same in ranks and lists",
        "intervals": f"95 %, {config.num_resamples} resamples of users",
    }


def _system(
    judged: Judged, kind: Kind, cases: EvaluationCases, names: list[str], config: EvaluationConfig
) -> dict[str, Any]:
    interval = bootstrap_means(judged.per_user[names], num_resamples=config.num_resamples, seed=config.seed)
    return {
        "name": judged.name,
        "kind": kind,
        "metrics": {
            name: {**_figure(interval, column), "reachable_mean": _defined(reachable_mean(judged, cases, name))}
            for column, name in enumerate(names)
        },
        "ties": {
            "tied_targets": judged.tied_targets,
            "best": _defined(judged.best),
            "worst": _defined(judged.worst),
        },
        "users_per_second": len(cases.users) / judged.seconds,
    }


def _comparisons(
    judged: list[Judged], contenders: Sequence[Contender], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """The model minus each baseline on the deciding metric, Holm-corrected over the baselines."""
    others = [entry for entry, contender in zip(judged, contenders, strict=True) if contender.kind == "baseline"]
    if contenders[0].kind != "model" or not others:
        return []
    model = judged[0].per_user[[config.metric]].to_numpy()
    differences = [
        paired_differences(
            model,
            other.per_user[[config.metric]].to_numpy(),
            num_resamples=config.num_resamples,
            seed=config.seed,
        )
        for other in others
    ]
    adjusted = holm_correction(np.array([difference.p_value[0] for difference in differences]))
    return [
        {
            "baseline": other.name,
            "metric": config.metric,
            "difference": _defined(difference.mean[0]),
            "low": _defined(difference.low[0]),
            "high": _defined(difference.high[0]),
            "p_value": _defined(difference.p_value[0]),
            "p_holm": _defined(p_holm),
            "effect_size": _defined(difference.effect_size[0]),
        }
        for other, difference, p_holm in zip(others, differences, adjusted, strict=True)
    ]


def _slices(judged: list[Judged], users: pd.DataFrame, config: EvaluationConfig) -> dict[str, list[dict[str, Any]]]:
    lengths = [0, 1, 2, 5, 10, 20, 50, 100, 200]
    popularity = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    return {
        "history_length": _bins(judged, users["history_length"], lengths, config),
        "target_popularity": _bins(judged, users["first_target_popularity"], popularity, config),
    }


def _bins(judged: list[Judged], values: pd.Series, edges: list[int], config: EvaluationConfig) -> list[dict[str, Any]]:
    """The deciding metric by system in bins from one edge to the next; a bin of few users joins a neighbour."""

    def inside(low: int, high: int | None) -> np.ndarray:
        return ((values >= low) & (True if high is None else values < high)).to_numpy()

    lows = edges[:1]
    for edge in edges[1:]:
        if inside(lows[-1], edge).sum() >= _FEWEST_USERS:
            lows.append(edge)
    if len(lows) > 1 and inside(lows[-1], None).sum() < _FEWEST_USERS:
        lows.pop()
    bins = []
    for low, high in zip(lows, [*lows[1:], None], strict=True):
        users = inside(low, high)
        table = pd.DataFrame({entry.name: entry.per_user[config.metric][users] for entry in judged})
        interval = bootstrap_means(table, num_resamples=config.num_resamples, seed=config.seed)
        bins.append(
            {
                "label": f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}–{high - 1}",
                "users": int(users.sum()),
                "systems": {entry.name: _figure(interval, column) for column, entry in enumerate(judged)},
            }
        )
    return bins


def _figure(interval: Interval, column: int) -> dict[str, float | None]:
    return {name: _defined(getattr(interval, name)[column]) for name in ("mean", "low", "high")}


def _defined(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def _warnings(dataset: Dataset, cases: EvaluationCases) -> list[str]:
    warnings = []
    if dataset.split.config.rule == "random_ratio":
        warnings.append("The split is random: the model was trained on events that happened after the tested ones.")
    sequences = dataset.sequences
    tied = (np.diff(sequences.timestamps) == 0) & (np.diff(sequences.users_of_events) == 0)
    if dataset.time_kind == "seconds" and tied.mean() > 0.05:
        warnings.append(
            f"{tied.mean():.0%} of events share user and time with the event before; among those the log's row "
            "order decides which is the target."
        )
    if cases.users_without_history:
        warnings.append(
            f"{cases.users_without_history:,} users with targets have too short a history and are left out."
        )
    return warnings


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, evenly spaced."""
    count = min(count, len(values))
    return values[np.linspace(0, len(values) - 1, count).astype(int)] if count else values[:0]


def _minutes(seconds: int) -> str:
    return pd.Timestamp(seconds, unit="s").strftime("%Y-%m-%d %H:%M")
