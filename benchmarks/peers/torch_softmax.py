"""PyTorch's cross entropy over all items, value and gradients: `python benchmarks/peers/torch_softmax.py --help`.

Prints one JSON object: seconds (median), extra_memory_bytes (the largest resident set over that before, of the process)
and the value. It needs torch; benchmarks/losses.py runs it in an environment that has it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any


def softmax(*, targets: int, items: int, width: int, repeats: int) -> dict[str, Any]:
    """The figures of a size, in this process."""
    import torch
    from protocol import peak_memory_bytes

    torch.manual_seed(0)

    def value_and_gradients(rows: torch.Tensor, table: torch.Tensor, wanted: torch.Tensor) -> float:
        rows, table = rows.detach().requires_grad_(), table.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(rows @ table.T, wanted)
        loss.backward()
        return loss.item()

    v, v_y = 0.3 * torch.randn(targets, width), 0.3 * torch.randn(items, width)
    wanted = torch.randint(items, (targets,))
    value_and_gradients(v[:8], v_y[:8], torch.arange(8))  # starts the threads
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        value = value_and_gradients(v, v_y, wanted)
        seconds.append(time.perf_counter() - started)
    extra = peak_memory_bytes() - before
    return {
        "loss": "PyTorch cross_entropy",
        "version": torch.__version__,
        "value": round(value, 4),
        "seconds": round(statistics.median(seconds), 4),
        "extra_memory_bytes": extra,
        "targets": targets,
        "items": items,
        "width": width,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for option, default in {"targets": 8192, "items": 100_000, "width": 64, "repeats": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    print(json.dumps(softmax(**vars(parser.parse_args()))))
