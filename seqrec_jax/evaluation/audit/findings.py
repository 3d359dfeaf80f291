"""What the checks of the audit share: the form of a finding, the facts that all of them read, worst cases of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.judging import Judged, mean_of_users

Severity = Literal["info", "warning", "error"]

CHECKS = {
    "targets_trained_on": "Targets that were trained on",
    "own_future": "Training on a user's own later events",
    "later_events": "Training on events after the recommendation",
    "unborn_items": "Items that did not exist yet",
    "ambiguous_targets": "Targets that share their time with other events",
    "duplicate_users": "Users with the same sequence",
    "repeated_targets": "Targets that repeat the last event",
    "constant_scores": "Lists whose scores are all the same",
    "tied_scores": "Targets tied with other items",
    "unreachable_targets": "Targets that cannot be in a list",
    "popularity": "What popularity alone explains",
    "short_lists": "Lists that are not full",
    "users_left_out": "Users left out",
    "no_times": "A log without times",
}
"""Title of each check by its key."""

TIMED_CHECKS = ("later_events", "unborn_items", "ambiguous_targets")
"""Checks that need a log with times."""


@dataclass(frozen=True)
class Finding:
    """One finding of the audit.

    Attributes:
      key: of `CHECKS`; a check of systems may have one finding for each.
      severity: "error" (the figure should not be used as it is), "warning" or "info".
      title: title of the check, with the system's name for a check of systems.
      text: the finding in sentences: how many it concerns and how far it can move the figure.
      count: number of users, targets or events concerned; the text states which.
      share: `count` as a share of all such users, targets or events.
      effect: the deciding metric and its largest possible change, with its sign, for the system in question; None
        where no bound is known.
    """

    key: str
    severity: Severity
    title: str
    text: str
    count: int
    share: float
    effect: dict[str, float] | None


class AuditCase(NamedTuple):
    """The facts that all checks read.

    Attributes:
      dataset: where the cases come from.
      cases: the evaluation cases.
      judged: the systems, the model first.
      metric: the deciding metric.
      seen_excluded: whether items of the history may not be recommended.
      train: `[N]` bool, events that the model was trained on.
      first_events: `[U]` int64 place in the log of each user's first target.
      moments: `[U]` int64 seconds, time of each user's first target.
      values: `[U]` float64 deciding metric of the model.
    """

    dataset: Dataset
    cases: EvaluationCases
    judged: Sequence[Judged]
    metric: str
    seen_excluded: bool
    train: np.ndarray
    first_events: np.ndarray
    moments: np.ndarray
    values: np.ndarray


def finding(
    key: str,
    severity: Severity,
    text: str,
    count: int,
    total: int,
    effect: dict[str, float] | None,
    system: str = "",
) -> Finding:
    """A finding of one check, which concerns `count` of `total` users, targets or events."""
    title = f"{CHECKS[key]}: {system}" if system else CHECKS[key]
    return Finding(key, severity, title, text, count, count / total, effect)


def lost(case: AuditCase, users: np.ndarray) -> dict[str, float]:
    """The change of the deciding metric if the model missed for all users `[U]` bool that the finding concerns."""
    return {case.metric: changed(case.values, users, 0.0)}


def changed(values: np.ndarray, users: np.ndarray, to: float) -> float:
    """Change of the mean of `[U]` values if the given users `[U]` bool had the value `to` where theirs is defined."""
    return mean_of_users(np.where(users & ~np.isnan(values), to, values)) - mean_of_users(values)


def without(case: AuditCase, users: np.ndarray) -> str:
    """The figure over the other users and over all users, in words."""
    rest = mean_of_users(case.values[~users])
    return (
        f"{rest:.4f} instead of {mean_of_users(case.values):.4f}"
        if np.isfinite(rest)
        else "undefined, since no user is left"
    )
