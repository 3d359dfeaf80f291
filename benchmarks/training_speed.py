"""Training beside the peers: `python benchmarks/training_speed.py [part …]`, all parts by default.

A part is a peer, or `ours`. All train a SASRec of width 64 with 2 blocks and 2 heads on MovieLens-1M, and a peer's
own environment is made when it is first needed (benchmarks/peers/environments.py). Beside each peer run two of ours:

- in its own way: packed rows, each position with a target, 3,200 positions an update, no dropout of attention weights
  (the library's default);
- on the peer's very same samples: the same padded rows with the same targets, as many an update, the same dropouts,
  activation and heads.

They take turns of some seconds, in an order drawn anew each round; ratios are medians over rounds. A useful target is
a position that counts in the loss: padding does not. A peer's own work between batches (sampling, loaders) counts, as
does ours.

`ours` measures this library by itself, with full softmax: the share of the matrix peak, the time from the start of the
process to the end of the first step, to NDCG@10 0.15 on validation (once the step is compiled), and of an epoch of the
training loop against as many steps in one compiled loop.

The share is useful operations a second over those of the fastest product of two 2048 x 2048 float32 matrices in the
same round. A target costs, forwards, in each block what operations.py says, and 2 d V for the scores of V items; with
the gradients three times that. Embedding rows, normalisation, softmax, dropout and the optimizer count as nothing.

Rows go to benchmarks/results/training_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from operations import block_operations
from peers.contenders import PEERS, Contender, Reply, alternate, median_ratio, start_ours, start_peer
from records import Row, circumstances, write_rows

RESULTS = Path("benchmarks/results/training_speed.json")
KEYS = ("data", "model", "configuration", "figure")
LENGTHS = {"recbole": (50,)}  # where not 50 and 200: its time grows with every prefix of L positions
NUM_ITEMS, WIDTH, BLOCKS = 3416, 64, 2
SAMPLES = 8  # batches of a peer that ours goes through again and again
FAST = {"name": "adamw", "learning_rate": 2e-3, "warmup_steps": 100, "schedule": "cosine"}
FAST_LENGTH, FAST_EPOCHS, FAST_NDCG = 200, 8, 0.15


def flops_per_target(length: int) -> float:
    """Floating-point operations of a target with its gradients; the formula is above."""
    return 3.0 * (BLOCKS * block_operations(WIDTH, length) + 2 * WIDTH * NUM_ITEMS)


def speeds(replies: list[Reply]) -> list[float]:
    """Useful targets a second of each turn."""
    return [reply["targets"] / reply["seconds"] for reply in replies]


def described(name: str, length: int, batch_size: int, replies: list[Reply], **figures: float) -> Row:
    """The row of one contender of a duel."""
    row: Row = {"model": name, "figure": "useful targets a second", "value": round(statistics.median(speeds(replies)))}
    row |= {
        "samples_per_second": round(statistics.median(reply["samples"] / reply["seconds"] for reply in replies), 1),
        "targets_per_update": round(sum(r["targets"] for r in replies) / sum(r["steps"] for r in replies)),
        "batch_size": batch_size,
        "loss": round(replies[-1]["loss"], 4),
        "seconds": round(sum(reply["seconds"] for reply in replies), 1),
        "peak_memory_bytes": replies[-1]["peak_memory_bytes"],
        "length": length,
    }
    return row | figures


def duel(name: str, length: int, *, rounds: int, seconds: float) -> Iterator[Row]:
    """A peer, ours in its own way, and ours on the peer's samples."""
    peer = PEERS[name]
    asked = {"length": length, "loss": peer.loss}
    with start_peer(name) as theirs, start_ours() as own, start_ours() as same, tempfile.TemporaryDirectory() as folder:
        facts = theirs.ask("prepare", **asked)
        samples = str(Path(folder) / "samples.npz")
        theirs.ask("samples", path=samples, batches=SAMPLES)
        packed = {**facts["model"], "attention_dropout": 0.0}
        batch_sizes = [
            facts["batch_size"],
            own.ask("prepare", model=packed, **asked)["batch_size"],
            facts["batch_size"],
        ]
        same.ask("prepare", model=facts["model"], samples=samples, **asked)
        names = (f"{peer.label} {facts['version']}", "ours, in its own way", f"ours, on the samples of {peer.label}")
        contenders = dict(zip(names, (theirs, own, same), strict=True))
        for contender in contenders.values():
            contender.ask("train", seconds=0)  # compiles
            contender.ask("train", seconds=min(1.0, seconds))
        turns = {label: partial(contender.ask, "train", seconds=seconds) for label, contender in contenders.items()}
        replies = alternate(turns, rounds=rounds)
    base = speeds(replies[names[0]])
    print(f"\n{peer.label}, {peer.loss}, L = {length}: useful targets a second, and the median ratio to the peer")
    for label, batch_size in zip(names, batch_sizes, strict=True):
        ratio = median_ratio(speeds(replies[label]), base)
        row = described(label, length, batch_size, replies[label], ratio_to_peer=round(ratio, 2))
        row["configuration"] = f"{peer.loss}, L = {length}, beside {peer.label}"
        memory = row["peak_memory_bytes"] / 2**20
        print(f"{row['value']:>10,} {ratio:8.2f}x {memory:8,.0f} MiB  {label}", flush=True)
        yield row


