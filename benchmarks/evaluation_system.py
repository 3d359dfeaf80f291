"""Evaluation beside the peers: `python benchmarks/evaluation_system.py [contender …]`, all but one by default.

Users and items have vectors of width 64, of low rank and with popularity in one of its dimensions, and each user has 1
to 10 held-out items. Two tasks, both up to the means over users of hit rate, precision, recall, NDCG, MRR and MAP at 5,
10 and 20, as far as a library has them:

- lists: from every user's list of 20 items;
- vectors: from the vectors of users and items, all items ranked.

Everybody starts from the form that the library works on; reading files and bringing them to that form is in nobody's
time. Ours also has F1 and accuracy@1, and where it ranks every target AUC and mean rank; its time is given without and
with the 95 % intervals of all figures (2,000 resamples of users) and those of NDCG@10 in every slice by length of
history and popularity of the target. Each turn has a process of its own, which does everything once before its time
counts (what that took stands in the row): all lists, or the vectors of the first users. The contenders take turns in an
order drawn anew each round; ratios are medians over rounds of the peer's seconds to ours. Figures must agree: from
lists to 1e-5, from vectors to 1e-4, since rounding may exchange neighbours in a list.

Rows go to benchmarks/results/evaluation_system.json. A quick look: `--users 5000 --items 5000 --rounds 1`, with
`--results` elsewhere.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from peers.contenders import alternate, median_ratio
from peers.environments import python_of
from peers.lists_data import TOP
from peers.protocol import Contender
from records import Row, circumstances, write_rows

from seqrec_jax.evaluation.users.attributes import popularity_deciles
from seqrec_jax.scoring import TopK, catalogue_order, top_k

RESULTS = Path("benchmarks/results/evaluation_system.json")
KEYS = ("data", "model", "configuration", "figure")
WIDTH, RANK, MOST_TARGETS = 64, 16, 10
SHARE_LISTED = 0.08
"""Chance that a held-out item is drawn from its user's list; the others are drawn by popularity."""
ROUNDS = {"lists": 5, "vectors": 3}
MEASUREMENTS = 3
"""Of a turn, which counts with their median; of a contender that takes longer than a second, one."""
TOLERANCE = {"lists": 1e-5, "vectors": 1e-4}
_BLOCK = 4096


class Way(NamedTuple):
    """A library, and one of its ways from the inputs to figures.

    Attributes:
      label: in tables.
      environment: name of its environment, None for this one.
      script: in peers/.
      tasks: what it can start from.
      options: further arguments of `prepare`.
    """

    label: str
    environment: str | None
    script: str
    tasks: tuple[str, ...]
    options: Mapping[str, str] = {}


OURS = "ours"
BOTH = ("lists", "vectors")
SLOWEST = "replay_pandas"  # twenty times as slow as the same by polars, so it runs only when asked for
WAYS = {
    OURS: Way("ours, lists", None, "lists_seqrec.py", BOTH, {"way": "lists"}),
    "ours_ranks": Way("ours, all ranks", None, "lists_seqrec.py", ("vectors",), {"way": "ranks"}),
    "recbole": Way("RecBole", "recbole", "lists_recbole.py", BOTH),
    "rectools": Way("RecTools", "rectools", "lists_rectools.py", ("lists",)),
    "rectools_torch": Way("RecTools, TorchRanker", "rectools", "lists_rectools.py", ("vectors",)),
    "rectools_implicit": Way(
        "RecTools, ImplicitRanker", "rectools", "lists_rectools.py", ("vectors",), {"ranker": "implicit"}
    ),
    "replay_polars": Way("RePlay, polars", "replay", "lists_replay.py", ("lists",), {"form": "polars"}),
    "replay_pandas": Way("RePlay, pandas", "replay", "lists_replay.py", ("lists",), {"form": "pandas"}),
    "replay_tensors": Way("RePlay, tensors", "replay", "lists_replay.py", BOTH),
}


