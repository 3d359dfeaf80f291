"""Every training objective: arrays in, one float32 value a target out; `mean_…` and `weighted_mean` reduce.

The values of a loss are multiplied by `weights` (`[*T]` float32, None means 1) and 0 where `where` (`[*T]`,
None = all) is False; a target without weight touches neither value nor gradient, whatever it holds. To
average, give the weights to `weighted_mean` and leave the loss unweighted.

How gradients meet several devices: the gradient of a mean with `axis_name` by a replicated parameter is the
whole batch's as it stands inside `jax.shard_map`, and inside `jax.pmap` after `jax.lax.pmean` over it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.errors import ShapeError

_LOGITS_PER_CHUNK = 2**22  # 16 MiB of float32
_MIN_CHUNK_SIZE = 128  # fewer rows at a time would spend the time on adding up the gradient of v_y


def weighted_mean(
    values: Float[Array, "*T"],
    weights: Float[Array, "*T"] | None = None,
    *,
    where: Bool[Array, "*T"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    """Σ wᵢ xᵢ / Σ wᵢ over the values that count: the one place where a mean is taken.

    Args:
      values: `[*T]` per-target values.
      weights: `[*T]` weights, not negative; None means 1.
      where: `[*T]` True for values that count; None means all.
      axis_name: mesh axis or axes over which both sums are taken, inside `shard_map` or `pmap`.

    Returns:
      float32 scalar; 0, with a gradient of 0, where nothing counts.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> weighted_mean(jnp.array([1.0, 4.0, jnp.nan]), jnp.array([1.0, 2.0, 0.0]))
    Array(3., dtype=float32)
    """
    values = jnp.asarray(values)
    weights = _weights(values.shape, weights, where)
    total = _global_sum(weights, axis_name)
    kept = jnp.where(weights != 0, values.astype(jnp.float32), 0.0)
    return _global_sum(weights * kept, axis_name) / jnp.where(total != 0, total, 1.0)


def squared_error_loss(
    scores: Float[Array, "*T"],
    labels: Float[Array, "*T"],
    *,
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """(score − label)².

    Args:
      scores: `[*T]` scores.
      labels: `[*T]` what they should be, such as 1 for clicked and 0 for not.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

    Returns:
      `[*T]` float32.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    >>> import jax.numpy as jnp
    >>> squared_error_loss(jnp.array([0.5, 2.0]), jnp.array([1.0, 0.0]))
    Array([0.25, 4.  ], dtype=float32)
    """
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    _check_shape("labels", labels, scores.shape)
    weights = _weights(scores.shape, weights, where)
    errors = scores.astype(jnp.float32) - labels.astype(jnp.float32)
    return weights * jnp.square(jnp.where(weights != 0, errors, 0.0))


def binary_cross_entropy_loss(
    positive_scores: Float[Array, "*T"],
    negative_scores: Float[Array, "*T N"],
    *,
    negative_where: Bool[Array, "*T N"] | None = None,
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−log σ(s⁺) − Σₙ log(1 − σ(s⁻ₙ)): the target is labelled 1, each of its N negatives 0.

    Args:
      positive_scores: `[*T]` scores of the targets.
      negative_scores: `[*T, N]` scores of the sampled negatives of each target.
      negative_where: `[*T, N]` True for negatives that count (a hit on the target does not); None = all.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

    Returns:
      `[*T]` float32, summed over a target's negatives.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Kang and McAuley (2018), Self-Attentive Sequential Recommendation, eq. 7 (N = 1).

    >>> import jax.numpy as jnp
    >>> binary_cross_entropy_loss(jnp.array([0.0]), jnp.array([[0.0, -100.0]]))
    Array([1.3862944], dtype=float32)
    """
    positive, negative, weights = _pairs(positive_scores, negative_scores, where, weights)
    negative_terms = _kept(jax.nn.softplus(negative), negative_where)
    return weights * (jax.nn.softplus(-positive) + jnp.sum(negative_terms, axis=-1))


