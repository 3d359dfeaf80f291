"""What a training step costs as the catalogue grows: `python benchmarks/catalogue_size.py`, about ten minutes.

SASRec, D = 64, 2 blocks, 32 rows of 50 random events, with the softmax over all items, and with 4,096 negatives shared
by the batch while the optimizer changes all rows of the id embeddings or only those that a step reads
(`training.optimizer.rows`). The contenders of a catalogue alternate, in an order drawn anew each round; medians. Writes
benchmarks/results/catalogue_size.json.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from records import Row, circumstances, write_rows

from seqrec_jax.data.batches import EventArrays, Rows
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.items import ItemTowerConfig
from seqrec_jax.items.tower import id_table
from seqrec_jax.model import ModelConfig, make_sequence_model
from seqrec_jax.parallel import make_mesh
from seqrec_jax.training.config import LossConfig, OptimizerConfig, TrainingConfig
from seqrec_jax.training.objective import make_objective
from seqrec_jax.training.state import init_state, make_optimizer
from seqrec_jax.training.step import make_run_steps

RESULTS = Path("benchmarks/results/catalogue_size.json")
CATALOGUES, WIDTH, ROWS, LENGTH, ROUNDS, STEPS = (10_000, 100_000, 1_000_000), 64, 32, 50, 5, 5
SAMPLED = LossConfig(kind="sampled_softmax", num_negatives=4096, negatives_per="batch")
CONTENDERS = {
    "softmax": TrainingConfig(batch_size=ROWS),
    "4,096 negatives, all rows": TrainingConfig(batch_size=ROWS, loss=SAMPLED),
    "4,096 negatives, rows read": TrainingConfig(batch_size=ROWS, loss=SAMPLED, optimizer=OptimizerConfig(rows="read")),
}


class Contender:
    """A compiled step and the state that it moves on."""

    def __init__(self, config: TrainingConfig, num_items: int):
        table = id_table(num_items)
        model = make_sequence_model(
            ModelConfig(
                encoder=EncoderConfig(kind="sasrec", width=WIDTH, max_length=LENGTH), items=ItemTowerConfig(width=WIDTH)
            ),
            num_items=num_items,
            num_behaviors=1,
            item_table=table,
        )
        optimizer = make_optimizer(config.optimizer, total_steps=1000)
        run_steps = make_run_steps(
            model,
            make_objective(config.loss, item_counts=np.ones(num_items + 1, dtype=np.int64)),
            optimizer,
            config=config,
            length=LENGTH,
            behavior_weights=jnp.ones(1),
            mesh=make_mesh(1),
        )
        events = np.random.default_rng(0).integers(1, num_items + 1, ROWS * (LENGTH + 1)).astype(np.int32)
        starts = np.tile(np.arange(ROWS, dtype=np.int32)[:, None] * (LENGTH + 1), (STEPS, 1))
        self.inputs: tuple[Any, ...] = (
            table,
            EventArrays(jnp.asarray(events), jnp.zeros(len(events), jnp.int32), jnp.zeros(len(events), jnp.int32)),
            Rows(jnp.asarray(starts), jnp.full(starts.shape, LENGTH, jnp.int32)),
        )
        self.state = init_state(jax.jit(model.init)(jax.random.key(0)), optimizer, with_average=False)
        compiled = run_steps.lower(self.state, *self.inputs, 0, 1).compile()  # type: ignore[attr-defined]
        self.temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
        self.run_steps = run_steps
        self.seconds()

    def seconds(self) -> float:
        """Seconds a step."""
        started = time.perf_counter()
        self.state = jax.block_until_ready(self.run_steps(self.state, *self.inputs, 0, STEPS))[0]
        return (time.perf_counter() - started) / STEPS


def main() -> None:
    """Time the contenders on every catalogue."""
    about = circumstances("python benchmarks/catalogue_size.py")
    for num_items in CATALOGUES:
        contenders = {name: Contender(config, num_items) for name, config in CONTENDERS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name in random.sample(list(contenders), len(contenders)):
                seconds[name].append(contenders[name].seconds())
        rows: list[Row] = []
        for name, contender in contenders.items():
            rows.append(
                {
                    "items": num_items,
                    "configuration": name,
                    "model": "sasrec",
                    "targets": ROWS * LENGTH,
                    "seconds": round(statistics.median(seconds[name]), 5),
                    "temporary_bytes": contender.temporary_bytes,
                    **about,
                }
            )
            print(
                f"{num_items:>9,} items  {rows[-1]['seconds'] * 1e3:9.1f} ms a step  "
                f"{contender.temporary_bytes / 1e6:8.1f} MB temporary  {name}",
                flush=True,
            )
        write_rows(RESULTS, rows, keys=("items", "configuration"))


if __name__ == "__main__":
    main()
