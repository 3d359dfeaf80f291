"""The compiled training step, and a compiled loop of steps with a length chosen at run time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from seqrec_jax import losses
from seqrec_jax.data.batches import Batch, EventArrays, Rows, gather_batch, masked_batch
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import over_rows, state_sharding
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.objective import DrawNegatives, Objective
from seqrec_jax.training.rows import items_read, put_item_rows, renumbered, take_item_rows, take_rows
from seqrec_jax.training.state import Params, TrainState
from seqrec_jax.training.views import random_view, segment_vectors

_STEP_STREAM = 0x57E9  # keeps the steps' keys apart from those of initialisation and order
_ID_STREAM = 0x1D0B  # keeps the keys of dropped ids apart from those of the batch
_MASK_STREAM = 0x3A5C  # keeps the keys of masks apart from those of dropout and negatives
_VIEW_STREAM = 0x71E3  # and those of views, and of dropout in them


class StepTotals(NamedTuple):
    """Sums over the steps of one compiled loop: loss (float32), real targets and windows (int32)."""

    loss: Float[Array, ""]
    targets: Int[Array, ""]
    windows: Int[Array, ""]


RunSteps = Callable[[TrainState, ItemTable, EventArrays, Rows, int, int], tuple[TrainState, StepTotals, jax.Array]]


def make_run_steps(
    model: SequenceModel,
    objective: Objective | Callable[..., Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    *,
    config: TrainingConfig,
    length: int,
    behavior_weights: Float[Array, " H"],
    mesh: Mesh,
) -> RunSteps:
    """`run_steps(state, item_table, events, rows, first, last) -> state, totals, norm of the parameters after`.

    It makes the updates of batches first…last-1 of an epoch, and takes over the buffers of the state it is given.

    The number of steps is a run-time value of one compiled loop, so Python returns about once a second whatever a
    step costs. Every random choice follows from (seed, step, row), so neither the chunks, nor a restart, nor the
    number of devices change the result beyond rounding.
    """
    dtype = jnp.bfloat16 if config.precision == "bfloat16" else jnp.float32

    def draw_batch(events: EventArrays, rows: Rows, step: Array) -> tuple[Batch, Array, Array]:
        """A step's batch, its key and a key a row."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), _STEP_STREAM), step)
        key, row_key = jax.random.split(key)
        numbers = jnp.arange(config.batch_size, dtype=jnp.int32)
        row_keys = jax.vmap(lambda row: jax.random.fold_in(row_key, row))(numbers)
        batch = gather_batch(events, rows, length=length, behavior_weights=behavior_weights)
        if not model.causal:
            batch = masked_batch(
                batch,
                rate=config.mask_rate,
                last_share=config.mask_last_share,
                behavior_weights=behavior_weights,
                row_keys=jax.vmap(lambda key: jax.random.fold_in(key, _MASK_STREAM))(row_keys),
            )
        return batch, key, row_keys

    def in_dtype(params: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_floating(leaf) else leaf, params)

    def vectors(params: Params, item_table: ItemTable, batch: Batch, row_keys: Array) -> tuple[Array, Array]:
        """`[B, L, E]` queries and `[V+1, E]` item vectors."""
        cast = in_dtype(params)
        v_y = model.item_vectors(cast, item_table)
        return model.project(cast, model.encode(cast, item_table, batch, key=row_keys, v_y=v_y)), v_y

    def without_dropped_ids(item_table: ItemTable, key: Array) -> ItemTable:
        return item_table if model.drop_ids is None else model.drop_ids(item_table, jax.random.fold_in(key, _ID_STREAM))

    def contrast(
        params: Params, item_table: ItemTable, batch: Batch, row_keys: Array, num_segments: int, v_y: Array
    ) -> Array:
        """λ times the mean contrastive loss of two views of each sequence; 0 without views."""
        if not config.contrastive.weight:
            return jnp.float32(0)
        cast = in_dtype(params)
        views = []
        for number in range(2):
            view_keys, keys = (
                jax.vmap(lambda key, stream=_VIEW_STREAM + 2 * number + part: jax.random.fold_in(key, stream))(row_keys)
                for part in range(2)
            )
            view = random_view(batch, config=config.contrastive, row_keys=view_keys)
            states = model.encode(cast, item_table, view, key=keys, v_y=v_y)
            vectors, where = segment_vectors(states, view.segment_ids, num_segments=num_segments)
            views.append(vectors.reshape(-1, vectors.shape[-1]))
        real = where.reshape(-1)
        values = losses.contrastive_loss(*views, temperature=config.contrastive.temperature, where=real)
        return config.contrastive.weight * losses.weighted_mean(values, where=real)

    def next_of_all_rows(
        state: TrainState, item_table: ItemTable, batch: Batch, key: Array, row_keys: Array, num_segments: int
    ) -> Any:
        item_table = without_dropped_ids(item_table, key)

        def mean_loss(params: Params) -> Array:
            queries, v_y = vectors(params, item_table, batch, row_keys)
            loss = objective(queries, v_y, batch.targets, batch.weights, key, row_keys)
            return loss + contrast(params, item_table, batch, row_keys, num_segments, v_y)

        loss, grads = jax.value_and_grad(mean_loss, allow_int=True)(state.params)  # a base may be in whole numbers
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        return loss, optax.apply_updates(state.params, updates), optimizer_state

    def next_of_read_rows(
        draw: DrawNegatives,
        objective: Objective,
        state: TrainState,
        item_table: ItemTable,
        batch: Batch,
        key: Array,
        row_keys: Array,
        num_segments: int,
    ) -> Any:
        negatives = draw(batch.targets, key, row_keys)
        weights = objective.weigh(batch.targets, batch.weights)
        items = items_read(batch, negatives, num_rows=len(item_table.known))
        batch, negatives = renumbered(batch, negatives, items)
        item_table = without_dropped_ids(jax.tree.map(lambda column: take_rows(column, items), item_table), key)
        params, moments = take_item_rows(state.params, items), take_item_rows(state.optimizer, items)

        def mean_loss(params: Params) -> Array:
            queries, v_y = vectors(params, item_table, batch, row_keys)
            loss = objective.loss(queries, v_y, batch.targets, weights, negatives)
            return loss + contrast(params, item_table, batch, row_keys, num_segments, v_y)

        loss, grads = jax.value_and_grad(mean_loss, allow_int=True)(params)
        updates, moments = optimizer.update(grads, moments, params)
        params = put_item_rows(state.params, optax.apply_updates(params, updates), items)
        return loss, params, put_item_rows(state.optimizer, moments, items)

    next_state: Callable[..., Any] = next_of_all_rows
    if config.optimizer.rows == "read":
        next_state = partial(next_of_read_rows, *_halves(objective))

    def update(
        state: TrainState, item_table: ItemTable, events: EventArrays, rows: Rows
    ) -> tuple[TrainState, StepTotals]:
        rows = jax.lax.with_sharding_constraint(rows, over_rows(mesh))
        batch, key, row_keys = draw_batch(events, rows, state.step)
        loss, params, optimizer_state = next_state(state, item_table, batch, key, row_keys, rows.lengths.shape[1])
        average: Any = state.average
        if config.ema_decay is not None:
            average = optax.incremental_update(params, average, 1.0 - config.ema_decay)
        state = TrainState(params, optimizer_state, average, state.step + 1)
        num_targets = jnp.sum(batch.targets > 0, dtype=jnp.int32)
        totals = StepTotals(loss, num_targets, jnp.sum(rows.lengths > 0, dtype=jnp.int32))
        return jax.lax.with_sharding_constraint(state, state_sharding(state, mesh)), totals

    @jax.jit(donate_argnums=0)
    def run_steps(
        state: TrainState, item_table: ItemTable, events: EventArrays, rows: Rows, first: Array, last: Array
    ) -> tuple[TrainState, StepTotals, Float[Array, ""]]:
        def body(batch_number: Array, carry: tuple[TrainState, StepTotals]) -> tuple[TrainState, StepTotals]:
            state, totals = carry
            start = batch_number * config.batch_size
            batch_rows = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, config.batch_size), rows)
            state, new = update(state, item_table, events, batch_rows)
            return state, jax.tree.map(jnp.add, totals, new)

        zero = jnp.zeros((), dtype=jnp.int32)
        carry = (state, StepTotals(jnp.float32(0), zero, zero))
        state, totals = jax.lax.fori_loop(first, last, body, carry)
        return state, totals, optax.tree.norm(list(filter(_is_floating, jax.tree.leaves(state.params))))

    return run_steps


def _is_floating(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _halves(objective: Any) -> tuple[DrawNegatives, Objective]:
    """The draw of an objective and itself; ConfigError where it is one's own without that half."""
    if not isinstance(objective, Objective) or objective.draw is None:
        raise ConfigError(
            "training.optimizer.rows is read, for which the objective must be an Objective that draws its negatives; "
            "make it one, or set rows: all"
        )
    return objective.draw, objective
