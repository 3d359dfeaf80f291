"""Classifiers of states and items: hand-worked logits, and advertisements whose clicks and sales are learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.heads.calibration import fit_platt
from seqrec_jax.heads.classifier import ClassifierHeadConfig, make_classifier_head
from seqrec_jax.heads.expected_value import rank_by_expected_value
from seqrec_jax.losses import class_loss, click_and_conversion_loss, weighted_mean
from seqrec_jax.metrics import expected_calibration_error, log_loss


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(loss, params, *, num_steps=150, learning_rate=0.05):
    """Full-batch training."""
    optimizer = optax.adam(learning_rate)

    @jax.jit
    def run(params):
        def step(carry, _):
            params, moments = carry
            updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=num_steps)[0][0]

    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        return run(params)


@pytest.mark.parametrize("hidden_width", [None, 5])
@pytest.mark.parametrize("item_width", [None, 2])
def test_logits_by_hand(hidden_width, item_width):
    head = make_classifier_head(ClassifierHeadConfig(3, 4, item_width, hidden_width))
    shapes = jax.eval_shape(head.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape), shapes)
    states, items = normal(1, 6, 4), normal(2, 6, 2)
    inputs = states
    if item_width:
        product = (states @ params["interaction"]["kernel"] + params["interaction"]["bias"]) * items
        inputs = np.concatenate([states, items, product], axis=1)
    if hidden_width:
        inputs = inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"]
        inputs = inputs * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (inputs + 0.044715 * inputs**3)))
    expected = inputs @ params["output"]["kernel"] + params["output"]["bias"]
    vectors = (jnp.asarray(items),) if item_width else ()
    logits = head.logits(jax.tree.map(jnp.asarray, params), jnp.asarray(states), *vectors)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_next_category_is_learnt():
    centres = normal(0, 5, 6)
    classes = np.random.default_rng(1).integers(0, 6, 600).astype(np.int32)  # 0 = unknown
    states = jnp.asarray(centres[np.maximum(classes, 1) - 1] + 0.5 * normal(2, 600, 6))
    head = make_classifier_head(ClassifierHeadConfig(num_logits=5, state_width=6))

    def loss(params):
        logits = head.logits(params, states[:400])
        return weighted_mean(class_loss(logits, jnp.asarray(classes[:400])), where=jnp.asarray(classes[:400] > 0))

    params = trained(loss, head.init(jax.random.key(0)))
    found = 1 + np.argmax(head.logits(params, states[400:]), axis=1)
    known = classes[400:] > 0
    nearest = 1 + np.square(np.asarray(states[400:])[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
    best = np.mean(nearest[known] == classes[400:][known])  # what the noise leaves possible
    assert np.mean(found[known] == classes[400:][known]) > best - 0.05 > 0.7


def test_clicks_and_conversions_are_learnt_calibrated_and_ranked_by_what_they_are_worth():
    """A user clicks what is like him, and buys after a click what lies in a direction of its own."""
    rng = np.random.default_rng(0)
    users, items = normal(1, 6000, 3), normal(2, 6000, 3)
    click_truth = (users * items).sum(axis=1) - 1.0
    conversion_truth = 1.5 * items[:, 0] - 0.5
    clicks = rng.random(6000) < 1 / (1 + np.exp(-click_truth))
    conversions = clicks & (rng.random(6000) < 1 / (1 + np.exp(-conversion_truth)))
    head = make_classifier_head(ClassifierHeadConfig(num_logits=2, state_width=3, item_width=3))
    fit, validation, test = slice(0, 3000), slice(3000, 4500), slice(4500, 6000)

    def loss(params):
        logits = head.logits(params, jnp.asarray(users[fit]), jnp.asarray(items[fit]))
        values = click_and_conversion_loss(
            logits[:, 0], logits[:, 1], clicks=jnp.asarray(clicks[fit]), conversions=jnp.asarray(conversions[fit])
        )
        return weighted_mean(values)

    params = trained(loss, head.init(jax.random.key(1)))
    # as of a model that is far too sure of itself
    logits = 3.0 * np.asarray(head.logits(params, jnp.asarray(users), jnp.asarray(items))) + 1.0
    of_click = fit_platt(logits[validation, 0], clicks[validation])
    clicked = clicks[validation]
    of_conversion = fit_platt(logits[validation, 1][clicked], conversions[validation][clicked])

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    raw, calibrated = sigmoid(logits[test, 0]), sigmoid(of_click(logits[test, 0]))
    assert expected_calibration_error(raw, clicks[test]) > 0.1
    assert expected_calibration_error(calibrated, clicks[test]) < 0.04
    both = calibrated * sigmoid(of_conversion(logits[test, 1]))
    truth = sigmoid(click_truth[test]) * sigmoid(conversion_truth[test])
    assert expected_calibration_error(both, conversions[test]) < 0.04
    reached, possible, nothing = (
        log_loss(p.astype(np.float32), conversions[test])
        for p in (both, truth, np.full(1500, conversions[test].mean()))
    )
    assert reached < possible + 0.1 * (nothing - possible)
    # lists of 10 candidates each: the first by expected value is worth more than the first by click
    values = np.concatenate([[0.0], rng.uniform(1, 10, 1500)]).astype(np.float32)
    lists = jnp.arange(1, 1501, dtype=jnp.int32).reshape(150, 10)
    ranking = jax.jit(lambda a, b: rank_by_expected_value(lists, a, b, values=jnp.asarray(values)))(
        *(jnp.asarray(part.reshape(150, 10)) for part in (of_click(logits[test, 0]), of_conversion(logits[test, 1])))
    )
    worth = np.concatenate([[0.0], truth]) * values
    by_click = np.asarray(lists)[np.arange(150), calibrated.reshape(150, 10).argmax(axis=1)]
    best = worth[1:].reshape(150, 10).max(axis=1).mean()
    assert worth[ranking.item_ids[:, 0]].mean() > 0.95 * best > worth[by_click].mean() + 0.1 * best


def test_expected_values_by_hand_with_ties_and_padding():
    ids = jnp.array([[3, 0, 1, 2], [2, 2, 0, 1]])
    zero = jnp.zeros((2, 4))
    ranking = rank_by_expected_value(ids, zero, zero, values=jnp.array([99.0, 4.0, 8.0, 4.0]))
    assert ranking.item_ids.tolist() == [[2, 3, 1, 0], [2, 2, 1, 0]]
    assert ranking.expected_values.tolist() == [[2.0, 1.0, 1.0, -np.inf], [2.0, 2.0, 1.0, -np.inf]]
    assert ranking.order.tolist() == [[3, 0, 2, 1], [0, 1, 3, 2]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"heads\.hidden_width must be at least 1, got 0"):
        ClassifierHeadConfig(hidden_width=0)
    head = make_classifier_head(ClassifierHeadConfig(1, 4, 2))
    params = head.init(jax.random.key(0))
    with pytest.raises(ShapeError, match=r"states have shape \(3, 5\), expected \[\*B, 4\]"):
        head.logits(params, jnp.ones((3, 5)), jnp.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"the head takes item vectors \[\*B, 2\]"):
        head.logits(params, jnp.ones((3, 4)))
    with pytest.raises(ShapeError, match=r"item_vectors have shape \(2, 2\), expected \(3, 2\)"):
        head.logits(params, jnp.ones((3, 4)), jnp.ones((2, 2)))
    with pytest.raises(ShapeError, match=r"click_logits have shape \(1, 2\), expected that of item_ids, \(1, 3\)"):
        rank_by_expected_value(jnp.ones((1, 3), int), jnp.ones((1, 2)), jnp.ones((1, 3)), values=jnp.ones(4))


def test_places_by_hand_and_what_does_not_fit():
    head = make_classifier_head(ClassifierHeadConfig(2, 3, num_positions=2))
    params = head.init(jax.random.key(0))
    assert params["examination"]["logits"].shape == (3,)
    params["examination"] = {"logits": jnp.asarray([0.0, 2.0, -1.0])}
    states, positions = jnp.asarray(normal(0, 4, 3)), jnp.asarray([1, 2, 2, 1])
    plain = make_classifier_head(ClassifierHeadConfig(2, 3)).logits(params, states)
    found = head.logits(params, states, positions=positions)
    looked_at = jax.nn.sigmoid(jnp.asarray([2.0, -1.0, -1.0, 2.0]))
    np.testing.assert_allclose(jax.nn.sigmoid(found[:, 0]), looked_at * jax.nn.sigmoid(plain[:, 0]), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 1], plain[:, 1])
    with pytest.raises(ShapeError, match="positions 1 to 2, as heads"):
        head.logits(params, states)
    with pytest.raises(ShapeError, match=r"positions have shape \(3,\)"):
        head.logits(params, states, positions=positions[:3])
    with pytest.raises(ConfigError, match="num_positions must be"):
        ClassifierHeadConfig(num_positions=0)
