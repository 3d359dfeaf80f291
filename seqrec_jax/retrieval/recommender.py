"""A checkpoint that recommends: histories to vectors, scores and lists of raw item ids."""

from __future__ import annotations

import copy
import operator
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.attributes import AttributeVocabulary
from seqrec_jax.data.batches import Batch, history_batch
from seqrec_jax.data.columns import number_texts
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import as_text
from seqrec_jax.data.item_content import read_content
from seqrec_jax.data.queries import ask
from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences, pad_sequences
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.items import ItemTable
from seqrec_jax.items.table import make_item_table
from seqrec_jax.model import ModelConfig, SequenceModel, make_sequence_model
from seqrec_jax.parallel import data_size, over_rows, replicate
from seqrec_jax.reranking import RerankConfig, make_reranker
from seqrec_jax.runs.run import read_run
from seqrec_jax.scoring import bilinear_scores, catalogue_order, top_k_in_scores
from seqrec_jax.settings import parse_config
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.wiring import with_adapters
from seqrec_jax.training.checkpoints import load_params
from seqrec_jax.training.language_files import with_kept_language_models

USERS_PER_TILE = 256
CPU_EVENTS_PER_TILE = 8192
"""Most positions that a CPU encodes at once; what a block makes of many more does not stay in its cache."""
CANDIDATES = 200


class Recommendations(NamedTuple):
    """Lists of raw item ids.

    Attributes:
      table: a row a recommended item: `user_id`, `rank` (from 1), `item_id` (raw), `score`.
      unknown_items: raw item ids of the histories that the catalogue does not have; they were skipped.
      without_history: user ids who got the fallback, the most popular items of training.
    """

    table: pd.DataFrame
    unknown_items: list[str]
    without_history: list[str]


