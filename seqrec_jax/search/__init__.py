"""Rankers that answer a query: by its words, by its vector, or by both.

They have the call of every ranker, from the histories of U users to scores `[U, V+1]`, and score items for the query of
a history's last event. A query that stands alone is a history of one event (`data.queries.query_sequences`).
"""

from __future__ import annotations

from seqrec_jax.search.dense import DenseConfig, TextVectors, dense, fit_bilinear
from seqrec_jax.search.fusion import convex_combination, fused, reciprocal_rank_fusion
from seqrec_jax.search.lexical import bm25

__all__ = [
    "DenseConfig",
    "TextVectors",
    "bm25",
    "convex_combination",
    "dense",
    "fit_bilinear",
    "fused",
    "reciprocal_rank_fusion",
]
