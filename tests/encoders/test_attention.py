"""Attention by itself: against a NumPy softmax, and in causal spans against all pairs at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.encoders.hstu import pointwise_attend
from seqrec_jax.encoders.layers import attend, causal_mask


def arrays(length, seed=0):
    """Queries, keys, values `[2, L, 2, 8]`, a mask of several segments and a bias `[1, L, L, 2]`."""
    rng = np.random.default_rng(seed)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, 2, 8)), jnp.float32) for _ in range(3))
    where = causal_mask(jnp.asarray(np.sort(rng.integers(1, 4, (2, length)), axis=1), jnp.int32))
    return (q, k, v), where, jnp.asarray(rng.normal(size=(1, length, length, 2)), jnp.float32)


def ways(length):
    """Both kinds of attention as functions of q, k, v and `causal`."""
    _, where, bias = arrays(length)
    return {
        "softmax": lambda *qkv, causal: attend(*qkv, where=where, causal=causal),
        "pointwise": lambda *qkv, causal: pointwise_attend(
            *qkv, bias=bias, where=where, max_length=length, causal=causal
        ),
    }


def test_weights_are_a_softmax_over_what_may_be_seen():
    (q, k, v), where, _ = arrays(7)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8)
    weights = np.where(np.asarray(where)[:, None], np.exp(scores), 0.0)
    weights /= weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(attend(q, k, v, where=where), np.einsum("bhqk,bkhd->bqhd", weights, v), atol=1e-5)


def test_large_scores_do_not_overflow():
    (q, k, v), where, _ = arrays(7)
    assert np.isfinite(attend(100 * q, 100 * k, v, where=where)).all()


@pytest.mark.parametrize("kind", ["softmax", "pointwise"])
@pytest.mark.parametrize("length", [5, 100, 203])
def test_spans_give_the_values_and_gradients_of_all_pairs(kind, length):
    qkv, way = arrays(length)[0], ways(length)[kind]

    def value(*qkv, causal):
        return jnp.sum(way(*qkv, causal=causal) ** 2)

    together, in_spans = (
        jax.value_and_grad(lambda *qkv, causal=causal: value(*qkv, causal=causal), argnums=(0, 1, 2))(*qkv)
        for causal in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), together, in_spans)


def test_dropped_weights_keep_the_mean_in_spans_too():
    (q, k, v), where, _ = arrays(200)
    dropped = jax.vmap(lambda key: attend(q, k, v, where=where, causal=True, dropout_rate=0.3, site="here", key=key))(
        jax.random.split(jax.random.key(0), 400)
    )
    kept = attend(q, k, v, where=where, causal=True)
    np.testing.assert_allclose(jnp.mean(dropped, axis=0), kept, atol=0.25)
    assert not np.allclose(dropped[0], dropped[1])
