"""Exact top-10 beside faiss: `python benchmarks/top_k.py` times both for a batch of 128 users, E = 64.

faiss's flat index of inner products is the peer, at 60,000 and at 1,000,000 items of normal vectors. Each has a process
of its own, with as many threads as there are cores, and takes its turn in an order drawn anew each round; a turn is the
mean of a few searches. Both must find the same scores, and the same items but for ties of floats. The ratio is the
median over rounds of the peer's seconds to ours.

Rows go to benchmarks/results/top_k.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from peers.contenders import alternate, median_ratio
from peers.environments import python_of
from peers.protocol import Contender
from records import Row, circumstances, write_rows

RESULTS = Path("benchmarks/results/top_k.json")
KEYS = ("data", "model", "configuration", "figure")
WIDTH, BATCH, K = 64, 128, 10
REPEATS = {60_000: 20, 1_000_000: 3}


def contest(num_items: int, *, rounds: int) -> Iterator[Row]:
    """Milliseconds a search of both contenders."""
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Contender(sys.executable, "seqrec_top_k.py") as ours,
        Contender(python_of("faiss"), "faiss_flat.py") as faiss,
    ):
        sizes = {"users": BATCH, "items": num_items}
        vectors = {name: rng.standard_normal((rows, WIDTH), np.float32) for name, rows in sizes.items()}
        np.savez(f"{folder}/vectors.npz", **vectors)
        contenders = {"ours": ours, "faiss": faiss}
        facts = {name: one.ask("prepare", path=f"{folder}/vectors.npz", k=K) for name, one in contenders.items()}
        repeats = REPEATS.get(num_items, 5)
        turns = {name: partial(one.ask, "search", repeats=repeats) for name, one in contenders.items()}
        replies = alternate(turns, rounds=rounds)
        for name, one in contenders.items():
            one.ask("save", path=f"{folder}/{name}.npz")
        check_lists(vectors, {name: dict(np.load(f"{folder}/{name}.npz")) for name in contenders})
    labels = {"ours": "top_k", "faiss": f"faiss {facts['faiss']['version']} IndexFlatIP"}
    seconds = {name: [reply["seconds"] for reply in answers] for name, answers in replies.items()}
    print(f"\nV = {num_items:,}: milliseconds a search, and the median ratio to ours")
    for name, answers in replies.items():
        ratio, peak = median_ratio(seconds[name], seconds["ours"]), answers[-1]["peak_memory_bytes"]
        row = {
            "model": labels[name],
            "configuration": f"V = {num_items}, E = {WIDTH}, batch {BATCH}, k = {K}",
            "figure": "milliseconds a search",
            "value": round(1000 * statistics.median(seconds[name]), 2),
            "to_ours": round(ratio, 2),
            "rounds": rounds,
            "peak_memory_bytes": peak,
            "memory_beside_arguments_bytes": facts[name].get("compiled_bytes"),
        }
        print(f"{row['value']:>10,.2f} {ratio:8.2f}x {peak / 2**20:8,.0f} MiB  {labels[name]}", flush=True)
        yield row


def check_lists(vectors: dict[str, np.ndarray], lists: dict[str, Mapping[str, np.ndarray]]) -> None:
    """Refuse figures of lists that are not the same, but for items whose scores are equal to rounding.

    Raises:
      RuntimeError: a score differs between the lists, or from that of the item in its place.
    """
    for name, found in lists.items():
        scores = np.einsum("ue,uke->uk", vectors["users"], vectors["items"][found["item_ids"] - 1])
        repeated = sum(len(set(row)) < K for row in found["item_ids"].tolist())
        wrong = np.sum(~np.isclose(found["scores"], scores, rtol=1e-4, atol=1e-4))
        differ = np.sum(~np.isclose(found["scores"], lists["ours"]["scores"], rtol=1e-4, atol=1e-4))
        if repeated or wrong or differ:
            raise RuntimeError(
                f"{name}: of {scores.size} places, {wrong} do not have their item's score and {differ} not that of "
                f"our list; {repeated} users have an item twice"
            )


def main() -> None:
    """Both catalogues, or those of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=list(REPEATS), help="default 60000 1000000")
    parser.add_argument("--rounds", type=int, default=11, help="in which the contenders take turns (default 11)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    about = {"data": "normal vectors", **circumstances("python benchmarks/top_k.py")}
    for num_items in options.items:
        rows = [row | about for row in contest(num_items, rounds=options.rounds)]
        write_rows(options.results, rows, keys=KEYS)


if __name__ == "__main__":
    main()
