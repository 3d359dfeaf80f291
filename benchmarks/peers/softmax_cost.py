"""What a full softmax costs, printed as one JSON object: seconds (median), value, and extra_memory_bytes, the largest
resident set of the process over that before the calls. Runs with the standard library only."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

from protocol import peak_memory_bytes

Prepare = Callable[[int, int, int], Callable[[], float]]
"""From the numbers of targets and items and the width to a call that computes value and gradients; it also starts the
threads and compiles, so that neither counts."""


def main(description: str | None, prepare: Prepare, **facts: str) -> None:
    """Measure what the command line asks for; `facts` are printed too."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    for option, default in {"targets": 8192, "items": 100_000, "width": 64, "repeats": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    sizes = vars(parser.parse_args())
    repeats = sizes.pop("repeats")
    call = prepare(**sizes)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - started)
    measured = {
        "value": round(value, 4),
        "seconds": round(statistics.median(seconds), 4),
        "extra_memory_bytes": max(0, peak_memory_bytes() - before),
    }
    print(json.dumps(facts | measured | sizes))
