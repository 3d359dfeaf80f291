"""Cost of every loss: `python benchmarks/losses.py` times value and gradients of each on one batch.

The batch is that of the Beauty configuration (32 rows of 50 targets, width 128), the catalogue Beauty's or one of
60,000 items; gradients are by the user vectors and all item vectors. Two alternatives that the library does not have
are measured beside its losses: the softmax with the catalogue in tiles, and scalable cross entropy. Writes all rows to
benchmarks/results/losses.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from records import circumstances

from seqrec_jax import losses
from seqrec_jax.training.config import LossConfig
from seqrec_jax.training.objective import make_objective

RESULTS = Path("benchmarks/results/losses.json")
BATCH, LENGTH, WIDTH, CATALOGUES, REPEATS = 32, 50, 128, (12_102, 60_000), 3
TILE = 4096


def softmax_in_tiles(v: jax.Array, v_y: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean softmax loss with an online normaliser over tiles of items, scored again for the gradient."""
    num_tiles = -(-len(v_y) // TILE)
    tiles = jnp.pad(v_y, ((0, num_tiles * TILE - len(v_y)), (0, 0))).reshape(num_tiles, TILE, -1)
    ids = jnp.arange(num_tiles * TILE).reshape(num_tiles, TILE)

    @jax.checkpoint
    def add_tile(carry: tuple[jax.Array, jax.Array], tile: tuple[jax.Array, jax.Array]) -> tuple:
        largest, total = carry
        item_ids, vectors = tile
        scores = jnp.where((item_ids > 0) & (item_ids < len(v_y)), v @ vectors.T, -jnp.inf)
        new = jax.lax.stop_gradient(jnp.maximum(largest, jnp.max(scores, axis=1)))
        return (new, total * jnp.exp(largest - new) + jnp.sum(jnp.exp(scores - new[:, None]), axis=1)), None

    start = jnp.full(len(v), -1e30), jnp.zeros(len(v))
    (largest, total), _ = jax.lax.scan(add_tile, start, (ids, tiles))
    return jnp.mean(jnp.log(total) + largest - jnp.sum(v * v_y[targets], axis=1))


def plain_softmax(v: jax.Array, v_y: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean softmax loss with all scores in memory."""
    log_probabilities = jax.nn.log_softmax(v @ v_y[1:].T)
    return -jnp.mean(jnp.take_along_axis(log_probabilities, targets[:, None] - 1, axis=1))


def scalable_cross_entropy(
    v: jax.Array, v_y: jax.Array, targets: jax.Array, *, num_buckets: int = 80, rows: int = 80, items: int = 256
) -> jax.Array:
    """Each bucket takes the rows and items nearest a random direction; a row's loss is its largest over buckets.

    Mezentsev et al. (2024), Scalable Cross-Entropy Loss for Sequential Recommendations with Large Item Catalogs.
    """
    fixed, fixed_y = jax.lax.stop_gradient((v, v_y))
    directions = jax.random.normal(jax.random.key(0), (num_buckets, len(v))) @ fixed
    in_rows = jax.lax.top_k(directions @ fixed.T, rows)[1]
    in_items = jax.lax.top_k((directions @ fixed_y.T).at[:, 0].set(-jnp.inf), items)[1]
    scores = jnp.einsum("bte,bie->bti", v[in_rows], v_y[in_items])
    scores = jnp.where(in_items[:, None, :] != targets[in_rows][:, :, None], scores, -jnp.inf)
    positive = jnp.sum(v * v_y[targets], axis=1)
    own = positive[in_rows][..., None]
    values = jax.nn.logsumexp(jnp.concatenate([own, scores], axis=-1), axis=-1) - own[..., 0]
    best = jnp.full(len(v), -1.0).at[in_rows.reshape(-1)].max(values.reshape(-1))
    return losses.weighted_mean(best, where=best >= 0)


def cases(num_items: int) -> Iterator[tuple[str, Callable[..., jax.Array]]]:
    """Names and functions of v `[B, L, E]`, v_y `[V+1, E]` and targets `[B, L]`."""

    def flat(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda v, v_y, targets: loss(v.reshape(-1, WIDTH), v_y, targets.reshape(-1))

    yield "softmax, all scores in memory (not in the library)", flat(plain_softmax)
    yield "softmax, items in tiles (not in the library)", flat(softmax_in_tiles)
    yield "scalable cross entropy (not in the library)", flat(scalable_cross_entropy)
    yield "softmax, values of each target", flat(lambda *arrays: jnp.mean(losses.softmax_loss(*arrays)))
    yield "softmax", flat(losses.mean_softmax_loss)
    yield "softmax, label smoothing", flat(partial(losses.mean_softmax_loss, label_smoothing=0.1))
    counts = np.bincount(np.random.default_rng(0).zipf(1.3, 10 * num_items) % num_items + 1, minlength=num_items + 1)
    configs = [
        LossConfig(kind="sampled_softmax", negatives_per="batch"),
        LossConfig(kind="sampled_softmax", negatives_per="row"),
        LossConfig(kind="sampled_softmax", negatives_per="target"),
        LossConfig(kind="sampled_softmax", negatives="popularity"),
        LossConfig(kind="sampled_softmax", negatives="in_batch"),
        LossConfig(kind="sampled_softmax", negatives="mixed"),
        LossConfig(kind="binary_cross_entropy"),
        LossConfig(kind="generalized_binary_cross_entropy"),
        LossConfig(kind="bpr"),
        LossConfig(kind="bpr_max"),
    ]
    keys = jax.random.split(jax.random.key(1), BATCH + 1)
    for config in configs:
        objective = make_objective(config, item_counts=np.maximum(counts, 1))
        per = config.negatives_per or ("batch" if config.negatives in ("in_batch", "mixed") else "row")
        name = f"{config.kind}, {config.num_negatives} {config.negatives}, per {per}"
        yield (
            name,
            lambda v, v_y, targets, objective=objective: objective(
                v, v_y, targets, jnp.ones(targets.shape), keys[0], keys[1:]
            ),
        )


def measure(loss: Callable[..., jax.Array], num_items: int) -> dict:
    """Median seconds and temporary bytes of the value and both gradients."""
    rng = np.random.default_rng(0)
    arrays = (
        jnp.asarray(0.3 * rng.normal(size=(BATCH, LENGTH, WIDTH)), dtype=jnp.float32),
        jnp.asarray(0.3 * rng.normal(size=(num_items + 1, WIDTH)), dtype=jnp.float32),
        jnp.asarray(rng.integers(1, num_items + 1, (BATCH, LENGTH)), dtype=jnp.int32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arrays).compile()
    value, _ = jax.block_until_ready(compiled(*arrays))
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        seconds.append(time.perf_counter() - started)
    return {
        "value": round(float(value), 4),
        "seconds": round(statistics.median(seconds), 4),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> None:
    """Every loss on both catalogues."""
    about = circumstances("python benchmarks/losses.py")
    rows = []
    for num_items in CATALOGUES:
        for name, loss in cases(num_items):
            rows.append({"loss": name, "targets": BATCH * LENGTH, "items": num_items, "width": WIDTH})
            rows[-1] |= measure(loss, num_items) | about
            print(
                f"{num_items:>6} {rows[-1]['seconds']:8.3f} s {rows[-1]['temporary_bytes'] / 1e6:8.1f} MB  {name}",
                flush=True,
            )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
