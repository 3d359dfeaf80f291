"""Small problems and the plain softmax, shared by the tests of the losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype=jnp.float32)


def softmax_problem(seed=0, *, rows=24, num_items=13, width=5):
    rng = np.random.default_rng(seed)
    return {
        "v": jnp.asarray(rng.normal(size=(rows, width)), dtype=jnp.float32),
        "v_y": jnp.asarray(rng.normal(size=(num_items + 1, width)), dtype=jnp.float32),
        "targets": jnp.asarray(rng.integers(1, num_items + 1, rows), dtype=jnp.int32),
        "weights": jnp.asarray(rng.random(rows), dtype=jnp.float32),
        "where": jnp.asarray(rng.random(rows) < 0.8),
    }


def plain_softmax_losses(v, v_y, targets, temperature=1.0, allowed=None, label_smoothing=0.0):
    """The whole `[T, V]` at once, by Optax."""
    logits = v @ v_y.T / temperature
    usable = jnp.arange(len(v_y)) > 0 if allowed is None else allowed & (jnp.arange(len(v_y)) > 0)
    logits = jnp.where(usable[None, :], logits, -1e30)
    spread = usable.astype(jnp.float32) / jnp.sum(usable, dtype=jnp.float32)
    labels = (1 - label_smoothing) * jax.nn.one_hot(targets, len(v_y)) + label_smoothing * spread[None, :]
    return optax.softmax_cross_entropy(logits, labels)


def close(found, expected, rtol=2e-5, atol=2e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=rtol, atol=atol)
