"""Sampling of negative items, with the log probabilities that a corrected loss needs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec_jax.errors import DataError


class Sampler(NamedTuple):
    """A distribution over the items 1…V, as arrays that may enter `jit`.

    Attributes:
      log_q: `[V+1]` float32 log probability of each item, -inf for row 0 and for items that are never drawn.
      bounds: `[V-1]` uint32 cumulative probabilities × 2³² after the items 1…V−1; None = uniform.
    """

    log_q: Float[Array, " V+1"]
    bounds: Int[Array, " V-1"] | None


class Negatives(NamedTuple):
    """Drawn items: `ids` int32 in 1…V and `log_q` float32, both in the shape asked for."""

    ids: Int[Array, "*S"]
    log_q: Float[Array, "*S"]


def uniform_sampler(num_items: int) -> Sampler:
    """Every item with the same probability 1 / V.

    Args:
      num_items: V, at least 1.

    Returns:
      The sampler.

    Raises:
      DataError: no items.

    >>> uniform_sampler(4).log_q[1:]
    Array([-1.3862944, -1.3862944, -1.3862944, -1.3862944], dtype=float32)
    """
    if num_items < 1:
        raise DataError(f"a sampler needs at least one item, got num_items = {num_items}")
    log_q = jnp.full(num_items + 1, -np.log(num_items), dtype=jnp.float32)
    return Sampler(log_q.at[0].set(-jnp.inf), None)


def popularity_sampler(counts: np.ndarray, *, power: float = 1.0) -> Sampler:
    """Items with probability proportional to count^power; built on the host in float64.

    Cumulative probabilities are kept as 32-bit integers, which resolve 2·10⁻¹⁰ where a float32 would lose all
    rare items of a large catalogue.

    Args:
      counts: `[V+1]` how often each item occurred; row 0 is ignored.
      power: 1 = popularity, 0 = uniform over the items that occurred, 0.75 as in word2vec.

    Returns:
      The sampler; an item with count 0 is never drawn.

    Raises:
      DataError: counts that are negative, not finite, all 0, or not one axis of at least two rows.

    >>> import numpy as np
    >>> popularity_sampler(np.array([0, 1, 3])).log_q[1:]
    Array([-1.3862944, -0.2876821], dtype=float32)
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise DataError(f"counts must be [V+1] with at least one item after row 0, got shape {counts.shape}")
    counts = counts[1:]
    if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise DataError(
            f"counts must be finite, not negative and not all 0, got {counts.min()} to {counts.max()}; "
            "count the items of the training events"
        )
    powers = np.where(counts > 0, counts, 1.0) ** power * (counts > 0)
    cumulated = np.cumsum(powers)
    with np.errstate(divide="ignore"):
        log_q = np.log(np.concatenate([[0.0], powers / cumulated[-1]]))
    shares = np.minimum(np.floor(cumulated[:-1] / cumulated[-1] * 2.0**32), 2.0**32 - 1)
    return Sampler(jnp.asarray(log_q, dtype=jnp.float32), jnp.asarray(shares.astype(np.uint32)))


def sample_negatives(sampler: Sampler, shape: tuple[int, ...], key: jax.Array) -> Negatives:
    """Items drawn independently, with replacement.

    A drawn item may be a target; the losses leave such hits out or take a mask for them.

    Args:
      sampler: from `uniform_sampler` or `popularity_sampler`.
      shape: `[*S]`, such as `(N,)` for negatives that all targets share or `(T, N)`; static.
      key: PRNG key, consumed.

    Returns:
      Negatives `[*S]`.

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
    return Negatives(ids, sampler.log_q[ids])
