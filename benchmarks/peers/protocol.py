"""JSON lines between a benchmark and a contender that runs in a process of its own, in an environment of its own.

A request is `{"command": name, **arguments}`; the reply is what the contender's method of that name returned, with the
peak memory of its process, or `{"error": traceback}`. A contender has the methods

- `prepare(length, loss, …) -> facts`: data and model; facts tells what makes an equal model of another library;
- `samples(path, batches)`: write `item_ids` and `targets` `[batches, B, L]` int32 of its own batches to an .npz file,
  0 at padding and where nothing is predicted;
- `train(seconds) -> steps, targets, samples, seconds, loss`: updates for about so long, at least one; targets are the
  positions that count in the loss, samples the rows, loss the mean of the updates;
- `rank() -> users, seconds, ndcg`: all items ranked for every user's last event, seen items left out.

Runs on Python 3.9, and with the standard library only.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


def serve(contender: Any) -> None:
    """Answer requests from standard input until it ends; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(contender, request.pop("command"))(**request) or {}
        except Exception:
            reply = {"error": traceback.format_exc()}
        reply["peak_memory_bytes"] = peak_memory_bytes()
        print(json.dumps(reply), file=replies, flush=True)


def peak_memory_bytes() -> int:
    """The largest resident set that this process has had.

    On Linux by the kernel's mark of the program, since `ru_maxrss` begins at the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Contender:
    """A contender's process, seen from the benchmark."""

    def __init__(self, python: str | Path, script: str):
        self._script = script
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [str(python), str(_HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The reply to a request.

        Raises:
          RuntimeError: the contender raised, or its process ended; with what it wrote to standard error.
        """
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"command": command, **arguments}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "its process ended"}
        if "error" in reply:
            self._log.seek(0)
            raise RuntimeError(f"{self._script}, {command}: {reply['error']}\n{self._log.read()[-2000:]}")
        return reply

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]
        self._process.kill()
        self._process.wait()
        self._log.close()
