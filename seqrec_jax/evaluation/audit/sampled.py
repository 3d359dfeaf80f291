"""Metrics among sampled candidates, for comparison with old papers only, and what they do to the order of systems.

A sampled metric ranks the target among n sampled items instead of all. It is no estimate of the full metric and may
order systems differently. Its expectation follows from the full ranks without any sampling: of the r - 1 items above a
target, the number in a uniform sample has a hypergeometric distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import gammaln

from seqrec_jax import metrics
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import Section, section, table
from seqrec_jax.scoring import UNREACHABLE
from seqrec_jax.settings import check_value

_BLOCK_ELEMENTS = 2**21


class RankingChanges(NamedTuple):
    """The order of systems by the full metric and by the metric among sampled items.

    Attributes:
      metric: name of the full metric, such as ndcg@10.
      num_negatives: n, number of items sampled for each user.
      systems: one row a system, best first by the full metric: `name`, `full`, `sampled` (in expectation over samples),
        `corrected` (the estimate of `full` from sampled ranks) and `corrected_deviation` (its standard deviation over
        samples), both nan where users have several targets, `place` and `sampled_place`.
      kendall_tau: agreement of the two orders, 1 = the same, -1 = reversed; nan with fewer than two systems.
      swapped: pairs (better in full, better when sampled).
      left_out: systems whose full ranks are unknown, since they are lists made elsewhere.
    """

    metric: str
    num_negatives: int
    systems: pd.DataFrame
    kendall_tau: float
    swapped: list[tuple[str, str]]
    left_out: list[str]


def sampled_metric_name(metric: str, num_negatives: int) -> str:
    """The label of a sampled metric in tables and text.

    >>> sampled_metric_name("ndcg@10", 100)
    'ndcg@10 among 100 sampled items'
    """
    return f"{metric} among {num_negatives} sampled items"


def place_gains(metric: str) -> np.ndarray:
    """`[k]` float64 value of a metric at k for a user whose only target is at place 1…k.

    Args:
      metric: accuracy@1 or a ranking metric at k.

    Raises:
      ConfigError: a metric that is not one of the first k places.

    >>> place_gains("mrr@3").round(2)
    array([1.  , 0.5 , 0.33])
    """
    stem, _, k = metric.partition("@")
    stem = "hit_rate" if metric == "accuracy@1" else stem
    if stem not in metrics.RANKING_METRICS or not k.isdecimal() or int(k) < 1:
        known = ", ".join(f"{name}@k" for name in metrics.RANKING_METRICS)
        raise ConfigError(f"{metric!r} has no gain by place; it can be accuracy@1, {known}")
    ranks = np.arange(1, int(k) + 1, dtype=np.int32)[:, None]
    return np.asarray(metrics.RANKING_METRICS[stem](ranks, k=int(k)), dtype=np.float64)


def sampled_rank_probabilities(
    ranks: ArrayLike, *, num_candidates: ArrayLike, num_negatives: int, most: int
) -> np.ndarray:
    """Probability of each place of a target with a known full rank among uniformly sampled other candidates.

    `P(place = 1 + x | r) = C(r - 1, x) C(N - r, n - x) / C(N - 1, n)`: the sample is drawn without replacement from
    the N - 1 candidates that are not the target.

    Args:
      ranks: `[T]` integer full ranks from 1 to N.
      num_candidates: N, one integer for all targets or `[T]`.
      num_negatives: n, at least 1.
      most: M, number of places returned.

    Returns:
      `[T, M]` float64 of places 1…M; rows sum to 1 for M = n + 1.

    Raises:
      DataError: a rank outside 1…N, or fewer than n other candidates.
      ConfigError: num_negatives < 1.

    >>> sampled_rank_probabilities([1, 3], num_candidates=5, num_negatives=2, most=3).round(3)
    array([[1.   , 0.   , 0.   ],
           [0.167, 0.667, 0.167]])
    """
    above = np.asarray(ranks, dtype=np.float64) - 1
    others = np.broadcast_to(np.asarray(num_candidates, dtype=np.float64), above.shape) - 1
    _check_sample(num_negatives, others)
    outside = (above < 0) | (above > others)
    if outside.any():
        raise DataError(
            f"ranks must be 1 to the number of candidates, found {above[outside][0] + 1:.0f} of "
            f"{others[outside][0] + 1:.0f}"
        )
    above, below, found = above[:, None], (others - above)[:, None], np.arange(most)[None, :]
    ways = _log_choose(above, found) + _log_choose(below, num_negatives - found)
    return np.asarray(np.exp(ways - _log_choose(others[:, None], num_negatives)))


def expected_gains(gains: ArrayLike, ranks: ArrayLike, *, num_candidates: ArrayLike, num_negatives: int) -> np.ndarray:
    """`[T]` float64 expected gain of each target's place among sampled items, over samples.

    Args:
      gains: `[M]` float gain of places 1…M, 0 beyond; from `place_gains` or `corrected_gains`.
      ranks: `[T]` integer full ranks, `UNREACHABLE` for a target that cannot be ranked, whose gain is 0.
      num_candidates: N, one integer for all targets or `[T]`.
      num_negatives: n, at least 1.

    Raises:
      DataError: a rank outside 1…N, or fewer than n other candidates.
      ConfigError: num_negatives < 1.

    >>> expected_gains([1.0], [1, 3, UNREACHABLE], num_candidates=5, num_negatives=2).round(3)
    array([1.   , 0.167, 0.   ])
    """
    gains, ranks = np.asarray(gains, dtype=np.float64)[: num_negatives + 1], np.asarray(ranks, dtype=np.int64)
    candidates = np.broadcast_to(np.asarray(num_candidates, dtype=np.int64), ranks.shape)
    expected = np.zeros(len(ranks))
    reachable = np.flatnonzero(ranks != UNREACHABLE)
    pairs, back = np.unique(ranks[reachable] << 31 | candidates[reachable], return_inverse=True)
    pairs = np.stack([pairs >> 31, pairs & (2**31 - 1)])
    found = np.empty(pairs.shape[1])
    for rows in _blocks(len(found), len(gains)):
        found[rows] = (
            sampled_rank_probabilities(
                pairs[0, rows], num_candidates=pairs[1, rows], num_negatives=num_negatives, most=len(gains)
            )
            @ gains
        )
    expected[reachable] = found[back.reshape(-1)]
    return expected


def sampled_ranks(
    ranks: ArrayLike, *, num_candidates: ArrayLike, num_negatives: int, seed: int = 0, where: ArrayLike | None = None
) -> np.ndarray:
    """Ranks of each user's targets among themselves and one uniform sample of the candidates that are no targets.

    All targets of a user share the sample: the number of sampled negatives between two successive targets is drawn from
    a hypergeometric distribution, given the number above.

    Args:
      ranks: `[U, P]` integer full ranks, distinct within a user; `UNREACHABLE` targets stay so.
      num_candidates: N, one integer for all users or `[U]`.
      num_negatives: n, number of items drawn without replacement.
      seed: of the draws.
      where: `[U, P]` True for real targets; None means all.

    Returns:
      `[U, P]` int32, `UNREACHABLE` where there is no place.

    Raises:
      ShapeError: shapes that do not match.
      DataError: a rank outside 1…N, two targets at one rank, or fewer than n candidates that are no targets.
      ConfigError: num_negatives < 1.

    >>> sampled_ranks([[1, 5]], num_candidates=5, num_negatives=3)  # all three others stand between the two
    array([[1, 5]], dtype=int32)
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    real_targets = np.ones(ranks.shape, dtype=bool) if where is None else np.asarray(where, dtype=bool)
    if ranks.ndim != 2 or real_targets.shape != ranks.shape:
        raise ShapeError(f"ranks has shape {ranks.shape} and where {real_targets.shape}, expected [U, P] for both")
    reachable = real_targets & (ranks != UNREACHABLE)
    candidates = np.broadcast_to(np.asarray(num_candidates, dtype=np.int64), len(ranks))
    negatives = candidates - reachable.sum(axis=1)
    _check_sample(num_negatives, negatives)
    order = np.argsort(np.where(reachable, ranks, UNREACHABLE), axis=1, kind="stable")
    ordered = np.take_along_axis(ranks, order, axis=1)
    real = np.take_along_axis(reachable, order, axis=1)
    above = np.where(real, ordered - 1 - np.arange(ranks.shape[1]), negatives[:, None])
    steps = np.diff(above, axis=1, prepend=0)
    wrong = ((steps < 0) | (above > negatives[:, None])).any(axis=1)
    if wrong.any():
        user = int(wrong.argmax())
        raise DataError(
            f"user {user} has targets at ranks {ordered[user][real[user]].tolist()} of {candidates[user]} candidates; "
            "expected distinct ranks from 1 to that number"
        )
    rng = np.random.default_rng(seed)
    left, unsampled, drawn = np.full(len(ranks), num_negatives), negatives.copy(), np.zeros_like(above)
    for target in range(ranks.shape[1]):
        found = rng.hypergeometric(steps[:, target], unsampled - steps[:, target], left)
        drawn[:, target] = found
        left, unsampled = left - found, unsampled - steps[:, target]
    places = np.where(real, 1 + np.arange(ranks.shape[1]) + np.cumsum(drawn, axis=1), UNREACHABLE)
    result = np.empty(ranks.shape, dtype=np.int32)
    np.put_along_axis(result, order, places.astype(np.int32), axis=1)
    return result


