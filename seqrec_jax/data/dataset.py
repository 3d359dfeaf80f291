"""The prepared dataset: sequences, items and split as a directory that training and evaluation read.

- `sequences.parquet`, a row a user: user_id, the lists item_ids, timestamps, behaviors, values, where the log has them
  query_ids, session_ids, positions, propensities, and the lists parts and targets
- `items.parquet`, row j-1 is item id j: item_id (raw), the item table's columns, training_events, known,
  first_timestamp
- `content.npz`, where there is any: feature vectors and relations of items
- `queries.parquet`, where events have queries: row q-1 is the text of query id q
- `dataset.json`: schema version, counts, cleaning report, split rule, behaviours, attributes, fingerprint
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec_jax.data.attributes import AttributeConfig, AttributeVocabulary, encode_attributes
from seqrec_jax.data.columns import EVENT_COLUMNS, read_columns
from seqrec_jax.data.files import as_text, check_columns
from seqrec_jax.data.item_content import ItemContent, read_content, write_content
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import HISTORY, TEST, TRAIN, VALIDATION, Split, SplitConfig, split_events
from seqrec_jax.errors import DataError

SCHEMA_VERSION = 1
COUNTED_COLUMNS = ("training_events", "known", "first_timestamp")
"""Columns of `items` that the dataset makes from its events; an item table may not bring them."""
_MOST_BEHAVIORS = np.iinfo(np.int8).max + 1


@dataclass(frozen=True)
class Dataset:
    """A prepared log.

    Attributes:
      name: name of the dataset, for tables and messages.
      sequences: the events of U users in order, item ids in 0…V.
      items: V rows, row j-1 describes item id j: `item_id` (raw), the item table's columns, `training_events`
        (their number), `known` (it has some, or an earlier run had) and `first_timestamp` (first event in the log,
        the largest int64 where it has none).
      attributes: the columns of `items` that a model reads, and their codes.
      behaviors: names of the behaviours in the order of their codes.
      split: the part of each event.
      time_kind: "seconds", or "order" for a log without times.
      cleaning: the cleaning report as a dictionary, or None.
      source: the reader or file of the log and its fingerprint, enough to distinguish two datasets.
      content: feature vectors and relations of the items.
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
    content: ItemContent = field(default_factory=ItemContent)

    @property
    def num_items(self) -> int:
        """V, the size of the vocabulary."""
        return len(self.items)

    @property
    def first_timestamp(self) -> int:
        """Time of the first event, seconds UTC; times on the device count from it."""
        return int(self.sequences.timestamps.min())

    @property
    def query_behavior(self) -> str | None:
        """The commonest behaviour of events with a query and no item, such as search; None without such events."""
        sequences = self.sequences
        if sequences.query_ids is None:
            return None
        codes = sequences.behaviors[(sequences.query_ids > 0) & (sequences.item_ids == 0)]
        return self.behaviors[np.bincount(codes).argmax()] if len(codes) else None

    @property
    def training_sequences(self) -> Sequences:
        """All U users with their training events only."""
        return self.sequences.select_events(self.split.parts == TRAIN)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that a figure depends on: ids, order, behaviours, times, split, and content of items."""
        rules = [SCHEMA_VERSION, self.behaviors, self.time_kind, self.split.to_dict(), self.attributes.to_dict()]
        if digests := self.content.digests():
            rules.append(digests)
        digest = hashlib.sha256(json.dumps([*rules, list(self.sequences.user_ids)]).encode())
        digest.update(self.sequences.offsets.tobytes())
        arrays = {name: array for name, array in self.sequences.columns.items() if EVENT_COLUMNS[name].in_fingerprint}
        for array in arrays.values():
            digest.update(array.tobytes())
        for name in filter(None, (EVENT_COLUMNS[name].texts for name in arrays)):
            digest.update(json.dumps(self.sequences.texts[name].tolist()).encode())
        digest.update(self.split.parts.tobytes())
        digest.update(self.split.targets.tobytes())
        # text, because the same values come in other containers once they were on disk
        cells = self.items.to_json(orient="split", index=False, double_precision=15, date_format="iso", date_unit="ns")
        digest.update(cells.encode())
        return digest.hexdigest()[:16]

    @property
    def carried(self) -> dict[str, str]:
        """A digest of each array of events that is not part of the fingerprint, by its name."""
        return {
            name: hashlib.sha256(array.tobytes()).hexdigest()[:16]
            for name, array in self.sequences.columns.items()
            if not EVENT_COLUMNS[name].in_fingerprint
        }

    def item_index(self, raw_ids: Sequence[str]) -> np.ndarray:
        """`[M]` int32 item ids of M raw ids, 0 for one that the vocabulary lacks."""
        return (pd.Index(self.items["item_id"]).get_indexer(pd.Index(raw_ids, dtype=object)) + 1).astype(np.int32)

    def user_index(self, raw_ids: Sequence[str]) -> np.ndarray:
        """`[M]` int64 indices in 0…U-1 of M raw user ids, -1 for one that the log lacks."""
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
    vocabulary: Iterable[str] = (),
    known_items: Iterable[str] = (),
    attribute_vocabulary: AttributeVocabulary | None = None,
) -> Dataset:
    """Sequences, vocabulary and split from a clean log.

    Args:
      events: clean events, columns as the data contract names them; ids become text as in `read_events`. Rows may
        come in any order where there is a column `row`, which decides between equal times; else in the log's.
      name: of the dataset.
      split: the split rule.
      items: item table with a raw `item_id` column; items of the log that it lacks get missing attributes, items
        without events join the vocabulary as unknown ones.
      attributes: columns of the item table that a model may read.
      behaviors: names in the order of their codes; None means the sorted names in the log.
      time_kind: "seconds" or "order".
      cleaning: the cleaning report, kept with the dataset.
      source: see `Dataset.source`.
      vocabulary: raw item ids of an earlier dataset; they keep their numbers, new items follow.
      known_items: raw ids of items in the training of an earlier run; they stay known without events in this log.
      attribute_vocabulary: the vocabulary of an earlier dataset, which is kept; None makes a new one.

    Returns:
      The dataset. Item ids number the old vocabulary first, then new raw ids in string order; users are in string
      order too.

    Raises:
      DataError: no events, missing columns, a missing user id, times that are not integers, a behaviour that is not
        listed or more than 128 of them; a doubled, missing or reserved entry of the item table, or a column of it
        that mixes kinds of values; or as `split_events` and `encode_attributes`.
    """
    events = _ordered_events(events)
    if "behavior" not in events:
        events["behavior"] = "event"
    if behaviors is None:
        behaviors = sorted(events["behavior"].dropna().unique())
    if len(behaviors) > _MOST_BEHAVIORS:
        raise DataError(
            f"there are {len(behaviors)} behaviours, at most {_MOST_BEHAVIORS} fit; is it the right column?"
        )
    codes = pd.Index(behaviors, dtype=object).get_indexer(events["behavior"].astype(object))
    if (codes < 0).any():
        raise DataError(f"behaviour {events['behavior'][codes < 0].iloc[0]!r} is not one of {list(behaviors)}")
    raw_items = events["item_id"].to_numpy(dtype=object)
    table = _item_table(set(raw_items) - {""}, items, vocabulary)
    item_ids = pd.Index(table["item_id"]).get_indexer(raw_items) + 1
    users = events["user_id"].to_numpy(dtype=object)
    firsts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    offsets = np.append(firsts, len(events)).astype(np.int64)
    columns, texts = read_columns(events, np.repeat(np.arange(len(firsts)), np.diff(offsets)))
    sequences = Sequences(
        user_ids=users[firsts],
        offsets=offsets,
        item_ids=item_ids.astype(np.int32),
        timestamps=events["timestamp"].to_numpy(dtype=np.int64),
        behaviors=codes.astype(np.int8),
        columns=columns,
        texts=texts,
    )
    parts = split_events(sequences, split, behaviors=behaviors, time_kind=time_kind)
    table = _with_counts(table, sequences, parts, known_items)
    _, attribute_values = encode_attributes(
        table, attributes or AttributeConfig(), vocabulary=attribute_vocabulary, known=table["known"].to_numpy()
    )
    return Dataset(
        name=name,
        sequences=sequences,
        items=table,
        attributes=attribute_values,
        behaviors=tuple(behaviors),
        split=parts,
        time_kind=time_kind,
        cleaning=cleaning,
        source=source or {},
    )


def write_dataset(dataset: Dataset, directory: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dataset atomically: the directory appears whole or not at all, and an old one stays until then.

    Args:
      dataset: the dataset.
      directory: the directory to write; its parents are made.
      overwrite: whether a prepared dataset in its place is replaced.

    Returns:
      The directory.

    Raises:
      DataError: the directory exists and `overwrite` is not set, or it is not a dataset, or it cannot be written.
    """
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise DataError(f"{directory} exists; choose another directory or allow overwriting it (--overwrite)")
    if directory.exists() and not _is_replaceable(directory):
        raise DataError(f"{directory} is not a prepared dataset, so it is not replaced; choose another directory")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{directory.name}-", dir=directory.parent, ignore_cleanup_errors=True
        ) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            write_items(dataset.items, new)
            write_content(dataset.content, new)
            pq.write_table(_sequence_table(dataset), new / "sequences.parquet")
            for name, log_name in _text_tables(dataset.sequences.columns).items():
                texts = pa.array(dataset.sequences.texts[name][1:], type=pa.large_string())
                pq.write_table(pa.table({log_name: texts}), new / f"{name}.parquet")
            facts = json.dumps(describe_dataset(dataset), indent=1, ensure_ascii=False)
            (new / "dataset.json").write_text(facts, encoding="utf-8")
            _replace_directory(new, directory, old)
    except OSError as error:
        raise DataError(f"cannot write the dataset to {directory}: {error.strerror or error}") from error
    return directory


