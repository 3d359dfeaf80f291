"""A trained model and histories to vectors, scores and lists of raw item ids."""

from seqrec_jax.retrieval.recommender import USERS_PER_TILE, Recommendations, Recommender, row_lengths

__all__ = ["USERS_PER_TILE", "Recommendations", "Recommender", "row_lengths"]
