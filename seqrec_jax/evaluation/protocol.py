"""From a ranker and evaluation cases to a table users × metrics; the only file here that touches scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.sequences import Sequences, pad_sequences
from seqrec_jax.data.splits import EvaluationCases, Stage
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.scoring import UNREACHABLE, Ranks, TopK, catalogue_order, ranks_in_scores, top_k_in_scores

SCORE_BYTES = 512 * 2**20
"""Most memory that the scores of one tile of users take."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How rankers are judged; all items that could be recommended are ranked.

    Attributes:
      stage: test or validation.
      metric: the figure that decides, such as ndcg@10.
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
    seen_items: Literal["kept", "excluded"] = "kept"
    first_target_only: bool = False
    min_history: int = 1
    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise ConfigError(f"evaluation.cutoffs must be list lengths of at least 1, got {self.cutoffs}")
        if self.metric not in (known := metric_names(self.cutoffs)):
            raise ConfigError(
                f"evaluation.metric is {self.metric!r}; with these cutoffs it can be {', '.join(known)}"
            )
        if self.min_history < 0:
            raise ConfigError(f"evaluation.min_history must not be negative, got {self.min_history}")


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
      per_user: U rows: ranks of the first target and one column a metric, nan where it is undefined.
      lists: `[U, K]` int32 recommended item ids, K the largest cutoff, 0 = none.
      list_scores: `[U, K]` float32 their scores.
      ranks: `[..]` int32 rank of every target, `UNREACHABLE` where it cannot be ranked.
      tied_targets: targets that share their score with another candidate.
      best: the deciding metric's mean if every tie were won.
      worst: the deciding metric's mean if every tie were lost.
      seconds: wall time of scoring, ranking and measuring, without compilation.
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
    many users there are.

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
    priority = catalogue_order(num_items, jax.random.key(config.seed))
    allowed = jnp.asarray(cases.candidates)
    width = int(cases.histories.lengths.max(initial=1)) if config.seen_items == "excluded" else 0
    measured, first_seconds = [], 0.0
    started = time.monotonic()
    for start in range(0, num_users, tile):
        users = np.minimum(
            np.arange(start, start + tile), num_users - 1
        )  # the last user fills up the last tile
        histories = cases.histories.select_users(users)
        scores = ranker.scores(histories)
        if scores.shape != (tile, num_items + 1):
            raise ShapeError(
                f"{ranker.name} gave scores {scores.shape} for {tile} users of {num_items} items; expected "
                f"({tile}, {num_items + 1}), column 0 for padding"
            )
        targets = cases.padded_targets(slice(start, min(start + tile, num_users)))
        targets = np.pad(targets, ((0, tile - len(targets)), (0, 0)))
        excluded = pad_sequences(histories, length=width) if width else None
        result = _measure_tile(
            jnp.asarray(scores), targets, priority, allowed, excluded, cutoffs=config.cutoffs
        )
        measured.append(jax.tree.map(partial(_first_rows, count=num_users - start), result))
        if start == 0:
            first_seconds = time.monotonic() - started
    seconds = time.monotonic() - started
    if len(measured) > 1:  # the first tile compiles
        seconds = (seconds - first_seconds) * num_users / (num_users - tile)
    ranks, columns, lists = jax.tree.map(lambda *tiles: np.concatenate(tiles), *measured)
    real = np.arange(ranks.ranks.shape[1])[None, :] < cases.num_targets[:, None]
    name, k = config.metric.split("@") if "@" in config.metric else (config.metric, "0")
    per_user = pd.DataFrame({"rank": ranks.ranks[:, 0], **columns})
    return Judged(
        name=ranker.name,
        per_user=per_user,
        lists=lists.item_ids,
        list_scores=lists.scores,
        ranks=ranks.ranks[real],
        tied_targets=int((ranks.worst > ranks.best)[real].sum()),
        best=_bound(name, int(k), ranks.best, real, per_user[config.metric]),
        worst=_bound(name, int(k), ranks.worst, real, per_user[config.metric]),
        seconds=seconds,
    )


@partial(jax.jit, static_argnames="cutoffs")
def _measure_tile(
    scores: jax.Array,
    targets: jax.Array,
    priority: jax.Array,
    allowed: jax.Array,
    excluded: jax.Array | None,
    *,
    cutoffs: tuple[int, ...],
) -> tuple[Ranks, dict[str, jax.Array], TopK]:
    """Ranks, metric columns and lists of one tile of users."""
    where = targets > 0
    ranks = ranks_in_scores(
        scores, targets, priority=priority, allowed=allowed, excluded=excluded, where=where
    )
    lists = top_k_in_scores(scores, k=max(cutoffs), priority=priority, allowed=allowed, excluded=excluded)
    num_candidates = jnp.sum(allowed, dtype=jnp.int32)
    columns = {"accuracy@1": metrics.accuracy_at_1(ranks.ranks, where=where)}
    for name, metric in metrics.RANKING_METRICS.items():
        for k in sorted(cutoffs):
            columns[f"{name}@{k}"] = metric(ranks.ranks, k=k, where=where)
    columns["auc"] = metrics.auc(ranks.ranks, num_candidates=num_candidates, where=where)
    columns["mean_rank"] = metrics.mean_rank(ranks.ranks, num_candidates=num_candidates, where=where)
    return ranks, columns, lists


def _first_rows(values: jax.Array, *, count: int) -> np.ndarray:
    return np.asarray(values)[:count]


def reachable_mean(judged: Judged, cases: EvaluationCases, metric: str) -> float:
    """Mean of a metric over the users all of whose targets can be ranked."""
    unreachable = np.add.reduceat(judged.ranks == UNREACHABLE, cases.target_offsets[:-1])
    values = judged.per_user[metric].to_numpy()[unreachable == 0]
    return float(np.nanmean(values)) if len(values) else float("nan")


def _bound(name: str, k: int, ranks: np.ndarray, real: np.ndarray, values: pd.Series) -> float:
    """The mean of the deciding metric under other ranks; metrics without a cutoff keep their own mean."""
    if name not in metrics.RANKING_METRICS:
        return float(values.mean())
    return float(np.nanmean(metrics.RANKING_METRICS[name](jnp.asarray(ranks), k=k, where=jnp.asarray(real))))
