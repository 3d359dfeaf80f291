"""A decoder fitted on a run's states: it writes the code of the next item and so scores and lists items."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.heads import GenerativeHead, GenerativeHeadConfig, make_generative_head
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval.catalogue import History
from seqrec_jax.retrieval.eligibility import Eligibility, ItemLists, Lists
from seqrec_jax.retrieval.policy import ListPolicy, Policies
from seqrec_jax.retrieval.ranking import on_host, popular_items, ranked_lists, users_per_tile
from seqrec_jax.retrieval.recommendations import Recommendations, recommended
from seqrec_jax.retrieval.recommender import Recommender
from seqrec_jax.runs import Run, read_artifact
from seqrec_jax.settings import parse_config
from seqrec_jax.types import ArrayLike

_EVER = 2**62
"""Seconds UTC at which every item is available, for lists whose candidates are given."""


class RunDecoder:
    """A decoder on a run's states, a ranker like any other; `RunDecoder.load(run, name)` reads one.

    Attributes:
      recommender: of the checkpoint that the decoder was fitted on.
      params: of the decoder.
      codes: `[V+1, C]` int32 codes of the items, 0 for an item without.
      name: for tables.
    """

    gives_logits = True

    def __init__(
        self,
        recommender: Recommender,
        params: dict[str, Any],
        codes: Int[np.ndarray, "V1 C"],
        config: DecoderTrainingConfig,
        *,
        name: str = "decoder",
    ):
        """A decoder from parts.

        Args:
          recommender: of the checkpoint that the decoder was fitted on.
          params: of the decoder.
          codes: `[V+1, C]` codes of the items, 0 throughout for an item that the decoder cannot rank.
          config: which decoder, over how many codes.
          name: for tables.
        """
        self.recommender, self.codes, self.name = recommender, np.asarray(codes), name
        self.params = jax.tree.map(jnp.asarray, params)
        head = generative_head(config, self.codes, len(params["state"]["kernel"]))
        rankable = self.codes[:, 0] > 0
        # scores of users without history: as likely as it was seen
        self._popularity = np.where(rankable, np.log1p(recommender.catalogue.popularity), -np.inf).astype(np.float32)
        self._policies = Policies(recommender.catalogue, lambda: rankable, item_vectors=recommender.item_vectors)

        def scores(
            params: Any, states: Float[Array, "U D"], empty: Bool[Array, " U"], popularity: Float[Array, " V1"]
        ) -> Float[Array, "U V1"]:
            return jnp.where(empty[:, None], popularity[None], head.scores(params, states))

        self._scores = jax.jit(scores)
        self._generate = jax.jit(head.generate, static_argnames=("k", "num_beams"))
        self._popular = jax.jit(popular_items, static_argnames=("k", "num_users"))

    @classmethod
    def load(cls, run: str | Path | Run, name: str = "decoder") -> RunDecoder:
        """The decoder of that name of a run, over the checkpoint that it was fitted on.

        Raises:
          CheckpointError: no run, no such decoder, one of another schema version or of other parameters of the run.
        """
        run = Run.open(run)
        params, facts, step = read_artifact(run, "decoder", name)
        codes = params.pop("codes_of_items")
        params.setdefault("decoder", {})  # of mean pooling, which has no parameters
        config = parse_config(DecoderTrainingConfig, values=facts["fitting"])
        return cls(Recommender.load(run, step=step), params, codes, config, name=name)

    def scores(self, histories: Sequences) -> Float[Array, "U V1"]:
        """`[U, V+1]` float32 log P(item); -inf for items without codes.

        Every node of the tree of codes is visited for each user. Users without history get the log of one plus the
        number of training events of each item instead.

        Raises:
          DataError: no user, or times that do not fit int32 seconds.
        """
        states = jnp.asarray(self.recommender.user_vectors(histories))
        scores: Array = self._scores(self.params, states, jnp.asarray(histories.lengths == 0), self._popularity)
        return scores

    def lists(
        self,
        histories: Sequences,
        k: int,
        *,
        candidates: Bool[ArrayLike, " V1"] | None = None,
        seen_items: SeenItems = "kept",
        num_beams: int | None = None,
    ) -> Lists:
        """The best eligible items that a beam search finds, the most popular ones for users without history.

        Args:
          histories: of U users.
          k: K.
          candidates: `[V+1]` True for items that can be recommended; None means all. Items without codes cannot.
          seen_items: excluded leaves out the items of the whole history.
          num_beams: beginnings kept at each level; None means 2 K, and 32 at least.

        Returns:
          `[U, K]` int32 item ids and float32 log P(item), NumPy; id 0, score -inf beyond the eligible items.

        Raises:
          DataError: no user.
          ShapeError: k below 1, or fewer beams than k.
        """
        rankable = self.codes[:, 0] > 0
        policy = ListPolicy(
            self.recommender.catalogue,
            rankable if candidates is None else rankable & np.asarray(candidates),
            seen_items=seen_items,
        )
        find_best = partial(self._find_best, num_beams=num_beams)
        tile = min(users_per_tile(policy.num_items), histories.num_users)
        return ranked_lists(find_best, histories, k=k, policy=policy, now=_EVER, tile=tile)

    def recommend(
        self,
        history: History,
        k: int = 10,
        *,
        seen_items: SeenItems = "kept",
        reranking: RerankConfig | None = None,
        allowed: ItemLists | None = None,
        denied: ItemLists | None = None,
        now: int | None = None,
    ) -> Recommendations:
        """The best k eligible items for a history, or for each of many; see `Recommender.recommend`.

        Raises:
          ConfigError: k < 1, an unknown seen_items, or a wrong rule.
          DataError: no user, or as `Recommender.histories`.
        """
        return recommended(
            self._find_best,
            self.recommender.catalogue,
            self._policies,
            history,
            k,
            seen_items=seen_items,
            reranking=reranking,
            allowed=allowed,
            denied=denied,
            now=now,
            whole_rows=True,
        )

    def _find_best(
        self, histories: Sequences, eligible: Eligibility, count: int, num_beams: int | None = None
    ) -> Lists:
        states = self.recommender.user_vectors(histories)
        allowed = eligible.table(histories.num_users)
        found = on_host(self._generate(self.params, jnp.asarray(states), k=count, num_beams=num_beams, allowed=allowed))
        empty = histories.lengths == 0
        if not empty.any():
            return found
        popular = self._popular(
            jnp.asarray(self._popularity),
            self.recommender.catalogue.order,
            jnp.asarray(allowed),
            None,
            num_users=len(empty),
            k=count,
        )
        return Lists(*(np.where(empty[:, None], *pair) for pair in zip(on_host(popular), found, strict=True)))


def generative_head(config: DecoderTrainingConfig, codes: Int[np.ndarray, "V1 C"], width: int) -> GenerativeHead:
    """The decoder of a catalogue's codes `[V+1, C]` over states of `width` numbers."""
    head = GenerativeHeadConfig(state_width=width, decoder=config.decoder)
    return make_generative_head(head, codes, codebook_size=config.codes.codebook_size)
