"""How a ranker's lists answer to single events.

- `stability`: how much of the list stays when one event comes or goes
- `taste_change`: how soon the list follows a user who turns to another user's taste
- `promotion`: what one injected event does for an item, as an adversary would want it

All judge the same users with other histories. Intervals are over users.
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

_DRAWS = 16  # tries to find each user a donor, or an item that they have not seen


def stability(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    k: int = 10,
    num_users: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the list stays when one event comes behind the history, or its last one goes.

    Args:
      ranker: whose lists.
      cases: of whom.
      config: the protocol.
      k: length of the lists, at most the largest cutoff.
      num_users: of these users at most, evenly spread over the cases.
      seed: of the random event.

    Returns:
      A row an event ("a random item", "the true next item", "the last event less"): system, event, k, users; overlap,
      overlap_low, overlap_high, the share (Jaccard) of the list that stays; unchanged, the share of users whose list
      has the same items in the same order.
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
    """How soon a user's list becomes that of a donor, whose last events come behind the user's own.

    Donors are drawn from the users who have the most events asked for, where two have. `adopted` is where the list
    stands between that of a stranger (0) and the donor's own (1).

    Args:
      ranker: whose lists.
      cases: of whom.
      config: the protocol.
      counts: how many of the donor's last events, rising.
      k: length of the lists, at most the largest cutoff.
      item_groups: `[V+1]` category of each item; a donor's commonest category is then another than the user's. None
        takes any other user.
      num_users: of these users at most, evenly spread over the cases.
      seed: of the choice of donors.

    Returns:
      A row a count, from 0 on: system, events, k, users; donor_overlap and own_overlap, the share (Jaccard) of the
      list that is in the donor's and in the user's own of before; adopted; each with `_low` and `_high`.

    Raises:
      ConfigError: counts that do not rise from 1.
      DataError: nobody has a donor.
    """
    counts = (0, *counts)
    if any(late <= early for early, late in pairwise(counts)):
        raise ConfigError(f"counts must rise from at least 1, got {counts[1:]}")
    cases = spread_cases(cases, num_users)
    users, donors = _donors(cases.histories, max(counts), item_groups, np.random.default_rng([seed, 1]))
    k = min(k, max(config.cutoffs))
    lists = judge(ranker, cases, config=config).lists[:, :k]
    asked, given = select_cases(cases, users), cases.histories.select_users(donors)
    from_end = np.repeat(given.offsets[1:], given.lengths) - np.arange(len(given.item_ids))
    donor_overlaps, own_overlaps = np.empty((2, len(users), len(counts)))
    for column, count in enumerate(counts):
        now = lists[users]
        if count:
            histories = perturbations.append_events(asked.histories, given.select_events(from_end <= count))
            now = judge(ranker, replace(asked, histories=histories), config=config).lists[:, :k]
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
    """How far one injected event lifts its item, and the item's neighbour, in the user's list.

    Every user gets another item, drawn from the candidates that they have not seen; seen items are kept here, whatever
    the protocol says, since the injected one is asked for.

    Args:
      ranker: whose lists.
      cases: of whom.
      config: the protocol.
      k: length of the lists.
      neighbors: `[V+1]` an item near to each, 0 = none, such as the nearest by vectors; None takes the item that came
        next most often in the histories.
      place: where the event is put in.
      num_users: of these users at most, evenly spread over the cases.
      seed: of the items.

    Returns:
      A row for "the item itself" and "its neighbour": system, promoted, k, users; median ranks rank_before and
      rank_after; gain, how many places the item rose; listed_before and listed_after, the share of lists of k with it;
      the last three with `_low` and `_high`. An item that cannot be ranked stands behind all candidates.

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
            ask = _asking(select_cases(cases, near), wanted)
            lasts = ask.num_candidates
            before, after = (
                np.minimum(judge(ranker, replace(ask, histories=asked), config=config).ranks, lasts).astype(np.float64)
                for asked in (ask.histories, changed.select_users(near))
            )
            figures = np.stack([before - after, before <= k, after <= k], axis=1).astype(np.float64)
            row |= {"rank_before": np.median(before), "rank_after": np.median(after)}
            for column, figure in enumerate(("gain", "listed_before", "listed_after")):
                row |= {key: ends[0] for key, ends in interval_columns(figures[:, [column]], config, figure).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def spread_cases(cases: EvaluationCases, num_users: int) -> EvaluationCases:
    """At most so many of the cases, evenly spread; all of them are given back as they are.

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
    """Jaccard's share of two lists of each user, items in both over items in any; 0 = an empty place.

    >>> list_overlaps(np.array([[1, 2, 3]]), np.array([[3, 4, 1]]))
    array([0.5])
    """
    both = ((lists[:, :, None] == others[:, None, :]) & (lists > 0)[:, :, None]).any(axis=2).sum(axis=1)
    any_of_them = (lists > 0).sum(axis=1) + (others > 0).sum(axis=1) - both
    return np.where(any_of_them > 0, both / np.maximum(any_of_them, 1), 1.0)


def followers(histories: Sequences, *, num_items: int) -> Int[np.ndarray, " V1"]:
    """`[V+1]` int64 the other item that came next most often after each, the smaller id of equals; 0 = none did."""
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
    """Columns of means over users with the ends of their intervals."""
    interval = bootstrap_means(values, num_resamples=config.num_resamples, seed=config.seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def ratio_values(numerators: Float[np.ndarray, "U M"], denominators: Float[np.ndarray, " U"]) -> np.ndarray:
    """`[U, M]` values whose mean is mean(numerators) / mean(denominators), and whose spread is that of the ratio.

    The ratio is made linear in each user around its value (delta method), so that what resamples means gives its
    interval.
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
    """Users, and for each another one of another group, with at least so many events where two have them."""
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


def _asking(cases: EvaluationCases, items: np.ndarray) -> EvaluationCases:
    """The cases with one given target each, which comes from no event."""
    return replace(
        cases,
        target_offsets=np.arange(len(items) + 1, dtype=np.int64),
        target_items=items.astype(np.int32),
        target_events=np.full(len(items), -1, dtype=np.int64),
        target_gains=None,
    )