def read_dataset(directory: str | Path, *, fingerprint: str | None = None) -> Dataset:
    """Read a prepared dataset.

    Args:
      directory: a directory that `write_dataset` wrote.
      fingerprint: the expected fingerprint, None for any.

    Raises:
      DataError: not a prepared dataset, of another schema version, damaged, or with another fingerprint.
    """
    directory = Path(directory)
    facts = read_facts(directory)
    items = read_items(directory)
    path = directory / "sequences.parquet"
    try:
        there = pq.read_schema(path).names
        lists = [name for name, column in EVENT_COLUMNS.items() if column.required or name in there]
        table = pq.read_table(path, columns=["user_id", *lists, "parts", "targets"])
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        user_ids = columns.pop("user_id").to_numpy(zero_copy_only=False)
        flat = {name: column.flatten().to_numpy(zero_copy_only=False) for name, column in columns.items()}
        offsets = columns["item_ids"].offsets.to_numpy().astype(np.int64)
        tables = {}
        for name, log_name in _text_tables(lists).items():
            path = directory / f"{name}.parquet"
            texts = pq.read_table(path, columns=[log_name]).column(log_name).to_pylist()
            tables[name] = np.array(["", *texts], dtype=object)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is missing or damaged: {error}; prepare the dataset again") from error
    parts, targets = flat.pop("parts"), flat.pop("targets")
    try:
        rule = {**facts["split"], "target_behaviors": tuple(facts["split"]["target_behaviors"])}
        cuts = rule.pop("cuts")
        dataset = Dataset(
            name=facts["name"],
            sequences=Sequences(user_ids, offsets, columns=flat, texts=tables),
            items=items,
            attributes=AttributeVocabulary.from_dict(facts["attributes"]),
            behaviors=tuple(facts["behaviors"]),
            split=Split(parts, targets, SplitConfig(**rule), cuts),
            time_kind=facts["time_kind"],
            cleaning=facts["cleaning"],
            source=facts["source"],
            content=replace(read_content(directory), notes=tuple(facts.get("content_notes", ()))),
        )
        written = facts["fingerprint"], facts.get("carried", {})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory / 'dataset.json'} is damaged: {error!r}; prepare the dataset again") from error
    found = dataset.fingerprint
    if found != written[0]:
        raise DataError(
            f"{directory} was changed after it was prepared: its fingerprint is {found}, {written[0]} was written; "
            "prepare it again"
        )
    if changed := sorted(dict(set(dataset.carried.items()) ^ set(written[1].items()))):
        raise DataError(f"{directory} was changed after it was prepared: its {changed[0]} differ; prepare it again")
    if fingerprint is not None and found != fingerprint:
        raise DataError(
            f"{directory} has fingerprint {found}, {fingerprint} was expected: it is another dataset, or was "
            "prepared anew from other input; prepare the original again or train on this one"
        )
    return dataset


