"""Searches in the simulated shop, before some of the visits that users make by themselves.

The query is drawn from the item, so it depends on the item's category, and the visits are the same as without searches.
Some queries mean one of two categories; which of them follows from the user's taste alone, that is, from the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.world import World

SEARCH = "search"
"""The behaviour of a search."""
_LONGEST_SECONDS = 20
_STREAM = 3  # of random numbers; the shop's own are seeded by (seed, 0), (seed, 1) and (seed, 2)
_SHARED_WORDS = ("gift", "refill", "stand", "cover", "kit", "strap", "case", "set")


class Searches(NamedTuple):
    """n searches, `[n]` each.

    Attributes:
      events: int64 place of the event that each led to, ascending.
      times: int64 seconds UTC, after the user's event before.
      queries: texts (str).
      intents: name of the category that the query means (str).
      ambiguous: bool, True if the query could mean another category as well.
    """

    events: np.ndarray
    times: np.ndarray
    queries: np.ndarray
    intents: np.ndarray
    ambiguous: np.ndarray


class Visited(NamedTuple):
    """Histories without their searches.

    Attributes:
      histories: the events on items of U users, N in all.
      queries: `[N]` int32 place in `texts` of the query of the search before each event, 0 = no search; None if
        searches are not logged.
      texts: `[Q+1]` queries (str), "" at place 0.
      last_queries: `[U]` int32 place in `texts` of the query of the search that the history ends with, 0 = no search.
      last_times: `[U]` int64 seconds UTC of the last event, search or not; 0 for a user without events.
    """

    histories: Sequences
    queries: np.ndarray | None
    texts: np.ndarray
    last_queries: np.ndarray
    last_times: np.ndarray


def without_searches(histories: Sequences) -> Visited:
    """The histories without their searches, for a log in which a search comes right before the visit that it led to."""
    ends = histories.offsets[1:] - 1
    last_queries, last_times = np.zeros(histories.num_users, np.int32), np.zeros(histories.num_users, np.int64)
    if histories.query_ids is None or histories.queries is None:
        return Visited(histories, None, np.array([""], dtype=object), last_queries, last_times)
    some = np.flatnonzero(histories.lengths > 0)
    last_queries[some], last_times[some] = histories.query_ids[ends[some]], histories.timestamps[ends[some]]
    before = np.zeros(len(histories.item_ids), np.int32)
    before[1:] = histories.query_ids[:-1]
    before[histories.offsets[:-1][some]] = 0  # else the last search of the user before
    visits = histories.query_ids == 0
    return Visited(histories.select_events(visits), before[visits], histories.queries, last_queries, last_times)


def ambiguous_words(num_categories: int) -> list[str | None]:
    """The word that each category shares with the one half the list further on; None for a last odd one.

    >>> ambiguous_words(5)
    ['gift', 'refill', 'gift', 'refill', None]
    """
    half = num_categories // 2
    return [*_SHARED_WORDS[:half], *_SHARED_WORDS[:half], *[None] * (num_categories - 2 * half)]


def draw_searches(
    world: World, *, users: np.ndarray, times: np.ndarray, items: np.ndarray, organic: np.ndarray
) -> Searches:
    """The drawn searches before some visits; the same arguments give the same searches.

    Unambiguous queries are the category, or the item's colour and the category.

    Args:
      world: the world of the shop.
      users: `[N]` int64 users of events in order of time.
      times: `[N]` int64 seconds UTC.
      items: `[N]` int64 world items.
      organic: `[N]` bool, True for views of an item that the user went to by themselves.
    """
    config = world.config
    rng = np.random.default_rng(_STREAM)
    chance, kind, colored = rng.random((3, len(times)))
    events = np.flatnonzero(organic & (chance < config.search))
    categories = np.array(sorted(set(world.categories)), dtype=object)
    words = np.array(ambiguous_words(len(categories)), dtype=object)
    intents = world.categories[items[events]]
    shared = words[np.searchsorted(categories, intents)]
    ambiguous = (kind[events] < config.ambiguous) & np.array([word is not None for word in shared], dtype=bool)
    colors = np.array([title.rpartition(" ")[2] for title in world.titles[items[events]]], dtype=object)
    plain = np.where(colored[events] < 0.5, intents, colors + " " + intents)
    return Searches(events, _times_before(users, times)[events], np.where(ambiguous, shared, plain), intents, ambiguous)


def query_probabilities(world: World, queries: Sequence[str] | np.ndarray) -> np.ndarray:
    """`[Q, V]` float64 probability of each query, given a search before a visit to each world item.

    A text that is not a query of this shop has probability 0, and so has "".

    Args:
      world: the world of the shop.
      queries: Q texts.
    """
    config = world.config
    categories = sorted(set(world.categories))
    words = dict(zip(categories, ambiguous_words(len(categories)), strict=True))
    shared = np.array([words[category] for category in world.categories], dtype=object)
    colors = np.array([title.rpartition(" ")[2] for title in world.titles], dtype=object)
    texts = np.asarray(queries, dtype=object)[:, None]
    ambiguous = np.where(shared == None, 0.0, config.ambiguous)  # noqa: E711 - elementwise
    plain = 0.5 * (texts == world.categories) + 0.5 * (texts == colors + " " + world.categories)
    return ambiguous * (texts == shared) + (1.0 - ambiguous) * plain


def times_after(searches: np.ndarray, last_times: np.ndarray) -> np.ndarray:
    """Times of the visits that searches lead to, to a second: a search is halfway to them, or at most 20 s before.

    Args:
      searches: `[n]` int64 seconds UTC of the searches.
      last_times: `[n]` int64 seconds UTC of the events before.

    Returns:
      `[n]` int64 seconds UTC.
    """
    return searches + np.minimum(searches - last_times, _LONGEST_SECONDS)


def _times_before(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`[N]` halfway back to the user's event before, at most some seconds back."""
    order = np.lexsort((times, users))
    gaps = np.full(len(times), 2 * _LONGEST_SECONDS, dtype=np.int64)
    same = users[order][1:] == users[order][:-1]
    gaps[order[1:][same]] = np.diff(times[order])[same]
    return times - np.minimum(gaps // 2, _LONGEST_SECONDS)
