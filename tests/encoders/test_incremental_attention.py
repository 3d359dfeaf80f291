"""Events one by one through the ring of keys and values, against the whole sequence at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_cases import make_batch

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder
from seqrec_jax.errors import ShapeError

WIDTH = 4
KINDS = {
    "sasrec": {"kind": "sasrec"},
    "sasrec_post": {"kind": "sasrec", "norm": "post", "num_layers": 1},
    "ligr": {"kind": "ligr"},
    "hstu": {"kind": "hstu"},
    "hstu_timeless": {"kind": "hstu", "time_bias": False, "num_layers": 1},
}
# which of four users has an event at each step: from the start, later, with pauses, never
SCHEDULE = np.array([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]], bool)
POSITIONS = np.maximum(SCHEDULE.cumsum(axis=1) - 1, 0).astype(np.int32)
TIMESTAMPS = np.random.default_rng(0).integers(1, 10**6, SCHEDULE.shape).cumsum(axis=1).astype(np.int32)
VECTORS = np.random.default_rng(1).normal(size=(*SCHEDULE.shape, WIDTH)).astype(np.float32)


def make(max_length: int, **settings: object) -> tuple[Encoder, dict]:
    """An encoder with parameters large enough for every path to matter."""
    encoder = make_encoder(EncoderConfig(width=WIDTH, max_length=max_length, dropout=0.5, **settings))
    params = encoder.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.5 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return encoder, jax.tree.unflatten(structure, noisy)


def step_batch(step: int) -> Batch:
    now = np.s_[:, step : step + 1]
    return make_batch(SCHEDULE[now], POSITIONS[now], TIMESTAMPS[now])


def states_one_by_one(encoder: Encoder, params: dict) -> np.ndarray:
    """`[users, steps, D]` by one compiled scan over the schedule."""
    batches = jax.tree.map(lambda *columns: jnp.stack(columns), *map(step_batch, range(SCHEDULE.shape[1])))

    @jax.jit
    def run(params: dict, vectors: jax.Array, batches: Batch) -> jax.Array:
        def step(cache: object, now: tuple) -> tuple[object, jax.Array]:
            states, cache = encoder.append(params, cache, *now)
            return cache, states

        return jax.lax.scan(step, encoder.start(len(SCHEDULE), jnp.float32), (vectors, batches))[1]

    return np.asarray(run(params, jnp.asarray(VECTORS).swapaxes(0, 1), batches)).swapaxes(0, 1)


def states_at_once(encoder: Encoder, params: dict, *, last: int = 100) -> list[np.ndarray]:
    """Each user's states; the one after each event by encoding the `last` events up to it."""
    rows, users = [], []
    for user in np.flatnonzero(SCHEDULE.any(axis=1)):
        steps = np.flatnonzero(SCHEDULE[user])
        rows += [(user, steps[max(0, end - last) : end]) for end in range(1, len(steps) + 1)]
        users += [user] * len(steps)
    length = SCHEDULE.shape[1]
    segments = np.array([[1] * len(steps) + [0] * (length - len(steps)) for _, steps in rows])
    vectors, timestamps = np.zeros((*segments.shape, WIDTH), np.float32), np.zeros_like(segments)
    for row, (user, steps) in enumerate(rows):
        vectors[row, : len(steps)] = VECTORS[user, steps]
        timestamps[row, : len(steps)] = TIMESTAMPS[user, steps]
    positions = np.broadcast_to(np.arange(length), segments.shape) * segments
    batch = make_batch(segments, positions, timestamps)
    states = np.asarray(jax.jit(encoder.encode)(params, jnp.asarray(vectors), batch))
    ends = states[np.arange(len(rows)), segments.sum(axis=1) - 1]
    return [ends[np.array(users) == user] for user in range(len(SCHEDULE))]


@pytest.mark.parametrize("name", KINDS)
def test_one_by_one_equals_the_whole_sequence(name: str) -> None:
    encoder, params = make(6, **KINDS[name])
    found = states_one_by_one(encoder, params)
    assert np.isfinite(found).all()
    for user, expected in enumerate(states_at_once(encoder, params)):
        np.testing.assert_allclose(found[user, SCHEDULE[user]], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["sasrec", "ligr", "hstu"])
def test_one_block_looks_at_the_last_events_once_the_ring_is_full(name: str) -> None:
    encoder, params = make(3, num_layers=1, **KINDS[name])
    found = states_one_by_one(encoder, params)
    for user, expected in enumerate(states_at_once(encoder, params, last=3)):
        np.testing.assert_allclose(found[user, SCHEDULE[user]], expected, rtol=2e-5, atol=2e-5)


def test_users_without_an_event_keep_their_memory_and_the_others_do_not() -> None:
    encoder, params = make(6, num_layers=1, **KINDS["hstu"])
    vectors = jnp.asarray(VECTORS)
    append = jax.jit(encoder.append)
    _, before = append(params, encoder.start(4, jnp.float32), vectors[:, 0], step_batch(0))
    _, after = append(params, before, vectors[:, 3], step_batch(3))
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert old.shape == new.shape and old.dtype == new.dtype
        changed = np.asarray(old != new).reshape(4, -1).any(axis=1)
        np.testing.assert_array_equal(changed, SCHEDULE[:, 3])


def test_eager_vmap_and_pmap_agree() -> None:
    encoder, params = make(6, num_layers=1, **KINDS["hstu"])
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), step_batch(2))
    vectors = jnp.asarray(np.concatenate([VECTORS[:, 2], VECTORS[:, 3]]))
    cache = encoder.start(8, jnp.float32)
    expected = encoder.append(params, cache, vectors, batch)
    parts = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), (cache, vectors, batch))
    for transform in (jax.vmap, jax.pmap):
        found = jax.block_until_ready(transform(lambda *now: encoder.append(params, *now))(*parts))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-5, atol=1e-5)


def test_memory_may_be_kept_in_half_precision() -> None:
    encoder, params = make(6, num_layers=1, **KINDS["sasrec"])
    append = jax.jit(encoder.append)

    def last_states(dtype: object, vectors: jax.Array, params: dict) -> jax.Array:
        cache = encoder.start(4, dtype)
        for step in range(3):
            states, cache = append(params, cache, vectors[:, step], step_batch(step))
            assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype(dtype)}
        return states

    exact = last_states(jnp.float32, jnp.asarray(VECTORS), params)
    mixed = last_states(jnp.bfloat16, jnp.asarray(VECTORS), params)
    assert mixed.dtype == jnp.float32
    assert 0 < np.abs(mixed - exact).max() < 0.05
    half = last_states(jnp.bfloat16, jnp.asarray(VECTORS, jnp.bfloat16), jax.tree.map(jnp.bfloat16, params))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.15)


def test_more_than_one_event_a_user_is_refused() -> None:
    encoder, params = make(6, **KINDS["sasrec"])
    batch = make_batch(SCHEDULE, POSITIONS, TIMESTAMPS)
    with pytest.raises(ShapeError, match=r"a batch \[U, 1\], got \(4, 4\) and \(4, 7\)"):
        encoder.append(params, encoder.start(4, jnp.float32), jnp.asarray(VECTORS[:, 0]), batch)
