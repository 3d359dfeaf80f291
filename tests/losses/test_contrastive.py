"""The contrastive loss beside a loop in NumPy, with masks, and over several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads
from loss_cases import close, normal

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.losses import contrastive_loss, weighted_mean


def by_hand(one, other, temperature, where):
    """`[T]` losses by a loop over anchors."""
    views = np.stack([one, other]).astype(np.float64)
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    losses = np.zeros(len(one))
    for anchor in np.flatnonzero(where):
        for view in range(2):
            cosines = {
                (b, s): views[view, anchor] @ views[b, s]
                for b in range(2)
                for s in np.flatnonzero(where)
                if (b, s) != (view, anchor)
            }
            total = sum(np.exp(cosine / temperature) for cosine in cosines.values())
            losses[anchor] += (np.log(total) - cosines[1 - view, anchor] / temperature) / 2
    return losses


def test_it_is_what_the_loop_says_with_weights_and_masks():
    one, other = normal(0, 8, 5), normal(1, 8, 5)
    where, weights = jnp.arange(8) != 3, jnp.arange(8, dtype=jnp.float32)
    counts = np.asarray(where & (weights != 0))
    spoilt = jnp.where(counts[:, None], other, jnp.nan)
    close(jax.jit(contrastive_loss)(one, other), by_hand(one, other, 0.1, np.ones(8, bool)))
    found = jax.jit(lambda one, other: contrastive_loss(one, other, temperature=0.7, where=where, weights=weights))(
        one, spoilt
    )
    close(found, np.asarray(weights) * by_hand(one, other, 0.7, counts))


def test_gradient_equals_finite_differences_and_does_not_reach_what_is_masked():
    where = jnp.array([True, True, False, True, True, True])
    check_grads(
        jax.jit(lambda *views: contrastive_loss(*views, temperature=0.5, where=where)),
        (normal(2, 6, 4), normal(3, 6, 4)),
        order=1,
        modes=["rev"],
        rtol=2e-2,
        atol=2e-2,
    )
    gradient_of = jax.jit(jax.grad(lambda v, where: contrastive_loss(v, v[::-1], where=where).sum()))
    for mask in (where, jnp.zeros(6, bool), jnp.arange(6) == 2):
        mask &= mask[::-1]
        gradient = np.asarray(gradient_of(jnp.where(mask[:, None], normal(2, 6, 4), jnp.nan), mask))
        assert np.all(np.isfinite(gradient)) and not gradient[~np.asarray(mask)].any()
    assert np.all(np.isfinite(gradient_of(jnp.zeros((6, 4)), where)))
    assert jax.jit(contrastive_loss)(normal(4, 1, 3), normal(5, 1, 3)).tolist() == [0.0]  # none to tell it from


def test_devices_that_share_a_batch_agree_with_one_on_losses_and_gradient():
    one, other, where = normal(6, 16, 4), normal(7, 16, 4), jnp.arange(16) % 5 != 4
    weights = jnp.abs(normal(8, 16))
    kernel = normal(9, 4, 3)

    def mean(kernel, one, other, where, weights, axis_name=None):
        values = contrastive_loss(one @ kernel, other @ kernel, where=where, axis_name=axis_name)
        return weighted_mean(values, weights, where=where, axis_name=axis_name), values

    (expected, values), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(kernel, one, other, where, weights)
    rows = (one, other, where, weights)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    data, whole = PartitionSpec("data"), PartitionSpec()
    shared = jax.shard_map(
        jax.value_and_grad(functools.partial(mean, axis_name="data"), has_aux=True),
        mesh=mesh,
        in_specs=(whole, data, data, data, data),
        out_specs=((whole, data), whole),
    )
    close(jax.block_until_ready(jax.jit(shared)(kernel, *rows)), ((expected, values), gradient), atol=1e-5)

    def step(kernel, *rows):
        (loss, values), gradient = jax.value_and_grad(functools.partial(mean, axis_name="data"), has_aux=True)(
            kernel, *rows
        )
        return loss, values, jax.lax.pmean(gradient, "data")

    pieces = jax.tree.map(lambda leaf: leaf.reshape(8, 2, *leaf.shape[1:]), rows)
    loss, found, by_kernel = jax.block_until_ready(jax.pmap(step, "data", in_axes=(None, 0, 0, 0, 0))(kernel, *pieces))
    close((loss[0], found.reshape(16), by_kernel[0]), (expected, values, gradient), atol=1e-5)


def test_vmap_and_what_does_not_fit():
    one, other = normal(0, 2, 4, 3), normal(1, 2, 4, 3)
    found = jax.jit(jax.vmap(contrastive_loss))(one, other)
    close(found, np.stack([by_hand(one[row], other[row], 0.1, np.ones(4, bool)) for row in range(2)]))
    with pytest.raises(ShapeError, match=r"other has shape \(3, 3\), expected \(4, 3\)"):
        contrastive_loss(one[0], other[0, :3])
    with pytest.raises(ShapeError, match=r"one has shape \(2, 4, 3\), expected \[T, D\]"):
        contrastive_loss(one, other)
    with pytest.raises(ConfigError, match="temperature must be greater than 0, got 0"):
        contrastive_loss(one[0], other[0], temperature=0)
