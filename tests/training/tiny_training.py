"""A tiny data set and model that train in a moment, shared by the tests of this room and the scripts they start."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqrec_jax.data.batches import EventArrays, Rows, event_arrays
from seqrec_jax.data.sequences import Sequences, one_window_per_row, sliding_windows
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.encoders.events import EventInputConfig
from seqrec_jax.items import ItemTowerConfig, id_table
from seqrec_jax.model import ModelConfig, SequenceModel, make_sequence_model
from seqrec_jax.parallel import is_item_rows, make_mesh, over_items, replicate, rows_on_mesh, state_sharding
from seqrec_jax.training.config import LossConfig, OptimizerConfig, TrainingConfig
from seqrec_jax.training.loop import Progress, TrainingData, Validate, train
from seqrec_jax.training.objective import make_objective
from seqrec_jax.training.state import TrainState, init_state, make_optimizer
from seqrec_jax.training.step import make_run_steps
from seqrec_jax.training.update import Update, gradient_update

NUM_ITEMS = 20
LENGTH = 10
LANGUAGE_MODEL = str(Path(__file__).parents[1] / "golden" / "language" / "qwen3")
FIRST_TIMESTAMP = 1_700_000_000
BEHAVIOR_WEIGHTS = np.array([1.0, 2.0], dtype=np.float32)
STEPS_PER_EPOCH = 5
CONFIG = TrainingConfig(
    loss=LossConfig(num_negatives=4),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    batch_size=16,
    max_epochs=4,
    packing=False,
    num_devices=1,
)


def tiny_sequences(num_users: int = 60, seed: int = 0) -> Sequences:
    """Users who mostly go from item i to item i + 1, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 15, num_users)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    first = np.repeat(rng.integers(0, NUM_ITEMS, num_users), sizes)
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    jumps = rng.integers(0, NUM_ITEMS, offsets[-1]) * (rng.random(offsets[-1]) < 0.1)
    return Sequences(
        user_ids=np.array([f"user{number}" for number in range(num_users)], dtype=object),
        offsets=offsets,
        item_ids=(1 + (first + place + jumps) % NUM_ITEMS).astype(np.int32),
        timestamps=(FIRST_TIMESTAMP + 60 * np.arange(offsets[-1])).astype(np.int64),
        behaviors=rng.integers(0, 2, offsets[-1]).astype(np.int8),
        values=np.full(offsets[-1], np.nan, dtype=np.float32),
    )


def tiny_data(num_users: int = 60) -> TrainingData:
    return TrainingData(tiny_sequences(num_users), FIRST_TIMESTAMP, BEHAVIOR_WEIGHTS, NUM_ITEMS)


@cache
def tiny_model(kind: str = "mean", dropout: float = 0.3) -> SequenceModel:
    encoder = EncoderConfig(
        kind=kind,
        width=16 if kind == "language" else 8,
        num_layers=1,
        num_heads=2,
        dropout=dropout,
        attention_dropout=dropout,
        max_length=LENGTH,
        language_model=LANGUAGE_MODEL if kind == "language" else None,
    )
    # an encoder that looks both ways has to find the event before a masked one by its position
    events = EventInputConfig(position=kind != "bert4rec", position_from_end=kind == "bert4rec")
    config = ModelConfig(encoder=encoder, events=events, items=ItemTowerConfig(width=8), bilinear="full")
    return make_sequence_model(config, num_items=NUM_ITEMS, num_behaviors=2, item_table=id_table(NUM_ITEMS))


@cache
def tiny_params(kind: str = "mean") -> dict[str, Any]:
    """Parameters as NumPy arrays, large enough that no gradient is tiny; drawn without a compiled init."""
    shapes = jax.eval_shape(tiny_model(kind).init, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)