def write_inputs(folder: Path, *, num_users: int, num_items: int) -> None:
    """Vectors, lists, held-out items and what is known of the users, the same for the same numbers."""
    rng = np.random.default_rng(0)
    popularity = rng.permutation(np.arange(1, num_items + 1) ** -0.8)
    factors = rng.standard_normal((RANK, WIDTH)) / np.sqrt(RANK)
    v_x, v_y = (
        rng.standard_normal((rows, RANK)) @ factors + 0.3 * rng.standard_normal((rows, WIDTH))
        for rows in (num_users, num_items + 1)
    )
    v_x[:, 0], v_y[1:, 0], v_y[0] = 3.0, np.log(popularity / popularity.mean()), 0.0
    v_x, v_y = v_x.astype(np.float32), v_y.astype(np.float32)
    lists = first_items(v_x, v_y)
    targets = held_out(lists, popularity / popularity.sum(), rng)
    counts = np.concatenate([[0], rng.multinomial(20 * num_items, popularity / popularity.sum())])
    users = {
        "history_length": rng.geometric(0.05, num_users),
        "first_target_popularity": counts[targets[:, 0]],
        "popularity_decile": popularity_deciles(counts)[targets[:, 0]],
    }
    for name, array in {"v_x": v_x, "v_y": v_y, "lists": lists, "targets": targets, "num_items": num_items}.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "users.npz", **users)


def first_items(v_x: np.ndarray, v_y: np.ndarray) -> np.ndarray:
    """`[U, K]` the lists of all users."""
    table, priority = jnp.asarray(v_y), catalogue_order(len(v_y) - 1, jax.random.key(0))

    @jax.jit
    def search(v_x: jax.Array) -> TopK:
        return top_k(v_x, None, table, k=TOP, priority=priority)

    return np.concatenate([search(v_x[start : start + 256]).item_ids for start in range(0, len(v_x), 256)])


