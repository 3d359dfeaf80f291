"""The decoder of semantic ids: teacher forcing agrees with generation, and a planted law is learnt."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.heads.generative import GenerativeHeadConfig, make_generative_head
from seqrec_jax.losses import weighted_mean

DECODER = EncoderConfig(width=8, num_layers=1, num_heads=2, dropout=0.0)
CONFIG = GenerativeHeadConfig(state_width=6, decoder=DECODER)
CODES = np.concatenate([[[0, 0, 0], [0, 0, 0]], 1 + np.array(list(itertools.product(range(3), repeat=3)))[::2]])
"""Items 2 to 15 have every second code of 27, item 1 has none."""
ITEMS = np.arange(2, 16)


def large_params(head, seed=1):
    """Parameters of a size at which everything matters."""
    shapes = jax.eval_shape(head.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.5, leaf.shape), jnp.float32), shapes)


def states_of(num_users, seed=2):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_users, 6)), jnp.float32)


def compiled_head(config=CONFIG, codes=CODES):
    head = make_generative_head(config, codes, codebook_size=4)
    generate = jax.jit(head.generate, static_argnames=("k", "num_beams"))
    return head._replace(loss=jax.jit(head.loss), scores=jax.jit(head.scores), generate=generate)


@pytest.fixture(scope="module")
def head():
    return compiled_head()


@pytest.mark.parametrize("kind", ["sasrec", "gru"])
def test_scores_are_the_losses_of_all_items_and_generation_is_their_order(kind, head):
    if kind != "sasrec":
        head = compiled_head(GenerativeHeadConfig(6, EncoderConfig(kind=kind, width=8, num_layers=1)))
    params, states = large_params(head), states_of(3)
    scores = np.asarray(head.scores(params, states))
    losses = head.loss(params, jnp.repeat(states, 14, axis=0), jnp.tile(jnp.asarray(ITEMS), 3))
    np.testing.assert_allclose(scores[:, 2:], -losses.sum(axis=1).reshape(3, 14), rtol=1e-4, atol=1e-4)
    assert np.all(scores[:, :2] == -np.inf)
    found = head.generate(params, states, k=16)
    np.testing.assert_array_equal(found.item_ids[:, :14], np.argsort(-scores, axis=1)[:, :14])
    np.testing.assert_allclose(found.scores[:, :14], -np.sort(-scores, axis=1)[:, :14], rtol=1e-4, atol=1e-4)
    assert not found.item_ids[:, 14:].any()


def test_only_allowed_items_are_generated(head):
    params, states = large_params(head), states_of(3)
    allowed = jnp.asarray(np.random.default_rng(3).random((3, 16)) < 0.5)
    scores = np.where(allowed, head.scores(params, states), -np.inf)
    expected = np.where(np.sort(-scores, axis=1) < np.inf, np.argsort(-scores, axis=1), 0)[:, :14]
    np.testing.assert_array_equal(head.generate(params, states, k=14, allowed=allowed).item_ids, expected)


def test_a_code_is_judged_by_the_codes_before_it_only(head):
    """The losses of two items are equal up to the first level at which their codes differ."""
    params, state = large_params(head), states_of(1)
    losses = np.asarray(head.loss(params, jnp.repeat(state, 14, axis=0), jnp.asarray(ITEMS)))
    for one, other in itertools.combinations(range(14), 2):
        differs = int(np.argmax(CODES[ITEMS[one]] != CODES[ITEMS[other]]))
        np.testing.assert_allclose(losses[one, :differs], losses[other, :differs], rtol=1e-5)
        assert not np.isclose(losses[one, differs], losses[other, differs])


def test_what_does_not_count_has_neither_loss_nor_gradient(head):
    params, targets = large_params(head), jnp.array([2, 0, 1, 9, 15])
    where, weights = jnp.array([True, True, True, False, True]), jnp.array([2.0, 1.0, 1.0, 1.0, 0.0])
    spoilt = states_of(5).at[1:].set(jnp.nan)

    def total(states, **masks):
        losses = head.loss(params, states, targets, **masks)
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(spoilt, where=where, weights=weights)
    plain = total(states_of(5))[1]
    np.testing.assert_allclose(losses[0], 2 * plain[0], rtol=1e-5)
    assert not np.asarray(losses[1:]).any() and not np.asarray(gradient[1:]).any()
    assert np.asarray(gradient[0]).all()
    assert not np.asarray(plain[1:3]).any() and np.asarray(plain[3:]).all()


def test_gradient_equals_finite_differences(head):
    params, states, targets = large_params(head), states_of(4), jnp.array([3, 8, 8, 14])
    check_grads(
        jax.jit(lambda params, states: head.loss(params, states, targets).sum()),
        (params, states),
        order=1,
        modes=["rev"],
        rtol=2e-2,
        atol=2e-2,
    )


def test_it_learns_a_planted_law():
    """A user's state is a noisy copy of the next item's vector; the head is trained beside a frozen encoder."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([[[0, 0]], 1 + np.array(list(itertools.product(range(8), repeat=2)))])
    codebooks = rng.normal(size=(2, 9, 6)).astype(np.float32)
    vectors = codebooks[0, codes[:, 0]] + codebooks[1, codes[:, 1]]
    head = make_generative_head(CONFIG, codes, codebook_size=8)
    optimizer = optax.adam(1e-2)

    def draw(number, seed):
        rng = np.random.default_rng(seed)
        targets = rng.integers(1, 65, number)
        states = vectors[targets] + 0.3 * rng.normal(size=(number, 6))
        return jnp.asarray(states, jnp.float32), jnp.asarray(targets, jnp.int32)

    @jax.jit
    def train(params, states, targets):
        def step(carry, batch):
            params, moments = carry
            grads = jax.grad(lambda params: weighted_mean(head.loss(params, *batch)))(params)
            updates, moments = optimizer.update(grads, moments, params)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), (states, targets))[0][0]

    states, targets = draw(64 * 200, 1)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        params = train(head.init(jax.random.key(0)), states.reshape(200, 64, 6), targets.reshape(200, 64))
    states, targets = draw(200, 2)
    found = jax.jit(lambda states: head.generate(params, states, k=5))(states)
    nearest = np.argsort(np.square(np.asarray(states)[:, None] - vectors[None, 1:]).sum(axis=2), axis=1)[:, :1] + 1
    best = np.mean(nearest[:, 0] == targets)  # what the noise leaves possible
    assert np.mean(found.item_ids[:, 0] == targets) > 0.6 * best > 0.5
    assert np.mean(np.any(found.item_ids == targets[:, None], axis=1)) > 0.8  # chance is 5 in 64


def test_a_grown_catalogue_keeps_the_parameters(head):
    longer = make_generative_head(CONFIG, np.concatenate([CODES, [[4, 4, 4]]]), codebook_size=4)
    shapes = jax.eval_shape(head.init, jax.random.key(0))
    assert jax.eval_shape(longer.init, jax.random.key(0)) == shapes
    assert jax.eval_shape(longer.scores, shapes, states_of(2)).shape == (2, 17)


def test_bad_heads_are_refused(head):
    with pytest.raises(ConfigError, match="bert4rec, to which codes cannot be appended"):
        make_generative_head(GenerativeHeadConfig(6, EncoderConfig(kind="bert4rec")), CODES, codebook_size=4)
    with pytest.raises(DataError, match="codes hold 3, expected at most codebook_size = 2"):
        make_generative_head(CONFIG, CODES, codebook_size=2)
    with pytest.raises(ShapeError, match=r"states have shape \(2, 5\), expected \[B, 6\]"):
        head.generate(large_params(head), jnp.zeros((2, 5)), k=3)
    with pytest.raises(ConfigError, match="state_width must be at least 1, got 0"):
        GenerativeHeadConfig(state_width=0)
