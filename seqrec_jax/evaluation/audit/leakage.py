"""Checks of the audit for information that leaks into training or candidates, and for ambiguous targets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.audit.findings import AuditCase, Finding, Severity, changed, finding, lost, without
from seqrec_jax.evaluation.judging import mean_of_users

_SHORTEST_TWIN = 3  # events from which two identical sequences are no coincidence to be expected
_ROWS = 2**16
_EVENTS = 2**22


def trained_targets(case: AuditCase) -> Iterator[Finding]:
    """Targets among the events of training."""
    trained = case.train[case.cases.target_events]
    if count := int(trained.sum()):
        users = np.add.reduceat(trained.astype(np.int64), case.cases.target_offsets[:-1]) > 0
        text = (
            f"{count:,} of {len(trained):,} targets are among the events that the model was trained on; without the "
            f"users concerned {case.metric} is {without(case, users)}."
        )
        yield finding("targets_trained_on", "error", text, count, len(trained), lost(case, users))


def own_future(case: AuditCase) -> Iterator[Finding]:
    """Users with training events after their first target, by the order of their sequence."""
    first = np.full(case.dataset.sequences.num_users, np.iinfo(np.int64).max)
    first[case.cases.users] = case.first_events
    users = case.dataset.sequences.users_of_events
    later = case.train & (np.arange(len(users)) > first[users])
    affected = np.bincount(users[later], minlength=len(first))[case.cases.users] > 0
    if count := int(affected.sum()):
        text = (
            f"Of {count:,} of {len(affected):,} evaluated users, training saw {int(later.sum()):,} events after their "
            f"target, so the model knows their future; without them {case.metric} is {without(case, affected)}."
        )
        yield finding("own_future", "error", text, count, len(affected), lost(case, affected))


def later_events(case: AuditCase) -> Iterator[Finding]:
    """Training events, of any user, that are later than a user's recommendation."""
    times = np.sort(case.dataset.sequences.timestamps[case.train])
    count = len(times) - int(np.searchsorted(times, case.moments.min(), side="right"))
    if not count:
        return
    later = len(times) - np.searchsorted(times, case.moments, side="right")
    affected = later > 0
    median = np.median(later)
    halves = [mean_of_users(case.values[rows]) for rows in (later <= median, later > median)]
    beside = f" {case.metric} is {halves[0]:.4f} for the half of users with the fewest of them"
    beside += f" and {halves[1]:.4f} for the others." if np.isfinite(halves[1]) else ", all alike."
    rule = case.dataset.split.config.rule
    timeline = rule == "global_timeline"
    text = (
        f"{count:,} of {len(times):,} training events ({count / len(times):.1%}) are later than the earliest test "
        f"target. For {affected.mean():.1%} of the users training saw what others did after the recommendation, on "
        f"average {later.mean() / len(times):.1%} of all training events.{beside}"
    )
    text += (
        " A global timeline should have none."
        if timeline
        else f" The rule {rule} has this by design; split by a global timeline to see what it is worth."
    )
    severity: Severity = "error" if timeline else "warning"
    yield finding("later_events", severity, text, count, len(times), lost(case, affected))


def unborn_items(case: AuditCase) -> Iterator[Finding]:
    """Candidates, targets and listed items whose first event is later than the recommendation."""
    never = np.iinfo(np.int64).max
    births = np.append(never, case.dataset.items["first_timestamp"].to_numpy(dtype=np.int64))
    births[births == never] = np.iinfo(np.int64).min  # items without events count as always there
    unborn = _unborn_candidates(case, births)
    targets = int((births[case.cases.target_items] > np.repeat(case.moments, case.cases.num_targets)).sum())
    affected = unborn > 0
    if not (affected.any() or targets):
        return
    model = case.judged[0]
    width = model.lists.shape[1]
    above = np.zeros(len(model.ranks), dtype=np.int64)
    places = filled = 0
    for start in range(0, len(model.lists), _ROWS):
        rows = slice(start, start + _ROWS)
        ahead = births[model.lists[rows]] > case.moments[rows, None]
        ahead &= model.lists[rows] > 0
        places, filled = places + int(ahead.sum()), filled + int((model.lists[rows] > 0).sum())
        offsets = case.cases.target_offsets[start : start + _ROWS + 1]
        ranks = model.ranks[offsets[0] : offsets[-1]]
        before = np.pad(np.cumsum(ahead, axis=1), ((0, 0), (1, 0)))
        of_target = np.repeat(np.arange(len(ahead)), np.diff(offsets))
        above[offsets[0] : offsets[-1]] = before[of_target, np.minimum(ranks - 1, width)] * (ranks <= width)
    moved = metric_of_ranks(case.metric, (model.ranks - above).astype(np.int32), case.cases)
    change = np.nan if moved is None else mean_of_users(moved) - mean_of_users(case.values)
    if not affected.any():
        text = (
            f"{targets:,} of {len(case.cases.target_items):,} targets are items whose first event is later than the "
            "recommendation; they are no candidates then and count as misses."
        )
        yield finding("unborn_items", "info", text, targets, len(case.cases.target_items), None)
        return
    text = (
        f"For {int(affected.sum()):,} of {len(affected):,} users the candidates include items whose first event is "
        f"later than the recommendation, on average {unborn.mean():,.1f} of "
        f"{case.cases.num_candidates.mean():,.0f}; they take {places:,} of "
        f"{filled:,} places in the lists of {model.name}, and {targets:,} targets are such items."
    )
    effect = None
    if np.isfinite(change):
        text += f" Without them {case.metric} would change by {change:+.4f} for the targets that are in the lists."
        effect = {case.metric: float(change)}
    yield finding("unborn_items", "warning", text, int(affected.sum()), len(affected), effect)


