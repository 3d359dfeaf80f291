"""This library's softmax over all items, value and gradients: `python benchmarks/peers/seqrec_softmax.py --help`."""

from __future__ import annotations

from collections.abc import Callable

import jax
from softmax_cost import main

from seqrec_jax.losses import mean_softmax_loss


def prepare(targets: int, items: int, width: int) -> Callable[[], float]:
    """The compiled program on random vectors."""
    keys = jax.random.split(jax.random.key(0), 3)
    v = 0.3 * jax.random.normal(keys[0], (targets, width))
    v_y = 0.3 * jax.random.normal(keys[1], (items + 1, width))
    wanted = jax.random.randint(keys[2], (targets,), 1, items + 1)
    both = jax.jit(jax.value_and_grad(mean_softmax_loss, argnums=(0, 1))).lower(v, v_y, wanted).compile()
    (v[:128] @ v[:128].T).block_until_ready()  # starts the threads
    return lambda: float(jax.block_until_ready(both(v, v_y, wanted))[0])


if __name__ == "__main__":
    main(__doc__, prepare, loss="softmax", version=jax.__version__)
