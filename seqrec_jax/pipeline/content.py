"""What describes items beside their table: features from files and from texts, relations, trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from seqrec_jax.config import ItemsConfig
from seqrec_jax.data.item_content import (
    FeatureFile,
    ItemContent,
    match_feature,
    read_feature_file,
)
from seqrec_jax.data.item_edges import match_edges, pairs_of_lists, paths_of_places, read_pairs
from seqrec_jax.data.item_texts import item_texts
from seqrec_jax.errors import DataError

EncodeTexts: TypeAlias = Callable[[Sequence[str]], Float[np.ndarray, "N D"]]
TEXT = "text"


def make_content(
    config: ItemsConfig,
    items: pd.DataFrame,
    *,
    earlier: ItemContent | None = None,
    encode_texts: EncodeTexts | None = None,
) -> ItemContent:
    """The features and relations that a configuration names, under the item ids of a table.

    Args:
      config: where they are.
      items: V rows in vocabulary order with `item_id` (raw), `known` and the columns that the configuration names.
      earlier: the content of an earlier dataset or run; what it has of items that now have none stays.
      encode_texts: texts to vectors; None reads the language model that the configuration names.

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
        texts, notes = item_texts(items, config.text.columns)
        found[TEXT] = encoded_texts(items, texts, encode_texts or text_encoder(config))
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


def encoded_texts(items: pd.DataFrame, texts: Sequence[str], encode: EncodeTexts) -> FeatureFile:
    """The vectors of the items that have a text."""
    rows = [row for row, text in enumerate(texts) if text]
    if not rows:
        raise DataError("no item has a text, so there is nothing to encode; look at data.items.text.columns")
    vectors = encode([texts[row] for row in rows])
    return FeatureFile(items["item_id"].to_numpy(dtype=object)[rows], np.asarray(vectors, dtype=np.float32))


def with_paths(items: pd.DataFrame | None, config: ItemsConfig) -> pd.DataFrame | None:
    """The item table with the columns of trees written as paths.

    Raises:
      DataError: as `paths_of_places`, or a column that the table lacks.
    """
    if not config.parents:
        return items
    items = pd.DataFrame({"item_id": []}) if items is None else items.copy()
    for column, path in config.parents.items():
        if column not in items:
            raise DataError(f"data.items.parents names {column!r}, the item table has {list(items.columns)}")
        items[column] = paths_of_places(items[column], read_pairs(path), source=path)
    return items


def _pairs(items: pd.DataFrame, where: str) -> pd.DataFrame:
    """Pairs from a column of the item table, else from a file."""
    if where in items:
        return pairs_of_lists(items, where)
    if not Path(where).suffix:
        raise DataError(f"edges {where!r} is neither a column of the item table ({list(items.columns)}) nor a file")
    return read_pairs(where)


def text_encoder(config: ItemsConfig) -> EncodeTexts:
    """Texts to vectors by the language model that a configuration names."""
    from seqrec_jax.encoders.language.text import text_vectors

    return lambda texts: text_vectors(texts, config.text.model)
