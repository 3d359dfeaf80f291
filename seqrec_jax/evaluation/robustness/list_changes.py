"""Changes of a ranker's lists after single events.

- `stability`: the share of the list that stays when one event is added or removed
- `taste_change`: the number of events after which the list follows a change of taste
- `promotion`: the effect of one injected event on the rank of its item, as in an attack

All judge the same users with changed histories. Intervals are over users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.robustness import perturbations
from seqrec_jax.settings import check_value
from seqrec_jax.statistics import bootstrap_means

_DRAWS = 16  # attempts to find a donor, or an unseen item, for each user


def stability(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    k: int = 10,
    num_users: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The share of the list that stays when one event is added after the history, or its last one is removed.

    Args:
      ranker: the system.
      cases: the evaluation cases.
      config: the protocol.
      k: length of the lists, at most the largest cutoff.
      num_users: largest number of users, taken evenly over the cases.
      seed: of the random event.

    Returns:
      One row an event ("a random item", "the true next item", "the last event less"): `system`, `event`, `k`, `users`;
      `overlap`, `overlap_low`, `overlap_high`, the Jaccard index of the lists before and after; `unchanged`, the share
      of users whose list has the same items in the same order.
    """
    cases = spread_cases(cases, num_users)
    num_items = len(cases.candidates) - 1
    histories, rng = cases.histories, np.random.default_rng([seed, 0])
    last = np.zeros(len(histories.item_ids), dtype=bool)
    last[histories.offsets[1:][histories.lengths > 1] - 1] = True
    add = partial(perturbations.inject_item, histories, num_items=num_items, rng=rng)
    events = {
        "a random item": add(items=rng.choice(np.flatnonzero(cases.candidates), histories.num_users)),
        "the true next item": add(items=cases.target_items[cases.target_offsets[:-1]]),
        "the last event less": histories.select_events(~last),
    }
    k = min(k, max(config.cutoffs))
    before = judge(ranker, cases, config=config).lists[:, :k]
    after = [
        judge(ranker, replace(cases, histories=changed), config=config).lists[:, :k] for changed in events.values()
    ]
    overlaps = np.stack([list_overlaps(before, lists) for lists in after], axis=1)
    return pd.DataFrame(
        {
            "system": ranker.name,
            "event": list(events),
            "k": k,
            "users": len(before),
            **interval_columns(overlaps, config, "overlap"),
            "unchanged": [float((lists == before).all(axis=1).mean()) for lists in after],
        }
    )


