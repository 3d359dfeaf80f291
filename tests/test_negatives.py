"""Samplers against the distributions that they claim."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from seqrec_jax import losses, negatives
from seqrec_jax.errors import DataError


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
    np.testing.assert_array_equal(drawn.log_q, sampler.log_q[drawn.ids])


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


def test_the_correction_brings_sampled_softmax_to_the_full_one():
    rng = np.random.default_rng(0)
    v, v_y = (jnp.asarray(0.7 * rng.normal(size=shape), dtype=jnp.float32) for shape in ((4, 6), (31, 6)))
    targets = jnp.array([1, 5, 9, 30], dtype=jnp.int32)
    sampler = negatives.popularity_sampler(np.arange(31) + 1.0)
    drawn = negatives.sample_negatives(sampler, (20_000,), jax.random.key(2))

    def gradient(corrected):
        log_q = (drawn.log_q, sampler.log_q[targets]) if corrected else (None, None)

        def total(v):
            return jnp.sum(
                losses.sampled_softmax_loss(
                    v, v_y, targets, negative_ids=drawn.ids, negative_log_q=log_q[0], target_log_q=log_q[1]
                )
            )

        return jax.jit(jax.grad(total))(v)

    def full_but_target(v):
        # with N negatives the target's own term is one of N + 1, the rest estimates N times the mean over q
        logits = jnp.where(jnp.arange(31)[None, :] > 0, v @ v_y.T, -jnp.inf)
        own = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        others = jnp.where(jnp.arange(31)[None, :] == targets[:, None], -jnp.inf, logits)
        return jnp.sum(jax.nn.logsumexp(others, axis=1) - own)

    expected = jax.grad(full_but_target)(v)
    error, uncorrected = (float(jnp.abs(gradient(way) - expected).max()) for way in (True, False))
    assert 3 * error < 0.15 < uncorrected


@pytest.mark.parametrize(
    "counts", [np.zeros(4), np.array([0, -1, 2]), np.array([0, np.nan]), np.ones((2, 2)), np.ones(1)]
)
def test_counts_that_make_no_distribution_are_refused(counts):
    with pytest.raises(DataError, match="counts must be"):
        negatives.popularity_sampler(counts)


def test_a_sampler_without_items_is_refused():
    with pytest.raises(DataError, match="num_items = 0"):
        negatives.uniform_sampler(0)