def held_out(lists: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`[U, P]` int32 distinct items of each user, 1 to P of them, the empty places last."""
    shape = len(lists), MOST_TARGETS
    items = 1 + np.searchsorted(np.cumsum(shares), rng.random(shape) * (1 - 1e-9))
    listed = np.take_along_axis(lists, rng.integers(0, lists.shape[1], shape), axis=1)
    items = np.where(rng.random(shape) < SHARE_LISTED, listed, np.minimum(items, len(shares)))
    items[np.arange(MOST_TARGETS) >= rng.integers(1, MOST_TARGETS + 1, len(lists))[:, None]] = 0
    for place in range(1, MOST_TARGETS):
        items[(items[:, :place] == items[:, place, None]).any(axis=1), place] = 0
    return np.take_along_axis(items, np.argsort(items == 0, axis=1, kind="stable"), axis=1).astype(np.int32)


def take_turn(way: Way, task: str, folder: Path) -> dict[str, Any]:
    """A turn in a process of its own; `seconds` are medians of its measurements, as are those of intervals."""
    python = sys.executable if way.environment is None else python_of(way.environment)
    with Contender(python, way.script) as contender:
        facts = contender.ask("prepare", folder=str(folder), task=task, **way.options)
        started = time.perf_counter()
        contender.ask("warm_up")
        warm_up_seconds = time.perf_counter() - started
        replies = [contender.ask("measure")]
        while replies[-1]["seconds"] < 1 and len(replies) < MEASUREMENTS:
            replies.append(contender.ask("measure"))
    seconds = {
        name: statistics.median(reply[name] for reply in replies) for name in replies[0] if name.endswith("seconds")
    }
    return {**replies[-1], **seconds, "warm_up": warm_up_seconds, "version": facts["version"]}


def contest(task: str, names: list[str], folder: Path, *, rounds: int, configuration: str) -> Iterator[Row]:
    """Seconds of all contenders at one task."""
    names = [name for name in names if task in WAYS[name].tasks]
    replies = alternate({name: partial(take_turn, WAYS[name], task, folder) for name in names}, rounds=rounds)
    differences = check_figures({name: answers[-1]["figures"] for name, answers in replies.items()}, task)
    # ours without intervals, with them, and with slices too
    ours: dict[str, list[float]] = {
        words: [sum(reply[part] for part in parts) for reply in replies[OURS]]
        for words, parts in {
            "figures": ("seconds",),
            "with intervals": ("seconds", "intervals_seconds"),
            "with intervals and slices": ("seconds", "intervals_seconds", "slices_seconds"),
        }.items()
    }
    print(f"\n{task}, {configuration}: seconds, and the median ratio to ours: {', '.join(ours)}")
    for name, answers in replies.items():
        way = WAYS[name]
        seconds = [reply["seconds"] for reply in answers]
        ratios = {words: round(median_ratio(seconds, mine), 2) for words, mine in ours.items()}
        row = {
            "model": way.label if way.environment is None else f"{way.label} {answers[0]['version']}",
            "configuration": f"from {task}, {configuration}",
            "figure": "seconds to the figures",
            "value": round(statistics.median(seconds), 4),
            "warm_up_seconds": round(statistics.median(reply["warm_up"] for reply in answers), 2),
            "to_ours": ratios,
            "metrics": len(answers[-1]["figures"]),
            "figures": {metric: round(figure, 7) for metric, figure in answers[-1]["figures"].items()},
            **differences[name],
            "rounds": rounds,
            "peak_memory_bytes": max(reply["peak_memory_bytes"] for reply in answers),
        }
        for part in ("intervals", "slices"):
            if f"{part}_seconds" in answers[0]:
                row[f"{part}_seconds"] = round(statistics.median(reply[f"{part}_seconds"] for reply in answers), 4)
        shown = " ".join(f"{ratio:8.2f}x" for ratio in ratios.values())
        print(
            f"{row['value']:>10,.3f} {shown} {row['peak_memory_bytes'] / 2**20:8,.0f} MiB  {row['model']}", flush=True
        )
        yield row


def check_figures(figures: dict[str, dict[str, float]], task: str) -> dict[str, Row]:
    """How far each contender's figures are from ours, and which are left out, since their definition is another.

    Raises:
      RuntimeError: a figure of the same definition differs by more than the tolerance.
    """
    facts = {}
    for name, theirs in figures.items():
        # RecTools divides the precisions of MAP by P and not by min(P, K)
        other = [metric for metric in theirs if name.startswith("rectools") and metric == "map@5"]
        shared = [metric for metric in theirs if metric in figures[OURS] and metric not in other]
        distances = {metric: abs(theirs[metric] - figures[OURS][metric]) for metric in shared}
        worst = max(distances, key=lambda metric: distances[metric])
        if not distances[worst] <= TOLERANCE[task]:
            raise RuntimeError(f"{name} has {worst} {theirs[worst]}, from {task} we have {figures[OURS][worst]}")
        facts[name] = {"largest_difference": float(f"{distances[worst]:.2g}"), "defined_otherwise": other}
    return facts


def main() -> None:
    """The contenders that are named on the command line, and ours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contenders", nargs="*", metavar="contender", help=f"default: all but {SLOWEST}")
    parser.add_argument("--tasks", nargs="+", choices=BOTH, default=BOTH, help="default: both")
    parser.add_argument("--users", type=int, default=100_000, help="default 100000")
    parser.add_argument("--items", type=int, default=100_000, help="default 100000")
    parser.add_argument("--rounds", type=int, help=f"in which the contenders take turns (default {ROUNDS})")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    if unknown := set(options.contenders) - set(WAYS):
        parser.error(f"unknown contenders {sorted(unknown)}; there are {', '.join(WAYS)}")
    chosen = {OURS, *(options.contenders or set(WAYS) - {SLOWEST})}
    names = [name for name in WAYS if name in chosen]
    about = {"data": "vectors of low rank and popularity", **circumstances("python benchmarks/evaluation_system.py")}
    configuration = f"{options.users} users, {options.items} items, 1 to {MOST_TARGETS} held out"
    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own, since the peak memory of this one would be the least of every contender
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(write_inputs, Path(folder), num_users=options.users, num_items=options.items).result()
        for task in options.tasks:
            rounds = options.rounds or ROUNDS[task]
            rows = contest(task, names, Path(folder), rounds=rounds, configuration=configuration)
            write_rows(options.results, [row | about for row in rows], keys=KEYS)


if __name__ == "__main__":
    main()
