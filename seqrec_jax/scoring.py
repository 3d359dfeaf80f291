"""The one score f(v_x, v_y) = v_xᵀ W v_y, and exact ranks and top-k lists over any number of items.

Ranks and lists follow the same rules, so that they always agree: row 0, an item that is not allowed or is
excluded, and an item whose score is nan or -inf cannot be recommended; equal scores are ordered by one random
order of the catalogue, `priority`, which the evaluation protocol draws once with `catalogue_order`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ShapeError

UNREACHABLE = 2**31 - 1
"""Rank of a target that cannot appear in any list (int32 max)."""

BilinearWeight: TypeAlias = Array | tuple[Array, Array] | None
"""W: None = identity (D == E), `[D]` diagonal, `[D, E]` full, or `(left [D, R], right [E, R])` low rank."""


_Counts: TypeAlias = tuple[Array, Array, Array]  # items before, greater, and greater or equal


class Ranks(NamedTuple):
    """The place of each target in its user's list of all items, `[U, P]` int32 each, 1 = first.

    Attributes:
      ranks: 1 + greater + equal and earlier in the catalogue's order; `UNREACHABLE` where there is none.
      best: the rank if every tie were won.
      worst: the rank if every tie were lost.
    """

    ranks: Int[Array, "U P"]
    best: Int[Array, "U P"]
    worst: Int[Array, "U P"]


class TopK(NamedTuple):
    """The first K items of each user; places beyond the items that can be recommended hold id 0, score -inf.

    Attributes:
      item_ids: `[U, K]` int32.
      scores: `[U, K]` in the dtype of the scores, falling.
    """

    item_ids: Int[Array, "U K"]
    scores: Float[Array, "U K"]


def project(v_x: Float[Array, "*B D"], weight: BilinearWeight) -> Float[Array, "*B E"]:
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
    v_x = jnp.asarray(v_x)
    if weight is None:
        return v_x
    if isinstance(weight, tuple | list):
        left, right = (jnp.asarray(factor) for factor in weight)
        if left.ndim == right.ndim == 2 and left.shape == (v_x.shape[-1], right.shape[1]):
            return (v_x @ left) @ right.T
    elif jnp.shape(weight) == v_x.shape[-1:]:
        return v_x * jnp.broadcast_to(weight, v_x.shape)
    elif jnp.ndim(weight) == 2 and weight.shape[0] == v_x.shape[-1]:
        return v_x @ jnp.asarray(weight)
    raise ShapeError(
        f"W of shape {jax.tree.map(jnp.shape, weight)} does not fit v_x of width D = {v_x.shape[-1]}; give "
        "None (identity), [D] (diagonal), [D, E] (full) or a tuple ([D, R], [E, R]) (low rank)"
    )


def bilinear_scores(
    v_x: Float[Array, "*B D"], weight: BilinearWeight, v_y: Float[Array, "V+1 E"]
) -> Float[Array, "*B V+1"]:
    """Scores of every row of the item table, v_xᵀ W v_y.

    Column 0 is the score of the padding row: it has no meaning, and the ranks, lists and losses ignore it.

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
    return _all_scores(_fitting(project(v_x, weight), v_y), jnp.asarray(v_y))


def pair_scores(v_x: Float[Array, "*B D"], weight: BilinearWeight, v_y: Float[Array, "*B E"]) -> Float[Array, "*B"]:
    """Score of one item vector for each user vector.

    Args:
      v_x, weight: as for `bilinear_scores`.
      v_y: `[*B, E]` item vectors, one for each user vector.

    Returns:
      `[*B]`, float32 at least.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> pair_scores(jnp.array([[1.0, 2.0]]), None, jnp.array([[3.0, 4.0]]))
    Array([11.], dtype=float32)
    """
    projected, v_y = project(v_x, weight), jnp.asarray(v_y)
    if projected.shape != v_y.shape:
        raise ShapeError(f"v_y has shape {v_y.shape}, expected that of v_xᵀ W, {projected.shape}")
    return jnp.einsum("...e,...e->...", projected, v_y, preferred_element_type=_score_dtype(projected, v_y))


