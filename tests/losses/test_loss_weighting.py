"""Weights of targets by exposure, and several tasks in one loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax import losses
from seqrec_jax.errors import ConfigError, DataError, ShapeError


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10_000), min_size=2, max_size=30).filter(any),
    power=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    max_weight=st.sampled_from([None, 1.0, 2.0, 10.0]),
)
def test_the_mean_target_weighs_one_and_weights_follow_the_power(counts, power, max_weight):
    counts = np.array([7, *counts])
    weights = np.asarray(losses.item_count_weights(counts, power=power, max_weight=max_weight), np.float64)
    real = counts[1:] > 0
    assert weights[0] == 0 and (weights[1:][~real] == 0).all()
    assert weights[1:] @ counts[1:] == pytest.approx(counts[1:].sum(), rel=1e-5)
    if max_weight is not None:
        assert weights.max() <= max_weight * (1 + 1e-6)
    free = real & (weights[1:] < (np.inf if max_weight is None else max_weight * (1 - 1e-6)))
    products = weights[1:][free] * counts[1:][free].astype(float) ** power
    if free.any():
        np.testing.assert_allclose(products, products[0], rtol=1e-4)


def test_weighting_undoes_exposure():
    # users like all three items alike, but see them with propensity proportional to 16, 4, 1 to the power one half
    counts = np.array([0, 4000, 2000, 1000]) ** 2 // 1000
    weights = np.asarray(losses.item_count_weights(counts, power=1.0))
    np.testing.assert_allclose((weights * counts)[1:], counts.sum() / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("counts", "how", "error"),
    [
        (np.zeros(4), {"power": 0.5}, DataError),
        (np.array([0, -1, 2]), {"power": 0.5}, DataError),
        (np.array([0, np.nan]), {"power": 0.5}, DataError),
        (np.ones((2, 2)), {"power": 0.5}, DataError),
        (np.ones(3), {"power": -0.5}, ConfigError),
        (np.ones(3), {"power": np.inf}, ConfigError),
        (np.ones(3), {"power": 0.5, "max_weight": 0.5}, ConfigError),
    ],
)
def test_propensities_out_of_range_are_refused(counts, how, error):
    with pytest.raises(error, match=r"item_counts|power|max_weight"):
        losses.item_count_weights(counts, **how)


def test_combined_losses_are_a_weighted_sum_with_one_weight_each():
    values = {"click": jnp.float32(3.0), "purchase": jnp.float32(5.0)}
    assert float(losses.combine_losses(values, {"purchase": 2.0, "click": jnp.float32(0.5)})) == 11.5
    with pytest.raises(ConfigError, match=r"losses \['click', 'purchase'\], weights \['click', 'view'\]"):
        losses.combine_losses(values, {"click": 1.0, "view": 1.0})


def test_learned_uncertainties_settle_where_each_task_weighs_by_its_loss():
    values = jnp.array([0.1, 1.0, 8.0])
    gradient = jax.grad(losses.uncertainty_weighted_loss, argnums=(0, 1))(values, jnp.log(2 * values))
    np.testing.assert_allclose(gradient[1], 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient[0], 1 / (2 * np.asarray(values)), rtol=1e-6)
    with pytest.raises(ShapeError, match="log_variances has shape"):
        losses.uncertainty_weighted_loss(values, jnp.zeros(2))
