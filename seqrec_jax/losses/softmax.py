"""The softmax over all items, which never holds the scores of all rows, and its gradient.

Rows are cut into chunks, each scored against all items. Cutting the items instead takes an online normaliser and a
fourth matrix product for the gradient; it was measured to be slower (benchmarks/losses.py).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses.inputs import check_shape, target_weights
from seqrec_jax.losses.reduce import global_sum
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike, AxisName

_LOGITS_PER_CHUNK = 2**21  # 8 MiB of float32, which a processor's cache holds
_MIN_CHUNK_SIZE = 256  # with fewer rows at a time, adding up the gradient of v_y would take most of the time
_MAX_CHUNK_LOGITS = 2**27  # 512 MiB of float32, which that minimum must not exceed


def softmax_loss(
    v: Float[ArrayLike, "T E"],
    v_y: Float[ArrayLike, "V1 E"],
    targets: Integer[ArrayLike, " T"],
    *,
    chunk_size: int | None = None,
    temperature: float | Float[ArrayLike, ""] = 1.0,
    label_smoothing: float = 0.0,
    allowed: Bool[ArrayLike, " V1"] | None = None,
    where: Bool[ArrayLike, " T"] | None = None,
    weights: Float[ArrayLike, " T"] | None = None,
) -> Float[Array, " T"]:
    """log Σⱼ exp(v·v_yⱼ / τ) − v·v_y_target / τ over all items, never holding `[T, V]` scores.

    With label smoothing ε the loss is (1 − ε) times that plus ε times its mean over all allowed targets. Scores are
    computed for `chunk_size` rows at a time, and again for the gradient; `mean_softmax_loss` is faster if only the
    mean is needed. Products of bfloat16 inputs are accumulated in float32.

    Args:
      v: `[T, E]` floating-point user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` floating-point item vectors; row 0 is never scored.
      targets: `[T]` integer item ids; 0 = none, which counts as masked.
      chunk_size: rows at a time, at least 1; None chooses it by V.
      temperature: τ, a number or a floating-point scalar, which may be learned.
      label_smoothing: ε in [0, 1).
      allowed: `[V+1]` bool, True for items in the softmax; None means all. A target outside has an infinite loss.
      where: `[T]` bool, True for targets that count; None means all.
      weights: `[T]` floating-point weight of each target; None means 1.

    Returns:
      `[T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
      ConfigError: chunk_size or label_smoothing out of range.

    >>> import jax.numpy as jnp
    >>> softmax_loss(jnp.zeros((1, 2)), jnp.zeros((5, 2)), jnp.array([3]))
    Array([1.3862944], dtype=float32)
    """
    rows, v_y, targets, usable, weights = _softmax_inputs(v, v_y, targets, temperature, allowed, where, weights)
    losses = _softmax_rows(rows, v_y, targets, usable, _num_chunks(rows, v_y, chunk_size))
    losses += _smoothing_terms(rows, v_y, targets, usable, label_smoothing)
    return weights * jnp.where(weights != 0, losses, 0.0)


def mean_softmax_loss(
    v: Float[ArrayLike, "T E"],
    v_y: Float[ArrayLike, "V1 E"],
    targets: Integer[ArrayLike, " T"],
    *,
    chunk_size: int | None = None,
    temperature: float | Float[ArrayLike, ""] = 1.0,
    label_smoothing: float = 0.0,
    allowed: Bool[ArrayLike, " V1"] | None = None,
    where: Bool[ArrayLike, " T"] | None = None,
    weights: Float[ArrayLike, " T"] | None = None,
    axis_name: AxisName = None,
    row_shards: int = 1,
    item_shards: int = 1,
) -> Float[Array, ""]:
    """The weighted mean of `softmax_loss`, whose gradient is computed in the forward pass.

    A chunk's gradients are computed together with its scores: three matrix products instead of four.

    Args:
      v: `[T, E]` floating-point user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` floating-point item vectors; row 0 is never scored.
      targets: `[T]` integer item ids; 0 = none, which counts as masked.
      chunk_size: rows at a time, at least 1; None chooses it by V.
      temperature: τ, a number or a floating-point scalar, which may be learned.
      label_smoothing: ε in [0, 1).
      allowed: `[V+1]` bool, True for items in the softmax; None means all. A target outside has an infinite loss.
      where: `[T]` bool, True for targets that count; None means all.
      weights: `[T]` floating-point weight of each target; None means 1.
      axis_name: mesh axis or axes over which the mean is taken, inside `shard_map` or `pmap`.
      row_shards: number of devices over which `jit` spreads the rows, in equal blocks. Each adds up its own gradient
        by `v_y`; these are summed once instead of once a chunk.
      item_shards: number of devices over which `jit` spreads the rows of `v_y`; chunks then have more rows.

    Returns:
      float32 scalar; 0, with a gradient of 0, where nothing counts.

    Raises:
      ShapeError: shapes that do not fit (at trace time).
      ConfigError: chunk_size or label_smoothing out of range.

    >>> import jax.numpy as jnp
    >>> mean_softmax_loss(jnp.zeros((2, 2)), jnp.zeros((5, 2)), jnp.array([3, 0]))
    Array(1.3862944, dtype=float32)
    """
    rows, v_y, targets, usable, weights = _softmax_inputs(v, v_y, targets, temperature, allowed, where, weights)
    total = global_sum(weights, axis_name=axis_name)
    shares = weights / jnp.where(total != 0, total, 1.0)
    if row_shards < 1 or item_shards < 1 or len(rows) % row_shards:
        raise ShapeError(
            f"row_shards and item_shards must be at least 1 and row_shards divide T = {len(rows)}, got {row_shards} "
            f"and {item_shards}"
        )
    num_chunks = _num_chunks(rows, v_y, chunk_size, row_shards=row_shards, item_shards=item_shards)
    local = _softmax_sum(rows, v_y, targets, usable, shares, (num_chunks, row_shards))
    smoothing = _smoothing_terms(rows, v_y, targets, usable, label_smoothing)
    local += jnp.sum(shares * jnp.where(shares != 0, smoothing, 0.0))
    return global_sum(local, axis_name=axis_name)


def _smoothing_terms(rows: Array, v_y: Array, targets: Array, usable: Array, smoothing: float) -> Array:
    """`[T]` what label smoothing adds, ε (score of the target − mean score), by way of the mean item vector."""
    check_value("label_smoothing", smoothing, "[0, 1)")
    if smoothing == 0:
        return jnp.zeros(len(rows), dtype=jnp.float32)
    scored = jnp.where(usable[:, None], v_y.astype(jnp.float32), 0.0)
    mean_item = jnp.sum(scored, axis=0) / jnp.maximum(jnp.sum(usable, dtype=jnp.float32), 1.0)
    rows, differences = rows.astype(jnp.float32), v_y[targets].astype(jnp.float32) - mean_item[None, :]
    return smoothing * jnp.sum(rows * differences, axis=1)


# Both losses over all items cut their rows into chunks `[S, t, …]` of S shards, which hold no targets. The terms of the
# targets in the loss and in the gradients are added for all rows at once.


def _chunk_logits(rows: Array, v_y: Array, usable: Array) -> Array:
    logits = jnp.einsum("ste,ve->stv", rows, v_y, preferred_element_type=jnp.float32)
    return jnp.where(usable[None, None, :], logits, -jnp.inf)


def _finite(normalizers: Array) -> Array:
    """The normalisers, 0 for rows whose scores are all -inf since there is no item."""
    return jnp.where(jnp.isfinite(normalizers), normalizers, 0.0)


def _chunk_gradients(rows: Array, v_y: Array, exponentials: Array, scales: Array) -> tuple[Array, Array]:
    """Gradients by the rows `[S, t, E]` and by `v_y`, each shard's `[S, V+1, E]`, of Σ share × normaliser, in float32.

    A row's exponentials times its scale are its probabilities times its share. Scaling the rows instead of the
    exponentials saves a pass over the largest array.
    """
    exponentials, scales = exponentials.astype(rows.dtype), scales[..., None]
    scaled = (rows.astype(jnp.float32) * scales).astype(rows.dtype)
    by_rows = jnp.einsum("stv,ve->ste", exponentials, v_y, preferred_element_type=jnp.float32) * scales
    by_v_y = jnp.einsum("stv,ste->sve", exponentials, scaled, preferred_element_type=jnp.float32)
    return by_rows, by_v_y


def _target_scores(rows: Array, v_y: Array, targets: Array, usable: Array) -> Array:
    """`[T]` float32; -inf for a target that is not in the softmax."""
    scores = jnp.einsum("te,te->t", rows, v_y[targets], preferred_element_type=jnp.float32)
    return jnp.where(usable[targets], scores, -jnp.inf)


def _target_gradients(
    rows: Array, v_y: Array, targets: Array, shares: Array, *, num_shards: int = 1
) -> tuple[Array, Array]:
    """Gradients `[T, E]` and `[S, V+1, E]` of -Σ share × score of the target, in float32."""
    by_rows = -shares[:, None] * v_y[targets].astype(jnp.float32)
    by_targets = (-shares[:, None] * rows.astype(jnp.float32)).reshape(num_shards, -1, rows.shape[1])
    zeros = jnp.zeros_like(v_y, shape=(num_shards, *v_y.shape), dtype=jnp.float32)
    add = jax.vmap(lambda zeros, targets, gradients: zeros.at[targets].add(gradients))
    return by_rows, add(zeros, targets.reshape(num_shards, -1), by_targets)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _softmax_rows(rows: Array, v_y: Array, targets: Array, usable: Array, num_chunks: int) -> Array:
    return _softmax_rows_forward(rows, v_y, targets, usable, num_chunks)[0]


def _softmax_rows_forward(
    rows: Array, v_y: Array, targets: Array, usable: Array, num_chunks: int
) -> tuple[Array, tuple[Array, ...]]:
    def chunk(rows: Array) -> Array:
        return jax.nn.logsumexp(_chunk_logits(rows, v_y, usable), axis=-1)

    normalizers = _from_chunks(jax.lax.map(chunk, _to_chunks(rows, (num_chunks, 1))), len(rows))
    losses = normalizers - _target_scores(rows, v_y, targets, usable)
    return losses, (rows, v_y, targets, usable, normalizers)


def _softmax_rows_backward(
    num_chunks: int, residuals: tuple[Array, ...], cotangents: Array
) -> tuple[Array, Array, None, None]:
    rows, v_y, targets, usable, normalizers = residuals

    def chunk(total: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        rows, normalizers, cotangents = inputs
        probabilities = jnp.exp(_chunk_logits(rows, v_y, usable) - _finite(normalizers)[..., None])
        by_rows, by_v_y = _chunk_gradients(rows, v_y, probabilities, cotangents)
        return total + by_v_y, by_rows

    inputs = tuple(_to_chunks(values, (num_chunks, 1)) for values in (rows, normalizers, cotangents))
    by_target, by_v_y = _target_gradients(rows, v_y, targets, cotangents)
    by_v_y, by_rows = jax.lax.scan(chunk, by_v_y, inputs)
    by_rows = by_target + _from_chunks(by_rows, len(rows))
    return by_rows.astype(rows.dtype), by_v_y[0].astype(v_y.dtype), None, None


_softmax_rows.defvjp(_softmax_rows_forward, _softmax_rows_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _softmax_sum(rows: Array, v_y: Array, targets: Array, usable: Array, shares: Array, cut: tuple[int, int]) -> Array:
    """Σ share × loss; `cut` is the numbers of chunks and of shards."""
    losses = _softmax_rows(rows, v_y, targets, usable, cut[0])
    return jnp.sum(shares * jnp.where(shares != 0, losses, 0.0))


def _softmax_sum_forward(
    rows: Array, v_y: Array, targets: Array, usable: Array, shares: Array, cut: tuple[int, int]
) -> tuple[Array, tuple[Array, ...]]:
    def chunk(total: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        rows, shares = inputs
        logits = _chunk_logits(rows, v_y, usable)
        largest = jnp.max(logits, axis=-1)
        exponentials = jnp.exp(logits - _finite(largest)[..., None])
        sums = jnp.sum(exponentials, axis=-1)
        by_rows, by_v_y = _chunk_gradients(rows, v_y, exponentials, shares / jnp.where(sums > 0, sums, 1.0))
        return total + by_v_y, (largest + jnp.log(sums), by_rows)

    inputs = tuple(_to_chunks(values, cut) for values in (rows, shares))
    by_target, by_v_y = _target_gradients(rows, v_y, targets, shares, num_shards=cut[1])
    by_v_y, chunked = jax.lax.scan(chunk, by_v_y, inputs)
    normalizers, by_rows = (_from_chunks(values, len(rows)) for values in chunked)
    losses = jnp.where(shares != 0, normalizers - _target_scores(rows, v_y, targets, usable), 0.0)
    by_rows = (by_target + by_rows).astype(rows.dtype)
    return jnp.sum(shares * losses), (by_rows, jnp.sum(by_v_y, axis=0).astype(v_y.dtype), losses)


def _softmax_sum_backward(
    cut: tuple[int, int], gradients: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, None, None, Array]:
    by_rows, by_v_y, by_shares = ((cotangent * g.astype(jnp.float32)).astype(g.dtype) for g in gradients)
    return by_rows, by_v_y, None, None, by_shares


_softmax_sum.defvjp(_softmax_sum_forward, _softmax_sum_backward)


def _softmax_inputs(
    v: ArrayLike,
    v_y: ArrayLike,
    targets: ArrayLike,
    temperature: float | ArrayLike,
    allowed: ArrayLike | None,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Rows divided by τ, v_y, targets, items in the softmax, weights; masked rows and targets are 0."""
    v, v_y, targets = jnp.asarray(v), jnp.asarray(v_y), jnp.asarray(targets)
    if v.ndim != 2 or v_y.ndim != 2 or v.shape[1] != v_y.shape[1]:
        raise ShapeError(f"v must be [T, E] and v_y [V+1, E] with the same E, got {v.shape} and {v_y.shape}")
    check_shape("targets", targets, v.shape[:1])
    usable = jnp.arange(v_y.shape[0], dtype=jnp.int32) > 0
    if allowed is not None:
        check_shape("allowed", allowed, v_y.shape[:1])
        usable &= jnp.asarray(allowed)
    weights = jnp.where(targets > 0, target_weights(targets.shape, weights, where), 0.0)
    rows = jnp.where(weights[:, None] != 0, v / jnp.asarray(temperature, dtype=v.dtype), 0)
    targets = jnp.where(weights != 0, targets, 0)
    # Adding a zero costs nothing once compiled; under shard_map it makes all inputs vary over the same mesh
    # axes, so that JAX sums the gradient of a replicated v_y over devices, outside the custom gradient.
    zero = _varying_zero(rows) + _varying_zero(v_y) + _varying_zero(usable)
    rows, v_y = rows + zero.astype(rows.dtype), v_y + zero.astype(v_y.dtype)
    return rows, v_y, targets, usable, weights + zero


def _varying_zero(array: Array) -> Array:
    return jnp.zeros_like(array, shape=(), dtype=jnp.float32)


def _num_chunks(rows: Array, v_y: Array, chunk_size: int | None, *, row_shards: int = 1, item_shards: int = 1) -> int:
    """Chunks of the rows of one shard."""
    check_value("chunk_size", chunk_size, "[1, inf)")
    if chunk_size is None:
        num_items = max(1, v_y.shape[0] // item_shards)
        chunk_size = max(_LOGITS_PER_CHUNK // num_items, min(_MIN_CHUNK_SIZE, _MAX_CHUNK_LOGITS // num_items), 1)
    return max(1, -(-len(rows) // (row_shards * chunk_size)))


def _to_chunks(values: Array, cut: tuple[int, int]) -> Array:
    """`[T, …]` to `[chunks, shards, rows, …]`, filled up with zeros.

    A shard is a block of T / shards rows, and its row t goes to chunk t mod chunks, so that each chunk of a batch
    split over devices is split over them too.
    """
    num_chunks, num_shards = cut
    values = values.reshape(num_shards, len(values) // num_shards, *values.shape[1:])
    size = -(-values.shape[1] // num_chunks)
    missing = ((0, 0), (0, size * num_chunks - values.shape[1])) + ((0, 0),) * (values.ndim - 2)
    chunked = jnp.pad(values, missing).reshape(num_shards, size, num_chunks, *values.shape[2:])
    return jnp.moveaxis(chunked, 2, 0)


def _from_chunks(chunked: Array, length: int) -> Array:
    values = jnp.moveaxis(chunked, 0, 2)
    num_shards = values.shape[0]
    values = values.reshape(num_shards, -1, *values.shape[3:])[:, : length // num_shards]
    return values.reshape(length, *values.shape[2:])
