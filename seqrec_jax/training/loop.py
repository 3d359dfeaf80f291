"""The training loop: epochs of compiled chunks, validation, checkpoints, early stopping, and a clean end."""

from __future__ import annotations

import math
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from seqrec_jax.training.feed import EpochPlan, resident_feed, streamed_feed
from seqrec_jax.training.log import RunLog
from seqrec_jax.training.objective import Objective, make_objective
from seqrec_jax.training.state import (
    Params,
    TrainState,
    evaluated_params,
    init_state,
    make_optimizer,
    make_schedule,
)
from seqrec_jax.training.step import StepTotals, make_run_steps

Validate = Callable[[Params], dict[str, float]]
CHUNK_SECONDS = 1.0
DIVERGED = 100.0  # times the loss at the start


class TrainingData(NamedTuple):
    """What is trained on.

    Attributes:
      sequences: training events of every user.
      first_timestamp: seconds that times on the device count from.
      behavior_weights: `[H]` float32 weight of a target by its behaviour, 0 where it is none.
      num_items: V.
    """

    sequences: Sequences
    first_timestamp: int
    behavior_weights: np.ndarray
    num_items: int


@dataclass
class Progress:
    """Where a run stands, saved with each checkpoint.

    Attributes:
      epoch: passes made.
      best_score: of the validations.
      best_step: where it was reached, of equal ones the last.
      validations_without_gain: since the best one.
      first_loss: of the first step, which tells divergence.
      seconds: of the steps, without validation.
      finished: all epochs are made, or training stopped early.
      num_items: V, by which a checkpoint tells rows of items from those that fill up a table for a mesh.
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
    objective: Objective | Callable[..., jax.Array] | None = None,
    show_progress: bool = True,
) -> Progress:
    """Train a model, or continue its run from the last checkpoint, to the same parameters either way.

    Args:
      model: pure functions.
      params: where a new run starts; ignored where the directory has a checkpoint.
      data: what is trained on.
      item_table: attributes of the items; its rows, V + 1 or more, are shared by `config.model_devices`.
      config: the run's settings.
      length: L.
      directory: the run's directory; checkpoints, log and TensorBoard go there.
      validate: parameters to named figures; None for no validation.
      metric: the figure, higher is better, that decides what is best and when to stop.
      objective: one's own, with the call that `make_objective` gives, instead of the one that `config.loss` names.
      show_progress: draw a progress bar on the terminal.

    Returns:
      Where the run stands: finished, or stopped by Ctrl-C (`finished` False) with everything saved.

    Raises:
      ConfigError: a batch size that the devices cannot share, a warm-up longer than the run, or a metric that
        the validation does not give.
      DataError: no user with two training events.
      DivergenceError: the loss or a parameter is not finite, or the loss has grown a hundredfold; the last good
        checkpoint is kept.
      CheckpointError: checkpoints cannot be read or written.
    """
    mesh = make_mesh(config.num_devices, model_devices=config.model_devices)
    if config.batch_size % data_size(mesh):
        raise ConfigError(
            f"training.batch_size is {config.batch_size}, which {data_size(mesh)} devices cannot share evenly; "
            "choose a multiple, or set training.num_devices"
        )
    num_rows = item_table.known.shape[0]
    if num_rows % config.model_devices:
        raise ShapeError(
            f"item_table has {num_rows} rows, which {config.model_devices} devices cannot share evenly; make it with "
            f"num_rows={rows_on_mesh(data.num_items, model_devices=config.model_devices)}"
        )
    # without a next event there is no target, unless events are predicted from both sides
    plan = _plan_epochs(data.sequences, config, length, drop_last=1 if model.causal else 0)
    steps_per_epoch = plan.num_batches
    total_steps = config.max_epochs * steps_per_epoch
    optimizer = fine_tuning_optimizer(
        make_optimizer(config.optimizer, total_steps=total_steps), config.fine_tuning, total_steps=total_steps
    )
    rates = make_schedule(config.optimizer, total_steps=total_steps)
    if objective is None:
        item_ids = data.sequences.item_ids
        are_targets = data.behavior_weights[data.sequences.behaviors] > 0
        objective = make_objective(
            config.loss,
            item_counts=np.bincount(item_ids, minlength=num_rows),
            target_counts=np.bincount(item_ids[are_targets], minlength=num_rows),
            data_devices=data_size(mesh),
            model_devices=config.model_devices,
        )
    run_steps = make_run_steps(
        model,
        objective,
        optimizer,
        config=config,
        length=length,
        behavior_weights=jnp.asarray(data.behavior_weights, dtype=jnp.float32),
        mesh=mesh,
    )
    place: dict[str, Any] = {"first_timestamp": data.first_timestamp, "mesh": mesh}
    if config.stream_batches is None:
        feed = resident_feed(plan, data.sequences, **place)
    else:
        feed = streamed_feed(plan, data.sequences, batches_per_piece=config.stream_batches, **place)
    item_table = jax.device_put(item_table, over_items(mesh))
    with closing(CheckpointStore(directory / "checkpoints")) as store:
        state, progress = _start_or_continue(
            store, params, optimizer, config=config, num_items=data.num_items, mesh=mesh
        )
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
        figures: dict[str, str] = {}
        chunk_steps, last_save, stopping = 1, time.monotonic(), 0
        with closing(log), closing(bar), _interruptions() as stop:
            while not progress.finished and not stopping:
                first = int(state.step) - progress.epoch * steps_per_epoch
                pieces = feed(progress.epoch, first)
                piece = next(pieces)
                while first < steps_per_epoch:
                    piece = next(pieces) if first == piece.last else piece
                    last = min(first + chunk_steps, piece.last)
                    started = time.monotonic()
                    outputs = run_steps(
                        state, item_table, piece.events, piece.rows, first - piece.first, last - piece.first
                    )
                    state, totals, norm = jax.block_until_ready(outputs)
                    seconds = time.monotonic() - started
                    progress.seconds += seconds
                    rate = float(rates(int(state.step) - 1))
                    values = _chunk_values(totals, norm, last - first, seconds=seconds, rate=rate)
                    _check_divergence(values, progress, store, step=int(state.step))
                    log.write("train", int(state.step), epoch=progress.epoch, **values)
                    figures["loss"] = f"{values['loss']:.4f}"
                    figures["targets/s"] = f"{values['targets_per_second']:,.0f}"
                    figures["sequences/s"] = f"{values['sequences_per_second']:,.0f}"
                    bar.set_postfix(figures, refresh=False)
                    bar.update(last - first)
                    if not is_simulated(mesh):
                        pace = (last - first) / seconds
                        chunk_steps = max(1, min(round(pace * CHUNK_SECONDS), 8 * chunk_steps))
                    first = last
                    # clocks and signals differ between processes, what they do next must not
                    is_due = time.monotonic() - last_save > config.checkpoint_seconds
                    chunk_steps, stopping, due = largest_over_processes(chunk_steps, stop.is_set(), is_due)
                    if first < steps_per_epoch:  # the end of an epoch saves its own checkpoint, with a score
                        if stopping:
                            break
                        if due:
                            store.save(state, asdict(progress))
                            last_save = time.monotonic()
                else:
                    score = _end_epoch(state, progress, config, validate, metric, log)
                    store.save(state, asdict(progress), score=score)
                    last_save = time.monotonic()
                    [stopping] = largest_over_processes(stop.is_set())
                    if score is not None:
                        figures[metric] = f"{score:.4f}"
                        bar.set_postfix(figures)
            if not progress.finished:
                store.save(state, asdict(progress))
    return progress


def _start_or_continue(
    store: CheckpointStore,
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    config: TrainingConfig,
    num_items: int,
    mesh: Mesh,
) -> tuple[TrainState, Progress]:
    """State and progress of the last checkpoint, or of a new run where there is none."""

    def first_state(params: Params) -> TrainState:
        return init_state(params, optimizer, with_average=config.ema_decay is not None)

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


def _chunk_values(totals: StepTotals, norm: jax.Array, steps: int, *, seconds: float, rate: float) -> dict[str, float]:
    """What is logged of a chunk of steps."""
    return {
        "loss": float(totals.loss) / steps,
        "learning_rate": rate,
        "parameter_norm": float(norm),
        "targets_per_second": int(totals.targets) / seconds,
        "sequences_per_second": int(totals.windows) / seconds,
        "seconds": seconds,
        "memory_bytes": _memory_bytes(),
    }


def _memory_bytes() -> int:
    """Peak memory: of the first device where it says so, else of this process.

    By the kernel's own mark where there is one, since `ru_maxrss` begins at the peak of the process that started it.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    status = Path("/proc/self/status")
    marks = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if marks is not None:
        return int(marks[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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


@contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a polite kill sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
