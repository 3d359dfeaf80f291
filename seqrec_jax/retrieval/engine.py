"""One request with arrays only: histories as numbers in, item ids and scores out, in one compiled function.

There is one compilation for each of a few batch sizes and row lengths (and k), so that a service compiles them all
before its first request. Raw ids, the order of the catalogue and the eligible items are made when the engine is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import Batch, device_seconds
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ShapeError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.retrieval.eligibility import Eligibility, Lists
from seqrec_jax.retrieval.encoding import HistoryEncoder, encode_last, row_lengths
from seqrec_jax.retrieval.ranking import best_of_vectors
from seqrec_jax.scoring import TopK
from seqrec_jax.types import ArrayLike

BATCH_SIZES = (1, 8, 64, 256)
"""Rows of a compiled batch; a request of fewer users is filled up."""


class Histories(NamedTuple):
    """The last events of U users as arrays, the events of a user at the start of its row.

    Attributes:
      item_ids: `[U, L]` int32, 0 = an event without item, or padding.
      lengths: `[U]` int32 events of each user.
      behaviors: `[U, L]` int32 codes; 0 at padding.
      seconds: `[U, L]` int32 times as in `Batch.timestamps`; 0 at padding.
      query_words: `[U, L, W]` int32 as in `Batch.query_words`; None for histories without queries.
    """

    item_ids: Int[Array, "U L"]
    lengths: Int[Array, " U"]
    behaviors: Int[Array, "U L"]
    seconds: Int[Array, "U L"]
    query_words: Int[Array, "U L W"] | None = None


class Weights(NamedTuple):
    """The arrays that a request reads besides its histories.

    Attributes:
      params: the model's.
      item_table: the model's.
      v_y: `[V+1, E]` item vectors.
      popularity: `[V+1]` float32 scores for users without history.
      order: `[V+1]` int32 order that settles ties.
    """

    params: Any
    item_table: ItemTable
    v_y: Float[Array, "V1 E"]
    popularity: Float[Array, " V1"]
    order: Int[Array, " V1"]


def answer(
    model: SequenceModel,
    weights: Weights,
    histories: Histories,
    items: Bool[Array, " V1"] | Bool[Array, "U V1"],
    excluded: Int[Array, "U X"] | None = None,
    *,
    k: int,
    target_behavior: int | None = None,
) -> TopK:
    """The first k eligible items of each user: a pure function that can be compiled and exported for any U.

    Args:
      model: pure functions.
      weights: parameters and items.
      histories: `[U, L]`, for a model of masked events with room for one more event a row.
      items: `[V+1]` or `[U, V+1]` True for eligible items.
      excluded: `[U, X]` int32 ids that are not eligible for a user besides, 0 = none; None for no such ids.
      k: static.
      target_behavior: code of the predicted behaviour; None for a model that is not conditioned on it.

    Returns:
      `[U, k]` int32 item ids and float32 scores; id 0, score -inf beyond the eligible items.
    """
    batch = batch_of(histories, masked_end=not model.causal, target_behavior=target_behavior)
    v_x = encode_last(model, weights.params, weights.item_table, weights.v_y, batch)
    projected = model.project(weights.params, v_x)
    empty = histories.lengths == 0
    return best_of_vectors(projected, weights.v_y, empty, weights.popularity, weights.order, items, excluded, k=k)


def batch_of(histories: Histories, *, masked_end: bool, target_behavior: int | None) -> Batch:
    """A batch `[U, L]` as `history_batch` makes it, from its columns and lengths; usable under `jit`."""
    columns = jnp.arange(histories.item_ids.shape[1], dtype=jnp.int32)[None]
    lengths = histories.lengths[:, None]
    real, masked = columns < lengths, None
    if masked_end:
        masked = (columns == lengths) & (lengths > 0)
        real |= masked
    segment_ids = real.astype(jnp.int32)
    zeros = jnp.zeros_like(histories.item_ids)
    return Batch(
        item_ids=histories.item_ids,
        behaviors=histories.behaviors,
        timestamps=histories.seconds,
        positions=segment_ids * columns,
        segment_ids=segment_ids,
        targets=zeros,
        weights=zeros.astype(jnp.float32),
        masked=masked,
        target_behaviors=None if target_behavior is None else jnp.full_like(zeros, target_behavior),
        query_words=histories.query_words,
    )


class Engine:
    """Compiled lists for small batches of one encoder; `Recommender.engine` has one."""

    def __init__(
        self,
        encoder: HistoryEncoder,
        *,
        popularity: Float[Array, " V1"],
        order: Int[Array, " V1"],
        batch_sizes: Sequence[int] = BATCH_SIZES,
    ):
        """An engine over an encoder's parameters and items.

        Args:
          encoder: the model, its parameters and items.
          popularity: `[V+1]` float32 scores for users without history.
          order: `[V+1]` int32 order that settles ties.
          batch_sizes: rows of a compiled batch, rising.
        """
        self.encoder, self.batch_sizes = encoder, tuple(batch_sizes)
        self._popularity, self._order = popularity, order
        self._answer = jax.jit(partial(answer, encoder.model), static_argnames=("k", "target_behavior"))

    def with_encoder(self, encoder: HistoryEncoder) -> Engine:
        """An engine of the same functions over other parameters or items; nothing is compiled anew."""
        other = copy.copy(self)
        other.encoder = encoder
        other.__dict__.pop("weights", None)
        return other

    @property
    def first_second(self) -> int:
        """`Histories.seconds` of the dataset's first event, for events without a time."""
        first = self.encoder.first_timestamp
        return int(device_seconds(np.array([first]), first)[0])

    @cached_property
    def weights(self) -> Weights:
        """The arrays of `answer`, gathered at the first request."""
        encoder = self.encoder
        return Weights(encoder.params, encoder.item_table, encoder.v_y, self._popularity, self._order)

    def __call__(
        self,
        histories: Histories,
        *,
        k: int,
        items: Bool[ArrayLike, " V1"] | Bool[ArrayLike, "U V1"] | None = None,
        excluded: Int[ArrayLike, "U X"] | None = None,
    ) -> Lists:
        """The first k eligible items of each user.

        Args:
          histories: `[U, L]` NumPy arrays of any L; only the last events that the model reads count.
          k: length of the lists, at least 1; each value is compiled once.
          items: `[V+1]` or `[U, V+1]` True for eligible items; None means all that have a vector.
          excluded: `[U, X]` int32 ids that are not eligible for a user besides, 0 = none; few widths X, since each is
            compiled once.

        Returns:
          `[U, k]` int32 item ids and float32 scores, NumPy; id 0, score -inf beyond the eligible items.

        Raises:
          ShapeError: no user, or more than the largest batch.
        """
        num_users = len(histories.lengths)
        size = next((size for size in self.batch_sizes if size >= num_users), 0)
        if not num_users or not size:
            raise ShapeError(f"a request has {num_users} users, expected 1 to {self.batch_sizes[-1]}")
        items = self.encoder.rankable if items is None else items
        histories = self._in_a_bucket(histories)
        if size > num_users:
            rows = np.minimum(np.arange(size), num_users - 1)
            histories = jax.tree.map(lambda column: column[rows], histories)
            items = items[rows] if items.ndim == 2 else items
            excluded = None if excluded is None else excluded[rows]
        found = self._answer(
            self.weights, histories, items, excluded, k=k, target_behavior=self.encoder.target_behavior
        )
        return Lists(np.asarray(found.item_ids)[:num_users], np.asarray(found.scores)[:num_users])

    def find_best(self, histories: Sequences, eligible: Eligibility, count: int) -> Lists:
        """The first `count` eligible items of the users of `histories`; a `FindBest`."""
        lengths = row_lengths(histories.lengths + self.encoder.masked_end, longest=self.encoder.length)
        batch = self.encoder.batch(histories, length=int(lengths.max()))
        kept = np.minimum(histories.lengths, self.encoder.length - self.encoder.masked_end).astype(np.int32)
        arrays: Any = (batch.item_ids, kept, batch.behaviors, batch.timestamps, batch.query_words)
        return self(Histories(*arrays), k=count, items=eligible.items, excluded=eligible.excluded)

    def _in_a_bucket(self, histories: Histories) -> Histories:
        """The last events of each user in rows of one of the few lengths."""
        masked_end, longest = self.encoder.masked_end, self.encoder.length
        kept = np.minimum(histories.lengths, longest - masked_end)
        length = int(row_lengths(kept + masked_end, longest=longest).max())
        if histories.item_ids.shape[1] == length and (kept == histories.lengths).all():
            return histories
        columns = np.arange(length)[None]
        index = np.minimum(columns + (histories.lengths - kept)[:, None], histories.item_ids.shape[1] - 1)
        real = columns < kept[:, None]

        def cut(column: np.ndarray) -> np.ndarray:
            rows = column[np.arange(len(column))[:, None], index]
            return np.where(real.reshape(*real.shape, *[1] * (rows.ndim - 2)), rows, 0)

        words = histories.query_words
        arrays: Any = (
            cut(np.asarray(histories.item_ids)),
            kept.astype(np.int32),
            cut(np.asarray(histories.behaviors)),
            cut(np.asarray(histories.seconds)),
            None if words is None else cut(np.asarray(words)),
        )
        return Histories(*arrays)
