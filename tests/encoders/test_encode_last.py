"""The last state of each row alone, against the one gathered from all states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_cases import make_batch

from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder
from seqrec_jax.encoders.layers import last_columns

WIDTH = 8
SETTINGS = {
    "sasrec": {"kind": "sasrec"},
    "sasrec_post": {"kind": "sasrec", "num_layers": 1, "norm": "post", "activation": "relu"},
    "bert4rec": {"kind": "bert4rec"},
    "bert4rec_post": {"kind": "bert4rec", "norm": "post"},
    "ligr": {"kind": "ligr", "num_layers": 3},
    "hstu": {"kind": "hstu"},
    "hstu_timeless": {"kind": "hstu", "num_layers": 1, "max_length": 2, "time_bias": False},
}
# padding on the right, on the left, on both sides, none, and nothing else
ROWS = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0], [1] * 6, [0] * 6, [0, 0, 0, 0, 0, 1], [1] + [0] * 5]


def make(name: str) -> tuple[Encoder, dict]:
    """An encoder with parameters large enough for every path to matter."""
    encoder = make_encoder(EncoderConfig(width=WIDTH, dropout=0.5, attention_dropout=0.3, **SETTINGS[name]))
    leaves, structure = jax.tree.flatten(encoder.init(jax.random.key(1)))
    noisy = [leaf + 0.3 * jax.random.normal(jax.random.key(9 + n), leaf.shape) for n, leaf in enumerate(leaves)]
    return encoder, jax.tree.unflatten(structure, noisy)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_the_state_of_encode_on_whichever_side_the_padding_is(name: str) -> None:
    encoder, params = make(name)
    batch = make_batch(ROWS)
    vectors = jax.random.normal(jax.random.key(2), (len(ROWS), 6, WIDTH))  # in padding too, where it would be noticed
    last = [max((column for column, segment in enumerate(row) if segment), default=0) for row in ROWS]
    np.testing.assert_array_equal(last_columns(batch), last)
    expected = np.asarray(jax.jit(encoder.encode)(params, vectors, batch))[np.arange(len(ROWS)), last]
    found = jax.jit(encoder.encode_last)(params, vectors, batch)
    assert found.shape == (len(ROWS), WIDTH) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.1  # rows differ, so that a wrong column would be seen


def test_eager_jit_vmap_and_pmap_agree_and_half_precision_stays() -> None:
    encoder, params = make("hstu_timeless")
    batch, vectors = make_batch(ROWS + ROWS[:1]), jax.random.normal(jax.random.key(2), (8, 6, WIDTH))
    eager = encoder.encode_last(params, vectors, batch)
    parts = jax.tree.map(lambda x: x[:, None], (vectors, batch))
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.block_until_ready(transform(lambda *now: encoder.encode_last(params, *now))(*parts))
        np.testing.assert_allclose(mapped[:, 0], eager, rtol=1e-5, atol=1e-5)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, vectors))
    assert jax.eval_shape(encoder.encode_last, *half, batch).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu"])
def test_dropout_is_that_of_encode_on_average(name: str) -> None:
    encoder, params = make(name)
    batch, vectors = make_batch([[1] * 6] * 4), jax.random.normal(jax.random.key(2), (4, 6, WIDTH))
    keys = jax.random.split(jax.random.key(3), 4000)
    last = jax.jit(jax.vmap(lambda key: encoder.encode_last(params, vectors, batch, key=key)))(keys)
    every = jax.jit(jax.vmap(lambda key: encoder.encode(params, vectors, batch, key=key)[:, -1]))(keys[::-1])
    errors = jnp.sqrt((jnp.var(last, axis=0) + jnp.var(every, axis=0)) / len(keys))
    assert float(jnp.max(jnp.abs(jnp.mean(last, axis=0) - jnp.mean(every, axis=0)) / errors)) < 4.5
    np.testing.assert_allclose(jnp.std(last, axis=0), jnp.std(every, axis=0), rtol=0.1)
    assert not np.allclose(last[0], last[1])


def test_it_computes_less() -> None:
    """By the compiler's count of operations: the last block's attention and feed-forward layer are for one position."""
    encoder = make_encoder(EncoderConfig(width=32, num_layers=1, feed_forward_multiple=4))
    params = encoder.init(jax.random.key(0))
    vectors, batch = jnp.ones((2, 40, 32)), make_batch(np.ones((2, 40), dtype=np.int32))

    def operations(function: object) -> float:
        cost = jax.jit(function).lower(params, vectors, batch).compile().cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    assert operations(encoder.encode_last) < 0.4 * operations(encoder.encode)


@pytest.mark.parametrize("kind", ["mean", "gru", "lstm", "linear_recurrence"])
def test_where_nothing_is_saved_it_is_left_to_encode(kind: str) -> None:
    assert make_encoder(EncoderConfig(kind=kind)).encode_last is None
