"""One dataset from prepared datasets of several domains; the domain is an attribute of every item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.columns import log_columns
from seqrec_jax.data.dataset import COUNTED_COLUMNS, Dataset, prepare_dataset, read_dataset, write_dataset
from seqrec_jax.data.item_content import FeatureFile, ItemContent, ItemEdges, match_feature
from seqrec_jax.errors import ConfigError, DataError

DOMAIN = "domain"
"""Name of the categorical attribute that is an item's domain."""


def join(
    directories: Mapping[str, str | Path], *, output: str | Path, shared_users: bool = False, overwrite: bool = False
) -> Dataset:
    """Read prepared datasets, join them, and write the result.

    Args:
      directories: the prepared dataset of each domain, by the domain's name.
      output: directory of the joined dataset.
      shared_users: as in `join_datasets`.
      overwrite: replace a prepared dataset of the same place.

    Raises:
      DataError, ConfigError: as `read_dataset`, `join_datasets` and `write_dataset`.
    """
    datasets = {name: read_dataset(directory) for name, directory in directories.items()}
    dataset = join_datasets(datasets, name=Path(output).name, shared_users=shared_users)
    write_dataset(dataset, output, overwrite=overwrite)
    return dataset


def join_datasets(datasets: Mapping[str, Dataset], *, name: str, shared_users: bool = False) -> Dataset:
    """One dataset of several domains.

    Raw item ids become `domain:id`, and so do those of users. The item table gets a categorical attribute `domain`,
    which is part of the vector of every item and event if `model.items.attributes` names it. Behaviours are united, and
    so are attributes, features and relations by name; those that a domain lacks are missing there. The events are split
    anew by the rule that all domains share, so that all are cut at the same time.

    Args:
      datasets: the dataset of each domain, by the domain's name; two or more.
      name: name of the joined dataset.
      shared_users: the same raw user id is the same user in all domains, whose events are put in order of time.

    Returns:
      The dataset; the notes of its content count what each domain brought.

    Raises:
      ConfigError: fewer than two domains, or a name that is empty or holds a colon.
      DataError: different kinds of times or split rules, shared users without times, an item table with a column
        `domain` already, an attribute of two kinds, or a feature of two widths.
    """
    if len(datasets) < 2 or any(not domain or ":" in domain for domain in datasets):
        raise ConfigError(f"join takes two or more domains, named without a colon, got {', '.join(datasets) or 'none'}")
    _check_alike(datasets, shared_users=shared_users)
    split = next(iter(datasets.values())).split.config
    dataset = prepare_dataset(
        pd.concat([_events(one, domain, shared_users) for domain, one in datasets.items()], ignore_index=True),
        name=name,
        split=split,
        items=_items(datasets),
        attributes=_attributes(datasets),
        behaviors=list(dict.fromkeys(behavior for one in datasets.values() for behavior in one.behaviors)),
        time_kind=next(iter(datasets.values())).time_kind,
        source={
            "domains": {domain: {"fingerprint": one.fingerprint, **one.source} for domain, one in datasets.items()},
            "shared_users": shared_users,
        },
    )
    return replace(dataset, content=_content(datasets, dataset))


def _check_alike(datasets: Mapping[str, Dataset], *, shared_users: bool) -> None:
    first, *others = datasets
    for domain in others:
        ours, theirs = datasets[first], datasets[domain]
        for what, one, other in (
            ("times", ours.time_kind, theirs.time_kind),
            ("a split", ours.split.config, theirs.split.config),
        ):
            if one != other:
                raise DataError(
                    f"{first} has {what} of {one} and {domain} of {other}; prepare them alike, then join them"
                )
    if shared_users and datasets[first].time_kind != "seconds":
        raise DataError(
            f"shared users need real times to put their events in order, but {first} has only an order; join without "
            "shared users"
        )
    if taken := [domain for domain, one in datasets.items() if DOMAIN in one.items]:
        raise DataError(f"the item table of {taken[0]} has a column {DOMAIN!r} already; rename it and prepare it again")


def _events(dataset: Dataset, domain: str, shared_users: bool) -> pd.DataFrame:
    """The events under the raw ids of the joined dataset, in order."""
    sequences = dataset.sequences
    raw = np.concatenate([np.array([None]), _prefixed(dataset.items["item_id"], domain)])
    users = sequences.user_ids if shared_users else _prefixed(sequences.user_ids, domain)
    columns: dict[str, Any] = {
        "user_id": users[sequences.users_of_events],
        "item_id": raw[sequences.item_ids],
        "timestamp": sequences.timestamps,
        "behavior": np.array(dataset.behaviors, dtype=object)[sequences.behaviors],
        **log_columns(sequences.columns, sequences.texts),
    }
    if "session_id" in columns:  # numbers that would be the same for a shared user's sessions in two domains
        columns["session_id"] = columns["session_id"].radd(f"{domain}:")
    return pd.DataFrame(columns)


