"""The model put together: parameters, tying, W, gathering users, growth of the catalogue, weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import make_sequences

from seqrec_jax.data.batches import Batch, history_batch
from seqrec_jax.encoders import ENCODERS, Encoder, EncoderConfig, make_encoder
from seqrec_jax.encoders.config import LANGUAGE_KINDS
from seqrec_jax.encoders.events import EventInputConfig
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.items import ItemTable, ItemTower, ItemTowerConfig, id_table
from seqrec_jax.model import (
    Event,
    ModelConfig,
    SequenceModel,
    extend_item_rows,
    last_states,
    make_sequence_model,
    user_vectors,
    weight_decay_mask,
)

NUM_ITEMS = 9
# those need a directory, and have tests of their own
KINDS = [kind for kind in ENCODERS if kind not in LANGUAGE_KINDS]
TABLE = id_table(NUM_ITEMS)._replace(categorical={"brand": jnp.array([0, 1, 2, 1, 2, 1, 2, 1, 2, 0], jnp.int32)})
BATCH = Batch(
    item_ids=jnp.array([[1, 2, 3, 0], [0, 4, 5, 9], [6, 7, 8, 9], [0, 0, 0, 0]], jnp.int32),
    behaviors=jnp.zeros((4, 4), jnp.int32),
    timestamps=jnp.zeros((4, 4), jnp.int32),
    positions=jnp.array([[0, 1, 2, 0], [0, 0, 1, 2], [0, 1, 0, 1], [0, 0, 0, 0]], jnp.int32),
    segment_ids=jnp.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 2, 2], [0, 0, 0, 0]], jnp.int32),
    targets=jnp.zeros((4, 4), jnp.int32),
    weights=jnp.zeros((4, 4), jnp.float32),
)


def build(*, width: int = 8, item_width: int = 8, attributes: tuple[str, ...] = (), **settings: object) -> tuple:
    config = ModelConfig(
        encoder=EncoderConfig(width=width, num_layers=1, max_length=4),
        events=EventInputConfig(behavior=True, time_gap=True),
        items=ItemTowerConfig(width=item_width, attributes=attributes),
        **settings,
    )
    model = make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=3, item_table=TABLE)
    return model, model.init(jax.random.key(0))


def scores(model: SequenceModel, params: dict, batch: Batch = BATCH) -> jax.Array:
    states = model.encode(params, TABLE, batch)
    return model.project(params, states) @ model.item_vectors(params, TABLE).T


@pytest.mark.parametrize("bilinear", ["identity", "diagonal", "full", "low_rank"])
def test_scores_are_the_bilinear_form(bilinear: str) -> None:
    item_width = 8 if bilinear in ("identity", "diagonal") else 6
    model, params = build(item_width=item_width, bilinear=bilinear, bilinear_rank=3)
    noise = jax.random.normal(jax.random.key(5), (8, 8))
    params["bilinear"] = {
        name: leaf + noise[: leaf.shape[0], : leaf.shape[1]] if leaf.ndim == 2 else leaf + noise[0]
        for name, leaf in params["bilinear"].items()
    }
    w = {name: np.asarray(leaf) for name, leaf in params["bilinear"].items()}
    matrix = {
        "identity": lambda: np.eye(8),
        "diagonal": lambda: np.diag(w["weight"]),
        "full": lambda: w["weight"],
        "low_rank": lambda: w["left"] @ w["right"].T,
    }[bilinear]()
    states, items = model.encode(params, TABLE, BATCH), model.item_vectors(params, TABLE)
    assert states.shape == (4, 4, 8)
    assert items.shape == (NUM_ITEMS + 1, item_width)
    expected = np.asarray(states) @ matrix @ np.asarray(items).T
    np.testing.assert_allclose(scores(model, params), expected, rtol=1e-4, atol=1e-5)


def test_low_rank_scores_are_about_as_large_as_those_of_the_identity() -> None:
    model, params = build(width=64, item_width=64, bilinear="low_rank", bilinear_rank=16)
    v_x = jax.random.normal(jax.random.key(1), (500, 64))
    assert 0.6 < float(model.project(params, v_x).std()) < 1.6


def test_sharing_item_vectors_is_one_table() -> None:
    model, params = build()
    assert set(params) == {"items", "events", "encoder", "bilinear"}

    def input_and_output(model: SequenceModel, params: dict, name: str) -> tuple[float, float]:
        def effect(score: object) -> float:
            gradient = jax.grad(lambda p: jnp.sum(score({**params, name: p}) ** 2))(params[name])
            return float(jnp.abs(gradient["ids"]["embedding"]).max())

        return (
            effect(lambda p: model.encode(p, TABLE, BATCH)),
            effect(lambda p: model.item_vectors(p, TABLE)),
        )

    assert all(value > 0 for value in input_and_output(model, params, "items"))
    model, params = build(share_item_vectors=False)
    read, scored = input_and_output(model, params, "items")
    assert read > 0 == scored
    read, scored = input_and_output(model, params, "output_items")
    assert scored > 0 == read
    assert not np.allclose(params["items"]["ids"]["embedding"], params["output_items"]["ids"]["embedding"])


def one_by_one(model: SequenceModel, params: dict, batch: Batch) -> jax.Array:
    """States `[B, L, D]` by appending every real event of rows that hold one user each, padding left out."""
    append = jax.jit(model.append)
    cache, columns = model.start(len(batch.item_ids)), []
    for column in range(batch.item_ids.shape[1]):
        event = Event(
            batch.item_ids[:, column],
            batch.behaviors[:, column],
            batch.timestamps[:, column],
            where=batch.segment_ids[:, column] > 0,
            target_behaviors=None if batch.target_behaviors is None else batch.target_behaviors[:, column],
        )
        v_x, cache = append(params, TABLE, cache, event)
        columns.append(v_x)
    np.testing.assert_array_equal(cache.num_events, jnp.sum(batch.segment_ids > 0, axis=1))
    return jnp.stack(columns, axis=1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if make_encoder(EncoderConfig(kind=kind)).append])
def test_events_one_by_one_give_the_states_of_the_whole_sequence(kind: str) -> None:
    """With gaps, hours, behaviours and the behaviour to be predicted, of users who start and end at different times."""
    config = ModelConfig(
        encoder=EncoderConfig(kind=kind, width=8, max_length=6),
        events=EventInputConfig(behavior=True, time_gap=True, hour=True, weekday=True),
        items=ItemTowerConfig(width=8),
        target_behavior=True,
    )
    model = make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=3, item_table=TABLE)
    params = model.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    noise = [leaf + 0.3 * jax.random.normal(jax.random.key(9 + n), leaf.shape) for n, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, noise)
    real = jnp.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], jnp.int32)
    ids, behaviors, targets = jax.random.randint(jax.random.key(1), (3, *real.shape), 0, 3)
    times = jnp.cumsum(jax.random.randint(jax.random.key(2), real.shape, 0, 90_000), axis=1)
    batch = Batch(
        item_ids=real * (1 + ids),
        behaviors=real * behaviors,
        timestamps=real * times,
        positions=real * (jnp.cumsum(real, axis=1) - 1),
        segment_ids=real,
        targets=jnp.zeros_like(real),
        weights=jnp.zeros(real.shape),
        target_behaviors=targets,
    )
    whole = np.asarray(model.encode(params, TABLE, batch))
    appended = np.asarray(one_by_one(model, params, batch))
    np.testing.assert_allclose(appended[real > 0], whole[real > 0], rtol=2e-4, atol=2e-5)


def test_what_cannot_be_appended_is_refused() -> None:
    for settings, text in (
        ({"encoder": EncoderConfig(kind="bert4rec", width=8)}, "with encoder bert4rec; encode whole"),
        ({"encoder": EncoderConfig(width=8), "events": EventInputConfig(position_from_end=True)}, "position_from_end"),
    ):
        config = ModelConfig(**settings, items=ItemTowerConfig(width=8))
        model = make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=1, item_table=TABLE)
        with pytest.raises(ConfigError, match=text):
            model.start(2)


def test_the_behaviour_to_be_predicted_scales_and_shifts_the_state() -> None:
    model, params = build(target_behavior=True)
    plain, _ = build()
    asked = BATCH._replace(target_behaviors=jnp.full((4, 4), 2, jnp.int32))
    states = plain.encode({k: v for k, v in params.items() if k != "target_behaviors"}, TABLE, BATCH)
    np.testing.assert_array_equal(model.encode(params, TABLE, asked), states)  # until it is trained
    rows = jax.random.normal(jax.random.key(3), (2, 3, 8))
    params["target_behaviors"] = {"scale": rows[0], "shift": rows[1]}
    expected = np.asarray(states) * (1 + np.asarray(rows[0, 2])) + np.asarray(rows[1, 2])
    np.testing.assert_allclose(model.encode(params, TABLE, asked), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="each state needs a target behaviour"):
        model.encode(params, TABLE, BATCH)


def test_gathering_by_id_and_from_the_table_agree() -> None:
    model, params = build(attributes=("brand",))
    # 16 positions for 9 items take the table, a single row of 4 gathers by id
    whole = model.encode(params, TABLE, BATCH)
    single = model.encode(params, TABLE, jax.tree.map(lambda x: x[1:2], BATCH))
    np.testing.assert_allclose(single[0, 1:], whole[1, 1:], rtol=1e-5, atol=1e-5)


def test_eager_jit_and_pmap_agree() -> None:
    model, params = build(attributes=("brand",))
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), BATCH)
    keys = jax.random.split(jax.random.key(3), 8)

    def encode(batch: Batch, key: jax.Array) -> jax.Array:
        return model.encode(params, TABLE, batch, key=key)

    eager = encode(batch, keys)
    np.testing.assert_allclose(jax.jit(encode)(batch, keys), eager, rtol=1e-5, atol=1e-5)
    parts = jax.tree.map(lambda x: x[:, None], (batch, keys))
    mapped = jax.block_until_ready(jax.pmap(encode)(*parts))
    np.testing.assert_allclose(mapped[:, 0], eager, rtol=1e-5, atol=1e-5)
    assert not np.allclose(eager, encode_without_key(model, params, batch))


def encode_without_key(model: SequenceModel, params: dict, batch: Batch) -> jax.Array:
    return jax.jit(model.encode)(params, TABLE, batch)


@pytest.mark.parametrize("share", [True, False])
def test_item_vectors_at_hand_are_what_events_read_where_both_sides_share_them(share: bool) -> None:
    model, params = build(attributes=("brand",), share_item_vectors=share)
    v_y = model.item_vectors(params, TABLE)
    expected = model.encode(params, TABLE, BATCH)
    np.testing.assert_allclose(model.encode(params, TABLE, BATCH, v_y=v_y), expected, rtol=1e-6, atol=1e-7)
    last = model.encode_last(params, TABLE, BATCH, v_y=v_y)
    np.testing.assert_allclose(last, last_states(expected, BATCH), rtol=1e-5, atol=1e-6)
    event = Event(jnp.array([4, 0]), jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))
    states, _ = model.append(params, TABLE, model.start(2), event, v_y=v_y)
    np.testing.assert_allclose(states, model.append(params, TABLE, model.start(2), event)[0], rtol=1e-6, atol=1e-7)
    # other vectors at hand change what is read exactly where they stand for it
    other = model.encode(params, TABLE, BATCH, v_y=v_y + 1.0)
    assert bool(jnp.allclose(other, expected, atol=1e-6)) is not share


def test_gradients_are_finite_when_all_is_padding() -> None:
    model, params = build(attributes=("brand",), bilinear="full")
    empty = jax.tree.map(jnp.zeros_like, BATCH)
    total = jax.jit(jax.value_and_grad(lambda p: jnp.sum(scores(model, p, empty) ** 2)))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(total(params)))


def test_last_states_and_user_vectors() -> None:
    states = jax.random.normal(jax.random.key(0), (4, 4, 2))
    last = last_states(states, BATCH)
    np.testing.assert_array_equal(last, states[jnp.arange(4), jnp.array([2, 3, 3, 0])])
    rows, positions = jnp.array([2, 2, 0]), jnp.array([1, 3, 2])
    found = jax.jit(user_vectors)(states, rows, positions)
    np.testing.assert_array_equal(found, jnp.stack([states[2, 1], states[2, 3], states[0, 2]]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_state_alone_is_that_of_encode_at_any_length_of_row(kind: str) -> None:
    """With all inputs, and the behaviour to be predicted; a row as long as the model looks back, and a shorter one."""
    config = ModelConfig(
        encoder=EncoderConfig(kind=kind, width=8, max_length=12),
        events=EventInputConfig(behavior=True, time_gap=True, hour=True, weekday=True, position_from_end=True),
        items=ItemTowerConfig(width=8, attributes=("brand",)),
        target_behavior=True,
    )
    model = make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=3, item_table=TABLE)
    leaves, structure = jax.tree.flatten(model.init(jax.random.key(0)))
    noise = [leaf + 0.3 * jax.random.normal(jax.random.key(9 + n), leaf.shape) for n, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, noise)
    rng = np.random.default_rng(0)
    items = [list(rng.integers(1, NUM_ITEMS + 1, size=size)) for size in (3, 0, 5, 1)]
    times, behaviors = rng.integers(0, 90_000, 9).cumsum(), rng.integers(0, 3, 9)
    histories = make_sequences(items, timestamps=times, behaviors=behaviors)
    found = []
    for length in (12, 6):
        batch = history_batch(
            histories, length=length, first_timestamp=0, masked_end=not model.causal, target_behavior=2
        )
        states = jax.jit(model.encode)(params, TABLE, batch)
        found.append(np.asarray(jax.jit(model.encode_last)(params, TABLE, batch)))
        np.testing.assert_allclose(found[-1], last_states(states, batch), rtol=1e-5, atol=1e-5)
        assert np.isfinite(found[-1]).all()
    real = histories.lengths > 0
    np.testing.assert_allclose(found[0][real], found[1][real], rtol=1e-5, atol=1e-5)


def test_a_grown_catalogue_keeps_its_rows_and_its_scores() -> None:
    model, params = build(share_item_vectors=False, attributes=("brand",))
    grown = extend_item_rows(params, old_num_items=NUM_ITEMS, new_num_items=200, key=jax.random.key(9))
    for name in ("items", "output_items"):
        table = np.asarray(grown[name]["ids"]["embedding"])
        assert table.shape == (201, 8)
        np.testing.assert_array_equal(table[: NUM_ITEMS + 1], params[name]["ids"]["embedding"])
        # cutting a normal at two deviations leaves .88 of its deviation
        assert abs(table[NUM_ITEMS + 1 :].std() - 0.88 * 0.02) < 0.001
    assert not np.allclose(grown["items"]["ids"]["embedding"][-1], grown["output_items"]["ids"]["embedding"][-1])
    larger = ItemTable(jnp.arange(201) > 0, {"brand": jnp.pad(TABLE.categorical["brand"], (0, 191))}, {}, {})
    config = ModelConfig(
        encoder=EncoderConfig(width=8, num_layers=1, max_length=4),
        events=EventInputConfig(behavior=True, time_gap=True),
        items=ItemTowerConfig(width=8, attributes=("brand",)),
        share_item_vectors=False,
    )
    new_model = make_sequence_model(config, num_items=200, num_behaviors=3, item_table=larger)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, new_model.init(jax.random.key(0)))
    new_scores = new_model.encode(grown, larger, BATCH) @ new_model.item_vectors(grown, larger).T
    np.testing.assert_allclose(new_scores[..., : NUM_ITEMS + 1], scores(model, params), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="shrank from 9 to 8"):
        extend_item_rows(params, old_num_items=9, new_num_items=8, key=jax.random.key(0))
    with pytest.raises(ShapeError, match="has 10 rows, expected V \\+ 1 = 8"):
        extend_item_rows(params, old_num_items=7, new_num_items=8, key=jax.random.key(0))


def test_weight_decay_is_for_matrices() -> None:
    _, params = build(item_width=6, bilinear="low_rank", attributes=("brand",))
    mask = weight_decay_mask(params)
    block = mask["encoder"]["block_0"]
    assert block["attention"]["queries_keys_values"] == {"kernel": True, "bias": False}
    assert block["attention_norm"] == {"scale": False, "bias": False}
    assert mask["events"] == {
        "behaviors": False,
        "time_gaps": False,
        "positions": False,
        "items": {"kernel": True},
    }
    assert mask["items"]["ids"] == {"embedding": True}
    assert mask["bilinear"] == {"left": True, "right": True}
    _, params = build(bilinear="diagonal")
    assert weight_decay_mask(params)["bilinear"] == {"weight": False}


def test_ones_own_encoder_and_tower() -> None:
    def shifted(params: dict, event_vectors: jax.Array, batch: Batch, *, key: object = None) -> jax.Array:
        return event_vectors + jnp.broadcast_to(params["shift"], event_vectors.shape)

    def one_hot(params: dict, item_table: ItemTable, ids: jax.Array | None = None) -> jax.Array:
        vectors = jnp.eye(NUM_ITEMS + 1)[:, 1:]
        return vectors if ids is None else vectors[ids]

    config = ModelConfig(
        encoder=EncoderConfig(kind="mean", width=NUM_ITEMS),
        events=EventInputConfig(position=False, scale_item=False),
        items=ItemTowerConfig(width=NUM_ITEMS),
    )
    model = make_sequence_model(
        config,
        num_items=NUM_ITEMS,
        num_behaviors=1,
        item_table=TABLE,
        encoder=Encoder(lambda key: {"shift": jnp.ones(NUM_ITEMS)}, shifted),
        item_tower=ItemTower(lambda key: {}, one_hot),
    )
    params = model.init(jax.random.key(0))
    expected = jax.nn.one_hot(BATCH.item_ids - 1, NUM_ITEMS) + 1.0
    np.testing.assert_array_equal(model.encode(params, TABLE, BATCH), expected)
    assert model.item_vectors(params, TABLE, jnp.array([2], jnp.int32)).tolist() == [[0, 1] + [0] * 7]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 64 and 32; make them equal or choose full or low_rank"):
        ModelConfig(items=ItemTowerConfig(width=32))
    with pytest.raises(ConfigError, match="identity, diagonal, full, low_rank"):
        ModelConfig(bilinear="cubic")
    with pytest.raises(ConfigError, match="bilinear_rank"):
        ModelConfig(bilinear="low_rank", bilinear_rank=0)
    with pytest.raises(ShapeError, match=r"V \+ 1 = 6 rows, but known has shape \(10,\)"):
        make_sequence_model(ModelConfig(), num_items=5, num_behaviors=1, item_table=TABLE)