def candidate_scores(
    v_x: Float[Array, "*B D"],
    weight: BilinearWeight,
    v_y: Float[Array, "V+1 E"],
    *,
    candidate_ids: Int[Array, "*B N"],
) -> Float[Array, "*B N"]:
    """Scores of given items only; the item vectors of the candidates are gathered, `[*B, N, E]`.

    Args:
      v_x, weight, v_y: as for `bilinear_scores`.
      candidate_ids: `[*B, N]` item ids; the score of id 0 has no meaning.

    Returns:
      `[*B, N]`, float32 at least.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> v_y = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> candidate_scores(jnp.array([[1.0, 2.0]]), None, v_y, candidate_ids=jnp.array([[2, 1]]))
    Array([[3., 1.]], dtype=float32)
    """
    projected, candidate_ids = _fitting(project(v_x, weight), v_y), jnp.asarray(candidate_ids)
    if candidate_ids.shape[:-1] != projected.shape[:-1]:
        raise ShapeError(f"candidate_ids has shape {candidate_ids.shape}, expected {projected.shape[:-1]} + (N,)")
    vectors = jnp.asarray(v_y)[candidate_ids]
    dtype = _score_dtype(projected, vectors)
    return jnp.einsum("...e,...ne->...n", projected, vectors, preferred_element_type=dtype)


