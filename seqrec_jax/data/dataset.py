"""The prepared dataset: sequences, items and split as a directory that training and evaluation read.

sequences.parquet   a row a user: user_id, item_ids, timestamps, behaviors, values, parts (lists)
items.parquet       a row an item, row j-1 is item id j: item_id (raw), its columns, training_events, first_timestamp
dataset.json        schema version, counts, cleaning report, split rule, behaviours, attributes, fingerprint
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec_jax.data.features import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import HISTORY, TEST, TRAIN, VALIDATION, Split, SplitConfig, split_events
from seqrec_jax.errors import DataError

SCHEMA_VERSION = 1
_LISTS = ("item_ids", "timestamps", "behaviors", "values")


@dataclass(frozen=True)
class Dataset:
    """A prepared log.

    Attributes:
      name: for people.
      sequences: the events of U users in order, item ids in 0…V.
      items: V rows, row j-1 describes item id j: `item_id` (raw), the item table's columns, `training_events`
        (their number) and `first_timestamp` (first event in the log, the largest int64 where it has none).
      attributes: which columns of `items` describe items to a model, and their codes.
      behaviors: names behind the behaviour codes.
      split: the part of each event.
      time_kind: "seconds", or "order" where the log has no times.
      cleaning: the cleaning report as a dictionary, or None.
      source: what the log was read from and how, enough to tell two datasets apart.
    """

    name: str
    sequences: Sequences
    items: pd.DataFrame
    attributes: AttributeVocabulary
    behaviors: tuple[str, ...]
    split: Split
    time_kind: str
    cleaning: dict[str, Any] | None
    source: dict[str, Any]

    @property
    def num_items(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.items)

    @property
    def first_timestamp(self) -> int:
        """Seconds of the first event; times on the device count from it."""
        return int(self.sequences.timestamps.min())

    @property
    def training_sequences(self) -> Sequences:
        """All users with their training events only."""
        return self.sequences.select_events(self.split.parts == TRAIN)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides a figure: ids, order, behaviours, times and split."""
        digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, self.behaviors, self.split.to_dict()]).encode())
        digest.update("\0".join([*self.items["item_id"], "", *self.sequences.user_ids]).encode())
        for name in ("offsets", *_LISTS):
            digest.update(getattr(self.sequences, name).tobytes())
        digest.update(self.split.parts.tobytes())
        return digest.hexdigest()[:16]

    def item_index(self, raw_ids: Sequence[str]) -> np.ndarray:
        """`[N]` int32 item ids of raw ids, 0 where the vocabulary does not have one."""
        return (pd.Index(self.items["item_id"]).get_indexer(pd.Index(raw_ids, dtype=object)) + 1).astype(
            np.int32
        )

    def user_index(self, raw_ids: Sequence[str]) -> np.ndarray:
        """`[N]` int64 rows of raw user ids, -1 where the log does not have one."""
        return pd.Index(self.sequences.user_ids).get_indexer(pd.Index(raw_ids, dtype=object))


