"""Texts to token ids with the tokenizer.json of a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from seqrec_jax.encoders.language.config import read_json
from seqrec_jax.errors import ConfigError, MissingExtraError

_TEXTS_AT_ONCE = 8192  # the library's result takes kilobytes a text


class Tokenizer(NamedTuple):
    """A tokenizer that cuts texts at a length.

    Attributes:
      backend: `tokenizers.Tokenizer`, without padding of its own.
      unknown_id: id of the unknown token; None without one, as in byte-level vocabularies, which cover every text.
      max_length: largest number of tokens of a text, marks of start and end included.
    """

    backend: Any
    unknown_id: int | None
    max_length: int


class TokenizedText(NamedTuple):
    """The tokens of one text.

    Attributes:
      token_ids: `[T]` int32, marks of start and end included if the model has them.
      num_words: number of tokens without these marks.
      num_unknown: number of unknown tokens among them.
      truncated: whether tokens were cut off.
    """

    token_ids: Int[np.ndarray, " T"]
    num_words: int
    num_unknown: int
    truncated: bool


def load_tokenizer(directory: str | Path, *, max_length: int) -> Tokenizer:
    """The tokenizer of a directory in the Hugging Face layout.

    Args:
      directory: with tokenizer.json.
      max_length: number of tokens after which texts are cut, marks of start and end included.

    Raises:
      ConfigError: there is no tokenizer.json, it cannot be read, or max_length leaves no room for text.
      MissingExtraError: tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("texts need tokenizers; install it with: pip install 'seqrec_jax[language]'") from error
    path = Path(directory) / "tokenizer.json"
    described = read_json(path, needed_for="a language model that reads texts")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{path} cannot be read as a tokenizer ({error}); copy it again") from error
    special = backend.num_special_tokens_to_add(is_pair=False)
    if max_length <= special:
        raise ConfigError(f"max_length must be above the {special} tokens that mark start and end, got {max_length}")
    backend.no_padding()
    backend.enable_truncation(max_length)
    unknown = described.get("model", {}).get("unk_token")
    return Tokenizer(backend, None if unknown is None else backend.token_to_id(unknown), max_length)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenizedText]:
    """Token ids of each text, in order."""
    tokenized = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        for encoding in tokenizer.backend.encode_batch(list(texts[start : start + _TEXTS_AT_ONCE])):
            token_ids = np.asarray(encoding.ids, np.int32)
            words = token_ids[np.asarray(encoding.special_tokens_mask, np.int32) == 0]
            num_unknown = 0 if tokenizer.unknown_id is None else int(np.sum(words == tokenizer.unknown_id))
            tokenized.append(TokenizedText(token_ids, len(words), num_unknown, bool(encoding.overflowing)))
    return tokenized


def pad_tokens(
    token_ids: Sequence[Int[np.ndarray, " _"]], *, rows: int, length: int
) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Token ids of several texts as one matrix, padded on the right and below.

    Args:
      token_ids: `[T]` int32 of each text, T at most `length`.
      rows: number of rows, at least that of the texts.
      length: number of columns.

    Returns:
      `[rows, length]` int32 token ids, 0 at padding, and `[rows, length]` bool, True at real tokens.

    >>> pad_tokens([np.array([5, 6]), np.array([7])], rows=2, length=3)[0]
    array([[5, 6, 0],
           [7, 0, 0]], dtype=int32)
    """
    padded = np.zeros((rows, length), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = ids
        lengths[row] = len(ids)
    return padded, np.arange(length) < lengths[:, None]