def ours_alone(lengths: Sequence[int], *, rounds: int, seconds: float) -> Iterator[Row]:
    """The share of the matrix peak, the first step, an epoch and the time to a figure."""
    for length in lengths:
        started = time.perf_counter()
        with start_ours() as ours:
            ours.ask("prepare", length=length, loss="softmax")
            ours.ask("train", seconds=0)
            first = time.perf_counter() - started
            yield report("seconds from process start to the first step's end", length, first)
            yield from peak_share(ours, length, rounds=rounds, seconds=seconds)
            epoch = ours.ask("epoch")
            ratio = epoch["epoch_seconds"] / epoch["steps_seconds"]
            yield report("epoch's time over its steps in one compiled loop", length, ratio, **epoch)
    with start_ours() as ours:
        ours.ask("prepare", length=FAST_LENGTH, loss="softmax", total_epochs=FAST_EPOCHS, optimizer=FAST)
        ours.ask("train", seconds=0)  # compiles; one step of the first epoch
        ours.ask("rank", stage="validation")
        reached = ours.ask("reach", ndcg=FAST_NDCG, epochs=FAST_EPOCHS)
        name = f"seconds of training and validation to NDCG@10 {FAST_NDCG}"
        yield report(name, FAST_LENGTH, reached["seconds"] if reached["ndcg"] >= FAST_NDCG else None, **reached)


def peak_share(ours: Contender, length: int, *, rounds: int, seconds: float) -> Iterator[Row]:
    """Useful operations a second over those of a matrix product, in rounds."""
    turns = {"peak": partial(ours.ask, "peak"), "train": partial(ours.ask, "train", seconds=seconds)}
    replies = alternate(turns, rounds=rounds)
    peaks = [reply["flops_per_second"] for reply in replies["peak"]]
    useful = [speed * flops_per_target(length) for speed in speeds(replies["train"])]
    facts = {
        "matrix_peak_gflops": round(statistics.median(peaks) / 1e9, 1),
        "targets_per_second": round(statistics.median(speeds(replies["train"]))),
        "seconds": round(sum(reply["seconds"] for reply in replies["train"]), 1),
    }
    yield report("share of the matrix peak, full softmax", length, median_ratio(useful, peaks), **facts)


def report(figure: str, length: int, value: float | None, **facts: float) -> Row:
    """The row of a figure of ours alone, printed; None is one that was not reached."""
    printed = f"{'not reached':>10}" if value is None else f"{value:10.3f}"
    print(f"{printed}  {figure}, L = {length}", flush=True)
    configuration = f"softmax, L = {length}"
    return {"model": "ours", "configuration": configuration, "figure": figure, "value": value, "length": length} | facts


def main() -> None:
    """The parts that are named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"default: {' '.join(PEERS)} ours")
    parser.add_argument("--rounds", type=int, default=5, help="in which the contenders take turns (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default 3)")
    parser.add_argument("--lengths", type=int, nargs="+", help="default 50 and 200; 50 for RecBole")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    parts = options.parts or [*PEERS, "ours"]
    if unknown := set(parts) - {*PEERS, "ours"}:
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join([*PEERS, 'ours'])}")
    about = {"data": "movielens_1m", **circumstances("python benchmarks/training_speed.py")}
    timing = {"rounds": options.rounds, "seconds": options.seconds}
    for part in parts:
        lengths = options.lengths or LENGTHS.get(part, (50, 200))
        if part == "ours":
            measured = [ours_alone(lengths, **timing)]
        else:
            measured = [duel(part, length, **timing) for length in lengths]
        for rows in measured:
            write_rows(options.results, [row | about for row in rows], keys=KEYS)


if __name__ == "__main__":
    main()
