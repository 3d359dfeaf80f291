"""Losses beside labels: by hand in float64, and extreme scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import close, normal

from seqrec_jax.errors import ShapeError
from seqrec_jax.losses import class_loss, click_and_conversion_loss, logistic_loss

CLASSES = jnp.array([1, 3, 0, 2, 3, 4])
CLICKS = jnp.array([True, True, False, False, True, True])
CONVERSIONS = jnp.array([True, False, False, False, True, False])
LOSSES = {
    "class": lambda v: class_loss(v[:, :4], CLASSES),
    "logistic": lambda v: logistic_loss(v[:, 0], CLICKS),
    "click and conversion": lambda v: click_and_conversion_loss(
        v[:, 0], v[:, 1], clicks=CLICKS, conversions=CONVERSIONS
    ),
}


def by_hand(name, v):
    v = np.asarray(v, np.float64)
    if name == "class":
        own = np.take_along_axis(v, np.maximum(np.asarray(CLASSES) - 1, 0)[:, None], axis=1)[:, 0]
        return np.where(CLASSES > 0, np.log(np.exp(v[:, :4]).sum(axis=1)) - own, 0.0)
    click, conversion = 1 / (1 + np.exp(-v[:, 0])), 1 / (1 + np.exp(-v[:, 1]))
    losses = -np.log(np.where(CLICKS, click, 1 - click))
    if name == "click and conversion":
        losses -= np.log(np.where(CONVERSIONS, click * conversion, 1 - click * conversion))
    return losses


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_what_the_formula_says(name):
    v = 2 * normal(0, 6, 5)
    close(jax.jit(LOSSES[name])(v), by_hand(name, v))


def test_certain_scores_lose_nothing_and_wrong_ones_their_distance():
    large, no = jnp.array([80.0, 80.0, -80.0, -80.0]), jnp.zeros(4, bool)
    other = jnp.array([80.0, -80.0, 80.0, -80.0])

    def total(click, conversion, clicks, conversions):
        return click_and_conversion_loss(click, conversion, clicks=clicks, conversions=conversions).sum()

    loss = click_and_conversion_loss(large, other, clicks=no, conversions=no)
    close(loss, np.array([80 + 80 - np.log(2), 80.0, 0.0, 0.0]), atol=1e-4)
    loss = click_and_conversion_loss(large, other, clicks=~no, conversions=~no)
    close(loss, np.array([0.0, 80.0, 160.0, 240.0]), atol=1e-4)
    for labels in (no, ~no):
        gradients = jax.grad(total, argnums=(0, 1))(large, other, labels, labels)
        assert all(np.all(np.abs(gradient) <= 2.001) for gradient in gradients)


def test_a_conversion_without_a_click_is_none():
    zero, no = jnp.zeros(1), jnp.array([False])
    close(
        click_and_conversion_loss(zero, zero, clicks=no, conversions=~no),
        click_and_conversion_loss(zero, zero, clicks=no, conversions=no),
    )


def test_bad_labels_are_refused():
    with pytest.raises(ShapeError, match=r"classes has shape \(3,\), expected \(2,\)"):
        class_loss(jnp.zeros((2, 4)), jnp.array([1, 2, 3]))
    with pytest.raises(ShapeError, match="floating point"):
        logistic_loss(jnp.zeros(2), jnp.array([0.5, 1.0]))
    with pytest.raises(ShapeError, match=r"labels has shape \(3,\), expected \(2,\)"):
        logistic_loss(jnp.zeros(2), jnp.ones(3, bool))
