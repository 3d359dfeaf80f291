"""Mean pooling against counting by hand and a loop."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder
from seqrec_jax.encoders.mean import causal_mean


def batch_of(segments: np.ndarray, positions: np.ndarray) -> Batch:
    zeros = jnp.zeros(segments.shape, jnp.int32)
    as_int32 = [jnp.asarray(x, dtype=jnp.int32) for x in (positions, segments)]
    return Batch(zeros, zeros, zeros, *as_int32, zeros, jnp.zeros(segments.shape, jnp.float32))


def test_one_hot_events_pool_to_shares_of_the_items() -> None:
    # the source's example: u1 viewed items 1, 2, 3 and u2 viewed 2, 3, 4, here packed in one row
    item_ids = jnp.array([[1, 2, 3, 2, 3, 4, 0]])
    batch = batch_of(np.array([[1, 1, 1, 2, 2, 2, 0]]), np.array([[0, 1, 2, 0, 1, 2, 0]]))
    encoder = make_encoder(EncoderConfig(kind="mean", width=4))
    states = encoder.encode({}, jax.nn.one_hot(item_ids - 1, 4), batch)
    third = 1 / 3
    np.testing.assert_allclose(states[0, 1], [0.5, 0.5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(states[0, 2], [third, third, third, 0], rtol=1e-6)
    np.testing.assert_allclose(states[0, 5], [0, third, third, third], rtol=1e-6)


def test_half_life_by_hand() -> None:
    batch = batch_of(np.array([[1, 1, 1]]), np.array([[0, 1, 2]]))
    encoder = make_encoder(EncoderConfig(kind="mean", width=1, recency_half_life=1.0))
    states = encoder.encode({}, jnp.array([[[4.0], [8.0], [2.0]]]), batch)
    np.testing.assert_allclose(states[0, :, 0], [4.0, (2.0 + 8.0) / 1.5, (1.0 + 4.0 + 2.0) / 1.75], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=4),
    st.floats(0.1, 1.0),
    st.integers(0, 1000),
)
def test_equals_a_loop(layout: list[tuple[int, int]], decay: float, seed: int) -> None:
    length = 20
    segments, positions = np.zeros((1, length), int), np.zeros((1, length), int)
    column = 0
    for number, (padding, size) in enumerate(layout):
        column += padding
        segments[0, column : column + size] = number + 1
        positions[0, column : column + size] = np.arange(size)
        column += size
    vectors = np.random.default_rng(seed).normal(size=(1, length, 3)).astype(np.float32)
    found = np.asarray(causal_mean(jnp.asarray(vectors), batch_of(segments, positions), decay=decay))
    for now in np.flatnonzero(segments[0]):
        past = [s for s in range(now + 1) if segments[0, s] == segments[0, now]]
        weights = np.array([decay ** (now - s) for s in past])
        expected = (weights[:, None] * vectors[0, past]).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(found[0, now], expected, rtol=1e-4, atol=1e-5)
