"""The mean over targets, on one device and over eight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import close, normal

from seqrec_jax import losses
from seqrec_jax.errors import ShapeError


def test_weighted_mean_worked_by_hand():
    values, weights = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 3.0, 4.0])
    assert float(losses.weighted_mean(values)) == 3.0
    assert float(losses.weighted_mean(values, weights)) == (1 + 6 + 24) / 8
    assert float(losses.weighted_mean(values, weights, where=jnp.array([True, True, False]))) == 7 / 4


def test_weighted_mean_of_nothing_is_zero_with_zero_gradient():
    nothing = jnp.zeros(3)
    value, gradient = jax.value_and_grad(losses.weighted_mean)(jnp.full(3, jnp.nan), nothing)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_weighted_mean_over_devices_is_that_of_all_values():
    values, weights = normal(0, 8, 3), jnp.abs(normal(1, 8, 3)).at[2:5].set(0.0)

    def mean(values, weights):
        return losses.weighted_mean(values, weights, axis_name="data")

    found = jax.block_until_ready(jax.pmap(mean, axis_name="data")(values, weights))
    close(found, np.full(8, np.average(values, weights=weights)))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="where has shape"):
        losses.weighted_mean(jnp.ones(3), where=jnp.ones(4, dtype=bool))
    with pytest.raises(ShapeError, match=r"weights has shape \(2,\), expected \(3,\)"):
        losses.weighted_mean(jnp.ones(3), jnp.ones(2))
