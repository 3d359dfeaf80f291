"""LiGR's gated block against loops in NumPy, closed gates, and the signal through many blocks."""

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import EncoderConfig, make_encoder

SEGMENTS = [0, 1, 1, 1, 2, 2, 0]


def batch_of(segments: list[int]) -> Batch:
    segment_ids = jnp.array([segments], jnp.int32)
    zeros = jnp.zeros_like(segment_ids)
    return Batch(zeros, zeros, zeros, zeros, segment_ids, zeros, jnp.zeros(segment_ids.shape))


def randomised(params: dict, *, scale: float) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + scale * jnp.asarray(rng.normal(size=x.shape), x.dtype), params)


def norm(x: np.ndarray, p: dict) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]


def linear(x: np.ndarray, p: dict) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gated_block(stream: np.ndarray, segments: list[int], p: dict, *, heads: int) -> np.ndarray:
    """One block, event by event."""
    width = stream.shape[1]
    size = width // heads
    projected = np.array([linear(norm(x, p["attention_norm"]), p["attention"]["queries_keys_values"]) for x in stream])
    out = np.empty_like(stream)
    for now, x in enumerate(stream):
        past = [s for s in range(now + 1) if segments[s] == segments[now]]
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query = projected[now, :width][part]
            scores = np.array([query @ projected[s, width : 2 * width][part] for s in past]) / np.sqrt(size)
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed.append(sum(w * projected[s, 2 * width :][part] for w, s in zip(weights, past, strict=True)))
        attended = linear(np.concatenate(mixed), p["attention"]["output"])
        x = x + sigmoid(linear(x, p["attention_gate"])) * attended
        inner = linear(norm(x, p["feed_forward_norm"]), p["feed_forward"]["inner"])
        gate, hidden = inner[: len(inner) // 2], inner[len(inner) // 2 :]
        fed = linear(gate * sigmoid(gate) * hidden, p["feed_forward"]["outer"])
        out[now] = x + sigmoid(linear(x, p["feed_forward_gate"])) * fed
    return out


def test_equals_loops() -> None:
    encoder = make_encoder(EncoderConfig(kind="ligr", width=6, num_layers=2, num_heads=2, feed_forward_multiple=1.5))
    params = randomised(encoder.init(jax.random.key(0)), scale=0.5)
    vectors = np.random.default_rng(1).normal(size=(len(SEGMENTS), 6))
    found = jax.jit(encoder.encode)(params, jnp.asarray(vectors[None], jnp.float32), batch_of(SEGMENTS))[0]
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    stream = vectors
    for name in ("block_0", "block_1"):
        stream = gated_block(stream, SEGMENTS, p[name], heads=2)
    real = np.array(SEGMENTS) > 0
    np.testing.assert_allclose(found[real], [norm(x, p["norm"]) for x in stream[real]], rtol=2e-4, atol=2e-4)


def test_a_block_whose_gates_are_shut_hands_the_stream_on() -> None:
    encoder = make_encoder(EncoderConfig(kind="ligr", width=4, num_layers=1))
    params = randomised(encoder.init(jax.random.key(0)), scale=0.5)
    vectors = jax.random.normal(jax.random.key(1), (1, 3, 4))

    def states(*, attention: float, feed_forward: float) -> jax.Array:
        block = dict(params["block_0"])
        for part, bias in (("attention", attention), ("feed_forward", feed_forward)):
            block[f"{part}_gate"] = {**block[f"{part}_gate"], "bias": jnp.full(4, bias)}
        return encoder.encode({**params, "block_0": block}, vectors, batch_of([1, 1, 1]))[0]

    p = jax.tree.map(np.asarray, params["norm"])
    untouched = [norm(x, p) for x in np.asarray(vectors[0])]
    np.testing.assert_allclose(states(attention=-100.0, feed_forward=-100.0), untouched, rtol=1e-4, atol=1e-5)
    assert np.abs(states(attention=100.0, feed_forward=-100.0) - np.array(untouched)).max() > 0.01
    assert np.abs(states(attention=-100.0, feed_forward=100.0) - np.array(untouched)).max() > 0.01


def test_eight_new_blocks_keep_the_stream_and_all_get_a_gradient_of_one_size() -> None:
    width = 8
    encoder = make_encoder(EncoderConfig(kind="ligr", width=width, num_layers=8, feed_forward_multiple=4))
    params = encoder.init(jax.random.key(0))
    vectors = jax.random.normal(jax.random.key(1), (1, 6, width))
    aim = jax.random.normal(jax.random.key(2), (1, 6, width))

    def loss(params: dict) -> tuple[jax.Array, jax.Array]:
        states = encoder.encode(params, vectors, batch_of([1] * 6))
        return jnp.sum(states * aim), states

    gradients, states = jax.grad(loss, has_aux=True)(params)  # eight equal blocks compile slowly
    untouched = [norm(x, {"scale": 1.0, "bias": 0.0}) for x in np.asarray(vectors[0])]
    assert np.corrcoef(states.ravel(), np.ravel(untouched))[0, 1] > 0.99
    for part in ("attention", "attention_gate", "feed_forward", "feed_forward_gate"):
        sizes = [
            np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(gradients[f"block_{n}"][part]))) for n in range(8)
        ]
        assert min(sizes) > 0 and max(sizes) / min(sizes) < 10, part
