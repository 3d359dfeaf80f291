"""Readers of public sets that are not behaviour logs: graded search judgments and an experiment's outcome.

`path` is the folder that holds the files, or the file itself; each reader gives a plain table.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import pandas as pd

from seqrec_jax.data.readers.public_files import find_file, require
from seqrec_jax.errors import DataError


def read_home_depot_judgments(path: str | Path) -> pd.DataFrame:
    """Home Depot product search relevance: human grades of query and product pairs.

    Returns:
      `query`, `item_id`, `title` (text, with `&` for `&amp;`) and `relevance` (float, 1 to 3), a row a judged pair.

    Raises:
      DataError: the file is missing or lacks a column.

    Source:
      Home Depot Product Search Relevance (2016), train.csv, in a zip or not, latin-1.
    """
    file = find_file(path, "train.csv.zip", "train.csv")
    table = pd.read_csv(file, encoding="latin-1", dtype=str, keep_default_na=False)
    require(table, "search_term", "product_uid", "product_title", "relevance", path=file)
    names = {"search_term": "query", "product_uid": "item_id", "product_title": "title", "relevance": "relevance"}
    table = table[list(names)].rename(columns=names).astype({"relevance": float})
    return table.assign(**{name: table[name].map(html.unescape) for name in ("query", "title")})


def read_esci_judgments(path: str | Path) -> pd.DataFrame:
    """Graded judgments of a shop search in the form of the Search Relevance Workbench, such as those of ESCI.

    Returns:
      `query`, `item_id` (text) and `relevance` (float), a row a judged pair.

    Raises:
      DataError: the file is missing or has another form.
    """
    file = find_file(path, "esci_us_judgments.json")
    try:
        queries = json.loads(file.read_text(encoding="utf-8"))["judgmentRatings"]
        rows = [
            (entry["query"], pair["docId"], float(pair["rating"])) for entry in queries for pair in entry["ratings"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is not a list of judgments: expected judgmentRatings with query and ratings of docId and rating "
            f"({type(error).__name__}: {error})"
        ) from error
    return pd.DataFrame(rows, columns=["query", "item_id", "relevance"])


def read_cookie_cats(path: str | Path) -> pd.DataFrame:
    """A mobile game's A/B test: users with the first gate at level 30 or 40, and whether they returned.

    Returns:
      `user_id` (text), `group` (text), `rounds` (int), `retained_1_day` and `retained_7_days` (bool), a row a user.

    Raises:
      DataError: the file is missing or lacks a column.
    """
    file = find_file(path, "cookie_cats.csv")
    with file.open(encoding="utf-8") as opened:
        separator = ";" if ";" in opened.readline() else ","
    table = pd.read_csv(file, sep=separator, dtype=str)
    require(table, "userid", "version", "sum_gamerounds", "retention_1", "retention_7", path=file)
    retained = {name: table[name].str.upper() == "TRUE" for name in ("retention_1", "retention_7")}
    return pd.DataFrame(
        {
            "user_id": table["userid"],
            "group": table["version"],
            "rounds": table["sum_gamerounds"].astype(int),
            "retained_1_day": retained["retention_1"],
            "retained_7_days": retained["retention_7"],
        }
    )
