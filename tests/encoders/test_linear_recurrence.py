"""The linear recurrence against loops in NumPy, and its numbers at the extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_cases import make_batch

from seqrec_jax.encoders import EncoderConfig, make_encoder
from seqrec_jax.encoders.linear_recurrence import initial_decay, linear_scan

WIDTH = 6


@pytest.mark.parametrize("length", [1, 2, 13])
@pytest.mark.parametrize("channels", [1, 3])
def test_scan_equals_a_loop(length: int, channels: int) -> None:
    rng = np.random.default_rng(length)
    factors, addends = rng.uniform(-1, 1, (2, length, channels)), rng.normal(size=(2, length, 3))
    before = rng.normal(size=(2, 3))
    for start in (None, before):
        hidden = np.zeros((2, 3)) if start is None else start
        expected = []
        for now in range(length):
            hidden = factors[:, now] * hidden + addends[:, now]
            expected.append(hidden)
        arrays = [None if x is None else jnp.asarray(x, jnp.float32) for x in (factors, addends, start)]
        found = jax.jit(linear_scan)(arrays[0], arrays[1], before=arrays[2])
        np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5, atol=1e-5)


def layer_norm(x: np.ndarray, params: dict) -> np.ndarray:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * params["scale"] + params["bias"]


def linear(x: np.ndarray, params: dict) -> np.ndarray:
    return x @ params["kernel"] + params["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def looped(params: dict, events: np.ndarray) -> list[np.ndarray]:
    """The states of one user's events, one by one."""
    blocks = [params[f"block_{number}"] for number in range(len(params) - 1)]
    memory: list[np.ndarray | None] = [None] * len(blocks)
    states = []
    for x in events:
        for number, block in enumerate(blocks):
            inner = block["recurrence"]
            value, gate, enter, forget = np.split(linear(layer_norm(x, block["recurrence_norm"]), inner["inputs"]), 4)
            if memory[number] is None:
                hidden = sigmoid(enter) * value
            else:
                a = np.exp(-8.0 * np.log1p(np.exp(inner["decay"])) * sigmoid(forget))
                hidden = a * memory[number] + np.sqrt(1 - a**2) * sigmoid(enter) * value
            memory[number] = hidden
            x = x + linear(gelu(gate) * hidden, inner["output"])
            wide = gelu(linear(layer_norm(x, block["feed_forward_norm"]), block["feed_forward"]["inner"]))
            x = x + linear(wide, block["feed_forward"]["outer"])
        states.append(layer_norm(x, params["norm"]))
    return states


def test_packed_segments_equal_a_loop_over_each() -> None:
    encoder = make_encoder(EncoderConfig(kind="linear_recurrence", width=WIDTH, feed_forward_multiple=1.5))
    leaves, structure = jax.tree.flatten(encoder.init(jax.random.key(0)))
    leaves = [leaf + 0.3 * jax.random.normal(jax.random.key(n), leaf.shape) for n, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, leaves)
    rows = [[0, 1, 1, 1, 2, 2, 0, 3, 3], [1, 1, 1, 1, 1, 1, 1, 0, 0]]
    vectors = jax.random.normal(jax.random.key(9), (2, 9, WIDTH))
    found = np.asarray(jax.jit(encoder.encode)(params, vectors, make_batch(rows)))
    plain = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row, column_ids in enumerate(np.array(rows)):
        for segment in set(column_ids) - {0}:
            own = column_ids == segment
            expected = looped(plain, np.asarray(vectors, np.float64)[row, own])
            np.testing.assert_allclose(found[row, own], expected, rtol=1e-4, atol=1e-4)


def test_memories_begin_between_one_event_and_the_longest_history() -> None:
    decay = np.asarray(initial_decay(5, longest=625), np.float64)
    memories = 2.0 / (8.0 * np.log1p(np.exp(decay)))  # with the recurrence gate half open
    np.testing.assert_allclose(memories, [1, 5, 25, 125, 625], rtol=1e-3)


def test_the_first_of_many_events_still_has_a_finite_influence() -> None:
    length = 300
    encoder = make_encoder(EncoderConfig(kind="linear_recurrence", width=WIDTH, num_layers=1, max_length=length))
    params = encoder.init(jax.random.key(0))
    vectors = jax.random.normal(jax.random.key(1), (1, length, WIDTH))
    batch = make_batch([[1] * length])

    @jax.jit
    @jax.grad
    def influence(vectors: jax.Array) -> jax.Array:
        return encoder.encode(params, vectors, batch)[0, -1, 0]

    sizes = np.abs(np.asarray(influence(vectors))[0]).max(axis=-1)
    assert np.isfinite(sizes).all()
    assert sizes[0] > 1e-3 * sizes[-10:-1].mean()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saturated_gates_leave_states_and_gradients_finite(dtype: jnp.dtype) -> None:
    encoder = make_encoder(EncoderConfig(kind="linear_recurrence", width=WIDTH, num_layers=1))
    params = encoder.init(jax.random.key(0))
    kernel = params["block_0"]["recurrence"]["inputs"]["kernel"]
    params["block_0"]["recurrence"]["inputs"]["kernel"] = 1e4 * kernel  # some decays are exactly 0, some exactly 1
    params, vectors = jax.tree.map(
        lambda x: x.astype(dtype), (params, jax.random.normal(jax.random.key(1), (2, 20, WIDTH)))
    )
    batch = make_batch([[1] * 20, [1] * 5 + [0] * 5 + [2] * 10])

    def total(params: dict, vectors: jax.Array) -> jax.Array:
        return jnp.sum(encoder.encode(params, vectors, batch).astype(jnp.float32) ** 2)

    results = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, vectors)
    assert all(jnp.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(results))
