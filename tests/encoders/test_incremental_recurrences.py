"""Means and recurrences that take one event at a time, from a cache of fixed size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_cases import make_batch

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder

WIDTH, USERS, EVENTS, STEPS = 6, 8, 7, 12
CONFIGS = {
    "mean": EncoderConfig(kind="mean", width=WIDTH),
    "recent_mean": EncoderConfig(kind="mean", width=WIDTH, recency_half_life=2.0),
    "gru": EncoderConfig(kind="gru", width=WIDTH),
    "lstm": EncoderConfig(kind="lstm", width=WIDTH),
    "linear_recurrence": EncoderConfig(kind="linear_recurrence", width=WIDTH),
}


def events_of_all() -> tuple[jax.Array, np.ndarray, np.ndarray]:
    """Vectors of one or two segments a row, the second of which begins afresh, with their ids and positions."""
    segments, positions = (np.zeros((USERS, EVENTS), np.int32) for _ in range(2))
    for user in range(USERS):
        first = user % EVENTS + 1
        segments[user, :first], segments[user, first:] = 1, 2
        positions[user] = np.concatenate([np.arange(first), np.arange(EVENTS - first)])
    return jax.random.normal(jax.random.key(1), (USERS, EVENTS, WIDTH)), segments, positions


def shaken(encoder: Encoder) -> dict:
    """Parameters large enough for every path to matter."""
    leaves, structure = jax.tree.flatten(encoder.init(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), len(leaves) + 1)
    leaves = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(structure, leaves)


@pytest.fixture(scope="module", params=CONFIGS)
def built(request: pytest.FixtureRequest) -> tuple[Encoder, dict]:
    encoder = make_encoder(CONFIGS[request.param])
    return encoder, shaken(encoder)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_by_one_equals_the_whole_with_users_at_different_positions(
    built: tuple[Encoder, dict], dtype: jnp.dtype
) -> None:
    encoder, params = built
    vectors, segments, positions = events_of_all()
    params, vectors = jax.tree.map(lambda x: x.astype(dtype), (params, vectors))
    whole = jax.jit(encoder.encode)(params, vectors, make_batch(segments, positions))

    # each user's events fall on steps of his own; at the others he is idle
    rng = np.random.default_rng(4)
    steps = np.stack([np.sort(rng.permutation(STEPS)[:EVENTS]) for _ in range(USERS)])
    users = np.arange(USERS)[:, None]
    step_segments, step_positions = (np.zeros((USERS, STEPS), np.int32) for _ in range(2))
    step_segments[users, steps], step_positions[users, steps] = segments, positions
    step_vectors = jnp.full((USERS, STEPS, WIDTH), 7.0, dtype).at[users, steps].set(vectors)

    def step(cache: object, now: tuple[jax.Array, ...]) -> tuple[object, jax.Array]:
        step_vectors, *ids = now
        states, cache = encoder.append(params, cache, step_vectors, make_batch(*(x[:, None] for x in ids)))
        return cache, states

    @jax.jit
    def run() -> jax.Array:
        over_time = [jnp.swapaxes(jnp.asarray(x), 0, 1) for x in (step_vectors, step_segments, step_positions)]
        return jax.lax.scan(step, encoder.start(USERS, dtype), over_time)[1]

    found = jnp.swapaxes(run(), 0, 1)[users, steps]
    assert found.dtype == whole.dtype == dtype
    tolerance = 2e-5 if dtype == jnp.float32 else 0.1
    np.testing.assert_allclose(found.astype(jnp.float32), whole.astype(jnp.float32), rtol=tolerance, atol=tolerance)


def append_from(encoder: Encoder, params: dict) -> Callable:
    def append(cache: object, vectors: jax.Array, batch: Batch) -> tuple[jax.Array, object]:
        return encoder.append(params, cache, vectors, batch)

    return append


def test_an_idle_user_keeps_his_memory_and_a_new_one_forgets_it(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    append = jax.jit(append_from(encoder, params), donate_argnums=0)
    vectors = jax.random.normal(jax.random.key(5), (3, 3, WIDTH))
    column = np.ones((3, 1), np.int32)
    fresh, _ = append(encoder.start(3, jnp.float32), vectors[0], make_batch(column, 0 * column))
    cache = encoder.start(3, jnp.float32)
    for number in range(2):
        states, cache = append(cache, vectors[number], make_batch(column, number * column))

    before = jax.tree.map(jnp.copy, cache)
    idle, kept = append(cache, vectors[2], make_batch(0 * column, 0 * column))
    jax.tree.map(np.testing.assert_array_equal, kept, before)
    assert np.array_equal(idle, states) or not idle.any()

    # nothing of the old cache is left, whatever it was
    spoilt = jax.tree.map(lambda x: x.at[1].set(jnp.nan), before)
    mixed, after = append(spoilt, vectors[0], make_batch(column, np.array([[2], [0], [0]])))
    np.testing.assert_allclose(mixed[1:], fresh[1:], rtol=1e-6, atol=1e-6)
    assert not np.allclose(mixed[0], fresh[0])
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize("built", ["recent_mean", "lstm", "linear_recurrence"], indirect=True)
def test_eager_jit_vmap_and_pmap_agree(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    append = append_from(encoder, params)
    vectors = jax.random.normal(jax.random.key(6), (16, WIDTH))
    cache = jax.tree.map(lambda x: jax.random.uniform(jax.random.key(7), x.shape), encoder.start(16, jnp.float32))
    batch = make_batch(np.arange(16)[:, None] % 4, np.arange(16)[:, None] % 3)
    eager = append(cache, vectors, batch)
    close = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, jax.jit(append)(cache, vectors, batch), eager)
    parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), (cache, vectors, batch))
    for transform in (jax.vmap, jax.pmap):
        found = jax.block_until_ready(transform(append)(*parts))
        jax.tree.map(lambda x, expected: close(x.reshape(expected.shape), expected), found, eager)


@pytest.mark.parametrize("half_life", [None, 1000.0])
def test_a_mean_in_half_precision_counts_beyond_256(half_life: float | None) -> None:
    encoder = make_encoder(EncoderConfig(kind="mean", width=1, recency_half_life=half_life))
    values = jnp.repeat(jnp.array([0.0, 1.0], jnp.bfloat16), 400)
    weights = (1.0 if half_life is None else 0.5 ** (1 / half_life)) ** np.arange(799, -1, -1)
    expected = (weights * np.asarray(values, np.float64)).sum() / weights.sum()

    def step(cache: object, now: tuple[jax.Array, jax.Array]) -> tuple[object, jax.Array]:
        value, position = now
        batch = make_batch(np.ones((1, 1), np.int32), position.reshape(1, 1))
        state, cache = encoder.append({}, cache, value.reshape(1, 1), batch)
        return cache, state

    start = encoder.start(1, jnp.bfloat16)
    states = jax.lax.scan(step, start, (values, jnp.arange(800, dtype=jnp.int32)))[1]
    whole = jax.jit(encoder.encode)({}, values.reshape(1, 800, 1), make_batch(np.ones((1, 800)), np.arange(800)[None]))
    np.testing.assert_allclose(float(states[-1, 0, 0]), expected, rtol=0.01)
    np.testing.assert_allclose(float(whole[0, -1, 0]), expected, rtol=0.01)
