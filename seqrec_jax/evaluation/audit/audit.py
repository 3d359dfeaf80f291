"""The audit: what may make a figure wrong, how many users or targets it concerns and how far it can move the figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import TRAIN, EvaluationCases
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.audit import leakage
from seqrec_jax.evaluation.audit.findings import (
    AuditCase,
    Finding,
    Severity,
    changed,
    finding,
    without,
)
from seqrec_jax.evaluation.judging import Judged, mean_of_users, reachable_mean, reachable_targets
from seqrec_jax.evaluation.protocol import EvaluationConfig

_EXPLAINED_BY_POPULARITY = 0.9


def audit(
    dataset: Dataset,
    cases: EvaluationCases,
    judged: Sequence[Judged],
    *,
    config: EvaluationConfig,
    train_events: np.ndarray | None = None,
) -> list[Finding]:
    """Check for the common causes of wrong offline figures.

    Worst cases are of the mean of the deciding metric, whose values are assumed to lie in [0, 1].

    Args:
      dataset: where the cases come from.
      cases: the evaluation cases.
      judged: the systems, the model first.
      config: the protocol.
      train_events: `[N]` bool, events that the model was trained on; None means the training part of the split.

    Returns:
      The findings, errors first. A check that finds nothing has none.

    Raises:
      DataError: no system, or one without the deciding metric.
      ShapeError: systems or train_events that do not belong to these cases.
    """
    if not judged:
        raise DataError("there is no system to audit; pass what judge returned, the model first")
    for entry in judged:
        if config.metric not in entry.per_user:
            raise DataError(f"{entry.name} was not measured by {config.metric}, the deciding metric of this protocol")
        if len(entry.lists) != len(cases.users) or len(entry.ranks) != len(cases.target_items):
            raise ShapeError(
                f"{entry.name} has {len(entry.lists)} lists and {len(entry.ranks)} ranks, these cases have "
                f"{len(cases.users)} users and {len(cases.target_items)} targets; judge it on the same cases"
            )
    train = dataset.split.parts == TRAIN if train_events is None else train_events
    if train.shape != dataset.split.parts.shape or train.dtype != bool:
        raise ShapeError(
            f"train_events must be bool {dataset.split.parts.shape}, one an event, got {train.dtype} {train.shape}"
        )
    first_events = cases.target_events[cases.target_offsets[:-1]]
    case = AuditCase(
        dataset=dataset,
        cases=cases,
        judged=judged,
        metric=config.metric,
        seen_excluded=config.seen_items == "excluded",
        train=train,
        first_events=first_events,
        moments=dataset.sequences.timestamps[first_events],
        values=judged[0].per_user[config.metric].to_numpy(dtype=np.float64, na_value=np.nan),
    )
    checks = [leakage.trained_targets, leakage.own_future, leakage.duplicate_users]
    checks += [_repeated_targets, _popularity, _users_left_out]
    if dataset.time_kind == "seconds":
        checks += [leakage.later_events, leakage.unborn_items, leakage.ambiguous_targets]
    findings = [found for check in checks for found in check(case)]
    if dataset.time_kind != "seconds":
        text = "The log has an order but no times, so leakage in time and tied times cannot be checked."
        findings.append(finding("no_times", "info", text, 0, 1, None))
    for entry in judged:
        findings += [*_ties(case, entry), *_unreachable(case, entry), *_short_lists(case, entry)]
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda found: order[found.severity])


def _repeated_targets(case: AuditCase) -> Iterator[Finding]:
    histories = case.cases.histories
    some = histories.lengths > 0
    last = np.zeros(len(some), dtype=np.int64)
    last[some] = histories.item_ids[histories.offsets[1:][some] - 1]
    affected = last == case.cases.target_items[case.cases.target_offsets[:-1]]
    if count := int(affected.sum()):
        others = mean_of_users(case.values[~affected])
        text = (
            f"The first target of {count:,} of {len(affected):,} users is the item of the last event before it, so "
            f"that repeating it hits; for the other users {case.metric} is {without(case, affected)}."
        )
        severity: Severity = "warning" if affected.mean() > 0.05 else "info"
        effect = {case.metric: others - mean_of_users(case.values)} if np.isfinite(others) else None
        yield finding("repeated_targets", severity, text, count, len(affected), effect)


def _ties(case: AuditCase, entry: Judged) -> Iterator[Finding]:
    scores = np.where(np.isfinite(entry.list_scores), entry.list_scores, np.nan)
    known = (entry.lists > 0) & ~np.isnan(scores)
    highest = np.where(known, scores, -np.inf).max(axis=1)
    lowest = np.where(known, scores, np.inf).min(axis=1)
    constant = (known.sum(axis=1) >= 2) & (highest == lowest)
    mean = mean_of_users(entry.per_user[case.metric])
    if count := int(constant.sum()):
        text = (
            f"{entry.name} gives all items of a list the same score for {count:,} of {len(constant):,} users; their "
            "lists are in the random order of the catalogue."
        )
        severity: Severity = "error" if constant.all() else "warning"
        values = entry.per_user[case.metric].to_numpy(dtype=np.float64, na_value=np.nan)
        effect = {case.metric: changed(values, constant, 0.0)}
        yield finding("constant_scores", severity, text, count, len(constant), effect, entry.name)
    if entry.tied_targets:
        text = (
            f"{entry.tied_targets:,} of {len(entry.ranks):,} targets have the score of another candidate for "
            f"{entry.name}; {case.metric} is {entry.worst:.4f} if all ties were lost and {entry.best:.4f} if all were "
            "won."
        )
        change = max(entry.worst - mean, entry.best - mean, key=abs)
        severity = "warning" if abs(change) > 0.01 * mean else "info"
        effect = {case.metric: float(change)}
        yield finding("tied_scores", severity, text, entry.tied_targets, len(entry.ranks), effect, entry.name)


def _unreachable(case: AuditCase, entry: Judged) -> Iterator[Finding]:
    reachable = reachable_targets(entry, case.cases)
    if count := int((~reachable).sum()):
        absent = int((~case.cases.targets_available()).sum())
        mean, beside = (
            mean_of_users(entry.per_user[case.metric]),
            reachable_mean(entry, case.cases, case.metric),
        )
        text = (
            f"{count:,} of {len(reachable):,} targets cannot be in a list of {entry.name} and count as misses "
            f"({absent:,} are no candidates); over the users without such targets {case.metric} is "
            f"{beside:.4f} instead of {mean:.4f}."
        )
        severity: Severity = "warning" if count > 0.05 * len(reachable) else "info"
        effect = {case.metric: beside - mean} if np.isfinite(beside) else None
        yield finding("unreachable_targets", severity, text, count, len(reachable), effect, entry.name)


def _short_lists(case: AuditCase, entry: Judged) -> Iterator[Finding]:
    sizes = (entry.lists > 0).sum(axis=1)
    full = np.minimum(entry.lists.shape[1], case.cases.num_candidates)
    if count := int((sizes < full).sum()):
        empty = sizes == 0
        text = (
            f"{count:,} of {len(sizes):,} lists of {entry.name} have fewer than {full.max()} items"
            f"{'' if case.cases.user_candidates is None else ', or than the candidates of their user'}, "
            f"{int(empty.sum()):,} have none; empty places are misses."
        )
        values = entry.per_user[case.metric].to_numpy(dtype=np.float64, na_value=np.nan)
        effect = {case.metric: changed(values, sizes < full, 1.0)}
        severity: Severity = "warning" if empty.any() else "info"
        yield finding("short_lists", severity, text, count, len(sizes), effect, entry.name)


def _popularity(case: AuditCase) -> Iterator[Finding]:
    """The model against "most popular", and how often it lists items against their training events."""
    model = case.judged[0]
    popular = next((entry for entry in case.judged[1:] if entry.name == "most popular"), None)
    ours = mean_of_users(case.values)
    if popular is None or not ours > 0:
        reason = f"{model.name} hits nothing" if popular is not None else 'no system is called "most popular"'
        yield finding("popularity", "info", f"Popularity was not compared: {reason}.", 0, len(case.values), None)
        return
    theirs = mean_of_users(popular.per_user[case.metric])
    size = len(case.cases.candidates)
    exposure = np.bincount(model.lists[model.lists > 0], minlength=size)[case.cases.candidates]
    events = np.bincount(case.dataset.sequences.item_ids[case.train], minlength=size)[case.cases.candidates]
    ranks = [pd.Series(values).rank().to_numpy() for values in (exposure, events)]
    alike = np.nan if min(values.std() for values in ranks) == 0 else float(np.corrcoef(*ranks)[0, 1])
    text = (
        f"One list of the most popular items for all users reaches {theirs / ours:.0%} of the "
        f"{case.metric} of {model.name} ({theirs:.4f} of {ours:.4f}); how often {model.name} lists an item has a rank "
        f"correlation of {alike:.2f} with its training events."
    )
    severity: Severity = "warning" if theirs >= _EXPLAINED_BY_POPULARITY * ours else "info"
    hits = case.values > 0
    shared = int((hits & (popular.per_user[case.metric].to_numpy(dtype=np.float64, na_value=np.nan) > 0)).sum())
    text += f" Of the {int(hits.sum()):,} users that it serves, {shared:,} are served by popularity too."
    effect = {case.metric: theirs - ours}
    yield finding("popularity", severity, text, shared, max(1, int(hits.sum())), effect)


def _users_left_out(case: AuditCase) -> Iterator[Finding]:
    if count := case.cases.users_without_history:
        total = count + len(case.cases.users)
        mean = mean_of_users(case.values)
        low, high = mean * len(case.cases.users) / total, (mean * len(case.cases.users) + count) / total
        text = (
            f"{count:,} of {total:,} users with a target have too short a history and are left out; with them "
            f"{case.metric} would lie between {low:.4f} and {high:.4f}."
        )
        severity: Severity = "warning" if count > 0.05 * total else "info"
        largest = max(low - mean, high - mean, key=abs)
        yield finding("users_left_out", severity, text, count, total, {case.metric: float(largest)})
