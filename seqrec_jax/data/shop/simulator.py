"""The simulated shop from its first day to its last: its log, catalogue and truth as tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.searches import SEARCH, Searches, draw_searches
from seqrec_jax.data.shop.steps import (
    ORGANIC,
    SOURCES,
    Exposures,
    Policy,
    Responses,
    State,
    init_shop,
    logging_policy,
    step,
    users_due,
    users_on_page,
)
from seqrec_jax.data.shop.world import BEHAVIORS, ShopConfig, World

__all__ = [
    "BEHAVIORS",
    "SOURCES",
    "Exposures",
    "Policy",
    "Responses",
    "ShopConfig",
    "SimulatedShop",
    "State",
    "World",
    "init_shop",
    "logging_policy",
    "run_shop",
    "shop_tables",
    "simulate",
    "step",
    "user_histories",
    "users_due",
    "users_on_page",
]


class SimulatedShop(NamedTuple):
    """A whole run as tables.

    Attributes:
      world: the part of the shop that does not change.
      events: user_id, item_id, timestamp, behavior, session_id, value (price of a purchase); in order of time. With
        searches also query, and rows of the behaviour "search" without item.
      items: item_id, title, category, price, available_from (timestamp), and rating with `ratings`; one row an item of
        the world.
      impressions: user_id, item_id, timestamp, position (from 1), propensity, response (1 = viewed).
      truth: user_id, timestamp, taste, source; the hidden side of each row of `events`. With searches also intent, the
        category that a search means, and ambiguous.
    """

    world: World
    events: pd.DataFrame
    items: pd.DataFrame
    impressions: pd.DataFrame
    truth: pd.DataFrame


def run_shop(world: World, state: State, policy: Policy, rng: np.random.Generator) -> State:
    """The state after all events before `state.until`.

    Args:
      world: the world.
      state: the state to begin with, not changed.
      policy: function that shows a page to the users on it at each step.
      rng: generator of random numbers, advanced.
    """
    while len(users_due(state)):
        state, _ = step(world, state, policy(world, state, rng), rng)
    return state


def simulate(config: ShopConfig, seed: int, *, policy: Policy = logging_policy) -> SimulatedShop:
    """The tables of a shop from its first to its last day; the same arguments give the same tables.

    Args:
      config: the settings.
      seed: seed of every random number, at least 0.
      policy: function that shows a page to the users on it at each step.

    Raises:
      ConfigError: a negative seed.

    >>> shop = simulate(ShopConfig(num_users=50, num_items=40, num_days=14), 0)
    >>> list(shop.events.columns)
    ['user_id', 'item_id', 'timestamp', 'behavior', 'session_id', 'value']
    """
    world, state = init_shop(config, seed)
    state = run_shop(world, state, policy, np.random.default_rng([seed, 2]))
    return shop_tables(world, state)


def shop_tables(world: World, state: State) -> SimulatedShop:
    """The events so far as tables in order of time, then of user."""
    log = state.log
    users, times, items = (_joined(log, name) for name in ("users", "times", "items"))
    order = np.lexsort((users, times))
    users, times, items = users[order], times[order], items[order]
    behaviors, sessions, tastes, sources = (
        _joined(log, name)[order] for name in ("behaviors", "sessions", "tastes", "sources")
    )
    session_ids = np.unique(users * (sessions.max(initial=0) + 1) + sessions, return_inverse=True)[1]
    events = pd.DataFrame(
        {
            "user_id": world.user_ids[users],
            "item_id": world.item_ids[items],
            "timestamp": times,
            "behavior": np.array(BEHAVIORS, dtype=object)[behaviors],
            "session_id": session_ids,
            "value": np.where(behaviors == BEHAVIORS.index("purchase"), world.prices[items], np.nan),
        }
    )
    truth = pd.DataFrame(
        {
            "user_id": events["user_id"],
            "timestamp": times,
            "taste": tastes,
            "source": np.array(SOURCES, dtype=object)[sources],
        }
    )
    if world.config.search:
        searches = draw_searches(world, users=users, times=times, items=items, organic=sources == ORGANIC)
        events, truth = _with_searches(events, truth, searches)
    return SimulatedShop(world, events, _item_table(world), _impression_table(world, log), truth)


def _with_searches(events: pd.DataFrame, truth: pd.DataFrame, searches: Searches) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each search as a row before the event that it led to, at its own time."""
    led_to, count = searches.events, len(searches.events)
    rows = np.concatenate([led_to, np.arange(len(events))])
    new = np.arange(len(rows)) < count
    times = np.concatenate([searches.times, events["timestamp"].to_numpy()])
    order = np.lexsort((~new, events["user_id"].to_numpy()[rows].astype(str), times))
    rows, new, times = rows[order], new[order], times[order]

    def with_new(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
        """Values of the searches, and of the events."""
        return np.concatenate([values, otherwise])[order]

    events = events.iloc[rows].assign(timestamp=times).reset_index(drop=True)
    truth = truth.iloc[rows].assign(timestamp=times).reset_index(drop=True)
    nothing = np.full(len(truth) - count, None, dtype=object)
    events.loc[new, "item_id"] = None
    events.loc[new, "behavior"] = SEARCH
    events.loc[new, "value"] = np.nan
    events["query"] = with_new(searches.queries, nothing)
    truth["intent"] = with_new(searches.intents, nothing)
    truth["ambiguous"] = with_new(searches.ambiguous, np.zeros(len(nothing), dtype=bool))
    return events, truth


def user_histories(world: World, state: State) -> Sequences:
    """The events so far as sequences of all users, world item v under the id v + 1, codes into BEHAVIORS.

    They serve policies that learn; a prepared dataset has its own, smaller vocabulary.
    """
    users, times, items, behaviors = (_joined(state.log, name) for name in ("users", "times", "items", "behaviors"))
    order = np.lexsort((times, users))
    counts = np.bincount(users, minlength=len(world.user_ids))
    return Sequences(
        user_ids=world.user_ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item_ids=(items[order] + 1).astype(np.int32),
        timestamps=times[order],
        behaviors=behaviors[order],
        values=np.where(behaviors == 3, world.prices[items], np.nan)[order].astype(np.float32),
    )


def _joined(log: tuple[Responses, ...], name: str) -> np.ndarray:
    parts = [getattr(responses, name) for responses in log]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _item_table(world: World) -> pd.DataFrame:
    columns = {
        "item_id": world.item_ids,
        "title": world.titles,
        "category": world.categories,
        "price": world.prices,
        "available_from": world.epoch_starts[world.item_epochs],
    }
    if world.config.ratings:
        columns["rating"] = 1.0 + 4.0 * world.quality
    return pd.DataFrame(columns)


def _impression_table(world: World, log: tuple[Responses, ...]) -> pd.DataFrame:
    num_slots = world.config.num_slots
    users, times = _joined(log, "page_users"), _joined(log, "page_times")
    order = np.lexsort((users, times))
    items, propensities, views = (
        _joined(log, name).reshape(-1, num_slots)[order].ravel()
        for name in ("page_items", "page_propensities", "page_views")
    )
    return pd.DataFrame(
        {
            "user_id": np.repeat(world.user_ids[users[order]], num_slots),
            "item_id": world.item_ids[items],
            "timestamp": np.repeat(times[order], num_slots),
            "position": np.tile(np.arange(1, num_slots + 1), len(users)),
            "propensity": propensities,
            "response": views.astype(np.int64),
        }
    )
