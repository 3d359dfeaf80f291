"""Dropout's hash: shares, independence between places, rows, sites and keys, and rows that move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from seqrec_jax.encoders.dropout import _hash, _places, dropout
from seqrec_jax.errors import ConfigError, ShapeError

ROWS, LENGTH, WIDTH = 64, 50, 32


def kept(seed: int, *, rate: float = 0.5, site: str = "a", shape: tuple = (ROWS, LENGTH, WIDTH)) -> np.ndarray:
    return np.asarray(dropout(jnp.ones(shape), rate=rate, site=site, key=jax.random.key(seed))) > 0


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_share_and_scale(rate: float) -> None:
    x = jax.random.normal(jax.random.key(0), (ROWS, LENGTH, WIDTH))
    y = np.asarray(dropout(x, rate=rate, site="a", key=jax.random.key(1)))
    alive = y != 0
    np.testing.assert_allclose(y[alive], np.asarray(x)[alive] / (1 - rate), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / alive.size)
    assert abs(alive.mean() - (1 - rate)) < 4 * deviation
    # counts by row vary as binomial counts do, neither more nor less
    counts = alive.reshape(ROWS, -1).sum(axis=1)
    places = LENGTH * WIDTH
    statistic = ((counts - places * (1 - rate)) ** 2).sum() / (places * rate * (1 - rate))
    assert 1e-4 < chi2.cdf(statistic, ROWS) < 1 - 1e-4


def pairs_statistic(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square with three degrees of freedom: are the four outcomes of two fair masks equally frequent?"""
    counts = np.bincount(2 * a.ravel() + b.ravel(), minlength=4)
    expected = a.size / 4
    return float(((counts - expected) ** 2).sum() / expected)


def test_pairs_are_independent() -> None:
    mask = kept(0)
    flat = mask.reshape(ROWS, -1)
    pairs = {
        "next entry": (flat[:, :-1], flat[:, 1:]),
        "next position": (mask[:, :-1], mask[:, 1:]),
        "power of two": (flat[:, :-1024], flat[:, 1024:]),
        "next row": (mask[:-1], mask[1:]),
        "row 32 on": (mask[:32], mask[32:]),
        "other site": (mask, kept(0, site="b")),
        "near site": (mask, kept(0, site="a ")),
        "next key": (mask, kept(1)),
        "next row of next key": (mask[:-1], kept(1)[1:]),
    }
    for name, (a, b) in pairs.items():
        assert pairs_statistic(a, b) < chi2.ppf(1 - 1e-4, 3), name


def test_rows_are_uncorrelated_as_a_whole() -> None:
    signs = np.where(kept(3).reshape(ROWS, -1), 1.0, -1.0)
    places = signs.shape[1]
    products = (signs @ signs.T)[np.triu_indices(ROWS, 1)] / np.sqrt(places)
    assert abs(products.std() - 1) < 0.1
    assert np.abs(products).max() < 5
    by_place = signs.sum(axis=0) / np.sqrt(ROWS)
    assert abs(by_place.std() - 1) < 0.1


def test_steps_are_independent_at_each_place() -> None:
    steps = jax.vmap(lambda step: jax.random.fold_in(jax.random.key(7), step))(jnp.arange(256))
    masks = np.asarray(jax.vmap(lambda key: dropout(jnp.ones((4, 64)), rate=0.5, site="a", key=key))(steps)) > 0
    counts = masks.sum(axis=0)
    statistic = ((counts - 128) ** 2).sum() / 64
    assert 1e-4 < chi2.cdf(statistic, counts.size) < 1 - 1e-4
    assert pairs_statistic(masks[:-1], masks[1:]) < chi2.ppf(1 - 1e-4, 3)


@pytest.mark.parametrize("seeds", [(0, 0), (1, 0), (0, 1), (0xFFFFFFFF, 12345), (0x9E3779B9, 7)])
def test_each_bit_of_the_hash_is_fair_and_no_two_agree(seeds: tuple[int, int]) -> None:
    first, second = (jnp.full((1, 1), seed, jnp.uint32) for seed in seeds)
    words = np.asarray(_hash(_places((1, 1 << 15)), first, second)).ravel()
    bits = np.where((words[:, None] >> np.arange(32, dtype=np.uint32)) & 1, 1.0, -1.0)
    products = bits.T @ bits / np.sqrt(len(words))
    assert np.abs(bits.sum(axis=0) / np.sqrt(len(words))).max() < 5
    assert np.abs(products[np.triu_indices(32, 1)]).max() < 5


@pytest.mark.parametrize("difference", [1, 2, 0x9E3779B9, 0x61C88647])
def test_rows_with_near_first_seeds_are_not_shifted_copies(difference: int) -> None:
    zero, near = jnp.zeros((1, 1), jnp.uint32), jnp.full((1, 1), difference, jnp.uint32)
    second, other = jnp.full((1, 1), 17, jnp.uint32), jnp.full((1, 1), 0xABCD, jnp.uint32)
    places = _places((1, 4096))
    a = np.asarray(_hash(places, zero, second)).ravel() >> 31
    b = np.asarray(_hash(places, near, other)).ravel() >> 31
    for shift in (0, 1, 2, 3):
        assert pairs_statistic(a[shift:], b[: len(b) - shift]) < chi2.ppf(1 - 1e-5, 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(list(range(6))))
def test_a_rows_mask_belongs_to_its_key(seed: int, order: list[int]) -> None:
    keys, x = jax.random.split(jax.random.key(seed), 6), jnp.ones((6, 3, 4))
    whole = dropout(x, rate=0.3, site="a", key=keys)
    moved = dropout(x, rate=0.3, site="a", key=keys[jnp.array(order)])
    np.testing.assert_array_equal(moved, whole[jnp.array(order)])
    np.testing.assert_array_equal(dropout(x[:2], rate=0.3, site="a", key=keys[2:4]), whole[2:4])


def test_one_key_on_sharded_rows_gives_the_mask_of_one_device() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.ones((16, 3, 4))
    sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))

    def masked(x: jax.Array) -> jax.Array:
        return dropout(x, rate=0.5, site="a", key=jax.random.key(0))

    np.testing.assert_array_equal(jax.block_until_ready(jax.jit(masked)(sharded)), masked(x))


def test_gradient_passes_where_kept_only() -> None:
    x = jax.random.normal(jax.random.key(0), (4, 5))
    key = jax.random.key(1)
    gradient = jax.grad(lambda x: dropout(x, rate=0.5, site="a", key=key).sum())(x)
    np.testing.assert_array_equal(gradient, dropout(jnp.ones((4, 5)), rate=0.5, site="a", key=key))


def test_every_key_type_serves() -> None:
    for kind in ("threefry2x32", "rbg", "unsafe_rbg"):
        mask = dropout(jnp.ones((8, 512)), rate=0.5, site="a", key=jax.random.key(0, impl=kind))
        assert 0.4 < float((mask > 0).mean()) < 0.6


def test_no_key_or_no_rate_is_the_identity() -> None:
    x = jnp.ones((2, 3))
    assert dropout(x, rate=0.5, site="a", key=None) is x
    assert dropout(x, rate=0.0, site="a", key=jax.random.key(0)) is x


def test_bad_keys_are_refused() -> None:
    x = jnp.ones((2, 3))
    with pytest.raises(ConfigError, match="typed keys"):
        dropout(x, rate=0.5, site="a", key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(ShapeError, match="2 rows"):
        dropout(x, rate=0.5, site="a", key=jax.random.split(jax.random.key(0), 3))
