"""What every loss must do: weights, masks, gradients, and the same under every transform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from loss_cases import close, normal

from seqrec_jax import losses

LOSSES = {
    "squared error": lambda v, **how: losses.squared_error_loss(v[:, 0], v[:, 1], **how),
    "generalised binary cross entropy": lambda v, **how: losses.generalized_binary_cross_entropy_loss(
        v[:, 0], v[:, 1:], beta=0.3, **how
    ),
    "bpr": lambda v, **how: losses.bpr_loss(v[:, 0], v[:, 1:], **how),
    "bpr-max": lambda v, **how: losses.bpr_max_loss(v[:, 0], v[:, 1:], score_penalty=0.5, **how),
    "softmax": lambda v, **how: losses.softmax_loss(
        v, normal(7, 9, 5), jnp.arange(len(v)) % 8 + 1, chunk_size=3, label_smoothing=0.2, **how
    ),
    "sampled softmax": lambda v, **how: losses.sampled_softmax_loss(
        v, normal(7, 9, 5), jnp.arange(len(v)) % 8 + 1, negative_ids=jnp.arange(1, 5), log_q=normal(8, 9), **how
    ),
    "class": lambda v, **how: losses.class_loss(v, jnp.arange(len(v)) % 4 + 1, **how),
    "logistic": lambda v, **how: losses.logistic_loss(v[:, 0], jnp.arange(len(v)) % 2, **how),
    "click and conversion": lambda v, **how: losses.click_and_conversion_loss(
        v[:, 0], v[:, 1], clicks=jnp.arange(len(v)) % 2, conversions=jnp.arange(len(v)) % 4 // 3, **how
    ),
}


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_weights_multiply_and_where_removes(self, name):
        v, weights = normal(3, 8, 5), jnp.arange(8, dtype=jnp.float32)
        plain, where = LOSSES[name](v), weights < 6
        assert plain.shape == (8,) and plain.dtype == jnp.float32
        expected = plain * jnp.where(where, weights, 0.0)
        close(LOSSES[name](v, weights=weights, where=where), expected)

    def test_gradient_equals_finite_differences(self, name):
        weights = jnp.abs(normal(4, 8))
        loss = jax.jit(lambda v, weights: LOSSES[name](v, weights=weights))
        check_grads(loss, (normal(3, 8, 5), weights), order=1, modes=["rev"], rtol=2e-2, atol=2e-2)

    def test_masked_rows_of_nan_leave_values_and_gradients_finite(self, name):
        v = normal(3, 8, 5)
        for where in (jnp.zeros(8, dtype=bool), jnp.arange(8) < 4):
            spoilt = jnp.where(where[:, None], v, jnp.nan)

            def mean(v, where=where):
                return losses.weighted_mean(LOSSES[name](v, where=where), where=where)

            expected, gradient = jax.value_and_grad(mean)(spoilt)
            clean = jax.value_and_grad(mean)(v)
            close((expected, gradient), clean)
            np.testing.assert_array_equal(gradient[~where], 0.0)

    def test_eager_jit_vmap_pmap_and_shards_agree(self, name):
        loss, v, weights = LOSSES[name], normal(3, 16, 5), jnp.abs(normal(4, 16))

        def value_and_gradient(v, weights):
            def total(v):
                values = loss(v, weights=weights)
                return jnp.sum(values), values

            return jax.grad(total, has_aux=True)(v)

        expected = value_and_gradient(v, weights)
        close(jax.jit(value_and_gradient)(v, weights), expected)
        # the targets of the test follow the row's number modulo 8, so that pieces of 8 rows give the same
        pieces = v.reshape(2, 8, 5), weights.reshape(2, 8)
        for mapped in (jax.vmap(value_and_gradient), jax.pmap(value_and_gradient)):
            found = jax.block_until_ready(mapped(*pieces))
            close(jax.tree.map(lambda array: array.reshape(16, *array.shape[2:]), found), expected)
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        sharded = jax.device_put((v, weights), rows)
        close(jax.block_until_ready(jax.jit(value_and_gradient)(*sharded)), expected)
