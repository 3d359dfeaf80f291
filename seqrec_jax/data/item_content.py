"""Content of items besides the columns of a table: feature vectors of other encoders, and relations between items.

Both are kept by item id with a prepared dataset and with a run, in one file `content.npz`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from seqrec_jax.data.files import as_text
from seqrec_jax.errors import DataError

CONTENT_FILE = "content.npz"


@dataclass(frozen=True)
class ItemFeature:
    """The vectors of one modality for the N items that have one.

    Attributes:
      item_ids: `[N]` int32 in 1…V, ascending.
      vectors: `[N, F]` float32 or float16 features; or int32 tokens + 1 of a text, 0 after its end.
      scale: factor of the vectors before a model reads them, for a mean square length of 1; kept, so that new items are
        treated alike.
    """

    item_ids: Int[np.ndarray, " N"]
    vectors: Float[np.ndarray, "N F"] | Int[np.ndarray, "N F"]
    scale: float

    def dense(self, num_items: int) -> Float[np.ndarray, "V1 F"] | Int[np.ndarray, "V1 F"]:
        """`[V+1, F]` scaled vectors of the dtype of `vectors`; zeros for an item that has none."""
        rows = np.zeros((num_items + 1, self.vectors.shape[1]), dtype=self.vectors.dtype)
        rows[self.item_ids] = self.vectors * self.vectors.dtype.type(self.scale)
        return rows

    def has(self, num_items: int) -> Bool[np.ndarray, " V1"]:
        """`[V+1]` bool, True for items with a vector."""
        rows = np.zeros(num_items + 1, dtype=bool)
        rows[self.item_ids] = True
        return rows


@dataclass(frozen=True)
class ItemEdges:
    """A relation between items as N directed pairs.

    Attributes:
      pairs: `[N, 2]` int32 item and neighbour, by item and then in the given order.
    """

    pairs: Int[np.ndarray, "N 2"]

    def padded(self, num_items: int) -> Int[np.ndarray, "V1 M"]:
        """`[V+1, M]` int32 neighbours of each item, 0 = none; M is the most that any item has."""
        counts = np.bincount(self.pairs[:, 0], minlength=num_items + 1)
        firsts = np.cumsum(counts) - counts
        rows = np.zeros((num_items + 1, max(1, int(counts.max(initial=0)))), dtype=np.int32)
        rows[self.pairs[:, 0], np.arange(len(self.pairs)) - firsts[self.pairs[:, 0]]] = self.pairs[:, 1]
        return rows


@dataclass(frozen=True)
class ItemContent:
    """Feature vectors and relations by name.

    Attributes:
      features: name of a modality to its vectors.
      edges: name of a relation to its pairs.
      notes: sentences with the counts of items and pairs that were matched and left out.
    """

    features: Mapping[str, ItemFeature] = field(default_factory=dict)
    edges: Mapping[str, ItemEdges] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def digests(self) -> dict[str, str]:
        """A hash of each feature and relation, for fingerprints."""
        found: dict[str, Any] = {}
        for name, array in sorted(_arrays(self).items()):
            kind_and_name = "/".join(name.split("/")[:2])
            digest = found.setdefault(kind_and_name, hashlib.sha256())
            digest.update(np.ascontiguousarray(array).tobytes())
        return {name: digest.hexdigest()[:16] for name, digest in found.items()}


@dataclass(frozen=True)
class FeatureFile:
    """Vectors by raw item id, as a file has them.

    Attributes:
      raw_ids: `[N]` distinct raw item ids (str).
      vectors: `[N, F]` finite float32 or float16 features; or int32 tokens + 1 of a text.
    """

    raw_ids: np.ndarray
    vectors: Float[np.ndarray, "N F"] | Int[np.ndarray, "N F"]


def read_feature_file(path: str | Path, *, item_id: str = "item_id") -> FeatureFile:
    """Read feature vectors by raw item id.

    Args:
      path: Parquet with a column of lists, or with one column a number; or NPZ with the arrays `item_id` and
        `vectors`.
      item_id: name of the column or array with the raw item ids.

    Raises:
      DataError: missing, damaged, or without ids; ids that are missing or doubled; vectors of different widths, of
        no width, or with values that are not finite.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                if missing := [name for name in (item_id, "vectors") if name not in arrays]:
                    raise DataError(f"{path} has no array {missing[0]!r}, only {list(arrays)}")
                return feature_file(pd.Series(arrays[item_id]), arrays["vectors"], source=str(path))
        if path.suffix == ".parquet":
            return _from_table(pq.read_table(path), item_id, source=str(path))
    except (OSError, ValueError, BadZipFile, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as feature vectors: {' '.join(str(error).split())}") from error
    raise DataError(f"{path} must end in .parquet or .npz to hold feature vectors")


def feature_file(raw_ids: pd.Series, vectors: np.ndarray, *, source: str) -> FeatureFile:
    """Vectors by raw item id, checked.

    Args:
      raw_ids: N raw item ids.
      vectors: `[N, F]` numbers of any dtype; float16 is kept, others become float32.
      source: name of the file for messages.

    Raises:
      DataError: as `read_feature_file`.
    """
    ids = as_text(pd.Series(raw_ids), name="item_id").to_numpy(dtype=object)
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not vectors.shape[1] or len(vectors) != len(ids):
        raise DataError(f"{source}: {len(ids)} items need vectors [{len(ids)}, F], got shape {vectors.shape}")
    if not np.issubdtype(vectors.dtype, np.number):
        raise DataError(f"{source}: feature vectors must be numbers, got {vectors.dtype}")
    if pd.isna(ids).any():
        raise DataError(f"{source} has no item_id in row {np.flatnonzero(pd.isna(ids))[0]}; give each vector one")
    doubled = ids[pd.Index(ids).duplicated()]
    if len(doubled):
        raise DataError(f"{source} has {doubled[0]!r} more than once ({len(doubled)} such rows); keep one vector each")
    vectors = vectors.astype(np.float16 if vectors.dtype == np.float16 else np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise DataError(
            f"{source}: the vector of {ids[bad][0]!r} holds nan or infinity ({int(bad.sum())} such items); leave out "
            "items without a vector, they count as missing"
        )
    return FeatureFile(ids, vectors)


def match_feature(
    name: str,
    found: FeatureFile,
    raw_ids: Sequence[str],
    *,
    known: Bool[np.ndarray, " V"] | None = None,
    earlier: ItemFeature | None = None,
) -> tuple[ItemFeature, str]:
    """The vectors under a vocabulary's item ids, and a sentence with the number of items that have one.

    Args:
      name: name of the modality for messages.
      found: vectors by raw item id.
      raw_ids: V raw ids in vocabulary order.
      known: `[V]` bool, the items over which the scale is taken; None means all.
      earlier: the same modality of an earlier dataset or run; its scale stays, and its vectors for items that `found`
        lacks.

    Raises:
      DataError: no vector for any of the items, or another width than the earlier ones.
    """
    places = pd.Index(raw_ids, dtype=object).get_indexer(pd.Index(found.raw_ids, dtype=object))
    known_places, vectors = places[places >= 0], found.vectors[places >= 0]
    if earlier is not None:
        if earlier.vectors.shape[1] != found.vectors.shape[1]:
            raise DataError(
                f"feature {name} has width {found.vectors.shape[1]}, but {earlier.vectors.shape[1]} before; encode "
                "all items by the same encoder"
            )
        kept = ~np.isin(earlier.item_ids, known_places + 1)
        known_places = np.concatenate([known_places, earlier.item_ids[kept] - 1])
        vectors = np.concatenate([vectors, earlier.vectors[kept].astype(vectors.dtype)])
    if not len(known_places):
        raise DataError(
            f"feature {name}: none of its {len(found.raw_ids)} ids such as {found.raw_ids[:3].tolist()} is an item of "
            f"the dataset, whose ids are like {list(raw_ids[:3])}"
        )
    order = np.argsort(known_places)
    known_places, vectors = known_places[order], vectors[order]
    scale = _scale(vectors, None if known is None else known[known_places]) if earlier is None else earlier.scale
    unknown = int((places < 0).sum())
    sentence = f"{name}: {len(known_places):,} of {len(raw_ids):,} items have a vector of {vectors.shape[1]} numbers"
    sentence += f"; {unknown:,} vectors are of unknown items and were left out" if unknown else ""
    return ItemFeature((known_places + 1).astype(np.int32), vectors, scale), sentence


def write_content(content: ItemContent, directory: Path) -> None:
    """Write `content.npz`, or no file if there is no content."""
    arrays = _arrays(content)
    if arrays:
        np.savez(directory / CONTENT_FILE, **arrays)  # type: ignore[arg-type]


def read_content(directory: str | Path) -> ItemContent:
    """Read `content.npz` of a directory; a directory without it has no content.

    Raises:
      DataError: a damaged file.
    """
    path = Path(directory) / CONTENT_FILE
    if not path.is_file():
        return ItemContent()
    features: dict[str, ItemFeature] = {}
    edges: dict[str, ItemEdges] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays:
                kind, name, last = key.split("/")
                if kind == "edges":
                    edges[name] = ItemEdges(arrays[key])
                elif last == "vectors":
                    ids, scale = (arrays[f"features/{name}/{part}"] for part in ("item_ids", "scale"))
                    features[name] = ItemFeature(ids, arrays[key], float(scale))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{path} is damaged: {error}; prepare the dataset again") from error
    return ItemContent(features, edges)


def _arrays(content: ItemContent) -> dict[str, np.ndarray]:
    """All arrays under names like `features/picture/vectors`."""
    arrays: dict[str, np.ndarray] = {}
    for name, feature in content.features.items():
        arrays |= {
            f"features/{name}/item_ids": feature.item_ids,
            f"features/{name}/vectors": feature.vectors,
            f"features/{name}/scale": np.asarray(feature.scale),
        }
    return arrays | {f"edges/{name}/pairs": edges.pairs for name, edges in content.edges.items()}


def _from_table(table: pa.Table, item_id: str, *, source: str) -> FeatureFile:
    if item_id not in table.column_names:
        raise DataError(f"{source} has no column {item_id!r} with raw item ids, only {table.column_names}")
    columns = {name: table.column(name).combine_chunks() for name in table.column_names if name != item_id}
    lists = [name for name, column in columns.items() if _is_list(column.type)]
    if len(lists) == 1 and len(columns) == 1:
        vectors = _of_one_width(columns[lists[0]], source=f"{source}, column {lists[0]!r}")
    elif columns and not lists:
        vectors = np.stack([column.to_numpy(zero_copy_only=False) for column in columns.values()], axis=1)
    else:
        raise DataError(
            f"{source} needs one column of lists beside {item_id!r}, or one column a number; found "
            f"{dict(zip(table.column_names, map(str, table.schema.types), strict=True))}"
        )
    return feature_file(table.column(item_id).to_pandas(), vectors, source=source)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _of_one_width(column: pa.Array, *, source: str) -> np.ndarray:
    """`[N, F]` from a column of lists."""
    if column.null_count:
        raise DataError(f"{source} has {column.null_count} missing vectors; leave such rows out, they count as missing")
    widths = np.unique(np.asarray(pc.list_value_length(column)))
    if len(widths) > 1:
        raise DataError(f"{source} has vectors of different widths, from {widths[0]} to {widths[-1]}")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _scale(vectors: np.ndarray, where: np.ndarray | None) -> float:
    """1 / root mean square length; 1 where all vectors are zeros, or tokens."""
    if np.issubdtype(vectors.dtype, np.integer):  # tokens
        return 1.0
    counted = vectors if where is None or not where.any() else vectors[where]
    mean_square = float(np.mean(np.sum(counted.astype(np.float64) ** 2, axis=1)))
    return 1.0 if mean_square == 0 else mean_square**-0.5
