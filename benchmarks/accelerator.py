"""What one large GPU or TPU reaches: `python benchmarks/accelerator.py [part …]`, all parts by default.

- blocks: SASRec's and HSTU's blocks at D = 512, 8 heads, L = 1,024, bfloat16, forwards and backwards: their operations
  a second over those of the fastest product of two 8,192 x 8,192 bfloat16 matrices in the same run;
- attention: these blocks' attention alone, as the library computes it and, where there is an NVIDIA GPU, by cuDNN's
  kernel through `jax.nn.dot_product_attention`;
- softmax: the full softmax with both gradients, 8,192 targets, E = 64, V = 10,000,000, bfloat16;
- epochs: 100 epochs of MovieLens-1M with HSTU-large (8 units of width 64, L = 200, 128 negatives a target), through
  `scripts/train.py`'s own call, with everything but the preparation.

Operations are counted by operations.py. Rows go to benchmarks/results/accelerator.json. Without an accelerator the
sizes are cut so that a CPU shows within a minute that every part runs; nothing is written then.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from operations import block_operations
from records import Row, circumstances, dataset_of, write_rows
from synthetic import SyntheticTraining

from seqrec_jax import losses, pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.encoders.layers import attend, causal_mask
from seqrec_jax.settings import parse_config
from seqrec_jax.training.config import TrainingConfig

RESULTS = Path("benchmarks/results/accelerator.json")
KEYS = ("model", "configuration", "figure")
REPEATS = 10
HEADS = 8


class Sizes(NamedTuple):
    """What is measured, on an accelerator or cut for a CPU."""

    matrix: int
    rows: int
    length: int
    width: int
    blocks: int
    targets: int
    items: int
    epochs: int


LARGE = Sizes(matrix=8192, rows=32, length=1024, width=512, blocks=8, targets=8192, items=10_000_000, epochs=100)
SMALL = Sizes(matrix=512, rows=2, length=64, width=64, blocks=2, targets=256, items=20_000, epochs=0)


def compiled(function: Callable[..., Any], *arguments: Any) -> jax.stages.Compiled:
    """The program of a function for such arguments."""
    return jax.jit(function).lower(*arguments).compile()


def seconds(program: jax.stages.Compiled, *arguments: Any) -> float:
    """Median seconds of a call."""
    jax.block_until_ready(program(*arguments))
    measured = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


def matrix_peak(size: int) -> float:
    """Operations a second of a product of two square bfloat16 matrices."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    return 2 * size**3 / seconds(compiled(jnp.matmul, matrix, matrix), matrix, matrix)


def of_blocks(sizes: Sizes) -> Iterator[Row]:
    """Share of the peak of whole encoders, forwards and backwards."""
    peak = matrix_peak(sizes.matrix)
    # matrices of D x D: q, k, v, output and two of a feed-forward layer; u, v, q, k and output
    products = {"sasrec": 6, "hstu": 5}
    for kind, number in products.items():
        training = SyntheticTraining(
            TrainingConfig(batch_size=sizes.rows),
            encoder=EncoderConfig(
                kind=kind,
                width=sizes.width,
                num_layers=sizes.blocks,
                num_heads=HEADS,
                dropout=0.2,
                max_length=sizes.length,
            ),
            num_items=1000,
            steps=1,
        )
        batch, row_keys = training.first_batch()

        def loss(params: Any, training: Any = training, batch: Any = batch, row_keys: Any = row_keys) -> jax.Array:
            cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
            states = training.model.encode(cast, training.item_table, batch, key=row_keys)
            return jnp.sum(states.astype(jnp.float32) ** 2)

        params = training.state.params
        spent = seconds(compiled(jax.value_and_grad(loss), params), params)
        positions = sizes.rows * sizes.length
        forward = sizes.blocks * positions * block_operations(sizes.width, sizes.length, products=number)
        yield {
            "model": kind,
            "configuration": f"D = {sizes.width}, L = {sizes.length}, {sizes.blocks} blocks, bfloat16",
            "figure": "share of the matrix peak",
            "value": round(3 * forward / spent / peak, 3),
            "seconds": spent,
            "peak_tflops": round(peak / 1e12, 1),
        }


