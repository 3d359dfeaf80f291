"""From a ranker and evaluation cases to a table users × metrics; the only file here that touches scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases, Stage
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.scoring import UNREACHABLE, Ranks, TopK, catalogue_order, ranks_in_scores, top_k_in_scores

SCORE_BYTES = 512 * 2**20
"""Most memory that the scores of one tile of users take."""

SeenItems = Literal["kept", "excluded"]


@dataclass(frozen=True)
class EvaluationConfig:
    """How rankers are judged; all items that could be recommended are ranked.

    Attributes:
      stage: test or validation.
      metric: the figure that decides, such as ndcg@10; one of which more is better.
      cutoffs: list lengths K of the metrics at k.
      seen_items: kept, or excluded: items of the history are then not recommended, and a target among them is
        a miss.
      first_target_only: predict the next target only, instead of all that followed the history.
      min_history: users with fewer events before their target are left out, and counted.
      num_resamples: of the user bootstrap behind the intervals.
      seed: of the order of the catalogue that settles ties, and of the bootstrap.
    """

    stage: Stage = "test"
    metric: str = "ndcg@10"
    cutoffs: tuple[int, ...] = (5, 10, 20)
    seen_items: SeenItems = "kept"
    first_target_only: bool = False
    min_history: int = 1
    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("stage", Stage), ("seen_items", SeenItems)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ConfigError(f"evaluation.{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise ConfigError(f"evaluation.cutoffs must be list lengths of at least 1, got {self.cutoffs}")
        # training keeps the checkpoint with the largest figure, so it must be one of which more is better
        if self.metric not in (known := [name for name in metric_names(self.cutoffs) if name != "mean_rank"]):
            raise ConfigError(f"evaluation.metric is {self.metric!r}; with these cutoffs it can be {', '.join(known)}")
        for name, least in (("min_history", 0), ("num_resamples", 100), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"evaluation.{name} must be at least {least}, got {value}")


class Ranker(Protocol):
    """What can be judged: a name, and scores `[U, V+1]` of all items for the histories of U users.

    Higher is better, column 0 is ignored, and -inf says that the ranker cannot rank an item.
    """

    @property
    def name(self) -> str:
        """The row's label in tables."""

    def scores(self, histories: Sequences, /) -> jax.Array | np.ndarray:
        """`[U, V+1]` scores."""


class Judged(NamedTuple):
    """One ranker under one protocol.

    Attributes:
      name: of the ranker.
      per_user: U rows: `rank` of the first target, missing where it cannot be ranked, and a column of each of
        `metric_names`, nan where it is undefined.
      lists: `[U, K]` int32 recommended item ids, K the largest cutoff, 0 = none.
      list_scores: `[U, K]` float32 their scores.
      ranks: `[..]` int32 rank of every target, `UNREACHABLE` where it cannot be ranked.
      tied_targets: targets that share their score with another candidate.
      best: the deciding metric's mean if every tie were won.
      worst: the deciding metric's mean if every tie were lost.
      seconds: wall time of scoring, ranking and measuring all users, without compilation.
    """

    name: str
    per_user: pd.DataFrame
    lists: np.ndarray
    list_scores: np.ndarray
    ranks: np.ndarray
    tied_targets: int
    best: float
    worst: float
    seconds: float


def metric_names(cutoffs: tuple[int, ...]) -> list[str]:
    """Names of the columns that `judge` measures: `name@k` for each cutoff, and those without a cutoff."""
    return [
        "accuracy@1",
        *(f"{name}@{k}" for name in metrics.RANKING_METRICS for k in sorted(cutoffs)),
        "auc",
        "mean_rank",
    ]


