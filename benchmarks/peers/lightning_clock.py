"""A callback that ends a Lightning training after some seconds and counts what went through (RecTools, RePlay)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def make_clock(base: type, count: Callable[[Any], tuple[int, int]]) -> Any:
    """A callback of the given Lightning's `Callback`.

    Its `seconds` are set before a training, its `reply` has the facts of `train` after it. The time runs over the
    batches only, so that neither the start of a trainer nor its end counts.

    Args:
      base: `Callback` of the Lightning that is used; there are two packages.
      count: targets and rows of a batch.
    """

    class Clock(base):
        seconds = 0.0
        reply: dict

        def __deepcopy__(self, memo: dict) -> Any:
            return self  # trainers are copied, and the benchmark must still reach the clock

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.started, self.steps, self.targets, self.rows, self.loss = time.perf_counter(), 0, 0, 0, 0.0

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            targets, rows = count(batch)
            self.steps, self.targets, self.rows = self.steps + 1, self.targets + targets, self.rows + rows
            self.loss += float(outputs["loss"])
            elapsed = time.perf_counter() - self.started
            if elapsed < self.seconds:
                return
            trainer.should_stop = True
            self.reply = {
                "steps": self.steps,
                "targets": self.targets,
                "samples": self.rows,
                "seconds": elapsed,
                "loss": self.loss / self.steps,
            }

    return Clock()