def write_items(items: pd.DataFrame, directory: Path) -> None:
    """Write the vocabulary with the items' attributes, a row an item, to `items.parquet`."""
    pq.write_table(pa.Table.from_pandas(items, preserve_index=False), directory / "items.parquet")


def read_items(directory: Path) -> pd.DataFrame:
    """Read what `write_items` wrote.

    Raises:
      DataError: missing or damaged.
    """
    try:
        items = pq.read_table(directory / "items.parquet").to_pandas()
        return items.astype({"item_id": object})
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{directory / 'items.parquet'} is missing or damaged: {error}") from error


def read_facts(directory: Path) -> dict[str, Any]:
    """The `dataset.json` of a prepared dataset.

    Raises:
      DataError: missing, damaged, or of another schema version.
    """
    path = directory / "dataset.json"
    if not path.is_file():
        raise DataError(f"{directory} is not a prepared dataset: it has no dataset.json; run `seqrec prepare` first")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"expected an object, found {type(facts).__name__}")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}; prepare the dataset again") from error
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
            **{name: len(texts) - 1 for name, texts in dataset.sequences.texts.items()},
        },
        "behaviors": list(dataset.behaviors),
        **({} if dataset.query_behavior is None else {"query_behavior": dataset.query_behavior}),
        "attributes": dataset.attributes.to_dict(),
        "time_kind": dataset.time_kind,
        "first_timestamp": dataset.first_timestamp,
        "split": dataset.split.to_dict(),
        "cleaning": dataset.cleaning,
        "source": dataset.source,
        **({"content_notes": list(dataset.content.notes)} if dataset.content.notes else {}),
        **({"carried": dataset.carried} if dataset.carried else {}),
    }


