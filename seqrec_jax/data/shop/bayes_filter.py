"""The best possible forecasts of the simulated shop's next event: an exact Bayes filter, and an oracle above it.

The next event is the next row of the user's log, whatever its behaviour; its item is the target. After a view
the funnel may go on, so "the same item again" has its share of the probability. Observed are the items,
behaviours and times of all events so far, of the uncollapsed log with all behaviours. A new session shows in
the times (a gap of more than 30 minutes). The source of a view is never observed; it is summed out, and so is
the shown page.

With `b[s]` the probability of taste s given the past, each event multiplies `b` by its likelihood

    funnel goes on to item x:   c[stage, s, x]
    a new visit to item x:      (1 − c[stage, s, last]) · (ρ · r(x) + (1 − ρ) · g[epoch, s, x])

where c is 0 in a new session and after a purchase, r is the distribution over the remembered clicks, ρ the
probability of a return (0 without clicks), and g the visits otherwise (page or by themselves). At a new
session `b ← b · T` first.

The time of the next event is not observed. It decides two things: whether a new session begins, and which
items have arrived. Both are summed out with their exact probabilities given that an event follows before the
run ends.

Where the log has searches, one comes right before the visit that it led to, which the user made by themselves and to
an item that the query fits; of a visit without one that is less likely. A history that ends with a search is followed
by its visit, one that does not by an event without a search.

Times do not depend on tastes, so no model that sees the same history has a higher expected
log-likelihood or hit rate on the next event. One caveat: to test on each user's *last* event is to know also
that none follows before the end of the run, which shifts the odds of a new session near that end a little.
The filter does not use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.shop.returns import coming_back, going_on, share_of_day
from seqrec_jax.data.shop.searches import SEARCH, Visited, query_probabilities, times_after, without_searches
from seqrec_jax.data.shop.world import (
    BEHAVIORS,
    DAY_SECONDS,
    SESSION_GAP_SECONDS,
    START,
    World,
)
from seqrec_jax.errors import DataError

_CLICK, _PURCHASE = BEHAVIORS.index("click"), BEHAVIORS.index("purchase")


class Belief(NamedTuple):
    """The state of the filter after the histories of U users.

    Attributes:
      tastes: `[U, S]` float64 probability of the taste at the last event (of a first event, if there is
        none).
      last_items: `[U]` world item, -1 without events.
      last_behaviors: `[U]` code into BEHAVIORS, -1 without events.
      last_times: `[U]` int64 seconds.
      memory: `[U, R]` world items of the last clicks, newest first, -1 for none.
      log_likelihoods: `[U]` log-probability of the items, behaviours and queries of the history, given its times;
        without a search that it ends with.
    """

    tastes: np.ndarray
    last_items: np.ndarray
    last_behaviors: np.ndarray
    last_times: np.ndarray
    memory: np.ndarray
    log_likelihoods: np.ndarray


class BayesFilter:
    """The exact predictive distribution of the next event's item given the observed history.

    Args:
      world: the world that produced the log.
      vocabulary: `[V]` raw id of each item of the dataset, in the order of its ids 1…V; None for the world's
        own.
      exposure: `[E, V_world]` probability that, on the page, the slot looked at shows the item, for logs of
        another policy that does not look at the user; None for `logging_policy`.

    Raises:
      DataError: a raw id that is not in the world.
    """

    def __init__(
        self, world: World, vocabulary: Sequence[str] | None = None, *, exposure: np.ndarray | None = None
    ) -> None:
        self.world = world
        self.world_items = world_items(world, world.item_ids if vocabulary is None else vocabulary)
        by_themselves, tempted = visit_parts(world, exposure=exposure)
        self.visits = by_themselves + tempted
        self._searched = world.config.search * by_themselves
        self._unsearched = self.visits - self._searched
        self._table, self._unsearched_table = map(self._of_dataset, (self.visits, self._unsearched))
        self._dataset_ids = np.zeros(len(world.item_ids), dtype=np.int64)
        self._dataset_ids[self.world_items] = np.arange(1, len(self.world_items) + 1)

    def beliefs(self, histories: Sequences, *, behaviors: tuple[str, ...]) -> Belief:
        """The beliefs after the histories, filtered for all users at once, position by position.

        Args:
          histories: U users from their first event on, item ids of the dataset; with queries where they were logged.
          behaviors: the name of each behaviour code of `histories`.

        Raises:
          DataError: events without item or query, behaviours that the shop does not have, or a history that cannot be
            of this shop, as when it was cut, collapsed or filtered.
        """
        visited = without_searches(histories)
        return self._filtered(visited, query_probabilities(self.world, visited.texts), behaviors=behaviors)

    def _filtered(self, visited: Visited, queried: np.ndarray, *, behaviors: tuple[str, ...]) -> Belief:
        """The belief after the events on items; `queried` `[Q, V_world]` has the queries' probabilities."""
        world, config, histories = self.world, self.world.config, visited.histories
        codes = _behavior_codes(behaviors)[histories.behaviors]
        if len(histories.item_ids) and not (
            histories.item_ids.min() >= 1 and histories.item_ids.max() <= len(self.world_items)
        ):
            raise DataError(
                f"histories have item ids {histories.item_ids.min()} to {histories.item_ids.max()}, "
                f"expected 1 to {len(self.world_items)}; the filter needs the item of every event"
            )
        items = self.world_items[histories.item_ids - 1]
        fits = None
        if visited.queries is not None:
            fits = np.where(visited.queries > 0, queried[visited.queries, items], -1.0)
        epochs = world.epochs(histories.timestamps)
        count = histories.num_users
        belief = Belief(
            tastes=np.tile(world.initial_tastes, (count, 1)),
            last_items=np.full(count, -1, dtype=np.int64),
            last_behaviors=np.full(count, -1, dtype=np.int64),
            last_times=np.zeros(count, dtype=np.int64),
            memory=np.full((count, config.memory_size), -1, dtype=np.int64),
            log_likelihoods=np.zeros(count),
        )
        lengths = histories.lengths
        for position in range(int(lengths.max(initial=0))):
            users = np.flatnonzero(lengths > position)
            events = histories.offsets[users] + position
            self._update(
                belief,
                users,
                items[events],
                codes[events],
                histories.timestamps[events],
                epochs[events],
                fits=None if fits is None else fits[events],
            )
        impossible = np.flatnonzero(np.isneginf(belief.log_likelihoods))
        if len(impossible):
            raise DataError(
                f"the history of user {histories.user_ids[impossible[0]]!r} ({len(impossible)} users in all) "
                "cannot have come from this shop; give the filter whole histories, with all behaviours and "
                "without collapsing repeats"
            )
        return belief

    def scores(self, histories: Sequences, *, behaviors: tuple[str, ...], after: int | None = None) -> np.ndarray:
        """Probability of each item to be that of the user's next event on an item.

        Args:
          histories: U users from their first event on, item ids of the dataset. Where they have queries, a history that
            does not end with a search is followed by an event without one.
          behaviors: the name of each behaviour code of `histories`.
          after: seconds, not before the last event of any history, until which no further event came, as the cut
            of a timeline tells; None where nothing is known of that.

        Returns:
          `[U, V+1]` float32; column 0 is 0. Rows sum to 1 less the share of items outside the vocabulary.

        Raises:
          DataError: see `beliefs`.
        """
        world, visited = self.world, without_searches(histories)
        queried = query_probabilities(world, visited.texts)
        belief = self._filtered(visited, queried, behaviors=behaviors)
        first = belief.last_items < 0
        same, new = _epoch_masses(world, belief.last_times, first=first, after=after)
        moved = np.where(first[:, None], belief.tastes, belief.tastes @ world.transitions)
        stay = self._continuation(belief)
        funnel = np.sum(belief.tastes * stay, axis=1) * same.sum(axis=1)
        weights = same[:, :, None] * (belief.tastes * (1.0 - stay))[:, None] + new[:, :, None] * moved[:, None]
        if visited.queries is None:
            return self._mixture(belief, funnel, weights, table=self._table)
        _, returning = self._returns(belief.memory)
        followed = funnel + returning * weights.sum(axis=(1, 2))
        followed += (1.0 - returning) * np.einsum("ues,es->u", weights, self._unsearched.sum(axis=2))
        scores = self._mixture(belief, funnel, weights, table=self._unsearched_table) / followed[:, None]
        searching = np.flatnonzero(visited.last_queries)
        scores[searching, 1:] = self._after_search(belief, visited, queried, searching, stay, moved)
        return scores.astype(np.float32)

    def _after_search(
        self,
        belief: Belief,
        visited: Visited,
        queried: np.ndarray,
        users: np.ndarray,
        stay: np.ndarray,
        moved: np.ndarray,
    ) -> np.ndarray:
        """`[n, V]` of the visit that follows the search with which the histories of `users` `[n]` end."""
        last_times, searched = belief.last_times[users], visited.last_times[users]
        first = belief.last_items[users] < 0
        new = first | (searched - last_times > SESSION_GAP_SECONDS)
        tastes = np.where(new[:, None], moved[users], belief.tastes[users] * (1.0 - stay[users]))
        epochs = self.world.epochs(times_after(searched, np.where(first, 0, last_times)))
        fits = queried[visited.last_queries[users]]
        visits = np.einsum("us,usv->uv", tastes, self._searched[epochs]) * fits
        total = visits.sum(axis=1, keepdims=True)
        if not total.all():
            wrong = visited.texts[visited.last_queries[users[np.flatnonzero(total[:, 0] == 0)[0]]]]
            raise DataError(f"{wrong!r} is not a query of this shop; give the filter the shop's own log")
        return (visits / total)[:, self.world_items]

    def _update(
        self,
        belief: Belief,
        users: np.ndarray,
        items: np.ndarray,
        behaviors: np.ndarray,
        times: np.ndarray,
        epochs: np.ndarray,
        *,
        fits: np.ndarray | None,
    ) -> None:
        """One observed event for each of `users` `[n]`, written into `belief`.

        `fits` is the probability of the query before it, -1 without a search; None if searches are not logged.
        """
        world = self.world
        last_items, memory = belief.last_items[users], belief.memory[users]
        first = last_items < 0
        new = first | (times - belief.last_times[users] > SESSION_GAP_SECONDS)
        tastes = belief.tastes[users]
        tastes = np.where((new & ~first)[:, None], tastes @ world.transitions, tastes)
        part = Belief(tastes, last_items, belief.last_behaviors[users], times, memory, np.zeros(len(users)))
        stay = np.where(new[:, None], 0.0, self._continuation(part))

        shares, returning = self._returns(memory)
        visit = (1.0 - returning)[:, None] * (self.visits if fits is None else self._unsearched)[epochs, :, items]
        visit += (returning * np.sum(shares * (memory == items[:, None]), axis=1))[:, None]
        goes_on = (behaviors == part.last_behaviors + 1) & (items == last_items) & ~new
        if fits is not None and (searched := fits >= 0).any():
            after_search = ((1.0 - returning) * fits)[:, None] * self._searched[epochs, :, items]
            visit, goes_on = np.where(searched[:, None], after_search, visit), goes_on & ~searched
        begins = behaviors == 0
        likelihood = np.where(goes_on[:, None], stay, begins[:, None] * (1.0 - stay) * visit)

        joint = tastes * likelihood
        total = joint.sum(axis=1)
        possible = total > 0
        belief.tastes[users] = np.where(possible[:, None], joint / np.where(possible, total, 1.0)[:, None], tastes)
        belief.log_likelihoods[users] += np.log(total, where=possible, out=np.full(len(users), -np.inf))
        belief.last_items[users], belief.last_behaviors[users] = items, behaviors
        belief.last_times[users] = times
        clicked = behaviors == _CLICK
        belief.memory[users[clicked]] = np.column_stack([items[clicked], memory[clicked, :-1]])

    def _continuation(self, belief: Belief) -> np.ndarray:
        """`[U, S]` probability that the funnel goes on if the session does."""
        stage = np.clip(belief.last_behaviors, 0, _PURCHASE - 1)
        may = (belief.last_behaviors >= 0) & (belief.last_behaviors < _PURCHASE)
        return may[:, None] * self.world.continuation[stage, :, belief.last_items]

    def _returns(self, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`[U, R]` share of each remembered click, and `[U]` probability that a new visit is a return."""
        config = self.world.config
        shares = (memory >= 0) * config.memory_decay ** np.arange(config.memory_size)
        filled = memory[:, 0] >= 0
        return shares / np.maximum(shares.sum(axis=1), 1e-300)[:, None], config.repeat * filled

    def _of_dataset(self, visits: np.ndarray) -> np.ndarray:
        """`[E·S, V]` the columns of the dataset's items of a table `[E, S, V_world]`."""
        return visits[:, :, self.world_items].reshape(-1, len(self.world_items))

    def _mixture(self, belief: Belief, funnel: np.ndarray, weights: np.ndarray, *, table: np.ndarray) -> np.ndarray:
        """`[U, V+1]` from the probabilities of the funnel `[U]`, of new visits `[U, E, S]` and of their items."""
        shares, returning = self._returns(belief.memory)
        count = len(funnel)
        scores = np.zeros((count, len(self.world_items) + 1))
        np.matmul((weights * (1.0 - returning)[:, None, None]).reshape(count, -1), table, out=scores[:, 1:])
        returned = (returning * weights.sum(axis=(1, 2)))[:, None] * shares
        rows = np.arange(count)[:, None]
        np.add.at(scores, (rows, np.where(belief.memory >= 0, self._dataset_ids[belief.memory], 0)), returned)
        np.add.at(scores, (rows[:, 0], self._dataset_ids[belief.last_items]), funnel)
        scores[:, 0] = 0.0
        return scores.astype(np.float32)


class Oracle:
    """The best forecast given the hidden taste and the time of the next event besides the history.

    The time determines whether the session goes on and which items have arrived. A model of the observed history cannot
    reach this; its bound is the lower `BayesFilter`.

    Args:
      world: the world that produced the log.
      truth: the hidden side of the log, as in `SimulatedShop`.
      vocabulary: see `BayesFilter`.
      exposure: see `BayesFilter`.
    """

    def __init__(
        self,
        world: World,
        truth: pd.DataFrame,
        vocabulary: Sequence[str] | None = None,
        *,
        exposure: np.ndarray | None = None,
    ) -> None:
        self.filter = BayesFilter(world, vocabulary, exposure=exposure)
        self.truth = truth

    def scores(self, histories: Sequences, *, behaviors: tuple[str, ...], times: np.ndarray) -> np.ndarray:
        """Probability of each item to be that of the user's event at `times`.

        Args:
          histories: U users from their first event on, item ids of the dataset.
          behaviors: the name of each behaviour code of `histories`.
          times: `[U]` int64 seconds, when the event after each history takes place.

        Returns:
          `[U, V+1]` float32; column 0 is 0.

        Raises:
          DataError: see `BayesFilter.beliefs`; or a user without an event at that time.
        """
        world, belief = self.filter.world, self.filter.beliefs(histories, behaviors=behaviors)
        tastes = tastes_at(self.truth, histories.user_ids, times)
        new = (belief.last_items < 0) | (times - belief.last_times > SESSION_GAP_SECONDS)
        users = np.arange(len(tastes))
        funnel = np.where(new, 0.0, self.filter._continuation(belief)[users, tastes])
        weights = np.zeros((len(tastes), world.num_epochs, world.config.num_tastes))
        weights[users, world.epochs(times), tastes] = 1.0 - funnel
        return self.filter._mixture(belief, funnel, weights, table=self.filter._table)


def visit_probabilities(world: World, *, exposure: np.ndarray | None = None) -> np.ndarray:
    """`[E, S, V]` probability of the item of a new visit that is not a return, the page summed out.

    `(1 − page) · p[s, v] + page · (x[v] · a[s, v] + (1 − Σ_w x[w] · a[s, w]) · p[s, v])`

    with p the items that users go to by themselves, a the attraction and x the exposure.

    Args:
      world: the world.
      exposure: see `BayesFilter`.
    """
    return np.add(*visit_parts(world, exposure=exposure))


def visit_parts(world: World, *, exposure: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The two parts `[E, S, V]` of `visit_probabilities`: items that users go to by themselves, and items of the page.

    Args:
      world: the world.
      exposure: see `BayesFilter`.

    Raises:
      DataError: an exposure of another shape.
    """
    if exposure is None:
        exposure = world.shelf_probabilities * world.examination.sum() / world.config.num_slots
    if exposure.shape != (world.num_epochs, len(world.item_ids)):
        raise DataError(
            f"exposure must have shape {(world.num_epochs, len(world.item_ids))} (epochs, world items), "
            f"got {exposure.shape}"
        )
    tempted = exposure[:, None, :] * world.attraction
    by_themselves = 1.0 - world.config.page * tempted.sum(axis=-1, keepdims=True)
    return by_themselves * world.organic, world.config.page * tempted


def world_items(world: World, vocabulary: Sequence[str] | np.ndarray) -> np.ndarray:
    """`[V]` int64 index in the world of each raw item id of a dataset (its ids 1…V in order, no padding).

    Raises:
      DataError: a raw id that is not in the world.
    """
    index = pd.Index(world.item_ids).get_indexer(pd.Index(np.asarray(vocabulary, dtype=object)))
    if (index < 0).any():
        unknown = np.asarray(vocabulary, dtype=object)[index < 0][0]
        raise DataError(
            f"item {unknown!r} is not among the {len(world.item_ids)} items of this world, such as "
            f"{world.item_ids[0]!r}; pass the vocabulary without padding, and the world that produced the log"
        )
    return index.astype(np.int64)


def tastes_at(truth: pd.DataFrame, user_ids: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`[U]` hidden taste of each user at an event of theirs, from the truth of a simulated shop.

    Raises:
      DataError: a user who has no event at that time.
    """
    rows = pd.MultiIndex.from_frame(truth[["user_id", "timestamp"]])
    found = rows.get_indexer(pd.MultiIndex.from_arrays([user_ids, times]))
    if (found < 0).any():
        missing = int(np.flatnonzero(found < 0)[0])
        raise DataError(f"user {user_ids[missing]!r} has no event at {times[missing]} in this truth")
    return truth["taste"].to_numpy()[found]


def _behavior_codes(behaviors: tuple[str, ...]) -> np.ndarray:
    """`[H]` code into BEHAVIORS of each behaviour; -1 of a search, which is on no item."""
    unknown = [name for name in behaviors if name not in (*BEHAVIORS, SEARCH)]
    if unknown:
        raise DataError(f"behaviour {unknown[0]!r} is none of the shop's {BEHAVIORS}")
    return np.array([-1 if name == SEARCH else BEHAVIORS.index(name) for name in behaviors], dtype=np.int64)


def _epoch_masses(
    world: World, last_times: np.ndarray, *, first: np.ndarray, after: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`[U, E]` probability of the next event in each epoch, in the same and in a new session; sum 1 a user.

    Both are given that it comes before the end of the run, and not before `after`. `first` marks users without
    events.
    """
    config = world.config
    bounds = np.append(world.epoch_starts, world.end)
    if after is not None:
        bounds = np.maximum(bounds, after)
    day, second = np.divmod(bounds - START, DAY_SECONDS)
    arrived = np.append(0.0, np.cumsum(world.arrival_days))
    arrivals = arrived[day] + share_of_day(second) * (np.append(arrived, arrived[-1])[day + 1] - arrived[day])

    same = np.diff(going_on(config, last_times[:, None], bounds), axis=1) * (1.0 - config.session_end)
    new = np.diff(coming_back(config, last_times[:, None], bounds), axis=1) * config.session_end * (1.0 - config.churn)
    same = np.where(first[:, None], 0.0, same)
    new = np.where(first[:, None], np.diff(arrivals), new)
    total = same.sum(axis=1, keepdims=True) + new.sum(axis=1, keepdims=True)
    # an event in the last second leaves no time for another: as if the session went on
    same = np.where((total <= 0) & (np.arange(world.num_epochs) == world.num_epochs - 1), 1.0, same)
    total = np.where(total <= 0, 1.0, total)
    return same / total, new / total
