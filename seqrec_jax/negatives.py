"""Sampling of negative items, with the log probabilities that a corrected loss needs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Real, UInt32

from seqrec_jax.errors import DataError
from seqrec_jax.settings import check_value
from seqrec_jax.types import ArrayLike, AxisName


class Sampler(NamedTuple):
    """A distribution over the items 1…V, as arrays that may enter `jit`.

    Attributes:
      log_q: `[V+1]` float32 log probability of each item, -inf for row 0 and for items that are never drawn.
      bounds: `[V-1]` uint32 cumulative probabilities × 2³² after the items 1…V−1; None for a uniform distribution.
    """

    log_q: Float[Array, " V1"]
    bounds: UInt32[Array, " V-1"] | None


class Negatives(NamedTuple):
    """Drawn items and their distribution.

    Attributes:
      ids: `[*S]` int32 items; 0 = none, where a batch has too few targets.
      log_q: `[V+1]` float32 log probability by which each item is drawn, -inf for items that are never drawn.
    """

    ids: Int[Array, "*S"]
    log_q: Float[Array, " V1"]


def uniform_sampler(num_items: int) -> Sampler:
    """A sampler that draws every item with the same probability 1 / V.

    Args:
      num_items: V, at least 1.

    Returns:
      The sampler.

    Raises:
      ConfigError: num_items < 1.

    >>> uniform_sampler(4).log_q[1:]
    Array([-1.3862944, -1.3862944, -1.3862944, -1.3862944], dtype=float32)
    """
    check_value("num_items", num_items, "[1, inf)")
    log_q = jnp.full(num_items + 1, -np.log(num_items), dtype=jnp.float32)
    return Sampler(log_q.at[0].set(-jnp.inf), None)


def popularity_sampler(counts: Real[ArrayLike, " V1"], *, power: float = 1.0) -> Sampler:
    """A sampler that draws items with probability proportional to count^power; made on the host in float64.

    Cumulative probabilities are kept as 32-bit integers, which resolve 2·10⁻¹⁰ where a float32 would lose all
    rare items of a large catalogue.

    Args:
      counts: `[V+1]` numbers, how often each item occurred; row 0 is ignored.
      power: exponent: 1 = popularity, 0 = uniform over the items that occurred, 0.75 as in word2vec.

    Returns:
      The sampler; an item with count 0 is never drawn.

    Raises:
      DataError: counts that are negative, not finite, all 0, or not one axis of at least two rows.

    >>> import numpy as np
    >>> popularity_sampler(np.array([0, 1, 3])).log_q[1:]
    Array([-1.3862944, -0.2876821], dtype=float32)
    """
    rows = np.asarray(counts, dtype=np.float64)
    if rows.ndim != 1 or len(rows) < 2:
        raise DataError(f"counts must be [V+1] with at least one item after row 0, got shape {rows.shape}")
    of_items = rows[1:]
    if not np.isfinite(of_items).all() or (of_items < 0).any() or not of_items.any():
        raise DataError(
            f"counts must be finite, not negative and not all 0, got {of_items.min()} to {of_items.max()}; "
            "count the items of the training events"
        )
    powers = np.where(of_items > 0, of_items, 1.0) ** power * (of_items > 0)
    cumulated = np.cumsum(powers)
    with np.errstate(divide="ignore"):
        log_q = np.log(np.concatenate([[0.0], powers / cumulated[-1]]))
    shares = np.minimum(np.floor(cumulated[:-1] / cumulated[-1] * 2.0**32), 2.0**32 - 1)
    return Sampler(jnp.asarray(log_q, dtype=jnp.float32), jnp.asarray(shares.astype(np.uint32)))


def sample_negatives(sampler: Sampler, shape: tuple[int, ...], key: jax.Array) -> Negatives:
    """Items drawn independently, with replacement.

    A drawn item may be a target; the losses leave such hits out, or take a mask for them.

    Args:
      sampler: from `uniform_sampler` or `popularity_sampler`.
      shape: `*S`, such as `(N,)` for negatives that all targets share or `(T, N)`; static.
      key: PRNG key, consumed.

    Returns:
      Negatives `[*S]`, each an item.

    >>> import jax
    >>> sample_negatives(uniform_sampler(1), (3,), jax.random.key(0)).ids
    Array([1, 1, 1], dtype=int32)
    """
    if sampler.bounds is None:
        ids = jax.random.randint(key, shape, 1, sampler.log_q.shape[0], dtype=jnp.int32)
    else:
        # the largest draw is left out: a bound of 2³² is kept as 2³² - 1, and no item after it may be drawn
        draws = jnp.minimum(jax.random.bits(key, shape, dtype=jnp.uint32), jnp.uint32(2**32 - 2))
        ids = 1 + jnp.searchsorted(sampler.bounds, draws, side="right").astype(jnp.int32)
    return Negatives(ids, sampler.log_q)


def in_batch_negatives(
    targets: Integer[ArrayLike, "*T"],
    log_q: Float[ArrayLike, " V1"],
    *,
    num_negatives: int,
    axis_name: AxisName = None,
    key: jax.Array,
) -> Negatives:
    """Targets of the batch as negatives of each other, chosen without replacement and shared by all of them.

    They are drawn by their popularity as a target, so a loss needs log q; a target that is among its own negatives is
    a hit like any other.

    Args:
      targets: `[*T]` integer item ids of the batch, or of this device's part of it; 0 = none.
      log_q: `[V+1]` floating-point log share of each item among the targets of training, as in
        `popularity_sampler(counts).log_q`.
      num_negatives: N; static.
      axis_name: mesh axis or axes that share the batch, inside `shard_map` or `pmap`; with the same key on every
        device the negatives are those of the whole batch, and the same on any number of devices.
      key: PRNG key, consumed.

    Returns:
      Negatives `[N]`, or as many as the batch has places; id 0 where the batch has fewer targets.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> log_q = popularity_sampler(np.array([0, 1, 1])).log_q
    >>> in_batch_negatives(jnp.array([[0, 2], [2, 0]]), log_q, num_negatives=3, key=jax.random.key(0)).ids
    Array([2, 2, 0], dtype=int32)
    """
    flat = jnp.asarray(targets, dtype=jnp.int32).reshape(-1)
    if axis_name is not None:
        flat = jax.lax.all_gather(flat, axis_name, tiled=True)
    lots = jnp.where(flat > 0, jax.random.uniform(key, flat.shape), -1.0)
    _, chosen = jax.lax.top_k(lots, min(num_negatives, len(flat)))
    return Negatives(flat[chosen], jnp.asarray(log_q))


def mixed_negatives(
    targets: Integer[ArrayLike, "*T"],
    log_q: Float[ArrayLike, " V1"],
    sampler: Sampler,
    *,
    num_negatives: int,
    axis_name: AxisName = None,
    key: jax.Array,
) -> Negatives:
    """Half of the negatives from the batch and half from a sampler, with the log q of the mixture.

    The batch gives popular items as hard negatives, the sampler items that are rarely or never a target.

    Args:
      targets: `[*T]` integer item ids of the batch, or of this device's part of it; 0 = none.
      log_q: `[V+1]` floating-point log share of each item among the targets of training.
      sampler: from `uniform_sampler` or `popularity_sampler`.
      num_negatives: N, at least 2; static. The batch gives N // 2, or as many as it has.
      axis_name: mesh axis or axes that share the batch, as for `in_batch_negatives`.
      key: PRNG key, consumed.

    Returns:
      Negatives `[N]`, or fewer where the batch has fewer places than N // 2.

    Source:
      Yang et al. (2020), Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> log_q, sampler = popularity_sampler(np.array([0, 3, 1])).log_q, uniform_sampler(2)
    >>> drawn = mixed_negatives(jnp.array([1, 1]), log_q, sampler, num_negatives=4, key=jax.random.key(0))
    >>> drawn.ids[:2], jnp.exp(drawn.log_q)
    (Array([1, 1], dtype=int32), Array([0.   , 0.625, 0.375], dtype=float32))
    """
    batch_key, sampler_key = jax.random.split(key)
    from_batch = in_batch_negatives(
        targets, log_q, num_negatives=num_negatives // 2, axis_name=axis_name, key=batch_key
    ).ids
    drawn = sample_negatives(sampler, (num_negatives - num_negatives // 2,), sampler_key).ids
    ids = jnp.concatenate([from_batch, drawn])
    # a batch of few targets gives fewer than its half
    share = jnp.sum(from_batch > 0, dtype=jnp.float32) / jnp.sum(ids > 0, dtype=jnp.float32)
    return Negatives(ids, jnp.logaddexp(jnp.log(share) + jnp.asarray(log_q), jnp.log1p(-share) + sampler.log_q))
