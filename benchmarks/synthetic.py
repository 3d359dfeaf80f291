"""A training step on random events, for the benchmarks that ask for its cost and not for its model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrec_jax.data.batches import Batch, EventArrays, Rows, gather_batch
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.items import ItemTowerConfig, id_table
from seqrec_jax.model import ModelConfig, make_sequence_model
from seqrec_jax.parallel import make_mesh
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.objective import make_objective
from seqrec_jax.training.state import init_state, make_optimizer
from seqrec_jax.training.step import make_run_steps
from seqrec_jax.training.update import gradient_update


class SyntheticTraining:
    """A model, its compiled step and the state that the step moves on, on rows full of uniformly random items.

    Attributes:
      model, objective, optimizer: what the step is made of.
      item_table, events, rows: its inputs, `steps` batches.
      state: after all steps so far.
    """

    def __init__(self, config: TrainingConfig, *, encoder: EncoderConfig, num_items: int, steps: int):
        self.config, self.length, self.steps = config, encoder.max_length, steps
        self.item_table = id_table(num_items)
        self.model = make_sequence_model(
            ModelConfig(encoder=encoder, items=ItemTowerConfig(width=encoder.width)),
            num_items=num_items,
            num_behaviors=1,
            item_table=self.item_table,
        )
        self.objective = make_objective(config.loss, item_counts=np.ones(num_items + 1, dtype=np.int64))
        self.optimizer = make_optimizer(config.optimizer, total_steps=10**6)
        # a row has an event more than positions: the last one is only a target
        num_rows, row_events = steps * config.batch_size, self.length + 1
        item_ids = np.random.default_rng(0).integers(1, num_items + 1, num_rows * row_events).astype(np.int32)
        zeros = jnp.zeros(len(item_ids), jnp.int32)
        starts = row_events * np.arange(num_rows, dtype=np.int32)[:, None]
        self.events = EventArrays(jnp.asarray(item_ids), zeros, zeros)
        self.rows = Rows(jnp.asarray(starts), jnp.full(starts.shape, self.length, jnp.int32))
        params = jax.jit(self.model.init)(jax.random.key(0))
        self.state = init_state(params, self.optimizer, with_average=False)
        self._run_steps: Any = make_run_steps(
            self.model,
            self.objective,
            gradient_update(self.optimizer),
            config=config,
            length=self.length,
            behavior_weights=jnp.ones(1),
            mesh=make_mesh(1),
        )

    def first_batch(self) -> tuple[Batch, jax.Array]:
        """The first step's batch and a key for each of its rows."""
        size = self.config.batch_size
        rows = jax.tree.map(lambda leaf: leaf[:size], self.rows)
        batch = gather_batch(self.events, rows, length=self.length, behavior_weights=jnp.ones(1))
        return batch, jax.random.split(jax.random.key(1), size)

    def temporary_bytes(self) -> int:
        """What the compiled step takes beside its inputs and outputs."""
        lowered = self._run_steps.lower(self.state, self.item_table, self.events, self.rows, 0, 1)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    def turn(self, *, calls: int = 1) -> Mapping[str, float]:
        """All steps once, in so many calls of the compiled loop; `seconds` a step."""
        started, size = time.perf_counter(), self.steps // calls
        for first in range(0, size * calls, size):
            outputs = self._run_steps(self.state, self.item_table, self.events, self.rows, first, first + size)
            self.state = jax.block_until_ready(outputs)[0]
        return {"seconds": (time.perf_counter() - started) / (size * calls)}
