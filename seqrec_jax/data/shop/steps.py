"""A simulated shop that can be stepped, with known truth.

Every user has a hidden taste that is constant within a session and moves by a Markov chain from one session
to the next. A step is one event of every user who is due, whatever their clocks say, since users do not
affect each other:

1. The funnel goes on: within a session, view → click → cart → purchase of the same item, with known
   probabilities.
2. Otherwise a new visit begins with a view: a return to a recently clicked item; or an item of the page that
   the policy shows (one slot is looked at, its item viewed with a probability that depends on the taste); or,
   also when that item does not tempt, an item that the user goes to by themselves.

A session ends after any event with the same probability, and times never depend on the taste. That is what
lets `bayes_filter.py` compute the exact probability of the next item given the observed events.

>>> world, state = init_shop(ShopConfig(num_users=50, num_items=40, num_days=14), 0)
>>> rng = np.random.default_rng(1)
>>> state, responses = step(world, state, logging_policy(world, state, rng), rng)
>>> len(responses.users), set(responses.behaviors.tolist())  # everybody's first event is a view
(50, {0})
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seqrec_jax.data.shop.world import (
    BEHAVIORS,
    DAY_SECONDS,
    HOUR_PROBABILITIES,
    SESSION_GAP_SECONDS,
    START,
    ShopConfig,
    World,
    cumulative_rows,
    draw_rows,
    make_world,
)
from seqrec_jax.errors import DataError
from seqrec_jax.settings import check_value

SOURCES = ("funnel", "repeat", "organic", "page")
FUNNEL, REPEAT, ORGANIC, PAGE = range(4)
NEVER = np.iinfo(np.int64).max


class Exposures(NamedTuple):
    """The pages that a policy shows to the P users who are on the page.

    Attributes:
      users: `[P]` users, exactly those of `users_on_page`, ascending.
      items: `[P, K]` world items, slot by slot.
      propensities: `[P, K]` probability that the policy shows this item in this slot, given its information.
    """

    users: np.ndarray
    items: np.ndarray
    propensities: np.ndarray


class Responses(NamedTuple):
    """The events of one step, `[n]` each, and the outcome of its P pages.

    Attributes:
      users: int64 user.
      times: int64 seconds UTC.
      items: int64 world item.
      behaviors: int8 code into BEHAVIORS.
      sessions: int64 number of the user's session, from 0.
      tastes: int64 hidden taste.
      sources: int8 code into SOURCES, hidden; a page whose item did not tempt ends in "organic".
      page_users: `[P]` users who were shown a page.
      page_times: `[P]` int64 seconds UTC.
      page_items: `[P, K]` world items shown.
      page_propensities: `[P, K]` see `Exposures`.
      page_views: `[P, K]` bool, True where the item shown was viewed; at most one a page.
    """

    users: np.ndarray
    times: np.ndarray
    items: np.ndarray
    behaviors: np.ndarray
    sessions: np.ndarray
    tastes: np.ndarray
    sources: np.ndarray
    page_users: np.ndarray
    page_times: np.ndarray
    page_items: np.ndarray
    page_propensities: np.ndarray
    page_views: np.ndarray


class State(NamedTuple):
    """The next event and the memory of every user; a fair policy reads neither `tastes` nor `sources`.

    Attributes:
      next_times: `[U]` int64 time of the next event, NEVER for users who left.
      sources: `[U]` int8 how the next event comes about.
      tastes: `[U]` int64 taste at the next event.
      sessions: `[U]` int64 number of the session of the next event.
      last_items: `[U]` int64 item of the last event, -1 before the first.
      last_behaviors: `[U]` int8.
      memory: `[U, R]` int64 items of the last R clicks, newest first, -1 for none.
      until: events happen before this time only; raise it with `state._replace(until=…)` to let days go by.
      log: the responses of all steps so far, oldest first.
    """

    next_times: np.ndarray
    sources: np.ndarray
    tastes: np.ndarray
    sessions: np.ndarray
    last_items: np.ndarray
    last_behaviors: np.ndarray
    memory: np.ndarray
    until: int
    log: tuple[Responses, ...]


Policy = Callable[[World, State, np.random.Generator], Exposures]


def init_shop(config: ShopConfig, seed: int) -> tuple[World, State]:
    """A world, and the state before the first event of any user.

    Args:
      config: the settings.
      seed: at least 0; the same seed gives the same world and state.

    Raises:
      ConfigError: a negative seed.
    """
    check_value("seed", seed, "[0, inf)")
    world = make_world(config, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    count = config.num_users
    days = _draw(world.arrival_days, count, rng)
    return world, State(
        next_times=START + days * DAY_SECONDS + _seconds_of_day(count, rng),
        sources=np.where(rng.random(count) < config.page, PAGE, ORGANIC).astype(np.int8),
        tastes=_draw(world.initial_tastes, count, rng),
        sessions=np.zeros(count, dtype=np.int64),
        last_items=np.full(count, -1, dtype=np.int64),
        last_behaviors=np.full(count, -1, dtype=np.int8),
        memory=np.full((count, config.memory_size), -1, dtype=np.int64),
        until=world.end,
        log=(),
    )


def users_due(state: State) -> np.ndarray:
    """`[n]` users with an event before `state.until`, ascending."""
    return np.flatnonzero(state.next_times < state.until)


def users_on_page(state: State) -> np.ndarray:
    """`[P]` users whose next event begins on the page of recommendations, ascending."""
    return np.flatnonzero((state.next_times < state.until) & (state.sources == PAGE))


def logging_policy(world: World, state: State, rng: np.random.Generator) -> Exposures:
    """The shop's own policy: the shelves in a random rotation, one item of each shelf by popularity.

    It does not depend on the user, so the probability of an item in a slot is its share of the shelf's popularity
    divided by K.
    """
    users = users_on_page(state)
    num_slots = world.config.num_slots
    epochs = world.epochs(state.next_times[users])
    rotation = rng.integers(0, num_slots, len(users))
    shelves = (np.arange(num_slots) + rotation[:, None]) % num_slots
    rows = epochs[:, None] * num_slots + shelves
    items = draw_rows(world.shelf_cumulative, rows.ravel(), rng).reshape(rows.shape)
    return Exposures(users, items, world.shelf_probabilities[epochs[:, None], items] / num_slots)


def step(world: World, state: State, exposures: Exposures, rng: np.random.Generator) -> tuple[State, Responses]:
    """One event of every user who is due.

    Args:
      world: the world.
      state: the state before, not changed.
      exposures: the pages that a policy shows to `users_on_page(state)`.
      rng: generator of random numbers, advanced.

    Returns:
      The new state, its log one longer, and the responses.

    Raises:
      DataError: exposures for other users than those on the page, of the wrong shape, or of items that do not exist or
        have not arrived.
    """
    _check_exposures(world, state, exposures)
    users = users_due(state)
    times, tastes, sources = state.next_times[users], state.tastes[users], state.sources[users].copy()
    items = np.where(sources == FUNNEL, state.last_items[users], -1)
    repeat = sources == REPEAT
    items[repeat] = _draw_memory(world, state.memory[users[repeat]], rng)

    page = np.flatnonzero(sources == PAGE)
    slots = _draw(np.append(world.examination, 1.0 - world.examination.sum()), len(page), rng)
    padded = np.concatenate([exposures.items, np.full((len(page), 1), -1)], axis=1)
    looked_at = padded[np.arange(len(page)), slots]
    tempting = world.attraction[tastes[page], looked_at]
    viewed = (looked_at >= 0) & (rng.random(len(page)) < tempting)
    items[page[viewed]] = looked_at[viewed]
    sources[page[~viewed]] = ORGANIC

    organic = np.flatnonzero(sources == ORGANIC)
    rows = world.epochs(times[organic]) * world.config.num_tastes + tastes[organic]
    items[organic] = draw_rows(world.organic_cumulative, rows, rng)

    responses = Responses(
        users=users,
        times=times,
        items=items,
        behaviors=np.where(sources == FUNNEL, state.last_behaviors[users] + 1, 0).astype(np.int8),
        sessions=state.sessions[users],
        tastes=tastes,
        sources=sources,
        page_users=users[page],
        page_times=times[page],
        page_items=exposures.items,
        page_propensities=exposures.propensities,
        page_views=viewed[:, None] & (np.arange(world.config.num_slots) == slots[:, None]),
    )
    return _schedule(world, state, responses, rng), responses


def _schedule(world: World, state: State, responses: Responses, rng: np.random.Generator) -> State:
    """The state after the responses: memories, and time, source and taste of the next event."""
    config = world.config
    users, items, behaviors, count = (
        responses.users,
        responses.items,
        responses.behaviors,
        len(responses.users),
    )
    memory = state.memory.copy()
    clicked = behaviors == BEHAVIORS.index("click")
    memory[users[clicked]] = np.column_stack([items[clicked], memory[users[clicked], :-1]])

    ends = rng.random(count) < config.session_end
    gone = ends & (rng.random(count) < config.churn)
    mean, limit = config.gap_seconds, SESSION_GAP_SECONDS
    gaps = np.ceil(-mean * np.log1p(rng.random(count) * np.expm1(-limit / mean)))
    days = (responses.times - START) // DAY_SECONDS + rng.geometric(config.return_per_day, count)
    later = START + days * DAY_SECONDS + _seconds_of_day(count, rng)
    soon = responses.times + np.clip(gaps, 1, limit).astype(np.int64)
    next_tastes = responses.tastes.copy()
    next_tastes[ends] = draw_rows(cumulative_rows(world.transitions), next_tastes[ends], rng)

    stages = np.minimum(behaviors, len(BEHAVIORS) - 2)
    goes_on = rng.random(count) < world.continuation[stages, responses.tastes, items]
    goes_on &= ~ends & (behaviors < len(BEHAVIORS) - 1)
    returns = (rng.random(count) < config.repeat) & (memory[users, 0] >= 0)
    paged = rng.random(count) < config.page
    sources = np.select([goes_on, returns, paged], [FUNNEL, REPEAT, PAGE], ORGANIC)

    def updated(values: np.ndarray, new: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[users] = new
        return values

    return State(
        next_times=updated(state.next_times, np.where(gone, NEVER, np.where(ends, later, soon))),
        sources=updated(state.sources, sources),
        tastes=updated(state.tastes, next_tastes),
        sessions=updated(state.sessions, responses.sessions + ends),
        last_items=updated(state.last_items, items),
        last_behaviors=updated(state.last_behaviors, behaviors),
        memory=memory,
        until=state.until,
        log=(*state.log, responses),
    )


def _draw_memory(world: World, memory: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of each row's clicks; weight memory_decay to the power of its age."""
    filled = np.sum(memory >= 0, axis=1)
    decay = world.config.memory_decay
    # the inverse of the distribution function of the geometric distribution cut at `filled`
    ages = np.floor(np.log1p(-rng.random(len(memory)) * (1.0 - decay**filled)) / np.log(decay)).astype(np.int64)
    return memory[np.arange(len(memory)), np.clip(ages, 0, filled - 1)]


