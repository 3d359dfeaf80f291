"""Every model function exported once, with the number of users left open, against the plain call at two numbers."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders import ENCODERS, EncoderConfig
from seqrec_jax.encoders.config import LANGUAGE_KINDS
from seqrec_jax.encoders.events import EventInputConfig
from seqrec_jax.items import ItemTable, ItemTowerConfig
from seqrec_jax.model import Event, ModelConfig, make_sequence_model

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "language"
NUM_ITEMS, NUM_BEHAVIORS, LENGTH, WIDTH = 30, 3, 5, 16
CASES: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in ENCODERS if kind not in LANGUAGE_KINDS},
    "language": {"kind": "language", "language_model": str(GOLDEN / "qwen3")},
    "text": {"kind": "text", "language_model": str(GOLDEN / "bert")},
}
LANGUAGE_ITEMS = {"texts": ("text",), "language_model": str(GOLDEN / "gpt2")}
CONTENT_ITEMS = {"attributes": ("brand",), "features": ("picture",), "edges": ("bought_with",), "fusion": "gate"}


def item_table() -> ItemTable:
    """Items with ids, a brand, a vector, a text in tokens + 1 and neighbours."""
    draw = np.random.default_rng(0)
    rows = NUM_ITEMS + 1

    def integers(high: int, *shape: int) -> jax.Array:
        return jnp.asarray(draw.integers(0, high, (rows, *shape)), jnp.int32)

    return ItemTable(
        known=jnp.arange(rows) > 0,
        categorical={"brand": integers(4)},
        multi_categorical={},
        numeric={},
        features={"picture": jnp.asarray(draw.normal(size=(rows, 3)), jnp.float32), "text": integers(9, 2)},
        neighbors={"bought_with": integers(rows, 2)},
    )


def users(number: int) -> tuple[Batch, Event]:
    """Histories of 1 to 5 events with padding on the right, and one event more of each user."""
    draw = np.random.default_rng(number)
    columns = np.broadcast_to(np.arange(LENGTH), (number, LENGTH))
    real = columns < draw.integers(1, LENGTH + 1, (number, 1))

    def integers(high: int, *shape: int) -> jax.Array:
        return jnp.asarray(draw.integers(0, high, shape), jnp.int32)

    batch = Batch(
        item_ids=jnp.where(real, integers(NUM_ITEMS + 1, number, LENGTH), 0),
        behaviors=integers(NUM_BEHAVIORS, number, LENGTH),
        timestamps=jnp.cumsum(integers(10**6, number, LENGTH), axis=1, dtype=jnp.int32),
        positions=jnp.asarray(columns * real, jnp.int32),
        segment_ids=jnp.asarray(real, jnp.int32),
        targets=jnp.zeros((number, LENGTH), jnp.int32),
        weights=jnp.zeros((number, LENGTH), jnp.float32),
        target_behaviors=integers(NUM_BEHAVIORS, number, LENGTH),
        query_words=integers(50, number, LENGTH, 2),
    )
    event = Event(
        item_ids=integers(NUM_ITEMS + 1, number),
        behaviors=integers(NUM_BEHAVIORS, number),
        timestamps=integers(10**6, number),
        where=jnp.asarray(draw.integers(0, 2, number), bool),
        target_behaviors=integers(NUM_BEHAVIORS, number),
        query_words=integers(50, number, 2),
    )
    return batch, event


@pytest.mark.parametrize("name", CASES)
def test_an_export_with_an_open_number_of_users_gives_what_the_plain_call_gives(name: str) -> None:
    encoder = EncoderConfig(width=WIDTH, num_layers=1, max_length=LENGTH, **CASES[name])
    items = {"text": {}, "mean": LANGUAGE_ITEMS}.get(name, CONTENT_ITEMS)
    config = ModelConfig(
        encoder=encoder,
        events=EventInputConfig(behavior=True, time_gap=True, hour=True, weekday=True, query=True),
        items=ItemTowerConfig(width=8, **items),
        bilinear="full",
        target_behavior=True,
    )
    table = item_table()
    model = make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=NUM_BEHAVIORS, item_table=table)
    params = model.init(jax.random.key(0))
    appends = encoder.kind not in ("bert4rec", *LANGUAGE_KINDS)

    def everything(params: dict, table: ItemTable, batch: Batch, event: Event, state: Any) -> dict[str, Any]:
        last = model.encode_last(params, table, batch)
        found = {
            "states": model.encode(params, table, batch),
            "last": last,
            "projected": model.project(params, last),
            "items": model.item_vectors(params, table, batch.item_ids),
        }
        if appends:
            found["started"] = model.start(batch.item_ids.shape[0])
            found["appended"] = model.append(params, table, state, event)
        return found

    def arguments(number: int) -> tuple:
        batch, event = users(number)
        return params, table, batch, event, model.start(number) if appends else None

    plain = jax.jit(everything)
    exported = open_in_users(everything, arguments)
    for number in (2, 3):
        expected, found = plain(*arguments(number)), exported(*arguments(number))
        assert jax.tree.structure(expected) == jax.tree.structure(found)
        for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def open_in_users(function: Any, arguments: Any) -> Any:
    """The function after export, serialisation and back; axes that grow with the number of users are symbolic."""
    few, more = (jax.tree.leaves(arguments(number)) for number in (2, 3))
    scope = export.SymbolicScope()
    specs = [
        jax.ShapeDtypeStruct(
            export.symbolic_shape(
                ", ".join("users" if a != b else str(a) for a, b in zip(one.shape, other.shape, strict=True)),
                scope=scope,
            ),
            one.dtype,
        )
        for one, other in zip(few, more, strict=True)
    ]
    structure = jax.tree.structure(arguments(2))
    result: list = []

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        found, tree = jax.tree.flatten(function(*jax.tree.unflatten(structure, leaves)))
        result.append(tree)
        return found

    kept = export.deserialize(export.export(jax.jit(flat))(*specs).serialize())
    return lambda *given: jax.tree.unflatten(result[-1], kept.call(*jax.tree.leaves(given)))