def taste_change(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    counts: Sequence[int] = (1, 2, 3, 5, 10),
    k: int = 10,
    item_groups: Int[np.ndarray, " V1"] | None = None,
    num_users: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The user's list after the last events of another user, the donor, are appended to the user's history.

    Donors are drawn from the users with at least `max(counts)` events, if there are two. `adopted` is the position of
    the list between that of a stranger (0) and the donor's own (1).

    Args:
      ranker: the system.
      cases: the evaluation cases.
      config: the protocol.
      counts: rising numbers of the donor's last events, from 1 on.
      k: length of the lists, at most the largest cutoff.
      item_groups: `[V+1]` integer category of each item; a donor's most frequent category then differs from the user's.
        None takes any other user.
      num_users: largest number of users, taken evenly over the cases.
      seed: of the choice of donors.

    Returns:
      One row a count, from 0 on: `system`, `events`, `k`, `users`; `donor_overlap` and `own_overlap`, the Jaccard index
      of the list with the donor's list and with the user's list before; `adopted`; each with `_low` and `_high`.

    Raises:
      ConfigError: counts that do not rise from 1.
      DataError: no user has a donor.
    """
    counts = (0, *counts)
    if any(late <= early for early, late in pairwise(counts)):
        raise ConfigError(f"counts must rise from at least 1, got {counts[1:]}")
    cases = spread_cases(cases, num_users)
    users, donors = _donors(cases.histories, max(counts), item_groups, np.random.default_rng([seed, 1]))
    k = min(k, max(config.cutoffs))
    lists = judge(ranker, cases, config=config).lists[:, :k]
    own, given = select_cases(cases, users), cases.histories.select_users(donors)
    from_end = np.repeat(given.offsets[1:], given.lengths) - np.arange(len(given.item_ids))
    donor_overlaps, own_overlaps = np.empty((2, len(users), len(counts)))
    for column, count in enumerate(counts):
        now = lists[users]
        if count:
            histories = perturbations.append_events(own.histories, given.select_events(from_end <= count))
            now = judge(ranker, replace(own, histories=histories), config=config).lists[:, :k]
        donor_overlaps[:, column] = list_overlaps(now, lists[donors])
        own_overlaps[:, column] = list_overlaps(now, lists[users])
    gained, possible = donor_overlaps - donor_overlaps[:, :1], 1 - donor_overlaps[:, 0]
    return pd.DataFrame(
        {
            "system": ranker.name,
            "events": counts,
            "k": k,
            "users": len(users),
            **interval_columns(donor_overlaps, config, "donor_overlap"),
            **interval_columns(own_overlaps, config, "own_overlap"),
            **interval_columns(ratio_values(gained, possible), config, "adopted"),
        }
    )


def promotion(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    k: int = 10,
    neighbors: Int[np.ndarray, " V1"] | None = None,
    place: Literal["last", "random"] = "last",
    num_users: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The rise of an item, and of its neighbour, in the user's list after one injected event of the item.

    Each user gets a random item of the unseen candidates. Seen items are kept here under any protocol, since the
    injected item itself is ranked.

    Args:
      ranker: the system.
      cases: the evaluation cases.
      config: the protocol.
      k: length of the lists.
      neighbors: `[V+1]` integer neighbour of each item, 0 = none, such as the nearest by vectors; None takes the most
        frequent next item in the histories.
      place: "last" puts the event after the history, "random" anywhere in it.
      num_users: largest number of users, taken evenly over the cases.
      seed: of the items.

    Returns:
      One row for "the item itself" and one for "its neighbour": `system`, `promoted`, `k`, `users`; median ranks
      `rank_before` and `rank_after`; `gain`, the number of places that the item rose; `listed_before` and
      `listed_after`, the share of lists of k with it; the last three with `_low` and `_high`. An item that cannot be
      ranked counts as behind all candidates.

    Raises:
      DataError: all users have seen all candidates.
    """
    num_items = len(cases.candidates) - 1
    if neighbors is None:
        neighbors = followers(cases.histories, num_items=num_items)
    cases = spread_cases(cases, num_users)
    rng = np.random.default_rng([seed, 2])
    histories = cases.histories
    drawn = rng.choice(np.flatnonzero(cases.candidates), (histories.num_users, _DRAWS))
    users, items = _first_unseen(cases, drawn)
    if not len(users):
        raise DataError(f"all {histories.num_users} users have seen all items drawn for them; promotion needs new ones")
    cases = select_cases(cases, users)
    changed = perturbations.inject_item(cases.histories, num_items=num_items, rng=rng, items=items, place=place)
    config = replace(config, seen_items="kept", metric=f"hit_rate@{max(config.cutoffs)}", gains={})
    rows = []
    for name, promoted in (("the item itself", items), ("its neighbour", neighbors[items])):
        near, wanted = _first_unseen(cases, promoted[:, None])
        row = {"system": ranker.name, "promoted": name, "k": k, "users": len(near)}
        if len(near):
            single = _with_targets(select_cases(cases, near), wanted)
            before, after = (
                _last_where_unranked(judge(ranker, replace(single, histories=histories), config=config).ranks, single)
                for histories in (single.histories, changed.select_users(near))
            )
            figures = np.stack([before - after, before <= k, after <= k], axis=1).astype(np.float64)
            row |= {"rank_before": np.median(before), "rank_after": np.median(after)}
            for column, figure in enumerate(("gain", "listed_before", "listed_after")):
                row |= {key: ends[0] for key, ends in interval_columns(figures[:, [column]], config, figure).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def spread_cases(cases: EvaluationCases, num_users: int) -> EvaluationCases:
    """At most `num_users` of the cases, taken evenly; the very cases where there are no more.

    Raises:
      ConfigError: num_users < 1.
    """
    check_value("num_users", num_users, "[1, inf)")
    count = len(cases.users)
    return cases if count <= num_users else select_cases(cases, np.arange(num_users) * count // num_users)


def select_cases(cases: EvaluationCases, users: Int[np.ndarray, " U2"]) -> EvaluationCases:
    """The cases at the given places `[U']` in 0…U-1, in that order."""
    counts = cases.num_targets[users]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = cases.targets_of(users)
    return replace(
        cases,
        users=cases.users[users],
        histories=cases.histories.select_users(users),
        target_offsets=offsets,
        target_items=cases.target_items[places],
        target_events=cases.target_events[places],
        target_gains=None if cases.target_gains is None else cases.target_gains[places],
        user_candidates=None if cases.user_candidates is None else cases.user_candidates.select_users(users),
    )


def list_overlaps(lists: Int[np.ndarray, "U K"], others: Int[np.ndarray, "U K"]) -> Float[np.ndarray, " U"]:
    """`[U]` float64 Jaccard index of two lists of each user: items in both over items in any; 0 = an empty place.

    >>> list_overlaps(np.array([[1, 2, 3]]), np.array([[3, 4, 1]]))
    array([0.5])
    """
    both = ((lists[:, :, None] == others[:, None, :]) & (lists > 0)[:, :, None]).any(axis=2).sum(axis=1)
    any_of_them = (lists > 0).sum(axis=1) + (others > 0).sum(axis=1) - both
    return np.where(any_of_them > 0, both / np.maximum(any_of_them, 1), 1.0)


def followers(histories: Sequences, *, num_items: int) -> Int[np.ndarray, " V1"]:
    """`[V+1]` int64 most frequent next item after each item, the smaller number of equals; 0 = none."""
    follows = np.diff(histories.users_of_events) == 0
    before, after = histories.item_ids[:-1][follows], histories.item_ids[1:][follows]
    real = (before > 0) & (after > 0) & (before != after)
    pairs, counts = np.unique(before[real].astype(np.int64) * (num_items + 1) + after[real], return_counts=True)
    first, second = np.divmod(pairs, num_items + 1)
    order = np.lexsort((-second, counts, first))  # of several writes to one place the last stays
    found = np.zeros(num_items + 1, dtype=np.int64)
    found[first[order]] = second[order]
    return found


def interval_columns(values: Float[np.ndarray, "U M"], config: EvaluationConfig, name: str) -> dict[str, np.ndarray]:
    """Columns of the means of `[U, M]` values over users, with the ends of their intervals."""
    interval = bootstrap_means(values, num_resamples=config.num_resamples, seed=config.seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def ratio_values(numerators: Float[np.ndarray, "U M"], denominators: Float[np.ndarray, " U"]) -> np.ndarray:
    """`[U, M]` values whose mean is mean(numerators) / mean(denominators), and whose spread is that of the ratio.

    The ratio is linearised in each user around its value (delta method), so that resampling means gives its interval.
    """
    both = ~np.isnan(numerators) & ~np.isnan(denominators)[:, None]
    counts = np.maximum(both.sum(axis=0), 1)
    top = np.where(both, numerators, 0.0).sum(axis=0) / counts
    bottom = np.where(both, denominators[:, None], 0.0).sum(axis=0) / counts
    bottom = np.where(bottom > 0, bottom, np.nan)
    ratios = top / bottom
    return np.where(both, ratios + (numerators - ratios * denominators[:, None]) / bottom, np.nan)


def _donors(
    histories: Sequences, length: int, item_groups: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Users and a donor for each, of another group, with at least `length` events if two users have so many."""
    users = np.arange(histories.num_users)
    able = np.flatnonzero(histories.lengths >= length)
    if len(able) < 2:
        able = np.flatnonzero(histories.lengths)
    groups = users if item_groups is None else _commonest_groups(histories, item_groups)
    found = np.zeros((len(users), _DRAWS), dtype=bool)
    if len(able):
        drawn = rng.choice(able, found.shape)
        found = groups[drawn] != groups[:, None]
    has = found.any(axis=1)
    if not has.any():
        raise DataError(f"none of {len(users)} users has another with a different taste; take more users, or no groups")
    return users[has], drawn[has, found[has].argmax(axis=1)]


def _commonest_groups(histories: Sequences, item_groups: np.ndarray) -> np.ndarray:
    """`[U]` the group with the most events of each user, -1 for users without items."""
    real = histories.item_ids > 0
    groups = item_groups[histories.item_ids[real]]
    pairs, counts = np.unique(np.stack([histories.users_of_events[real], groups]), axis=1, return_counts=True)
    order = np.lexsort((counts, pairs[0]))  # of several writes to one place the last stays
    commonest = np.full(histories.num_users, -1, dtype=np.int64)
    commonest[pairs[0, order]] = pairs[1, order]
    return commonest


def _first_unseen(cases: EvaluationCases, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The users with a candidate among their items `[U, D]` that is not in their history, and the first of each."""
    rows, flat = np.repeat(np.arange(len(items)), items.shape[1]), items.reshape(-1)
    new = (~cases.histories.contain(rows, flat) & cases.are_candidates(rows, flat)).reshape(items.shape)
    users = np.flatnonzero(new.any(axis=1))
    return users, items[users, new[users].argmax(axis=1)]


def _last_where_unranked(ranks: np.ndarray, cases: EvaluationCases) -> np.ndarray:
    """`[U]` float64 ranks of one target a user, behind all candidates where it cannot be ranked."""
    return np.asarray(np.minimum(ranks, cases.num_candidates), dtype=np.float64)


def _with_targets(cases: EvaluationCases, items: np.ndarray) -> EvaluationCases:
    """The cases with one given target each, which belongs to no event."""
    return replace(
        cases,
        target_offsets=np.arange(len(items) + 1, dtype=np.int64),
        target_items=items.astype(np.int32),
        target_events=np.full(len(items), -1, dtype=np.int64),
        target_gains=None,
    )
