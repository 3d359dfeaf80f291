"""Readers of Amazon's product reviews: as published, and in four preparations that papers use."""

from __future__ import annotations

import ast
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.data.columns import Columns
from seqrec_jax.data.events import RawEvents, read_events
from seqrec_jax.data.readers.public_files import (
    PublicDataset,
    beside,
    find_file,
    public_events,
    read_table,
    read_text,
    require,
)
from seqrec_jax.errors import DataError

# the names of the 2014 and 2018 releases, and those of the 2023 release
_REVIEW_NAMES = (
    ("reviewerID", "asin", "unixReviewTime", "overall"),
    ("user_id", "parent_asin", "timestamp", "rating"),
)


def read_amazon_reviews(path: str | Path) -> PublicDataset:
    """Amazon reviews as published in 2014, 2018 or 2023: reviews as JSON lines, or ratings only as CSV.

    The CSV of 2014 (user, item) and of 2018 (item, user) have no header; the column in which every id has ten
    characters is the item.

    Args:
      path: `reviews_*.json.gz`, `*.json(.gz)`, `*.jsonl(.gz)`, `ratings_*.csv` or `*.csv(.gz)`.

    Returns:
      Events "review" (value = stars), no item table.

    Raises:
      DataError: the file is missing or of another form.

    Source:
      McAuley et al. (2015); Ni et al. (2019); Hou et al. (2024).
    """
    file = find_file(path)
    if ".csv" not in file.suffixes:
        for user, item, time, stars in _REVIEW_NAMES:
            if user in _first_record(file):
                raw = read_events(file, Columns(user, item, time, value=stars))
                return PublicDataset(replace(raw, frame=raw.frame.assign(behavior="review")))
        raise DataError(f"{file}: the first record has none of the keys {[names[0] for names in _REVIEW_NAMES]}")
    table = read_table(file, separator=",", names=["user_id", "item_id", "rating", "timestamp"])
    if "rating" in table["rating"].iloc[:1].tolist():
        table = table.iloc[1:].reset_index(drop=True)
    elif (table["user_id"].str.len() == 10).all() and not (table["item_id"].str.len() == 10).all():
        table = table.rename(columns={"user_id": "item_id", "item_id": "user_id"})
    columns = Columns(behavior="behavior", value="rating")
    return PublicDataset(public_events(table.assign(behavior="review"), columns, path=file))


def read_amazon_s3rec(path: str | Path) -> PublicDataset:
    """Amazon 5-core as S3-Rec prepared it: a user a line, `user item item …` in time order, without times.

    Args:
      path: `Beauty.txt`, `Sports_and_Outdoors.txt`, …, or the folder with one of them.

    Returns:
      Events "review" in order; items with `attributes` (lists of ids as text) from `*_item2attributes.json`.

    Raises:
      DataError: the file is missing, or a line has no item.

    Source:
      Zhou et al. (2020), S3-Rec.
    """
    file = find_file(path, "Beauty.txt", "Sports_and_Outdoors.txt", "Toys_and_Games.txt", "Yelp.txt", "LastFM.txt")
    if file.suffix != ".txt":
        return read_amazon_reviews(file)
    lines = [line.split() for line in read_text(file).splitlines() if line.strip()]
    if short := next((number for number, line in enumerate(lines, start=1) if len(line) < 2), None):
        raise DataError(f"{file}, line {short}: expected a user and at least one item, got {lines[short - 1]}")
    users = np.repeat(np.array([line[0] for line in lines], dtype=object), [len(line) - 1 for line in lines])
    log = pd.DataFrame({"user_id": users, "item_id": [item for line in lines for item in line[1:]]})
    items = None
    if attribute_file := beside(file, f"{file.stem}_item2attributes.json"):
        attributes = json.loads(read_text(attribute_file))
        known = [[str(attribute) for attribute in values] for values in attributes.values()]
        items = pd.DataFrame({"item_id": list(attributes), "attributes": known})
    return PublicDataset(_ordered_events(log, file), items)


