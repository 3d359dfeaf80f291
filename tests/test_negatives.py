"""Samplers against the distributions that they claim."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from seqrec_jax import negatives
from seqrec_jax.errors import ConfigError, DataError


@pytest.mark.parametrize("power", [None, 0.0, 0.5, 1.0])
def test_frequencies_match_q(power):
    counts = np.array([7, 5, 0, 1, 20, 3, 0])
    if power is None:
        sampler, expected = negatives.uniform_sampler(6), np.full(6, 1 / 6)
    else:
        sampler = negatives.popularity_sampler(counts, power=power)
        expected = np.where(counts[1:] > 0, counts[1:].astype(float) ** power, 0.0)
        expected /= expected.sum()
    np.testing.assert_allclose(np.exp(sampler.log_q), np.concatenate([[0.0], expected]), rtol=1e-5)
    drawn = jax.jit(negatives.sample_negatives, static_argnums=1)(sampler, (100_000,), jax.random.key(0))
    found = np.bincount(drawn.ids, minlength=7)
    assert found[0] == 0 and found[1:][expected == 0].sum() == 0
    real = expected > 0
    assert stats.chisquare(found[1:][real], expected[real] * 100_000).pvalue > 1e-3
    np.testing.assert_array_equal(drawn.log_q, sampler.log_q)


def test_rare_items_of_a_large_catalogue_are_drawn():
    counts = np.full(2_000_001, 1.0)
    counts[1] = 2_000_000 * 15.0  # float32 cumulative probabilities could not tell the rare items apart
    sampler = negatives.popularity_sampler(counts)
    drawn = np.asarray(negatives.sample_negatives(sampler, (200_000,), jax.random.key(1)).ids)
    rare = drawn[drawn > 1]
    assert abs(len(rare) / 200_000 - 1 / 16) < 0.003
    assert stats.kstest(rare / 2_000_000, "uniform").pvalue > 1e-3
    assert len(np.unique(rare)) > 0.99 * len(rare)


def test_the_largest_draw_never_reaches_an_item_without_count(monkeypatch):
    sampler = negatives.popularity_sampler(np.array([0, 4, 4, 0]))
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: jnp.full(shape, 2**32 - 1, dtype=dtype))
    assert negatives.sample_negatives(sampler, (1,), jax.random.key(0)).ids.tolist() == [2]


def test_shapes_keys_and_transforms():
    sampler = negatives.popularity_sampler(np.arange(9))
    keys = jax.random.split(jax.random.key(0), 8)

    def sample(key):
        return negatives.sample_negatives(sampler, (3, 2), key)

    one_by_one = [sample(key) for key in keys]
    for mapped in (jax.vmap(sample), jax.pmap(sample)):
        together = jax.block_until_ready(mapped(keys))
        np.testing.assert_array_equal(together.ids, np.stack([draw.ids for draw in one_by_one]))
    assert not np.array_equal(one_by_one[0].ids, one_by_one[1].ids)


def many_batches(draw, num_batches, seed=4):
    """Negatives of many batches whose 32 places hold 24 targets, drawn by popularity."""
    counts = np.array([0, 40, 20, 10, 5, 5])
    targets = negatives.sample_negatives(negatives.popularity_sampler(counts), (num_batches, 24), jax.random.key(seed))
    padded = jnp.pad(targets.ids, ((0, 0), (4, 4)))
    keys = jax.random.split(jax.random.key(seed + 1), num_batches)
    log_q = negatives.popularity_sampler(counts).log_q
    return padded, jax.jit(jax.vmap(lambda targets, key: draw(targets, log_q, key)))(padded, keys)


@pytest.mark.parametrize("num_negatives", [8, 24, 64])
def test_in_batch_negatives_are_targets_in_their_frequencies(num_negatives):
    def draw(targets, log_q, key):
        return negatives.in_batch_negatives(targets, log_q, num_negatives=num_negatives, key=key)

    targets, drawn = many_batches(draw, 3000)
    found = np.bincount(np.asarray(drawn.ids).ravel(), minlength=6)
    assert drawn.ids.shape == (3000, min(num_negatives, 32))
    assert found[1:].sum() == 3000 * min(num_negatives, 24), "padding is drawn only where there is nothing else"
    expected = np.exp(drawn.log_q[0])
    np.testing.assert_allclose(expected, [0, 0.5, 0.25, 0.125, 0.0625, 0.0625], rtol=1e-5)
    assert stats.chisquare(found[1:], expected[1:] / expected[1:].sum() * found[1:].sum()).pvalue > 1e-3
    for batch in range(3):  # without replacement: no item more often than the batch holds it
        assert (np.bincount(drawn.ids[batch], minlength=6)[1:] <= np.bincount(targets[batch], minlength=6)[1:]).all()


@pytest.mark.parametrize("num_negatives", [20, 64])
def test_mixed_negatives_follow_the_mixture_that_they_claim(num_negatives):
    uniform = negatives.uniform_sampler(5)

    def draw(targets, log_q, key):
        return negatives.mixed_negatives(targets, log_q, uniform, num_negatives=num_negatives, key=key)

    _, drawn = many_batches(draw, 3000)
    found = np.bincount(np.asarray(drawn.ids).ravel(), minlength=6)
    share = 10 / 20 if num_negatives == 20 else 24 / (24 + 32)  # a batch has no more than its 24 targets
    expected = share * np.array([0.5, 0.25, 0.125, 0.0625, 0.0625]) + (1 - share) / 5
    np.testing.assert_allclose(np.exp(drawn.log_q[0, 1:]), expected, rtol=1e-5)
    assert stats.chisquare(found[1:], expected * found[1:].sum()).pvalue > 1e-3


def test_a_batch_without_targets_leaves_the_sampler_alone():
    counts = np.array([0, 3, 1])
    log_q, sampler = negatives.popularity_sampler(counts).log_q, negatives.uniform_sampler(2)
    nothing = jnp.zeros((2, 3), dtype=jnp.int32)
    assert not negatives.in_batch_negatives(nothing, log_q, num_negatives=4, key=jax.random.key(0)).ids.any()
    drawn = negatives.mixed_negatives(nothing, log_q, sampler, num_negatives=4, key=jax.random.key(0))
    assert drawn.ids.tolist()[:2] == [0, 0] and (drawn.ids[2:] > 0).all()
    np.testing.assert_allclose(np.exp(drawn.log_q), [0, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "counts", [np.zeros(4), np.array([0, -1, 2]), np.array([0, np.nan]), np.ones((2, 2)), np.ones(1)]
)
def test_counts_that_make_no_distribution_are_refused(counts):
    with pytest.raises(DataError, match="counts must be"):
        negatives.popularity_sampler(counts)


def test_a_sampler_without_items_is_refused():
    with pytest.raises(ConfigError, match="num_items must be at least 1, got 0"):
        negatives.uniform_sampler(0)
