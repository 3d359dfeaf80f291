"""Where the time of a training step goes: `python benchmarks/step_parts.py`, about six minutes on two cores.

SASRec, D = 64, 2 blocks of 2 heads, dropout 0.2, float32, 3,200 random events a step with a target each, at L = 50 and
200 and V = 3,000, 60,000 and 1,000,000, with the softmax over all items; at V = 1,000,000 also with 4,096 negatives
shared by the batch, the optimizer changing only the rows of items that a step reads. Programs take turns, in an order
drawn anew each round, and the parts follow from medians of their times:

- encoder, forward: event vectors, blocks, without dropout;
- encoder, backward: what value and gradients by all parameters cost more than the values;
- dropout: what both cost more with it;
- loss: value and gradients by user and item vectors;
- optimizer: the update of all parameters and moments, or of the rows read;
- rest: what the whole step takes beyond the parts (drawing the batch, adding up gradients), less what it saves;
- host: what steps cost more that are called one by one than in one compiled loop.

Beside the seconds: operations by operations.py, the share of the fastest product of two
2048 x 2048 matrices, and the arithmetic intensity, operations for a byte of memory that the compiler counts as read or
written, fused operations once. Writes benchmarks/results/step_parts.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from operations import block_operations
from peers.contenders import alternate
from records import Row, circumstances, write_rows
from synthetic import SyntheticTraining

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.training.config import LossConfig, OptimizerConfig, TrainingConfig

RESULTS = Path("benchmarks/results/step_parts.json")
KEYS = ("configuration", "part")
LENGTHS, CATALOGUES, TARGETS, WIDTH, BLOCKS, STEPS = (50, 200), (3_000, 60_000, 1_000_000), 3_200, 64, 2, 4
NEGATIVES = 4_096
SOFTMAX = TrainingConfig()
SAMPLED = TrainingConfig(
    loss=LossConfig(kind="sampled_softmax", num_negatives=NEGATIVES, negatives_per="batch"),
    optimizer=OptimizerConfig(rows="read"),
)


def encoder_flops(length: int) -> float:
    """Operations of the blocks for all targets, forwards."""
    return TARGETS * BLOCKS * block_operations(WIDTH, length)


class Program:
    """A compiled function and its arguments; each call's output takes the place of the first argument if donated.

    Attributes:
      bytes_accessed: of memory that the compiler counts, a loop's body once.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, donate: bool = False):
        self._compiled = jax.jit(function, donate_argnums=0 if donate else ()).lower(*arguments).compile()
        self._arguments, self._donate = arguments, donate
        self.bytes_accessed = float(self._compiled.cost_analysis()["bytes accessed"])
        self.turn()

    def turn(self) -> Mapping[str, float]:
        """Seconds of one call."""
        started = time.perf_counter()
        output = jax.block_until_ready(self._compiled(*self._arguments))
        seconds = time.perf_counter() - started
        if self._donate:
            self._arguments = (output, *self._arguments[1:])
        return {"seconds": seconds}


def programs_of(training: SyntheticTraining) -> dict[str, Program]:
    """Forward, both ways, both with dropout, the loss, the optimizer and a product of matrices."""
    model, table, params = training.model, training.item_table, training.state.params
    batch, row_keys = training.first_batch()
    key = jax.random.key(0)

    def queries(params: Any, row_keys: jax.Array | None = None) -> jax.Array:
        return model.project(params, model.encode(params, table, batch, key=row_keys))

    def both_ways(params: Any, row_keys: jax.Array | None = None) -> Any:
        return jax.value_and_grad(lambda params: jnp.sum(queries(params, row_keys) ** 2))(params)

    def loss(queries: jax.Array, v_y: jax.Array) -> Any:
        with_gradients = jax.value_and_grad(training.objective, argnums=(0, 1))
        return with_gradients(queries, v_y, batch.targets, batch.weights, key, row_keys)

    def update(state: Any, gradients: Any) -> Any:
        params, moments = state
        updates, moments = training.optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments

    matrix = jax.random.normal(jax.random.key(0), (2048, 2048))
    own_state = jax.tree.map(jnp.copy, (params, training.state.optimizer))
    return {
        "forward": Program(queries, params),
        "both ways": Program(both_ways, params),
        "with dropout": Program(both_ways, params, row_keys),
        "loss": Program(loss, jax.jit(queries)(params), model.item_vectors(params, table)),
        "optimizer": Program(update, own_state, params, donate=True),
        "peak": Program(jnp.matmul, matrix, matrix),
    }


