"""Slow, readable references that walk down lists in plain Python; imports nothing of the package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence


def ranking(scores: Sequence[float], order: Sequence[int]) -> list[int]:
    """Items by falling score; equal scores stand as in `order`, a permutation of the items' indices."""
    place = {item: i for i, item in enumerate(order)}
    return sorted(range(len(scores)), key=lambda item: (-scores[item], place[item]))


def hit_rate(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    if not relevant:
        return math.nan
    return float(any(item in relevant for item in ranked[:k]))


def precision(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    if not relevant:
        return math.nan
    return sum(item in relevant for item in ranked[:k]) / k


def recall(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    if not relevant:
        return math.nan
    return sum(item in ranked[:k] for item in relevant) / len(relevant)


def f1(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    p, r = precision(ranked, relevant, k), recall(ranked, relevant, k)
    if math.isnan(p) or p + r == 0:
        return p
    return 2 * p * r / (p + r)


def ndcg(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """The gain of the list over that of the best list: all relevant items first."""
    if not relevant:
        return math.nan

    def gain(items: Sequence[int]) -> float:
        return sum(1 / math.log2(i + 2) for i, item in enumerate(items[:k]) if item in relevant)

    return gain(ranked) / gain(list(relevant))


def mrr(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    if not relevant:
        return math.nan
    for i, item in enumerate(ranked[:k], start=1):
        if item in relevant:
            return 1 / i
    return 0.0


def average_precision(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    if not relevant:
        return math.nan
    total = 0.0
    for i, item in enumerate(ranked[:k], start=1):
        if item in relevant:
            total += precision(ranked, relevant, i)
    return total / min(len(relevant), k)


def auc(ranked: Sequence[int], relevant: Collection[int]) -> float:
    """Share of the pairs (relevant, irrelevant) in the right order; what is not listed stands below."""
    irrelevant = [item for item in ranked if item not in relevant]
    if not relevant or not irrelevant:
        return math.nan
    place = {item: i for i, item in enumerate(ranked)}
    right = [place.get(a, len(ranked)) < place[b] for a, b in itertools.product(relevant, irrelevant)]
    return sum(right) / len(right)


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Share of all assignments of signs whose sum is at least as far from 0 as that of the data."""
    observed = abs(math.fsum(differences))
    extreme = 0
    for signs in itertools.product((1, -1), repeat=len(differences)):
        total = math.fsum(s * d for s, d in zip(signs, differences, strict=True))
        extreme += abs(total) >= observed - 1e-12
    return extreme / 2 ** len(differences)


def holm_rejected(p_values: Sequence[float], level: float) -> list[bool]:
    """Holm's procedure: test the smallest at level / m, the next at level / (m - 1), until one is kept."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected
