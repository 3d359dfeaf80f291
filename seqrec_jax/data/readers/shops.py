"""Readers of shops' logs: Online Retail, Complete Journey, yoochoose, UBI search, Open Bandit."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from seqrec_jax.data.columns import Columns
from seqrec_jax.data.readers.public_files import (
    PublicDataset,
    beside,
    find_file,
    most_frequent,
    public_events,
    read_json_lines,
    read_table,
    require,
)
from seqrec_jax.errors import DataError, MissingExtraError


def read_online_retail(path: str | Path) -> PublicDataset:
    """UCI Online Retail (I and II): invoice lines of a gift shop; the `.xlsx` as published, or a CSV of it.

    A line with a quantity up to zero or an invoice number that starts with C is a "cancel", every other one a
    "purchase". The value is quantity times unit price, the session is the invoice.

    Returns:
      Events; items with `description` (the most frequent) and `price` (median of the positive ones, pounds);
      users with `country`.

    Raises:
      DataError: the file is missing or lacks a column.
      MissingExtraError: an .xlsx without openpyxl.

    Source:
      UCI Machine Learning Repository, data set 352, CC BY 4.0.
    """
    file = find_file(
        path, "online_retail.csv", "Online Retail.csv", "OnlineRetail.csv", "Online Retail.xlsx", "data.csv"
    )
    if file.suffix == ".xlsx":
        try:
            lines = pd.read_excel(file, dtype=str, keep_default_na=False, na_values=[""], engine="openpyxl")
        except ImportError as error:
            raise MissingExtraError(
                f"reading {file} needs openpyxl: pip install openpyxl, or save the sheet as CSV"
            ) from error
        except zipfile.BadZipFile as error:
            raise DataError(f"{file} is not an Excel workbook: {error}") from error
    else:
        try:
            lines = read_table(file, separator=",")
        except DataError:
            lines = read_table(file, separator=",", encoding="latin-1")
    lines = lines.rename(columns={"Invoice": "InvoiceNo", "Price": "UnitPrice", "Customer ID": "CustomerID"})
    require(lines, "InvoiceNo", "StockCode", "Quantity", "UnitPrice", "CustomerID", "InvoiceDate", path=file)
    quantity, price = (pd.to_numeric(lines[name], errors="coerce") for name in ("Quantity", "UnitPrice"))
    cancelled = (quantity <= 0) | lines["InvoiceNo"].fillna("").str.startswith("C")
    american = lines["InvoiceDate"].fillna("").str.contains("/")
    if american.any():
        dates = pd.to_datetime(lines["InvoiceDate"][american], format="%m/%d/%Y %H:%M", errors="coerce")
        lines.loc[american, "InvoiceDate"] = dates.dt.strftime("%Y-%m-%d %H:%M:%S")
    lines = lines.assign(
        CustomerID=lines["CustomerID"].str.removesuffix(".0"),
        behavior=np.where(cancelled, "cancel", "purchase"),
        value=quantity * price,
    )
    columns = Columns(
        "CustomerID", "StockCode", "InvoiceDate", behavior="behavior", session_id="InvoiceNo", value="value"
    )
    items = pd.DataFrame({"item_id": np.sort(lines["StockCode"].dropna().unique())})
    if "Description" in lines:
        items["description"] = items["item_id"].map(most_frequent(lines["Description"], by=lines["StockCode"]))
    items["price"] = items["item_id"].map(price.where(price > 0).groupby(lines["StockCode"]).median())
    users = None
    if "Country" in lines:
        countries = most_frequent(lines["Country"], by=lines["CustomerID"])
        users = pd.DataFrame({"user_id": countries.index.to_numpy(), "country": countries.to_numpy()})
    return PublicDataset(public_events(lines, columns, path=file), items, users)


def read_complete_journey(path: str | Path, *, first_day: str = "2016-01-01") -> PublicDataset:
    """The Complete Journey of dunnhumby: households' grocery purchases, as published or as in the R package.

    The published files number the days from 1 and name no year; `first_day` is the date of day 1.

    Returns:
      Events with value (dollars) and basket as session; products and households with their files' columns.

    Raises:
      DataError: the file of transactions is missing or lacks a column.

    Source:
      dunnhumby Source Files; R package completejourney.
    """
    file = find_file(path, "transactions.csv", "transactions_sample.csv", "transaction_data.csv")
    sales = _lower(read_table(file, separator=","))
    if "day" in sales:
        require(sales, "trans_time", path=file)
        clock = sales["trans_time"].str.zfill(4)
        moment = pd.to_timedelta(pd.to_numeric(sales["day"], errors="coerce") - 1, unit="D")
        moment += pd.to_timedelta(clock.str[:2] + ":" + clock.str[2:] + ":00", errors="coerce")
        sales["transaction_timestamp"] = pd.Timestamp(first_day) + moment
    sales["behavior"] = "purchase"
    columns = Columns(
        "household_id",
        "product_id",
        "transaction_timestamp",
        "behavior",
        session_id="basket_id",
        value="sales_value",
    )
    products = beside(file, "products.csv", "product.csv")
    households = beside(file, "demographics.csv", "hh_demographic.csv")
    return PublicDataset(
        public_events(sales, columns, path=file),
        _lower(read_table(products, separator=",")) if products else None,
        _lower(read_table(households, separator=",")) if households else None,
    )


def _lower(table: pd.DataFrame) -> pd.DataFrame:
    """The published files under the R package's names of columns, keys first."""
    table = table.rename(columns=str.lower).rename(columns={"household_key": "household_id"})
    if "transaction_timestamp" in table or "basket_id" in table:
        return table
    table = table.rename(columns={"household_id": "user_id", "product_id": "item_id"})
    key = "user_id" if "user_id" in table else "item_id"
    return table[[key, *table.columns.drop(key)]]


