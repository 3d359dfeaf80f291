"""Texts to vectors with a pretrained language model: batches sorted by length, few shapes, a cache on disk."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.language.config import LanguageConfig, read_json, read_language_config
from seqrec_jax.encoders.language.pooling import Pooling, read_pooling, text_vectors
from seqrec_jax.encoders.language.text_cache import (
    Entries,
    model_fingerprint,
    no_entries,
    read_entries,
    text_key,
    write_entries,
)
from seqrec_jax.encoders.language.tokenizer import Tokenizer, load_tokenizer, pad_tokens, tokenize
from seqrec_jax.encoders.language.weights import read_weights
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.settings import check_value

_LONGEST_BY_DEFAULT = 512  # tokens; decoders accept far more than item texts need


class TextEncoder(NamedTuple):
    """A language model with its tokenizer and pooling.

    Attributes:
      config: shape of the model.
      params: its parameters.
      tokenizer: texts to tokens.
      pooling: hidden states to a vector.
    """

    config: LanguageConfig
    params: Params
    tokenizer: Tokenizer
    pooling: Pooling


class TextReport(NamedTuple):
    """Counts of the texts of a call of `encode_texts`.

    Attributes:
      num_texts: number of texts.
      num_empty: texts without any token of their own, or missing; their vector is zero.
      num_truncated: texts that were cut at the largest length.
      num_cached: texts whose vector came from the cache.
      num_encoded: different texts that the model encoded.
      unknown_share: share of the texts' tokens that are not in the vocabulary, as in a language that it was not made
        for; nan without tokens. It is 0 for byte-level vocabularies.
    """

    num_texts: int
    num_empty: int
    num_truncated: int
    num_cached: int
    num_encoded: int
    unknown_share: float


class TextVectors(NamedTuple):
    """Vectors of N texts.

    Attributes:
      vectors: `[N, D]` float32 in the order of the texts.
      report: counts of the texts.
    """

    vectors: Float[np.ndarray, "N D"]
    report: TextReport


def load_text_encoder(
    directory: str | Path, *, max_length: int | None = None, pooling: Pooling | None = None, dtype: Any = jnp.float32
) -> TextEncoder:
    """A text encoder from a local directory in the Hugging Face layout.

    Args:
      directory: with config.json, tokenizer.json and weights in safetensors; sentence-transformers' files are read
        if there are any.
      max_length: number of tokens after which texts are cut; None takes that of the directory, else that of the model,
        at most 512.
      pooling: None takes that of the directory, else the mean, or the last token for a decoder.
      dtype: dtype of the parameters, float32 or bfloat16.

    Raises:
      ConfigError: a file is missing, the family or an option is not supported, max_length exceeds the model's number
        of positions.
      DataError: weights that do not fit config.json; the tensor is named.
      MissingExtraError: the extra `language` is not installed.
    """
    config = read_language_config(directory)
    if max_length is None:
        sentences = Path(directory) / "sentence_bert_config.json"
        said = read_json(sentences, needed_for="a sentence encoder") if sentences.is_file() else {}
        max_length = min(said.get("max_seq_length") or _LONGEST_BY_DEFAULT, config.max_length)
    if max_length > config.max_length:
        raise ConfigError(f"{directory}: max_length is {max_length}, and the model has {config.max_length} positions")
    tokenizer = load_tokenizer(directory, max_length=max_length)
    largest = max(tokenizer.backend.get_vocab().values())
    if largest >= config.vocab_size:
        raise ConfigError(
            f"{directory}: tokenizer.json has the token id {largest}, and config.json a vocab_size of "
            f"{config.vocab_size}; they belong to different models"
        )
    params = read_weights(directory, config, dtype=dtype).params
    return TextEncoder(config, params, tokenizer, pooling or read_pooling(directory, config))


def encode_texts(
    encoder: TextEncoder,
    texts: Sequence[str | None],
    *,
    cache: str | Path | None = None,
    tokens_per_batch: int | None = None,
) -> TextVectors:
    """A vector of each text.

    Equal texts are encoded once, the longest texts first, in batches of about equal numbers of tokens. Lengths are
    rounded up to a few, each of which is compiled at its first use in a process. The last bits of a vector depend on
    the batch in which it was computed.

    Args:
      encoder: of `load_text_encoder`.
      texts: N texts; None, nan and blank ones get the zero vector.
      cache: a folder in which vectors are stored by the content of text and model; texts found there are not encoded
        again. If two processes write at the same time, the texts of one are encoded again later.
      tokens_per_batch: None takes 2,048 on a CPU, where more exceed its caches, and 16,384 on accelerators.

    Returns:
      `[N, D]` float32 vectors and a report.

    Raises:
      DataError: an entry that is not a text, with its index; a damaged cache file.
      ConfigError: tokens_per_batch below 1.
    """
    if tokens_per_batch is None:
        tokens_per_batch = 2048 if jax.default_backend() == "cpu" else 16_384
    check_value("tokens_per_batch", tokens_per_batch, "[1, inf)")
    # the blank text represents all empty ones
    unique: dict[str, int] = {"": 0}
    rows = np.asarray([unique.setdefault(_checked(text, n), len(unique)) for n, text in enumerate(texts)], np.int64)
    names = list(unique)
    entries = no_entries(len(names), encoder.config.width)
    entries.keys[:] = np.frombuffer(b"".join(map(text_key, names)), np.uint8).reshape(entries.keys.shape)
    missing, path = np.arange(1, len(names)), None
    if cache is not None:
        path = Path(cache) / f"{_fingerprint(encoder)}.npz"
        stored = read_entries(path, width=encoder.config.width)
        missing = _fill(entries, stored, missing)
    _encode(encoder, names, entries, missing, tokens_per_batch=tokens_per_batch)
    if path is not None and len(missing):
        new = (column[missing] for column in entries)
        write_entries(path, Entries(*(np.concatenate(both) for both in zip(stored, new, strict=True))))
    num_words = int(entries.num_words[rows].sum())
    report = TextReport(
        num_texts=len(rows),
        num_empty=int(np.sum(entries.num_words[rows] == 0)),
        num_truncated=int(np.sum(entries.truncated[rows])),
        num_cached=int(np.sum((rows > 0) & ~np.isin(rows, missing))),
        num_encoded=int(np.sum(entries.num_words[missing] > 0)),
        unknown_share=int(entries.num_unknown[rows].sum()) / num_words if num_words else float("nan"),
    )
    return TextVectors(entries.vectors[rows], report)


def batches_by_length(
    lengths: Int[np.ndarray, " N"], *, tokens_per_batch: int, max_length: int
) -> Iterator[tuple[Int[np.ndarray, " M"], int, int]]:
    """Texts in batches of about equal numbers of tokens, the longest first.

    Args:
      lengths: `[N]` int64 number of tokens of each text.
      tokens_per_batch: number of tokens of a batch, padding included.
      max_length: largest padded length.

    Yields:
      `[M]` int64 indices of the batch's texts, and the number of rows and the length of the batch. Full batches of
      equal length have equal numbers of rows; the last batch has a power of two.

    >>> for places, rows, length in batches_by_length(np.array([3, 9, 4]), tokens_per_batch=24, max_length=16):
    ...     print(places, rows, length)
    [1 2] 2 10
    [0] 1 4
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        length = min(_rounded_up(int(lengths[order[start]])), max_length)
        rows = max(1, tokens_per_batch // length)
        places = order[start : start + rows]
        yield places, min(rows, 1 << (len(places) - 1).bit_length()), length
        start += rows


def _rounded_up(length: int) -> int:
    """To an even number, or to a multiple of a 16th of the next power of two where that is more."""
    step = max(2, (1 << (length - 1).bit_length()) // 16)
    return -(-length // step) * step


def _checked(text: Any, place: int) -> str:
    """A text, or the blank one if it is missing."""
    if text is None or (isinstance(text, float) and text != text):
        return ""
    if not isinstance(text, str):
        raise DataError(
            f"texts[{place}] is {text!r} of type {type(text).__name__}; expected text, or None where missing"
        )
    return text if text.strip() else ""


def _fingerprint(encoder: TextEncoder) -> str:
    tokenizer = encoder.tokenizer.backend.to_str()  # with the length at which texts are cut
    return model_fingerprint(encoder.params, encoder.config, encoder.pooling, tokenizer)


def _fill(entries: Entries, stored: Entries, wanted: np.ndarray) -> np.ndarray:
    """Copy the stored entries of the wanted texts, and return the places of the others."""
    row_of = {key.tobytes(): row for row, key in enumerate(stored.keys)}
    found = np.asarray([row_of.get(entries.keys[place].tobytes(), -1) for place in wanted], np.int64)
    for column, source in zip(entries, stored, strict=True):
        column[wanted[found >= 0]] = source[found[found >= 0]]
    return wanted[found < 0]


def _encode(
    encoder: TextEncoder, texts: list[str], entries: Entries, wanted: np.ndarray, *, tokens_per_batch: int
) -> None:
    """Fill in the wanted texts."""
    tokenized = dict(zip(wanted.tolist(), tokenize(encoder.tokenizer, [texts[n] for n in wanted]), strict=True))
    for place, text in tokenized.items():
        entries.num_words[place], entries.num_unknown[place] = text.num_words, text.num_unknown
        entries.truncated[place] = text.truncated
    wanted = wanted[entries.num_words[wanted] > 0]
    lengths = np.asarray([len(tokenized[n].token_ids) for n in wanted], np.int64)
    limits = {"tokens_per_batch": tokens_per_batch, "max_length": encoder.config.max_length}
    ahead: tuple[np.ndarray, jax.Array] | None = None  # the device works on it while the host fills the next
    for chosen, rows, length in batches_by_length(lengths, **limits):
        places = wanted[chosen]
        token_ids, mask = pad_tokens([tokenized[n].token_ids for n in places], rows=rows, length=length)
        vectors = _compiled_vectors(encoder.params, token_ids, mask, config=encoder.config, pooling=encoder.pooling)
        if ahead is not None:
            entries.vectors[ahead[0]] = np.asarray(ahead[1])[: len(ahead[0])]
        ahead = places, vectors
    if ahead is not None:
        entries.vectors[ahead[0]] = np.asarray(ahead[1])[: len(ahead[0])]


_compiled_vectors = functools.partial(jax.jit, static_argnames=("config", "pooling"))(text_vectors)