def judge(ranker: Ranker, cases: EvaluationCases, *, config: EvaluationConfig) -> Judged:
    """Rank every target among all candidates, and measure each user.

    Users go through in tiles of a fixed shape, so that memory is bounded and a figure does not depend on how
    many users there are; and by the length of their history, so that a ranker has to do with like ones at a time.

    Args:
      ranker: a model's `Recommender`, a baseline, or anything with the same call.
      cases: whom to ask what.
      config: the protocol.

    Returns:
      The table and the lists.

    Raises:
      ShapeError: scores of another shape than users × (V+1).
    """
    num_items = len(cases.candidates) - 1
    num_users = len(cases.users)
    tile = int(max(1, min(256, SCORE_BYTES // (4 * (num_items + 1)))))
    starts = range(0, num_users, tile)
    order = _by_length(cases.histories.lengths, tile)
    targets = cases.padded_targets(slice(0, num_users))
    priority = catalogue_order(num_items, jax.random.key(config.seed))
    measured: dict[int, tuple[Ranks, dict[str, np.ndarray], TopK]] = {}
    seconds = []
    # the first tile compiles, so its time says nothing; where it is the only one it goes through twice
    for start in starts if len(starts) > 1 else (0, 0):
        started = time.monotonic()
        # the last user fills up the last tile
        users = order[np.minimum(np.arange(start, start + tile), num_users - 1)]
        histories = cases.histories.select_users(users)
        scores = ranker.scores(histories)
        if scores.shape != (tile, num_items + 1):
            raise ShapeError(
                f"{ranker.name} gave scores {scores.shape} for {tile} users of {num_items} items; expected "
                f"({tile}, {num_items + 1}), column 0 for padding"
            )
        candidates = cases.candidates[None]
        if config.seen_items == "excluded":
            candidates = _unseen(cases.candidates, histories)
        result = _measure_tile(
            jnp.asarray(scores), targets[users], priority, candidates, cutoffs=config.cutoffs, metric=config.metric
        )
        measured[start] = jax.tree.map(partial(_first_rows, count=num_users - start), result)
        seconds.append(time.monotonic() - started)
    back = np.argsort(order)
    ranks, columns, lists = jax.tree.map(lambda *tiles: np.concatenate(tiles)[back], *measured.values())
    real = np.arange(ranks.ranks.shape[1])[None, :] < cases.num_targets[:, None]
    first = pd.arrays.IntegerArray(ranks.ranks[:, 0], ranks.ranks[:, 0] == UNREACHABLE)
    return Judged(
        name=ranker.name,
        per_user=pd.DataFrame({"rank": first, **{name: columns[name] for name in metric_names(config.cutoffs)}}),
        lists=lists.item_ids,
        list_scores=lists.scores,
        ranks=ranks.ranks[real],
        tied_targets=int((ranks.worst > ranks.best)[real].sum()),
        best=mean_of_users(columns["best"]),
        worst=mean_of_users(columns["worst"]),
        seconds=float(np.mean(seconds[1:])) * len(starts),
    )


def _unseen(candidates: np.ndarray, histories: Sequences) -> np.ndarray:
    """`[U, V+1]` the candidates that are not in a user's history."""
    unseen = np.repeat(candidates[None], histories.num_users, axis=0)
    unseen[np.repeat(np.arange(histories.num_users), histories.lengths), histories.item_ids] = False
    return unseen


def _by_length(lengths: np.ndarray, tile: int) -> np.ndarray:
    """The users, first a tile of them with histories of all lengths, then the others from the shortest on.

    Tiles of like lengths are quick to encode, and the first one compiles what the others need.
    """
    order = np.argsort(lengths, kind="stable")
    first = np.zeros(len(order), dtype=bool)
    first[np.linspace(0, len(order) - 1, min(tile, len(order))).astype(np.int64)] = True
    return np.concatenate([order[first], order[~first]])


def mean_of_users(values: np.ndarray | pd.Series) -> float:
    """Mean over the users for whom a metric is defined, nan without any.

    >>> mean_of_users(np.array([0.0, 1.0, np.nan]))
    0.5
    """
    return float(pd.Series(values, dtype=np.float64).mean())


def reachable_mean(judged: Judged, cases: EvaluationCases, metric: str) -> float:
    """Mean of a metric over the users all of whose targets can be ranked, nan without any."""
    unreachable = np.add.reduceat((judged.ranks == UNREACHABLE).astype(np.int64), cases.target_offsets[:-1])
    return mean_of_users(judged.per_user[metric][unreachable == 0])


@partial(jax.jit, static_argnames=("cutoffs", "metric"))
def _measure_tile(
    scores: jax.Array,
    targets: jax.Array,
    priority: jax.Array,
    candidates: jax.Array,
    *,
    cutoffs: tuple[int, ...],
    metric: str,
) -> tuple[Ranks, dict[str, jax.Array], TopK]:
    """Ranks, metric columns with the deciding metric's `best` and `worst`, and lists of one tile of users."""
    where = targets > 0
    scores = jnp.where(candidates, scores, -jnp.inf)
    ranks = ranks_in_scores(scores, targets, priority=priority, where=where)
    num_candidates = jnp.broadcast_to(jnp.sum(candidates, axis=1, dtype=jnp.int32), len(targets))
    measure = partial(_metric, num_candidates=num_candidates, where=where)
    columns = {name: measure(name, ranks.ranks) for name in metric_names(cutoffs)}
    columns["best"] = measure(metric, _apart(ranks.best))
    columns["worst"] = measure(metric, -_apart(-ranks.worst)[:, ::-1])
    return ranks, columns, top_k_in_scores(scores, k=max(cutoffs), priority=priority)


def _metric(name: str, ranks: jax.Array, *, num_candidates: jax.Array, where: jax.Array) -> jax.Array:
    """`[U]` one of `metric_names` from ranks `[U, P]`."""
    stem, _, k = name.partition("@")
    if stem in metrics.RANKING_METRICS:
        return metrics.RANKING_METRICS[stem](ranks, k=int(k), where=where)
    if name == "accuracy@1":
        return metrics.accuracy_at_1(ranks, where=where)
    metric = metrics.auc if name == "auc" else metrics.mean_rank
    return metric(ranks, num_candidates=num_candidates, where=where)


def _apart(ranks: jax.Array) -> jax.Array:
    """Rising ranks `[U, P]` in which targets that share a place, since they tie, take it and the ones after it."""
    ranks = jnp.sort(ranks, axis=1)
    places = jnp.broadcast_to(jnp.arange(ranks.shape[1], dtype=jnp.int32), ranks.shape)
    begins = jnp.pad(ranks[:, 1:] != ranks[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    return jnp.where(jnp.abs(ranks) == UNREACHABLE, ranks, ranks + places - first)


def _first_rows(values: jax.Array, *, count: int) -> np.ndarray:
    return np.asarray(values)[:count]