def catalogue_order(num_items: int, key: jax.Array) -> Int[Array, " V+1"]:
    """The one random order of the catalogue that settles every tie.

    Args:
      num_items: V.
      key: PRNG key, consumed; the protocol fixes it once.

    Returns:
      `[V+1]` int32 place 1…V of each item; row 0, the padding, has place 0, which is never used.

    >>> import jax
    >>> sorted(catalogue_order(4, jax.random.key(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    places = jax.random.permutation(key, jnp.arange(1, num_items + 1, dtype=jnp.int32))
    return jnp.concatenate([jnp.zeros(1, dtype=jnp.int32), places])


def ranks_in_scores(
    scores: Float[Array, "U V+1"],
    targets: Int[Array, "U P"],
    *,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None = None,
    excluded: Int[Array, "U X"] | None = None,
    where: Bool[Array, "U P"] | None = None,
) -> Ranks:
    """Place of each target among all items that can be recommended to its user, by counting, never sorting.

    The other targets of a user are competitors like any item. A target is `UNREACHABLE` where it is 0, out of
    the table, masked, or cannot be recommended.

    Args:
      scores: `[U, V+1]` scores of all items; column 0 is ignored.
      targets: `[U, P]` item ids, 0 = none.
      priority: `[V+1]` int32 order of the catalogue, from `catalogue_order`.
      allowed: `[V+1]` True for items that could be recommended; None means all.
      excluded: `[U, X]` item ids that this user must not be recommended, 0 = none.
      where: `[U, P]` True for real targets; None means all.

    Returns:
      Ranks `[U, P]`.

    Raises:
      ShapeError: shapes that do not fit or scores that are not floating point (at trace time).

    >>> import jax.numpy as jnp
    >>> scores = jnp.array([[9.0, 0.1, 0.7, 0.7, 0.3]])
    >>> ranks_in_scores(scores, jnp.array([[3, 4]]), priority=jnp.array([0, 4, 1, 2, 3])).ranks
    Array([[2, 3]], dtype=int32)
    """
    scores, targets = _check_scores(scores), jnp.asarray(targets)
    request: dict[str, Any] = {"priority": priority, "allowed": allowed, "excluded": excluded}
    _check_request(*scores.shape, targets=targets, **request)
    ids = jnp.arange(scores.shape[1], dtype=jnp.int32)
    listed = _hide(scores, ids, allowed, excluded)
    own = _own_scores(listed, ids, targets)
    return _as_ranks(_count(listed, jnp.asarray(priority), own, _places(priority, targets)), own, targets, where)


def target_ranks(
    v_x: Float[Array, "U D"],
    weight: BilinearWeight,
    v_y: Float[Array, "V+1 E"],
    targets: Int[Array, "U P"],
    *,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None = None,
    excluded: Int[Array, "U X"] | None = None,
    where: Bool[Array, "U P"] | None = None,
    chunk_size: int = 65536,
) -> Ranks:
    """`ranks_in_scores` without the `[U, V+1]` scores: they are made in tiles of `chunk_size` items.

    A catalogue of more than one tile is gone through twice, for the targets' own scores and to count the
    items before them, in one compiled loop, so that an item's score has the same bits both times.

    Args:
      v_x, weight, v_y: as for `bilinear_scores`.
      targets, priority, allowed, excluded, where: as for `ranks_in_scores`.
      chunk_size: items in a tile; memory is of the order of U × chunk_size.

    Returns:
      Ranks `[U, P]`.

    Raises:
      ShapeError: shapes that do not fit (at trace time), or a chunk_size below 1.

    >>> import jax.numpy as jnp
    >>> v_y, priority = jnp.array([[0.0], [3.0], [1.0], [2.0]]), jnp.array([0, 1, 2, 3])
    >>> target_ranks(jnp.ones((1, 1)), None, v_y, jnp.array([[2]]), priority=priority).ranks
    Array([[3]], dtype=int32)
    """
    projected, v_y, targets = _fitting(project(v_x, weight), v_y), jnp.asarray(v_y), jnp.asarray(targets)
    priority = jnp.asarray(priority)
    request: dict[str, Any] = {"priority": priority, "allowed": allowed, "excluded": excluded}
    if _check_at_least_1("chunk_size", chunk_size) >= v_y.shape[0]:
        return ranks_in_scores(_all_scores(projected, v_y), targets, where=where, **request)
    _check_request(projected.shape[0], v_y.shape[0], targets=targets, **request)
    num_tiles = -(-v_y.shape[0] // chunk_size)
    places = _places(priority, targets)
    zero = _zero_of(projected, v_y, targets, priority, allowed, excluded)
    dtype = _score_dtype(projected, v_y)

    def visit(carry: tuple[Array, _Counts], step: Array) -> tuple[tuple[Array, _Counts], None]:
        own, counts = carry
        scores, ids = _tile(projected, v_y, step % num_tiles, chunk_size)
        listed = _hide(scores, ids, allowed, excluded)

        def find_own() -> tuple[Array, _Counts]:
            return jnp.maximum(own, _own_scores(listed, ids, targets)), counts

        def count() -> tuple[Array, _Counts]:
            return own, _add(counts, _count(listed, priority[jnp.abs(ids)], own, places))

        return jax.lax.cond(step < num_tiles, find_own, count), None

    own = jnp.full_like(zero, -jnp.inf, shape=targets.shape, dtype=dtype)
    none = jnp.zeros_like(zero, shape=targets.shape, dtype=jnp.int32)
    steps = jnp.arange(2 * num_tiles, dtype=jnp.int32)
    (own, counts), _ = jax.lax.scan(visit, (own, (none, none, none)), steps)
    return _as_ranks(counts, own, targets, where)


def top_k_in_scores(
    scores: Float[Array, "U V+1"],
    *,
    k: int,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None = None,
    excluded: Int[Array, "U X"] | None = None,
) -> TopK:
    """The K items of the highest score among those that can be recommended; exact, ties by `priority`.

    Args:
      scores, priority, allowed, excluded: as for `ranks_in_scores`.
      k: K, at least 1; it may be larger than the catalogue.

    Returns:
      TopK `[U, K]`.

    Raises:
      ShapeError: shapes that do not fit, scores that are not floating point (at trace time), or k < 1.

    >>> import jax.numpy as jnp
    >>> top_k_in_scores(jnp.array([[9.0, 0.1, 0.7, 0.7]]), k=2, priority=jnp.array([0, 3, 2, 1])).item_ids
    Array([[3, 2]], dtype=int32)
    """
    scores, priority = _check_scores(scores), jnp.asarray(priority)
    _check_request(*scores.shape, priority=priority, allowed=allowed, excluded=excluded)
    ids = jnp.arange(scores.shape[1], dtype=jnp.int32)
    return _first_k(_hide(scores, ids, allowed, excluded), ids, priority, _check_at_least_1("k", k))


def top_k(
    v_x: Float[Array, "U D"],
    weight: BilinearWeight,
    v_y: Float[Array, "V+1 E"],
    *,
    k: int,
    priority: Int[Array, " V+1"],
    allowed: Bool[Array, " V+1"] | None = None,
    excluded: Int[Array, "U X"] | None = None,
    chunk_size: int = 65536,
) -> TopK:
    """`top_k_in_scores` without the `[U, V+1]` scores: they are made in tiles of `chunk_size` items.

    Args:
      v_x, weight, v_y: as for `bilinear_scores`.
      k, priority, allowed, excluded: as for `top_k_in_scores`.
      chunk_size: items in a tile; memory is of the order of U × chunk_size.

    Returns:
      TopK `[U, K]`.

    Raises:
      ShapeError: shapes that do not fit (at trace time), k < 1, or a chunk_size below 1.

    >>> import jax.numpy as jnp
    >>> v_y, priority = jnp.array([[0.0], [3.0], [1.0], [2.0]]), jnp.array([0, 1, 2, 3])
    >>> top_k(jnp.ones((1, 1)), None, v_y, k=2, priority=priority).item_ids
    Array([[1, 3]], dtype=int32)
    """
    projected, v_y, priority = _fitting(project(v_x, weight), v_y), jnp.asarray(v_y), jnp.asarray(priority)
    request: dict[str, Any] = {"priority": priority, "allowed": allowed, "excluded": excluded}
    if _check_at_least_1("chunk_size", chunk_size) >= v_y.shape[0]:
        return top_k_in_scores(_all_scores(projected, v_y), k=k, **request)
    _check_request(projected.shape[0], v_y.shape[0], **request)
    num_tiles = -(-v_y.shape[0] // chunk_size)
    zero = _zero_of(projected, v_y, priority, allowed, excluded)

    def visit(best: TopK, tile: Array) -> tuple[TopK, None]:
        scores, ids = _tile(projected, v_y, tile, chunk_size)
        new = _first_k(_hide(scores, ids, allowed, excluded), ids, priority[jnp.abs(ids)], k)
        return _merge(best, new, priority), None

    shape, dtype = (projected.shape[0], _check_at_least_1("k", k)), _score_dtype(projected, v_y)
    no_ids = jnp.zeros_like(zero, shape=shape, dtype=jnp.int32)
    empty = TopK(no_ids, jnp.full_like(zero, -jnp.inf, shape=shape, dtype=dtype))
    return jax.lax.scan(visit, empty, jnp.arange(num_tiles, dtype=jnp.int32))[0]


def _score_dtype(a: Array, b: Array) -> jnp.dtype:
    return jnp.dtype(jnp.float64 if jnp.float64 in (a.dtype, b.dtype) else jnp.float32)


def _all_scores(projected: Array, v_y: Array) -> Array:
    dtype = _score_dtype(projected, v_y)
    if projected.ndim == 2 and projected.shape[0] == 1:
        # on a CPU E @ h is several times faster than h @ Eᵀ for a single row
        return jnp.einsum("ve,e->v", v_y, projected[0], preferred_element_type=dtype)[None]
    return jnp.einsum("...e,ve->...v", projected, v_y, preferred_element_type=dtype)


def _tile(projected: Array, v_y: Array, tile: Array, chunk_size: int) -> tuple[Array, Array]:
    """Scores `[U, C]` and ids `[C]` of one tile; the last tile is moved back so that all have one shape.

    Items of the last tile that an earlier tile has already shown get their id negated.
    """
    start = jnp.minimum(tile * chunk_size, v_y.shape[0] - chunk_size)
    ids = start + jnp.arange(chunk_size, dtype=jnp.int32)
    scores = _all_scores(projected, jax.lax.dynamic_slice_in_dim(v_y, start, chunk_size))
    return scores, jnp.where(ids < tile * chunk_size, -ids, ids)


def _hide(scores: Array, ids: Array, allowed: Array | None, excluded: Array | None) -> Array:
    """The scores `[U, C]` of consecutive `ids`, with -inf for what cannot be recommended."""
    usable = ids > 0 if allowed is None else (ids > 0) & jnp.asarray(allowed)[jnp.abs(ids)]
    listed = jnp.where(usable[None, :] & (scores > -jnp.inf), scores, -jnp.inf)
    listed = jnp.where(listed == 0, 0.0, listed)  # -0.0 equals 0.0 when counted but not in `lax.top_k`
    if excluded is None:
        return listed
    columns = jnp.asarray(excluded) - jnp.abs(ids[0])
    columns = jnp.where(columns < 0, ids.shape[0], columns)  # a negative index would count from the end
    rows = jnp.arange(columns.shape[0], dtype=jnp.int32)[:, None]
    return listed.at[rows, columns].set(-jnp.inf, mode="drop")


def _own_scores(listed: Array, ids: Array, targets: Array) -> Array:
    """`[U, P]` score of each target, -inf where it is not among `ids`."""
    columns = targets - jnp.abs(ids[0])
    columns = jnp.where((columns < 0) | (targets <= 0), ids.shape[0], columns)
    return jnp.take_along_axis(listed, columns, axis=1, mode="fill", fill_value=-jnp.inf)


def _places(priority: Array, targets: Array) -> Array:
    return jnp.asarray(priority)[jnp.clip(targets, 0, len(priority) - 1)]


def _count(listed: Array, priority: Array, own: Array, places: Array) -> _Counts:
    """How many items of `[U, C]` stand before each target `[U, P]`, are greater, and are greater or equal.

    One reduction of three operands: XLA vectorises it on a CPU, and not three sums (2 ms against 50).
    """
    items, mine = listed[:, None, :], own[:, :, None]
    greater, not_less = items > mine, items >= mine
    before = greater | (not_less & (priority[None, None, :] < places[:, :, None]))
    hits = tuple(hit.astype(jnp.int32) for hit in (before, greater, not_less))
    return jax.lax.reduce(hits, (jnp.int32(0),) * 3, _add, dimensions=(2,))


def _add(a: _Counts, b: _Counts) -> _Counts:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _as_ranks(counts: _Counts, own: Array, targets: Array, where: Array | None) -> Ranks:
    before, greater, not_less = counts
    reachable = (own > -jnp.inf) & (targets > 0)
    if where is not None:
        if jnp.shape(where) != targets.shape:
            raise ShapeError(f"where has shape {jnp.shape(where)}, expected that of targets, {targets.shape}")
        reachable &= jnp.asarray(where)
    return Ranks(*(jnp.where(reachable, rank, UNREACHABLE) for rank in (1 + before, 1 + greater, not_less)))


def _first_k(listed: Array, ids: Array, priority: Array, k: int) -> TopK:
    """The first k of `[U, C]`: `lax.top_k` keeps the order of equal columns, so they are laid by priority."""
    order = jnp.argsort(priority)
    scores, columns = jax.lax.top_k(listed[:, order], min(k, listed.shape[1]))
    item_ids = jnp.where(scores > -jnp.inf, ids[order][columns], 0)
    missing = ((0, 0), (0, k - scores.shape[1]))
    return TopK(jnp.pad(item_ids, missing), jnp.pad(scores, missing, constant_values=-jnp.inf))


def _merge(a: TopK, b: TopK, priority: Array) -> TopK:
    """The first K of two lists of K."""
    item_ids = jnp.concatenate([a.item_ids, b.item_ids], axis=1)
    scores = jnp.concatenate([a.scores, b.scores], axis=1)
    falling, _, item_ids = jax.lax.sort((-scores, priority[item_ids], item_ids), dimension=1, num_keys=2)
    k = a.item_ids.shape[1]
    return TopK(item_ids[:, :k], -falling[:, :k])


def _zero_of(*arrays: Array | None) -> Array:
    """A zero that varies over all mesh axes of the arrays, as a loop's state must inside `shard_map`."""
    zeros = (jnp.zeros_like(array, shape=(), dtype=jnp.float32) for array in arrays if array is not None)
    return sum(zeros, start=jnp.float32(0))


def _fitting(projected: Array, v_y: Array) -> Array:
    if jnp.ndim(v_y) != 2 or projected.shape[-1] != jnp.shape(v_y)[1]:
        raise ShapeError(f"v_y has shape {jnp.shape(v_y)}, expected [V+1, E] with E = {projected.shape[-1]}")
    return projected


def _check_scores(scores: Array) -> Array:
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ShapeError(f"scores must be floating point [U, V+1], got {scores.dtype} of shape {scores.shape}")
    return scores


def _check_request(
    num_users: int, table_size: int, *, priority: Array, allowed: Array | None, **by_user: Array | None
) -> None:
    """Refuse arrays that do not fit the scores `[U, V+1]`."""
    for name, array in (("priority", priority), ("allowed", allowed)):
        if array is not None and jnp.shape(array) != (table_size,):
            raise ShapeError(f"{name} has shape {jnp.shape(array)}, the item table asks for {(table_size,)}")
    for name, array in by_user.items():
        if array is not None and (jnp.ndim(array) != 2 or jnp.shape(array)[0] != num_users):
            raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected a row for each of {num_users} users")


def _check_at_least_1(name: str, value: int) -> int:
    if value < 1:
        raise ShapeError(f"{name} must be at least 1, got {value}")
    return value
