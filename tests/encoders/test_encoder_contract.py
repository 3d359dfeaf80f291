"""What every encoder must keep: causality, segments apart, padding and packing without effect, transforms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from encoder_cases import make_batch

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import Encoder, EncoderConfig, make_encoder
from seqrec_jax.errors import ConfigError

WIDTH = 16
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "language"
CONFIGS = {
    "mean": EncoderConfig(kind="mean", width=WIDTH),
    "recent_mean": EncoderConfig(kind="mean", width=WIDTH, recency_half_life=2.0),
    "gru": EncoderConfig(kind="gru", width=WIDTH, dropout=0.5),
    "lstm": EncoderConfig(kind="lstm", width=WIDTH, dropout=0.5),
    "linear_recurrence": EncoderConfig(kind="linear_recurrence", width=WIDTH, dropout=0.5),
    "sasrec": EncoderConfig(kind="sasrec", width=WIDTH, dropout=0.5, attention_dropout=0.5),
    "sasrec_post": EncoderConfig(width=WIDTH, num_layers=1, norm="post", activation="relu"),
    "bert4rec": EncoderConfig(kind="bert4rec", width=WIDTH, dropout=0.5, attention_dropout=0.5),
    "ligr": EncoderConfig(kind="ligr", width=WIDTH, dropout=0.5, attention_dropout=0.5),
    "hstu": EncoderConfig(kind="hstu", width=WIDTH, dropout=0.5, attention_dropout=0.5),
    **{
        f"language_{family}": EncoderConfig(
            kind="language", width=WIDTH, num_layers=1, max_length=20, language_model=str(GOLDEN / family)
        )
        for family in ("bert", "gpt2", "qwen3")
    },
    **{  # every event an event without text
        f"text_{family}": EncoderConfig(
            kind="text", width=WIDTH, num_layers=1, max_length=20, language_model=str(GOLDEN / family)
        )
        for family in ("bert", "gpt2")
    },
    "hstu_timeless": EncoderConfig(kind="hstu", width=WIDTH, num_layers=1, max_length=2, time_bias=False),
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(params=CONFIGS)
def built(request: pytest.FixtureRequest) -> tuple[Encoder, dict]:
    """An encoder with parameters large enough for every path to matter."""
    encoder = make_encoder(CONFIGS[request.param])
    params = encoder.init(jax.random.key(1))
    leaves, structure = jax.tree.flatten(params)
    leaves = [leaf + 0.3 * normal(100 + number, *leaf.shape) for number, leaf in enumerate(leaves)]
    return encoder, jax.tree.unflatten(structure, leaves)


def test_states_know_their_segments_past_and_no_more_unless_they_look_both_ways(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    batch = make_batch([[0, 1, 1, 1, 2, 2, 0, 3, 3, 0]])
    vectors = normal(2, 1, 10, WIDTH)
    jacobian = jax.jit(jax.jacobian(lambda v: encode_one(encoder, params, v, batch)))(vectors[0])
    influence = np.abs(np.asarray(jacobian)).max(axis=(1, 3))  # [state's position, event's position]
    segments = np.asarray(batch.segment_ids[0])
    visible = segments[:, None] == segments[None]
    visible &= np.tri(10, dtype=bool) | (not encoder.causal)
    real = segments > 0
    np.testing.assert_array_equal(influence[real] > 0, visible[real])


def encode_one(encoder: Encoder, params: dict, vectors: jax.Array, batch: Batch) -> jax.Array:
    return encoder.encode(params, vectors[None], batch)[0]


def test_padding_and_packing_change_nothing(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    first, second = normal(3, 3, WIDTH), normal(4, 4, WIDTH)

    encode = jax.jit(encoder.encode)

    def states(segment_row: list[int]) -> list[np.ndarray]:
        segments = np.array(segment_row)
        # padding holds numbers that would be noticed
        vectors = np.full((len(segment_row), WIDTH), 7.0, np.float32)
        for segment, events in ((1, first), (2, second)):
            if segment in segments:
                vectors[segments == segment] = events
        result = np.asarray(encode(params, jnp.asarray(vectors)[None], make_batch([segment_row])))[0]
        return [result[segments == segment] for segment in (1, 2) if segment in segments]

    alone = [*states([1, 1, 1]), *states([2, 2, 2, 2])]
    for rows in (
        [[1, 1, 1, 0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 2, 2, 2, 2]],
        [[1, 1, 1, 2, 2, 2, 2, 0, 0]],
        [[0, 1, 1, 1, 0, 2, 2, 2, 2]],
    ):
        found = [segment for row in rows for segment in states(row)]
        for expected, actual in zip(alone, found, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


def test_eager_jit_vmap_and_pmap_agree(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    rows = [[1, 1, 2, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]] * 4
    batch, vectors = make_batch(rows), normal(5, 16, 4, WIDTH)
    keys = jax.random.split(jax.random.key(6), 16)
    eager = encoder.encode(params, vectors, batch, key=keys)
    jitted = jax.jit(encoder.encode)(params, vectors, batch, key=keys)
    np.testing.assert_allclose(jitted, eager, rtol=1e-5, atol=1e-5)

    def encode(vectors: jax.Array, batch: Batch, key: jax.Array) -> jax.Array:
        return encoder.encode(params, vectors, batch, key=key)

    parts = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), (vectors, batch, keys))
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.block_until_ready(transform(encode)(*parts))
        np.testing.assert_allclose(mapped.reshape(eager.shape), eager, rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_when_all_is_padding(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    batch, vectors = make_batch([[0, 0, 0], [0, 0, 0]]), jnp.zeros((2, 3, WIDTH))

    def total(params: dict, vectors: jax.Array) -> jax.Array:
        return jnp.sum(encoder.encode(params, vectors, batch, key=jax.random.key(0)) ** 2)

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, vectors)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradients)))


def test_bfloat16_in_is_bfloat16_out(built: tuple[Encoder, dict]) -> None:
    encoder, params = built
    batch, vectors = make_batch([[1, 1, 1, 0]]), normal(7, 1, 4, WIDTH)
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, vectors))
    encode = jax.jit(encoder.encode)
    states = encode(*halved, batch, key=jax.random.key(0))
    assert states.dtype == jnp.bfloat16
    exact = encode(params, vectors, batch)[0, :3]
    coarse = encode(*halved, batch)[0, :3].astype(jnp.float32)
    np.testing.assert_allclose(coarse, exact, atol=0.15)


def test_parameters_are_nested_dicts_of_arrays_with_string_keys(built: tuple[Encoder, dict]) -> None:
    _, params = built

    def check(node: object) -> None:
        if isinstance(node, dict):
            assert all(isinstance(name, str) for name in node)
            for child in node.values():
                check(child)
        else:
            assert isinstance(node, jax.Array)

    check(params)


@pytest.mark.parametrize("name", ["gru", "lstm", "linear_recurrence", "sasrec", "bert4rec", "ligr", "hstu"])
def test_dropout_needs_a_key_and_follows_it(name: str) -> None:
    encoder = make_encoder(CONFIGS[name])
    params = encoder.init(jax.random.key(1))
    batch, vectors = make_batch([[1, 1, 1, 1]]), normal(8, 1, 4, WIDTH)
    plain = encoder.encode(params, vectors, batch)
    encode = jax.jit(encoder.encode)
    first, again, other = (encode(params, vectors, batch, key=jax.random.key(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "transformer"}, "one of mean, gru, lstm, linear_recurrence, sasrec"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"num_layers": -1}, "num_layers"),
        ({"dropout": 1.0}, "less than 1, got 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"width": 10, "num_heads": 4}, "multiple of encoder.num_heads, got 10 and 4"),
        ({"feed_forward_multiple": 0.0}, "feed_forward_multiple"),
        ({"norm": "middle"}, "pre, post"),
        ({"activation": "tanh"}, "gelu, relu"),
        ({"kind": "mean", "recency_half_life": 0.0}, "greater than 0"),
        ({"kind": "gru", "recency_half_life": 2.0}, "belongs to kind 'mean'"),
        ({"kind": "gru", "language_model": "minilm"}, "no other kind takes one"),
        ({"kind": "language"}, "language or text needs a language model's directory"),
    ],
)
def test_bad_settings_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        EncoderConfig(**settings)