def bpr_loss(
    positive_scores: Float[Array, "*T"],
    negative_scores: Float[Array, "*T N"],
    *,
    negative_where: Bool[Array, "*T N"] | None = None,
    where: Bool[Array, "*T"] | None = None,
    weights: Float[Array, "*T"] | None = None,
) -> Float[Array, "*T"]:
    """−Σₙ log σ(s⁺ − s⁻ₙ): the target should score above each of its N negatives.

    Args:
      positive_scores: `[*T]` scores of the targets.
      negative_scores: `[*T, N]` scores of the sampled negatives of each target.
      negative_where: `[*T, N]` True for negatives that count (a hit on the target does not); None = all.
      where: `[*T]` True for targets that count.
      weights: `[*T]` weight of each target.

    Returns:
      `[*T]` float32, summed over a target's negatives.

    Raises:
      ShapeError: shapes that do not fit (at trace time).

    Source:
      Rendle et al. (2009), BPR: Bayesian Personalized Ranking from Implicit Feedback.

    >>> import jax.numpy as jnp
    >>> bpr_loss(jnp.array([3.0]), jnp.array([[3.0]]))
    Array([0.6931472], dtype=float32)
    """
    positive, negative, weights = _pairs(positive_scores, negative_scores, where, weights)
    return weights * jnp.sum(_kept(jax.nn.softplus(negative - positive[..., None]), negative_where), axis=-1)


def softmax_loss(
    v: Float[Array, "T E"],
    v_y: Float[Array, "V+1 E"],
    targets: Int[Array, " T"],
    *,
    chunk_size: int | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    allowed: Bool[Array, " V+1"] | None = None,
    where: Bool[Array, " T"] | None = None,
    weights: Float[Array, " T"] | None = None,
) -> Float[Array, " T"]:
    """log Σⱼ exp(v·v_yⱼ / τ) − v·v_y_target / τ over all items, never holding `[T, V]` scores.

    Scores are made for `chunk_size` rows at a time and made again for the gradient; `mean_softmax_loss` is
    faster where only the mean is wanted. Products of bfloat16 inputs are accumulated in float32.

    Args:
      v: `[T, E]` user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` item vectors; row 0 is never scored.
      targets: `[T]` item ids; 0 = none, which counts as masked.
      chunk_size: rows at a time; None chooses it by V.
      temperature: τ, may be learned.
      allowed: `[V+1]` True for items in the softmax; None means all. A target outside has an infinite loss.
      where: `[T]` True for targets that count.
      weights: `[T]` weight of each target.

    Returns:
      `[T]` float32.

    Raises:
      ShapeError: shapes that do not fit or a chunk_size below 1 (at trace time).

    >>> import jax.numpy as jnp
    >>> softmax_loss(jnp.zeros((1, 2)), jnp.zeros((5, 2)), jnp.array([3]))
    Array([1.3862944], dtype=float32)
    """
    rows, v_y, targets, usable, weights = _softmax_inputs(v, v_y, targets, temperature, allowed, where, weights)
    losses = _softmax_rows(rows, v_y, targets, usable, _num_chunks(rows, v_y, chunk_size))
    return weights * jnp.where(weights != 0, losses, 0.0)


