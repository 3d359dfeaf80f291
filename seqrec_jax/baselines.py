"""Rankers without a trained model that any honest report shows beside one, behind the same call as a model.

A ranker maps the histories of U users to scores `[U, V+1]`; higher is better, column 0 is never ranked. Statistics of
the training events are computed once, in vectorised NumPy and SciPy, when the ranker is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.linalg import lapack

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import check_choice, check_value

Normalization = Literal["cosine", "conditional"]
TimeKind = Literal["seconds", "order"]
MAX_EASE_ITEMS = 15_000
"""Largest catalogue that EASE's dense weights are made for by default: 0.9 GB, a minute or two on two CPU cores."""


class FunctionRanker(NamedTuple):
    """A `Ranker` made of a name and a function that scores the whole catalogue for some users.

    Attributes:
      name: the row's label in tables.
      scores: from the histories of U users to a new `[U, V+1]` float32 table, which the caller may change.
    """

    name: str
    scores: Callable[[Sequences], Float[np.ndarray, "U V1"]]


def most_popular(
    train: Sequences, *, num_items: int, behavior_weights: Float[np.ndarray, " H"] | None = None
) -> FunctionRanker:
    """Items by their number of training events, the same list for everybody.

    Args:
      train: training events; those without item are ignored.
      num_items: V.
      behavior_weights: `[H]` weight of an event of each behaviour; None counts every event once.

    Returns:
      The ranker "most popular".

    Raises:
      ConfigError: num_items < 1, or behavior_weights that do not cover the behaviours of `train`.
      DataError: an item id outside 0…V.

    >>> import numpy as np
    >>> log = Sequences(np.array(["u"]), np.array([0, 3]), np.array([2, 1, 2], dtype=np.int32),
    ...                 np.arange(3), np.zeros(3, dtype=np.int8), np.ones(3, dtype=np.float32))
    >>> most_popular(log, num_items=3).scores(log)
    array([[0., 1., 2., 0.]], dtype=float32)
    """
    _check_items(train, num_items, what="train")
    weights = None
    if behavior_weights is not None:
        behavior_weights = np.asarray(behavior_weights)
        if len(train.behaviors) and train.behaviors.max() >= len(behavior_weights):
            raise ConfigError(
                f"behavior_weights has {len(behavior_weights)} entries, but train holds behaviour code "
                f"{train.behaviors.max()}; give one weight for each behaviour of the dataset"
            )
        weights = behavior_weights[train.behaviors]
    return _same_for_all("most popular", _popularity(train.item_ids, num_items, weights=weights))


def recently_popular(
    train: Sequences,
    *,
    num_items: int,
    days: float = 7.0,
    until: int | None = None,
    num_events: int | None = None,
) -> FunctionRanker:
    """Items by their number of events in the last days, the same list for everybody.

    Args:
      train: training events; those without item are ignored.
      num_items: V.
      days: the window is `(until - days, until]`.
      until: int seconds UTC; None means the last event of `train`. Later events are ignored.
      num_events: for logs with an order but no times. Users then share no clock, so the last `num_events` events of
        each user are counted; `days` and `until` are ignored.

    Returns:
      The ranker "popular in the last … days", or "popular in each user's last … events".

    Raises:
      ConfigError: num_items or num_events below 1, or days not positive.
      DataError: an item id outside 0…V.
    """
    _check_items(train, num_items, what="train")
    if num_events is not None:
        check_value("num_events", num_events, "[1, inf)")
        recent = _ages(train) < num_events
        name = f"popular in each user's last {num_events} events"
    else:
        check_value("days", days, "(0, inf)")
        if until is None:
            until = int(train.timestamps.max(initial=0))
        recent = (train.timestamps > until - days * SECONDS_PER_DAY) & (train.timestamps <= until)
        name = f"popular in the last {days:g} days"
    return _same_for_all(name, _popularity(train.item_ids[recent], num_items))


