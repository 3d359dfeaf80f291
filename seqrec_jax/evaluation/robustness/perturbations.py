"""Perturbed histories: with bots or noise, or with events missing, out of order or at the wrong time.

Each function takes histories and returns changed ones of the same users; targets do not change. `rate` is the amount of
change; at 0 the histories are returned as they are. Amounts are rounded at random for each user, so that a rate of 0.1
is a tenth on average in histories of three events too. Users without events stay without, and no user loses the last
remaining event: users without history are a different case (see the slices by history length).

An inserted event has no value (nan), and its time lies between those of its neighbours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import check_choice, check_value


def inject_noise(
    histories: Sequences,
    *,
    rate: float,
    num_items: int,
    rng: np.random.Generator,
    item_weights: np.ndarray | None = None,
) -> Sequences:
    """Insert random items at random places, as a share `rate` of the resulting history.

    Args:
      histories: of U users.
      rate: share of the resulting events that are noise, in [0, 1).
      num_items: V.
      rng: consumed.
      item_weights: `[V+1]` float weights by which items are drawn, such as popularity; entry 0 is ignored; None draws
        all items with equal probability.

    Returns:
      The histories; the behaviours of new events are drawn from those that come with an item.

    Raises:
      ConfigError: a rate out of range, or weights that are not one an item.
    """
    if _is_unchanged(rate, "[0, 1)"):
        return histories
    counts = _rounded(histories.lengths * rate / (1 - rate), rng)
    users = np.repeat(np.arange(histories.num_users), counts)
    places = rng.integers(0, histories.lengths[users], endpoint=True)
    items = _draw_items(len(users), item_weights, num_items, rng)
    with_item = histories.behaviors[histories.item_ids > 0]
    behaviors = rng.choice(with_item, len(users)) if len(with_item) else np.zeros(len(users), dtype=np.int8)
    return _insert(
        histories, users, places, items, times=_times_between(histories, users, places, rng), kinds=behaviors
    )


def inject_bot(
    histories: Sequences,
    *,
    rate: float,
    num_items: int,
    rng: np.random.Generator,
    kind: Literal["repeat", "crawl"] = "repeat",
    item_weights: np.ndarray | None = None,
    gap_seconds: int = 1,
) -> Sequences:
    """Append a burst of a bot's events after the last one, as a share `rate` of the resulting history.

    Args:
      histories: of U users.
      rate: share of the resulting events that are the bot's, in [0, 1).
      num_items: V.
      rng: consumed.
      kind: "repeat" repeats one random item, "crawl" visits the items in order of their weight.
      item_weights: `[V+1]` as for `inject_noise`; None means equal weights, or for "crawl" the number of events of each
        item in the histories.
      gap_seconds: seconds between two events of the burst, at least 0.

    Returns:
      The histories; new events have the most frequent behaviour that comes with an item.

    Raises:
      ConfigError: an option out of range, or weights that are not one an item.
    """
    check_choice("kind", kind, ("repeat", "crawl"))
    check_value("gap_seconds", gap_seconds, "[0, inf)")
    if _is_unchanged(rate, "[0, 1)"):
        return histories
    counts = _rounded(histories.lengths * rate / (1 - rate), rng)
    users = np.repeat(np.arange(histories.num_users), counts)
    steps = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    if kind == "repeat":
        items = _draw_items(histories.num_users, item_weights, num_items, rng)[users]
    else:
        weights = np.bincount(histories.item_ids, minlength=num_items + 1) if item_weights is None else item_weights
        weights = _checked_weights(weights, num_items)
        items = np.argsort(-weights, kind="stable")[: np.count_nonzero(weights)]
        items = items[steps % len(items)]
    times = histories.timestamps[histories.offsets[1:][users] - 1] + gap_seconds * (steps + 1)
    return _insert(histories, users, histories.lengths[users], items, times=times)


def inject_item(
    histories: Sequences,
    *,
    rate: float = 1.0,
    num_items: int,
    rng: np.random.Generator,
    items: int | Int[np.ndarray, " U"],
    place: Literal["last", "random"] = "last",
) -> Sequences:
    """Insert one event of a given item into the histories of a share `rate` of the users.

    Args:
      histories: of U users.
      rate: share of the users, in [0, 1], exact up to rounding.
      num_items: V.
      rng: consumed.
      items: one item number for all users, or `[U]` integers, one for each.
      place: "last" inserts after the last event, "random" anywhere.

    Returns:
      The histories; the new event has the most frequent behaviour that comes with an item.

    Raises:
      ConfigError: a rate out of range or an unknown place.
      DataError: items that are not 1…V, or not one for each user.

    >>> import numpy as np
    >>> log = Sequences(np.array(["u"]), np.array([0, 2]), np.array([2, 1], dtype=np.int32), np.array([5, 9]),
    ...                 np.zeros(2, dtype=np.int8), np.ones(2, dtype=np.float32))
    >>> inject_item(log, num_items=3, rng=np.random.default_rng(0), items=3).item_ids
    array([2, 1, 3], dtype=int32)
    """
    check_choice("place", place, ("last", "random"))
    of_users = np.asarray(items)
    if of_users.shape not in ((), (histories.num_users,)):
        raise DataError(f"items must be one item or [U] = ({histories.num_users},), got shape {of_users.shape}")
    if of_users.size and not (of_users.min() >= 1 and of_users.max() <= num_items):
        raise DataError(f"items must be 1 to num_items = {num_items}, got {of_users.min()} to {of_users.max()}")
    if _is_unchanged(rate):
        return histories
    able = rng.permutation(np.flatnonzero(histories.lengths))
    users = np.sort(able[: round(rate * len(able))])
    places = histories.lengths[users]
    if place == "random":
        places = rng.integers(0, places, endpoint=True)
    times = _times_between(histories, users, places, rng)
    return _insert(histories, users, places, np.broadcast_to(of_users, histories.num_users)[users], times=times)


def drop_events(histories: Sequences, *, rate: float, num_items: int, rng: np.random.Generator) -> Sequences:
    """Drop each event with probability `rate`.

    Args:
      histories: of U users.
      rate: in [0, 1].
      num_items: V, not used.
      rng: consumed.

    Raises:
      ConfigError: a rate out of range.
    """
    if _is_unchanged(rate):
        return histories
    return _keep(histories, rng.random(len(histories.item_ids)) >= rate)


def drop_behavior(
    histories: Sequences, *, rate: float, num_items: int, rng: np.random.Generator, behavior: int
) -> Sequences:
    """Drop each event of one behaviour with probability `rate`; a rate of 1 is a broken tracker.

    Args:
      histories: of U users.
      rate: in [0, 1].
      num_items: V, not used.
      rng: consumed.
      behavior: code of the behaviour.

    Raises:
      ConfigError: a rate out of range.
    """
    if _is_unchanged(rate):
        return histories
    drawn = rng.random(len(histories.item_ids)) < rate
    return _keep(histories, ~drawn | (histories.behaviors != behavior))


def truncate(
    histories: Sequences,
    *,
    rate: float = 0.0,
    num_items: int,
    rng: np.random.Generator,
    keep_last: int | None = None,
) -> Sequences:
    """Drop the oldest events: a share `rate` of each history, or all but the last `keep_last`.

    Args:
      histories: of U users.
      rate: share of the events that are dropped, in [0, 1]; ignored with `keep_last`.
      num_items: V, not used.
      rng: consumed.
      keep_last: number of events that stay, at least 1; None uses the rate.

    Returns:
      The histories.

    Raises:
      ConfigError: a rate or keep_last out of range.
    """
    check_value("keep_last", keep_last, "[1, inf)")
    if _is_unchanged(rate) and keep_last is None:
        return histories
    lengths = histories.lengths
    lost = _rounded(lengths * rate, rng) if keep_last is None else np.maximum(lengths - keep_last, 0)
    return _keep(histories, _places(histories) >= np.repeat(lost, lengths))


def swap_adjacent(histories: Sequences, *, rate: float, num_items: int, rng: np.random.Generator) -> Sequences:
    """Swap each event with a neighbour with probability `rate`; the times stay in place.

    The first and the last event of a history have no neighbour half of the time.

    Args:
      histories: of U users.
      rate: in [0, 1].
      num_items: V, not used.
      rng: consumed.

    Raises:
      ConfigError: a rate out of range.
    """
    if _is_unchanged(rate):
        return histories
    # pairs of neighbours that do not overlap, counted from the first or the second event of each user
    places = _places(histories) - np.repeat(rng.integers(0, 2, histories.num_users), histories.lengths)
    last = np.zeros(len(places), dtype=bool)
    last[histories.offsets[1:][histories.lengths > 0] - 1] = True
    first = np.flatnonzero((places % 2 == 0) & (places >= 0) & ~last & (rng.random(len(places)) < rate))
    order = np.arange(len(places))
    order[first], order[first + 1] = first + 1, first
    return _reorder(histories, order)


def shuffle_order(histories: Sequences, *, rate: float, num_items: int, rng: np.random.Generator) -> Sequences:
    """Shuffle a random share `rate` of each user's events among their places; the times stay in place.

    Args:
      histories: of U users.
      rate: in [0, 1].
      num_items: V, not used.
      rng: consumed.

    Raises:
      ConfigError: a rate out of range.
    """
    if _is_unchanged(rate):
        return histories
    drawn = np.flatnonzero(rng.random(len(histories.item_ids)) < rate)
    order = np.arange(len(histories.item_ids))
    order[drawn] = drawn[np.lexsort((rng.random(len(drawn)), histories.users_of_events[drawn]))]
    return _reorder(histories, order)


def shift_time(
    histories: Sequences,
    *,
    rate: float,
    num_items: int,
    rng: np.random.Generator,
    kind: Literal["shift", "stretch"] = "stretch",
    span_seconds: int = 30 * SECONDS_PER_DAY,
) -> Sequences:
    """Change the times: all events later by `rate · span_seconds`, or all gaps longer by a share `rate`.

    Args:
      histories: of U users, each user's times not falling.
      rate: amount of the change, at least 0.
      num_items: V, not used.
      rng: not used, since nothing is random.
      kind: "shift" moves all events, "stretch" lengthens the gaps from the user's first event on.
      span_seconds: seconds of a shift at rate 1.

    Returns:
      The histories with changed times, still not falling.

    Raises:
      ConfigError: a negative rate or an unknown kind.
    """
    check_choice("kind", kind, ("shift", "stretch"))
    if _is_unchanged(rate, "[0, inf)"):
        return histories
    times = histories.timestamps
    if kind == "shift":
        return histories.with_columns(timestamps=times + round(rate * span_seconds))
    since_first = times - times[histories.offsets[:-1][histories.users_of_events]]
    return histories.with_columns(timestamps=times + np.round(rate * since_first).astype(np.int64))


def append_events(histories: Sequences, events: Sequences) -> Sequences:
    """Append events of other users to each user's history; the appended events keep the gaps between them.

    Args:
      histories: of U users.
      events: of U users in the same order; the first appended event gets the time of the last event of the history.

    Returns:
      The longer histories, under the user ids of `histories`.

    Raises:
      DataError: another number of users.
    """
    if events.num_users != histories.num_users:
        raise DataError(f"events are of {events.num_users} users, histories of {histories.num_users}; give one each")
    users = events.users_of_events
    first = events.timestamps[events.offsets[:-1][users]]
    start = first.copy()
    behind = histories.lengths[users] > 0
    start[behind] = histories.timestamps[histories.offsets[1:][users[behind]] - 1]
    return _insert(
        histories,
        users,
        histories.lengths[users],
        events.item_ids,
        times=start + events.timestamps - first,
        kinds=events.behaviors,
        values=events.values,
    )


def _is_unchanged(rate: float, interval: str = "[0, 1]") -> bool:
    """Whether the rate is 0; ConfigError where it is outside the interval."""
    check_value("rate", rate, interval)
    return rate == 0


def _rounded(amounts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Amounts rounded at random to a neighbouring integer, without bias."""
    return np.floor(amounts + rng.random(len(amounts))).astype(np.int64)