def read_amazon_bert4rec(path: str | Path) -> PublicDataset:
    """Amazon Beauty as the BERT4Rec repository prepared it: `user item` rows in order, without times.

    Raises:
      DataError: the file is missing or not of that form.

    Source:
      Sun et al. (2019), BERT4Rec.
    """
    file = find_file(path, "beauty.txt")
    if file.suffix != ".txt":
        return read_amazon_reviews(file)
    return PublicDataset(_ordered_events(read_table(file, separator=" ", names=["user_id", "item_id"]), file))


def read_amazon_grocery(path: str | Path) -> PublicDataset:
    """Amazon Grocery with item relations: `train.csv` (user, item, day) and `item_meta.csv`, tab separated.

    Other endings and names are read as reviews in the form of their publisher.

    Returns:
      Events "review"; items with `category`, and `complements` and `substitutes` (lists of item ids).

    Raises:
      DataError: the file is missing or lacks a column.
    """
    file = find_file(path, "train.csv")
    if file.name != "train.csv":
        return read_amazon_reviews(file)
    log = read_table(file, separator="\t").assign(behavior="review")
    items = None
    if meta_file := beside(file, "item_meta.csv"):
        meta = read_table(meta_file, separator="\t")
        require(meta, "item_id", "i_category", "r_complement", "r_substitute", path=meta_file)
        items = meta[["item_id"]].assign(category=meta["i_category"])
        for name, column in (("complements", "r_complement"), ("substitutes", "r_substitute")):
            items[name] = [
                text.strip("[]").replace(" ", "").split(",") if len(text) > 2 else [] for text in meta[column]
            ]
    return PublicDataset(public_events(log, Columns(timestamp="time", behavior="behavior"), path=file), items)


def read_amazon_office_titles(path: str | Path) -> PublicDataset:
    """Amazon Office 2018 as next-item rows: a user's up to ten earlier items and the next one.

    A user's rows, of `valid.csv` and then `test.csv`, are joined to one sequence: the earlier items of a row
    continue the sequence after the longest piece that both share.

    Returns:
      Events "review" in order; items with `title`, `brand` and `description` (some with HTML).

    Raises:
      DataError: the file is missing or lacks a column.
    """
    file = find_file(path, "valid.csv", "test.csv")
    if ".json" in file.suffixes or file.name not in ("valid.csv", "test.csv"):
        return read_amazon_reviews(file)
    parts = [file]
    if Path(path).is_dir() and file.name == "valid.csv" and (test := beside(file, "test.csv")):
        parts.append(test)
    sequences: dict[str, list[str]] = {}
    for part in parts:
        table = read_table(part, separator=",")
        require(table, "user_id", "history_item_id", "item_id", path=part)
        for user, history, item in zip(table["user_id"], table["history_item_id"], table["item_id"], strict=True):
            earlier = [str(i) for i in ast.literal_eval(history)]
            sequences[user] = [*_joined(sequences.get(user, []), earlier), item]
    users = np.repeat(np.array(list(sequences), dtype=object), [len(items) for items in sequences.values()])
    log = pd.DataFrame({"user_id": users, "item_id": [item for items in sequences.values() for item in items]})
    texts = None
    if text_file := beside(file, "Office_Products.item.json"):
        content: dict[str, dict[str, Any]] = json.loads(read_text(text_file))
        texts = pd.DataFrame({"item_id": list(content)})
        for name in ("title", "brand", "description"):
            texts[name] = [_joined_texts(entry.get(name) or "") for entry in content.values()]
    return PublicDataset(_ordered_events(log, file), texts)


def _joined_texts(text: str) -> str:
    """A text, or the texts of a list that was written as Python writes it."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        return " ".join(str(part) for part in ast.literal_eval(text) if part)
    except (SyntaxError, ValueError):
        return text


def _joined(sequence: list[str], earlier: list[str]) -> list[str]:
    """`sequence` and what `earlier` has after the longest overlap of its start with the sequence's end."""
    for size in range(min(len(sequence), len(earlier)), 0, -1):
        if sequence[-size:] == earlier[:size]:
            return sequence + earlier[size:]
    return sequence + earlier


def _ordered_events(log: pd.DataFrame, file: Path) -> RawEvents:
    return public_events(log.assign(behavior="review"), Columns(timestamp=None, behavior="behavior"), path=file)


def _first_record(file: Path) -> dict[str, Any]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else open(file) as lines:
        line = lines.readline()
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line 1: expected one JSON object a line ({error})") from error