def corrected_gains(metric: str, *, num_candidates: int, num_negatives: int, trade_off: float = 0.01) -> np.ndarray:
    """Gains of the places among sampled items whose mean estimates the full metric.

    The gains g minimise, with all full ranks equally likely, the mean of `(E[g | r] - f(r))² + trade_off · Var[g | r]`,
    where f is the gain of the full metric. They may be above 1 or negative. With n far below N no gains can distinguish
    the first ten of all ranks, so that a bias remains: the estimate is better than the sampled metric and worse than
    the full one.

    Args:
      metric: a metric at k of users with one target, such as ndcg@10.
      num_candidates: N.
      num_negatives: n.
      trade_off: above 0 and at most 1; small gives little bias and much variance.

    Returns:
      `[n + 1]` float64 gains of places 1…n + 1.

    Raises:
      ConfigError: an option out of range, or a metric that is not one of the first k places.
      DataError: fewer than n other candidates.

    Source:
      Krichene and Rendle (2020), On Sampled Metrics for Item Recommendation, section 6 (bias-variance trade-off).

    >>> corrected_gains("hit_rate@1", num_candidates=11, num_negatives=10, trade_off=1e-6).round(2)[:3] + 0.0
    array([1., 0., 0.])
    """
    check_value("trade_off", trade_off, "(0, 1]")
    full = place_gains(metric)[:num_candidates]
    places = num_negatives + 1
    products, spread, towards = np.zeros((places, places)), np.zeros(places), np.zeros(places)
    for rows in _blocks(num_candidates, places):
        ranks = np.arange(rows.start, rows.stop) + 1
        chances = sampled_rank_probabilities(
            ranks, num_candidates=num_candidates, num_negatives=num_negatives, most=places
        )
        products += chances.T @ chances
        spread += chances.sum(axis=0)
        head = full[rows]
        towards += head @ chances[: len(head)]
    return np.linalg.lstsq((1 - trade_off) * products + trade_off * np.diag(spread), towards, rcond=None)[0]


