"""Pointwise and pairwise losses against their formulas in NumPy, Optax and exact decimals."""

from __future__ import annotations

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import close, normal

from seqrec_jax import losses
from seqrec_jax.errors import ConfigError, ShapeError

PAIR_LOSSES = {
    "binary cross entropy": losses.binary_cross_entropy_loss,
    "generalised": lambda *scores, **how: losses.generalized_binary_cross_entropy_loss(*scores, beta=0.4, **how),
    "bpr": losses.bpr_loss,
    "bpr-max": losses.bpr_max_loss,
}


def sigmoid(scores):
    return 1 / (1 + np.exp(-np.asarray(scores, dtype=np.float64)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 50.0]))
def test_losses_equal_their_formulas(seed, scale):
    positive, negative, labels = scale * normal(seed, 4), scale * normal(seed + 1, 4, 3), normal(seed + 2, 4)
    close(losses.squared_error_loss(positive, labels), (np.asarray(positive) - np.asarray(labels)) ** 2)
    positive_terms = optax.sigmoid_binary_cross_entropy(positive, jnp.ones(4))
    negative_terms = optax.sigmoid_binary_cross_entropy(negative, jnp.zeros((4, 3)))
    close(losses.binary_cross_entropy_loss(positive, negative), positive_terms + negative_terms.sum(axis=1))
    gaps = np.asarray(positive, dtype=np.float64)[:, None] - np.asarray(negative)
    close(losses.bpr_loss(positive, negative), np.logaddexp(0, -gaps).sum(axis=1))


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_a_masked_negative_counts_for_nothing(loss):
    positive, negative = normal(0, 4), normal(1, 4, 3)
    keep = jnp.tile(jnp.array([True, True, False]), (4, 1))
    for spoilt in (1e4, np.inf, np.nan):
        masked = jax.value_and_grad(lambda s: jnp.sum(loss(positive, s, negative_where=keep)))
        value, gradient = masked(negative.at[:, 2].set(spoilt))
        close(value, jnp.sum(loss(positive, negative[:, :2])))
        np.testing.assert_array_equal(gradient[:, 2], 0.0)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_without_any_negative_gradients_are_finite(loss):
    nothing = jnp.zeros((4, 3), dtype=bool)
    gradients = jax.grad(lambda *scores: jnp.sum(loss(*scores, negative_where=nothing)), argnums=(0, 1))(
        normal(0, 4), normal(1, 4, 3)
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    np.testing.assert_array_equal(gradients[1], 0.0)


# --- generalised binary cross entropy ---


def gbce_of_the_paper(positive, negatives, num_items, calibration):
    """Equations 8 to 10 of the gSASRec paper word by word, times N + 1, in decimals that nothing rounds away."""
    with localcontext() as context:
        context.prec = 400

        def probability(score):
            return 1 / (1 + (-Decimal(float(score))).exp())

        alpha = Decimal(len(negatives)) / (num_items - 1)
        beta = alpha * (Decimal(calibration) * (1 - 1 / alpha) + 1 / alpha)
        total = (probability(positive) ** beta).ln() + sum((1 - probability(score)).ln() for score in negatives)
        return float(-total)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_gbce_equals_the_paper_also_at_extreme_scores(calibration, scale):
    positive, negative = scale * normal(3, 6), scale * normal(4, 6, 5)
    beta = losses.calibrated_beta(5, 1001, calibration=calibration)
    assert beta == pytest.approx(1 - calibration * (1 - 5 / 1000))
    found = jax.jit(losses.generalized_binary_cross_entropy_loss)(positive, negative, beta=beta)
    expected = [
        gbce_of_the_paper(score, others, 1001, calibration) for score, others in zip(positive, negative, strict=True)
    ]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    gradient = jax.grad(lambda s: jnp.sum(losses.generalized_binary_cross_entropy_loss(s, negative, beta=beta)))(
        positive
    )
    np.testing.assert_allclose(gradient, -beta * sigmoid(-np.asarray(positive)), rtol=2e-5, atol=1e-30)


def test_full_calibration_learns_the_probability_that_plain_binary_cross_entropy_overstates():
    share, num_items, num_negatives = 0.2, 101, 10
    # expected loss of one item: chosen with its share, drawn as a negative with (1 - share) N / (V - 1)
    drawn = (1 - share) * num_negatives / (num_items - 1)
    scores = jnp.linspace(-6.0, 6.0, 4801)

    def learnt(calibration):
        beta = losses.calibrated_beta(num_negatives, num_items, calibration=calibration)
        chosen = losses.generalized_binary_cross_entropy_loss(scores, jnp.zeros((4801, 0)), beta=beta)
        against = losses.generalized_binary_cross_entropy_loss(jnp.full(4801, 80.0), scores[:, None], beta=beta)
        return float(jax.nn.sigmoid(scores[jnp.argmin(share * chosen + drawn * against)]))

    assert learnt(1.0) == pytest.approx(share, abs=1e-3)
    assert learnt(0.0) == pytest.approx(share / (share + drawn), abs=1e-3) and learnt(0.0) > 0.7


def test_a_calibration_out_of_range_is_refused():
    assert losses.calibrated_beta(500, 100, calibration=1.0) == 1.0
    for numbers, calibration in [((0, 10), 0.5), ((5, 1), 0.5), ((5, 10), 1.5), ((5, 10), float("nan"))]:
        with pytest.raises(ConfigError, match=r"num_negatives must be|num_items must be|calibration must be"):
            losses.calibrated_beta(*numbers, calibration=calibration)


# --- BPR-max ---


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 1.0, 20.0]), penalty=st.sampled_from([0.0, 0.5]))
def test_bpr_max_equals_its_formula(seed, scale, penalty):
    positive, negative = (
        np.asarray(scale * normal(seed + i, *shape), np.float64) for i, shape in enumerate([(4,), (4, 3)])
    )
    keep = np.random.default_rng(seed).random((4, 3)) < 0.7
    keep[:, 0] = True
    weights = np.exp(negative) * keep
    weights /= weights.sum(axis=1, keepdims=True)
    expected = -np.log(np.sum(weights * sigmoid(positive[:, None] - negative), axis=1))
    expected += penalty * np.sum(weights * negative**2, axis=1)
    found = losses.bpr_max_loss(
        positive.astype(np.float32), negative.astype(np.float32), score_penalty=penalty, negative_where=keep
    )
    close(found, expected, rtol=1e-4, atol=1e-5)


def test_bpr_max_worked_by_hand_at_extreme_scores():
    value, gradient = jax.value_and_grad(lambda s: losses.bpr_max_loss(jnp.float32(-500.0), s, score_penalty=0.0))(
        jnp.array([500.0, 0.0, -500.0])
    )
    # Σ wσ = e⁻¹⁰⁰⁰ + e⁻⁵⁰⁰ e⁻⁵⁰⁰ + e⁻¹⁰⁰⁰ / 2, of which float64 holds nothing
    assert float(value) == pytest.approx(1000 - np.log(2.5), rel=1e-6)
    assert np.isfinite(gradient).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="labels has shape"):
        losses.squared_error_loss(jnp.ones(3), jnp.ones(2))
    with pytest.raises(ShapeError, match="negative_scores must have the shape"):
        losses.bpr_loss(jnp.ones(3), jnp.ones(3))
    with pytest.raises(ShapeError, match="negative_where has shape"):
        losses.bpr_max_loss(jnp.ones(3), jnp.ones((3, 2)), negative_where=jnp.ones(3, dtype=bool))
