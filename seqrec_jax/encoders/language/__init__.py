"""Pretrained language models of the BERT and GPT families, from a local directory in the Hugging Face layout."""

from __future__ import annotations

from seqrec_jax.encoders.language.config import LanguageConfig, RotaryScaling, read_language_config
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.encoders.language.weights import Weights, read_weights

__all__ = ["LanguageConfig", "RotaryScaling", "Weights", "hidden_states", "read_language_config", "read_weights"]
