"""A trained model and histories to vectors, scores and lists of raw item ids."""

from seqrec_jax.retrieval.catalogue import ItemCatalogue
from seqrec_jax.retrieval.eligibility import Eligibility, ItemFilter, read_item_lists
from seqrec_jax.retrieval.encoding import USERS_PER_TILE, row_lengths
from seqrec_jax.retrieval.engine import Engine, Histories
from seqrec_jax.retrieval.policy import ListPolicy
from seqrec_jax.retrieval.recommendations import Recommendations, recommend_with
from seqrec_jax.retrieval.recommender import Recommender
from seqrec_jax.retrieval.run_decoder import RunDecoder
from seqrec_jax.retrieval.run_head import RunHead
from seqrec_jax.retrieval.user_states import UserStates

__all__ = [
    "USERS_PER_TILE",
    "Eligibility",
    "Engine",
    "Histories",
    "ItemCatalogue",
    "ItemFilter",
    "ListPolicy",
    "Recommendations",
    "Recommender",
    "RunDecoder",
    "RunHead",
    "UserStates",
    "read_item_lists",
    "recommend_with",
    "row_lengths",
]
