"""New items after those that a model was trained on; no row of the old ones changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.attributes import AttributeVocabulary, encode_attributes
from seqrec_jax.data.files import as_text, check_columns
from seqrec_jax.data.item_content import FeatureFile, ItemContent, ItemEdges, ItemFeature, match_feature
from seqrec_jax.data.item_edges import match_edges, pairs_of_lists
from seqrec_jax.errors import ConfigError, DataError

NEVER = np.iinfo(np.int64).max


class DescribedItems(NamedTuple):
    """The items of a model with their attributes and content.

    Attributes:
      items: V rows in vocabulary order, as `Dataset.items`.
      attributes: the columns that describe items, and their codes.
      content: the feature vectors and relations of the items.
    """

    items: pd.DataFrame
    attributes: AttributeVocabulary
    content: ItemContent


class NewItems(NamedTuple):
    """Items to add, by raw id.

    Attributes:
      items: a row an item: `item_id`, the columns of the catalogue's attributes, and any of its other columns.
      features: name of a modality to vectors.
      edges: name of a relation to pairs of raw ids, `first` and `second`; pairs whose first is a new item are used. A
        relation without an entry is read from the column of its name, if `items` has one.
    """

    items: pd.DataFrame
    features: Mapping[str, FeatureFile] = {}
    edges: Mapping[str, pd.DataFrame] = {}


def append_items(old: DescribedItems, new: NewItems, *, max_neighbors: int = 16) -> tuple[DescribedItems, list[str]]:
    """The new items after the old ones, marked as unknown to training, and sentences with counts.

    Args:
      old: V items.
      new: N items.
      max_neighbors: largest number of neighbours of a new item in each relation.

    Returns:
      V + N items; the rows, codes, vectors and neighbours of the first V are what they were.

    Raises:
      DataError: no new items, an id that is missing, doubled or taken by an old item, no column for an attribute, a
        value that is not a number, or vectors of another width.
      ConfigError: a feature or relation that the old items do not have.
    """
    items, content = old.items, old.content
    for kind, given, there in (("feature", new.features, content.features), ("relation", new.edges, content.edges)):
        if unknown := set(given) - set(there):
            raise ConfigError(
                f"the model was trained without the {kind} {min(unknown)!r}; it has {', '.join(there) or 'none'}"
            )
    added = _new_rows(old, new.items)
    encoded, _ = encode_attributes(added, old.attributes.config, vocabulary=old.attributes)
    notes = [f"{len(added):,} new items after {len(items):,}"]
    notes += [
        f"{name}: {count:,} values are unknown to the model and count as missing"
        for name, count in encoded.unseen.items()
        if count
    ]
    grown = pd.concat([items, added], ignore_index=True)
    raw_ids = list(grown["item_id"])
    is_new = set(added["item_id"])
    features: dict[str, ItemFeature] = {}
    for name, old_feature in content.features.items():
        features[name] = old_feature
        found = new.features.get(name)
        mine = np.zeros(0, dtype=bool) if found is None else np.isin(found.raw_ids, list(is_new))
        if found is not None and mine.any():
            chosen = FeatureFile(found.raw_ids[mine], found.vectors[mine])
            features[name], _ = match_feature(name, chosen, raw_ids, earlier=old_feature)
        notes.append(f"{name}: {int(mine.sum()):,} of {len(added):,} new items have a vector")
        if rest := int((~mine).sum()):
            notes.append(f"{name}: {rest:,} vectors are of other items and were left out")
    edges: dict[str, ItemEdges] = {}
    for name, old_edges in content.edges.items():
        edges[name] = old_edges
        pairs = new.edges.get(name)
        if pairs is None:
            pairs = pairs_of_lists(added, name) if name in added else pd.DataFrame({"first": [], "second": []})
        pairs = pairs[pairs["first"].isin(is_new) & pairs["second"].isin(raw_ids)]
        joined = 0
        if len(pairs):
            found_edges, _ = match_edges({name: pairs}, raw_ids, max_neighbors=max_neighbors)
            edges[name] = ItemEdges(np.concatenate([old_edges.pairs, found_edges[name].pairs]))
            joined = len(np.unique(found_edges[name].pairs[:, 0]))
        notes.append(f"{name}: {joined:,} of {len(added):,} new items have neighbours")
    return DescribedItems(grown, old.attributes, ItemContent(features, edges, content.notes)), notes


def _new_rows(described: DescribedItems, table: pd.DataFrame) -> pd.DataFrame:
    """The new items with the columns of the old ones, as these hold them."""
    items = described.items
    config = described.attributes.config
    numbers = [*config.numeric, *config.numeric_buckets]
    needed = ["item_id", *config.categorical, *config.multi_categorical, *config.paths, *numbers]
    check_columns(list(table.columns), needed, source="the new items")
    if not len(table):
        raise DataError("there are no new items")
    ids = as_text(table["item_id"], name="item_id").to_numpy(dtype=object)
    if pd.isna(ids).any():
        raise DataError(f"the new items have no item_id in row {np.flatnonzero(pd.isna(ids))[0]}; give each item one")
    for taken, what in ((pd.Index(ids).duplicated(), "more than once"), (np.isin(ids, list(items["item_id"])), "")):
        if taken.any():
            raise DataError(
                f"item {ids[taken][0]!r} is {what or 'in the catalogue already'} ({int(taken.sum())} such rows); give "
                "each new item once, under an id of its own"
            )
    columns = {}
    for name, old in items.items():
        if name == "item_id":
            columns[name] = pd.Series(ids, dtype=object)
        elif name not in table:
            columns[name] = pd.Series([None] * len(table), dtype=object)
        else:
            columns[name] = _as_column(table[name].reset_index(drop=True), old)
    rows = pd.DataFrame(columns)
    return rows.assign(training_events=0, known=False, first_timestamp=NEVER)


def _as_column(values: pd.Series, old: pd.Series) -> pd.Series:
    """Numbers if the old items have numbers, also from a file of text."""
    if not pd.api.types.is_numeric_dtype(old.dtype) or pd.api.types.is_bool_dtype(old.dtype):
        return values
    try:
        return pd.to_numeric(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"column {old.name!r} of the new items must hold numbers: {error}") from error
