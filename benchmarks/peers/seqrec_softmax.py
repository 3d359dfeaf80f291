"""This library's softmax over all items, value and gradients: `python benchmarks/peers/seqrec_softmax.py --help`.

Prints one JSON object as torch_softmax.py does; the program is compiled before memory and time are looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import jax
import jax.numpy as jnp
from protocol import peak_memory_bytes

from seqrec_jax.losses import mean_softmax_loss


def softmax(*, targets: int, items: int, width: int, repeats: int) -> dict:
    """The figures of a size, in this process."""
    keys = jax.random.split(jax.random.key(0), 3)
    v = 0.3 * jax.random.normal(keys[0], (targets, width))
    v_y = 0.3 * jax.random.normal(keys[1], (items + 1, width))
    wanted = jax.random.randint(keys[2], (targets,), 1, items + 1)
    both = jax.jit(jax.value_and_grad(mean_softmax_loss, argnums=(0, 1))).lower(v, v_y, wanted).compile()
    jnp.dot(v[:128], v[:128].T).block_until_ready()  # starts the threads
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        value, _ = jax.block_until_ready(both(v, v_y, wanted))
        seconds.append(time.perf_counter() - started)
    return {
        "loss": "softmax",
        "version": jax.__version__,
        "value": round(float(value), 4),
        "seconds": round(statistics.median(seconds), 4),
        "extra_memory_bytes": max(0, peak_memory_bytes() - before),
        "targets": targets,
        "items": items,
        "width": width,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for option, default in {"targets": 8192, "items": 100_000, "width": 64, "repeats": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    print(json.dumps(softmax(**vars(parser.parse_args()))))