def _prefixed(ids: Any, domain: str) -> np.ndarray:
    return np.array([f"{domain}:{one}" for one in ids], dtype=object)


def _items(datasets: Mapping[str, Dataset]) -> pd.DataFrame:
    """The item tables, one below the other."""
    tables = []
    for domain, one in datasets.items():
        table = one.items.drop(columns=list(COUNTED_COLUMNS))
        tables.append(table.assign(item_id=_prefixed(table["item_id"], domain), **{DOMAIN: domain}))
    return pd.concat(tables, ignore_index=True)


def _attributes(datasets: Mapping[str, Dataset]) -> AttributeConfig:
    """The attributes of all domains, the domain first; of buckets the most that a domain has."""
    kinds: dict[str, str] = {}
    buckets: dict[str, int] = {}
    for domain, one in datasets.items():
        for kind, columns in one.attributes.to_dict().items():
            for column, values in columns.items():
                if kinds.setdefault(column, kind) != kind:
                    raise DataError(
                        f"attribute {column} is {kind} in {domain} and {kinds[column]} in another domain; rename one"
                    )
                if kind == "numeric_buckets":
                    buckets[column] = max(2, buckets.get(column, 0), len(values) + 1)

    def of_kind(kind: str) -> tuple[str, ...]:
        return tuple(column for column, found in kinds.items() if found == kind)

    return AttributeConfig(
        categorical=(DOMAIN, *of_kind("categorical")),
        multi_categorical=of_kind("multi_categorical"),
        numeric=of_kind("numeric"),
        numeric_buckets=buckets,
        paths=of_kind("paths"),
    )


def _content(datasets: Mapping[str, Dataset], joined: Dataset) -> ItemContent:
    """Features and relations under the joined item ids, and what was counted."""
    raw_ids = list(joined.items["item_id"])
    new_ids = {
        domain: np.concatenate([[0], joined.item_index(list(_prefixed(one.items["item_id"], domain)))]).astype(np.int32)
        for domain, one in datasets.items()
    }
    notes = [_counts(domain, one) for domain, one in datasets.items()]
    if shared := sum(one.sequences.num_users for one in datasets.values()) - joined.sequences.num_users:
        notes.append(f"users: {joined.sequences.num_users:,} in all, {shared:,} fewer than one by one")
    features = {}
    for name in dict.fromkeys(name for one in datasets.values() for name in one.content.features):
        parts = {domain: one.content.features[name] for domain, one in datasets.items() if name in one.content.features}
        forms = {domain: (part.vectors.dtype.kind, part.vectors.shape[1]) for domain, part in parts.items()}
        if len(set(forms.values())) > 1:
            found = ", ".join(
                f"{width} {'tokens' if kind == 'i' else 'numbers'} in {domain}"
                for domain, (kind, width) in forms.items()
            )
            raise DataError(f"feature {name} has {found}; encode the items of all domains by the same encoder")
        places = np.concatenate([new_ids[domain][part.item_ids] for domain, part in parts.items()])
        vectors = np.concatenate([part.vectors for part in parts.values()])
        file = FeatureFile(joined.items["item_id"].to_numpy(dtype=object)[places - 1], vectors)
        features[name], note = match_feature(name, file, raw_ids, known=joined.items["known"].to_numpy())
        notes.append(note)
    edges = {}
    for name in dict.fromkeys(name for one in datasets.values() for name in one.content.edges):
        pairs = np.concatenate(
            [
                new_ids[domain][one.content.edges[name].pairs]
                for domain, one in datasets.items()
                if name in one.content.edges
            ]
        )
        edges[name] = ItemEdges(pairs[np.argsort(pairs[:, 0], kind="stable")])
    return ItemContent(features, edges, tuple(notes))


def _counts(domain: str, dataset: Dataset) -> str:
    sequences = dataset.sequences
    return (
        f"{domain}: {sequences.num_users:,} users, {dataset.num_items:,} items, {len(sequences.item_ids):,} events of "
        f"{', '.join(dataset.behaviors)}"
    )