def of_attention(sizes: Sizes) -> Iterator[Row]:
    """Seconds of attention alone, forwards and backwards."""
    shape = (sizes.rows, sizes.length, HEADS, sizes.width // HEADS)
    arrays = tuple(jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 3))
    where = causal_mask(jnp.ones(shape[:2], jnp.int32))
    ways: dict[str, Callable[..., jax.Array]] = {
        "as in the library": lambda *qkv: attend(*qkv, where=where, causal=True)
    }
    if "cuda" in jax.devices()[0].client.platform_version.lower():
        ways["cuDNN"] = lambda *qkv: jax.nn.dot_product_attention(*qkv, is_causal=True, implementation="cudnn")
    for name, way in ways.items():

        def loss(*qkv: jax.Array, way: Any = way) -> jax.Array:
            return jnp.sum(way(*qkv).astype(jnp.float32) ** 2)

        yield {
            "model": name,
            "configuration": f"attention, {' x '.join(map(str, shape))}, bfloat16",
            "figure": "seconds, forwards and backwards",
            "value": seconds(compiled(jax.value_and_grad(loss, argnums=(0, 1, 2)), *arrays), *arrays),
        }


def of_softmax(sizes: Sizes) -> Iterator[Row]:
    """Seconds and memory of the softmax over a very large catalogue."""
    keys = jax.random.split(jax.random.key(0), 3)
    v = jax.random.normal(keys[0], (sizes.targets, 64), jnp.bfloat16)
    v_y = jax.random.normal(keys[1], (sizes.items + 1, 64), jnp.bfloat16)
    targets = jax.random.randint(keys[2], (sizes.targets,), 1, sizes.items + 1)
    both = compiled(jax.value_and_grad(losses.mean_softmax_loss, argnums=(0, 1)), v, v_y, targets)
    yield {
        "model": "mean_softmax_loss",
        "configuration": f"{sizes.targets} targets, V = {sizes.items}, E = 64, bfloat16",
        "figure": "seconds, value and gradients",
        "value": seconds(both, v, v_y, targets),
        "temporary_bytes": both.memory_analysis().temp_size_in_bytes,
    }


def of_epochs(sizes: Sizes) -> Iterator[Row]:
    """Seconds of the training loop with HSTU-large on MovieLens-1M."""
    values: dict[str, Any] = {
        "name": "movielens_1m",
        "data": {"reader": "movielens_1m", "source": "../shared/data/movielens_1m"},
        "model": {
            "encoder": {"kind": "hstu", "width": 64, "num_layers": 8, "num_heads": 2, "max_length": 200},
            "items": {"width": 64},
        },
        "training": {
            "batch_size": 128,
            "max_epochs": max(1, sizes.epochs),
            "patience": None,
            "validate_every": max(1, sizes.epochs),
            "precision": "bfloat16",
            "loss": {"kind": "sampled_softmax", "num_negatives": 128, "negatives_per": "target"},
            "optimizer": {"warmup_steps": 0},
        },
    }
    if not sizes.epochs:  # a CPU shows that it runs
        values["model"]["encoder"] |= {"num_layers": 1, "max_length": 20}
        values["training"]["loss"] |= {"negatives_per": "batch"}
    config = parse_config(ExperimentConfig, values=values)
    dataset_of(config)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        _, progress = pipeline.train(config, show_progress=False, runs=Path(folder))
        spent = time.perf_counter() - started
    yield {
        "model": "hstu, 8 units",
        "configuration": "movielens_1m, L = 200, 128 negatives a target, bfloat16",
        "figure": f"seconds of {progress.epoch} epochs with compilation and validation",
        "value": spent,
        "steps_seconds": progress.seconds,
        "best_validation": progress.best_score if np.isfinite(progress.best_score) else None,
    }


PARTS = {"blocks": of_blocks, "attention": of_attention, "softmax": of_softmax, "epochs": of_epochs}


def main() -> None:
    """The parts that are named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    accelerated = jax.devices()[0].platform != "cpu"
    if not accelerated:
        print("no accelerator here: the sizes are cut to show that the parts run, and nothing is written")
    about = circumstances("python benchmarks/accelerator.py")
    for part in options.parts or PARTS:
        for row in PARTS[part](LARGE if accelerated else SMALL):
            print(f"{row['value']:10.4g}  {row['figure']}; {row['model']}; {row['configuration']}", flush=True)
            if accelerated:
                write_rows(options.results, [row | about], keys=KEYS)


if __name__ == "__main__":
    main()