def last_item(*, num_items: int) -> FunctionRanker:
    """The user's own items again: the last one first, then the earlier ones by how recently they came.

    An item scores 1 / (1 + a), where a is the number of the user's events since it last came; others score 0.
    In a list from which seen items are excluded, every remaining item is tied.

    Args:
      num_items: V.

    Returns:
      The ranker "last item again". Its scores raise DataError for an item id outside 0…V.

    Raises:
      ConfigError: num_items < 1.
    """
    check_value("num_items", num_items, "[1, inf)")

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        _check_items(histories, num_items, what="histories")
        table = np.zeros((histories.num_users, num_items + 1), dtype=np.float32)
        # of several values for one place NumPy keeps the last, here the latest event's
        table[histories.users_of_events, histories.item_ids] = 1.0 / (1.0 + _ages(histories))
        table[:, 0] = 0.0
        return table

    return FunctionRanker("last item again", scores)


def item_to_item(
    train: Sequences,
    *,
    num_items: int,
    window: int | None = 5,
    normalization: Normalization = "conditional",
    num_recent: int = 10,
    decay: float = 0.5,
) -> FunctionRanker:
    """Items that occur near the user's last items in other users' sequences.

    c(i, j) counts pairs of events on i and j of one user that are at most `window` events apart, in either
    order, i ≠ j (events without item are taken out first); with `window` None it counts the users who have
    both. n(i) counts the events on i, or its users with `window` None. The similarity of j to i is
    c(i, j) / n(i) ("conditional", how often j comes along with i) or c(i, j) / sqrt(n(i) n(j)) ("cosine",
    harder on popular items). A candidate j scores `Σ_a decay^a · similarity(h_a, j)`, where h_0 is the last
    item of the history, h_1 the one before, and so on. Items that score nothing follow by popularity, with
    negative scores; for a user without history that is the whole list.

    The defaults did best on the second last events of Amazon Beauty and MovieLens-1M, out of windows of 3 and
    5, both normalisations and decays of 0.5, 0.8 and 0.9: a baseline should be hard to beat.

    Args:
      train: training events.
      num_items: V.
      window: how many events apart two items may be; None for any distance.
      normalization: "conditional" or "cosine".
      num_recent: how many of the history's last items count.
      decay: weight of an item relative to that of the item after it, in (0, 1].

    Returns:
      The ranker "item to item". Its scores raise DataError for an item id outside 0…V.

    Raises:
      ConfigError: a number out of range or an unknown normalization.
      DataError: an item id outside 0…V.

    Source:
      Linden, Smith and York (2003), Amazon.com Recommendations: Item-to-Item Collaborative Filtering;
      Ludewig and Jannach (2018), Evaluation of Session-based Recommendation Algorithms (windows and decay).
    """
    _check_items(train, num_items, what="train")
    for name, number in (("window", window), ("num_recent", num_recent)):
        check_value(name, number, "[1, inf)")
    check_value("decay", decay, "(0, 1]")
    check_choice("normalization", normalization, Normalization)
    train = train.select_events(train.item_ids > 0)
    counts, sizes = _pair_counts(train, num_items, window)
    inverse = np.divide(1.0, sizes, out=np.zeros(num_items + 1), where=sizes > 0)
    similarity = (
        _scale(counts, rows=np.sqrt(inverse), columns=np.sqrt(inverse))
        if normalization == "cosine"
        else _scale(counts, rows=inverse, columns=np.ones(num_items + 1))
    )
    popularity = _popularity(train.item_ids, num_items)
    fallback = (popularity / (popularity.max() + 1.0) - 1.0).astype(np.float32)  # in [-1, 0), column 0 lowest

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        _check_items(histories, num_items, what="histories")
        histories = histories.select_events(histories.item_ids > 0)
        ages = _ages(histories)
        recent = ages < num_recent
        # the weights of an item that comes twice add up
        weights = sparse.csr_array(
            (
                (decay ** ages[recent]).astype(np.float32),
                (histories.users_of_events[recent], histories.item_ids[recent]),
            ),
            shape=(histories.num_users, num_items + 1),
        )
        table: np.ndarray = (weights @ similarity).toarray()
        return np.where(table > 0, table, fallback)

    return FunctionRanker("item to item", scores)


