"""Inverse propensity weighting: by hand, and on a simulated log whose truth is known."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax import metrics
from seqrec_jax.errors import ConfigError, DataError, ShapeError


def test_propensities_are_a_power_of_popularity():
    counts = np.array([50, 9, 0, 4, 1])
    np.testing.assert_allclose(metrics.popularity_propensities(counts), [0, 1, 0, 2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics.popularity_propensities(counts, power=0.0), [0, 1, 0, 1, 1])
    squared = metrics.popularity_propensities(counts, power=2.0)
    np.testing.assert_allclose(squared, [0, 1, 0, (4 / 9) ** 2, 1 / 81], rtol=1e-6)
    assert np.isnan(metrics.popularity_propensities(np.array([5, 0, 0]))).all()


def test_weights_are_inverse_and_bounded():
    propensities = np.array([[1.0, 0.25, 0.0]])
    np.testing.assert_allclose(metrics.inverse_propensity_weights(propensities), [[1, 4, np.inf]])
    np.testing.assert_allclose(metrics.inverse_propensity_weights(propensities, cap=3.0), [[1, 3, 3]])
    odd = metrics.inverse_propensity_weights(jnp.array([-0.5, 1.5, jnp.nan]), cap=3.0)
    assert np.isnan(odd).all()


def test_hand_worked_means():
    values, weights = np.array([1.0, 0.0, 1.0, np.nan]), np.array([2.0, 1.0, 5.0, 0.0])
    np.testing.assert_allclose(metrics.inverse_propensity_mean(values, weights), 7 / 8, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.inverse_propensity_mean(values, weights, self_normalized=False), 7 / 4, rtol=1e-6
    )
    where = np.array([True, True, False, False])
    np.testing.assert_allclose(metrics.inverse_propensity_mean(values, weights, where=where), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.inverse_propensity_mean(values, weights, self_normalized=False, where=where), 1)
    assert math.isnan(metrics.inverse_propensity_mean(values, weights, where=np.zeros(4, dtype=bool)))
    assert math.isnan(metrics.inverse_propensity_mean(values, weights.clip(max=0)))
    assert math.isnan(metrics.inverse_propensity_mean(values, weights + 1))


@pytest.mark.parametrize("size", [1, 7])
def test_effective_sample_size(size):
    np.testing.assert_allclose(metrics.effective_sample_size(np.full(size, 1e30)), size, rtol=1e-6)
    weights = np.random.default_rng(0).random(50)
    where = np.arange(50) < 40
    expected = weights[:40].sum() ** 2 / (weights[:40] ** 2).sum()
    np.testing.assert_allclose(metrics.effective_sample_size(weights, where=where), expected, rtol=1e-5)
    assert math.isnan(metrics.effective_sample_size(np.zeros(size)))


def test_weighting_finds_the_truth_behind_a_biased_log():
    """Targets are logged with a chance that falls with the value: the plain mean is far off, both others not."""
    generator = np.random.default_rng(0)
    values = generator.random((200, 2000)) < np.linspace(0.1, 0.9, 2000)
    propensities = np.broadcast_to(np.linspace(0.9, 0.05, 2000), values.shape)
    logged = generator.random(values.shape) < propensities
    weights = metrics.inverse_propensity_weights(propensities)
    normalized = jax.jit(metrics.inverse_propensity_mean)(values.astype(float), weights, where=logged)
    plain = jnp.sum(jnp.where(logged, weights, 0.0) * jnp.asarray(values, dtype=jnp.float32), axis=-1) / 2000
    truth = values.mean()
    naive = np.mean([v[w].mean() for v, w in zip(values, logged, strict=True)])
    assert abs(naive - truth) > 0.1
    for estimates in (normalized, plain):
        standard_error = np.std(estimates) / math.sqrt(200)
        assert abs(np.mean(estimates) - truth) < 4 * standard_error + 1e-3
    assert np.std(normalized) < np.std(plain)
    sizes = metrics.effective_sample_size(weights, where=logged)
    assert (np.asarray(sizes) < logged.sum(axis=1)).all()


def test_plain_mean_counts_each_logged_target_of_known_number():
    """Over logged targets alone, plain IPS divides by their number: it is the mean of w v."""
    values, weights = np.array([[1.0, 0.0, 1.0]]), np.array([[1.0, 2.0, 4.0]])
    value = metrics.inverse_propensity_mean(values, weights, self_normalized=False)
    np.testing.assert_allclose(value, [(1 + 4) / 3], rtol=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="counts hold -1"):
        metrics.popularity_propensities(np.array([0, -1]))
    with pytest.raises(ShapeError, match=r"counts has shape \(1, 2\)"):
        metrics.popularity_propensities(np.ones((1, 2)))
    with pytest.raises(ConfigError, match="power must be at least 0, got -1"):
        metrics.popularity_propensities(np.ones(2), power=-1)
    with pytest.raises(ConfigError, match="cap must be greater than 0, got 0"):
        metrics.inverse_propensity_weights(np.ones(2), cap=0)
    with pytest.raises(DataError, match=r"propensities hold 2.0, expected probabilities in \[0, 1\]"):
        metrics.inverse_propensity_weights(np.array([2.0]))
    with pytest.raises(DataError, match="weights hold -1"):
        metrics.effective_sample_size(np.array([-1.0]))
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), expected \(2,\)"):
        metrics.inverse_propensity_mean(np.ones(2), np.ones(3))
