"""The one path from histories to lists: eligibility, the best eligible items, soft rules, the fallback.

What differs between a model, a decoder and a baseline is only how the best eligible items are found: a `FindBest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.retrieval.eligibility import Eligibility, ItemFilter, Lists
from seqrec_jax.retrieval.encoding import USERS_PER_TILE
from seqrec_jax.retrieval.policy import ListPolicy
from seqrec_jax.scoring import TopK, top_k, top_k_in_scores
from seqrec_jax.types import DimSize

FindBest: TypeAlias = Callable[[Sequences, Eligibility, int], Lists]
"""`find_best(histories, eligible, count)`: the first `count` eligible items of each of U users, best first, `[U,
count]` item ids and scores; id 0, score -inf beyond those found."""

MAX_SCORE_BYTES = 2**28
"""Most memory that the scores or masks `[U, V+1]` of one tile of users take, for systems that need them whole."""


def ranked_lists(
    find_best: FindBest,
    histories: Sequences,
    *,
    k: int,
    policy: ListPolicy,
    now: int,
    request: ItemFilter | None = None,
    tile: int = USERS_PER_TILE,
) -> Lists:
    """Lists of eligible items for the histories of U users.

    Args:
      find_best: of the system.
      histories: of U users, at least one.
      k: K.
      policy: what may be listed, and soft rules.
      now: seconds UTC at which rules and availability are looked up.
      request: the request's allow and deny lists.
      tile: users that are ranked at once, if there is more than one.

    Returns:
      `[U, K]` int32 item ids and float32 scores, NumPy. A list has fewer than K items (then id 0, score -inf) only if
      no more are eligible. Items beyond those that the system ranks are the most popular ones, with score -inf.
    """
    item_ids = np.zeros((histories.num_users, k), dtype=np.int32)
    scores = np.full((histories.num_users, k), -np.inf, dtype=np.float32)
    for members, part in _tiles(histories, size=1 if histories.num_users == 1 else tile):
        users = np.pad(members, (0, part.num_users - len(members)), mode="edge")
        eligible = policy.eligible(part, now=now, request=request, users=users)
        best = find_best(part, eligible, policy.num_candidates(k))
        lists = policy.filled(policy.reordered(best, part, k=k, now=now), eligible)
        item_ids[members], scores[members] = (column[: len(members)] for column in lists)
    return Lists(item_ids, scores)


def find_best_of(ranker: Ranker, order: Int[Array, " V1"]) -> FindBest:
    """The best eligible items by the scores of any ranker, such as a baseline; ties by `order` `[V+1]`."""

    def find_best(histories: Sequences, eligible: Eligibility, count: int) -> Lists:
        scores = jnp.asarray(ranker.scores(histories), dtype=jnp.float32)
        items, excluded = map(_on_device, eligible)
        return on_host(_best_in_scores(scores, order, items, excluded, k=count))

    return find_best


def on_host(found: TopK) -> Lists:
    """Lists on the device as NumPy arrays."""
    return Lists(np.asarray(found.item_ids), np.asarray(found.scores))


def users_per_tile(num_items: int) -> int:
    """Users of whom a tile has whole rows `[U, V+1]` in bounded memory, at most `USERS_PER_TILE`."""
    return max(1, min(USERS_PER_TILE, MAX_SCORE_BYTES // (4 * (num_items + 1))))


def best_of_vectors(
    projected: Float[Array, "U E"],
    v_y: Float[Array, "V1 E"],
    empty: Bool[Array, " U"],
    popularity: Float[Array, " V1"],
    order: Int[Array, " V1"],
    items: Bool[Array, " V1"] | Bool[Array, "U V1"],
    excluded: Int[Array, "U X"] | None,
    *,
    k: int,
) -> TopK:
    """The first k eligible items by the product of vectors, or by popularity for users without history.

    Args:
      projected: `[U, E]` v_xᵀ W.
      v_y: `[V+1, E]`.
      empty: `[U]` True for users without history.
      popularity: `[V+1]` float32 scores for these.
      order: `[V+1]` int32 order that settles ties.
      items: `[V+1]` or `[U, V+1]` True for eligible items.
      excluded: `[U, X]` int32 ids that are not eligible for a user besides, 0 = none.
      k: static.

    Returns:
      `[U, k]` item ids and scores.
    """
    first = partial(top_k, k=k, priority=order, allowed=items, excluded=excluded)
    best = first(projected, None, v_y)

    def with_popular() -> TopK:
        popular = popular_items(popularity, order, items, excluded, num_users=projected.shape[0], k=k)
        return TopK(*(jnp.where(empty[:, None], *pair) for pair in zip(popular, best, strict=True)))

    found: TopK = jax.lax.cond(jnp.any(empty), with_popular, lambda: best)
    return found


def popular_items(
    popularity: Float[Array, " V1"],
    order: Int[Array, " V1"],
    items: Bool[Array, " V1"] | Bool[Array, "U V1"],
    excluded: Int[Array, "U X"] | None,
    *,
    num_users: DimSize,
    k: int,
) -> TopK:
    """The first k eligible items of each user by `popularity` `[V+1]`; arguments as for `best_of_vectors`."""
    ones = jnp.ones((num_users, 1), popularity.dtype)
    return top_k(ones, None, popularity[:, None], k=k, priority=order, allowed=items, excluded=excluded)


@partial(jax.jit, static_argnames="k")
def _best_in_scores(scores: Array, order: Array, items: Array, excluded: Array | None, *, k: int) -> TopK:
    return top_k_in_scores(scores, k=k, priority=order, allowed=items, excluded=excluded)


def _on_device(array: np.ndarray | Array | None) -> Array | None:
    return None if array is None else jnp.asarray(array)


def _tiles(histories: Sequences, *, size: int) -> Iterator[tuple[np.ndarray, Sequences]]:
    """Indices of users in tiles, and their histories; the last tile is filled up with its last user."""
    if histories.num_users == 1:
        yield np.arange(1), histories
        return
    for start in range(0, histories.num_users, size):
        members = np.arange(start, min(start + size, histories.num_users))
        yield members, histories.select_users(np.pad(members, (0, size - len(members)), mode="edge"))
