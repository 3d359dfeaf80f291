"""Geometry of vectors: their spread, the number of directions that they use, their neighbours.

All functions take N vectors as the rows of `[N, D]`, of any floating dtype, and compute in float32 at least. Functions
that compare all pairs do so in tiles of rows, so that memory grows with N and time with N². Compare each figure with
that of chance: the same figure of `gaussian_like(v)`, of shuffled pairs or of shuffled labels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import ShapeError
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike

_TILE = 256
"""Number of rows that are compared with all others at once."""


class Spectrum(NamedTuple):
    """The singular values of N vectors, R = min(N, D) of them.

    Attributes:
      singular_values: `[R]` falling.
      explained: `[R]` share of the variance in each direction; nan where the vectors do not vary.
    """

    singular_values: Float[Array, " R"]
    explained: Float[Array, " R"]


class PlaneMap(NamedTuple):
    """N vectors on the plane of their two largest principal components.

    Attributes:
      points: `[N, 2]` coordinates around the mean.
      explained: `[2]` share of the variance along each of the two axes.
    """

    points: Float[Array, "N 2"]
    explained: Float[Array, " 2"]


def as_vectors(v: Float[ArrayLike, "N D"]) -> Float[Array, "N D"]:
    """The vectors in the precision of the computation: float64 stays, all other dtypes become float32.

    Args:
      v: `[N, D]` of any dtype.

    Raises:
      ShapeError: not `[N, D]`, or nothing in it (at trace time).
    """
    v = jnp.asarray(v)
    if v.ndim != 2 or not v.size:
        raise ShapeError(f"expected vectors as the rows of [N, D], got shape {v.shape}")
    return v if v.dtype == jnp.float64 else v.astype(jnp.float32)


@jax.jit
def unit_vectors(v: Float[ArrayLike, "N D"]) -> Float[Array, "N D"]:
    """The vectors scaled to length 1; zero vectors stay zero, with finite gradients.

    Args:
      v: `[N, D]` floating point.

    Raises:
      ShapeError: not `[N, D]` (at trace time).

    >>> unit_vectors(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    v = as_vectors(v)
    squares = jnp.sum(v * v, axis=1, keepdims=True)
    real = squares > 0
    return jnp.where(real, v / jnp.sqrt(jnp.where(real, squares, 1.0)), 0.0)


def gaussian_like(v: Float[ArrayLike, "N D"], *, key: Array) -> Float[Array, "N D"]:
    """`[N, D]` Gaussian vectors of the shape of `v`, in which all directions are equally likely: the figures of chance.

    Args:
      v: `[N, D]` floating point.
      key: consumed.

    Raises:
      ShapeError: not `[N, D]` (at trace time).
    """
    v = as_vectors(v)
    return jax.random.normal(key, v.shape, dtype=v.dtype)


@jax.jit
def alignment(v_x: Float[ArrayLike, "N D"], v_y: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Mean squared distance of the pairs (row i of v_x, row i of v_y) at length 1; smaller is closer.

    `mean ‖x/‖x‖ - y/‖y‖‖²`, which is 2 - 2 · the mean cosine where no vector is zero.

    Args:
      v_x: `[N, D]` floating point, such as projected users.
      v_y: `[N, D]` floating point, such as their next items.

    Returns:
      A number in [0, 4].

    Raises:
      ShapeError: shapes that are not the same `[N, D]` (at trace time).

    Source:
      Wang and Isola (2020), Understanding contrastive representation learning through alignment and uniformity on
      the hypersphere, with their exponent 2.

    >>> alignment(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[3.0, 0.0], [0.0, 1.0]]))
    Array(1., dtype=float32)
    """
    first, second = _pairs(v_x, v_y)
    return jnp.mean(jnp.sum((first - second) ** 2, axis=1))


@jax.jit
def shuffled_alignment(v_x: Float[ArrayLike, "N D"], v_y: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Expectation of `alignment` when the rows of v_y are in random order.

    It is exact, the mean over all N² pairs, which needs only the two mean vectors.

    Args:
      v_x: `[N, D]` as for `alignment`.
      v_y: `[N, D]`.

    Returns:
      A number in [0, 4].

    Raises:
      ShapeError: shapes that are not the same `[N, D]` (at trace time).
    """
    first, second = _pairs(v_x, v_y)
    lengths = jnp.mean(jnp.sum(first**2, axis=1)) + jnp.mean(jnp.sum(second**2, axis=1))
    return lengths - 2 * jnp.mean(first, axis=0) @ jnp.mean(second, axis=0)