def read_yoochoose(path: str | Path) -> PublicDataset:
    """RecSys Challenge 2015: clicks (and purchases) of shop sessions; a session stands for the user.

    Reads `yoochoose-clicks.dat` as published, with `yoochoose-buys.dat` if it is in the same folder, or the common
    slices with a header: for a folder both `_train_full` and `_test`, for a file only that file.

    Returns:
      Events "click" and "purchase" (value = price times quantity).

    Raises:
      DataError: the file is missing or lacks a column.

    Source:
      Ben-Shimon et al. (2015), RecSys Challenge 2015 and the YOOCHOOSE Dataset.
    """
    file = find_file(path, "yoochoose-clicks.dat", "yoochoose-clicks-100k_train_full.txt")
    if file.suffix == ".dat" or file.name.endswith(".dat.gz"):
        log = read_table(file, separator=",", names=["SessionId", "Time", "ItemId", "category"]).assign(
            behavior="click"
        )
        if buys_file := beside(file, "yoochoose-buys.dat"):
            buys = read_table(buys_file, separator=",", names=["SessionId", "Time", "ItemId", "price", "quantity"])
            value = pd.to_numeric(buys["price"], errors="coerce") * pd.to_numeric(buys["quantity"], errors="coerce")
            log = pd.concat([log, buys.assign(behavior="purchase", value=value)], ignore_index=True)
    else:
        parts = [file]
        if not Path(path).is_file() and (test := beside(file, file.name.replace("train_full", "test"))):
            parts.append(test)
        log = pd.concat([read_table(part, separator="\t") for part in parts], ignore_index=True)
        log["behavior"] = "click"
    value_column = "value" if "value" in log else None
    columns = Columns("SessionId", "ItemId", "Time", "behavior", session_id="SessionId", value=value_column)
    return PublicDataset(public_events(log, columns, path=file))


