"""From a ranker or lists, and evaluation cases, to a table of users × metrics; the only file that reads scores."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.measures import (
    Measured,
    apart,
    by_width,
    measure_ranks,
    measure_scores,
    metric_names,
    ranks_in_lists,
)
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.parallel import over_rows, replicated
from seqrec_jax.scoring import UNREACHABLE, Ranks, catalogue_order

_T = TypeVar("_T")


_MANY_TARGETS = 64  # of a user; tiles of users with more targets have fewer rows


class Judged(NamedTuple):
    """One system under one protocol.

    Attributes:
      name: label of the system.
      per_user: U rows: `rank` of the first target (missing where it cannot be ranked), and one float32 column for each
        of `metric_names`, nan where the metric is undefined.
      lists: `[U, K]` int32 recommended item numbers, K the largest cutoff; 0 is an empty place.
      list_scores: `[U, K]` float32 scores of the listed items, -inf for empty places.
      ranks: `[T]` int32 rank of every target, `UNREACHABLE` where it cannot be ranked.
      best_ranks: `[T]` int32 ranks if every tie were won.
      worst_ranks: `[T]` int32 ranks if every tie were lost.
      tied_targets: number of targets that share their score with another candidate.
      best: mean of the deciding metric if every tie were won.
      worst: mean of the deciding metric if every tie were lost.
      seconds: wall time of scoring and ranking for all users, without compilation.
      whole_ranking: False for lists made elsewhere, whose ranks end with the list.
    """

    name: str
    per_user: pd.DataFrame
    lists: np.ndarray
    list_scores: np.ndarray
    ranks: np.ndarray
    best_ranks: np.ndarray
    worst_ranks: np.ndarray
    tied_targets: int
    best: float
    worst: float
    seconds: float
    whole_ranking: bool = True


def judge(ranker: Ranker, cases: EvaluationCases, *, config: EvaluationConfig, mesh: Mesh | None = None) -> Judged:
    """Rank every target among the candidates of its user, and measure each user.

    Users are scored in tiles of a fixed shape, so that memory is bounded and figures do not depend on the number of
    users, and in the order of their history's length, so that the histories of a tile are about as long as each other.

    Args:
      ranker: a model's `Recommender`, a baseline, or any other `Ranker`.
      cases: the evaluation cases: U users with histories, T targets and candidates.
      config: the protocol.
      mesh: devices that share the users of a tile over the axis `data`; None for the default device.

    Returns:
      The table of users × metrics, lists and ranks.

    Raises:
      ShapeError: the ranker gives scores of another shape than `[users, V+1]`.
      DataError: a score of a candidate is nan.
    """
    num_items = len(cases.candidates) - 1
    num_users = len(cases.users)
    tile = int(max(1, min(256, config.score_bytes // (4 * (num_items + 1)))))
    spread, everywhere, least = jnp.asarray, jnp.asarray, 1
    if mesh is not None:
        least = mesh.shape["data"]
        tile = -(-tile // least) * least
        spread, everywhere = (
            partial(jax.device_put, device=over_rows(mesh)),
            partial(jax.device_put, device=replicated(mesh)),
        )
    priority = everywhere(catalogue_order(num_items, jax.random.key(config.seed)))
    longest = max(config.cutoffs)
    lists = np.zeros((num_users, longest), dtype=np.int32)
    list_scores = np.full((num_users, longest), -np.inf, dtype=np.float32)
    num_candidates = np.zeros(num_users, dtype=np.int32)
    ranks = {name: np.zeros(len(cases.target_items), dtype=np.int32) for name in Ranks._fields}
    probabilities: dict[str, np.ndarray] = {}
    total = 0.0

    def measured(members: np.ndarray, rows: int, width: int, start: int) -> tuple[int, Sequences, Measured]:
        # the last user fills up the last tile
        users = members[np.minimum(np.arange(start, start + rows), len(members) - 1)]
        histories = cases.histories.select_users(users)
        scores = ranker.scores(histories)
        if scores.shape != (rows, num_items + 1):
            raise ShapeError(
                f"{ranker.name} gave scores {scores.shape} for {rows} users of {num_items} items; expected "
                f"({rows}, {num_items + 1}), column 0 for padding"
            )
        candidates = cases.candidate_mask(users)
        if config.seen_items == "excluded":
            candidates = unseen_candidates(candidates, histories)
        result = measure_scores(
            spread(scores),
            spread(cases.padded(cases.target_items, users, width=width)),
            priority,
            spread(candidates) if len(candidates) == rows else everywhere(candidates),
            k=longest,
            logits=bool(getattr(ranker, "gives_logits", False)),
        )
        return start, histories, result

    for width, members in by_width(cases.num_targets):
        # a wide tile has fewer rows, since each target is counted against each candidate
        rows = max(least, min(tile, tile * _MANY_TARGETS // width // least * least))
        members = members[_by_length(cases.histories.lengths[members], rows)]
        starts = range(0, len(members), rows)
        # the first tile compiles, so its time says nothing; where it is the only one it goes through twice
        tiles = map(partial(measured, members, rows, width), starts if len(starts) > 1 else (0, 0))
        first = jax.block_until_ready(next(tiles))
        started, timed = time.monotonic(), max(len(starts) - 1, 1)
        for start, histories, on_device in _one_ahead(itertools.chain([first], tiles)):
            users = members[start : start + rows]
            result = jax.tree.map(partial(_first_rows, count=len(users)), on_device)
            _check_numbers(ranker.name, result.nan_scores, histories)
            lists[users], list_scores[users] = result.lists.item_ids, result.lists.scores
            num_candidates[users] = result.num_candidates
            real = np.arange(width) < cases.num_targets[users, None]
            places = cases.targets_of(users)
            for name, padded in result.ranks._asdict().items():
                ranks[name][places] = padded[real]
            for name, values in result.probabilities.items():
                probabilities.setdefault(name, np.full(num_users, np.nan, dtype=np.float32))[users] = values
        total += (time.monotonic() - started) * len(starts) / timed
    names = metric_names(config.cutoffs, graded=cases.target_gains is not None)
    columns = measure_ranks(ranks["ranks"], cases, names=names, num_candidates=num_candidates) | probabilities
    decided = partial(measure_ranks, cases=cases, names=[config.metric], num_candidates=num_candidates)
    best, worst = (decided(apart(ranks[name], cases, step=step)) for name, step in (("best", 1), ("worst", -1)))
    return Judged(
        name=ranker.name,
        per_user=_per_user(ranks["ranks"][cases.target_offsets[:-1]], columns, cases, config),
        lists=lists,
        list_scores=list_scores,
        ranks=ranks["ranks"],
        best_ranks=ranks["best"],
        worst_ranks=ranks["worst"],
        tied_targets=int((ranks["worst"] > ranks["best"]).sum()),
        best=mean_of_users(best[config.metric]),
        worst=mean_of_users(worst[config.metric]),
        seconds=total,
    )


def judge_lists(
    name: str,
    lists: np.ndarray,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    list_scores: np.ndarray | None = None,
) -> Judged:
    """Measure lists that another system made for the same users, under the same protocol.

    A target that is not in its user's list is a miss; `auc`, `mean_rank` and `log_loss` are undefined. A listed item
    that may not be recommended (no candidate, or a seen item where these are excluded) keeps its place and is no hit.

    Args:
      name: label of the system.
      lists: `[U, K]` integer item numbers, best first; 0 is an empty place, a number above V an unknown item.
      cases: the evaluation cases of the same U users in the same order.
      config: the protocol.
      list_scores: `[U, K]` float scores of the listed items; None where they are unknown.

    Returns:
      The same as `judge`, with `whole_ranking` False.

    Raises:
      ShapeError: lists that are not `[U, K]`.
      DataError: lists that are no item numbers, or an item twice in one list.
    """
    started = time.monotonic()
    num_users, longest = len(cases.users), max(config.cutoffs)
    if lists.ndim != 2 or len(lists) != num_users:
        raise ShapeError(f"{name}: lists have shape {lists.shape}, expected [{num_users}, K], one a user of the cases")
    if not np.issubdtype(lists.dtype, np.integer) or lists.min(initial=0) < 0:
        raise DataError(
            f"{name}: lists are {lists.dtype} with a smallest entry of {lists.min(initial=0)}; expected item numbers "
            "from 1, and 0 for an empty place"
        )
    ordered = np.sort(lists, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)
    if twice.any():
        user = int(np.flatnonzero(twice.any(axis=1))[0])
        item = ordered[user, 1:][twice[user]][0]
        raise DataError(
            f"{name}: the list of user {cases.histories.user_ids[user]!r} has item number {item} twice, as have "
            f"{int(twice.any(axis=1).sum()) - 1} lists besides; keep the first place of an item only"
        )
    ranks = ranks_in_lists(lists, cases)
    ranks[~cases.targets_available()] = UNREACHABLE
    if config.seen_items == "excluded":
        ranks[cases.targets_seen()] = UNREACHABLE
    names = metric_names(config.cutoffs, graded=cases.target_gains is not None)
    columns = measure_ranks(ranks, cases, names=names)
    kept = np.zeros((num_users, longest), dtype=np.int32)
    kept[:, : lists.shape[1]] = lists[:, :longest]
    scores = np.full(kept.shape, np.nan, dtype=np.float32)
    if list_scores is not None:
        scores[:, : lists.shape[1]] = list_scores[:, :longest]
    per_user = _per_user(ranks[cases.target_offsets[:-1]], columns, cases, config)
    mean = mean_of_users(per_user[config.metric])
    seconds = time.monotonic() - started
    return Judged(name, per_user, kept, scores, ranks, ranks, ranks, 0, mean, mean, seconds, whole_ranking=False)


def _check_numbers(name: str, nan_scores: np.ndarray, histories: Sequences) -> None:
    if nan_scores.any():
        user = int(nan_scores.argmax())
        raise DataError(
            f"{name} gave nan as the score of {nan_scores[user]} candidates for user {histories.user_ids[user]!r}; "
            "their place is undefined; give -inf to an item that cannot be ranked"
        )


def _per_user(
    first_ranks: np.ndarray, columns: dict[str, np.ndarray], cases: EvaluationCases, config: EvaluationConfig
) -> pd.DataFrame:
    first = pd.arrays.IntegerArray(first_ranks, first_ranks == UNREACHABLE)
    names = metric_names(config.cutoffs, graded=cases.target_gains is not None)
    table = np.full((len(names), len(first_ranks)), np.nan, dtype=np.float32)
    for row, name in zip(table, names, strict=True):
        if name in columns:
            row[:] = columns[name]
    per_user = pd.DataFrame(table.T, columns=names, copy=False)
    per_user.insert(0, "rank", first)
    return per_user


def unseen_candidates(candidates: np.ndarray, histories: Sequences) -> np.ndarray:
    """`[U, V+1]` bool, the candidates that are not in a user's history.

    Args:
      candidates: `[V+1]` or `[1, V+1]` bool, the same for all users, or `[U, V+1]`.
      histories: of U users.
    """
    unseen = np.array(np.broadcast_to(candidates, (histories.num_users, candidates.shape[-1])))
    unseen[np.repeat(np.arange(histories.num_users), histories.lengths), histories.item_ids] = False
    return unseen


def _by_length(lengths: np.ndarray, tile: int) -> np.ndarray:
    """Places of the users: first one tile with histories of all lengths, then the others from the shortest on.

    Tiles of similar lengths are fast to encode, and the first tile compiles what the others need.
    """
    order = np.argsort(lengths, kind="stable")
    first = np.zeros(len(order), dtype=bool)
    first[np.linspace(0, len(order) - 1, min(tile, len(order))).astype(np.int64)] = True
    return np.concatenate([order[first], order[~first]])


def mean_of_users(values: np.ndarray | pd.Series) -> float:
    """Mean of `[U]` values over the users for whom a metric is defined; nan without any.

    >>> mean_of_users(np.array([0.0, 1.0, np.nan]))
    0.5
    """
    return float(pd.Series(values, dtype=np.float64).mean())


def reachable_targets(judged: Judged, cases: EvaluationCases) -> np.ndarray:
    """`[T]` bool, targets that can be in the system's lists; for lists made elsewhere, targets that are candidates."""
    return judged.ranks != UNREACHABLE if judged.whole_ranking else cases.targets_available()


def reachable_mean(judged: Judged, cases: EvaluationCases, metric: str) -> float:
    """Mean of a metric over the users whose targets can all be ranked; nan without any."""
    unreachable = np.add.reduceat((~reachable_targets(judged, cases)).astype(np.int64), cases.target_offsets[:-1])
    return mean_of_users(judged.per_user[metric][unreachable == 0])


def _one_ahead(tiles: Iterable[_T]) -> Iterator[_T]:
    """Yield each tile after the next one was dispatched, so that the device computes while the host reads results."""
    ready: deque[_T] = deque()
    for tile in tiles:
        ready.append(tile)
        if len(ready) > 1:
            yield ready.popleft()
    yield from ready


def _first_rows(values: jax.Array, *, count: int) -> np.ndarray:
    return np.asarray(values)[:count]
