"""Readers of the MovieLens sets, as published and as SASRec, BERT4Rec and RecBole ship them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from seqrec_jax.data.columns import Columns
from seqrec_jax.data.readers.public_files import PublicDataset, beside, find_file, public_events, read_table

_GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
_USER_NAMES = ["user_id", "age", "gender", "occupation", "zip_code"]


def read_movielens_100k(path: str | Path) -> PublicDataset:
    """MovieLens-100k ratings: `u.data`, `u.item`, `u.user` as published, or RecBole's `ml-100k.*`.

    Returns:
      Events "rating" (value = stars); items with `title`, `release_year`, `genres` (lists); users with `age`,
      `gender`, `occupation`, `zip_code`.

    Raises:
      DataError: the file of ratings is missing or lacks a column.

    Source:
      Harper and Konstan (2015), The MovieLens Datasets.
    """
    file = find_file(path, "u.data", "ml-100k.inter")
    items: pd.DataFrame | None = None
    users: pd.DataFrame | None = None
    if file.suffix == ".inter":
        ratings = _typed_table(file)
        if item_file := beside(file, "ml-100k.item"):
            items = _typed_table(item_file).rename(columns={"movie_title": "title", "class": "genres"})
            items["genres"] = [text.split() for text in items["genres"].fillna("")]
        if user_file := beside(file, "ml-100k.user"):
            users = _typed_table(user_file)
    else:
        ratings = read_table(file, separator="\t", names=["user_id", "item_id", "rating", "timestamp"])
        if item_file := beside(file, "u.item"):
            names = ["item_id", "title", "release_date", "video_date", "url", *_GENRES]
            table = read_table(item_file, separator="|", names=names, encoding="latin-1", quoted=False)
            flags = (table[_GENRES] == "1").to_numpy(dtype=bool)
            items = table[["item_id", "title"]].assign(release_year=table["release_date"].str[-4:])
            items["genres"] = [[genre for genre, flag in zip(_GENRES, row, strict=True) if flag] for row in flags]
        if user_file := beside(file, "u.user"):
            users = read_table(user_file, separator="|", names=_USER_NAMES, encoding="latin-1")
    columns = Columns(behavior="behavior", value="rating")
    return PublicDataset(public_events(ratings.assign(behavior="rating"), columns, path=file), items, users)


def _typed_table(path: Path) -> pd.DataFrame:
    """A tab-separated atomic file of RecBole, without the type after each column's name."""
    return read_table(path, separator="\t", quoted=False).rename(columns=lambda name: name.split(":")[0])


def read_movielens_1m(path: str | Path) -> PublicDataset:
    """MovieLens-1M: `ratings.dat` as published, or `ml-1m.txt` as SASRec and BERT4Rec ship it (no times).

    Returns:
      Events "rating" (value = stars in `ratings.dat`); items with `title` and `genres` (lists) and users with
      `gender`, `age`, `occupation`, `zip_code` from `movies.dat` and `users.dat`, if these are in the same folder. For
      `ml-1m.txt` they also need `sas_to_original_items.txt` and `sas_to_original_users.txt`.

    Raises:
      DataError: the file of events is missing or not of that form.

    Source:
      Harper and Konstan (2015), The MovieLens Datasets; Kang and McAuley (2018), SASRec.
    """
    file = find_file(path, "ratings.dat", "ml-1m.txt")
    prepared = file.suffix == ".txt"
    if prepared:
        log = read_table(file, separator=" ", names=["user_id", "item_id"])
        columns = Columns(timestamp=None, behavior="behavior")
    else:
        log = read_table(file, separator="::", names=["user_id", "item_id", "rating", "timestamp"])
        columns = Columns(behavior="behavior", value="rating")
    tables: dict[str, pd.DataFrame | None] = {}
    for key, name, names in (
        ("item", "movies.dat", ["item_id", "title", "genres"]),
        ("user", "users.dat", ["user_id", "gender", "age", "occupation", "zip_code"]),
    ):
        table_file, ids_file = beside(file, name), beside(file, f"sas_to_original_{key}s.txt")
        tables[key] = None
        if table_file and (ids_file or not prepared):
            table = read_table(table_file, separator="::", names=names, encoding="latin-1", quoted=False)
            if key == "item":
                table["genres"] = [text.split("|") for text in table["genres"].fillna("")]
            if prepared and ids_file:
                ids = read_table(ids_file, separator=" ", names=["prepared", f"{key}_id"])
                table = ids.merge(table, on=f"{key}_id", how="left").drop(columns=f"{key}_id")
                table = table.rename(columns={"prepared": f"{key}_id"})
            tables[key] = table
    return PublicDataset(
        public_events(log.assign(behavior="rating"), columns, path=file), tables["item"], tables["user"]
    )
