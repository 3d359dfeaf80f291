"""A trained model over its items: histories to vectors, scores and lists of raw item ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval.catalogue import History, ItemCatalogue
from seqrec_jax.retrieval.eligibility import Eligibility, ItemLists, Lists
from seqrec_jax.retrieval.encoding import HistoryEncoder
from seqrec_jax.retrieval.engine import Engine
from seqrec_jax.retrieval.policy import Policies
from seqrec_jax.retrieval.ranking import best_of_vectors, on_host
from seqrec_jax.retrieval.recommendations import Recommendations, recommended
from seqrec_jax.retrieval.user_states import UserStates
from seqrec_jax.runs import Run
from seqrec_jax.scoring import TopK, bilinear_scores
from seqrec_jax.training.config import LossConfig
from seqrec_jax.types import ArrayLike


class Recommender:
    """Scores and lists from trained parameters; `Recommender.load(run)` makes one from a run's checkpoint.

    Attributes:
      catalogue: raw ids and numbers of the items.
      name: for tables.
      gives_logits: whether the softmax of the scores is meant as the probability of the next item.
      modalities: what item vectors are made of.
    """

    def __init__(
        self,
        model: SequenceModel,
        params: Any,
        item_table: ItemTable,
        *,
        items: pd.DataFrame,
        behaviors: Sequence[str],
        length: int,
        first_timestamp: int,
        target_behavior: str | None = None,
        query_behavior: str | None = None,
        gives_logits: bool = False,
        name: str = "model",
    ):
        """A recommender from parts.

        Args:
          model: pure functions.
          params: their parameters.
          item_table: attributes of the items.
          items: V rows in vocabulary order with `item_id` (raw) and `training_events`.
          behaviors: names of the behaviour codes 0, 1, ….
          length: L, how many of a history's last events the model reads.
          first_timestamp: seconds UTC of the dataset's first event.
          target_behavior: the predicted behaviour, for a model whose v_x depends on it; see `predicting`.
          query_behavior: the behaviour of a search, for a model whose events have queries.
          gives_logits: whether the softmax of the scores is meant as the probability of the next item.
          name: for tables.

        Raises:
          ConfigError: a behaviour that the model was not trained with.
        """
        self.name, self.gives_logits, self.modalities = name, gives_logits, model.modalities
        self.catalogue = ItemCatalogue(items, behaviors, first_timestamp=first_timestamp, query_behavior=query_behavior)
        self._encoder = HistoryEncoder(
            model,
            params,
            item_table,
            num_items=len(items),
            length=length,
            first_timestamp=first_timestamp,
            target_behavior=None if target_behavior is None else self.catalogue.behavior_code(target_behavior),
        )
        self._popularity = jnp.asarray(self.catalogue.popularity)
        self.engine = Engine(self._encoder, popularity=self._popularity, order=self.catalogue.order)

        @jax.jit
        def scores(
            params: Any,
            v_y: Float[Array, "V1 E"],
            rankable: Bool[Array, " V1"],
            popularity: Float[Array, " V1"],
            v_x: Float[Array, "U D"],
            empty: Bool[ArrayLike, " U"],
        ) -> Float[Array, "U V1"]:
            scored = bilinear_scores(model.project(params, v_x), None, v_y)
            scored = jnp.where(empty[:, None], popularity[None, :], scored)
            return jnp.where(rankable[None, :], scored, -jnp.inf)

        @partial(jax.jit, static_argnames="k")
        def best(params: Any, v_x: Float[Array, "U D"], *arrays: Any, k: int) -> TopK:
            return best_of_vectors(model.project(params, v_x), *arrays, k=k)

        self._scores, self._best = scores, best

    @classmethod
    def load(cls, run: str | Path | Run, *, step: int | None = None) -> Recommender:
        """The recommender of a run; needs nothing but the run's directory.

        Args:
          run: the directory that training wrote, usually `runs/<name>`, or an open run.
          step: step of the checkpoint; None for the best by validation.

        Raises:
          CheckpointError: no run, no whole checkpoint, or one of another model or schema version.
        """
        run = Run.open(run)
        config, facts = run.model_config, run.facts
        loss = run.section("training.loss", LossConfig)
        return cls(
            run.model,
            run.params(step),
            run.item_table,
            items=run.items,
            behaviors=facts.behaviors,
            length=config.encoder.max_length,
            first_timestamp=facts.first_timestamp,
            target_behavior=_only(facts.split.target_behaviors),
            query_behavior=facts.query_behavior if config.events.query else None,
            gives_logits=loss.kind == "softmax" and loss.temperature == 1,
            name=config.encoder.kind,
        )

    @classmethod
    def for_dataset(
        cls, dataset: Dataset, model: SequenceModel, params: Any, item_table: ItemTable, *, length: int, name: str
    ) -> Recommender:
        """The recommender of a model over the items and behaviours of a prepared dataset; see `__init__`."""
        return cls(
            model,
            params,
            item_table,
            items=dataset.items,
            behaviors=dataset.behaviors,
            length=length,
            first_timestamp=dataset.first_timestamp,
            target_behavior=_only(dataset.split.config.target_behaviors),
            query_behavior=dataset.query_behavior,
            name=name,
        )

    @property
    def params(self) -> Any:
        """The model's parameters, nested dictionaries of arrays."""
        return self._encoder.params

    @property
    def item_table(self) -> ItemTable:
        """Attributes of the items, V+1 rows."""
        return self._encoder.item_table

    @property
    def items(self) -> pd.DataFrame:
        """V rows in vocabulary order with `item_id` (raw), `training_events` and the item table's columns."""
        return self.catalogue.items

    @property
    def behaviors(self) -> tuple[str, ...]:
        """Names of the behaviour codes 0, 1, …."""
        return self.catalogue.behaviors

    @property
    def length(self) -> int:
        """L, how many of a history's last events the model reads."""
        return self._encoder.length

    def with_params(self, params: Any) -> Recommender:
        """The same recommender over other parameters of the same model; nothing is compiled anew."""
        return self._over(self._encoder.changed(params=params))

    def with_item_table(self, item_table: ItemTable) -> Recommender:
        """The same recommender over other content of the same items, such as content that lacks a modality."""
        return self._over(self._encoder.changed(item_table=item_table))

    def on_mesh(self, mesh: Mesh) -> Recommender:
        """The same recommender with its users shared by the devices of a mesh over the axis `data`."""
        return self._over(self._encoder.on_mesh(mesh))

    def predicting(self, behavior: str) -> Recommender:
        """The same recommender for another predicted behaviour: what will the user purchase, not merely view.

        Without this call, it predicts the behaviour that the dataset's split predicts.

        Raises:
          ConfigError: a model that is not conditioned on a behaviour, since `model.target_behavior` is off, or a
            behaviour that it was not trained with.
        """
        if "target_behaviors" not in self.params:
            raise ConfigError(
                f"the model predicts the same for every behaviour; train one with model.target_behavior on to predict "
                f"{behavior!r}"
            )
        return self._over(self._encoder.changed(target_behavior=self.catalogue.behavior_code(behavior)))

    def _over(self, encoder: HistoryEncoder) -> Recommender:
        other = copy.copy(self)
        other._encoder, other.engine = encoder, self.engine.with_encoder(encoder)
        for made in ("user_states", "_policies"):
            other.__dict__.pop(made, None)
        return other

    @cached_property
    def user_states(self) -> UserStates:
        """User vectors that follow a stream of events, for models to which events can be appended."""
        return UserStates(self._encoder)

    @cached_property
    def _policies(self) -> Policies:
        return Policies(self.catalogue, lambda: np.asarray(self._encoder.rankable), item_vectors=self.item_vectors)

    def scores(self, histories: Sequences) -> Float[Array, "U V1"]:
        """`[U, V+1]` float32 scores of all items; -inf for items that the model cannot rank.

        Users without history get the number of training events of each item instead.

        Raises:
          DataError: no user, or times that do not fit int32 seconds.
        """
        encoder = self._encoder
        v_x = encoder.user_vectors_on_device(histories)
        empty = encoder.spread(histories.lengths == 0)
        scores: Array = self._scores(self.params, encoder.v_y, encoder.rankable, self._popularity, v_x, empty)
        return scores

    def user_vectors(self, histories: Sequences) -> Float[np.ndarray, "U D"]:
        """`[U, D]` float32 v_x of each user; zeros for users without history.

        Raises:
          DataError: no user, or times that do not fit int32 seconds.
        """
        return self._encoder.user_vectors(histories)

    def item_vectors(self) -> Float[np.ndarray, "V1 E"]:
        """`[V+1, E]` float32 v_y of each item."""
        return np.asarray(self._encoder.v_y)

    def project(self, v_x: Float[ArrayLike, "U D"]) -> Float[np.ndarray, "U E"]:
        """`[U, E]` float32 v_xᵀ W: its product with an item's vector is the item's score."""
        return np.asarray(self._encoder.project(v_x))

    def histories(self, histories: Sequence[pd.DataFrame], user_ids: Sequence[str]) -> tuple[Sequences, list[str]]:
        """Sequences of raw events, and the raw item ids that the catalogue does not have, which are skipped.

        Args:
          histories: U frames, one a user, in order of time, with `item_id` (raw) and, in all of them or in none,
            `behavior` and `timestamp` (whole seconds UTC). Without them every event has the first behaviour and the
            time of the dataset's first event. With a column `query`, an event may have a query and no item; it then is
            a search if there is no `behavior`.
          user_ids: U raw user ids.

        Raises:
          DataError: no item_id, a behaviour that the model was not trained with, or times that are not whole seconds
            or not in order.
        """
        return self.catalogue.histories(histories, user_ids)

    def recommend(
        self,
        history: History,
        k: int = 10,
        *,
        query: str | None = None,
        seen_items: SeenItems = "kept",
        reranking: RerankConfig | None = None,
        allowed: ItemLists | None = None,
        denied: ItemLists | None = None,
        now: int | None = None,
    ) -> Recommendations:
        """The best k eligible items for a history, or for each of many.

        Args:
          history: raw item ids in order of time; or a frame as in `histories`, of many users if it has a column
            `user_id`; or the sequences of many users.
          k: length of a list; a list is shorter only if fewer items are eligible.
          query: the text of a search after the history, which may be empty; None for no search.
          seen_items: excluded: items of the whole history are not eligible.
          reranking: shop rules, and preferences that reorder the best eligible items; None for none.
          allowed: raw ids of the only eligible items: for all users, in a mapping from user ids, or a collection a
            user; None for no limit.
          denied: raw ids of items that are not eligible, likewise.
          now: seconds UTC at which shop rules and availability are looked up; None means the present.

        Returns:
          The lists.

        Raises:
          ConfigError: k < 1, an unknown seen_items, a wrong rule, or a query for a model that was trained without any.
          DataError: no user, or as `histories`.
        """
        return recommended(
            self._find_best,
            self.catalogue,
            self._policies,
            history,
            k,
            query=query,
            seen_items=seen_items,
            reranking=reranking,
            allowed=allowed,
            denied=denied,
            now=now,
        )

    def _find_best(self, histories: Sequences, eligible: Eligibility, count: int) -> Lists:
        if histories.num_users == 1:
            return self.engine.find_best(histories, eligible, count)
        encoder = self._encoder
        v_x = encoder.user_vectors_on_device(histories)
        by_user = encoder.spread((histories.lengths == 0,))[0]
        arrays = (encoder.v_y, by_user, self._popularity, self.catalogue.order, eligible.items, eligible.excluded)
        return on_host(self._best(self.params, v_x, *arrays, k=count))


def _only(behaviors: Sequence[str]) -> str | None:
    """The behaviour that a split predicts, None if it is not one alone."""
    return behaviors[0] if len(behaviors) == 1 else None
