"""Pretrained language models of the BERT and GPT families, from a local directory in the Hugging Face layout."""

from __future__ import annotations

from seqrec_jax.encoders.language.config import LanguageConfig, RotaryScaling, read_language_config
from seqrec_jax.encoders.language.pooling import Pooling, pool, read_pooling, text_vectors
from seqrec_jax.encoders.language.text import TextEncoder, TextReport, TextVectors, encode_texts, load_text_encoder
from seqrec_jax.encoders.language.tokenizer import Tokenizer, load_tokenizer, pad_tokens, tokenize
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.encoders.language.weights import Weights, read_weights

__all__ = [
    "LanguageConfig",
    "Pooling",
    "RotaryScaling",
    "TextEncoder",
    "TextReport",
    "TextVectors",
    "Tokenizer",
    "Weights",
    "encode_texts",
    "hidden_states",
    "load_text_encoder",
    "load_tokenizer",
    "pad_tokens",
    "pool",
    "read_language_config",
    "read_pooling",
    "read_weights",
    "text_vectors",
    "tokenize",
]
