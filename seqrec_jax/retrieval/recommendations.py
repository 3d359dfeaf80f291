"""Recommended lists as raw values, and what a reader must know about them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from seqrec_jax.data.rankers import Ranker, SeenItems
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval.catalogue import History, ItemCatalogue
from seqrec_jax.retrieval.eligibility import ItemFilter, ItemLists
from seqrec_jax.retrieval.encoding import USERS_PER_TILE
from seqrec_jax.retrieval.policy import Policies
from seqrec_jax.retrieval.ranking import FindBest, find_best_of, ranked_lists, users_per_tile
from seqrec_jax.settings import check_value

_SHOWN_USERS = 5


@dataclass(frozen=True)
class Recommendations:
    """Lists of items for U users.

    Attributes:
      user_ids: `[U]` raw user ids.
      item_ids: `[U, K]` int32 item numbers, best first; 0 behind the last item.
      scores: `[U, K]` float32 scores, -inf behind the last item and for items of the fallback that fill a list up.
      raw_ids: `[V]` raw item ids of the numbers 1…V.
      k: the length that was requested.
      unknown_items: raw item ids of the histories that the catalogue does not have; they were skipped.
      without_history: user ids who got the fallback, the most popular items of training.
      unknown_in_filters: raw item ids of allow and deny lists that the catalogue does not have.
    """

    user_ids: np.ndarray
    item_ids: Int[np.ndarray, "U K"]
    scores: Float[np.ndarray, "U K"]
    raw_ids: np.ndarray
    k: int
    unknown_items: list[str]
    without_history: list[str]
    unknown_in_filters: list[str]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each recommended item: `user_id`, `rank` (from 1), `item_id` (raw), `score` (float32)."""
        listed = self.item_ids > 0
        columns = {
            "user_id": np.repeat(self.user_ids, listed.sum(axis=1)),
            "rank": np.cumsum(listed, axis=1)[listed],
            "item_id": self.raw_ids[self.item_ids[listed] - 1],
            "score": self.scores[listed],
        }
        return pd.DataFrame(columns)

    @property
    def lengths(self) -> Int[np.ndarray, " U"]:
        """`[U]` int64 number of items in each list."""
        return (self.item_ids > 0).sum(axis=1)

    @property
    def short_lists(self) -> dict[str, int]:
        """Users whose list has fewer than k items, with its length: no more items may be listed for them."""
        lengths = self.lengths
        short = np.flatnonzero(lengths < self.k)
        return dict(zip(self.user_ids[short].tolist(), lengths[short].tolist(), strict=True))

    @property
    def note_on_short_lists(self) -> str | None:
        """A sentence on the lists that have fewer than k items; None if there are none."""
        short = self.short_lists
        if not short:
            return None
        if len(self.user_ids) == 1:
            return f"{self.lengths[0]} of {self.k} items, since no more may be listed"
        shown = ", ".join(f"{user} ({length})" for user, length in list(short.items())[:_SHOWN_USERS])
        more = ", …" if len(short) > _SHOWN_USERS else ""
        count = f"{len(short):,} of {len(self.user_ids):,} lists have fewer than {self.k} items"
        return f"{count}, since no more may be listed: {shown}{more}"


def recommended(
    find_best: FindBest,
    catalogue: ItemCatalogue,
    policies: Policies,
    history: History,
    k: int,
    *,
    now: int | None = None,
    query: str | None = None,
    seen_items: SeenItems = "kept",
    reranking: RerankConfig | None = None,
    allowed: ItemLists | None = None,
    denied: ItemLists | None = None,
    whole_rows: bool = False,
) -> Recommendations:
    """The lists of a request: the one path of models, decoders and baselines.

    Args:
      find_best: finds a system's best eligible items.
      catalogue: raw ids and numbers of the items.
      policies: what may be listed, by settings.
      history: as for `Recommender.recommend`, and so are the others.
      k: length of a list.
      now: seconds UTC at which shop rules and availability are looked up; None means the present.
      query: the text of a search after the history.
      seen_items: kept or excluded.
      reranking: shop rules and preferences.
      allowed: raw ids of the only eligible items.
      denied: raw ids of items that are not eligible.
      whole_rows: the system makes scores or masks `[U, V+1]`, so that users go in tiles that fit memory.

    Raises:
      ConfigError: k < 1, an unknown seen_items, a wrong rule, or a query for a model that was trained without any.
      DataError: no user, or as `Recommender.histories`.
    """
    check_value("k", k, "[1, inf)")
    policy = policies.policy(seen_items, reranking)
    users, unknown = catalogue.read(history)
    if query is not None:
        users = catalogue.with_query(users, query)
    request = None
    if allowed is not None or denied is not None:
        request = ItemFilter(catalogue, users.user_ids, allowed=allowed, denied=denied)
    whole_rows |= request is not None and request.by_user
    lists = ranked_lists(
        find_best,
        users,
        k=min(k, catalogue.num_items),
        policy=policy,
        now=int(time.time()) if now is None else now,
        request=request,
        tile=min(users_per_tile(catalogue.num_items), users.num_users) if whole_rows else USERS_PER_TILE,
    )
    return Recommendations(
        user_ids=users.user_ids,
        item_ids=lists.item_ids,
        scores=lists.scores,
        raw_ids=catalogue.raw_ids,
        k=k,
        unknown_items=unknown,
        without_history=users.user_ids[users.lengths == 0].tolist(),
        unknown_in_filters=[] if request is None else request.unknown,
    )


def recommend_with(
    ranker: Ranker,
    catalogue: ItemCatalogue,
    history: History,
    k: int = 10,
    *,
    seen_items: SeenItems = "kept",
    reranking: RerankConfig | None = None,
    allowed: ItemLists | None = None,
    denied: ItemLists | None = None,
    now: int | None = None,
) -> Recommendations:
    """The best k eligible items by the scores of any ranker, such as a baseline; see `Recommender.recommend`.

    Raises:
      ConfigError, DataError: as `Recommender.recommend`.
    """
    everything = np.arange(catalogue.num_items + 1) > 0
    return recommended(
        find_best_of(ranker, catalogue.order),
        catalogue,
        Policies(catalogue, lambda: everything),
        history,
        k,
        seen_items=seen_items,
        reranking=reranking,
        allowed=allowed,
        denied=denied,
        now=now,
        whole_rows=True,
    )