def mean_softmax_loss(
    v: Float[Array, "T E"],
    v_y: Float[Array, "V+1 E"],
    targets: Int[Array, " T"],
    *,
    chunk_size: int | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    allowed: Bool[Array, " V+1"] | None = None,
    where: Bool[Array, " T"] | None = None,
    weights: Float[Array, " T"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    """The weighted mean of `softmax_loss`, with the gradient made in the forward pass.

    A chunk's gradients are taken while its scores are at hand: three matrix products instead of four.

    Args:
      v, v_y, targets, chunk_size, temperature, allowed, where, weights: as for `softmax_loss`.
      axis_name: mesh axis or axes over which the mean is taken, inside `shard_map` or `pmap`.

    Returns:
      float32 scalar; 0, with a gradient of 0, where nothing counts.

    Raises:
      ShapeError: shapes that do not fit or a chunk_size below 1 (at trace time).

    >>> import jax.numpy as jnp
    >>> mean_softmax_loss(jnp.zeros((2, 2)), jnp.zeros((5, 2)), jnp.array([3, 0]))
    Array(1.3862944, dtype=float32)
    """
    rows, v_y, targets, usable, weights = _softmax_inputs(v, v_y, targets, temperature, allowed, where, weights)
    total = _global_sum(weights, axis_name)
    shares = weights / jnp.where(total != 0, total, 1.0)
    local = _softmax_sum(rows, v_y, targets, usable, shares, _num_chunks(rows, v_y, chunk_size))
    return local if axis_name is None else jax.lax.psum(local, axis_name)


def sampled_softmax_loss(
    v: Float[Array, "T E"],
    v_y: Float[Array, "V+1 E"],
    targets: Int[Array, " T"],
    *,
    negative_ids: Int[Array, " N"] | Int[Array, "T N"],
    negative_log_q: Float[Array, " N"] | Float[Array, "T N"] | None = None,
    target_log_q: Float[Array, " T"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    where: Bool[Array, " T"] | None = None,
    weights: Float[Array, " T"] | None = None,
) -> Float[Array, " T"]:
    """Softmax cross entropy of the target against sampled negatives, corrected for how they were sampled.

    Every score is lowered by log q of its item, which makes the gradient that of the full softmax as N grows.
    A negative that is the target itself, or 0, is left out.

    Args:
      v: `[T, E]` user vectors in the item space, v_xᵀ W.
      v_y: `[V+1, E]` item vectors.
      targets: `[T]` item ids; 0 = none, which counts as masked.
      negative_ids: `[N]` item ids that all targets share, or `[T, N]` for each target its own.
      negative_log_q: log sampling probability of each negative, in the shape of `negative_ids`.
      target_log_q: `[T]` the same for the targets. Both or neither; without them nothing is corrected.
      temperature: τ, may be learned.
      where: `[T]` True for targets that count.
      weights: `[T]` weight of each target.

    Returns:
      `[T]` float32.

    Raises:
      ShapeError: shapes that do not fit, or only one of the two log q (at trace time).

    Source:
      Bengio and Senécal (2008), Adaptive Importance Sampling; Yi et al. (2019), Sampling-Bias-Corrected
      Neural Modeling for Large Corpus Item Recommendations.

    >>> import jax.numpy as jnp
    >>> v_y, negative_ids = jnp.zeros((5, 2)), jnp.array([1, 2, 3])
    >>> sampled_softmax_loss(jnp.zeros((1, 2)), v_y, jnp.array([3]), negative_ids=negative_ids)
    Array([1.0986123], dtype=float32)
    """
    rows, v_y, targets, _, weights = _softmax_inputs(v, v_y, targets, temperature, None, where, weights)
    negative_ids = jnp.asarray(negative_ids)
    shared = negative_ids.ndim == 1
    if not shared:
        _check_shape("negative_ids", negative_ids, (*targets.shape, negative_ids.shape[-1]))
    if (negative_log_q is None) != (target_log_q is None):
        raise ShapeError("give both negative_log_q and target_log_q, or neither: a correction of one side is wrong")
    spec = "te,ne->tn" if shared else "te,tne->tn"
    negative = jnp.einsum(spec, rows, v_y[negative_ids], preferred_element_type=jnp.float32)
    positive = jnp.einsum("te,te->t", rows, v_y[targets], preferred_element_type=jnp.float32)
    ids = negative_ids[None, :] if shared else negative_ids
    if negative_log_q is not None:
        negative_log_q, target_log_q = jnp.asarray(negative_log_q), jnp.asarray(target_log_q)
        _check_shape("negative_log_q", negative_log_q, negative_ids.shape)
        _check_shape("target_log_q", target_log_q, targets.shape)
        negative = negative - jnp.broadcast_to(negative_log_q.reshape(ids.shape), negative.shape)
        positive = positive - jnp.where(weights != 0, target_log_q, 0.0)
    negative = jnp.where((ids != targets[:, None]) & (ids > 0), negative, -jnp.inf)
    logits = jnp.concatenate([positive[:, None], negative], axis=1)
    return weights * jnp.where(weights != 0, jax.nn.logsumexp(logits, axis=1) - positive, 0.0)


# Both softmax losses over all items cut their rows into chunks and go through `_chunk_logits`.


def _chunk_logits(rows: Array, v_y: Array, usable: Array) -> Array:
    logits = jnp.einsum("te,ve->tv", rows, v_y, preferred_element_type=jnp.float32)
    return jnp.where(usable[None, :], logits, -jnp.inf)


def _chunk_losses(logits: Array, targets: Array) -> tuple[Array, Array]:
    """`[T]` losses and `[T]` log normalisers of one chunk."""
    normalizers = jax.nn.logsumexp(logits, axis=1)
    return normalizers - jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0], normalizers


def _chunk_gradients(
    rows: Array, v_y: Array, targets: Array, logits: Array, normalizers: Array, cotangents: Array
) -> tuple[Array, Array]:
    """Gradients by the rows and by `v_y` of Σ cotangent × loss over one chunk, in float32."""
    cotangents = cotangents[:, None]
    probabilities = jnp.exp(logits - jnp.where(jnp.isfinite(normalizers), normalizers, 0.0)[:, None])
    labels = jax.nn.one_hot(targets, logits.shape[1], dtype=jnp.float32)
    by_logits = cotangents * (probabilities - labels)
    by_logits = jnp.where(cotangents != 0, by_logits, 0.0).astype(rows.dtype)
    by_rows = jnp.einsum("tv,ve->te", by_logits, v_y, preferred_element_type=jnp.float32)
    by_v_y = jnp.einsum("tv,te->ve", by_logits, rows, preferred_element_type=jnp.float32)
    return by_rows, by_v_y


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _softmax_rows(rows: Array, v_y: Array, targets: Array, usable: Array, num_chunks: int) -> Array:
    return _softmax_rows_forward(rows, v_y, targets, usable, num_chunks)[0]


def _softmax_rows_forward(
    rows: Array, v_y: Array, targets: Array, usable: Array, num_chunks: int
) -> tuple[Array, tuple[Array, ...]]:
    def chunk(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        return _chunk_losses(_chunk_logits(inputs[0], v_y, usable), inputs[1])

    chunked = jax.lax.map(chunk, (_to_chunks(rows, num_chunks), _to_chunks(targets, num_chunks)))
    losses, normalizers = (_from_chunks(values, len(rows)) for values in chunked)
    return losses, (rows, v_y, targets, usable, normalizers)


def _softmax_rows_backward(
    num_chunks: int, residuals: tuple[Array, ...], cotangents: Array
) -> tuple[Array, Array, None, None]:
    rows, v_y, targets, usable, normalizers = residuals

    def chunk(total: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        rows, targets, normalizers, cotangents = inputs
        logits = _chunk_logits(rows, v_y, usable)
        by_rows, by_v_y = _chunk_gradients(rows, v_y, targets, logits, normalizers, cotangents)
        return total + by_v_y, by_rows

    inputs = tuple(_to_chunks(values, num_chunks) for values in (rows, targets, normalizers, cotangents))
    by_v_y, by_rows = jax.lax.scan(chunk, jnp.zeros_like(v_y, dtype=jnp.float32), inputs)
    return _from_chunks(by_rows, len(rows)).astype(rows.dtype), by_v_y.astype(v_y.dtype), None, None


_softmax_rows.defvjp(_softmax_rows_forward, _softmax_rows_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _softmax_sum(rows: Array, v_y: Array, targets: Array, usable: Array, shares: Array, num_chunks: int) -> Array:
    """Σ share × loss."""
    losses = _softmax_rows(rows, v_y, targets, usable, num_chunks)
    return jnp.sum(shares * jnp.where(shares != 0, losses, 0.0))


def _softmax_sum_forward(
    rows: Array, v_y: Array, targets: Array, usable: Array, shares: Array, num_chunks: int
) -> tuple[Array, tuple[Array, ...]]:
    def chunk(total: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        rows, targets, shares = inputs
        logits = _chunk_logits(rows, v_y, usable)
        losses, normalizers = _chunk_losses(logits, targets)
        by_rows, by_v_y = _chunk_gradients(rows, v_y, targets, logits, normalizers, shares)
        return total + by_v_y, (jnp.where(shares != 0, losses, 0.0), by_rows)

    inputs = tuple(_to_chunks(values, num_chunks) for values in (rows, targets, shares))
    by_v_y, chunked = jax.lax.scan(chunk, jnp.zeros_like(v_y, dtype=jnp.float32), inputs)
    losses, by_rows = (_from_chunks(values, len(rows)) for values in chunked)
    gradients = (by_rows.astype(rows.dtype), by_v_y.astype(v_y.dtype), losses)
    return jnp.sum(shares * losses), gradients


def _softmax_sum_backward(
    num_chunks: int, gradients: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, None, None, Array]:
    by_rows, by_v_y, by_shares = ((cotangent * g.astype(jnp.float32)).astype(g.dtype) for g in gradients)
    return by_rows, by_v_y, None, None, by_shares


_softmax_sum.defvjp(_softmax_sum_forward, _softmax_sum_backward)


def _softmax_inputs(
    v: Array,
    v_y: Array,
    targets: Array,
    temperature: float | Array,
    allowed: Array | None,
    where: Array | None,
    weights: Array | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Rows divided by τ, v_y, targets, items in the softmax, weights; masked rows and targets are 0."""
    v, v_y, targets = jnp.asarray(v), jnp.asarray(v_y), jnp.asarray(targets)
    if v.ndim != 2 or v_y.ndim != 2 or v.shape[1] != v_y.shape[1]:
        raise ShapeError(f"v must be [T, E] and v_y [V+1, E] with the same E, got {v.shape} and {v_y.shape}")
    _check_shape("targets", targets, v.shape[:1])
    usable = jnp.arange(v_y.shape[0], dtype=jnp.int32) > 0
    if allowed is not None:
        _check_shape("allowed", allowed, v_y.shape[:1])
        usable &= jnp.asarray(allowed)
    weights = jnp.where(targets > 0, _weights(targets.shape, weights, where), 0.0)
    rows = jnp.where(weights[:, None] != 0, v / jnp.asarray(temperature, dtype=v.dtype), 0)
    targets = jnp.where(weights != 0, targets, 0)
    # Adding a zero costs nothing once compiled; under shard_map it makes all inputs vary over the same mesh
    # axes, so that JAX sums the gradient of a replicated v_y over devices, outside the custom gradient.
    zero = _varying_zero(rows) + _varying_zero(v_y) + _varying_zero(usable)
    rows, v_y = rows + zero.astype(rows.dtype), v_y + zero.astype(v_y.dtype)
    return rows, v_y, targets, usable, weights + zero


def _varying_zero(array: Array) -> Array:
    return jnp.zeros_like(array, shape=(), dtype=jnp.float32)


def _num_chunks(rows: Array, v_y: Array, chunk_size: int | None) -> int:
    if chunk_size is None:
        chunk_size = max(_MIN_CHUNK_SIZE, _LOGITS_PER_CHUNK // v_y.shape[0])
    if chunk_size < 1:
        raise ShapeError(f"chunk_size must be at least 1, got {chunk_size}")
    return max(1, -(-len(rows) // chunk_size))


def _to_chunks(values: Array, num_chunks: int) -> Array:
    """`[T, ...]` to `[chunks, rows, ...]`, filled up with zeros.

    Row t goes to chunk t mod chunks, so that each chunk of a batch split over devices is split over them too.
    """
    size = -(-len(values) // num_chunks)
    values = jnp.pad(values, ((0, size * num_chunks - len(values)),) + ((0, 0),) * (values.ndim - 1))
    return values.reshape(size, num_chunks, *values.shape[1:]).swapaxes(0, 1)


def _from_chunks(chunked: Array, length: int) -> Array:
    return chunked.swapaxes(0, 1).reshape(-1, *chunked.shape[2:])[:length]


def _pairs(
    positive_scores: Array, negative_scores: Array, where: Array | None, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Float32 scores with masked targets set to 0, and the weights."""
    positive, negative = jnp.asarray(positive_scores), jnp.asarray(negative_scores)
    if negative.shape[:-1] != positive.shape:
        raise ShapeError(
            f"negative_scores must have the shape of positive_scores, {positive.shape}, and one axis N more, "
            f"got {negative.shape}"
        )
    weights = _weights(positive.shape, weights, where)
    positive = jnp.where(weights != 0, positive.astype(jnp.float32), 0.0)
    return positive, jnp.where(weights[..., None] != 0, negative.astype(jnp.float32), 0.0), weights


def _kept(values: Array, where: Array | None) -> Array:
    if where is None:
        return values
    _check_shape("negative_where", where, values.shape)
    return jnp.where(jnp.asarray(where), values, 0.0)


def _weights(shape: tuple[int, ...], weights: Array | None, where: Array | None) -> Array:
    """Float32 weights that are 0 where the mask is False."""
    weights = jnp.ones(shape, dtype=jnp.float32) if weights is None else jnp.asarray(weights, dtype=jnp.float32)
    _check_shape("weights", weights, shape)
    if where is None:
        return weights
    _check_shape("where", where, shape)
    return jnp.where(jnp.asarray(where), weights, 0.0)


def _global_sum(values: Array, axis_name: str | tuple[str, ...] | None) -> Array:
    total = jnp.sum(values)
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def _check_shape(name: str, array: Array, expected: tuple[int, ...]) -> None:
    if jnp.shape(array) != tuple(expected):
        raise ShapeError(f"{name} has shape {jnp.shape(array)}, expected {tuple(expected)}")
