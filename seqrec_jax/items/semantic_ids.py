"""Semantic ids: a few codes an item, from coarse to fine, by residual quantisation of its vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.items.kmeans import kmeans, nearest
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.types import ArrayLike


@dataclass(frozen=True)
class SemanticIdConfig:
    """Settings of the quantisation of item vectors.

    Attributes:
      num_levels: levels of the residual quantisation; one more level follows, which numbers items of the same codes.
      codebook_size: S, number of codes of each level, the last one included.
      num_iterations: largest number of k-means iterations.
    """

    num_levels: Annotated[int, Interval("[1, inf)")] = 3
    codebook_size: Annotated[int, Interval("[2, inf)")] = 256
    num_iterations: Annotated[int, Interval("[1, inf)")] = 50

    def __post_init__(self) -> None:
        check_fields(self, "semantic_ids")


class SemanticIds(NamedTuple):
    """The codes of a catalogue, and the vectors of the codes.

    Attributes:
      codes: `[V+1, C]` int32 from 1 to S, different for each item; zeros for padding and for items without codes. The
        last of the C levels numbers the items that share all codes before it.
      codebooks: `[C-1, S+1, E]` float32 vector of each code, row 0 zeros; the sum of the vectors of an item's codes
        approximates the item's vector.
    """

    codes: Int[np.ndarray, "V1 C"]
    codebooks: Float[np.ndarray, "Q S1 E"]


class SemanticIdReport(NamedTuple):
    """Collisions, code use and quantisation error of the items that have codes.

    Attributes:
      num_items: number of items with codes.
      colliding_items: number of items that share all levels but the last with another item.
      largest_collision: number of items of the most frequent codes.
      used_codes: `[C]` int64 number of different codes at each level.
      perplexities: `[C]` float64 exp of the entropy of a level's codes, S if all are equally frequent.
      errors: `[C-1]` float64 share of the vectors' squared length that remains after each level.
    """

    num_items: int
    colliding_items: int
    largest_collision: int
    used_codes: Int[np.ndarray, " C"]
    perplexities: Float[np.ndarray, " C"]
    errors: Float[np.ndarray, " Q"]


def fit_semantic_ids(
    item_vectors: Float[ArrayLike, "V1 E"],
    *,
    config: SemanticIdConfig,
    key: PRNGKeyArray,
    where: Bool[ArrayLike, " V1"] | None = None,
) -> SemanticIds:
    """Fit codebooks and codes: k-means of the vectors, then of each level's residuals.

    Args:
      item_vectors: `[V+1, E]` float, such as those of a trained item tower or of texts; row 0 is padding.
      config: levels and sizes.
      key: PRNG key, consumed; the same key gives the same codes.
      where: `[V+1]` bool, True for items that get codes, such as those with a vector of their own; None means all.

    Returns:
      Codebooks, and codes of C = num_levels + 1 levels.

    Raises:
      ShapeError: arrays that do not fit.
      DataError: no item, a vector that is not finite, or more than S items of the same codes.

    Source:
      Rajput et al. (2023), Recommender Systems with Generative Retrieval (TIGER), with the residual k-means that it
      compares its residual-quantised autoencoder with.

    >>> vectors = jnp.array([[0.0], [1.0], [2.0], [9.0], [9.0]])
    >>> fit_semantic_ids(vectors, config=SemanticIdConfig(1, 2), key=jax.random.key(1)).codes.tolist()
    [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    """
    vectors = _checked_vectors(item_vectors)
    where = _checked_where(where, len(vectors))
    if not where.any():
        raise DataError("no item to make semantic ids for: the table has padding only, or `where` is False throughout")
    rest: Array = jnp.asarray(vectors[where])
    codes = np.zeros((len(vectors), config.num_levels), dtype=np.int32)
    codebooks = np.zeros((config.num_levels, config.codebook_size + 1, vectors.shape[1]), dtype=np.float32)
    for level, level_key in enumerate(jax.random.split(key, config.num_levels)):
        clusters = kmeans(rest, num_clusters=config.codebook_size, num_iterations=config.num_iterations, key=level_key)
        codes[where, level] = 1 + np.asarray(clusters.assignments)
        codebooks[level, 1:] = clusters.centroids
        rest = rest - clusters.centroids[clusters.assignments]
    return SemanticIds(_with_last_level(codes, codebook_size=config.codebook_size), codebooks)


def extend_semantic_ids(
    semantic_ids: SemanticIds, new_vectors: Float[ArrayLike, "N E"], *, where: Bool[ArrayLike, " N"] | None = None
) -> SemanticIds:
    """Codes for items V+1, V+2, … by the same codebooks; the codes of older items do not change.

    Args:
      semantic_ids: of V items.
      new_vectors: `[N, E]` float vectors of the new items.
      where: `[N]` bool, True for items that get codes; None means all.

    Returns:
      Semantic ids of V + N items.

    Raises:
      ShapeError: arrays that do not fit.
      DataError: a vector that is not finite, or more than S items of the same codes.
    """
    width = semantic_ids.codebooks.shape[2]
    vectors = np.asarray(new_vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ShapeError(f"new_vectors has shape {vectors.shape}, expected [N, {width}] as the codebooks have it")
    vectors = _checked_vectors(np.concatenate([np.zeros((1, width), np.float32), vectors]))
    wanted = _checked_where(None if where is None else np.concatenate([[False], where]), len(vectors))[1:]
    rest, new_codes = jnp.asarray(vectors[1:]), []
    for codebook in semantic_ids.codebooks:
        chosen, _ = nearest(rest, jnp.asarray(codebook[1:]))
        rest = rest - jnp.asarray(codebook)[1 + chosen]
        new_codes.append(np.where(wanted, 1 + np.asarray(chosen), 0))
    codes = np.concatenate([semantic_ids.codes[:, :-1], np.stack(new_codes, axis=1).astype(np.int32)])
    codes = _with_last_level(codes, codebook_size=semantic_ids.codebooks.shape[1] - 1)
    return SemanticIds(codes, semantic_ids.codebooks)


def reconstructed_vectors(semantic_ids: SemanticIds, *, num_levels: int | None = None) -> Float[np.ndarray, "V1 E"]:
    """`[V+1, E]` float32 sum of the vectors of each item's first `num_levels` codes, zeros without codes; None: all."""
    levels = range(len(semantic_ids.codebooks))[:num_levels]
    total = np.zeros((len(semantic_ids.codes), semantic_ids.codebooks.shape[2]), dtype=np.float32)
    for level in levels:
        total += semantic_ids.codebooks[level][semantic_ids.codes[:, level]]
    return total


def semantic_id_report(semantic_ids: SemanticIds, item_vectors: Float[ArrayLike, "V1 E"]) -> SemanticIdReport:
    """Collisions, code use and quantisation error of semantic ids.

    Args:
      semantic_ids: of V items.
      item_vectors: `[V+1, E]` float vectors that were quantised.

    Returns:
      The figures.

    Raises:
      ShapeError: vectors of another number of items or width.
      DataError: a vector that is not finite.
    """
    codes, codebooks = semantic_ids
    vectors = _checked_vectors(item_vectors)
    if vectors.shape != (len(codes), codebooks.shape[2]):
        raise ShapeError(f"item_vectors has shape {vectors.shape}, expected {(len(codes), codebooks.shape[2])}")
    where = codes[:, 0] > 0
    _, group_sizes = np.unique(codes[where, :-1], axis=0, return_counts=True)
    counts = [np.bincount(level)[1:] for level in codes[where].T]
    shares = [level[level > 0] / level.sum() for level in counts]
    length = np.square(vectors[where], dtype=np.float64).sum()
    left = [
        np.square(vectors - reconstructed_vectors(semantic_ids, num_levels=level + 1))[where].sum(dtype=np.float64)
        for level in range(len(codebooks))
    ]
    return SemanticIdReport(
        num_items=int(where.sum()),
        colliding_items=int(group_sizes[group_sizes > 1].sum()),
        largest_collision=int(group_sizes.max(initial=0)),
        used_codes=np.array([len(level) for level in shares]),
        perplexities=np.array([np.exp(-np.sum(level * np.log(level))) for level in shares]),
        errors=np.array(left) / (length or 1.0),
    )


def _with_last_level(codes: Int[np.ndarray, "V1 Q"], *, codebook_size: int) -> Int[np.ndarray, "V1 C"]:
    """The codes with one more level, which numbers items of the same codes from 1, in the order of their ids."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    numbers = np.empty(len(codes), dtype=np.int32)
    numbers[order] = 1 + np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    numbers[codes[:, 0] == 0] = 0
    if (most := int(numbers.max(initial=0))) > codebook_size:
        shared = codes[int(np.argmax(numbers))].tolist()
        raise DataError(
            f"{most} items have the codes {shared}, more than the last level's {codebook_size} tell apart; take more "
            "levels or a larger codebook, or leave out items without a vector of their own by `where`"
        )
    return np.concatenate([codes, numbers[:, None]], axis=1)


def _checked_vectors(item_vectors: Array | np.ndarray) -> Float[np.ndarray, "V1 E"]:
    vectors = np.asarray(item_vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ShapeError(f"item vectors have shape {vectors.shape}, expected [V+1, E]")
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise DataError(f"the vector of item {row} is not finite; semantic ids need numbers, or leave the item out")
    return vectors


def _checked_where(where: Array | np.ndarray | None, num_rows: int) -> Bool[np.ndarray, " V1"]:
    mask = np.ones(num_rows, dtype=bool) if where is None else np.array(where)
    if mask.shape != (num_rows,) or mask.dtype != bool:
        raise ShapeError(f"where is {mask.dtype} of shape {mask.shape}, expected bool of shape {(num_rows,)}")
    mask[0] = False
    return mask
