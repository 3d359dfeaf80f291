"""Evaluation cases whose histories end with a search, and whose target is the item of the event after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import DataError


def query_cases(
    sequences: Sequences, *, held_out: Bool[np.ndarray, " N"], candidates: Bool[np.ndarray, " V1"]
) -> EvaluationCases:
    """The evaluation cases of searches: each user's last held-out search that an event on an item, the target, follows.

    Args:
      sequences: U users in order.
      held_out: `[N]` bool, True for events that may belong to a case, both the search and the event after it.
      candidates: `[V+1]` bool, items that could be recommended.

    Returns:
      A case for each user who has such a search; the history ends with it.

    Raises:
      DataError: the log has no queries, or no user has such a search.
    """
    if sequences.query_ids is None:
        raise DataError("the log has no queries; read it with columns.query and cleaning.item_free_behaviors")
    users = sequences.users_of_events
    searches = held_out & (sequences.query_ids > 0) & (sequences.item_ids == 0)
    followed = np.zeros_like(searches)
    followed[:-1] = held_out[1:] & (sequences.item_ids[1:] > 0) & (users[1:] == users[:-1])
    places = np.flatnonzero(searches & followed)
    if not len(places):
        raise DataError("no user has a held-out search that is followed by an event on an item")
    last = np.append(users[places][1:] != users[places][:-1], True)
    places = places[last]
    keep = np.arange(len(users)) <= np.repeat(_by_user(places, users, sequences.num_users), sequences.lengths)
    histories = sequences.select_events(keep).select_users(users[places])
    return EvaluationCases(
        users=users[places],
        histories=histories,
        target_offsets=np.arange(len(places) + 1, dtype=np.int64),
        target_items=sequences.item_ids[places + 1],
        target_events=places + 1,
        candidates=candidates,
        users_without_history=0,
    )


def without_history(cases: EvaluationCases) -> EvaluationCases:
    """The same cases, each with the last event of its history alone: the query."""
    histories = cases.histories
    last = np.zeros(len(histories.item_ids), dtype=bool)
    last[histories.offsets[1:] - 1] = True
    return replace(cases, histories=histories.select_events(last))


def _by_user(places: np.ndarray, users: np.ndarray, num_users: int) -> np.ndarray:
    """`[U]` the place of each user, -1 where there is none."""
    of_users = np.full(num_users, -1, dtype=np.int64)
    of_users[users[places]] = places
    return of_users
