"""Cost of every loss: `python benchmarks/losses.py` times value and gradients of each on one batch.

The part `pytorch` sets the full softmax beside PyTorch's cross entropy, for 8,192 targets of width 64: a fresh process
each, in an order drawn anew each round, with the memory that it takes beyond its inputs. At a million items PyTorch's
scores and their gradient would take 65 GB, so that only ours is measured there.

The batch is that of the Beauty configuration (32 rows of 50 targets, width 128), the catalogue Beauty's or one of
60,000 items; gradients are by the user vectors and all item vectors. Two alternatives that the library does not have
are measured beside its losses: the softmax with the catalogue in tiles, and scalable cross entropy. Rows go to
benchmarks/results/losses.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from peers.contenders import alternate, median_ratio
from peers.environments import run_json
from records import Row, circumstances, write_rows

from seqrec_jax import losses
from seqrec_jax.training.config import LossConfig
from seqrec_jax.training.objective import make_objective

RESULTS = Path("benchmarks/results/losses.json")
BATCH, LENGTH, WIDTH, CATALOGUES, REPEATS = 32, 50, 128, (12_102, 60_000), 3
KEYS = ("loss", "items", "targets")
TILE = 4096
SIDE_BY_SIDE = {
    "PyTorch": partial(run_json, "torch", "torch_softmax.py"),
    "ours": partial(run_json, None, "seqrec_softmax.py"),
}
TARGETS_BESIDE, ROUNDS = 8192, 5


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


def beside_pytorch() -> Iterator[Row]:
    """Seconds and extra memory of both, or of ours alone where PyTorch's scores do not fit."""
    for num_items, names in {100_000: ("PyTorch", "ours"), 1_000_000: ("ours",)}.items():
        words = [f"--targets={TARGETS_BESIDE}", f"--items={num_items}", "--repeats=1"]
        replies = alternate({name: partial(SIDE_BY_SIDE[name], *words) for name in names}, rounds=ROUNDS)
        seconds = {name: [reply["seconds"] for reply in answers] for name, answers in replies.items()}
        for name, answers in replies.items():
            row = answers[-1] | {"seconds": round(statistics.median(seconds[name]), 3), "rounds": ROUNDS}
            row["to_ours"] = round(median_ratio(seconds[name], seconds["ours"]), 2)
            memory = row["extra_memory_bytes"] / 2**20
            print(f"{num_items:>9,} {row['seconds']:8.3f} s {row['to_ours']:6.2f}x {memory:8,.0f} MiB extra  {name}")
            yield row


def of_one_batch() -> Iterator[Row]:
    """Every loss on both catalogues."""
    for num_items in CATALOGUES:
        for name, loss in cases(num_items):
            row = {"loss": name, "targets": BATCH * LENGTH, "items": num_items, "width": WIDTH} | measure(
                loss, num_items
            )
            print(f"{num_items:>6} {row['seconds']:8.3f} s {row['temporary_bytes'] / 1e6:8.1f} MB  {name}", flush=True)
            yield row


def main() -> None:
    """The parts that are named on the command line."""
    parts = {"library": of_one_batch, "pytorch": beside_pytorch}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"default: {' '.join(parts)}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(parts)}")
    about = circumstances("python benchmarks/losses.py")
    for part in options.parts or parts:
        write_rows(RESULTS, [row | about for row in parts[part]()], keys=KEYS)


if __name__ == "__main__":
    main()
