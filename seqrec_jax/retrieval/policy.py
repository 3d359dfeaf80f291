"""What may be listed, as one mask before any list is made, and the soft rules that reorder a list afterwards.

An item is eligible for a user if the model can rank it, it is available now, no hard rule takes it out, it is on the
request's allow list (if there is one) and not on its deny list, and the user has not seen it (if seen items are
excluded). A `ListPolicy` is built once and answers many requests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Int

from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences, pad_sequences
from seqrec_jax.data.timestamps import parse_timestamps
from seqrec_jax.errors import DataError
from seqrec_jax.reranking import RerankConfig, Reranked, make_reranker, open_rules
from seqrec_jax.retrieval.catalogue import ItemCatalogue
from seqrec_jax.retrieval.eligibility import Eligibility, ItemFilter, Lists
from seqrec_jax.settings import check_choice

CANDIDATES = 200
"""Best eligible items of a user that soft rules choose from, at least twice the list."""


class ListPolicy:
    """What may be listed and how candidates are reordered: item masks and rules, read once."""

    def __init__(
        self,
        catalogue: ItemCatalogue,
        rankable: Bool[np.ndarray, " V1"],
        *,
        seen_items: SeenItems = "kept",
        reranking: RerankConfig | None = None,
        item_vectors: Callable[[], np.ndarray] | None = None,
    ):
        """A policy over a catalogue.

        Args:
          catalogue: the items.
          rankable: `[V+1]` bool, items that the model can rank.
          seen_items: excluded: items of a user's history are not eligible.
          reranking: preferences and shop rules; None for none.
          item_vectors: makes `[V+1, E]` for diversity by vectors; called only if that is on.

        Raises:
          ConfigError: another seen_items, or a weight, rule or column that is wrong; see `make_reranker`.
          DataError: an item's `available_from` that is not a time.
        """
        check_choice("seen_items", seen_items, SeenItems)
        self.num_items = catalogue.num_items
        reranking = reranking or RerankConfig()
        self._seen_excluded = seen_items == "excluded"
        self._base = np.asarray(rankable).copy()
        self._base[0] = False
        self._available_from = available_from(catalogue.items)
        self._rules = open_rules(reranking.rules, catalogue.items)
        self._rerank: Callable[..., Reranked] | None = None
        if reranking != RerankConfig():
            vectors = item_vectors() if reranking.diversity and item_vectors is not None else None
            self._rerank = make_reranker(reranking, items=catalogue.items, item_vectors=vectors, rules=self._rules)
        self._mask: tuple[int, np.ndarray, Array] | None = None
        self._changes = self._times_of_change()
        popularity = catalogue.popularity
        self.order = catalogue.order
        self._popular = np.lexsort((np.asarray(self.order)[1:], -popularity[1:])).astype(np.int32) + 1

    def num_candidates(self, k: int) -> int:
        """How many eligible items are needed for a list of k: more than k if soft rules choose among them."""
        return k if self._rerank is None else max(CANDIDATES, 2 * k)

    def eligible(
        self, histories: Sequences, *, now: int, request: ItemFilter | None = None, users: np.ndarray | None = None
    ) -> Eligibility:
        """The items that may be listed for each of U users.

        Args:
          histories: of U users.
          now: seconds UTC at which rules and availability are looked up.
          request: the request's allow and deny lists; None for none.
          users: `[U]` the users' indices in the request; None for 0…U-1.
        """
        mask, on_device = self._mask_at(now)
        items: np.ndarray | Array = on_device
        if request is not None:
            items = request.candidates(mask, np.arange(histories.num_users) if users is None else users)
        excluded = None
        if self._seen_excluded:
            width = 1 << int(max(1, histories.lengths.max(initial=0)) - 1).bit_length()  # few shapes, few compilations
            excluded = pad_sequences(histories, length=width)
        return Eligibility(items, excluded)

    def _times_of_change(self) -> Int[np.ndarray, " T"]:
        """`[T]` seconds UTC, rising, at which a filter rule starts or ends or an item becomes available."""
        times = [time for rule in self._rules.rules if rule.action == "filter" for time in (rule.start, rule.end)]
        written = np.array([time for time in times if time is not None], dtype=np.int64)
        return np.unique(written if self._available_from is None else np.r_[written, self._available_from])

    def _mask_at(self, now: int) -> tuple[Bool[np.ndarray, " V1"], Bool[Array, " V1"]]:
        """`[V+1]` True for items that are eligible for everybody, on host and device, kept until it changes."""
        period = int(np.searchsorted(self._changes, now, side="right"))
        if self._mask is None or self._mask[0] != period:
            mask = self._base.copy()
            if (left_in := self._rules.eligible_items(now)) is not None:
                mask &= left_in
            if self._available_from is not None:
                mask &= self._available_from <= now
            self._mask = (period, mask, jnp.asarray(mask))
        return self._mask[1:]

    def reordered(self, candidates: Lists, histories: Sequences, *, k: int, now: int) -> Lists:
        """The first k of candidates `[U, C]` after soft rules, `[U, k]`."""
        if self._rerank is None:
            return Lists(candidates.item_ids[:, :k].copy(), candidates.scores[:, :k])
        reranked = self._rerank(*candidates, histories=histories, k=k, now=now)
        return Lists(reranked.item_ids, reranked.scores)

    def filled(self, lists: Lists, eligible: Eligibility) -> Lists:
        """Lists `[U, K]` whose empty places hold the most popular eligible items that are not listed yet.

        A place is empty where the ranker found fewer items than are eligible. Such an item's score is -inf.
        """
        item_ids, scores = lists
        short = np.flatnonzero((item_ids == 0).any(axis=1))
        if not len(short):
            return lists
        shared = np.asarray(eligible.items)
        pool = None if shared.ndim == 2 else self._popular[shared[self._popular]]
        for user in short:
            own = self._popular[shared[user][self._popular]] if pool is None else pool
            barred = item_ids[user] if eligible.excluded is None else np.r_[item_ids[user], eligible.excluded[user]]
            rest = own[~np.isin(own, barred)]
            places = np.flatnonzero(item_ids[user] == 0)[: len(rest)]
            item_ids[user, places] = rest[: len(places)]
        return Lists(item_ids, scores)


class Policies:
    """The policies of one catalogue and model, each built at its first use and kept for later requests."""

    def __init__(
        self,
        catalogue: ItemCatalogue,
        rankable: Callable[[], np.ndarray],
        *,
        item_vectors: Callable[[], np.ndarray] | None = None,
    ):
        """Policies that differ in their rules and weights; arguments as of `ListPolicy`."""
        self._catalogue, self._rankable, self._item_vectors = catalogue, rankable, item_vectors
        self._kept: dict[tuple[object, ...], ListPolicy] = {}

    def policy(self, seen_items: SeenItems = "kept", reranking: RerankConfig | None = None) -> ListPolicy:
        """The policy of these settings; a rules file that has changed is read again.

        Raises:
          ConfigError, DataError: as `ListPolicy`.
        """
        rules = None if reranking is None else reranking.rules
        written = None if rules is None or not Path(rules).is_file() else Path(rules).stat()
        key = (seen_items, reranking, written and (written.st_mtime_ns, written.st_size))
        if key not in self._kept:
            self._kept[key] = ListPolicy(
                self._catalogue,
                self._rankable(),
                seen_items=seen_items,
                reranking=reranking,
                item_vectors=self._item_vectors,
            )
        return self._kept[key]


def available_from(items: pd.DataFrame) -> Int[np.ndarray, " V1"] | None:
    """`[V+1]` int64 seconds UTC from which each item can be recommended; None without the column `available_from`.

    An item that was in the log earlier is available from then; one without a time always is.

    Args:
      items: V rows of an item table in vocabulary order, with `first_timestamp`.

    Raises:
      DataError: a value that is not a time.
    """
    if "available_from" not in items:
        return None
    written = items["available_from"]
    seconds = parse_timestamps(written, name="available_from", source="the item table")
    wrong = (seconds.isna() & written.notna()).to_numpy()
    if wrong.any():
        raise DataError(
            f"the item table's column available_from has {written[wrong].iloc[0]!r}, which is no time; it says from "
            "when an item can be recommended: use seconds or ISO times, or name the column otherwise"
        )
    first = seconds.fillna(np.iinfo(np.int64).min).to_numpy(dtype=np.int64)
    return np.concatenate([[0], np.minimum(first, items["first_timestamp"].to_numpy())])
