"""The cost of each system beside its quality: parameters, bytes, latency, users a second, energy, Pareto front."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.reporting.sections import Block, Section, points, section, table
from seqrec_jax.reporting.wording import format_figure, join_names
from seqrec_jax.settings import check_value

COUNTERS = Path("/sys/class/powercap")
"""Folder of the processors' energy counters on Linux."""
_COSTS = {"latency_ms": "milliseconds for one user", "bytes": "bytes of parameters"}
_REPEATS = 3


def measure_cost(
    ranker: Ranker,
    histories: Sequences,
    *,
    params: Any = None,
    training_seconds: float | None = None,
    calls: int = 50,
    batch_size: int = 256,
    counters: Path = COUNTERS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time a ranker on real histories, for one user at a time and in batches; each call scores the whole catalogue.

    Each call is made once before it is timed, so that compilation does not count, and waits for the scores. Energy is
    that of the processors' packages during the batches, with everything that runs on them and without memory and
    accelerators.

    Args:
      ranker: the system to time.
      histories: histories of at least one user; the timed users are taken evenly over them.
      params: the pytree of parameters; None where there are none or they are unknown.
      training_seconds: duration of the training, if known.
      calls: number of users timed one at a time.
      batch_size: users of a batch.
      counters: folder of the energy counters.
      clock: a monotonic clock in seconds.

    Returns:
      `name`, `parameters` and `bytes` (None without `params`), `latency_ms` (median) and `latency_p95_ms` of one
      user, `users_per_second` in batches, `training_seconds`, and `joules_per_user`, None where no counter is
      readable.

    Raises:
      DataError: no users.
      ConfigError: calls or batch_size < 1.
    """
    if not histories.num_users:
        raise DataError(f"there are no histories to time {ranker.name} with; expected at least one user")
    check_value("calls", calls, "[1, inf)")
    check_value("batch_size", batch_size, "[1, inf)")
    chosen = np.linspace(0, histories.num_users - 1, min(calls, histories.num_users)).astype(np.int64)
    single = [histories.select_users(chosen[[place % len(chosen)]]) for place in range(calls)]
    for history in single[: len(chosen)]:
        _score(ranker, history)
    latencies = np.array([_seconds(ranker, history, clock) for history in single])
    places = np.linspace(0, histories.num_users - 1, batch_size).astype(np.int64)
    batch = histories.select_users(places)
    _score(ranker, batch)
    before = read_counters(counters)
    seconds = [_seconds(ranker, batch, clock) for _ in range(_REPEATS)]
    joules = joules_between(before, read_counters(counters))
    leaves = (
        None
        if params is None
        else [np.asarray(leaf) if np.isscalar(leaf) else leaf for leaf in jax.tree.leaves(params)]
    )
    return {
        "name": ranker.name,
        "parameters": None if leaves is None else sum(int(leaf.size) for leaf in leaves),
        "bytes": None if leaves is None else sum(int(leaf.nbytes) for leaf in leaves),
        "latency_ms": 1e3 * float(np.median(latencies)),
        "latency_p95_ms": 1e3 * float(np.quantile(latencies, 0.95)),
        "users_per_second": batch_size / max(float(np.median(seconds)), 1e-12),
        "training_seconds": training_seconds,
        "joules_per_user": None if joules is None else joules / (_REPEATS * batch_size),
    }


def read_counters(folder: Path = COUNTERS) -> dict[str, tuple[int, int]]:
    """The counter and its largest value of each processor package, in microjoules; empty if unreadable."""
    found = {}
    for package in sorted(folder.glob("intel-rapl:*")):
        if package.name.count(":") > 1:  # a part of a package, whose energy is in the package's
            continue
        try:
            so_far, largest = (int((package / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            continue
        found[package.name] = (so_far, largest)
    return found


def joules_between(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> float | None:
    """Energy between two readings of the same counters, None without any; a counter may have overflowed once.

    >>> joules_between({"a": (900_000, 1_000_000)}, {"a": (100_000, 1_000_000)}), joules_between({}, {})
    (0.2, None)
    """
    if not before or before.keys() != after.keys():
        return None
    steps = [(after[name][0] - so_far) % max(largest, 1) for name, (so_far, largest) in before.items()]
    return sum(steps) / 1e6


def pareto_front(costs: ArrayLike, figures: ArrayLike) -> Bool[np.ndarray, " N"]:
    """The systems on the Pareto front: no other one is at least as good in everything and better in something.

    Args:
      costs: `[N]` or `[N, M]` float, smaller is better.
      figures: `[N]` float, larger is better.

    Returns:
      `[N]` bool. A system with an unknown cost or figure is not on the front and dominates no other.

    Raises:
      ShapeError: shapes that do not match.

    >>> pareto_front([1.0, 2.0, 2.0, 4.0], [0.1, 0.3, 0.2, 0.3]).tolist()
    [True, True, False, False]
    """
    worth = np.asarray(figures, dtype=np.float64)
    price = np.asarray(costs, dtype=np.float64)
    price = price[:, None] if price.ndim == 1 else price
    if worth.ndim != 1 or price.ndim != 2 or len(price) != len(worth):
        raise ShapeError(
            f"costs have shape {np.shape(costs)} and figures {worth.shape}, expected [N] or [N, M] and [N]"
        )
    # more is better in every column
    table = np.concatenate([-price, worth[:, None]], axis=1)
    known = ~np.isnan(table).any(axis=1)
    as_good = (table[:, None] >= table[None, :]).all(axis=2)
    better = (table[:, None] > table[None, :]).any(axis=2)
    return known & ~(as_good & better & known[:, None]).any(axis=0)


def cost_section(rows: Sequence[Mapping[str, Any]], *, metric: str) -> Section:
    """The section on cost beside quality, with the systems on the front of each cost.

    Args:
      rows: of `measure_cost`, each with `figure`: `{"mean", "low", "high"}` of the deciding metric.
      metric: name of the deciding metric.

    Raises:
      DataError: no rows, or a row without figure.
    """
    if not rows or any("figure" not in row for row in rows):
        raise DataError("cost_section takes rows of measure_cost, each with the system's figure under 'figure'")
    names = [str(row["name"]) for row in rows]
    figures = _numbers([row["figure"]["mean"] for row in rows])
    sentences, blocks = [], []
    for cost, label in _COSTS.items():
        prices = _numbers([row.get(cost) for row in rows])
        if np.isnan(prices).all():
            continue
        front = pareto_front(prices, figures)
        on_front = [name for name, inside in zip(names, front, strict=True) if inside]
        if on_front:
            sentences.append(f"In {label}, no other system is as cheap and as good as {join_names(on_front)}.")
        blocks.append(_points(f"{metric} against {label}", label, metric, names, prices, figures, front))
    summary = " ".join(["Latency is that of scoring the whole catalogue.", *sentences])
    return section("cost", "Cost beside quality", summary, [_table(rows, metric), *blocks])


def _points(
    title: str, label: str, metric: str, names: list[str], prices: np.ndarray, figures: np.ndarray, front: np.ndarray
) -> Block:
    known = ~np.isnan(prices) & ~np.isnan(figures)
    groups = [
        {
            "name": word,
            "x": prices[chosen],
            "y": figures[chosen],
            "labels": [name for name, inside in zip(names, chosen, strict=True) if inside],
        }
        for word, chosen in (("on the front", known & front), ("beaten", known & ~front))
        if chosen.any()
    ]
    missing = [name for name, shown in zip(names, known, strict=True) if not shown]
    note = f"Not shown, since unknown: {join_names(missing)}." if missing else ""
    return points(title, x_label=label, y_label=metric, groups=groups, note=note)


def _table(rows: Sequence[Mapping[str, Any]], metric: str) -> Block:
    columns = [
        "system", metric, "parameters", "megabytes", "ms a user (median)", "ms a user (95 %)", "users a second",
        "training seconds", "joules a user",
    ]  # fmt: skip
    cells = []
    for row in rows:
        size = row.get("bytes")
        energy = row.get("joules_per_user")
        cells.append(
            [
                row["name"],
                {name: row["figure"].get(name) for name in ("mean", "low", "high")},
                row.get("parameters"),
                None if size is None else size / 2**20,
                row.get("latency_ms"),
                row.get("latency_p95_ms"),
                row.get("users_per_second"),
                row.get("training_seconds"),
                "not available here" if energy is None else format_figure(energy),
            ]
        )
    note = "Energy is that of the processors' packages with all that ran on them, without memory and accelerators."
    return table("what each system costs", columns, cells, note=note)


def _score(ranker: Ranker, histories: Sequences) -> None:
    scores = ranker.scores(histories)
    if isinstance(scores, jax.Array):
        scores.block_until_ready()


def _seconds(ranker: Ranker, histories: Sequences, clock: Callable[[], float]) -> float:
    started = clock()
    _score(ranker, histories)
    return clock() - started


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
