"""Event vectors: the sum of what is switched on, gap buckets, clipping, zeros at padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.events import NUM_TIME_GAPS, EventInputConfig, make_event_inputs, time_gap_buckets
from seqrec_jax.errors import ConfigError

BATCH = Batch(
    item_ids=jnp.array([[0, 4, 2, 3, 1, 0]], jnp.int32),
    behaviors=jnp.array([[0, 1, 0, 2, 1, 0]], jnp.int32),
    timestamps=jnp.array([[0, 100, 100, 103, 90, 0]], jnp.int32),
    positions=jnp.array([[0, 0, 1, 2, 0, 0]], jnp.int32),
    segment_ids=jnp.array([[0, 1, 1, 1, 2, 0]], jnp.int32),
    targets=jnp.zeros((1, 6), jnp.int32),
    weights=jnp.zeros((1, 6), jnp.float32),
)
EVERYTHING = EventInputConfig(behavior=True, time_gap=True, scale_item=False)


def test_vector_is_the_sum_of_the_inputs() -> None:
    inputs = make_event_inputs(EVERYTHING, item_width=3, width=5, max_length=2, num_behaviors=3)
    params = inputs.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "behaviors": (3, 5),
        "time_gaps": (NUM_TIME_GAPS, 5),
        "positions": (2, 5),
        "items": {"kernel": (3, 5)},
    }
    items = jax.random.normal(jax.random.key(1), (1, 6, 3))
    found = np.asarray(inputs.event_vectors(params, items, BATCH))
    p = jax.tree.map(np.asarray, params)
    # by column: behaviour, bucket of the gap (first, 0 s, 3 s, first), position cut at the last learned one
    rows = {1: (1, 0, 0), 2: (0, 1, 1), 3: (2, 3, 1), 4: (1, 0, 0)}
    expected = np.zeros((6, 5), np.float32)
    for column, (behavior, gap, position) in rows.items():
        expected[column] = (
            np.asarray(items)[0, column] @ p["items"]["kernel"]
            + p["behaviors"][behavior]
            + p["time_gaps"][gap]
            + p["positions"][position]
        )
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)


def test_hour_weekday_and_position_from_the_end() -> None:
    """Times on the device count from a Monday, so day 3 is a Thursday."""
    config = EventInputConfig(
        item=False, hour=True, weekday=True, position=False, position_from_end=True, scale_item=False
    )
    inputs = make_event_inputs(config, item_width=5, width=5, max_length=3, num_behaviors=1)
    p = inputs.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, p) == {"hours": (24, 5), "weekdays": (7, 5), "positions_from_end": (3, 5)}
    day, hour = 86_400, 3_600
    times = jnp.array([[0, 0, 3 * day + 5 * hour + 1799, 8 * day + 23 * hour + 3599, day, 0]], jnp.int32)
    found = inputs.event_vectors(p, None, BATCH._replace(timestamps=times))
    expected = {1: (0, 0, 2), 2: (5, 3, 1), 3: (23, 1, 0), 4: (0, 1, 0)}
    for column, (of_day, of_week, from_end) in expected.items():
        vector = p["hours"][of_day] + p["weekdays"][of_week] + p["positions_from_end"][from_end]
        np.testing.assert_allclose(found[0, column], vector, rtol=1e-6)


def test_a_query_is_the_mean_of_its_words() -> None:
    config = EventInputConfig(item=False, position=False, query=True, query_buckets=10)
    inputs = make_event_inputs(config, item_width=5, width=5, max_length=3, num_behaviors=1)
    params = inputs.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"query_words": (10, 5)}
    words = jnp.zeros((1, 6, 3), jnp.int32).at[0, 1].set(jnp.array([13, 4, 0])).at[0, 3, 0].set(2**31 - 1)
    found = inputs.event_vectors(params, None, BATCH._replace(query_words=words))
    table = params["query_words"]
    np.testing.assert_allclose(found[0, 1], (table[3] + table[4]) / 2, rtol=1e-6)
    np.testing.assert_allclose(found[0, 3], table[7], rtol=1e-6)
    assert not found[0, jnp.array([0, 2, 4, 5])].any()
    assert not inputs.event_vectors(params, None, BATCH).any()  # a log without queries


def test_of_a_masked_event_only_its_position_is_seen() -> None:
    inputs = make_event_inputs(EVERYTHING, item_width=5, width=5, max_length=4, num_behaviors=3, with_mask=True)
    p = inputs.init(jax.random.key(0))
    assert p["marks"].shape == (1, 5)
    masked = jnp.zeros((1, 6), bool).at[0, 2].set(True)
    items = jax.random.normal(jax.random.key(1), (1, 6, 5))
    plain = inputs.event_vectors(p, items, BATCH)
    found = inputs.event_vectors(p, items, BATCH._replace(masked=masked))
    np.testing.assert_allclose(found[0, 2], p["marks"][0] + p["positions"][1], rtol=1e-6)
    np.testing.assert_array_equal(found[0, [0, 1, 3, 4, 5]], plain[0, [0, 1, 3, 4, 5]])


def test_equal_widths_need_no_projection_and_scale_is_the_root_of_the_width() -> None:
    config = EventInputConfig(position=False, scale_item=True)
    inputs = make_event_inputs(config, item_width=4, width=4, max_length=2, num_behaviors=1)
    params = inputs.init(jax.random.key(0))
    assert params == {}
    items = jax.random.normal(jax.random.key(1), (1, 6, 4))
    found = inputs.event_vectors(params, items, BATCH)
    np.testing.assert_allclose(found[0, 1:5], 2.0 * items[0, 1:5], rtol=1e-6)


@pytest.mark.parametrize(
    ("gap", "bucket"), [(0, 1), (1, 2), (2, 2), (3, 3), (62, 6), (63, 7), (2**30 - 1, 31), (2**31 - 1, 32), (-5, 1)]
)
def test_gap_buckets_are_powers_of_two(gap: int, bucket: int) -> None:
    batch = BATCH._replace(
        timestamps=jnp.array([[0, gap]], jnp.int32),
        positions=jnp.array([[0, 1]], jnp.int32),
    )
    assert time_gap_buckets(batch).tolist() == [[0, bucket]]
    assert bucket < NUM_TIME_GAPS


def test_dropout_is_on_with_a_key_only_and_spares_the_mean() -> None:
    inputs = make_event_inputs(
        EventInputConfig(position=False, scale_item=False),
        item_width=400,
        width=400,
        max_length=2,
        num_behaviors=1,
        dropout_rate=0.5,
    )
    items = jnp.ones((1, 6, 400))
    plain = inputs.event_vectors({}, items, BATCH)
    dropped = inputs.event_vectors({}, items, BATCH, key=jax.random.key(0))
    np.testing.assert_array_equal(plain[0, 1:5], 1.0)
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert abs(float(dropped[0, 1:5].mean()) - 1.0) < 0.1
    np.testing.assert_array_equal(dropped[0, 0], 0.0)


def test_without_items_no_item_vectors_are_needed() -> None:
    config = EventInputConfig(item=False, behavior=True)
    inputs = make_event_inputs(config, item_width=3, width=4, max_length=2, num_behaviors=3)
    assert inputs.event_vectors(inputs.init(jax.random.key(0)), None, BATCH).shape == (1, 6, 4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        EventInputConfig(item=False)
