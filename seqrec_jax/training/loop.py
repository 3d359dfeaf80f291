"""The training loop: epochs of compiled chunks, validation, checkpoints, early stopping, and a clean end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from seqrec_jax.data.sequences import Sequences, one_window_per_row, pack_windows, sliding_windows
from seqrec_jax.errors import ConfigError, DataError, DivergenceError, ShapeError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import (
    data_size,
    is_first_process,
    is_simulated,
    largest_over_processes,
    make_mesh,
    on_this_process,
    over_items,
    rows_on_mesh,
    state_sharding,
)
from seqrec_jax.training.adapters.wiring import fine_tuning_optimizer
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.feed import EpochPlan, Feed, Piece, resident_feed, streamed_feed
from seqrec_jax.training.interruptions import interruptions
from seqrec_jax.training.log import RunLog, chunk_figures
from seqrec_jax.training.objective import Objective, make_objective
from seqrec_jax.training.state import Params, TrainState, evaluated_params, init_state, make_optimizer, make_schedule
from seqrec_jax.training.step import RunSteps, make_run_steps
from seqrec_jax.training.update import Update, gradient_update

CHUNK_SECONDS = 1.0
DIVERGED = 100.0  # times the loss at the start


@runtime_checkable
class Validate(Protocol):
    """A validation: parameters to named figures."""

    def __call__(self, params: Params, /) -> dict[str, float]:
        """Figures by name, such as `ndcg@10`."""
        ...


class TrainingData(NamedTuple):
    """The events of a training run.

    Attributes:
      sequences: training events of every user.
      first_timestamp: int64 seconds UTC from which times on the device count.
      behavior_weights: `[H]` float32 weight of a target by its behaviour; 0 excludes the behaviour.
      num_items: V.
    """

    sequences: Sequences
    first_timestamp: int
    behavior_weights: np.ndarray
    num_items: int


@dataclass
class Progress:
    """Progress of a run, saved with each checkpoint.

    Attributes:
      epoch: finished passes over the training windows.
      best_score: highest validation score.
      best_step: step of the best score, the last one among equals.
      validations_without_gain: validations since the best one.
      first_loss: loss of the first step, against which divergence is measured; None before it.
      seconds: time spent in steps, without validation.
      finished: whether all epochs are made or training stopped early.
      num_items: V; rows of a table beyond it only fill it up for a mesh.
    """

    epoch: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    validations_without_gain: int = 0
    first_loss: float | None = None
    seconds: float = 0.0
    finished: bool = False
    num_items: int | None = None


def train(
    model: SequenceModel,
    params: Params,
    data: TrainingData,
    item_table: ItemTable,
    *,
    config: TrainingConfig,
    length: int,
    directory: Path,
    validate: Validate | None = None,
    metric: str = "ndcg@10",
    objective: Objective | None = None,
    make_update: Callable[[optax.GradientTransformation], Update] = gradient_update,
    show_progress: bool = True,
) -> Progress:
    """Train a model, or continue its run from the last checkpoint, to the same parameters either way.

    Args:
      model: pure functions.
      params: parameters of a new run; ignored if the directory has a checkpoint.
      data: training events and the weights of their behaviours.
      item_table: attributes of the items; `config.model_devices` must divide its number of rows, V + 1 or more.
      config: optimisation settings.
      length: L.
      directory: the run's directory; checkpoints, log and TensorBoard files are written there.
      validate: computes the figures of a validation from parameters; None for no validation.
      metric: the figure, higher is better, by which the best checkpoint is chosen and training stops early.
      objective: an objective of your own instead of the one that `config.loss` describes.
      make_update: makes the update of a step from the configured optimizer, for example one that clips the gradient
        of each row; by default the gradient of the mean loss goes through the optimizer.
      show_progress: draw a progress bar on the terminal.

    Returns:
      Progress of the run: finished, or stopped by Ctrl-C (`finished` False) with everything saved.

    Raises:
      ConfigError: a batch size that the devices cannot share, a warm-up as long as the run, a metric that the
        validation does not give, or an objective that is no `Objective`.
      DataError: no user with two training events.
      DivergenceError: the loss or a parameter is not finite, or the loss has grown a hundredfold; the last good
        checkpoint is kept.
      CheckpointError: checkpoints cannot be read or written.
    """
    mesh = make_mesh(config.num_devices, model_devices=config.model_devices)
    _check_shares(config, item_table, mesh=mesh, num_items=data.num_items)
    # without a next event there is no target, unless events are predicted from both sides
    plan = _plan_epochs(data.sequences, config, length, drop_last=1 if model.causal else 0)
    total_steps = config.max_epochs * plan.num_batches
    optimizer = fine_tuning_optimizer(
        make_optimizer(config.optimizer, total_steps=total_steps), config.fine_tuning, total_steps=total_steps
    )
    update = make_update(optimizer)
    run_steps = make_run_steps(
        model,
        _objective_of_log(data, config, mesh, num_rows=len(item_table.known)) if objective is None else objective,
        update,
        config=config,
        length=length,
        behavior_weights=jnp.asarray(data.behavior_weights, dtype=jnp.float32),
        mesh=mesh,
    )
    feed = _make_feed(plan, data, config, mesh=mesh)
    with CheckpointStore(directory / "checkpoints") as store:
        state, progress = _start_or_continue(store, params, update, config=config, num_items=data.num_items, mesh=mesh)
        if progress.finished:
            return progress
        log = RunLog(directory, resume_step=int(state.step), active=is_first_process())
        bar = tqdm(
            total=total_steps,
            initial=int(state.step),
            desc=directory.name,
            unit="step",
            disable=not (show_progress and is_first_process()),
            dynamic_ncols=True,
        )
        with closing(log), closing(bar), interruptions() as stop:
            loop = _Loop(
                state=state,
                progress=progress,
                config=config,
                run_steps=run_steps,
                item_table=jax.device_put(item_table, over_items(mesh)),
                feed=feed,
                steps_per_epoch=plan.num_batches,
                rates=make_schedule(config.optimizer, total_steps=total_steps),
                store=store,
                log=log,
                bar=bar,
                stop=stop,
                chunks_grow=not is_simulated(mesh),
            )
            while not progress.finished and not loop.stopping:
                if loop.run_epoch():
                    loop.end_epoch(validate, metric)
            if not progress.finished:
                store.save(loop.state, asdict(progress))
    return progress


@dataclass
class _Loop:
    """A run between two epochs: what it has reached, what it runs, and where it writes.

    Attributes:
      state: parameters and optimizer state after the last step.
      progress: figures saved with each checkpoint.
      config: the run's settings.
      run_steps: the compiled loop of steps.
      item_table: attributes of the items, on the mesh.
      feed: batches of an epoch.
      steps_per_epoch: batches of an epoch.
      rates: learning rate by step.
      store: checkpoints.
      log: the run's log.
      bar: the progress bar.
      stop: set by Ctrl-C.
      chunks_grow: False where every step must be waited for.
      stopping: whether any process has been interrupted.
      chunk_steps: steps of the next chunk.
      last_save: clock of the last checkpoint, in seconds.
      figures: what the progress bar shows.
    """

    state: TrainState
    progress: Progress
    config: TrainingConfig
    run_steps: RunSteps
    item_table: ItemTable
    feed: Feed
    steps_per_epoch: int
    rates: optax.Schedule
    store: CheckpointStore
    log: RunLog
    bar: tqdm
    stop: threading.Event
    chunks_grow: bool
    stopping: bool = False
    chunk_steps: int = 1
    last_save: float = field(default_factory=time.monotonic)
    figures: dict[str, str] = field(default_factory=dict)

    def run_epoch(self) -> bool:
        """Run the rest of an epoch, with checkpoints by the clock; False if it was interrupted before its end."""
        first = int(self.state.step) - self.progress.epoch * self.steps_per_epoch
        pieces = self.feed(self.progress.epoch, first)
        piece = next(pieces)
        while first < self.steps_per_epoch:
            piece = next(pieces) if first == piece.last else piece
            last = min(first + self.chunk_steps, piece.last)
            self._run_chunk(piece, first, last)
            first = last
            # clocks and signals differ between processes, their decisions must not
            is_due = time.monotonic() - self.last_save > self.config.checkpoint_seconds
            self.chunk_steps, stopping, due = largest_over_processes(self.chunk_steps, self.stop.is_set(), is_due)
            self.stopping = bool(stopping)
            if first < self.steps_per_epoch:  # the end of an epoch saves its own checkpoint, with a score
                if self.stopping:
                    return False
                if due:
                    self._save()
        return True

    def end_epoch(self, validate: Validate | None, metric: str) -> None:
        """Validate if due, decide whether the run has ended, and save."""
        score = _end_epoch(self.state, self.progress, self.config, validate, metric, self.log)
        self._save(score)
        [stopping] = largest_over_processes(self.stop.is_set())
        self.stopping = bool(stopping)
        if score is not None:
            self.figures[metric] = f"{score:.4f}"
            self.bar.set_postfix(self.figures)

    def _run_chunk(self, piece: Piece, first: int, last: int) -> None:
        """Run the batches first…last-1 of the epoch and log them."""
        started = time.monotonic()
        outputs = self.run_steps(
            self.state, self.item_table, piece.events, piece.rows, first - piece.first, last - piece.first
        )
        self.state, totals, norm = jax.block_until_ready(outputs)
        seconds = time.monotonic() - started
        self.progress.seconds += seconds
        step = int(self.state.step)
        values = chunk_figures(
            loss=float(totals.loss) / (last - first),
            learning_rate=float(self.rates(step - 1)),
            parameter_norm=float(norm),
            targets=int(totals.targets),
            sequences=int(totals.windows),
            seconds=seconds,
        )
        _check_divergence(values, self.progress, self.store, step=step)
        self.log.write("train", step, epoch=self.progress.epoch, **values)
        self.figures["loss"] = f"{values['loss']:.4f}"
        self.figures["targets/s"] = f"{values['targets_per_second']:,.0f}"
        self.figures["sequences/s"] = f"{values['sequences_per_second']:,.0f}"
        self.bar.set_postfix(self.figures, refresh=False)
        self.bar.update(last - first)
        if self.chunks_grow:
            pace = (last - first) / seconds
            self.chunk_steps = max(1, min(round(pace * CHUNK_SECONDS), 8 * self.chunk_steps))

    def _save(self, score: float | None = None) -> None:
        self.store.save(self.state, asdict(self.progress), score=score)
        self.last_save = time.monotonic()


def _check_shares(config: TrainingConfig, item_table: ItemTable, *, mesh: Mesh, num_items: int) -> None:
    """Raise where the devices cannot share the batch or the items evenly."""
    if config.batch_size % data_size(mesh):
        raise ConfigError(
            f"training.batch_size is {config.batch_size}, which {data_size(mesh)} devices cannot share evenly; "
            "choose a multiple, or set training.num_devices"
        )
    num_rows = len(item_table.known)
    if num_rows % config.model_devices:
        raise ShapeError(
            f"item_table has {num_rows} rows, which {config.model_devices} devices cannot share evenly; make it with "
            f"num_rows={rows_on_mesh(num_items, model_devices=config.model_devices)}"
        )


def _objective_of_log(data: TrainingData, config: TrainingConfig, mesh: Mesh, *, num_rows: int) -> Objective:
    """The configured objective with the counts of the training events."""
    item_ids = data.sequences.item_ids
    are_targets = data.behavior_weights[data.sequences.behaviors] > 0
    return make_objective(
        config.loss,
        item_counts=np.bincount(item_ids, minlength=num_rows),
        target_counts=np.bincount(item_ids[are_targets], minlength=num_rows),
        data_devices=data_size(mesh),
        model_devices=config.model_devices,
    )


def _make_feed(plan: EpochPlan, data: TrainingData, config: TrainingConfig, *, mesh: Mesh) -> Feed:
    """Events that stay on the device, or go there piece by piece."""
    first = data.first_timestamp
    if config.stream_batches is None:
        return resident_feed(plan, data.sequences, first_timestamp=first, mesh=mesh)
    pieces = config.stream_batches
    return streamed_feed(plan, data.sequences, first_timestamp=first, batches_per_piece=pieces, mesh=mesh)


def _start_or_continue(
    store: CheckpointStore,
    params: Params,
    update: Update,
    *,
    config: TrainingConfig,
    num_items: int,
    mesh: Mesh,
) -> tuple[TrainState, Progress]:
    """State and progress of the last checkpoint, or of a new run where there is none."""

    def first_state(params: Params) -> TrainState:
        return init_state(params, update, with_average=config.ema_decay is not None)

    like = jax.eval_shape(first_state, params)
    if store.last_step is None:
        start = jax.jit(first_state, out_shardings=state_sharding(like, mesh))
        return start(params), Progress(num_items=num_items)
    state, saved = store.restore(like, mesh=mesh)
    return state, Progress(**saved)


def _plan_epochs(sequences: Sequences, config: TrainingConfig, length: int, *, drop_last: int) -> EpochPlan:
    windows = sliding_windows(sequences, length=length, stride=config.stride, drop_last=drop_last)
    if sequences.lengths.max(initial=0) < 2:
        raise DataError(
            f"no user among {sequences.num_users} has two training events, so there is nothing to predict; choose "
            "another split or a smaller k-core"
        )
    packing = (
        pack_windows(windows.lengths, row_length=length) if config.packing else one_window_per_row(windows.lengths)
    )
    return EpochPlan(windows, packing, config.batch_size, config.seed)


def _end_epoch(
    state: TrainState,
    progress: Progress,
    config: TrainingConfig,
    validate: Validate | None,
    metric: str,
    log: RunLog,
) -> float | None:
    """Validate where it is due, and decide whether the run has ended; the validation figure or None."""
    progress.epoch += 1
    score = None
    last_epoch = progress.epoch >= config.max_epochs
    if validate is not None and (progress.epoch % config.validate_every == 0 or last_epoch):
        started = time.monotonic()
        figures = validate(on_this_process(evaluated_params(state)))
        seconds = time.monotonic() - started
        log.write("validation", int(state.step), epoch=progress.epoch, **figures, validation_seconds=seconds)
        score = figures.get(metric)
        if score is None or not math.isfinite(score):
            raise ConfigError(
                f"the validation gives {score} for {metric}, which decides what is best; choose another of "
                f"{', '.join(name for name, value in figures.items() if math.isfinite(value))}"
            )
        gained = score > progress.best_score
        progress.validations_without_gain = 0 if gained else progress.validations_without_gain + 1
        if score >= progress.best_score:
            progress.best_score, progress.best_step = score, int(state.step)
    stopped = config.patience is not None and progress.validations_without_gain >= config.patience
    progress.finished = last_epoch or stopped
    if progress.finished:
        log.write("end", int(state.step), epoch=progress.epoch, seconds=progress.seconds, stopped_early=stopped)
    return score


def _check_divergence(values: dict[str, float], progress: Progress, store: CheckpointStore, *, step: int) -> None:
    """Stop before parameters that are of no use can be saved."""
    loss, norm = values["loss"], values["parameter_norm"]
    if progress.first_loss is None:
        progress.first_loss = loss
    if math.isfinite(norm) and loss <= DIVERGED * max(progress.first_loss, 1.0):
        return
    store.wait()
    last = store.last_step
    kept = "no checkpoint was made yet" if last is None else f"the last good checkpoint is of step {last}"
    raise DivergenceError(
        f"training diverged at or before step {step}: the loss is {loss:.4g} (at the start "
        f"{progress.first_loss:.4g}), the norm of the parameters {norm:.4g}, the learning rate "
        f"{values['learning_rate']:.2e}; {kept}. Lower training.optimizer.learning_rate, set "
        "training.optimizer.clip_norm (1.0 is usual) or use training.precision float32, in a run of another name; "
        f"training.warm_start {store.directory.parent} would start it from the best checkpoint of this one"
    )
