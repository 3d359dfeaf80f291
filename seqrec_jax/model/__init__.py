"""A sequence model: item tower, event inputs, encoder and W as pure functions over one parameter pytree."""

from __future__ import annotations

from seqrec_jax.model.config import BilinearKind, ModelConfig
from seqrec_jax.model.incremental import Event, EventCache
from seqrec_jax.model.parameters import extend_item_rows, weight_decay_mask
from seqrec_jax.model.sequence_model import SequenceModel, last_states, make_sequence_model, user_vectors

__all__ = [
    "BilinearKind",
    "Event",
    "EventCache",
    "ModelConfig",
    "SequenceModel",
    "extend_item_rows",
    "last_states",
    "make_sequence_model",
    "user_vectors",
    "weight_decay_mask",
]