@partial(jax.jit, static_argnames="temperature")
def uniformity(v: Float[ArrayLike, "N D"], *, temperature: float = 2.0) -> Float[Array, ""]:
    """Evenness of the vectors on the sphere: `log mean exp(-t ‖x/‖x‖ - y/‖y‖‖²)` over all pairs of two rows.

    Args:
      v: `[N, D]`, at least two rows.
      temperature: t > 0.

    Returns:
      A scalar in [-4 t, 0]: 0 where all vectors have one direction, about -2 t where any two are orthogonal, as in many
      dimensions without structure. Smaller is more even.

    Raises:
      ShapeError: not `[N, D]` with N > 1 (at trace time).
      ConfigError: a temperature that is not positive.

    Source:
      Wang and Isola (2020), as `alignment`.

    >>> uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
    Array(-8., dtype=float32)
    """
    check_value("temperature", temperature, "(0, inf)")
    units = unit_vectors(_several(v))
    squares = jnp.sum(units * units, axis=1)
    rows = jnp.arange(len(units))

    def closeness(row: Array) -> Array:
        distances = jnp.maximum(squares + squares[row] - 2 * (units @ units[row]), 0.0)
        return jnp.sum(jnp.where(rows == row, 0.0, jnp.exp(-temperature * distances))) / (len(units) - 1)

    return jnp.log(jnp.mean(_for_all_rows(closeness, len(units))))


@partial(jax.jit, static_argnames="centered")
def spectrum(v: Float[ArrayLike, "N D"], *, centered: bool = True) -> Spectrum:
    """Singular values of the vectors and the share of the variance in each direction.

    Args:
      v: `[N, D]` floating point.
      centered: whether the mean is subtracted first; False includes a common offset.

    Returns:
      Singular values and shares of the variance (of the squared length, where not centered).

    Raises:
      ShapeError: not `[N, D]` (at trace time).

    >>> spectrum(jnp.array([[2.0, 1.0], [-2.0, 1.0]])).explained
    Array([1., 0.], dtype=float32)
    """
    v = as_vectors(v)
    values = jnp.linalg.svd(_centered(v) if centered else v, compute_uv=False)
    squares = values**2
    return Spectrum(values, squares / jnp.sum(squares))


@partial(jax.jit, static_argnames="centered")
def effective_rank(v: Float[ArrayLike, "N D"], *, centered: bool = True) -> Float[Array, ""]:
    """Effective number of directions in use: exp of the entropy of the normalised singular values.

    Args:
      v: `[N, D]` floating point.
      centered: whether the mean is subtracted first. False is the figure of the source, in which a common offset
        dominates one direction.

    Returns:
      A number in 1…min(N, D), or 0 where all vectors are equal (are zero, if not centered).

    Raises:
      ShapeError: not `[N, D]` (at trace time).

    Source:
      Roy and Vetterli (2007), The effective rank; Garrido et al. (2023), RankMe, for its use here.

    >>> effective_rank(jnp.eye(3), centered=False).round(4)
    Array(3., dtype=float32)
    """
    values = spectrum(v, centered=centered).singular_values
    total = jnp.sum(values)
    shares = values / jnp.where(total > 0, total, 1.0)
    entropy = -jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1.0)))
    return jnp.where(total > 0, jnp.exp(entropy), 0.0)


