"""The training loop: epochs of compiled chunks, validation, checkpoints, early stopping, and a clean end."""

from __future__ import annotations

import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from seqrec_jax.data.batches import EventArrays, Rows, event_arrays, shuffled_rows
from seqrec_jax.data.sequences import Sequences, one_window_per_row, pack_windows, sliding_windows
from seqrec_jax.errors import ConfigError, DataError, DivergenceError
from seqrec_jax.items import ItemTable
from seqrec_jax.model import SequenceModel
from seqrec_jax.parallel import DATA_AXIS, data_size, is_simulated, make_mesh, replicate, replicated
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.config import TrainingConfig
from seqrec_jax.training.objective import make_objective
from seqrec_jax.training.run import RunLog
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
    """Where a run stands, saved with each checkpoint."""

    epoch: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    validations_without_gain: int = 0
    seconds: float = 0.0
    finished: bool = False


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
    show_progress: bool = True,
) -> Progress:
    """Train a model, or continue its run from the last checkpoint, to the same parameters either way.

    Args:
      model: pure functions.
      params: where a new run starts; ignored where the directory has a checkpoint.
      data: what is trained on.
      item_table: attributes of the items.
      config: the run's settings.
      length: L.
      directory: the run's directory; checkpoints, log and TensorBoard go there.
      validate: parameters to named figures; None for no validation.
      metric: the figure, higher is better, that decides what is best and when to stop.
      show_progress: draw a progress bar on the terminal.

    Returns:
      Where the run stands: finished, or stopped by Ctrl-C (`finished` False) with everything saved.

    Raises:
      ConfigError: a batch size that the devices cannot share.
      DataError: no user with two training events.
      DivergenceError: the loss is not finite; the last good checkpoint is kept.
      CheckpointError: checkpoints cannot be read or written.
    """
    mesh = make_mesh(config.num_devices)
    if config.batch_size % data_size(mesh):
        raise ConfigError(
            f"training.batch_size is {config.batch_size}, which {data_size(mesh)} devices cannot share evenly; "
            "choose a multiple, or set training.num_devices"
        )
    epoch_rows, steps_per_epoch = _plan_epochs(data.sequences, config, length)
    optimizer = make_optimizer(config.optimizer, total_steps=config.max_epochs * steps_per_epoch)
    rates = make_schedule(config.optimizer, total_steps=config.max_epochs * steps_per_epoch)
    run_steps = make_run_steps(
        model,
        make_objective(
            config.loss,
            item_counts=np.bincount(data.sequences.item_ids, minlength=data.num_items + 1),
            axis_name=DATA_AXIS,
        ),
        optimizer,
        config=config,
        length=length,
        behavior_weights=jnp.asarray(data.behavior_weights, dtype=jnp.float32),
        mesh=mesh,
    )
    events: EventArrays = replicate(event_arrays(data.sequences, first_timestamp=data.first_timestamp), mesh)
    item_table = replicate(item_table, mesh)
    store = CheckpointStore(directory / "checkpoints")
    state = replicate(init_state(params, optimizer, with_average=config.ema_decay is not None), mesh)
    progress = Progress()
    if store.last_step is not None:
        state, saved = store.restore(state, sharding=replicated(mesh))
        progress = Progress(**saved)
    log = RunLog(directory, resume_step=int(state.step))
    bar = tqdm(
        total=config.max_epochs * steps_per_epoch,
        initial=int(state.step),
        desc=directory.name,
        unit="step",
        disable=not show_progress,
        dynamic_ncols=True,
    )
    figures: dict[str, str] = {}
    last_save = time.monotonic()
    try:
        with _interruptions() as stop:
            while not progress.finished and not stop.is_set():
                rows = replicate(epoch_rows(progress.epoch), mesh)
                chunks = _chunks(int(state.step) - progress.epoch * steps_per_epoch, steps_per_epoch, mesh)
                for first, last, set_seconds in chunks:
                    started = time.monotonic()
                    state, totals = run_steps(state, item_table, events, rows, first, last)
                    loss = float(totals.loss) / (last - first)
                    seconds = time.monotonic() - started
                    set_seconds(seconds)
                    progress.seconds += seconds
                    _check_finite(loss, int(state.step), store, rate=float(rates(int(state.step) - 1)))
                    _log_chunk(
                        log,
                        state,
                        totals,
                        loss,
                        seconds,
                        epoch=progress.epoch,
                        rate=float(rates(int(state.step) - 1)),
                    )
                    figures["loss"] = f"{loss:.4f}"
                    figures["targets/s"] = f"{int(totals.targets) / seconds:,.0f}"
                    figures["sequences/s"] = f"{int(totals.windows) / seconds:,.0f}"
                    bar.set_postfix(figures, refresh=False)
                    bar.update(last - first)
                    if stop.is_set():
                        break
                    if time.monotonic() - last_save > config.checkpoint_seconds and last < steps_per_epoch:
                        store.save(state, asdict(progress))
                        last_save = time.monotonic()
                else:
                    score = _end_epoch(state, progress, config, validate, metric, log)
                    if score is not None:
                        figures[metric] = f"{score:.4f}"
                    store.save(state, asdict(progress), score=score)
                    last_save = time.monotonic()
        if not progress.finished:
            store.save(state, asdict(progress))
    finally:
        bar.close()
        log.close()
        store.close()
    return progress


