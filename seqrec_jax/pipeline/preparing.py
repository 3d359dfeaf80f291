"""A log to a prepared dataset: read, clean, number, split, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from seqrec_jax.config import DataConfig, ExperimentConfig
from seqrec_jax.data.cleaning import clean_events
from seqrec_jax.data.columns import Columns
from seqrec_jax.data.dataset import (
    COUNTED_COLUMNS,
    Dataset,
    prepare_dataset,
    read_items,
    write_dataset,
)
from seqrec_jax.data.events import RawEvents, read_events
from seqrec_jax.data.files import read_item_table
from seqrec_jax.data.item_content import read_content
from seqrec_jax.data.readers import READERS
from seqrec_jax.data.shop.simulator import simulate
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.pipeline.content import make_content, with_paths
from seqrec_jax.retrieval.policy import available_from
from seqrec_jax.runs import DatasetFacts
from seqrec_jax.settings import config_dict


def prepare(config: ExperimentConfig, *, strict: bool = False, overwrite: bool = False) -> Dataset:
    """Read, clean, number and split the log of a configuration, and write the prepared dataset.

    Args:
      config: the experiment.
      strict: any dropped row is an error.
      overwrite: replace a prepared dataset of the same place.

    Raises:
      DataError, ConfigError: see `read_events`, `clean_events`, `prepare_dataset`, `make_content` and
        `write_dataset`.
    """
    data = config.data
    directory = Path(config.dataset_directory)
    if directory.exists() and not overwrite:
        raise DataError(f"{directory} exists; add --overwrite to prepare it anew, or set data.directory")
    earlier, numbered = _earlier_vocabulary(data.vocabulary_from)
    earlier_content = None if data.vocabulary_from is None else read_content(data.vocabulary_from)
    raw, items, source = read_source(data)
    if data.items.parents:
        items = with_paths(pd.DataFrame({"item_id": []}) if items is None else items, data.items)
    events, report = clean_events(raw, data.cleaning, strict=strict)
    dataset = prepare_dataset(
        events,
        name=config.name,
        split=data.split,
        items=_with_earlier_items(items, earlier),
        attributes=data.attributes,
        behaviors=list(report.behaviors),
        time_kind=raw.time_kind,
        cleaning=report.to_dict(),
        source=source,
        **numbered,
    )
    dataset = replace(dataset, content=make_content(data.items, dataset.items, earlier=earlier_content))
    available_from(dataset.items)  # so that a wrong column shows now, and not after training
    write_dataset(dataset, directory, overwrite=overwrite)
    return dataset


def read_source(data: DataConfig) -> tuple[RawEvents, pd.DataFrame | None, dict[str, Any]]:
    """The raw events and item table that a configuration names, and what tells them from others.

    Raises:
      ConfigError: neither source nor reader, or an unknown reader.
      DataError: files that cannot be read.
    """
    if data.reader == "simulator":
        shop = simulate(data.shop, data.shop_seed)
        source = {"reader": "simulator", "shop": config_dict(data.shop), "seed": data.shop_seed}
        query = "query" if "query" in shop.events else None
        columns = Columns(behavior="behavior", session_id="session_id", value="value", query=query)
        raw = read_events(shop.events, columns, timestamp_unit="s")
        return raw, shop.items, source
    if data.reader is not None and data.reader not in READERS:
        raise ConfigError(f"data.reader {data.reader!r} is unknown; there are {', '.join([*READERS, 'simulator'])}")
    if data.source is None:
        what = "the path of the log, or data.reader simulator" if data.reader is None else f"where {data.reader} lies"
        raise ConfigError(f"data.source is not set; give {what}")
    if data.reader is not None:
        public = READERS[data.reader](data.source)
        return public.events, public.items, {"reader": data.reader, "fingerprint": public.events.fingerprint}
    raw = read_events(data.source, data.columns, separator=data.separator, timestamp_unit=data.timestamp_unit)
    items = None
    if data.items.path is not None:
        items = read_item_table(Path(data.items.path), item_id=data.items.item_id)
    return raw, items, {"path": Path(data.source).name, "fingerprint": raw.fingerprint}


def _earlier_vocabulary(directory: str | None) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """The item table of an earlier dataset or run, and what it had numbered and trained."""
    if directory is None:
        return None, {}
    facts, items = DatasetFacts.read(directory), read_items(Path(directory))
    numbered = {
        "vocabulary": list(items["item_id"]),
        "known_items": list(items["item_id"][items["known"]]),
        "attribute_vocabulary": facts.attributes,
    }
    return items.drop(columns=list(COUNTED_COLUMNS)), numbered


def _with_earlier_items(items: pd.DataFrame | None, earlier: pd.DataFrame | None) -> pd.DataFrame | None:
    """The item table, with the earlier one's rows of items that it lacks."""
    if items is None or earlier is None:
        return earlier if items is None else items
    return pd.concat([items, earlier[~earlier["item_id"].isin(items["item_id"])]], ignore_index=True)