def prepare_dataset(
    events: pd.DataFrame,
    *,
    name: str,
    split: SplitConfig,
    items: pd.DataFrame | None = None,
    attributes: AttributeConfig | None = None,
    behaviors: Sequence[str] | None = None,
    time_kind: str = "seconds",
    cleaning: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    vocabulary: Sequence[str] = (),
    attribute_vocabulary: AttributeVocabulary | None = None,
) -> Dataset:
    """Sequences, vocabulary and split from a clean log.

    Args:
      events: clean events, columns as the data contract names them, in any order with a `row` column, or sorted.
      name: of the dataset.
      split: the split rule.
      items: item table with a raw `item_id` column; items of the log that it lacks get missing attributes, items
        without events join the vocabulary as unknown ones.
      attributes: columns of the item table that a model may use.
      behaviors: names in the order of their codes; None means the sorted names in the log.
      time_kind: "seconds" or "order".
      cleaning: the cleaning report, kept with the dataset.
      source: where the log came from.
      vocabulary: raw item ids of an earlier dataset; they keep their numbers, new items follow.
      attribute_vocabulary: codes of an earlier dataset, kept likewise; None makes new ones.

    Returns:
      The dataset. Item ids number the old vocabulary first, then new raw ids in string order.

    Raises:
      DataError: missing columns, a doubled item in the item table, a behaviour that is not listed.
    """
    missing = {"user_id", "item_id", "timestamp"} - set(events.columns)
    if missing:
        raise DataError(f"events lack the columns {sorted(missing)}; found {list(events.columns)}")
    order_columns = [column for column in ("user_id", "timestamp", "row") if column in events.columns]
    events = events.sort_values(order_columns, kind="stable")
    raw_items = events["item_id"].astype(object).where(events["item_id"].notna(), "")
    table = _item_table(set(raw_items) - {""}, items, vocabulary)
    item_ids = pd.Index(table["item_id"]).get_indexer(pd.Index(raw_items)).astype(np.int32) + 1
    users, firsts = np.unique(events["user_id"].to_numpy(dtype=object), return_index=True)
    behavior_names = events["behavior"] if "behavior" in events else pd.Series("event", index=events.index)
    if behaviors is None:
        behaviors = sorted(behavior_names.unique())
    codes = pd.Index(behaviors).get_indexer(pd.Index(behavior_names))
    if (codes < 0).any():
        raise DataError(f"behaviour {behavior_names[codes < 0].iloc[0]!r} is not one of {list(behaviors)}")
    values = events["value"] if "value" in events else pd.Series(np.nan, index=events.index)
    sequences = Sequences(
        user_ids=users,
        offsets=np.append(firsts, len(events)).astype(np.int64),
        item_ids=item_ids.astype(np.int32),
        timestamps=events["timestamp"].to_numpy(dtype=np.int64),
        behaviors=codes.astype(np.int8),
        values=values.to_numpy(dtype=np.float32),
    )
    parts = split_events(sequences, split, behaviors=behaviors, time_kind=time_kind)
    _, codes_of_values = encode_attributes(
        table, attributes or AttributeConfig(), vocabulary=attribute_vocabulary
    )
    return Dataset(
        name=name,
        sequences=sequences,
        items=_with_counts(table, sequences, parts),
        attributes=codes_of_values,
        behaviors=tuple(behaviors),
        split=parts,
        time_kind=time_kind,
        cleaning=cleaning,
        source=source or {},
    )


def write_dataset(dataset: Dataset, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dataset atomically: the directory appears whole or not at all.

    Raises:
      DataError: the directory exists and is not to be overwritten, or cannot be written.
    """
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise DataError(
            f"{directory} exists; choose another directory or allow overwriting it (--overwrite true)"
        )
    if directory.exists() and any(directory.iterdir()) and not (directory / "dataset.json").is_file():
        raise DataError(
            f"{directory} is not a prepared dataset, so it is not replaced; choose another directory"
        )
    temporary = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        temporary.chmod(0o755)
        write_items(dataset.items, temporary)
        pq.write_table(_sequence_table(dataset), temporary / "sequences.parquet")
        (temporary / "dataset.json").write_text(
            json.dumps(describe_dataset(dataset), indent=1, ensure_ascii=False)
        )
        if directory.exists():
            retired = temporary.with_name(temporary.name + "-old")
            os.replace(directory, retired)
            os.replace(temporary, directory)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, directory)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(f"cannot write the dataset to {directory}: {error.strerror or error}") from error
    return directory


def read_dataset(directory: str | Path, *, fingerprint: str | None = None) -> Dataset:
    """Read a prepared dataset.

    Args:
      directory: what `write_dataset` wrote.
      fingerprint: the fingerprint that is expected, None for any.

    Raises:
      DataError: not a prepared dataset, of another schema version, damaged, or with another fingerprint.
    """
    directory = Path(directory)
    facts = read_facts(directory)
    items = read_items(directory)
    try:
        table = pq.read_table(directory / "sequences.parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{directory / 'sequences.parquet'} is missing or damaged: {error}") from error
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    flat = {
        name: columns[name].flatten().to_numpy(zero_copy_only=False) for name in (*_LISTS, "parts", "targets")
    }
    sequences = Sequences(
        user_ids=columns["user_id"].to_numpy(zero_copy_only=False),
        offsets=columns["item_ids"].offsets.to_numpy().astype(np.int64),
        **{name: flat[name] for name in _LISTS},
    )
    rule = dict(facts["split"])
    cuts = rule.pop("cuts")
    rule["target_behaviors"] = tuple(rule["target_behaviors"])
    dataset = Dataset(
        name=facts["name"],
        sequences=sequences,
        items=items,
        attributes=AttributeVocabulary.from_dict(facts["attributes"]),
        behaviors=tuple(facts["behaviors"]),
        split=Split(flat["parts"], flat["targets"], SplitConfig(**rule), cuts),
        time_kind=facts["time_kind"],
        cleaning=facts["cleaning"],
        source=facts["source"],
    )
    found = dataset.fingerprint
    if found != facts["fingerprint"]:
        raise DataError(
            f"{directory} was changed after it was prepared (fingerprint {found}, {facts['fingerprint']} written)"
        )
    if fingerprint is not None and found != fingerprint:
        raise DataError(
            f"{directory} has fingerprint {found}, {fingerprint} was expected: it is another dataset, or was "
            "prepared anew from other input; prepare the original again or train on this one"
        )
    return dataset


def write_items(items: pd.DataFrame, directory: Path) -> None:
    """Write the vocabulary with the items' attributes."""
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), directory / "items.parquet")