def _plan_epochs(
    sequences: Sequences, config: TrainingConfig, length: int
) -> tuple[Callable[[int], Rows], int]:
    """A function from the number of an epoch to its rows, and the batches in it."""
    windows = sliding_windows(sequences, length=length, stride=config.stride, drop_last=1)
    if not len(windows.starts):
        raise DataError(
            f"no user among {sequences.num_users} has two training events, so there is nothing to predict; choose "
            "another split or a smaller k-core"
        )
    packing = (
        pack_windows(windows.lengths, row_length=length)
        if config.packing
        else one_window_per_row(windows.lengths)
    )
    batches = -(-len(packing.lengths) // config.batch_size)
    padding = batches * config.batch_size - len(packing.lengths)

    @jax.jit
    def epoch_rows(epoch: jax.Array) -> Rows:
        # the order's keys are apart from the steps' keys
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 0x0E90C4), epoch)
        rows = shuffled_rows(windows, packing, key)
        return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, padding), (0, 0))), rows)

    return epoch_rows, batches


def _chunks(
    first: int, last: int, mesh: jax.sharding.Mesh
) -> Iterator[tuple[int, int, Callable[[float], None]]]:
    """Pieces of an epoch that take about a second each, learnt from the seconds of the piece before."""
    steps = 1
    while first < last:
        end = min(last, first + steps)
        taken: list[float] = []
        yield first, end, taken.append
        if not is_simulated(mesh):
            pace = (end - first) / max(taken[-1], 1e-6)
            steps = max(1, min(round(pace * CHUNK_SECONDS), steps * 8))
        first = end


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
        figures = validate(evaluated_params(state))
        score = figures[metric]
        seconds = time.monotonic() - started
        log.write("validation", int(state.step), epoch=progress.epoch, **figures, validation_seconds=seconds)
        if score > progress.best_score:
            progress.best_score, progress.best_step = score, int(state.step)
            progress.validations_without_gain = 0
        else:
            progress.validations_without_gain += 1
    stopped = config.patience is not None and progress.validations_without_gain >= config.patience
    progress.finished = last_epoch or stopped
    if progress.finished:
        log.write(
            "end", int(state.step), epoch=progress.epoch, seconds=progress.seconds, stopped_early=stopped
        )
    return score


def _log_chunk(
    log: RunLog,
    state: TrainState,
    totals: StepTotals,
    loss: float,
    seconds: float,
    *,
    epoch: int,
    rate: float,
) -> None:
    log.write(
        "train",
        int(state.step),
        epoch=epoch,
        loss=loss,
        learning_rate=rate,
        targets_per_second=int(totals.targets) / seconds,
        sequences_per_second=int(totals.windows) / seconds,
        seconds=seconds,
        memory_bytes=_memory_bytes(),
    )


def _memory_bytes() -> int:
    """Peak memory: of the first device where it says so, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def _check_finite(loss: float, step: int, store: CheckpointStore, *, rate: float) -> None:
    if math.isfinite(loss):
        return
    store.wait()
    kept = (
        f"the last good checkpoint is of step {store.last_step}"
        if store.last_step
        else "no checkpoint was made yet"
    )
    raise DivergenceError(
        f"the loss became {loss} at or before step {step} (learning rate {rate:.2e}); {kept}. Lower "
        "training.optimizer.learning_rate, set training.optimizer.clip_norm (1.0 is usual), or use "
        "training.precision float32"
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
