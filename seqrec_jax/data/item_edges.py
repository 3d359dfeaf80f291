"""Relations between items: lists or files of raw ids to pairs of item ids; and trees of places given by parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from seqrec_jax.data.files import as_text, read_file
from seqrec_jax.data.item_content import ItemEdges
from seqrec_jax.errors import DataError

SharedPairs = Literal["error", "kept", "dropped"]


def read_pairs(path: str | Path) -> pd.DataFrame:
    """Read pairs of two texts a row: an item and its neighbour, or a place and its parent.

    Args:
      path: a file of two columns, see `read_file`.

    Returns:
      The columns `first` and `second`.

    Raises:
      DataError: missing or damaged, or not two columns.
    """
    table = read_file(Path(path))
    if len(table.columns) != 2:
        raise DataError(f"{path} must have two columns, one pair a row; found {list(table.columns)}")
    return pd.DataFrame(
        {
            name: as_text(table[column], name=str(column))
            for name, column in zip(("first", "second"), table, strict=True)
        }
    )


def pairs_of_lists(items: pd.DataFrame, column: str) -> pd.DataFrame:
    """Pairs from a column with lists of raw item ids, or with ids joined by `|`.

    Args:
      items: V rows with `item_id` (raw) and the column.
      column: name of the column.

    Returns:
      The columns `first` (the item) and `second` (an id of its list).
    """
    cells = [cell.split("|") if isinstance(cell, str) else cell for cell in items[column]]
    lists = [[] if cell is None or np.isscalar(cell) else list(cell) for cell in cells]
    first = np.repeat(items["item_id"].to_numpy(dtype=object), [len(cell) for cell in lists])
    second = pd.Series([str(one).strip() for cell in lists for one in cell], dtype=object)
    return pd.DataFrame({"first": first, "second": second.mask(second == "")})


def match_edges(
    found: Mapping[str, pd.DataFrame],
    raw_ids: Sequence[str],
    *,
    max_neighbors: int,
    shared_pairs: SharedPairs = "error",
) -> tuple[dict[str, ItemEdges], list[str]]:
    """Relations under a vocabulary's item ids, and sentences with the counts of pairs that were left out.

    Pairs with an unknown or missing item, of an item with itself, and those that occur again are left out.

    Args:
      found: name of a relation to pairs of raw ids, `first` and `second`.
      raw_ids: V raw ids in vocabulary order.
      max_neighbors: largest number of neighbours of an item in a relation; the first are kept.
      shared_pairs: whether a pair that is in several relations is an error, kept in all of them or dropped.

    Raises:
      DataError: no pair of known items in a relation, or a shared pair with "error".
    """
    index = pd.Index(raw_ids, dtype=object)
    pairs, counts = {}, {}
    for name, table in found.items():
        places = np.stack(
            [index.get_indexer(pd.Index(table[end], dtype=object)) for end in ("first", "second")], axis=1
        )
        known = (places >= 0).all(axis=1)
        itself = known & (places[:, 0] == places[:, 1])
        kept = places[known & ~itself] + 1
        distinct = ~pd.DataFrame(kept).duplicated().to_numpy()
        pairs[name] = kept[distinct]
        counts[name] = {
            "have an unknown item": int((~known).sum()),
            "join an item to itself": int(itself.sum()),
            "occur again": int((~distinct).sum()),
        }
        if not len(pairs[name]):
            raise DataError(
                f"edges {name}: none of its {len(table)} pairs, such as {table.head(1).values.tolist()}, joins two "
                f"items of the dataset, whose ids are like {list(raw_ids[:3])}"
            )
    shared = _shared(pairs)
    if shared and shared_pairs == "error":
        first, second = min(shared)
        names = [name for name, kept in pairs.items() if (kept == (first, second)).all(axis=1).any()]
        raise DataError(
            f"{len(shared)} pairs are in several relations: {raw_ids[first - 1]!r} and {raw_ids[second - 1]!r} are in "
            f"{' and '.join(names)}; set data.items.shared_pairs to kept or dropped"
        )
    edges, sentences = {}, []
    for name, kept in pairs.items():
        if shared and shared_pairs == "dropped":
            inside = np.array([tuple(pair) in shared for pair in kept.tolist()], dtype=bool)
            counts[name]["are in another relation too"] = int(inside.sum())
            kept = kept[~inside]
        kept = kept[np.argsort(kept[:, 0], kind="stable")]
        place = np.arange(len(kept)) - np.searchsorted(kept[:, 0], kept[:, 0])
        counts[name][f"are beyond {max_neighbors} neighbours of an item"] = int((place >= max_neighbors).sum())
        edges[name] = ItemEdges(kept[place < max_neighbors].astype(np.int32))
        out = ", ".join(f"{number:,} {reason}" for reason, number in counts[name].items() if number)
        joined = len(np.unique(edges[name].pairs[:, 0]))
        sentence = f"{name}: {joined:,} of {len(raw_ids):,} items have neighbours, {len(edges[name].pairs):,} pairs"
        sentences.append(sentence + (f"; left out: {out}" if out else ""))
    if shared and shared_pairs == "kept":
        sentences.append(f"{len(shared):,} pairs are in several relations, and were kept in all of them")
    return edges, sentences


def paths_of_places(places: pd.Series, parents: pd.DataFrame, *, source: str) -> pd.Series:
    """Each place of a tree as the path that leads to it, `Home > Kitchen > Knives`; missing places stay missing.

    Args:
      places: N names of places.
      parents: the columns `first`, a place, and `second`, the place above it.
      source: name of the file of parents for messages.

    Raises:
      DataError: a place with two parents, or one above itself.

    >>> parents = pd.DataFrame({"first": ["Knives", "Kitchen"], "second": ["Kitchen", "Home"]})
    >>> paths_of_places(pd.Series(["Knives", "Home"]), parents, source="tree.csv").tolist()
    ['Home > Kitchen > Knives', 'Home']
    """
    known = parents.dropna().drop_duplicates()
    doubled = known["first"][known["first"].duplicated()]
    if len(doubled):
        raise DataError(f"{source} gives {doubled.iloc[0]!r} several parents; a tree has one above each place")
    above = dict(zip(known["first"], known["second"], strict=True))

    def path(place: str) -> str:
        steps = [place]
        while (parent := above.get(steps[-1])) is not None:
            if parent in steps:
                raise DataError(f"{source}: {parent!r} is above itself, through {' < '.join([*steps, parent])}")
            steps.append(parent)
        return " > ".join(reversed(steps))

    texts = as_text(places, name=str(places.name))
    whole = {place: path(place) for place in texts.dropna().unique()}
    return pd.Series([whole.get(text) for text in texts], index=places.index, dtype=object)


def _shared(pairs: Mapping[str, np.ndarray]) -> set[tuple[int, int]]:
    """The pairs of item ids that are in more than one relation."""
    seen: set[tuple[int, int]] = set()
    shared: set[tuple[int, int]] = set()
    for kept in pairs.values():
        own = set(map(tuple, kept.tolist()))
        shared |= seen & own
        seen |= own
    return shared