class Recommender:
    """Scores and lists from trained parameters; `Recommender.load(run)` makes one from a run's checkpoint."""

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
          behaviors: names behind the behaviour codes.
          length: L, how many events of a history the model looks at.
          first_timestamp: the dataset's first event in seconds.
          target_behavior: what is predicted, for a model whose v_x depends on it; see `predicting`.
          query_behavior: of a search, for a model whose events have queries.
          gives_logits: the softmax of the scores is meant as the probability of the next item.
          name: for tables.

        Raises:
          ConfigError: a behaviour that the model was not trained with.
        """
        self.name = name
        self.gives_logits = gives_logits
        self.modalities = model.modalities
        self.items = items
        self.behaviors = tuple(behaviors)
        self.params = params
        self.length = length
        self._first_timestamp = first_timestamp
        self._masked_end = not model.causal
        self._target_behavior = None if target_behavior is None else self._behavior_code(target_behavior)
        self._query_behavior = None if query_behavior is None else self._behavior_code(query_behavior)
        self.item_table = item_table
        counts = np.concatenate([[0], items["training_events"].to_numpy()]).astype(np.float32)
        popularity = jnp.asarray(counts)

        @jax.jit
        def scored_items(params: Any, item_table: ItemTable) -> tuple[Float[Array, "V1 E"], Bool[Array, " V1"]]:
            # a table that is spread over devices may have more rows
            v_y = model.item_vectors(params, item_table)[: len(items) + 1]
            # a vector of zeros is an item without training and without content: it cannot be ranked
            return v_y, jnp.any(v_y != 0, axis=1)

        @jax.jit
        def user_vectors(params: Any, item_table: ItemTable, v_y: Array, batch: Batch) -> Float[Array, "U D"]:
            there = jnp.any(batch.segment_ids > 0, axis=1)
            return jnp.where(there[:, None], model.encode_last(params, item_table, batch, v_y=v_y), 0)

        @jax.jit
        def scores(
            params: Any, v_y: Float[Array, "V1 E"], rankable: Array, v_x: Float[Array, "U D"], empty: Array
        ) -> Float[Array, "U V1"]:
            scored = bilinear_scores(model.project(params, v_x), None, v_y)
            scored = jnp.where(empty[:, None], popularity[None, :], scored)
            return jnp.where(rankable[None, :], scored, -jnp.inf)

        self._scored_items, self._user_vectors, self._scores = scored_items, user_vectors, scores
        self._made_items: tuple[Array, Array] | None = None
        self._mesh: Mesh | None = None
        self._project = jax.jit(model.project)

    @classmethod
    def load(cls, run: str | Path, *, step: int | None = None) -> Recommender:
        """The recommender of a run; needs nothing but the run's directory.

        Args:
          run: `runs/<name>`.
          step: of the checkpoint; None takes the best by validation.

        Raises:
          CheckpointError: no run, no whole checkpoint, or one of another model or schema version.
        """
        config, facts, items = read_run(run)
        model_config = with_kept_language_models(parse_config(ModelConfig, values=config["model"]), Path(run))
        vocabulary = AttributeVocabulary.from_dict(facts["attributes"])
        item_table = make_item_table(items, vocabulary, content=read_content(run))
        model = make_sequence_model(
            model_config, num_items=len(items), num_behaviors=len(facts["behaviors"]), item_table=item_table
        )
        fine_tuning = parse_config(FineTuningConfig, values=config["training"].get("fine_tuning", {}))
        model = with_adapters(model, fine_tuning)
        params, _ = load_params(model, run, step=step)
        return cls(
            model,
            params,
            item_table,
            items=items,
            behaviors=facts["behaviors"],
            length=model_config.encoder.max_length,
            first_timestamp=facts["first_timestamp"],
            target_behavior=_only(facts["split"]["target_behaviors"]),
            query_behavior=facts.get("query_behavior") if model_config.events.query else None,
            gives_logits=config["training"]["loss"]["kind"] == "softmax"
            and config["training"]["loss"]["temperature"] == 1,
            name=model_config.encoder.kind,
        )

    @classmethod
    def for_dataset(
        cls, dataset: Dataset, model: SequenceModel, params: Any, item_table: ItemTable, *, length: int, name: str
    ) -> Recommender:
        """The recommender of a model over the items and behaviours of a prepared dataset."""
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

    def with_params(self, params: Any) -> Recommender:
        """The same recommender over other parameters of the same model; nothing is compiled anew."""
        other = copy.copy(self)
        other.params, other._made_items = params, None
        return other

    def with_item_table(self, item_table: ItemTable) -> Recommender:
        """The same recommender over other content of the same items, such as content that lacks a modality."""
        other = copy.copy(self)
        other.item_table, other._made_items = item_table, None
        return other

    def on_mesh(self, mesh: Mesh) -> Recommender:
        """The same recommender with its users shared by the devices of a mesh over the axis `data`."""
        other = copy.copy(self)
        other.params, other.item_table = replicate((self.params, self.item_table), mesh)
        other._made_items, other._mesh = None, mesh
        return other

    def predicting(self, behavior: str) -> Recommender:
        """The same recommender, asked for another behaviour: what will the user purchase, not merely view.

        Without this call, the behaviour that the dataset's split predicts is asked for.

        Raises:
          ConfigError: a model for which it makes no difference, since `model.target_behavior` is off, or a behaviour
            that it was not trained with.
        """
        if "target_behaviors" not in self.params:
            raise ConfigError(
                f"the model predicts the same whatever behaviour is asked for; train one with model.target_behavior "
                f"on to ask for {behavior!r}"
            )
        other = copy.copy(self)
        other._target_behavior = self._behavior_code(behavior)
        return other

    def scores(self, histories: Sequences) -> Float[Array, "U V1"]:
        """`[U, V+1]` scores of all items; -inf for items that the model cannot rank.

        Users without history get the number of training events of each item instead.
        """
        v_x: Array | None = None  # on the device from the first to the last, so that the host can go on
        for users, states in self._encoded(histories):
            if v_x is None:
                v_x = jnp.zeros((histories.num_users, states.shape[1]), states.dtype)
            v_x = _with_rows(v_x, users, states)
        v_x, empty = self._spread((v_x, histories.lengths == 0))
        return self._scores(self.params, *self._items_once(), v_x, empty)

    def user_vectors(self, histories: Sequences) -> Float[np.ndarray, "U D"]:
        """`[U, D]` float32 v_x of each user; zeros for users without history."""
        parts = list(self._encoded(histories))  # all of them asked for before the first is read
        v_x = np.zeros((histories.num_users, parts[0][1].shape[1]), dtype=np.float32)
        for users, states in parts:
            v_x[users] = states
        return v_x

    def _encoded(self, histories: Sequences) -> Iterator[tuple[Int[np.ndarray, " R"], Float[Array, "R D"]]]:
        """Which users, and their v_x, tile by tile; a tile of too few users holds its last one again.

        Users are encoded in rows of a few lengths, see `row_lengths`, so that short histories cost less than long
        ones. How long a user's row is, and of how many rows a tile is, depends on the user's own history alone.
        """
        if not histories.num_users:
            raise DataError("there is no user to encode")
        v_y, _ = self._items_once()
        lengths = row_lengths(histories.lengths + self._masked_end, longest=self.length)
        for length in np.unique(lengths).tolist():
            size = 1 if histories.num_users == 1 else _rows_of(length)
            members = np.flatnonzero(lengths == length).astype(np.int32)
            members = np.pad(members, (0, -len(members) % size), mode="edge")
            for users in np.split(members, range(USERS_PER_TILE, len(members), USERS_PER_TILE)):
                batch = self._batch(histories.select_users(users), length=length)
                for start in range(0, len(users), size):
                    rows: Batch = jax.tree.map(operator.itemgetter(slice(start, start + size)), batch)
                    states = self._user_vectors(self.params, self.item_table, v_y, self._spread(rows))
                    yield users[start : start + size], states

    def item_vectors(self) -> Float[np.ndarray, "V+1 E"]:
        """`[V+1, E]` float32 v_y of each item."""
        return np.asarray(self._items_once()[0])

    def project(self, v_x: Float[np.ndarray, "U D"]) -> Float[np.ndarray, "U E"]:
        """`[U, E]` float32 v_xᵀ W: its product with an item's vector is the item's score."""
        return np.asarray(self._project(self.params, jnp.asarray(v_x)))

    def histories(self, histories: Sequence[pd.DataFrame], user_ids: Sequence[str]) -> tuple[Sequences, list[str]]:
        """Sequences from raw events, and the raw item ids that the catalogue does not have, which are skipped.

        Args:
          histories: one frame a user in order of time, with `item_id` (raw) and, in all of them or in none,
            `behavior` and `timestamp` (whole seconds UTC). Without them every event is of the first behaviour,
            at the time of the dataset's first event. Where there is a column `query`, an event may have a query and
            no item, and is a search where there is no `behavior`.
          user_ids: one a frame.

        Raises:
          DataError: no item_id, a behaviour that the model was not trained with, or times that are no whole seconds
            or not in order.
        """
        for history in histories:
            if "item_id" not in history:
                raise DataError(f"a history needs the column item_id, found {list(history.columns)}")
        sizes = [len(history) for history in histories]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        filled = [history for history in histories if len(history)]
        events = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame({"item_id": []}, dtype=object)
        raw = as_text(events["item_id"], name="item_id").fillna("").to_numpy(dtype=object)
        item_ids = (pd.Index(self.items["item_id"]).get_indexer(pd.Index(raw)) + 1).astype(np.int32)
        codes = np.zeros(len(events), dtype=np.int64)
        if "behavior" in events:
            codes = pd.Index(self.behaviors, dtype=object).get_indexer(events["behavior"].astype(object))
        if (codes < 0).any():
            unknown = events["behavior"][codes < 0].iloc[0]
            raise DataError(f"behaviour {unknown!r} is unknown to the model; it knows {list(self.behaviors)}")
        query_ids, queries = number_texts(as_text(events["query"], name="query")) if "query" in events else (None, None)
        searches = np.zeros(len(raw), dtype=bool) if query_ids is None else (query_ids > 0) & (raw == "")
        if "behavior" not in events and self._query_behavior is not None:
            codes[searches] = self._query_behavior
        sequences = Sequences(
            user_ids=np.asarray(user_ids, dtype=object),
            offsets=offsets,
            item_ids=item_ids,
            timestamps=self._seconds(events, offsets),
            behaviors=codes.astype(np.int8),
            values=np.full(len(item_ids), np.nan, dtype=np.float32),
            query_ids=query_ids,
            queries=queries,
        )
        return sequences.select_events((item_ids > 0) | searches), sorted(set(raw[(item_ids == 0) & ~searches]))

    def _seconds(self, events: pd.DataFrame, offsets: np.ndarray) -> np.ndarray:
        """`[N]` int64 times of raw events, which must rise within each user."""
        if "timestamp" not in events:
            return np.full(len(events), self._first_timestamp, dtype=np.int64)
        numbers = pd.to_numeric(events["timestamp"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if pd.api.types.is_datetime64_any_dtype(events["timestamp"].dtype) or (numbers != np.floor(numbers)).any():
            wrong = events["timestamp"][numbers != np.floor(numbers)]
            found = events["timestamp"].dtype if wrong.empty else wrong.iloc[0]
            raise DataError(f"a history's timestamp must be whole seconds UTC, found {found}")
        seconds = numbers.astype(np.int64)
        falls = np.diff(seconds) < 0
        falls[offsets[(offsets > 0) & (offsets < len(seconds))] - 1] = False  # between two users
        if falls.any():
            raise DataError(
                f"a history must be in order of time, found {seconds[:-1][falls][0]} before {seconds[1:][falls][0]}; "
                "sort it by timestamp"
            )
        return seconds

    def recommend(
        self,
        history: Sequence[str] | pd.DataFrame | Sequences,
        k: int = 10,
        *,
        query: str | None = None,
        seen_items: SeenItems = "kept",
        reranking: RerankConfig | None = None,
        now: int | None = None,
    ) -> Recommendations:
        """The best k items for a history, or for each of many.

        Args:
          history: raw item ids in order of time; or a frame as in `histories`, of many users where it has a column
            `user_id`; or the sequences of many users.
          k: length of a list; it is shorter where the catalogue has fewer items to give.
          query: what the user searches now, after the history, which may be empty; None for no search.
          seen_items: excluded leaves out the items of the whole history.
          reranking: preferences and shop rules applied to the best candidates; None for none.
          now: seconds at which shop rules are looked at; None means now.

        Returns:
          The lists.

        Raises:
          ConfigError: k < 1, an unknown seen_items, or a query for a model that was trained without any.
          DataError: no user, or as `histories`.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        if seen_items not in get_args(SeenItems):
            raise ConfigError(f"seen_items must be one of {', '.join(get_args(SeenItems))}, got {seen_items!r}")
        k = min(k, len(self.items))
        unknown: list[str] = []
        if isinstance(history, Sequences):
            users = history
        elif isinstance(history, pd.DataFrame) and "user_id" in history:
            names = as_text(history["user_id"], name="user_id").to_numpy(dtype=object)
            frames = dict(list(history.groupby(names, sort=False)))
            users, unknown = self.histories(list(frames.values()), list(frames))
        else:
            frame = history if isinstance(history, pd.DataFrame) else pd.DataFrame({"item_id": list(history)})
            users, unknown = self.histories([frame], ["history"])
        if not users.num_users:
            raise DataError("there is no user to recommend to")
        if query is not None:
            users = self._asked(users, query)
        reranking = reranking or RerankConfig()
        rerank = make_reranker(
            reranking, items=self.items, item_vectors=self.item_vectors() if reranking.diversity else None
        )
        # a default config changes nothing, so it needs no candidates beyond the list
        num_candidates = k if reranking == RerankConfig() else max(CANDIDATES, 2 * k)
        now = int(time.time()) if now is None else now
        priority = catalogue_order(len(self.items), jax.random.key(0))
        tables = []
        size = 1 if users.num_users == 1 else USERS_PER_TILE
        for tile, members in _tiles(users, np.arange(users.num_users), size=size):
            excluded = None
            if seen_items == "excluded":
                width = 1 << int(max(1, tile.lengths.max()) - 1).bit_length()  # few shapes, few compilations
                excluded = jnp.asarray(pad_sequences(tile, length=width))
            top = _top_k(self.scores(tile), k=num_candidates, priority=priority, excluded=excluded)
            item_ids, scores = rerank(top.item_ids, top.scores, histories=tile, k=k, now=now)
            count = len(members)
            tables.append(self.lists_table(tile.user_ids[:count], item_ids[:count], scores[:count]))
        return Recommendations(
            table=pd.concat(tables, ignore_index=True),
            unknown_items=unknown,
            without_history=list(users.user_ids[users.lengths == 0]),
        )

    def _asked(self, users: Sequences, query: str) -> Sequences:
        """The users after a search."""
        if self._query_behavior is None:
            raise ConfigError(
                f"the model cannot be asked for {query!r}: it takes no queries; train one with model.events.query on, "
                "on a log whose searches have a query and no item"
            )
        return ask(users, query, behavior=self._query_behavior, first_timestamp=self._first_timestamp)

    def _items_once(self) -> tuple[Float[Array, "V1 E"], Bool[Array, " V1"]]:
        """The item vectors and which of them can be ranked, made at the first call and kept."""
        if self._made_items is None:
            self._made_items = self._scored_items(self.params, self.item_table)
        return self._made_items

    def _spread(self, rows: Any) -> Any:
        """Arrays of so many rows, shared by the devices where they divide them evenly."""
        if self._mesh is None or len(jax.tree.leaves(rows)[0]) % data_size(self._mesh):
            return rows
        return jax.device_put(rows, over_rows(self._mesh))

    def _batch(self, histories: Sequences, *, length: int) -> Batch:
        return history_batch(
            histories,
            length=length,
            first_timestamp=self._first_timestamp,
            masked_end=self._masked_end,
            target_behavior=self._target_behavior,
        )

    def _behavior_code(self, behavior: str) -> int:
        if behavior not in self.behaviors:
            raise ConfigError(f"behaviour {behavior!r} is unknown to the model; it knows {list(self.behaviors)}")
        return self.behaviors.index(behavior)

    def lists_table(self, user_ids: np.ndarray, item_ids: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
        """Lists `[U, K]` of item ids (0 = none) and scores as `Recommendations.table`."""
        listed = item_ids > 0
        columns = {
            "user_id": np.repeat(user_ids, listed.sum(axis=1)),
            "rank": np.cumsum(listed, axis=1)[listed],
            "item_id": self.items["item_id"].to_numpy()[item_ids[listed] - 1],
            "score": scores[listed].astype(np.float32),
        }
        return pd.DataFrame(columns)


def _only(behaviors: Sequence[str]) -> str | None:
    """The behaviour that a split predicts, None where it is not one alone."""
    return behaviors[0] if len(behaviors) == 1 else None


_top_k = jax.jit(top_k_in_scores, static_argnames="k")


@partial(jax.jit, donate_argnums=0)
def _with_rows(
    vectors: Float[Array, "U D"], rows: Int[Array, " R"], values: Float[Array, "R D"]
) -> Float[Array, "U D"]:
    return vectors.at[rows].set(values)


def row_lengths(lengths: Int[np.ndarray, " U"], *, longest: int) -> Int[np.ndarray, " U"]:
    """How long a row each history is encoded in: the least of five lengths that holds it, `longest` if none does.

    >>> row_lengths(np.array([3, 25, 26, 160, 5000]), longest=200).tolist()
    [25, 25, 50, 200, 200]
    """
    choices = np.maximum(-(-longest * np.array([1, 2, 4, 6, 8]) // 8), min(longest, 2))  # a masked end takes two
    return choices[np.searchsorted(choices, np.minimum(lengths, longest))]


def _rows_of(length: int) -> int:
    """How many rows of a length are encoded at once; a power of two, so that they make up a tile of users."""
    if jax.default_backend() != "cpu":
        return USERS_PER_TILE
    return min(USERS_PER_TILE, 1 << max(0, (CPU_EVENTS_PER_TILE // length).bit_length() - 1))


def _tiles(sequences: Sequences, users: np.ndarray, *, size: int) -> Iterator[tuple[Sequences, np.ndarray]]:
    """Some users in tiles of one size, the last filled up with its last user, and which users a tile is of."""
    for start in range(0, len(users), size):
        members = users[start : start + size]
        yield sequences.select_users(np.pad(members, (0, size - len(members)), mode="edge")), members