def candidates_of_users(cases: EvaluationCases, config: EvaluationConfig) -> np.ndarray:
    """`[U]` int64 number of items that are ranked for each user, seen items left out where they are excluded."""
    count = cases.num_candidates
    if config.seen_items == "excluded":
        base = len(cases.candidates)
        users, items = cases.histories.users_of_events, cases.histories.item_ids
        usable = cases.are_candidates(users, items)
        pairs = np.unique((users * base + items)[usable])
        count = count - np.bincount(pairs // base, minlength=len(count))
    return count


def ranking_changes(
    judged: Sequence[Judged],
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    metric: str | None = None,
    num_negatives: int = 100,
    num_draws: int = 20,
    seed: int = 0,
) -> RankingChanges:
    """The order of systems by the full metric and by the metric among sampled items.

    With one target a user the sampled figure is its exact expectation, otherwise the mean over `num_draws` samples.

    Args:
      judged: the systems.
      cases: the evaluation cases.
      config: the protocol.
      metric: a metric at k; None for the deciding metric.
      num_negatives: n, number of items sampled for each user.
      num_draws: number of samples where users have several targets.
      seed: of those samples.

    Raises:
      ConfigError: a metric that is not one of the first k places.
      DataError: fewer than n candidates that are no targets.
    """
    metric = config.metric if metric is None else metric
    gains = place_gains(metric)
    whole = [entry for entry in judged if entry.whole_ranking]
    num_candidates = candidates_of_users(cases, config)
    single = int(cases.num_targets.max(initial=0)) <= 1
    options: dict[str, Any] = {"num_candidates": num_candidates, "num_negatives": num_negatives}
    corrected = np.zeros(0)
    if single and whole:
        typical = round(float(num_candidates.mean()))
        corrected = corrected_gains(metric, num_candidates=typical, num_negatives=num_negatives)
    rows = []
    for entry in whole:
        row = {"name": entry.name, "full": float(entry.per_user[metric].astype(np.float64).mean())}
        if single:
            estimates = expected_gains(corrected, entry.ranks, **options)
            squares = expected_gains(corrected**2, entry.ranks, **options)
            row["sampled"] = float(expected_gains(gains, entry.ranks, **options).mean())
            row["corrected"] = float(estimates.mean())
            row["corrected_deviation"] = float(np.sqrt(np.maximum(squares - estimates**2, 0).sum()) / len(estimates))
        else:
            draws = [
                _drawn_mean(metric, entry.ranks, cases, num_candidates, num_negatives, (seed, draw))
                for draw in range(num_draws)
            ]
            row |= {"sampled": float(np.mean(draws)), "corrected": np.nan, "corrected_deviation": np.nan}
        rows.append(row)
    columns = ["name", "full", "sampled", "corrected", "corrected_deviation"]
    systems = pd.DataFrame(rows, columns=columns).sort_values("full", ascending=False, kind="stable", ignore_index=True)
    for name, place in (("full", "place"), ("sampled", "sampled_place")):
        systems[place] = systems[name].rank(method="min", ascending=False).astype(np.int64)
    full, sampled = systems["full"].to_numpy(), systems["sampled"].to_numpy()
    first, second = np.triu_indices(len(systems), k=1)
    signs, sampled_signs = np.sign(full[first] - full[second]), np.sign(sampled[first] - sampled[second])
    norm = np.sqrt((signs**2).sum() * (sampled_signs**2).sum())
    names = systems["name"].tolist()
    return RankingChanges(
        metric=metric,
        num_negatives=num_negatives,
        systems=systems,
        kendall_tau=float((signs * sampled_signs).sum() / norm) if norm else np.nan,
        swapped=[(names[first[i]], names[second[i]]) for i in np.flatnonzero(signs * sampled_signs < 0)],
        left_out=[entry.name for entry in judged if not entry.whole_ranking],
    )


def sampled_section(changes: RankingChanges) -> Section:
    """The section of the report on sampled figures, labelled as such, and the order of systems that they give."""
    label, systems = sampled_metric_name(changes.metric, changes.num_negatives), changes.systems
    if changes.swapped:
        pairs = "; ".join(f"{b} would pass {a}" for a, b in changes.swapped[:4])
        more = f", and {len(changes.swapped) - 4} more pairs swap" if len(changes.swapped) > 4 else ""
        verdict = f"It would change the order of systems (Kendall's tau {changes.kendall_tau:.2f}): {pairs}{more}."
    elif len(systems) > 1:
        verdict = f"Here it would not reverse any two systems (Kendall's tau {changes.kendall_tau:.2f})."
    else:
        verdict = "Whether it would change the order of systems needs two systems."
    summary = (
        f"For comparison with older papers only: {label} ranks the target among {changes.num_negatives} uniformly "
        f"drawn items instead of all candidates. It is larger than {changes.metric} and no estimate of it. "
        f"{verdict}"
    )
    rows = [
        [
            row["name"],
            row["full"],
            row["sampled"],
            row["corrected"],
            row["corrected_deviation"],
            row["place"],
            row["sampled_place"],
        ]
        for row in systems.to_dict("records")
    ]
    note = (
        "Corrected: the estimate of the full metric from sampled ranks (Krichene and Rendle, 2020), and its deviation "
        "over samples; undefined for users with several targets."
    )
    if changes.left_out:
        note += f" Without {', '.join(changes.left_out)}, of which only lists are known."
    columns = ["system", changes.metric, label, "corrected", "deviation", "place", "place when sampled"]
    return section("sampled", "Sampled candidates", summary, [table("Full and sampled", columns, rows, note=note)])


def _drawn_mean(
    metric: str,
    ranks: np.ndarray,
    cases: EvaluationCases,
    num_candidates: np.ndarray,
    num_negatives: int,
    seed: tuple[int, int],
) -> float:
    """The metric's mean over users under one draw of samples."""
    stem, _, k = metric.partition("@")
    measure = metrics.RANKING_METRICS["hit_rate" if metric == "accuracy@1" else stem]
    total, count = 0.0, 0
    for number, rows in enumerate(_blocks(len(cases.users), int(cases.num_targets.max()))):
        users = np.arange(rows.start, rows.stop)
        padded = cases.padded(ranks, users)
        where = padded > 0
        drawn = sampled_ranks(
            padded,
            num_candidates=num_candidates[users],
            num_negatives=num_negatives,
            seed=int(np.random.SeedSequence((*seed, number)).generate_state(1)[0]),
            where=where,
        )
        values = np.asarray(measure(drawn, k=int(k), where=where), dtype=np.float64)
        total, count = total + np.nansum(values), count + int((~np.isnan(values)).sum())
    return total / count if count else np.nan


def _log_choose(n: np.ndarray, k: ArrayLike) -> np.ndarray:
    """Logarithm of the binomial coefficient, -inf where it is 0."""
    k = np.asarray(k, dtype=np.float64)
    possible = (k >= 0) & (k <= n)
    inside = np.where(possible, k, 0)
    return np.where(possible, gammaln(n + 1) - gammaln(inside + 1) - gammaln(n - inside + 1), -np.inf)


def _check_sample(num_negatives: int, available: np.ndarray) -> None:
    check_value("num_negatives", num_negatives, "[1, inf)")
    if available.size and available.min() < num_negatives:
        raise DataError(
            f"num_negatives is {num_negatives}, but a user has only {int(available.min())} candidates that are no "
            "targets; sample fewer, or use the full metric"
        )


def _blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows that hold a bounded number of elements of rows of a width."""
    size = max(1, _BLOCK_ELEMENTS // max(1, width))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