def ease(
    train: Sequences,
    *,
    num_items: int,
    regularization: float = 100.0,
    max_items: int = MAX_EASE_ITEMS,
) -> FunctionRanker:
    """The linear item-item model that rebuilds best, of every user, each item from the user's other items.

    With X `[U, V]`, 1 where the user has an event on the item, B minimises `|X - XB|² + λ|B|²` with a diagonal of
    zeros: `P = (XᵀX + λI)⁻¹`, `B_ij = -P_ij / P_jj`. A history scores `x B`, whatever its order and repeats. A
    history without any item of a known event is given the items by popularity.

    Of 25, 50, 100, 250, 400 and 1,000 the default λ did best on the second last events of every fourth user of Amazon
    Beauty, where 25 and 50 are within 1 % of it; on those of MovieLens-1M the best, 200, gains about 2 % over it.

    Args:
      train: training events.
      num_items: V.
      regularization: λ; a larger one trusts rare pairs less.
      max_items: the most items that a dense `[V+1, V+1]` float32 table is made for.

    Returns:
      The ranker "EASE". Its scores raise DataError for an item id outside 0…V.

    Raises:
      ConfigError: regularization not positive, num_items < 1 or above max_items.
      DataError: an item id outside 0…V.

    Source:
      Steck (2019), Embarrassingly Shallow Autoencoders for Sparse Data.
    """
    _check_items(train, num_items, what="train")
    check_value("regularization", regularization, "(0, inf)")
    check_value("max_items", max_items, "[1, inf)")
    if num_items > max_items:
        gigabytes = 4e-9 * (num_items + 1) ** 2
        raise ConfigError(
            f"EASE for num_items = {num_items:,} needs a dense float32 table of {gigabytes:.1f} GB, more than the "
            f"{max_items:,} items of max_items allow; raise max_items, or use item_to_item, whose table is sparse"
        )
    weights = _ease_weights(_binary(train, num_items), regularization)
    popularity = _popularity(train.item_ids, num_items)
    fallback = (popularity / (popularity.max() + 1.0)).astype(np.float32)
    trained = popularity > 0

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        _check_items(histories, num_items, what="histories")
        table: np.ndarray = _binary(histories, num_items) @ weights
        known = np.bincount(histories.users_of_events[trained[histories.item_ids]], minlength=histories.num_users) > 0
        table[~known] = fallback
        return table

    return FunctionRanker("EASE", scores)


def baseline_rankers(train: Sequences, *, num_items: int, time_kind: str) -> list[FunctionRanker]:
    """The rankers that any honest report shows, with their default settings.

    EASE is one of them for catalogues of up to `MAX_EASE_ITEMS` items, since its memory grows with V² and its time
    with V³.

    Args:
      train: training events.
      num_items: V.
      time_kind: "seconds", or "order" for a log whose timestamps are only a running index.

    Returns:
      Most popular, recently popular, last item again, item to item and, where V allows it, EASE.

    Raises:
      ConfigError: another time_kind, or num_items < 1.
      DataError: an item id outside 0…V.
    """
    check_choice("time_kind", time_kind, TimeKind)
    rankers = [
        most_popular(train, num_items=num_items),
        recently_popular(train, num_items=num_items, num_events=5 if time_kind == "order" else None),
        last_item(num_items=num_items),
        item_to_item(train, num_items=num_items),
    ]
    if num_items <= MAX_EASE_ITEMS:
        rankers.append(ease(train, num_items=num_items))
    return rankers