def parts(config: TrainingConfig, length: int, num_items: int, *, rounds: int) -> Iterator[Row]:
    """Seconds, operations and bytes of each part of a step."""
    encoder = EncoderConfig(kind="sasrec", width=WIDTH, num_layers=BLOCKS, num_heads=2, dropout=0.2, max_length=length)
    config = dataclasses.replace(config, batch_size=TARGETS // length)
    sampled = config.loss.kind != "softmax"
    training = SyntheticTraining(config, encoder=encoder, num_items=num_items, steps=STEPS)
    # a step that changes only the rows that it reads treats them as a small catalogue
    parts_items = 2 * TARGETS + NEGATIVES if sampled else num_items
    programs = programs_of(SyntheticTraining(config, encoder=encoder, num_items=parts_items, steps=1))
    turns = {name: program.turn for name, program in programs.items()}
    turns |= {"step": training.turn, "one by one": partial(training.turn, calls=STEPS)}
    training.turn()  # compiles
    replies = alternate(turns, rounds=rounds)
    seconds = {name: statistics.median(reply["seconds"] for reply in answers) for name, answers in replies.items()}
    peak = 2 * 2048**3 / min(reply["seconds"] for reply in replies["peak"])
    spent = {
        "encoder, forward": seconds["forward"],
        "encoder, backward": seconds["both ways"] - seconds["forward"],
        "dropout": seconds["with dropout"] - seconds["both ways"],
        "loss": seconds["loss"],
        "optimizer": seconds["optimizer"],
    }
    spent["rest"] = seconds["step"] - sum(spent.values())
    spent |= {"step": seconds["step"], "host": seconds["one by one"] - seconds["step"]}
    flops = {
        "encoder, forward": encoder_flops(length),
        "encoder, backward": 2 * encoder_flops(length),
        "loss": 6.0 * TARGETS * (NEGATIVES if sampled else num_items) * WIDTH,
    }
    flops["step"] = sum(flops.values())
    moved = {
        "encoder, forward": programs["forward"].bytes_accessed,
        "encoder, backward": programs["both ways"].bytes_accessed - programs["forward"].bytes_accessed,
    }
    about = {"items": num_items, "length": length, "loss": config.loss.kind, "matrix_peak_gflops": round(peak / 1e9, 1)}
    name = f"{config.loss.kind}, L = {length}, V = {num_items}"
    print(f"\n{name}: {seconds['step'] * 1e3:.1f} ms a step, {TARGETS / seconds['step']:,.0f} targets a second")
    for part, value in spent.items():
        row: Row = {"configuration": name, "part": part, "seconds": round(value, 5), "model": "sasrec", **about}
        row["share_of_step"] = round(value / seconds["step"], 3)
        if part in flops:
            row["share_of_peak"] = round(flops[part] / value / peak, 3)
        if part in flops and part in moved:
            row["operations_per_byte"] = round(flops[part] / moved[part], 1)
        print(
            f"{value * 1e3:10.1f} ms {100 * row['share_of_step']:6.1f} %"
            f" {row.get('share_of_peak', ''):>7} {row.get('operations_per_byte', ''):>7}  {part}",
            flush=True,
        )
        yield row


def main() -> None:
    """All lengths and catalogues."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="in which the programs take turns (default 5)")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="default 50 200")
    parser.add_argument("--items", type=int, nargs="+", default=list(CATALOGUES), help="default 3000 60000 1000000")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    about = circumstances("python benchmarks/step_parts.py")
    for length in options.lengths:
        for num_items in options.items:
            for config in (SOFTMAX, SAMPLED) if num_items == max(CATALOGUES) else (SOFTMAX,):
                rows = [row | about for row in parts(config, length, num_items, rounds=options.rounds)]
                write_rows(options.results, rows, keys=KEYS)


if __name__ == "__main__":
    main()