def _draw(probabilities: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return draw_rows(cumulative_rows(probabilities[None]), np.zeros(count, dtype=np.int64), rng)


def _seconds_of_day(count: int, rng: np.random.Generator) -> np.ndarray:
    return _draw(HOUR_PROBABILITIES, count, rng) * 3600 + rng.integers(0, 3600, count)


def _check_exposures(world: World, state: State, exposures: Exposures) -> None:
    users, num_items = users_on_page(state), len(world.item_ids)
    if not np.array_equal(exposures.users, users):
        raise DataError(
            f"exposures are for {len(exposures.users)} users, but {len(users)} are on the page; "
            "show a page to exactly users_on_page(state), in its order"
        )
    shape = (len(users), world.config.num_slots)
    if exposures.items.shape != shape or exposures.propensities.shape != shape:
        raise DataError(
            f"exposures need items and propensities of shape {shape} (users on the page, slots), got "
            f"{exposures.items.shape} and {exposures.propensities.shape}"
        )
    if not np.issubdtype(exposures.items.dtype, np.integer):
        raise DataError(f"exposures need integer world items, got {exposures.items.dtype}")
    wrong = (exposures.items < 0) | (exposures.items >= num_items)
    if wrong.any():
        raise DataError(f"exposures name world item {exposures.items[wrong][0]}; items are 0 to {num_items - 1}")
    early = world.item_epochs[exposures.items] > world.epochs(state.next_times[users])[:, None]
    if early.any():
        raise DataError(
            f"exposures name item {world.item_ids[exposures.items[early][0]]} before it arrives; show only "
            "items with world.item_epochs at most world.epochs of the user's next time"
        )
