"""HSTU's unit against loops in NumPy, its biases by time and distance, and buckets of time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder
from seqrec_jax.encoders.layers import NUM_TIME_BUCKETS, time_buckets

SEGMENTS = [0, 1, 1, 1, 1, 2, 2, 0]
SECONDS = [0, 50, 50, 80, 40_000, 7, 86_407, 0]
HEADS, WIDTH, MAX_LENGTH = 2, 6, 3  # the fourth event of a segment shares the distance of the third


def batch_of(segments: list[int], seconds: list[int]) -> Batch:
    segment_ids, timestamps = jnp.array([segments], jnp.int32), jnp.array([seconds], jnp.int32)
    zeros = jnp.zeros_like(segment_ids)
    return Batch(zeros, zeros, timestamps, zeros, segment_ids, zeros, jnp.zeros(segment_ids.shape))


def built(*, num_layers: int, time_bias: bool) -> tuple:
    encoder = make_encoder(
        EncoderConfig(
            kind="hstu",
            width=WIDTH,
            num_heads=HEADS,
            num_layers=num_layers,
            max_length=MAX_LENGTH,
            time_bias=time_bias,
        )
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.5 * jnp.asarray(rng.normal(size=x.shape), x.dtype), encoder.init(jax.random.key(0))
    )
    return encoder, params


def norm(x: np.ndarray, p: dict, epsilon: float = 1e-6) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + epsilon) * p["scale"] + p["bias"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def unit(stream: np.ndarray, p: dict) -> np.ndarray:
    """One transduction unit, event by event and key by key."""
    uvqk = [
        silu(norm(x, p["norm"]) @ p["projections"]["kernel"] + p["projections"]["bias"]).reshape(4, HEADS, -1)
        for x in stream
    ]
    out = []
    for now, x in enumerate(stream):
        mixed = np.zeros((HEADS, WIDTH // HEADS))
        for then in range(now + 1):
            if SEGMENTS[then] != SEGMENTS[now]:
                continue
            bucket = (1 + SECONDS[now] - SECONDS[then]).bit_length() - 1
            for head in range(HEADS):
                score = uvqk[now][2, head] @ uvqk[then][3, head]
                score += p["distance_bias"][min(now - then, MAX_LENGTH - 1), head]
                if "time_bias" in p:
                    score += p["time_bias"][bucket, head]
                mixed[head] += silu(score) / MAX_LENGTH * uvqk[then][1, head]
        gated = uvqk[now][0].ravel() * norm(mixed.ravel(), p["mixed_norm"])
        out.append(x + gated @ p["output"]["kernel"] + p["output"]["bias"])
    return np.array(out)


@pytest.mark.parametrize("time_bias", [True, False])
def test_equals_loops(time_bias: bool) -> None:
    encoder, params = built(num_layers=2, time_bias=time_bias)
    assert ("time_bias" in params["block_0"]) == time_bias
    vectors = np.random.default_rng(1).normal(size=(len(SEGMENTS), WIDTH))
    batch = batch_of(SEGMENTS, SECONDS)
    found = jax.jit(encoder.encode)(params, jnp.asarray(vectors[None], jnp.float32), batch)[0]
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    stream = unit(unit(vectors, p["block_0"]), p["block_1"])
    real = np.array(SEGMENTS) > 0
    expected = [norm(x, p["norm"], 1e-5) for x in stream[real]]
    np.testing.assert_allclose(found[real], expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("time_bias", [True, False])
def test_only_differences_of_time_count_and_only_with_a_time_bias(time_bias: bool) -> None:
    encoder, params = built(num_layers=1, time_bias=time_bias)
    vectors = jax.random.normal(jax.random.key(1), (1, 3, WIDTH))
    encode = jax.jit(lambda batch: encoder.encode(params, vectors, batch))
    plain = encode(batch_of([1, 1, 1], [0, 10, 100]))
    np.testing.assert_array_equal(encode(batch_of([1, 1, 1], [500, 510, 600])), plain)
    slower = np.abs(encode(batch_of([1, 1, 1], [0, 10, 1000])) - plain)[0].max(axis=1)
    np.testing.assert_array_equal(slower[:2], 0.0)
    assert (slower[2] > 1e-3) == time_bias


def test_gradients_reach_the_biases_that_are_in_use_and_no_other() -> None:
    encoder, params = built(num_layers=1, time_bias=True)
    vectors = jax.random.normal(jax.random.key(1), (1, 3, WIDTH))
    batch = batch_of([1, 1, 0], [0, 10, 0])

    def loss(params: dict) -> jax.Array:
        return jnp.sum(encoder.encode(params, vectors, batch)[:, :2] ** 3)

    gradients = jax.jit(jax.grad(loss))(params)["block_0"]
    assert np.flatnonzero(np.abs(gradients["distance_bias"]).max(axis=1)).tolist() == [0, 1]
    assert np.flatnonzero(np.abs(gradients["time_bias"]).max(axis=1)).tolist() == [0, 3]


def test_time_buckets_are_powers_of_two_up_to_the_largest_int32() -> None:
    seconds = [-7, 0, 1, 2, 3, 6, 7, 2**16, 2**30, 2**31 - 2, 2**31 - 1]
    expected = [0, 0, 1, 1, 2, 2, 3, 16, 30, 30, 31]
    assert time_buckets(jnp.array(seconds, jnp.int32)).tolist() == expected
    assert max(expected) == NUM_TIME_BUCKETS - 1