class Steps:
    """Compiled steps with their inputs on a mesh, and states to put through them."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        devices: int,
        model_devices: int = 1,
        kind: str = "mean",
        dropout: float = 0.3,
        update: Update | None = None,
    ):
        self.mesh = make_mesh(devices, model_devices=model_devices)
        self.num_rows = rows_on_mesh(NUM_ITEMS, model_devices=model_devices)
        self.optimizer = make_optimizer(config.optimizer, total_steps=config.max_epochs * STEPS_PER_EPOCH)
        self.update = gradient_update(self.optimizer) if update is None else update
        self.with_average, self.kind = config.ema_decay is not None, kind
        sequences = tiny_sequences()
        self.run = make_run_steps(
            tiny_model(kind, dropout),
            make_objective(
                config.loss,
                item_counts=np.bincount(sequences.item_ids, minlength=self.num_rows),
                data_devices=devices // model_devices,
                model_devices=model_devices,
            ),
            self.update,
            config=config,
            length=LENGTH,
            behavior_weights=jnp.asarray(BEHAVIOR_WEIGHTS),
            mesh=self.mesh,
        )
        self.events: EventArrays = replicate(event_arrays(sequences, first_timestamp=FIRST_TIMESTAMP), self.mesh)
        table = jax.tree.map(lambda leaf: _with_rows(leaf, self.num_rows), id_table(NUM_ITEMS))
        self.item_table = jax.device_put(table, over_items(self.mesh))

    def start(self) -> TrainState:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _with_rows(leaf, self.num_rows) if is_item_rows(path) else jnp.asarray(leaf),
            tiny_params(self.kind),
        )
        state = init_state(params, self.update, with_average=self.with_average)
        return jax.device_put(state, state_sharding(state, self.mesh))

    def __call__(self, state: TrainState, first: int, last: int, *, rows: Rows | None = None) -> Any:
        """State, totals and norm after the batches first…last-1; waits, as simulated devices need."""
        rows = replicate(tiny_rows() if rows is None else rows, self.mesh)
        return jax.block_until_ready(self.run(state, self.item_table, self.events, rows, first, last))

    def one_by_one(self, state: TrainState, first: int, last: int) -> TrainState:
        for step in range(first, last):
            state = self(state, step, step + 1)[0]
        return state


_STEPS: dict[str, Steps] = {}


def shared_steps(config: TrainingConfig, **options: Any) -> Steps:
    """`Steps` that are compiled once for all tests of a process."""
    usual = {"model_devices": 1, "kind": "mean", "dropout": 0.3}
    key = f"{config} {sorted((usual | options).items())}"
    if key not in _STEPS:
        _STEPS[key] = Steps(config, **options)
    return _STEPS[key]


def _with_rows(column: Any, num_rows: int) -> jax.Array:
    """A column of an item table with rows of zeros after the items."""
    return jnp.pad(jnp.asarray(column), ((0, num_rows - column.shape[0]),) + ((0, 0),) * (column.ndim - 1))


def tiny_rows(seed: int = 3) -> Rows:
    """Batches of an epoch in a fixed order; the last one is filled up with empty rows."""
    windows = sliding_windows(tiny_sequences(), length=LENGTH, drop_last=1)
    order = np.random.default_rng(seed).permutation(len(windows.starts))
    size = STEPS_PER_EPOCH * CONFIG.batch_size
    filled = np.zeros((2, size, 1), dtype=np.int32)
    filled[0, : len(order), 0], filled[1, : len(order), 0] = windows.starts[order], windows.lengths[order]
    assert len(one_window_per_row(windows.lengths).lengths) == len(order) > size - CONFIG.batch_size
    return Rows(jnp.asarray(filled[0]), jnp.asarray(filled[1]))


def train_tiny(
    directory: Path,
    *,
    params: Any = None,
    validate: Validate | None = None,
    config: TrainingConfig = CONFIG,
    num_users: int = 60,
    show_progress: bool = False,
    make_update: Callable[[optax.GradientTransformation], Update] = gradient_update,
    **changes: Any,
) -> Progress:
    """`train` on the tiny data, deciding by the figure "score"."""
    return train(
        tiny_model(),
        jax.tree.map(jnp.asarray, tiny_params()) if params is None else params,
        tiny_data(num_users),
        id_table(NUM_ITEMS),
        config=replace(config, **changes),
        length=LENGTH,
        directory=directory,
        validate=validate,
        metric="score",
        make_update=make_update,
        show_progress=show_progress,
    )


def share_compiled(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make_run_steps` that compiles once for settings that mean the same step, for tests that train often."""
    made: dict[str, Any] = {}

    def shared(model: Any, objective: Any, optimizer: Any, *, config: TrainingConfig, **options: Any) -> Any:
        total = config.max_epochs if config.optimizer.schedule != "constant" else 1
        same = replace(config, max_epochs=total, patience=None, checkpoint_seconds=1.0, validate_every=1)
        key = f"{id(model)} {same} {options['mesh']}"
        if key not in made:
            made[key] = make(model, objective, optimizer, config=config, **options)
        return made[key]

    return shared


def same_bits(a: Any, b: Any) -> bool:
    """True where two trees have the same structure and the same bits."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
