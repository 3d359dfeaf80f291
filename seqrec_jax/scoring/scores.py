"""The score f(v_x, v_y) = v_xᵀ W v_y of all items, of pairs and of candidates."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.types import ArrayLike

BilinearWeight: TypeAlias = ArrayLike | tuple[ArrayLike, ArrayLike] | list[ArrayLike] | None
"""W: None = identity (D == E), `[D]` diagonal, `[D, E]` full, or `(left [D, R], right [E, R])` low rank."""


def project(v_x: Float[ArrayLike, "*B D"], weight: BilinearWeight) -> Float[Array, "*B E"]:
    """User vectors moved into the space of the item vectors, v_xᵀ W.

    Args:
      v_x: `[*B, D]` user vectors.
      weight: W in any of its four forms.

    Returns:
      `[*B, E]` in the dtype of `v_x`.

    Raises:
      ShapeError: W does not fit D (at trace time).

    >>> import jax.numpy as jnp
    >>> project(jnp.array([1.0, 2.0]), jnp.array([10.0, 1.0]))
    Array([10.,  2.], dtype=float32)
    """
    users = jnp.asarray(v_x)
    if weight is None:
        return users
    if isinstance(weight, tuple | list):
        left, right = (jnp.asarray(factor) for factor in weight)
        if left.ndim == right.ndim == 2 and left.shape == (users.shape[-1], right.shape[1]):
            return (users @ left) @ right.T
    elif jnp.shape(weight) == users.shape[-1:]:
        return users * jnp.broadcast_to(weight, users.shape)
    elif jnp.ndim(weight) == 2 and weight.shape[0] == users.shape[-1]:
        return users @ jnp.asarray(weight)
    raise ShapeError(
        f"W of shape {jax.tree.map(jnp.shape, weight)} does not fit v_x of width D = {users.shape[-1]}; give "
        "None (identity), [D] (diagonal), [D, E] (full) or a tuple ([D, R], [E, R]) (low rank)"
    )


def bilinear_scores(
    v_x: Float[ArrayLike, "*B D"], weight: BilinearWeight, v_y: Float[ArrayLike, "V1 E"]
) -> Float[Array, "*B V1"]:
    """Scores of every row of the item table, v_xᵀ W v_y.

    Column 0 is the score of the padding row; it has no meaning, and ranks, lists and losses ignore it.

    Args:
      v_x: `[*B, D]` user vectors.
      weight: W in any of its four forms.
      v_y: `[V+1, E]` item vectors.

    Returns:
      `[*B, V+1]`, float32 at least (products of lower precision are accumulated in float32).

    Raises:
      ShapeError: widths that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> bilinear_scores(jnp.array([[1.0, 2.0]]), None, jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    Array([[0., 1., 3.]], dtype=float32)
    """
    table = jnp.asarray(v_y)
    return table_scores(fitting(project(v_x, weight), table), table)


def pair_scores(
    v_x: Float[ArrayLike, "*B D"], weight: BilinearWeight, v_y: Float[ArrayLike, "*B E"]
) -> Float[Array, "*B"]:
    """Score of one item vector for each user vector.

    Args:
      v_x: `[*B, D]` user vectors.
      weight: W in any of its four forms.
      v_y: `[*B, E]` item vectors, one for each user vector.

    Returns:
      `[*B]`, float32 at least.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> pair_scores(jnp.array([[1.0, 2.0]]), None, jnp.array([[3.0, 4.0]]))
    Array([11.], dtype=float32)
    """
    projected, items = project(v_x, weight), jnp.asarray(v_y)
    if projected.shape != items.shape:
        raise ShapeError(f"v_y has shape {items.shape}, expected that of v_xᵀ W, {projected.shape}")
    return jnp.einsum("...e,...e->...", projected, items, preferred_element_type=score_dtype(projected, items))


def candidate_scores(
    v_x: Float[ArrayLike, "*B D"],
    weight: BilinearWeight,
    v_y: Float[ArrayLike, "V1 E"],
    *,
    candidate_ids: Integer[ArrayLike, "*B N"],
) -> Float[Array, "*B N"]:
    """Scores of given items only; the item vectors of the candidates are gathered, `[*B, N, E]`.

    Args:
      v_x: `[*B, D]` user vectors.
      weight: W in any of its four forms.
      v_y: `[V+1, E]` item vectors.
      candidate_ids: `[*B, N]` integer item ids; the score of id 0 has no meaning.

    Returns:
      `[*B, N]`, float32 at least.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> v_y = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> candidate_scores(jnp.array([[1.0, 2.0]]), None, v_y, candidate_ids=jnp.array([[2, 1]]))
    Array([[3., 1.]], dtype=float32)
    """
    table, ids = jnp.asarray(v_y), jnp.asarray(candidate_ids)
    projected = fitting(project(v_x, weight), table)
    if ids.shape[:-1] != projected.shape[:-1]:
        raise ShapeError(f"candidate_ids has shape {ids.shape}, expected {projected.shape[:-1]} + (N,)")
    vectors = table[ids]
    dtype = score_dtype(projected, vectors)
    return jnp.einsum("...e,...ne->...n", projected, vectors, preferred_element_type=dtype)


def table_scores(projected: Float[Array, "*B E"], v_y: Float[Array, "R E"]) -> Float[Array, "*B R"]:
    """`[*B, R]` scores of R rows of the item table by user vectors that are already in the space of the items."""
    dtype = score_dtype(projected, v_y)
    if projected.ndim == 2 and projected.shape[0] == 1:
        # on a CPU E @ h is several times faster than h @ Eᵀ for a single row
        return jnp.einsum("ve,e->v", v_y, projected[0], preferred_element_type=dtype)[None]
    return jnp.einsum("...e,ve->...v", projected, v_y, preferred_element_type=dtype)


def score_dtype(*arrays: Array) -> jnp.dtype:
    """The dtype that products of these arrays are accumulated in: float64 if one of them is float64, else float32."""
    dtype: jnp.dtype = jnp.dtype(jnp.float64 if jnp.float64 in [array.dtype for array in arrays] else jnp.float32)
    return dtype


def fitting(projected: Float[Array, "*B E"], v_y: Array) -> Float[Array, "*B E"]:
    """The projected user vectors, after a check that the item table `v_y` is `[V+1, E]` of the same width.

    Raises:
      ShapeError: it is not (at trace time).
    """
    if v_y.ndim != 2 or projected.shape[-1] != v_y.shape[1]:
        raise ShapeError(f"v_y has shape {v_y.shape}, expected [V+1, E] with E = {projected.shape[-1]}")
    return projected
