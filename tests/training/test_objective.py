"""Every objective against a loop in NumPy, on a case small enough to read."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seqrec_jax.errors import ConfigError
from seqrec_jax.negatives import in_batch_negatives, mixed_negatives, popularity_sampler, sample_negatives
from seqrec_jax.training.config import LossConfig
from seqrec_jax.training.objective import make_objective

COUNTS = np.array([9, 4, 0, 1, 2, 0, 3])  # row 0 never counts; items 2 and 5 have no training event
TRAINED = [1, 3, 4, 6]
TARGETS = np.array([[1, 3, 0], [6, 4, 1]], dtype=np.int32)
WEIGHTS = np.array([[1.0, 0.5, 0.0], [2.0, 1.0, 0.25]], dtype=np.float32)
STEP_KEY = jax.random.key(5)
ROW_KEYS = jax.random.split(jax.random.key(6), 2)
NEGATIVES, TEMPERATURE, POWER = 7, 0.7, 0.75
CONFIG = LossConfig(num_negatives=NEGATIVES, temperature=TEMPERATURE)
KINDS = ("softmax", "sampled_softmax", "binary_cross_entropy", "generalized_binary_cross_entropy", "bpr", "bpr_max")
CASES = {
    **{kind: replace(CONFIG, kind=kind) for kind in KINDS},
    "smoothed": replace(CONFIG, label_smoothing=0.2),
    "popularity per target": replace(
        CONFIG, kind="bpr", negatives="popularity", popularity_power=POWER, negatives_per="target"
    ),
    "popularity per row": replace(CONFIG, kind="sampled_softmax", negatives="popularity", popularity_power=POWER),
    "uniform per batch": replace(CONFIG, kind="bpr_max", negatives_per="batch", score_penalty=0.3),
    "in batch": replace(CONFIG, kind="sampled_softmax", negatives="in_batch", num_negatives=3),
    "mixed": replace(CONFIG, kind="sampled_softmax", negatives="mixed"),
    "inverse propensities": replace(CONFIG, kind="binary_cross_entropy", propensity_power=0.5),
}


def vectors():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)


def drawn_ids(config):
    """`[2, 3, N]` negatives of each target, by the samplers that have tests of their own."""
    sampler = popularity_sampler(COUNTS, power=POWER if config.negatives == "popularity" else 0.0)
    popularity = popularity_sampler(COUNTS).log_q
    if config.negatives == "in_batch":
        ids = in_batch_negatives(TARGETS, popularity, num_negatives=config.num_negatives, key=STEP_KEY).ids
    elif config.negatives == "mixed":
        ids = mixed_negatives(TARGETS, popularity, sampler, num_negatives=NEGATIVES, key=STEP_KEY).ids
    elif config.negatives_per == "batch":
        ids = sample_negatives(sampler, (NEGATIVES,), STEP_KEY).ids
    elif config.negatives_per == "target":
        return np.stack([np.asarray(sample_negatives(sampler, (3, NEGATIVES), key).ids) for key in ROW_KEYS])
    else:
        rows = np.stack([np.asarray(sample_negatives(sampler, (NEGATIVES,), key).ids) for key in ROW_KEYS])
        return np.broadcast_to(rows[:, None], (2, 3, NEGATIVES))
    return np.broadcast_to(np.asarray(ids), (2, 3, len(ids)))


def log_q(config, item):
    by_count = COUNTS[item] / sum(COUNTS[j] for j in TRAINED)
    if config.negatives == "popularity":
        return np.log(COUNTS[item] ** POWER / sum(COUNTS[j] ** POWER for j in TRAINED))
    # half of the seven mixed negatives, rounded down, come from the batch
    return np.log({"uniform": 1 / 4, "in_batch": by_count, "mixed": 3 / 7 * by_count + 4 / 7 / 4}[config.negatives])


def loss_of_target(config, query, v_y, target, negatives):
    def score(item):
        return float(query.astype(np.float64) @ v_y[item]) / TEMPERATURE

    own, others = score(target), np.array([score(j) for j in negatives if j not in (target, 0)])
    if config.kind == "softmax":
        total = np.log(sum(np.exp(score(j)) for j in TRAINED))
        smoothing = config.label_smoothing
        return total - (1 - smoothing) * own - smoothing * np.mean([score(j) for j in TRAINED])
    if config.kind == "sampled_softmax":
        corrected = [score(j) - log_q(config, j) for j in negatives if j not in (target, 0)]
        own -= log_q(config, target)
        hits = 1 + np.count_nonzero(negatives) * np.exp(log_q(config, target))
        return np.log(hits * np.exp(own) + np.sum(np.exp(corrected))) - own
    if config.kind == "binary_cross_entropy":
        return np.log1p(np.exp(-own)) + np.log1p(np.exp(others)).sum()
    if config.kind == "generalized_binary_cross_entropy":  # more negatives than the three other items: α = 1
        return np.log1p(np.exp(-own)) + np.log1p(np.exp(others)).sum()
    if config.kind == "bpr":
        return np.log1p(np.exp(others - own)).sum()
    shares = np.exp(others) / np.exp(others).sum()
    return config.score_penalty * shares @ others**2 - np.log(shares @ (1 / (1 + np.exp(others - own))))


def value(config, queries, v_y, targets=TARGETS, weights=WEIGHTS, row_keys=ROW_KEYS):
    objective = make_objective(config, item_counts=COUNTS)
    return objective(queries, v_y, jnp.asarray(targets), jnp.asarray(weights), STEP_KEY, row_keys)


@pytest.mark.parametrize("name", CASES)
def test_the_value_is_the_weighted_mean_of_a_loop(name):
    config = CASES[name]
    queries, v_y = vectors()
    negatives = drawn_ids(config)
    assert set(negatives.ravel()) <= {*TRAINED, 0}
    assert (negatives == TARGETS[..., None]).any(), "a hit on a target should be part of the case"
    weights = WEIGHTS.astype(np.float64)
    if config.propensity_power:
        weights = weights / np.sqrt(np.maximum(COUNTS[TARGETS], 1))
    total = sum(
        weights[row, place]
        * loss_of_target(config, queries[row, place], v_y, TARGETS[row, place], negatives[row, place])
        for row, place in zip(*np.nonzero(TARGETS), strict=True)
    )
    got = jax.jit(lambda *arrays: value(config, *arrays))(queries, v_y)
    assert got.dtype == jnp.float32
    assert float(got) == pytest.approx(total / weights.sum(), rel=1e-5)
    if name in KINDS:
        assert float(value(config, queries, v_y)) == pytest.approx(float(got), rel=1e-6)


def test_gbce_takes_its_calibration_from_the_number_of_trained_items():
    queries, v_y = vectors()
    config = replace(CONFIG, kind="generalized_binary_cross_entropy", num_negatives=1, calibration=0.6)
    found = [float(value(replace(config, calibration=t), queries, v_y)) for t in (0.0, 0.6, 1.0)]
    # β falls in a straight line from 1 to α = 1 / 3
    assert found[1] == pytest.approx(0.4 * found[0] + 0.6 * found[2], rel=1e-5) and found[2] < found[0] - 0.1
    positive = np.einsum("ble,ble->bl", queries, v_y[TARGETS]) / TEMPERATURE
    expected = 2 / 3 * np.average(np.log1p(np.exp(-positive)), weights=WEIGHTS)
    assert found[0] - found[2] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["in batch", "mixed", "inverse propensities"])
def test_one_and_two_devices_give_the_same_value_and_gradient(name):
    queries, v_y = vectors()

    def function(queries, v_y, targets, weights, row_keys):
        def loss(v_y):
            return value(CASES[name], queries, v_y, targets, weights, row_keys=row_keys)

        return jax.value_and_grad(loss)(v_y)

    arrays = queries, v_y, TARGETS, WEIGHTS, ROW_KEYS
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("data"), PartitionSpec()))
    placed = map(jax.device_put, arrays, (rows, whole, rows, rows, rows))
    found, expected = jax.block_until_ready(jax.jit(function)(*placed)), jax.jit(function)(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_negatives_of_the_batch_follow_the_counts_of_targets_where_they_differ():
    queries, v_y = vectors()

    def found(target_counts):
        config = CASES["in batch"]
        objective = make_objective(config, item_counts=COUNTS, target_counts=target_counts)
        return float(objective(queries, v_y, jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), STEP_KEY, ROW_KEYS))

    assert found(None) == found(COUNTS) == found(2 * COUNTS)
    assert found(np.array([0, 1, 0, 4, 4, 0, 9])) != pytest.approx(found(None), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_training_events_are_not_pushed(kind):
    queries, v_y = vectors()
    gradient = np.asarray(jax.jit(jax.grad(lambda v: value(CASES[kind], jnp.asarray(queries), v)))(v_y))
    assert (gradient[[0, 2, 5]] == 0).all()
    assert (np.abs(gradient[TRAINED]).max(axis=1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_target_it_is_zero_with_finite_gradients(kind):
    queries, v_y = vectors()
    nothing = np.zeros_like(TARGETS)

    def loss(queries, v_y):
        return value(CASES[kind], queries, v_y, nothing, np.zeros_like(WEIGHTS))

    loss_value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(queries, v_y)
    assert float(loss_value) == 0.0
    assert all((np.asarray(gradient) == 0).all() for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_vectors_give_a_float32_value(kind):
    queries, v_y = vectors()
    rough = value(CASES[kind], jnp.asarray(queries, dtype=jnp.bfloat16), jnp.asarray(v_y, dtype=jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert float(rough) == pytest.approx(float(value(CASES[kind], queries, v_y)), rel=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bpr", "label_smoothing": 0.1}, "label_smoothing is 0.1 without effect.*it needs kind: softmax"),
        ({"negatives": "mixed"}, "kind softmax has no negatives"),
        ({"negatives_per": "row"}, "kind softmax has no negatives"),
        ({"kind": "bpr", "popularity_power": 0.5}, "it needs negatives: popularity"),
        ({"kind": "bpr", "calibration": 0.5}, "it needs kind: generalized_binary_cross_entropy"),
        ({"kind": "bpr", "score_penalty": 0.5}, "it needs kind: bpr_max"),
        (
            {"kind": "bpr", "negatives": "in_batch", "negatives_per": "row"},
            "in_batch negatives are shared by the batch",
        ),
        ({"kind": "bpr", "negatives": "mixed", "num_negatives": 1}, "mixed negatives need at least 2"),
        ({"kind": "generalized_binary_cross_entropy", "negatives": "popularity"}, "calibrated for uniform negatives"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and less than 1, got 1.0"),
        ({"calibration": 1.5}, "calibration must be from 0 to 1, got 1.5"),
        ({"score_penalty": -1.0}, "score_penalty must be at least 0, got -1.0"),
        ({"propensity_power": float("nan")}, "propensity_power must be at least 0, got nan"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
    ],
)
def test_losses_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        LossConfig(**fields)