def _unborn_candidates(case: AuditCase, births: np.ndarray) -> np.ndarray:
    """`[U]` int64 number of each user's candidates whose first event is later than the recommendation."""
    if case.cases.user_candidates is None:
        known = np.sort(births[case.cases.candidates])
        return len(known) - np.searchsorted(known, case.moments, side="right")
    unborn = np.zeros(len(case.cases.users), dtype=np.int64)
    rows = max(1, _EVENTS // len(births))
    for start in range(0, len(unborn), rows):
        users = np.arange(start, min(start + rows, len(unborn)))
        later = births > case.moments[users, None]
        unborn[users] = (case.cases.candidate_mask(users) & later).sum(axis=1)
    return unborn


def ambiguous_targets(case: AuditCase) -> Iterator[Finding]:
    """Users with other events at the time of their first target, where only the order of rows decides the target."""
    sequences, cases = case.dataset.sequences, case.cases
    row_of_user = np.full(sequences.num_users, -1)
    row_of_user[cases.users] = np.arange(len(cases.users))
    rows = row_of_user[sequences.users_of_events]
    tied = np.flatnonzero((rows >= 0) & case.dataset.split.targets & (sequences.timestamps == case.moments[rows]))
    base = len(cases.candidates)
    wanted = np.repeat(np.arange(len(cases.users)), cases.num_targets) * base + cases.target_items
    pairs = np.unique(rows[tied] * base + sequences.item_ids[tied])
    pairs = pairs[~np.isin(pairs, wanted)]
    users, items = pairs // base, pairs % base
    ambiguous = np.bincount(users, minlength=len(cases.users)) > 0
    if not (count := int(ambiguous.sum())):
        return
    mean = mean_of_users(case.values)
    low, high = (changed(case.values, ambiguous, value) for value in (0.0, 1.0))
    text = (
        f"{count:,} of {len(ambiguous):,} users have other events at the very time of their first target, "
        f"{len(pairs):,} items that the order of rows alone keeps from being the target; if all these users missed "
        f"or all hit, {case.metric} would be {mean + low:.4f} or {mean + high:.4f}."
    )
    # a list decides exactly what another target of the same user would have given
    gains = metric_of_ranks(case.metric, _ranks_in_lists(case.judged[0].lists, users, items), _one_each(items, cases))
    if gains is not None and (cases.num_targets[ambiguous] == 1).all():
        worst, best = case.values.copy(), case.values.copy()
        np.minimum.at(worst, users, gains)
        np.maximum.at(best, users, gains)
        low, high = mean_of_users(worst) - mean, mean_of_users(best) - mean
        choices = np.bincount(users, minlength=len(worst)) + 1
        average = mean_of_users((case.values + np.bincount(users, weights=gains, minlength=len(worst))) / choices)
        text += (
            f" By the lists as they stand, any choice among these items gives {mean + low:.4f} to {mean + high:.4f}, "
            f"and a random one {average:.4f} on average."
        )
        if case.seen_excluded:
            text += " A choice that the history already has counts as a miss there, since seen items are excluded."
    largest = low if -low > high else high
    severity: Severity = "warning" if max(-low, high) > 0 else "info"
    yield finding("ambiguous_targets", severity, text, count, len(ambiguous), {case.metric: float(largest)})


def duplicate_users(case: AuditCase) -> Iterator[Finding]:
    """Evaluated users whose whole sequence, items and behaviours in order, is another user's as well."""
    twins = np.zeros(case.dataset.sequences.num_users, dtype=bool)
    twins[_twins(case.dataset.sequences)] = True
    affected = twins[case.cases.users]
    if count := int(affected.sum()):
        text = (
            f"{count:,} of {len(affected):,} evaluated users have exactly the items and behaviours of another user (at "
            f"least {_SHORTEST_TWIN} events), whose sequence gives their target away; without them {case.metric} is "
            f"{without(case, affected)}."
        )
        severity: Severity = "warning" if affected.mean() > 0.01 else "info"
        yield finding("duplicate_users", severity, text, count, len(affected), lost(case, affected))


def metric_of_ranks(metric: str, ranks: np.ndarray, cases: EvaluationCases) -> np.ndarray | None:
    """`[U]` float64 values of a metric at k from ranks `[T]` of all targets; None for one that needs more (auc)."""
    stem, _, k = metric.partition("@")
    measure = metrics.RANKING_METRICS.get("hit_rate" if metric == "accuracy@1" else stem)
    if measure is None:
        return None
    values = np.empty(len(cases.users))
    size = max(1, _EVENTS // int(cases.num_targets.max(initial=1)))
    for start in range(0, len(values), size):
        users = np.arange(start, min(start + size, len(values)))
        padded = cases.padded(ranks, users)
        values[users] = measure(padded, k=int(k), where=padded > 0)
    return values


def _ranks_in_lists(lists: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """`[A]` int32 place of each item in its user's list, `MISSING_RANK` where it is not listed."""
    ranks = np.full(len(items), metrics.MISSING_RANK, dtype=np.int32)
    for start in range(0, len(items), _ROWS):
        rows = slice(start, start + _ROWS)
        found = lists[users[rows]] == items[rows, None]
        ranks[rows] = np.where(found.any(axis=1), found.argmax(axis=1) + 1, metrics.MISSING_RANK)
    return ranks


def _one_each(items: np.ndarray, cases: EvaluationCases) -> EvaluationCases:
    """Cases of as many users as items, with one target each, for `metric_of_ranks`."""
    return EvaluationCases(
        users=np.arange(len(items)),
        histories=cases.histories,
        target_offsets=np.arange(len(items) + 1),
        target_items=items.astype(np.int32),
        target_events=np.zeros(len(items), dtype=np.int64),
        candidates=cases.candidates,
        users_without_history=0,
    )


def _twins(sequences: Sequences) -> np.ndarray:
    """Users with at least `_SHORTEST_TWIN` events whose items and behaviours another user has in the same order."""
    hashes = _sequence_hashes(sequences)
    long = np.flatnonzero(sequences.lengths >= _SHORTEST_TWIN)
    keys = pd.DataFrame({"hash": hashes[long], "length": sequences.lengths[long]})
    first = keys.groupby(["hash", "length"]).ngroup().to_numpy()
    _, where, group = np.unique(first, return_index=True, return_inverse=True)
    partner = long[where[group.reshape(-1)]]
    twin, partner = long[partner != long], partner[partner != long]
    # the hash only proposes: what is counted is equal
    same = [np.zeros(0, dtype=bool)]
    for start in range(0, len(twin), _ROWS):
        a, b = (sequences.select_users(users[start : start + _ROWS]) for users in (twin, partner))
        equal = (a.item_ids == b.item_ids) & (a.behaviors == b.behaviors)
        same.append(np.add.reduceat(equal.astype(np.int64), a.offsets[:-1]) == a.lengths)
    equal = np.concatenate(same)
    return np.union1d(twin[equal], partner[equal])


def _sequence_hashes(sequences: Sequences) -> np.ndarray:
    """`[U]` uint64 polynomial hash of each user's items and behaviours in order, in blocks of users."""
    hashes = np.zeros(sequences.num_users, dtype=np.uint64)
    powers = np.cumprod(np.full(int(sequences.lengths.max(initial=0)), 0x9E3779B97F4A7C15, dtype=np.uint64))
    for start in range(0, sequences.num_users, _ROWS):
        offsets = sequences.offsets[start : start + _ROWS + 1]
        events = slice(offsets[0], offsets[-1])
        places = np.arange(events.start, events.stop) - np.repeat(offsets[:-1], np.diff(offsets))
        mixed = sequences.item_ids[events].astype(np.uint64) * np.uint64(256)
        mixed += sequences.behaviors[events].astype(np.uint64) + np.uint64(1)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
        sums = np.append(np.uint64(0), np.cumsum(mixed * powers[places]))
        hashes[start : start + len(offsets) - 1] = np.diff(sums[offsets - offsets[0]])
    return hashes
