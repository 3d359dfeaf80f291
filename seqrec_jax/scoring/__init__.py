"""The one score f(v_x, v_y) = v_xᵀ W v_y, and exact ranks and top-k lists over any number of items.

Ranks and lists follow the same rules, so that they always agree: row 0, an item that is not allowed or is
excluded, and an item whose score is nan or -inf is never recommended; equal scores are ordered by one random
order of the catalogue, `priority`, which the evaluation protocol draws once with `catalogue_order`.

With `axis_name`, inside `shard_map` or `pmap`, each device of that axis holds an equal block of the item table's
rows, in order: `v_y` (or the columns of the scores), `priority` and `allowed` are its own rows, while targets,
excluded items and results are ids of the whole table, the same on all devices of the axis.
"""

from __future__ import annotations

from seqrec_jax.scoring.catalogue import catalogue_order
from seqrec_jax.scoring.lists import TopK, top_k, top_k_in_scores
from seqrec_jax.scoring.ranks import UNREACHABLE, Ranks, ranks_in_scores, target_ranks
from seqrec_jax.scoring.scores import BilinearWeight, bilinear_scores, candidate_scores, pair_scores, project

__all__ = [
    "UNREACHABLE",
    "BilinearWeight",
    "Ranks",
    "TopK",
    "bilinear_scores",
    "candidate_scores",
    "catalogue_order",
    "pair_scores",
    "project",
    "ranks_in_scores",
    "target_ranks",
    "top_k",
    "top_k_in_scores",
]
