"""Full ranking beside the peers: `python benchmarks/evaluation_speed.py [peer …]`, all peers by default.

Every user of MovieLens-1M gets all items ranked after the history before the test event, items of the history left
out, and NDCG@10. Each contender has a SASRec of width 64 with 2 blocks and 2 heads after a few updates, and is asked in
its own way: ours by `judge`, which also measures every other metric for each user; RecBole by its full-sort evaluation;
RecTools and RePlay by their lists of ten; PyTorch by scores and top-k in batches of 256 users. All are timed from
histories to the figure, after one turn that compiles and warms up. They take turns in an order drawn anew each round;
ratios are medians over rounds.

Rows go to benchmarks/results/evaluation_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from peers.contenders import PEERS, alternate, median_ratio, start_ours, start_peer
from records import Row, circumstances, write_rows

RESULTS = Path("benchmarks/results/evaluation_speed.json")
KEYS = ("data", "model", "configuration", "figure")
OURS = "ours"
# a model ranks the same whatever it was trained with
RANKERS = [name for name, peer in PEERS.items() if peer.loss == "softmax"]


def contest(names: list[str], length: int, *, rounds: int) -> Iterator[Row]:
    """Users a second of all contenders at one length."""
    with ExitStack() as stack:
        contenders, labels = {}, {OURS: OURS}
        for name in [OURS, *names]:
            contender = stack.enter_context(start_ours() if name == OURS else start_peer(name))
            facts = contender.ask("prepare", length=length, loss="softmax")
            labels[name] = OURS if name == OURS else f"{PEERS[name].label.split(',')[0]} {facts['version']}"
            contender.ask("train", seconds=0)
            contender.ask("rank")
            contenders[name] = contender
        turns = {name: partial(contender.ask, "rank") for name, contender in contenders.items()}
        replies = alternate(turns, rounds=rounds)
    speeds = {name: [reply["users"] / reply["seconds"] for reply in answers] for name, answers in replies.items()}
    print(f"\nL = {length}: users a second, and the median ratio of ours to it")
    for name, answers in replies.items():
        ratio = median_ratio(speeds[OURS], speeds[name])
        row = {
            "model": labels[name],
            "configuration": f"all items ranked, seen items left out, L = {length}",
            "figure": "users a second",
            "value": round(statistics.median(speeds[name])),
            "ours_to_it": round(ratio, 2),
            "users": answers[0]["users"],
            "seconds": round(sum(reply["seconds"] for reply in answers), 2),
            "peak_memory_bytes": answers[-1]["peak_memory_bytes"],
            "length": length,
        }
        memory = row["peak_memory_bytes"] / 2**20
        print(f"{row['value']:>10,} {ratio:8.2f}x {memory:8,.0f} MiB  {labels[name]}", flush=True)
        yield row


def main() -> None:
    """The peers that are named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"default: {' '.join(RANKERS)}")
    parser.add_argument("--rounds", type=int, default=7, help="in which the contenders take turns (default 7)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200], help="default 50 200")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    peers = options.peers or RANKERS
    if unknown := set(peers) - set(RANKERS):
        parser.error(f"unknown peers {sorted(unknown)}; there are {', '.join(RANKERS)}")
    about = {"data": "movielens_1m", **circumstances("python benchmarks/evaluation_speed.py")}
    for length in options.lengths:
        rows = [row | about for row in contest(peers, length, rounds=options.rounds)]
        write_rows(options.results, rows, keys=KEYS)


if __name__ == "__main__":
    main()
