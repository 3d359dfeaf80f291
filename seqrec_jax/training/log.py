"""The log of a training run: a line of JSON and TensorBoard scalars for each entry."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from seqrec_jax.data.files import write_whole
from seqrec_jax.errors import CheckpointError


class RunLog:
    """Appends entries to `log.jsonl` and TensorBoard's file at once, so that a kill loses nothing.

    TensorBoard's file is written by its synchronous writer: the usual one has a thread, which hangs on a full disk.
    """

    def __init__(self, directory: Path, *, resume_step: int, active: bool = True):
        """Open the log and drop the lines after the step that training continues from.

        Args:
          directory: the run's directory.
          resume_step: the step that training continues from.
          active: whether anything is written; True in one of the processes that share a run.

        Raises:
          CheckpointError: the directory cannot be written.
        """
        self._path, self._active = directory / "log.jsonl", active
        if not active:
            return
        kept = [row for row in read_log(directory) if row["step"] <= resume_step]
        try:
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
            (directory / "tensorboard").mkdir(exist_ok=True)
            # a name of its own, also for a run continued within the same second
            suffix = f".{os.getpid()}.{resume_step}"
            self._events = EventsWriter(str(directory / "tensorboard" / "events"), filename_suffix=suffix)
            # TensorBoard leaves out what an earlier process wrote from this step on
            self._write_event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        except OSError as error:
            raise self._cannot_write(error) from error

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one entry: a JSON line, with null for numbers that are not finite, and a scalar for each number.

        Args:
          kind: train, validation or end.
          step: number of updates made.
          **values: figures by name; JSON values.

        Raises:
          CheckpointError: the disk is full or the file cannot be written.
        """
        if not self._active:
            return
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        scalars = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "step": step, **row}, allow_nan=False) + "\n")
            self._write_event(step, summary=Summary(value=scalars))
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Release the files."""
        if self._active:
            self._events.close()

    def _write_event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, **content))
        self._events.flush()

    def _cannot_write(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write the log of the run to {self._path.parent}: {error.strerror or error}")


def read_log(directory: Path) -> list[dict[str, Any]]:
    """The entries of a run's `log.jsonl`, each with `kind`, `step` and its values; [] if there is no log.

    A last line that was cut short by a kill is left out.
    """
    path = directory / "log.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def chunk_figures(
    *, loss: float, learning_rate: float, parameter_norm: float, targets: int, sequences: int, seconds: float
) -> dict[str, float]:
    """The figures that are logged for a chunk of steps.

    Args:
      loss: mean over the steps.
      learning_rate: of the last step.
      parameter_norm: L2 norm of the parameters after the last step.
      targets: number of targets in all steps.
      sequences: number of windows in all steps.
      seconds: duration of all steps.

    Returns:
      These figures, speeds per second in place of the counts, and the peak memory in bytes.
    """
    return {
        "loss": loss,
        "learning_rate": learning_rate,
        "parameter_norm": parameter_norm,
        "targets_per_second": targets / seconds,
        "sequences_per_second": sequences / seconds,
        "seconds": seconds,
        "memory_bytes": _memory_bytes(),
    }


def _memory_bytes() -> int:
    """Peak memory of the first device if it reports one, else of this process.

    The kernel's own mark is preferred, since `ru_maxrss` begins at the peak of the process that started this one.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    status = Path("/proc/self/status")
    marks = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if marks is not None:
        return int(marks[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