def _ease_weights(has: sparse.csr_array, regularization: float) -> np.ndarray:
    """B `[V+1, V+1]` float32 from X `[U, V+1]`; the table of XᵀX is inverted and rescaled in its place."""
    size = has.shape[1]
    table = np.empty((size, size), dtype=np.float32)
    users_of_items = has.T.tocsr()
    for start in range(0, size, 1024):  # a sparse table of all pairs could be larger than the dense one
        table[start : start + 1024] = (users_of_items[start : start + 1024] @ has).toarray()
    table[np.diag_indices(size)] += np.float32(regularization)
    # LAPACK works by columns; the transpose of a symmetric table is the same table, without a copy
    factor, failed = lapack.spotrf(table.T, lower=1, overwrite_a=1)
    if failed:
        raise ConfigError(
            f"EASE's matrix is not positive definite in float32 with regularization {regularization:g}; raise it"
        )
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    for start in range(0, size, 1024):  # only the lower triangle was written
        stop = min(start + 1024, size)
        inverse[start:stop, start:stop] = np.tril(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] += np.tril(inverse[start:stop, start:stop], -1).T
        inverse[start:stop, stop:] = inverse[stop:, start:stop].T
    weights: np.ndarray = inverse.T  # rows in memory order again; symmetric as before
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0.0)
    return weights


def _binary(sequences: Sequences, num_items: int) -> sparse.csr_array:
    """`[U, V+1]` float32, 1 where the user has an event on the item; column 0 is empty."""
    real = sequences.item_ids > 0
    has = sparse.csr_array(
        (np.ones(int(real.sum()), dtype=np.float32), (sequences.users_of_events[real], sequences.item_ids[real])),
        shape=(sequences.num_users, num_items + 1),
    )
    has.sum_duplicates()
    has.data[:] = 1.0
    return has


def _popularity(
    item_ids: Int[np.ndarray, " N"], num_items: int, *, weights: np.ndarray | None = None
) -> Float[np.ndarray, " V1"]:
    """`[V+1]` float64 number, or sum of the weights, of the events of each item."""
    counts = np.bincount(item_ids, weights=weights, minlength=num_items + 1).astype(np.float64)
    counts[0] = 0.0
    return counts


def _same_for_all(name: str, item_scores: Float[np.ndarray, " V1"]) -> FunctionRanker:
    row = item_scores.astype(np.float32)

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        return np.tile(row, (histories.num_users, 1))

    return FunctionRanker(name, scores)


def _pair_counts(train: Sequences, num_items: int, window: int | None) -> tuple[sparse.csr_array, np.ndarray]:
    """The counts c `[V+1, V+1]` without its diagonal and n `[V+1]`, of events that all have an item."""
    users, items = train.users_of_events, train.item_ids
    if window is None:
        has = _binary(train, num_items)
        counts = sparse.csr_array(has.T @ has)
        sizes = counts.diagonal().astype(np.float64)
        counts = counts - sparse.diags_array(counts.diagonal(), format="csr")
    else:
        counts = sparse.csr_array((num_items + 1, num_items + 1), dtype=np.float32)
        for distance in range(1, min(window, int(train.lengths.max(initial=0)) - 1) + 1):
            before, after = items[:-distance], items[distance:]
            pair = (users[:-distance] == users[distance:]) & (before != after)
            ones = np.ones(int(pair.sum()), dtype=np.float32)
            counts = counts + sparse.csr_array((ones, (before[pair], after[pair])), shape=counts.shape)
        counts = sparse.csr_array(counts + counts.T)
        sizes = _popularity(items, num_items)
    counts.eliminate_zeros()
    return counts, sizes


def _scale(matrix: sparse.csr_array, *, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_array:
    scaled = matrix.astype(np.float32)
    scaled.data *= (np.repeat(rows, np.diff(matrix.indptr)) * columns[matrix.indices]).astype(np.float32)
    return scaled


def _ages(sequences: Sequences) -> Int[np.ndarray, " N"]:
    """`[N]` number of events of the same user that come after each event."""
    return np.repeat(sequences.offsets[1:], sequences.lengths) - 1 - np.arange(len(sequences.item_ids))


def _check_items(sequences: Sequences, num_items: int, *, what: str) -> None:
    check_value("num_items", num_items, "[1, inf)")
    items = sequences.item_ids
    if len(items) and not (items.min() >= 0 and items.max() <= num_items):
        raise DataError(
            f"item ids of {what} run from {items.min()} to {items.max()}, "
            f"expected 0 to num_items = {num_items}; encode the log with the vocabulary that num_items counts"
        )