def _ordered_events(events: pd.DataFrame) -> pd.DataFrame:
    """The events by user, time and row, ids as text, "" for no item."""
    check_columns(list(events.columns), ["user_id", "item_id", "timestamp"], source="events")
    if not len(events):
        raise DataError("there are no events; expected at least one")
    if not pd.api.types.is_integer_dtype(events["timestamp"]) or events["timestamp"].hasnans:
        raise DataError(
            f"events.timestamp must be whole seconds without gaps, got {events['timestamp'].dtype}; read the log with "
            "read_events and clean it with clean_events"
        )
    ids = {name: as_text(events[name], name=name).to_numpy(dtype=object) for name in ("user_id", "item_id")}
    events = events.assign(**ids)
    if events["user_id"].isna().any():
        raise DataError("events.user_id has missing ids; clean the log with clean_events")
    order = [column for column in ("user_id", "timestamp", "row") if column in events]
    return events.fillna({"item_id": ""}).sort_values(order, kind="stable", ignore_index=True)


def _item_table(in_log: set[str], items: pd.DataFrame | None, vocabulary: Iterable[str]) -> pd.DataFrame:
    """One row an item: the old vocabulary in its order, then new raw ids in string order."""
    known = list(vocabulary)
    if len(set(known)) < len(known):
        raise DataError(f"the earlier vocabulary has {len(known)} ids, only {len(set(known))} of them distinct")
    if items is None:
        items = pd.DataFrame({"item_id": []}, dtype=object)
    check_columns(list(items.columns), ["item_id", *items.columns], source="the item table")
    reserved = [name for name in COUNTED_COLUMNS if name in items]
    if reserved:
        raise DataError(f"the item table has the columns {reserved}, which the dataset makes itself; rename them")
    ids = as_text(items["item_id"], name="item_id").to_numpy(dtype=object)
    if pd.isna(ids).any():
        raise DataError(f"the item table has no item_id in row {np.flatnonzero(pd.isna(ids))[0]}; give each item one")
    doubled = ids[pd.Index(ids).duplicated()]
    if len(doubled):
        raise DataError(f"the item table has item {doubled[0]!r} more than once; keep one row an item")
    table = pd.DataFrame({"item_id": known + sorted((in_log | set(ids)) - set(known))}, dtype=object)
    table = table.merge(items.assign(item_id=ids).astype({"item_id": object}), on="item_id", how="left")
    try:
        # what training sees is then the same whether the dataset was just prepared or read again
        return pa.Table.from_pandas(table, preserve_index=False).to_pandas().astype({"item_id": object})
    except pa.ArrowException as error:
        raise DataError(
            f"a column of the item table mixes kinds of values: {'; '.join(map(str, error.args))}"
        ) from error


def _with_counts(table: pd.DataFrame, sequences: Sequences, split: Split, known_items: Iterable[str]) -> pd.DataFrame:
    train = np.bincount(sequences.item_ids[split.parts == TRAIN], minlength=len(table) + 1)[1:]
    first = np.full(len(table) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, sequences.item_ids, sequences.timestamps)
    known = (train > 0) | table["item_id"].isin(list(known_items)).to_numpy()
    return table.assign(training_events=train, known=known, first_timestamp=first[1:])


def _sequence_table(dataset: Dataset) -> pa.Table:
    sequences = dataset.sequences
    offsets = pa.array(sequences.offsets)
    columns = {**sequences.columns, "parts": dataset.split.parts, "targets": dataset.split.targets}
    # large lists, since the offsets of ordinary ones end at 2^31 events
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    return pa.table({"user_id": pa.array(sequences.user_ids, type=pa.large_string()), **lists})


def _text_tables(names: Iterable[str]) -> dict[str, str]:
    """The tables of texts behind arrays of these names, each with the name of its column, as in the log."""
    columns = [EVENT_COLUMNS[name] for name in names]
    return {column.texts: column.log_name for column in columns if column.texts}


def _is_replaceable(directory: Path) -> bool:
    return directory.is_dir() and ((directory / "dataset.json").is_file() or not any(directory.iterdir()))


def _replace_directory(new: Path, directory: Path, old: Path) -> None:
    """Move `new` to `directory`, and what was there to `old`; if that fails, it is put back."""
    if directory.exists():
        os.replace(directory, old)
    try:
        os.replace(new, directory)
    except BaseException:
        if old.exists():
            os.replace(old, directory)
        raise
