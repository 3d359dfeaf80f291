"""What an audit's checks share: the form of a finding, the facts that all look at, and worst cases of a mean."""

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
"""What is looked for: key and title."""

TIMED_CHECKS = ("later_events", "unborn_items", "ambiguous_targets")
"""Those that a log without times does not allow."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
      key: of `CHECKS`; a check of systems may have a finding for each.
      severity: error (the figure should not be used as it is), warning (mind it) or info.
      title: of the check, with the system's name where it is about one.
      text: what was found, how many it concerns and how far it can move the figure.
      count: users, targets or events concerned, as the text says.
      share: of all such users, targets or events.
      effect: deciding metric -> its largest possible change, with its sign, for the model or the system in question;
        None where no bound follows from what is known.
    """

    key: str
    severity: Severity
    title: str
    text: str
    count: int
    share: float
    effect: dict[str, float] | None


class AuditCase(NamedTuple):
    """What the checks share.

    Attributes:
      dataset: where the cases come from.
      cases: whom was asked what.
      judged: the systems, the model first.
      metric: the deciding one.
      seen_excluded: whether items of the history are not recommended.
      train: `[N]` bool, the events that the model was trained on.
      first_events: `[U]` int64 number of the event that is each user's first target.
      moments: `[U]` int64 time of each user's first target.
      values: `[U]` the deciding metric of the model.
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
    """A finding under its check's title, of `count` in `total`."""
    title = f"{CHECKS[key]}: {system}" if system else CHECKS[key]
    return Finding(key, severity, title, text, count, count / total, effect)


def lost(case: AuditCase, users: np.ndarray) -> dict[str, float]:
    """The change if all that the model found for these users were owed to the finding."""
    return {case.metric: changed(case.values, users, 0.0)}


def changed(values: np.ndarray, users: np.ndarray, to: float) -> float:
    """Change of the mean if the users for whom it is defined had the value `to`."""
    return mean_of_users(np.where(users & ~np.isnan(values), to, values)) - mean_of_users(values)


def without(case: AuditCase, users: np.ndarray) -> str:
    """The figure over the other users beside that over all, in words."""
    rest = mean_of_users(case.values[~users])
    return f"{rest:.4f} instead of {mean_of_users(case.values):.4f}" if np.isfinite(rest) else "left without any user"
