"""Reordering candidate lists: preferences of the user, diversity, and a shop's rules."""

from __future__ import annotations

from seqrec_jax.reranking.reranker import RerankConfig, Reranked, make_reranker
from seqrec_jax.reranking.rules import Rule, ShopRules, SoftRules, load_rules, matching_items, open_rules

__all__ = [
    "RerankConfig",
    "Reranked",
    "Rule",
    "ShopRules",
    "SoftRules",
    "load_rules",
    "make_reranker",
    "matching_items",
    "open_rules",
]