def read_items(directory: Path) -> pd.DataFrame:
    """Read what `write_items` wrote.

    Raises:
      DataError: missing or damaged.
    """
    try:
        items = pq.read_table(directory / "items.parquet").to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{directory / 'items.parquet'} is missing or damaged: {error}") from error
    return items.astype({"item_id": object})


def read_facts(directory: Path) -> dict[str, Any]:
    """The `dataset.json` of a prepared dataset.

    Raises:
      DataError: missing, damaged, or of another schema version.
    """
    path = directory / "dataset.json"
    if not path.is_file():
        raise DataError(
            f"{directory} is not a prepared dataset: it has no dataset.json; run `seqrec prepare` first"
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {facts.get('schema_version')}, this release reads {SCHEMA_VERSION}; "
            "prepare the dataset again"
        )
    return facts


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """The content of `dataset.json`."""
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "history": HISTORY}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "counts": {
            "users": dataset.sequences.num_users,
            "items": dataset.num_items,
            "events": len(dataset.sequences.item_ids),
            **{name: int((dataset.split.parts == part).sum()) for name, part in parts.items()},
        },
        "behaviors": list(dataset.behaviors),
        "attributes": dataset.attributes.to_dict(),
        "time_kind": dataset.time_kind,
        "first_timestamp": dataset.first_timestamp,
        "split": dataset.split.to_dict(),
        "cleaning": dataset.cleaning,
        "source": dataset.source,
    }


def _item_table(in_log: set[str], items: pd.DataFrame | None, vocabulary: Sequence[str]) -> pd.DataFrame:
    """One row an item: the old vocabulary in its order, then new raw ids in string order."""
    known = list(vocabulary)
    described: set[str] = set()
    if items is not None:
        if "item_id" not in items:
            raise DataError(f"the item table has no column item_id; found {list(items.columns)}")
        doubled = items["item_id"][items["item_id"].duplicated()]
        if len(doubled):
            raise DataError(
                f"the item table has item {doubled.iloc[0]!r} more than once; keep one row an item"
            )
        described = set(items["item_id"])
    table = pd.DataFrame({"item_id": known + sorted((in_log | described) - set(known))}, dtype=object)
    if items is not None:
        table = table.merge(items.astype({"item_id": object}), on="item_id", how="left")
    return table


def _with_counts(table: pd.DataFrame, sequences: Sequences, split: Split) -> pd.DataFrame:
    train = np.bincount(sequences.item_ids[split.parts == TRAIN], minlength=len(table) + 1)[1:]
    first = np.full(len(table) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, sequences.item_ids, sequences.timestamps)
    return table.assign(training_events=train, first_timestamp=first[1:])


def _sequence_table(dataset: Dataset) -> pa.Table:
    sequences, offsets = dataset.sequences, pa.array(dataset.sequences.offsets.astype(np.int32))
    columns = {name: getattr(sequences, name) for name in _LISTS}
    columns |= {"parts": dataset.split.parts, "targets": dataset.split.targets}
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    return pa.table({"user_id": pa.array(sequences.user_ids, type=pa.string()), **lists})