@jax.jit
def mean_cosine(v: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """Mean cosine of any two of the vectors, exact over all pairs; 0 without structure, near 1 in a narrow cone.

    Zero vectors are left out; nan with fewer than two others.

    Args:
      v: `[N, D]` floating point.

    Raises:
      ShapeError: not `[N, D]` (at trace time).

    Source:
      Ethayarajh (2019), How contextual are contextualized word representations?, who samples the pairs.

    >>> mean_cosine(jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])).round(4)
    Array(0.3333, dtype=float32)
    """
    units = unit_vectors(v)
    total = jnp.sum(units, axis=0)
    count = jnp.sum(jnp.any(units != 0, axis=1)).astype(units.dtype)
    return (total @ total - jnp.sum(units * units)) / (count * (count - 1))


@jax.jit
def isoscore(v: Float[ArrayLike, "N D"]) -> Float[Array, ""]:
    """IsoScore: 1 where the variance is the same in all directions, 0 where it is in one direction.

    Args:
      v: `[N, D]`, D at least 2.

    Returns:
      A scalar in [0, 1]; nan where the vectors do not vary. Rotations and translations do not change it.

    Raises:
      ShapeError: not `[N, D]` with D > 1 (at trace time).

    Source:
      Rudman et al. (2022), IsoScore: measuring the uniformity of embedding space utilization.

    >>> isoscore(jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])).round(4)
    Array(1., dtype=float32)
    """
    v = as_vectors(v)
    width = v.shape[1]
    if width < 2:
        raise ShapeError(f"isoscore needs vectors of at least 2 dimensions, got {v.shape}")
    variances = spectrum(v).singular_values ** 2
    variances = jnp.pad(variances, (0, width - len(variances)))
    normalised = variances * (width**0.5 / jnp.sqrt(jnp.sum(variances**2)))
    defect_squared = jnp.sum((normalised - 1) ** 2) / (2 * (width - width**0.5))
    used = (width - defect_squared * (width - width**0.5)) ** 2 / width**2
    return jnp.clip((width * used - 1) / (width - 1), 0.0, 1.0)


@partial(jax.jit, static_argnames="tolerance")
def dead_dimensions(v: Float[ArrayLike, "N D"], *, tolerance: float = 1e-3) -> Int[Array, ""]:
    """Number of the D coordinates that are (nearly) the same for all vectors.

    A coordinate is dead where its standard deviation is at most `tolerance` times the root mean square of those of
    all coordinates.

    Args:
      v: `[N, D]`.
      tolerance: at least 0.

    Returns:
      int32 in 0…D.

    Raises:
      ShapeError: not `[N, D]` (at trace time).
      ConfigError: a negative tolerance.

    >>> dead_dimensions(jnp.array([[1.0, 5.0, 0.0], [2.0, 5.0, 1.0]]))
    Array(1, dtype=int32)
    """
    check_value("tolerance", tolerance, "[0, inf)")
    deviations = jnp.std(as_vectors(v), axis=0)
    typical = jnp.sqrt(jnp.mean(deviations**2))
    return jnp.sum(deviations <= tolerance * typical, dtype=jnp.int32)


@partial(jax.jit, static_argnames="k")
def neighbours(v: Float[ArrayLike, "N D"], *, k: int) -> Int[Array, "N k"]:
    """The k nearest other vectors by cosine, the nearest first; equal cosines in the order of the rows.

    Args:
      v: `[N, D]`.
      k: 1 to N-1.

    Returns:
      `[N, k]` int32 rows.

    Raises:
      ShapeError: not `[N, D]` with N > 1 (at trace time).
      ConfigError: k outside 1…N-1.

    >>> neighbours(jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), k=1).tolist()
    [[1], [0], [1]]
    """
    units = unit_vectors(_several(v))
    check_value("k", k, f"[1, {len(units) - 1}]")
    rows = jnp.arange(len(units))

    def nearest(row: Array) -> Array:
        return jax.lax.top_k(jnp.where(rows == row, -jnp.inf, units @ units[row]), k)[1]

    return _for_all_rows(nearest, len(units))


@partial(jax.jit, static_argnames="k")
def neighbourhood_consistency(
    v: Float[ArrayLike, "N D"], labels: Int[ArrayLike, " N"], *, k: int
) -> Float[Array, " N"]:
    """Share of each vector's k nearest neighbours that have its label.

    Args:
      v: `[N, D]`.
      labels: `[N]` integer classes; every vector has one.
      k: 1 to N-1.

    Returns:
      `[N]` float32 in [0, 1].

    Raises:
      ShapeError: shapes that do not match (at trace time).
      ConfigError: k outside 1…N-1.

    >>> v = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> neighbourhood_consistency(v, jnp.array([7, 7, 8]), k=1)
    Array([1., 1., 0.], dtype=float32)
    """
    if labels.shape != v.shape[:1]:
        raise ShapeError(f"labels have shape {labels.shape} for vectors {v.shape}, expected one a vector")
    labels = jnp.asarray(labels)
    same = labels[neighbours(v, k=k)] == labels[:, None]
    return jnp.mean(same, axis=1, dtype=jnp.float32)


@jax.jit
def shuffled_consistency(labels: Int[ArrayLike, " N"]) -> Float[Array, ""]:
    """Expectation of the mean of `neighbourhood_consistency` when the labels are in random order; exact.

    Args:
      labels: `[N]` integer classes.

    >>> shuffled_consistency(jnp.array([7, 7, 8])).round(4)
    Array(0.3333, dtype=float32)
    """
    ordered = jnp.sort(labels)
    sizes = jnp.searchsorted(ordered, labels, side="right") - jnp.searchsorted(ordered, labels, side="left")
    return jnp.mean((sizes - 1).astype(jnp.float32) / (len(labels) - 1))


@jax.jit
def two_dimensional_map(v: Float[ArrayLike, "N D"]) -> PlaneMap:
    """The vectors' first two principal components, for a drawing.

    Args:
      v: `[N, D]`, both at least 2.

    Returns:
      Coordinates, with the sign of each axis chosen so that its largest weight is positive, and the shares of the
      variance.

    Raises:
      ShapeError: less than two vectors or dimensions (at trace time).
    """
    v = _several(v)
    if v.shape[1] < 2:
        raise ShapeError(f"a map needs vectors of at least 2 dimensions, got {v.shape}")
    left, values, axes = jnp.linalg.svd(_centered(v), full_matrices=False)
    heaviest = jnp.take_along_axis(axes, jnp.argmax(jnp.abs(axes), axis=1)[:, None], axis=1)[:2, 0]
    points = left[:, :2] * (values[:2] * jnp.where(heaviest < 0, -1.0, 1.0))[None, :]
    return PlaneMap(points, values[:2] ** 2 / jnp.sum(values**2))


def _several(v: ArrayLike) -> Array:
    vectors = as_vectors(v)
    if len(vectors) < 2:
        raise ShapeError(f"expected at least two vectors, got shape {vectors.shape}")
    return vectors


def _pairs(v_x: ArrayLike, v_y: ArrayLike) -> tuple[Array, Array]:
    first, second = unit_vectors(v_x), unit_vectors(v_y)
    if first.shape != second.shape:
        raise ShapeError(
            f"v_x has shape {first.shape} and v_y {second.shape}, expected row i of both to be a pair of one width; "
            "project v_x first where W is not square"
        )
    return first, second


def _centered(v: Array) -> Array:
    return v - jnp.mean(v, axis=0, keepdims=True)


def _for_all_rows(function: Callable[[Array], Array], count: int) -> Array:
    """`function(row)` of every row, some rows at a time."""
    values: Array = jax.lax.map(function, jnp.arange(count), batch_size=min(_TILE, count))
    return values
