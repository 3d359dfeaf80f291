"""Content of items besides their table: features from files and texts, relations, trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from seqrec_jax.config import ItemsConfig, TextConfig
from seqrec_jax.data.item_content import (
    FeatureFile,
    ItemContent,
    match_feature,
    read_feature_file,
)
from seqrec_jax.data.item_edges import match_edges, pairs_of_lists, paths_of_places, read_pairs
from seqrec_jax.data.item_texts import item_texts
from seqrec_jax.encoders.language.text import TextReport, encode_texts, load_text_encoder
from seqrec_jax.encoders.language.tokenizer import load_tokenizer, pad_tokens, tokenize
from seqrec_jax.errors import DataError
from seqrec_jax.reporting.wording import format_percent

TextEncoding: TypeAlias = Callable[[Sequence[str]], tuple[Float[np.ndarray, "N D"], str]]
"""Encodes N texts as `[N, D]` float32 vectors, and adds a sentence of counts."""
TEXT = "text"


def make_content(
    config: ItemsConfig,
    items: pd.DataFrame,
    *,
    earlier: ItemContent | None = None,
    encode: TextEncoding | None = None,
) -> ItemContent:
    """The features and relations that a configuration names, under the item ids of a table.

    Args:
      config: the files, columns and language model.
      items: V rows in vocabulary order with `item_id` (raw), `known` and the columns that the configuration names.
      earlier: the content of an earlier dataset or run, kept for items without content now.
      encode: encoder of texts; None for the language model that the configuration names.

    Raises:
      DataError: as `read_feature_file`, `match_feature`, `match_edges` and `item_texts`.
    """
    earlier = earlier or ItemContent()
    raw_ids, known = list(items["item_id"]), items["known"].to_numpy()
    found: dict[str, FeatureFile] = {}
    notes: list[str] = []
    for name, path in config.features.items():
        found[name] = read_feature_file(path, item_id=config.item_id)
    if config.text.columns:
        found[TEXT], notes = text_feature(items, config.text, encode=encode)
    features = dict(earlier.features)
    for name, one in found.items():
        features[name], note = match_feature(name, one, raw_ids, known=known, earlier=earlier.features.get(name))
        notes.append(note)
    edges = dict(earlier.edges)
    if config.edges:
        pairs = {name: _pairs(items, where) for name, where in config.edges.items()}
        new, sentences = match_edges(
            pairs, raw_ids, max_neighbors=config.max_neighbors, shared_pairs=config.shared_pairs
        )
        edges, notes = {**edges, **new}, [*notes, *sentences]
    return ItemContent(features, edges, tuple(notes))


def text_feature(
    items: pd.DataFrame, config: TextConfig, *, encode: TextEncoding | None = None
) -> tuple[FeatureFile, list[str]]:
    """The vectors of the items that have a text, and sentences of counts.

    Args:
      items: a row an item with `item_id` (raw) and the columns with text.
      config: the columns and the language model.
      encode: encoder of texts; None for the language model of `config`.

    Raises:
      DataError: a column that the table lacks, or no text in any of them.
      ConfigError: as `load_text_encoder`.
    """
    texts, notes = item_texts(items, config.columns)
    rows = [row for row, text in enumerate(texts) if text]
    if not rows:
        raise DataError(f"no item has a text in {', '.join(config.columns)}, so there is nothing to encode")
    vectors, note = (encode or text_encoder(config))([texts[row] for row in rows])
    ids = items["item_id"].to_numpy(dtype=object)[rows]
    said = np.any(vectors != 0, axis=1)  # a text without a known word has a vector of zeros
    kept = vectors if config.tokens else np.asarray(vectors, dtype=np.float32)
    return FeatureFile(ids[said], kept[said]), [*notes, f"text: {note}"]


def text_encoder(config: TextConfig) -> TextEncoding:
    """The encoder of texts of a configuration: vectors of its language model, or `[N, T]` int32 tokens + 1 for it.

    Raises:
      ConfigError: as `load_text_encoder` or `load_tokenizer`.
    """
    if config.tokens:
        return partial(_tokens, config)

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, str]:
        encoder = load_text_encoder(Path(str(config.model)))
        vectors, report = encode_texts(encoder, texts, cache=config.cache)
        return vectors, _in_words(report)

    return encode


def _tokens(config: TextConfig, texts: Sequence[str]) -> tuple[np.ndarray, str]:
    found = tokenize(load_tokenizer(str(config.model), max_length=config.tokens), texts)
    token_ids, real = pad_tokens([text.token_ids for text in found], rows=len(found), length=config.tokens)
    words = sum(text.num_words for text in found)
    said = np.array([text.num_words > 0 for text in found])
    report = TextReport(
        num_texts=len(found),
        num_empty=int(np.sum(~said)),
        num_truncated=sum(text.truncated for text in found),
        num_cached=0,
        num_encoded=int(said.sum()),
        unknown_share=sum(text.num_unknown for text in found) / words if words else float("nan"),
    )
    return np.where(real & said[:, None], token_ids + 1, 0).astype(np.int32), _in_words(report)


def _in_words(report: TextReport) -> str:
    """A sentence of counts of texts."""
    words = [f"{report.num_encoded:,} encoded, {report.num_cached:,} read from the cache"]
    if report.num_truncated:
        words.append(f"{report.num_truncated:,} longer than the model reads, of which it read the beginning")
    if report.num_empty:
        words.append(f"{report.num_empty:,} without a word that counts")
    if report.unknown_share > 0:
        words.append(f"{format_percent(report.unknown_share)} of the words unknown to the model")
    return "; ".join(words)


def with_paths(items: pd.DataFrame, config: ItemsConfig) -> pd.DataFrame:
    """The item table with the columns of trees written as paths.

    Raises:
      DataError: as `paths_of_places`, or a column that the table lacks.
    """
    for column, path in config.parents.items():
        if column not in items:
            raise DataError(f"data.items.parents names {column!r}, the item table has {list(items.columns)}")
        items = items.assign(**{column: paths_of_places(items[column], read_pairs(path), source=path)})
    return items


def _pairs(items: pd.DataFrame, where: str) -> pd.DataFrame:
    """Pairs from a column of the item table, else from a file."""
    if where in items:
        return pairs_of_lists(items, where)
    if not Path(where).suffix:
        raise DataError(f"edges {where!r} is neither a column of the item table ({list(items.columns)}) nor a file")
    return read_pairs(where)
