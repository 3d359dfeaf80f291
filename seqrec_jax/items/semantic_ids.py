"""Semantic ids: an item as a few codes, from coarse to fine, by residual quantisation of its vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.items.kmeans import kmeans, nearest


@dataclass(frozen=True)
class SemanticIdConfig:
    """How item vectors become codes.

    Attributes:
      num_levels: levels of the residual quantisation; one more, which tells apart items of the same codes, follows.
      codebook_size: S, codes of each level, the last one too.
      num_iterations: of k-means, at most.
    """

    num_levels: int = 3
    codebook_size: int = 256
    num_iterations: int = 50

    def __post_init__(self) -> None:
        for name, least in (("num_levels", 1), ("codebook_size", 2), ("num_iterations", 1)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"semantic_ids.{name} must be at least {least}, got {value}")


class SemanticIds(NamedTuple):
    """The codes of a catalogue, and what they stand for.

    Attributes:
      codes: `[V+1, C]` int32 from 1 to S, no two items alike; zeros for padding and for items without a code. The last
        of the C levels counts the items that share all codes before it.
      codebooks: `[C-1, S+1, E]` float32 vector of each code, row 0 zeros: an item's vector is about the sum of those of
        its codes.
    """

    codes: Int[np.ndarray, "V+1 C"]
    codebooks: Float[np.ndarray, "C-1 S+1 E"]


class SemanticIdReport(NamedTuple):
    """How well codes serve the items that have one.

    Attributes:
      num_items: items with a code.
      colliding_items: how many of them share all levels but the last with another item.
      largest_collision: items of the most frequent codes.
      used_codes: `[C]` int64 codes of each level that occur.
      perplexities: `[C]` float64 exp of the entropy of a level's codes: S where all are equally frequent.
      errors: `[C-1]` float64 share of the vectors' squared length that is left after each level.
    """

    num_items: int
    colliding_items: int
    largest_collision: int
    used_codes: np.ndarray
    perplexities: np.ndarray
    errors: np.ndarray


def fit_semantic_ids(
    item_vectors: Float[Array, "V+1 E"],
    *,
    config: SemanticIdConfig,
    key: Array,
    where: Bool[np.ndarray, " V+1"] | None = None,
) -> SemanticIds:
    """Codebooks and codes: k-means of the vectors, then of what each level has left over.

    Args:
      item_vectors: `[V+1, E]`, such as those of a trained item tower or of texts; row 0 is padding.
      config: levels and sizes.
      key: PRNG key, consumed; the same key gives the same codes.
      where: `[V+1]` True for items that get a code, such as those with a vector of their own; None means all.

    Returns:
      Codes of C = num_levels + 1 levels.

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
    return SemanticIds(_told_apart(codes, codebook_size=config.codebook_size), codebooks)


def extend_semantic_ids(
    semantic_ids: SemanticIds, new_vectors: Float[Array, "N E"], *, where: Bool[np.ndarray, " N"] | None = None
) -> SemanticIds:
    """Codes for items V+1, V+2, … by the codebooks as they are; no code of an item before them changes.

    Args:
      semantic_ids: of V items.
      new_vectors: `[N, E]` of the new items.
      where: `[N]` True for items that get a code; None means all.

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
    codes = _told_apart(codes, codebook_size=semantic_ids.codebooks.shape[1] - 1)
    return SemanticIds(codes, semantic_ids.codebooks)


def reconstructed_vectors(semantic_ids: SemanticIds, *, num_levels: int | None = None) -> Float[np.ndarray, "V+1 E"]:
    """`[V+1, E]` the sum of the vectors of an item's first codes, zeros for an item without; None means all levels."""
    levels = range(len(semantic_ids.codebooks))[:num_levels]
    total = np.zeros((len(semantic_ids.codes), semantic_ids.codebooks.shape[2]), dtype=np.float32)
    for level in levels:
        total += semantic_ids.codebooks[level][semantic_ids.codes[:, level]]
    return total


def semantic_id_report(semantic_ids: SemanticIds, item_vectors: Float[Array, "V+1 E"]) -> SemanticIdReport:
    """Collisions, use of the codes and what they leave of the vectors.

    Args:
      semantic_ids: of V items.
      item_vectors: `[V+1, E]` that they stand for.

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


def _told_apart(codes: Int[np.ndarray, "V+1 Q"], *, codebook_size: int) -> Int[np.ndarray, "V+1 C"]:
    """The codes with a last level that numbers items of the same codes from 1, in the order of their ids."""
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


def _checked_vectors(item_vectors: Array | np.ndarray) -> Float[np.ndarray, "V+1 E"]:
    vectors = np.asarray(item_vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ShapeError(f"item vectors have shape {vectors.shape}, expected [V+1, E]")
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise DataError(f"the vector of item {row} is not finite; semantic ids need numbers, or leave the item out")
    return vectors


def _checked_where(where: np.ndarray | None, num_rows: int) -> Bool[np.ndarray, " V+1"]:
    mask = np.ones(num_rows, dtype=bool) if where is None else np.array(where)
    if mask.shape != (num_rows,) or mask.dtype != bool:
        raise ShapeError(f"where is {mask.dtype} of shape {mask.shape}, expected bool of shape {(num_rows,)}")
    mask[0] = False
    return mask
