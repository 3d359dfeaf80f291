"""This library's SASRec as a contender: in its own way (packed rows, every position), or on a peer's samples.

Runs with the benchmark's Python, from the repository's root.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from protocol import serve

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.batches import Batch, event_arrays, shuffled_rows
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.data.sequences import pack_windows, sliding_windows
from seqrec_jax.data.splits import EvaluationCases, Stage, evaluation_cases
from seqrec_jax.evaluation.judging import judge, mean_of_users
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import make_mesh, replicate
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.training.loop import TrainingData, train
from seqrec_jax.training.objective import Objective, make_objective
from seqrec_jax.training.state import TrainState, init_state, make_optimizer
from seqrec_jax.training.step import make_run_steps
from seqrec_jax.training.update import gradient_update

CONFIGURATION = "configs/movielens_1m.yaml"
LOSSES = {
    "softmax": {"kind": "softmax"},
    "binary_cross_entropy": {"kind": "binary_cross_entropy", "num_negatives": 1, "negatives_per": "target"},
}
TARGETS_AN_UPDATE = 3200  # in its own way: rows of L positions, nearly all of them real
CHUNK_SECONDS = 0.5

Advance = Callable[[int, int], tuple[float, int, int]]
"""Makes the updates of batches first…last-1; the sum of their losses, their targets and rows."""


class SeqrecSasrec:
    """The contender."""

    def prepare(
        self,
        length: int,
        loss: str,
        model: dict[str, Any] | None = None,
        samples: str | None = None,
        total_epochs: int = 1000,
        optimizer: dict[str, Any] | None = None,
    ) -> dict:
        """A model like a peer's, to be trained in its own way, or on the samples that the peer wrote."""
        encoder = {"kind": "sasrec", "width": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.2, **(model or {})}
        values = {
            "name": "movielens_1m",
            "data": {"reader": "movielens_1m", "source": "../shared/data/movielens_1m"},
            "model": {"encoder": {**encoder, "max_length": length}, "items": {"width": 64}},
            "training": {
                "loss": LOSSES[loss],
                "batch_size": TARGETS_AN_UPDATE // length,
                "max_epochs": total_epochs,
                "patience": None,
                "optimizer": {"name": "adam", "warmup_steps": 0, "schedule": "constant", **(optimizer or {})},
            },
        }
        self.config = parse_config(ExperimentConfig, values=values)
        self.length = length
        if not Path(self.config.dataset_directory).exists():
            pipeline.prepare(parse_config(ExperimentConfig, path=CONFIGURATION))
        self.dataset = read_dataset(self.config.dataset_directory)
        self.model, self.item_table = pipeline.build_model(self.config, self.dataset)
        self.advance = self._own_way() if samples is None else self._on_samples(np.load(samples))
        self.first, self.chunk = 0, 1
        arguments = self.dataset, self.model, self.state.params, self.item_table
        self.recommender = Recommender.for_dataset(*arguments, length=length, name="ours")
        self.cases: dict[Stage, EvaluationCases] = {}
        return {"model": encoder, "batch_size": self.config.training.batch_size, "version": jax.__version__}

    def train(self, seconds: float) -> dict:
        """Updates for about so long, each compiled loop half a second; see protocol.py."""
        steps, rows, targets, total, started = 0, 0, 0, 0.0, time.perf_counter()
        while not steps or time.perf_counter() - started < seconds:
            last = min(self.first + self.chunk, self.steps_per_epoch)
            begun, made = time.perf_counter(), last - self.first
            of_loss, of_targets, of_rows = self.advance(self.first, last)
            pace = made / (time.perf_counter() - begun)
            steps, rows, targets, total = steps + made, rows + of_rows, targets + of_targets, total + of_loss
            self.chunk = max(1, min(round(pace * CHUNK_SECONDS), 8 * self.chunk))
            self.first = last % self.steps_per_epoch
        elapsed = time.perf_counter() - started
        return {"steps": steps, "targets": targets, "samples": rows, "seconds": elapsed, "loss": total / steps}

    def rank(self, stage: Stage = "test") -> dict:
        """Every user of a stage judged, by the public call."""
        if stage not in self.cases:
            self.cases[stage] = evaluation_cases(
                self.dataset.sequences, self.dataset.split, stage=stage, num_items=self.dataset.num_items
            )
        cases = self.cases[stage]
        config = EvaluationConfig(stage=stage, cutoffs=(10,), seen_items="excluded")
        started = time.perf_counter()
        judged = judge(self.recommender.with_params(self.state.params), cases, config=config)
        figure = mean_of_users(judged.per_user["ndcg@10"])
        return {"users": len(cases.users), "seconds": time.perf_counter() - started, "ndcg": figure}

    def peak(self, size: int = 2048, repeats: int = 5) -> dict:
        """Floating-point operations a second of the fastest of some products of two square float32 matrices."""
        matrix = jax.random.normal(jax.random.key(0), (size, size))
        multiply = jax.jit(lambda x: x @ x)
        multiply(matrix).block_until_ready()
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            multiply(matrix).block_until_ready()
            seconds.append(time.perf_counter() - started)
        return {"flops_per_second": 2 * size**3 / min(seconds)}

    def epoch(self) -> dict:
        """The time of the training loop's second epoch, and of as many steps in one compiled loop."""
        ends: list[float] = []

        def validate(params: Any) -> dict[str, float]:
            ends.append(time.perf_counter())
            return {"ndcg@10": 0.0}

        weights = np.ones(len(self.dataset.behaviors), dtype=np.float32)
        data = TrainingData(
            self.dataset.training_sequences, self.dataset.first_timestamp, weights, self.dataset.num_items
        )
        values = {"loss": LOSSES["softmax"], "batch_size": self.config.training.batch_size, "max_epochs": 2}
        with tempfile.TemporaryDirectory() as folder:
            train(
                self.model,
                self.state.params,
                data,
                self.item_table,
                config=parse_config(type(self.config.training), values=values),
                length=self.length,
                directory=Path(folder),
                validate=validate,
                show_progress=False,
            )
        self.advance(0, 1)
        started = time.perf_counter()
        self.advance(0, self.steps_per_epoch)
        steps_seconds = time.perf_counter() - started
        return {"epoch_seconds": ends[1] - ends[0], "steps_seconds": steps_seconds, "steps": self.steps_per_epoch}

    def reach(self, ndcg: float, epochs: int) -> dict:
        """Seconds of training and validation until the validation figure is reached, at most so many epochs."""
        started, trained, figure, made = time.perf_counter(), 0.0, 0.0, 0
        while figure < ndcg and made < epochs:
            begun = time.perf_counter()
            self.advance(0, self.steps_per_epoch)
            trained += time.perf_counter() - begun
            figure, made = self.rank("validation")["ndcg"], made + 1
        seconds = time.perf_counter() - started
        return {"ndcg": figure, "epochs": made, "seconds": seconds, "training_seconds": trained}

    def _start(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """The optimizer, after the state is set to what it starts from."""
        self.steps_per_epoch = steps_per_epoch
        total_steps = self.config.training.max_epochs * steps_per_epoch
        optimizer = make_optimizer(self.config.training.optimizer, total_steps=total_steps)
        params = jax.jit(self.model.init)(jax.random.key(0))
        self.state = replicate(init_state(params, optimizer, with_average=False), make_mesh())
        return optimizer

    def _own_way(self) -> Advance:
        """All training events in packed rows, as the training loop lays them."""
        training, config, mesh = self.dataset.training_sequences, self.config.training, make_mesh()
        windows = sliding_windows(training, length=self.length, drop_last=1)
        packing = pack_windows(windows.lengths, row_length=self.length)
        counts = np.bincount(training.item_ids, minlength=self.dataset.num_items + 1)
        run_steps = make_run_steps(
            self.model,
            make_objective(config.loss, item_counts=counts),
            gradient_update(self._start(len(packing.lengths) // config.batch_size)),
            config=config,
            length=self.length,
            behavior_weights=jnp.ones(len(self.dataset.behaviors)),
            mesh=mesh,
        )
        events = replicate(event_arrays(training, first_timestamp=self.dataset.first_timestamp), mesh)
        lay_rows = jax.jit(partial(shuffled_rows, windows, packing))

        def advance(first: int, last: int) -> tuple[float, int, int]:
            if first == 0:
                epoch = int(self.state.step) // self.steps_per_epoch
                self.rows = replicate(lay_rows(jax.random.key(epoch)), mesh)
            outputs = run_steps(self.state, self.item_table, events, self.rows, first, last)
            self.state, totals, _ = jax.block_until_ready(outputs)
            return float(totals.loss), int(totals.targets), (last - first) * config.batch_size

        return advance

    def _on_samples(self, samples: Any) -> Advance:
        """A peer's batches, the same padded rows with the same targets, again and again."""
        batches = _as_batches(samples["item_ids"], samples["targets"])
        steps, batch_size = batches.item_ids.shape[:2]
        every = np.ones(self.dataset.num_items + 1)
        objective = make_objective(self.config.training.loss, item_counts=every)
        run_steps = _make_sample_steps(self.model, objective, self._start(steps))
        # a peer that predicts once a row computes the loss of one state a row, and so do we
        last_only = bool((samples["targets"] > 0).sum(axis=-1).max() == 1)

        def advance(first: int, last: int) -> tuple[float, int, int]:
            outputs = run_steps(self.state, self.item_table, batches, first, last, last_only=last_only)
            self.state, loss, targets = jax.block_until_ready(outputs)
            return float(loss), int(targets), (last - first) * batch_size

        return advance


def _as_batches(item_ids: np.ndarray, targets: np.ndarray) -> Batch:
    """Batches of one user a row `[K, B, L]`, padded on either side."""
    real = item_ids > 0
    zeros = np.zeros_like(item_ids)
    batches = Batch(
        item_ids=item_ids,
        behaviors=zeros,
        timestamps=zeros,
        positions=np.where(real, np.cumsum(real, axis=-1, dtype=np.int32) - 1, 0),
        segment_ids=real.astype(np.int32),
        targets=targets,
        weights=(targets > 0).astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, batches)


def _make_sample_steps(model: SequenceModel, objective: Objective, optimizer: optax.GradientTransformation) -> Any:
    """`run_steps(state, item_table, batches, first, last, last_only) -> state, sum of losses, targets`."""

    def loss_of(params: Any, item_table: Any, batch: Batch, key: jax.Array, last_only: bool) -> jax.Array:
        row_keys = jax.random.split(key, len(batch.item_ids))
        encode = model.encode_last if last_only else model.encode
        states = encode(params, item_table, batch, key=row_keys)
        targets, weights = batch.targets, batch.weights
        if last_only:
            states = states[:, None]
            targets, weights = jnp.max(targets, axis=1, keepdims=True), jnp.max(weights, axis=1, keepdims=True)
        queries, v_y = model.project(params, states), model.item_vectors(params, item_table)
        return objective(queries, v_y, targets, weights, key, row_keys)

    @partial(jax.jit, donate_argnums=0, static_argnames="last_only")
    def run_steps(state: TrainState, item_table: Any, batches: Batch, first: int, last: int, *, last_only: bool) -> Any:
        def body(number: jax.Array, carry: tuple[TrainState, jax.Array, jax.Array]) -> tuple:
            state, total, targets = carry
            batch = jax.tree.map(lambda leaf: leaf[number], batches)
            key = jax.random.fold_in(jax.random.key(0), state.step)
            loss, gradient = jax.value_and_grad(loss_of)(state.params, item_table, batch, key, last_only)
            updates, moments = optimizer.update(gradient, state.optimizer, state.params)
            params = optax.apply_updates(state.params, updates)
            state = state._replace(params=params, optimizer=moments, step=state.step + 1)
            return state, total + loss, targets + jnp.sum(batch.targets > 0, dtype=jnp.int32)

        return jax.lax.fori_loop(first, last, body, (state, jnp.float32(0), jnp.int32(0)))

    return run_steps


if __name__ == "__main__":
    serve(SeqrecSasrec())
