"""Similarity of two sets of vectors of the same users or items: of two checkpoints, two moments, before and after.

Row i of both belongs to the same user or item. Widths may differ, and no figure depends on a rotation of either space,
since training fixes that at random. The same figure over permuted rows is the figure of chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.representation.vectors import as_vectors, neighbours, unit_vectors
from seqrec_jax.types import ArrayLike


class _Comparison(NamedTuple):
    """Every figure of two sets of vectors."""

    cka: Array
    cka_debiased: Array
    common_neighbours: Array
    aligned_cosine: Array
    procrustes: Array


FIGURES = {
    "cka": "linear CKA (1 = the same up to a rotation)",
    "cka_debiased": "linear CKA, debiased",
    "common_neighbours": "share of common nearest neighbours",
    "aligned_cosine": "mean cosine after the best rotation",
    "procrustes": "Procrustes distance (0 = the same up to a rotation, at most 2)",
}
"""The columns of `similarity_table` and what they mean."""


@partial(jax.jit, static_argnames="debiased")
def linear_cka(a: Float[ArrayLike, "N D"], b: Float[ArrayLike, "N E"], *, debiased: bool = False) -> Float[Array, ""]:
    """Centered kernel alignment with linear kernels: similarity of the row-by-row similarities of a and b.

    `‖bᵀa‖² / (‖aᵀa‖ ‖bᵀb‖)` over centered columns, Frobenius norms.

    Args:
      a: `[N, D]`.
      b: `[N, E]` of the same users or items.
      debiased: whether to use the unbiased estimates of all three terms, which do not grow as N falls to the width or
        below (and may be slightly negative); needs N > 3.

    Returns:
      A scalar in [0, 1], 1 for vectors that are the same up to a rotation and a scale; nan where either does not vary.

    Raises:
      ShapeError: shapes that are not `[N, D]` and `[N, E]`, or too few rows (at trace time).

    Source:
      Kornblith et al. (2019), Similarity of neural network representations revisited; Song et al. (2012), Feature
      selection via dependence maximization, for the unbiased estimate.
    """
    a, b = _same_rows(a, b, least=4 if debiased else 2)
    a, b = _centered(a), _centered(b)

    def product(first: Array, second: Array) -> Array:
        value = jnp.sum((second.T @ first) ** 2)
        if not debiased:
            return value
        count = len(first)
        own_first, own_second = jnp.sum(first**2, axis=1), jnp.sum(second**2, axis=1)
        diagonal = count / (count - 2) * (own_first @ own_second)
        return value - diagonal + jnp.sum(own_first) * jnp.sum(own_second) / ((count - 1) * (count - 2))

    return product(a, b) / jnp.sqrt(product(a, a) * product(b, b))


@partial(jax.jit, static_argnames="k")
def neighbour_overlap(a: Float[ArrayLike, "N D"], b: Float[ArrayLike, "N E"], *, k: int) -> Float[Array, " N"]:
    """Share of each row's k nearest neighbours that are the same in a and b.

    With a share s the Jaccard index of the two sets is s / (2 - s). Chance gives k / (N - 1).

    Args:
      a: `[N, D]`.
      b: `[N, E]` of the same users or items.
      k: 1 to N-1.

    Returns:
      `[N]` float32 in [0, 1].

    Raises:
      ShapeError: shapes that are not `[N, D]` and `[N, E]` (at trace time).
      ConfigError: k outside 1…N-1.
    """
    a, b = _same_rows(a, b, least=2)
    first, second = jnp.sort(neighbours(a, k=k), axis=1), jnp.sort(neighbours(b, k=k), axis=1)
    place = jnp.minimum(jax.vmap(jnp.searchsorted)(second, first), k - 1)
    found = jnp.take_along_axis(second, place, axis=1) == first
    return jnp.mean(found, axis=1, dtype=jnp.float32)


@jax.jit
def aligned_cosines(a: Float[ArrayLike, "N D"], b: Float[ArrayLike, "N E"]) -> Float[Array, " N"]:
    """Cosine of each row's two vectors after the rotation or reflection of a that maximises the mean cosine.

    Unrelated rows also seem related where N is not much larger than the width; compare with permuted rows. The
    narrower side is padded with zeros.

    Args:
      a: `[N, D]`.
      b: `[N, E]` of the same users or items.

    Returns:
      `[N]` in [-1, 1].

    Raises:
      ShapeError: shapes that are not `[N, D]` and `[N, E]` (at trace time).

    Source:
      Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.
    """
    a, b = _same_rows(a, b, least=1)
    width = max(a.shape[1], b.shape[1])
    a, b = (jnp.pad(unit_vectors(v), ((0, 0), (0, width - v.shape[1]))) for v in (a, b))
    left, _, right = jnp.linalg.svd(a.T @ b)
    return jnp.sum((a @ (left @ right)) * b, axis=1)


@jax.jit
def procrustes_distance(a: Float[ArrayLike, "N D"], b: Float[ArrayLike, "N E"]) -> Float[Array, ""]:
    """Squared distance of a and b after centering, scaling to norm 1 and the best rotation.

    Args:
      a: `[N, D]`.
      b: `[N, E]` of the same users or items.

    Returns:
      A number in [0, 2]; nan where either does not vary.

    Raises:
      ShapeError: shapes that are not `[N, D]` and `[N, E]` (at trace time).

    Source:
      Ding et al. (2021), Grounding representation similarity through statistical testing.
    """
    a, b = (_centered(v) for v in _same_rows(a, b, least=2))
    a, b = a / jnp.linalg.norm(a), b / jnp.linalg.norm(b)
    return jnp.maximum(2 - 2 * jnp.sum(jnp.linalg.svd(a.T @ b, compute_uv=False)), 0.0)


def similarity_table(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N E"], *, k: int = 10, most_rows: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """All figures of similarity of two sets of vectors, and the same over permuted rows.

    Args:
      a: `[N, D]` such as v_x of one checkpoint.
      b: `[N, E]` of the same users or items by the other one.
      k: number of neighbours that are compared.
      most_rows: largest number of rows used; they are taken evenly.
      seed: of the permutation.

    Returns:
      One row a figure (index, see `FIGURES`) with `value`, `permuted` and `rows`, the number of rows used. Rows that
      are zero in a or in b, such as users without history, are left out.

    Raises:
      ShapeError: shapes that are not `[N, D]` and `[N, E]`.
      DataError: fewer than k + 2 rows that are not zero.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ShapeError(
            f"a has shape {a.shape} and b {b.shape}, expected [N, D] and [N, E] of the same users or items"
        )
    real = np.flatnonzero(np.any(a != 0, axis=1) & np.any(b != 0, axis=1))
    rows = real[evenly(len(real), most=most_rows)]
    if len(rows) < max(k + 2, 4):
        raise DataError(
            f"only {len(rows)} of {len(a)} rows are not zero in a or b; at least {max(k + 2, 4)} are needed"
        )
    permuted = rows[np.random.default_rng(seed).permutation(len(rows))]
    columns = {"value": _compare(a[rows], b[rows], k=k), "permuted": _compare(a[rows], b[permuted], k=k)}
    table = pd.DataFrame({name: [float(value) for value in found] for name, found in columns.items()})
    return table.assign(rows=len(rows)).set_index(pd.Index(_Comparison._fields, name="figure"))


