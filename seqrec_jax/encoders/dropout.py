"""Dropout whose mask is a hash of each entry's index in its row."""

from __future__ import annotations

import zlib
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from seqrec_jax.errors import ConfigError, ShapeError

Keys: TypeAlias = Key[Array, "..."]
"""One typed key, or `[B]` typed keys, one a row."""


def dropout(x: Float[Array, "B ..."], *, rate: float, site: str, key: Keys | None) -> Float[Array, "B ..."]:
    """Set a share of the entries to zero and scale up the others so that the expected value does not change.

    The random bits are a hash of the entry's index in its row, seeded by the row's key and the site. This
    costs a fraction of `jax.random.bernoulli`, and the mask of a row depends neither on how rows are distributed
    over devices nor on the other rows. It suits dropout, not statistics or cryptography.

    Args:
      x: `[B, ...]` float, one row a sequence.
      rate: share set to zero, in [0, 1).
      site: name of the call's place; one key gives independent masks at different sites.
      key: one typed key, or `[B]` typed keys, one a row; None returns x.

    Returns:
      Array like x.

    Raises:
      ConfigError: the key is not a typed key.
      ShapeError: the number of keys is not the number of rows.

    Source:
      The mixing steps are those of MurmurHash3's 32-bit finaliser (A. Appleby, public domain).

    >>> dropout(jnp.ones((1, 8)), rate=0.5, site="example", key=jax.random.key(0))
    Array([[0., 2., 0., 0., 2., 0., 0., 2.]], dtype=float32)
    """
    if key is None or rate == 0.0:
        return x
    first, second = _row_seeds(key, rows=x.shape[0], site=site)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    bits = _hash(_places(x.shape[1:])[None], first.reshape(shape), second.reshape(shape))
    kept = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * (1.0 / (1.0 - rate)), 0.0)


def _places(shape: tuple[int, ...]) -> UInt32[Array, "*N"]:
    """The index of each entry of a row, from iotas so that it fuses into the consumer."""
    places = jnp.zeros(shape, dtype=jnp.uint32)
    for axis, size in enumerate(shape):
        places = places * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return places


def _hash(places: UInt32[Array, "*#N"], first: UInt32[Array, "*#N"], second: UInt32[Array, "*#N"]) -> Array:
    """Uniform bits for each index of a row with two 32-bit seeds.

    The second seed enters between the multiplications: with the first alone, rows with near seeds would have the same
    mask, shifted.
    """
    bits = places * jnp.uint32(0x9E3779B9) + first
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = bits ^ (bits >> 13) ^ second
    bits = bits * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def _row_seeds(key: Keys, *, rows: int, site: str) -> tuple[UInt32[Array, " B"], UInt32[Array, " B"]]:
    """Two seeds a row, from a key (and the row's number) or from the row's own key."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ConfigError(f"dropout takes typed keys, made by jax.random.key, got an array of {key.dtype}")
    if key.ndim > 1 or (key.ndim == 1 and key.shape[0] != rows):
        raise ShapeError(f"dropout takes one key or one a row, got {key.shape} keys for {rows} rows")
    words = jax.random.key_data(key)
    if key.ndim == 0:
        numbers = jnp.arange(rows, dtype=jnp.uint32)
        words = jnp.broadcast_to(words[None], (rows, words.shape[0]))
    else:
        numbers = jnp.zeros(rows, dtype=jnp.uint32)
    salt = jnp.uint32(zlib.crc32(site.encode()))
    first = _hash(numbers, salt, words[:, 0])
    second = _hash(numbers, ~salt, words[:, 1])
    for word in range(words.shape[1]):
        first, second = _hash(second, first, words[:, word]), _hash(first, second, words[:, word])
    return first, second
