"""Dense search: the query's vector against each item's, as they are or with a W that was trained on judgments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.judgments import Judgments
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.losses import sampled_softmax_loss, weighted_mean
from seqrec_jax.scoring import BilinearWeight, bilinear_scores, project
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike

TextVectors = Callable[[Sequence[str]], np.ndarray]
"""From N texts to their vectors `[N, D]` float32."""


@dataclass(frozen=True)
class DenseConfig:
    """Training settings of W.

    W has as many numbers as there are few judgments, so that small steps matter most: with MiniLM's vectors on Home
    Depot's validation queries a learning rate of 1e-4 gained three times as much as 1e-3, and longer batches nothing.

    Attributes:
      steps: number of updates.
      batch_size: queries a step, each with one of its items as the target, drawn by gain.
      num_negatives: items a step, drawn from the whole catalogue, beside the other queries' targets.
      judged_weight: weight of the second loss, over the judged items of each query alone; the loss over the whole
        catalogue has the rest.
      temperature: divides all scores.
      learning_rate: Adam's.
      weight_decay: rate at which W moves towards the identity.
      seed: of all draws.
    """

    steps: Annotated[int, Interval("[1, inf)")] = 1500
    batch_size: Annotated[int, Interval("[1, inf)")] = 256
    num_negatives: Annotated[int, Interval("[1, inf)")] = 1024
    judged_weight: Annotated[float, Interval("[0, 1]")] = 0.5
    temperature: Annotated[float, Interval("(0, inf)")] = 0.05
    learning_rate: Annotated[float, Interval("(0, inf)")] = 1e-4
    weight_decay: Annotated[float, Interval("[0, inf)")] = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "search.dense")


def dense(
    name: str, text_vectors: TextVectors, item_vectors: Float[ArrayLike, "V1 E"], *, weight: BilinearWeight = None
) -> FunctionRanker:
    """Items by v_xᵀ W v_y, where v_x is the vector of the last event's query.

    Args:
      name: the ranker's label in tables.
      text_vectors: from U queries to vectors `[U, D]`.
      item_vectors: `[V+1, E]`; row 0 is ignored.
      weight: W; None for the identity.

    Returns:
      The ranker. A history whose last event has no query scores 0 throughout.
    """
    table = jnp.asarray(item_vectors)
    score = jax.jit(bilinear_scores)

    def scores(histories: Sequences) -> Float[np.ndarray, "U V1"]:
        queries = histories.last_queries.tolist()
        vectors = np.asarray(text_vectors(queries), dtype=np.float32)
        searched = np.array([bool(query) for query in queries])
        return np.asarray(score(jnp.asarray(np.where(searched[:, None], vectors, 0.0)), weight, table))

    return FunctionRanker(name, scores)


def fit_bilinear(
    query_vectors: Float[np.ndarray, "Q D"],
    item_vectors: Float[np.ndarray, "V1 E"],
    judgments: Judgments,
    *,
    config: DenseConfig = DenseConfig(),
) -> Float[np.ndarray, "D D"]:
    """W for frozen vectors: the identity, moved so that judged items come first by their gain.

    The loss is the mean of two. Over the catalogue: a sampled softmax of one item of each query, drawn by gain, among
    the other queries' items and random ones. Over the judged items of each query: the cross entropy from the shares of
    their gains to the softmax of their scores.

    Args:
      query_vectors: `[Q, D]` vectors of the judgments' queries.
      item_vectors: `[V+1, D]` vectors of the items; row 0 is never a target.
      judgments: of the Q training queries; those without any gain are left out.
      config: training settings.

    Returns:
      `[D, D]` float32.

    Raises:
      ShapeError: vectors that do not fit the judgments or one another.
      DataError: no query with a gain.
    """
    num_queries, width = query_vectors.shape
    if num_queries != len(judgments.queries) or item_vectors.shape[1] != width:
        raise ShapeError(
            f"vectors are {query_vectors.shape} for {len(judgments.queries)} queries and {item_vectors.shape} for "
            "items; expected one a query, as wide as those of the items"
        )
    items, gains = judgments.padded(judgments.item_ids), judgments.padded(judgments.gains)
    useful = gains.sum(axis=1) > 0
    if not useful.any():
        raise DataError("no query has an item with a gain above 0, so there is nothing to train on")
    data = _Judged(*(jnp.asarray(array[useful]) for array in (query_vectors.astype(np.float32), items, gains)))
    table = jnp.asarray(item_vectors, dtype=jnp.float32)
    optimizer = optax.adam(config.learning_rate)
    identity = jnp.eye(width)
    step = jax.jit(partial(_step, config=config, optimizer=optimizer))
    weight, state = identity, optimizer.init(identity)
    for key in jax.random.split(jax.random.key(config.seed), config.steps):
        weight, state = step(weight, state, data, table, key)
    return np.asarray(weight)


class _Judged(NamedTuple):
    """Queries `[Q, D]` with their items `[Q, P]`, 0 = none, and gains `[Q, P]`."""

    vectors: Array
    items: Array
    gains: Array


def _step(
    weight: Array,
    state: optax.OptState,
    data: _Judged,
    table: Float[Array, "V1 D"],
    key: Array,
    *,
    config: DenseConfig,
    optimizer: optax.GradientTransformation,
) -> tuple[Array, optax.OptState]:
    query_key, target_key, negative_key = jax.random.split(key, 3)
    rows = jax.random.randint(query_key, (config.batch_size,), 0, len(data.vectors))
    batch = jax.tree.map(lambda array: array[rows], data)
    places = jax.random.categorical(target_key, jnp.where(batch.gains > 0, jnp.log(batch.gains), -jnp.inf))
    targets = jnp.take_along_axis(batch.items, places[:, None], axis=1)[:, 0]
    random_items = jax.random.randint(negative_key, (config.num_negatives,), 1, len(table))
    negative_ids = jnp.concatenate([targets, random_items])

    def loss(weight: Array) -> Array:
        rows = project(batch.vectors, weight)
        of_all = sampled_softmax_loss(rows, table, targets, negative_ids=negative_ids, temperature=config.temperature)
        of_judged = _judged_loss(rows, table, batch, temperature=config.temperature)
        return (1 - config.judged_weight) * weighted_mean(of_all) + config.judged_weight * weighted_mean(of_judged)

    updates, state = optimizer.update(jax.grad(loss)(weight), state, weight)
    decay = config.learning_rate * config.weight_decay
    return weight + updates - decay * (weight - jnp.eye(len(weight))), state


def _judged_loss(
    rows: Float[Array, "B D"], table: Float[Array, "V1 D"], batch: _Judged, *, temperature: float
) -> Float[Array, " B"]:
    """Cross entropy from the shares of the gains to the softmax over each query's judged items."""
    scores = jnp.einsum("bd,bpd->bp", rows, table[batch.items]) / temperature
    log_shares = jax.nn.log_softmax(jnp.where(batch.items > 0, scores, -jnp.inf), axis=1)
    shares = batch.gains / jnp.sum(batch.gains, axis=1, keepdims=True)
    return -jnp.sum(jnp.where(batch.gains > 0, shares * log_shares, 0.0), axis=1)
