"""The compiled training step, and a compiled loop of steps whose number is chosen at run time."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from seqrec_jax.data.batches import Batch, EventArrays, Rows, gather_batch, masked_batch
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import over_rows, state_sharding
from seqrec_jax.training.batch_loss import StepInputs, make_step_loss
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.objective import Objective
from seqrec_jax.training.rows import items_read, put_item_rows, renumbered, take_item_rows, take_rows
from seqrec_jax.training.state import TrainState
from seqrec_jax.training.update import Update

_STEP_STREAM = 0x57E9  # keeps the steps' keys apart from those of initialisation and order
_ID_STREAM = 0x1D0B  # keeps the keys of dropped ids apart from those of the batch
_MASK_STREAM = 0x3A5C  # keeps the keys of masks apart from those of dropout and negatives
_UPDATE_STREAM = 0x4E15  # keeps the keys of an update's noise apart from those of negatives


class StepTotals(NamedTuple):
    """Sums over the steps of one compiled loop: loss (float32), targets and windows without padding (int32)."""

    loss: Float[Array, ""]
    targets: Int[Array, ""]
    windows: Int[Array, ""]


@runtime_checkable
class RunSteps(Protocol):
    """The compiled loop of steps that `make_run_steps` gives."""

    def __call__(
        self,
        state: TrainState,
        item_table: ItemTable,
        events: EventArrays,
        rows: Rows,
        first: int | Int[Array, ""],
        last: int | Int[Array, ""],
        /,
    ) -> tuple[TrainState, StepTotals, Float[Array, ""]]:
        """The state after the batches first…last-1 of `rows`, sums over them, and the norm of the parameters.

        The buffers of `state` are donated: it cannot be used afterwards.
        """
        ...


def make_run_steps(
    model: SequenceModel,
    objective: Objective,
    update: Update,
    *,
    config: TrainingConfig,
    length: int,
    behavior_weights: Float[Array, " H"],
    mesh: Mesh,
) -> RunSteps:
    """The compiled loop of training steps.

    The number of steps is a run-time value of one compiled loop, so Python returns about once a second whatever a
    step costs. Every random choice follows from (seed, step, row), so neither the chunks, nor a restart, nor the
    number of devices change the result beyond rounding.

    Args:
      model: pure functions.
      objective: the loss of each target and its mean.
      update: what a step does with the loss; `gradient_update(optimizer)` is the ordinary one.
      config: batch size, precision, masks, views, average and seed.
      length: L.
      behavior_weights: `[H]` weight of a target by its behaviour.
      mesh: where the state and the rows of a batch lie.

    Raises:
      ConfigError: something else than an `Objective`, or `optimizer.rows: read` with one that draws no negatives.
    """
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"objective must be an Objective, got {type(objective).__name__}; make one of a function that gives the "
            "loss of each target: Objective(target_losses)"
        )
    if config.optimizer.rows == "read" and objective.draw is None:
        raise ConfigError(
            "training.optimizer.rows is read, but the objective draws no negatives, so that it reads every row; give "
            "it a draw, or set rows: all"
        )

    def step(
        state: TrainState, item_table: ItemTable, events: EventArrays, rows: Rows
    ) -> tuple[TrainState, StepTotals]:
        rows = jax.lax.with_sharding_constraint(rows, over_rows(mesh))
        key, row_keys = _step_keys(config, state.step)
        batch = gather_batch(events, rows, length=length, behavior_weights=behavior_weights)
        if not model.causal:
            batch = masked_batch(
                batch,
                rate=config.mask_rate,
                last_share=config.mask_last_share,
                behavior_weights=behavior_weights,
                row_keys=jax.vmap(lambda key: jax.random.fold_in(key, _MASK_STREAM))(row_keys),
            )
        loss, state = _update_state(
            model, objective, update, config, state, item_table, batch, key, row_keys, rows.lengths.shape[1]
        )
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
            state, new = step(state, item_table, events, batch_rows)
            return state, jax.tree.map(jnp.add, totals, new)

        zero = jnp.zeros((), dtype=jnp.int32)
        state, totals = jax.lax.fori_loop(first, last, body, (state, StepTotals(jnp.float32(0), zero, zero)))
        floating = [leaf for leaf in jax.tree.leaves(state.params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return state, totals, optax.tree.norm(floating)

    return run_steps


def _step_keys(config: TrainingConfig, step: Int[Array, ""]) -> tuple[Key[Array, ""], Key[Array, " B"]]:
    """The key of a step, and `[B]` keys of its rows."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), _STEP_STREAM), step)
    key, row_key = jax.random.split(key)
    numbers = jnp.arange(config.batch_size, dtype=jnp.int32)
    return key, jax.vmap(lambda row: jax.random.fold_in(row_key, row))(numbers)


def _update_state(
    model: SequenceModel,
    objective: Objective,
    update: Update,
    config: TrainingConfig,
    state: TrainState,
    item_table: ItemTable,
    batch: Batch,
    key: Key[Array, ""],
    row_keys: Key[Array, " B"],
    num_segments: int,
) -> tuple[Float[Array, ""], TrainState]:
    """The loss of a batch, and the state after one update by it."""
    negatives = None if objective.draw is None else objective.draw(batch.targets, key, row_keys)
    weights = objective.weigh(batch.targets, batch.weights)
    params, moments = state.params, state.optimizer
    reads_rows = config.optimizer.rows == "read"
    if reads_rows and negatives is not None:  # model, loss and update see a catalogue of the items that the batch reads
        items = items_read(batch, negatives, num_rows=len(item_table.known))
        batch, negatives = renumbered(batch, negatives, items)
        item_table = jax.tree.map(lambda column: take_rows(column, items), item_table)
        params, moments = take_item_rows(params, items), take_item_rows(moments, items)
    if model.drop_ids is not None:
        item_table = model.drop_ids(item_table, jax.random.fold_in(key, _ID_STREAM))
    inputs = StepInputs(item_table, batch, weights, negatives, row_keys)
    step_loss = make_step_loss(model, objective, config, inputs, num_segments=num_segments)
    loss, params, moments = update.apply(step_loss, params, moments, jax.random.fold_in(key, _UPDATE_STREAM))
    if reads_rows:
        params = put_item_rows(state.params, params, items)
        moments = put_item_rows(state.optimizer, moments, items)
    average = state.average
    if config.ema_decay is not None:
        average = optax.incremental_update(params, average, 1.0 - config.ema_decay)
    return loss, TrainState(params, moments, average, state.step + 1)
