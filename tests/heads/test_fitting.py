"""Heads fitted to rows whose truth is known, and calibrations that repair what is distorted."""

import jax
import numpy as np
import pytest

from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.heads.calibration import fit_platt
from seqrec_jax.heads.classifier import ClassifierHeadConfig, make_classifier_head
from seqrec_jax.heads.fitting import Examples, HeadTrainingConfig, fit_head, head_logits
from seqrec_jax.metrics import expected_calibration_error

LOOKED_AT = np.array([0.9, 0.45, 0.15])
QUICK = HeadTrainingConfig(hidden_width=None, batch_size=1000, max_epochs=12, learning_rate=0.05)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, dtype=np.float64)))


def advertisements(seed=0, count=30_000):
    """States, item vectors, rows in places, and the true P(click | looked at) and P(conversion | click)."""
    rng = np.random.default_rng(seed)
    states, items = rng.normal(size=(300, 2)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)
    moments, item_ids = rng.integers(0, 300, count), rng.integers(1, 9, count)
    positions = rng.integers(1, 4, count)
    products = np.sum(states[moments] * items[item_ids], axis=1)
    click, conversion = sigmoid(1.5 * products - 0.5), sigmoid(items[item_ids, 0] - 1)
    clicked = rng.random(count) < LOOKED_AT[positions - 1] * click
    bought = clicked & (rng.random(count) < conversion)
    columns = (moments, clicked, item_ids, positions, bought)
    return states, items, Examples(*(column.astype(np.int32) for column in columns)), click, conversion


@pytest.fixture(scope="module")
def fitted():
    states, items, rows, click, conversion = advertisements()
    head = make_classifier_head(ClassifierHeadConfig(2, 2, 2, num_positions=3))
    first, last = (Examples(*(column[part] for column in rows)) for part in (slice(0, 20_000), slice(20_000, None)))
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        found = fit_head(
            head, states, items, kind="click_and_conversion", training=first, validation=last, config=QUICK
        )
    return head, found, states, items, last, click[20_000:], conversion[20_000:]


def test_clicks_conversions_and_how_places_are_looked_at_are_found(fitted):
    head, found, states, items, rows, click, conversion = fitted
    logits = head_logits(head, found.params, states, items, rows)
    chances = sigmoid(np.stack([one(logits[:, i]) for i, one in enumerate(found.calibrations)], axis=1))
    assert np.abs(chances[:, 0] - LOOKED_AT[rows.positions - 1] * click).mean() < 0.03
    assert np.abs(chances[:, 1] - conversion).mean() < 0.06
    looked_at = sigmoid(found.params["examination"]["logits"])[1:]
    np.testing.assert_allclose(looked_at / looked_at[0], LOOKED_AT / LOOKED_AT[0], atol=0.06)
    assert found.losses[-1][1] < found.losses[0][1]


def test_a_place_scales_the_chance_of_a_click_and_leaves_the_conversion(fitted):
    head, found, states, items, rows, *_ = fitted
    at = [
        sigmoid(head_logits(head, found.params, states, items, rows._replace(positions=np.full(10_000, place))))
        for place in (1, 3)
    ]
    looked_at = sigmoid(found.params["examination"]["logits"])
    np.testing.assert_allclose(at[1][:, 0] / at[0][:, 0], looked_at[3] / looked_at[1], rtol=1e-4)
    np.testing.assert_allclose(at[1][:, 1], at[0][:, 1])


def test_a_head_that_promises_too_much_is_repaired(fitted):
    head, found, states, items, rows, *_ = fitted
    raw = 3 * head_logits(head, found.params, states, items, rows)[:, 0] + 2
    happened = np.asarray(rows.labels) > 0
    half = slice(0, 5000), slice(5000, None)
    calibration = fit_platt(raw[half[0]], happened[half[0]])
    before, after = (
        float(expected_calibration_error(sigmoid(one).astype(np.float32), happened[half[1]]))
        for one in (raw[half[1]], calibration(raw[half[1]]))
    )
    assert before > 0.05 > 0.02 > after


def test_classes_of_users_alone():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(3000, 3)).astype(np.float32)
    rows = Examples(np.arange(3000), 1 + states.argmax(axis=1))
    head = make_classifier_head(ClassifierHeadConfig(3, 3))
    first, last = (Examples(rows.moments[part], rows.labels[part]) for part in (slice(0, 2000), slice(2000, None)))
    with jax.numpy_dtype_promotion("standard"):
        found = fit_head(head, states, None, kind="classes", training=first, validation=last, config=QUICK)
    logits = head_logits(head, found.params, states, None, last)
    assert np.mean(1 + logits.argmax(axis=1) == last.labels) > 0.9
    assert len(found.calibrations) == 1 and found.calibrations[0].intercept == 0


def test_before_the_first_step_a_head_says_how_often_each_place_was_taken(fitted):
    head, _, states, items, rows, *_ = fitted
    still = HeadTrainingConfig(hidden_width=None, batch_size=10_000, max_epochs=1, learning_rate=1e-12)
    with jax.numpy_dtype_promotion("standard"):
        found = fit_head(head, states, items, kind="click_and_conversion", training=rows, validation=rows, config=still)
    chances = sigmoid(head_logits(head, found.params, states, items, rows))
    for place in (1, 2, 3):
        here = rows.positions == place
        assert chances[here, 0].mean() == pytest.approx(rows.labels[here].mean(), abs=1e-3)
    assert chances[:, 1].mean() == pytest.approx(rows.conversions[rows.labels > 0].mean(), abs=1e-3)


def test_rows_that_nothing_can_be_learnt_from():
    head, states = make_classifier_head(ClassifierHeadConfig(1, 2)), np.zeros((4, 2), np.float32)
    both, none = Examples(np.arange(4), np.array([0, 1, 0, 1])), Examples(np.arange(4), np.zeros(4, int))
    options = {"kind": "yes_no", "validation": both}
    with pytest.raises(DataError, match="4 training rows for the label are all negative"):
        fit_head(head, states, None, training=none, **options)
    with pytest.raises(DataError, match="no validation rows"):
        fit_head(head, states, None, kind="yes_no", training=both, validation=Examples(np.arange(0), np.zeros(0, int)))
    with pytest.raises(DataError, match="all positive"):
        fit_head(head, states, None, training=none._replace(labels=np.ones(4, int)), **options)
    with pytest.raises(DataError, match="fewer than two classes"):
        fit_head(head, states, None, kind="classes", training=both, validation=both)
    with pytest.raises(ConfigError, match="kind must be one of"):
        fit_head(head, states, None, kind="maybe", training=both, validation=both)
    with pytest.raises(ConfigError, match="patience"):
        HeadTrainingConfig(patience=0)
    with pytest.raises(ConfigError, match="learning_rate"):
        HeadTrainingConfig(learning_rate=0)