def _checked_weights(weights: np.ndarray, num_items: int) -> np.ndarray:
    weights = np.array(weights, dtype=np.float64)
    if weights.shape != (num_items + 1,) or not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ConfigError(f"item_weights must be [V+1] = ({num_items + 1},) numbers of at least 0")
    weights[0] = 0
    if not weights.any():
        raise ConfigError("item_weights are all 0, so that no item can be drawn")
    return weights


def _draw_items(count: int, weights: np.ndarray | None, num_items: int, rng: np.random.Generator) -> np.ndarray:
    if weights is None:
        return rng.integers(1, num_items, count, endpoint=True)
    weights = _checked_weights(weights, num_items)
    return rng.choice(num_items + 1, count, p=weights / weights.sum())


def _places(histories: Sequences) -> np.ndarray:
    """`[N]` place of each event in its user's history, from 0."""
    return np.asarray(np.arange(len(histories.item_ids)) - np.repeat(histories.offsets[:-1], histories.lengths))


def _times_between(histories: Sequences, users: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random time between the events around each place; the time of the first or last event at the ends."""
    after = histories.offsets[users] + places
    before = np.maximum(after - 1, histories.offsets[users])
    after = np.minimum(after, histories.offsets[1:][users] - 1)
    start = histories.timestamps[before]
    return np.asarray(start + rng.integers(0, histories.timestamps[after] - start, endpoint=True))


def _keep(histories: Sequences, keep: Bool[np.ndarray, " N"]) -> Sequences:
    """The events to keep, and the last event of each user who would have none."""
    left = np.bincount(histories.users_of_events[keep], minlength=histories.num_users)
    keep[histories.offsets[1:][(left == 0) & (histories.lengths > 0)] - 1] = True
    return histories.select_events(keep)


def _reorder(histories: Sequences, order: np.ndarray) -> Sequences:
    """Other events at the same times."""
    return histories.with_columns(
        item_ids=histories.item_ids[order],
        behaviors=histories.behaviors[order],
        values=histories.values[order],
    )


def _insert(
    histories: Sequences,
    users: np.ndarray,
    places: np.ndarray,
    items: np.ndarray,
    *,
    times: np.ndarray,
    kinds: np.ndarray | None = None,
    values: np.ndarray | None = None,
) -> Sequences:
    """M events before the given places of their users' histories; those at one place go by time, then as given.

    Without `kinds` they have the commonest behaviour of events with an item, without `values` none.
    """
    if kinds is None:
        kinds = np.full(len(users), np.bincount(histories.behaviors[histories.item_ids > 0], minlength=1).argmax())
    if values is None:
        values = np.full(len(users), np.nan)
    flat = histories.offsets[users] + places
    order = np.lexsort((times, flat, users))
    return histories.insert_events(
        flat[order],
        users[order],
        item_ids=items[order],
        timestamps=times[order],
        behaviors=kinds[order],
        values=values[order],
    )
