"""Searches in the simulated shop: what a user who goes to an item by themselves may have asked for before.

The query is drawn from the item, so a search tells of the item's category and the visits stay what they are without
searches. Some queries mean one of two categories: which one, only the user's taste tells, that is, the history.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqrec_jax.data.shop_world import World

SEARCH = "search"
"""The behaviour of a search."""
_LONGEST_SECONDS = 20
_STREAM = 3  # of random numbers; the shop's own are seeded by (seed, 0), (seed, 1) and (seed, 2)
_SHARED_WORDS = ("gift", "refill", "stand", "cover", "kit", "strap", "case", "set")


class Searches(NamedTuple):
    """`[n]` searches.

    Attributes:
      events: int64 place of the event that each led to, ascending.
      times: int64 seconds UTC, after the user's event before.
      queries: texts.
      intents: category that the query means.
      ambiguous: bool, the query could mean another category as well.
    """

    events: np.ndarray
    times: np.ndarray
    queries: np.ndarray
    intents: np.ndarray
    ambiguous: np.ndarray


def ambiguous_words(num_categories: int) -> list[str | None]:
    """The word that each category shares with the one half the list further on; None for one that is left over.

    >>> ambiguous_words(5)
    ['gift', 'refill', 'gift', 'refill', None]
    """
    half = num_categories // 2
    return [*_SHARED_WORDS[:half], *_SHARED_WORDS[:half], *[None] * (num_categories - 2 * half)]


def draw_searches(
    world: World, *, users: np.ndarray, times: np.ndarray, items: np.ndarray, organic: np.ndarray
) -> Searches:
    """Which visits began with a search, and what it said.

    Unambiguous queries are the category, or the item's colour and the category.

    Args:
      world: of the shop.
      users: `[N]` of events in order of time.
      times: `[N]` seconds UTC.
      items: `[N]` world items.
      organic: `[N]` bool, views of an item that the user went to by themselves.
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


def _times_before(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`[N]` halfway back to the user's event before, at most some seconds back."""
    order = np.lexsort((times, users))
    gaps = np.full(len(times), 2 * _LONGEST_SECONDS, dtype=np.int64)
    same = users[order][1:] == users[order][:-1]
    gaps[order[1:][same]] = np.diff(times[order])[same]
    return times - np.minimum(gaps // 2, _LONGEST_SECONDS)
