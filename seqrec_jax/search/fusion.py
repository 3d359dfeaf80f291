"""Two or more systems' scores made into one: by the places that they give, or by their scaled scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.settings import check_value

Scores = Float[np.ndarray, "U V1"]
ScoreFusion = Callable[[Sequence[np.ndarray]], np.ndarray]


def reciprocal_rank_fusion(scores: Sequence[Scores], *, k: float = 60.0) -> Scores:
    """Σ over the systems of 1 / (k + rank), where rank is 1 + the number of items with a higher score.

    Items that a system scores alike share their rank, so that no order of ids decides; one that it cannot rank (-inf)
    gets nothing from it.

    Args:
      scores: `[U, V+1]` of each system; column 0 is ignored.
      k: the larger, the less the first places stand out; positive.

    Returns:
      `[U, V+1]` float32; -inf for items that no system can rank, and in column 0.

    Raises:
      ConfigError: k not positive.
      ShapeError: no system, or systems of different shapes.

    Source:
      Cormack, Clarke and Büttcher (2009), Reciprocal Rank Fusion outperforms Condorcet.

    >>> first, second = np.array([[0.0, 0.9, 0.5, 0.1]]), np.array([[0.0, 0.0, 7.0, 0.0]])
    >>> reciprocal_rank_fusion([first, second], k=1).round(3)
    array([[ -inf, 0.833, 0.833, 0.583]], dtype=float32)
    """
    check_value("k", k, "(0, inf)")
    tables = _checked(scores)
    total = np.zeros(tables[0].shape, dtype=np.float32)
    for table in tables:
        ranks = rankdata(-table[:, 1:], method="min", axis=1)
        total[:, 1:] += np.where(np.isneginf(table[:, 1:]), 0.0, 1.0 / (k + ranks))
    return _where_ranked(total, tables)


def convex_combination(scores: Sequence[Scores], *, weights: Sequence[float]) -> Scores:
    """Σ over the systems of weight · score, each system's scores scaled to go from 0 to 1 for each user.

    An item that a system cannot rank (-inf) counts as its worst. A system that scores all items alike changes nothing.

    Args:
      scores: `[U, V+1]` of each system; column 0 is ignored.
      weights: of each system, not negative, with a sum of 1.

    Returns:
      `[U, V+1]` float32; -inf for items that no system can rank, and in column 0.

    Raises:
      ConfigError: weights that are not one a system, or are no shares.
      ShapeError: no system, or systems of different shapes.

    Source:
      Bruch, Gai and Ingber (2023), An Analysis of Fusion Functions for Hybrid Retrieval.

    >>> first, second = np.array([[0.0, 0.9, 0.5, 0.1]]), np.array([[0.0, 0.0, 7.0, 0.0]])
    >>> convex_combination([first, second], weights=[0.5, 0.5])
    array([[-inf, 0.5 , 0.75, 0.  ]], dtype=float32)
    """
    tables = _checked(scores)
    if len(weights) != len(tables) or min(weights) < 0 or not np.isclose(sum(weights), 1.0):
        raise ConfigError(f"weights must be {len(tables)} numbers, not negative, with a sum of 1; got {list(weights)}")
    total = np.zeros(tables[0].shape, dtype=np.float32)
    for table, weight in zip(tables, weights, strict=True):
        ranked = np.isfinite(table)
        ranked[:, 0] = False
        low = np.where(ranked, table, np.inf).min(axis=1, keepdims=True)
        span = np.where(ranked, table, -np.inf).max(axis=1, keepdims=True) - low
        scale = np.divide(weight, span, out=np.zeros_like(span), where=np.isfinite(span) & (span > 0))
        total += np.where(ranked, (table - np.where(np.isfinite(low), low, 0.0)) * scale, 0.0)
    return _where_ranked(total, tables)


def fused(name: str, rankers: Sequence[Ranker], fusion: ScoreFusion) -> FunctionRanker:
    """A ranker that fuses the scores of others.

    Args:
      name: the new ranker's label in tables.
      rankers: at least one.
      fusion: from the scores `[U, V+1]` of each to `[U, V+1]`, such as `partial(reciprocal_rank_fusion, k=60)`.
    """

    def scores(histories: Sequences) -> Scores:
        return fusion([np.asarray(ranker.scores(histories)) for ranker in rankers])

    return FunctionRanker(name, scores)


def _checked(scores: Sequence[Scores]) -> list[np.ndarray]:
    tables = [np.asarray(table, dtype=np.float32) for table in scores]
    if not tables or tables[0].ndim != 2 or any(table.shape != tables[0].shape for table in tables):
        raise ShapeError(f"expected scores [U, V+1] of one system or more, got {[table.shape for table in tables]}")
    return tables


def _where_ranked(total: np.ndarray, tables: Sequence[np.ndarray]) -> np.ndarray:
    total[np.all([np.isneginf(table) for table in tables], axis=0)] = -np.inf
    total[:, 0] = -np.inf
    return total
