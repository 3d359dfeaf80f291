"""BERT4Rec: what looking both ways changes against SASRec, with the same parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder

BOTH_WAYS = EncoderConfig(kind="bert4rec", width=8, num_layers=1, norm="post", feed_forward_multiple=4)
ONE_WAY = dataclasses.replace(BOTH_WAYS, kind="sasrec")


def test_the_last_state_is_sasrecs_the_first_is_sasrecs_of_the_reversed_sequence_and_order_is_unseen() -> None:
    both, one = make_encoder(BOTH_WAYS), make_encoder(ONE_WAY)
    params = jax.tree.map(lambda x: 10 * x, both.init(jax.random.key(0)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, one.init(jax.random.key(0)))
    vectors = jax.random.normal(jax.random.key(1), (1, 5, 8))
    ones, zeros = jnp.ones((1, 5), jnp.int32), jnp.zeros((1, 5), jnp.int32)
    batch = Batch(zeros, zeros, zeros, jnp.arange(5, dtype=jnp.int32)[None], ones, zeros, jnp.zeros((1, 5)))
    encode_both, encode_one = jax.jit(both.encode), jax.jit(one.encode)
    states = np.asarray(encode_both(params, vectors, batch)[0])
    np.testing.assert_allclose(states[-1], encode_one(params, vectors, batch)[0, -1], rtol=1e-5, atol=1e-5)
    backwards = vectors[:, ::-1]
    np.testing.assert_allclose(states[0], encode_one(params, backwards, batch)[0, -1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(states[::-1], encode_both(params, backwards, batch)[0], rtol=1e-5, atol=1e-5)
    assert np.abs(states[2] - encode_one(params, vectors, batch)[0, 2]).max() > 0.01


def test_events_cannot_be_appended() -> None:
    encoder = make_encoder(BOTH_WAYS)
    assert not encoder.causal and encoder.start is None and encoder.append is None
    assert make_encoder(ONE_WAY).causal