def drift_table(
    checkpoints: Mapping[str, Float[np.ndarray, "N D"]], *, k: int = 10, most_rows: int = 5000, seed: int = 0
) -> pd.DataFrame:
    """The change of vectors from one checkpoint to the next, and from the first one.

    Args:
      checkpoints: name to `[N, D]` vectors of the same users or items, in order of time; at least two.
      k: number of neighbours that are compared.
      most_rows: as `similarity_table`.
      seed: as `similarity_table`.

    Returns:
      A row a checkpoint but the first (index): for each of `FIGURES` a column `figure`, against the one before, and
      `figure_from_first`.

    Raises:
      ConfigError: fewer than two checkpoints.
      ShapeError: different users or items.
      DataError: as `similarity_table`.
    """
    names = list(checkpoints)
    if len(names) < 2:
        raise ConfigError(f"drift needs at least two checkpoints, got {names}")
    compare = partial(similarity_table, k=k, most_rows=most_rows, seed=seed)
    rows = []
    for before, name in itertools.pairwise(names):
        previous = compare(checkpoints[before], checkpoints[name])["value"]
        first = previous
        if before != names[0]:
            first = compare(checkpoints[names[0]], checkpoints[name])["value"]
        rows.append({**previous.to_dict(), **first.add_suffix("_from_first").to_dict()})
    return pd.DataFrame(rows, index=pd.Index(names[1:], name="checkpoint"))