def read_search_ubi(path: str | Path) -> PublicDataset:
    """User Behavior Insights: impressions, clicks and further actions of a shop's search, JSON lines.

    Reads the bulk form with an index line before each record, or records alone; events (`ubi_events`) and queries
    (`ubi_queries`) may be in one file or two. Only events are rows of the log. The client stands for the user. The
    query's text is that of the event, else of its query record, else of the message of a search. Events on objects that
    are not products (filters, pages) have no item.

    Returns:
      Events under the log's own names of actions; items with `description` if events have one.

    Raises:
      DataError: the file is missing or not JSON lines.

    Source:
      The UBI specification 1.x; OpenSource Connections, Chorus.
    """
    file = find_file(path, "ubi_queries_events.ndjson", "ubi_events.ndjson")
    files = [file, *filter(None, [beside(file, "ubi_queries.ndjson")])]
    records = [record for part in files for record in read_json_lines(part) if "index" not in record]
    texts = {r["query_id"]: r.get("user_query") for r in records if "action_name" not in r and "query_id" in r}
    rows = []
    for event in (record for record in records if "action_name" in record):
        details = event.get("event_attributes") or {}
        thing = details.get("object") or {}
        product = thing.get("object_id_field") in ("asin", "primary_ean", "product_id", "sku")
        message = event.get("message") if event.get("message_type") == "QUERY" else None
        rows.append(
            {
                "user_id": event.get("client_id"),
                "item_id": thing.get("object_id") if product else None,
                "timestamp": event.get("timestamp"),
                "behavior": event["action_name"],
                "session_id": event.get("session_id") or details.get("session_id"),
                "query": event.get("user_query") or texts.get(event.get("query_id")) or message,
                "position": (details.get("position") or {}).get("ordinal"),
                "description": thing.get("description") if product else None,
            }
        )
    log = pd.DataFrame(
        rows,
        columns=[
            "user_id",
            "item_id",
            "timestamp",
            "behavior",
            "session_id",
            "query",
            "position",
            "description",
        ],
    )
    columns = Columns(behavior="behavior", session_id="session_id", query="query", position="position")
    described = most_frequent(log["description"], by=log["item_id"])
    items = pd.DataFrame({"item_id": np.sort(log["item_id"].dropna().unique())})
    items["description"] = items["item_id"].map(described)
    return PublicDataset(public_events(log, columns, path=file), items)


def read_open_bandit(path: str | Path, *, policy: str = "random", campaign: str = "men") -> PublicDataset:
    """Open Bandit (ZOZOTOWN): a row is a displayed item, with position, propensity and the click.

    The log has no identities: people with the same four features share a user id. A row is a "click"
    if the item was clicked, else an "impression", and its value is the click, 0 or 1.

    Args:
      path: the root with `policy/campaign` folders, a campaign's folder, or its CSV.
      policy: "random" or "bts".
      campaign: "men", "women" or "all".

    Returns:
      Events with position and propensity; items and users with their features.

    Raises:
      DataError: the file is missing or lacks a column.

    Source:
      Saito et al. (2021), Open Bandit Dataset and Pipeline.
    """
    nested = Path(path) / policy / campaign
    file = find_file(nested if nested.is_dir() else path, f"{campaign}.csv", "men.csv", "women.csv", "all.csv")
    log = read_table(file, separator=",")
    features = [f"user_feature_{i}" for i in range(4)]
    require(log, "click", *features, path=file)
    log["user_id"] = log[features].fillna("").agg("|".join, axis=1)
    log["behavior"] = np.where(log["click"] == "1", "click", "impression")
    columns = Columns(behavior="behavior", value="click", position="position", propensity="propensity_score")
    item_file = beside(file, "item_context.csv")
    items = read_table(item_file, separator=",") if item_file else None
    if items is not None:
        items = items[["item_id", *[name for name in items if name.startswith("item_feature")]]]
    users = log[["user_id", *features]].drop_duplicates("user_id").reset_index(drop=True)
    return PublicDataset(public_events(log, columns, path=file), items, users)