def sensitivity(
    user_vectors: Callable[[Sequences], Float[np.ndarray, "U D"]],
    histories: Sequences,
    changes: Mapping[str, Callable[[Sequences], Sequences]],
) -> pd.DataFrame:
    """The distance of v_x before and after changes of the history.

    Args:
      user_vectors: histories to `[U, D]`, such as a recommender's method of that name.
      histories: of U users.
      changes: functions of histories to changed histories of the same users (events dropped, swapped, injected, …), by
        name.

    Returns:
      U rows, one column a change: the cosine distance 1 - cos of v_x before and after, in [0, 2]; nan where either is
      zero, as without history. Two random users have a distance of about 1 - `mean_cosine(v_x)`.

    Raises:
      DataError: a change that gives other users.
      ShapeError: user_vectors that gives something else than one vector a user.
    """
    before = _vectors_of(user_vectors, histories, "the histories")
    distances = {}
    for name, change in changes.items():
        changed = change(histories)
        if not np.array_equal(changed.user_ids, histories.user_ids):
            raise DataError(f"the change {name!r} gives other users than it was given; it may change their events only")
        distances[name] = _cosine_distances(before, _vectors_of(user_vectors, changed, f"the change {name!r}"))
    return pd.DataFrame(distances, index=pd.RangeIndex(histories.num_users))


def evenly(count: int, *, most: int) -> np.ndarray:
    """`[n]` int64 at most `most` places of 0…count-1 at even distances, rising; all of them where they are few.

    >>> evenly(10, most=4).tolist(), evenly(3, most=4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@partial(jax.jit, static_argnames="k")
def _compare(a: Array, b: Array, *, k: int) -> _Comparison:
    return _Comparison(
        cka=linear_cka(a, b),
        cka_debiased=linear_cka(a, b, debiased=True),
        common_neighbours=jnp.mean(neighbour_overlap(a, b, k=k)),
        aligned_cosine=jnp.mean(aligned_cosines(a, b)),
        procrustes=procrustes_distance(a, b),
    )


def _same_rows(a: ArrayLike, b: ArrayLike, *, least: int) -> tuple[Array, Array]:
    if np.ndim(a) != 2 or np.ndim(b) != 2 or len(a) != len(b) or len(a) < least:
        raise ShapeError(
            f"a has shape {np.shape(a)} and b {np.shape(b)}, expected [N, D] and [N, E] with the same N of at least "
            f"{least}"
        )
    return as_vectors(a), as_vectors(b)


def _centered(v: Array) -> Array:
    return v - jnp.mean(v, axis=0, keepdims=True)


def _vectors_of(
    user_vectors: Callable[[Sequences], Float[np.ndarray, "U D"]], histories: Sequences, what: str
) -> Float[np.ndarray, "U D"]:
    vectors = np.asarray(user_vectors(histories), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != histories.num_users:
        raise ShapeError(
            f"user_vectors gave {vectors.shape} for {what} of {histories.num_users} users, expected [U, D]"
        )
    return vectors


def _cosine_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), np.nan), where=lengths > 0)
    return np.asarray(np.clip(1 - cosines, 0.0, 2.0))  # rounding may give values slightly below 0
