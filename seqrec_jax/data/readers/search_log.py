"""A reader of a shop search's log that joins searches with the items shown for them and the actions on these."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

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
)
from seqrec_jax.errors import DataError

SEARCH = "search"
_PRODUCT_FIELDS = ("asin", "primary_ean", "product_id", "sku")
_SEARCHES = ("search", "on_search")
_TYPING_MILLISECONDS = 3_000  # between two searches one of which is the other's beginning


class SearchLog(NamedTuple):
    """A joined log.

    Attributes:
      dataset: searches, under the behaviour `search` and without item, and events on items, each with the text of its
        query; and the items, with a description if the log has one.
      joins: counts of joined and of unmatched records by name, see `read_search_log`.
    """

    dataset: PublicDataset
    joins: dict[str, int]


def read_search_log(path: str | Path) -> SearchLog:
    """User Behavior Insights as sequences: one search for each query of a client, then what followed it.

    The client stands for the user. A query id becomes one search, at the earliest time of its records and events. The
    text of the search is the commonest one of its events, else that of its latest query record, else the typed message.
    A search without any further event is left out if the client's next search follows within three seconds and begins
    with its text: it was typed on the way there. Events on objects that are not products (filters, pages) are left out;
    events whose query has no text stay, without one.

    Args:
      path: the folder or file, with or without index lines between the records.

    Returns:
      The log; its rows are in order of time, a search before the items shown for it. Counted are `query_records` and
      `queries` (distinct ids), `queries_without_record` (known by events alone), `queries_without_text`,
      `queries_with_several_texts`, `searches_typed_on_the_way`, `events` on products or not, `events_on_no_product`,
      `events_of_a_query_record`, `events_without_query_text` (on products), `events_of_another_client` (than the
      query's record), `actions_without_impression` (a product that was not shown for the query) and `searches` (kept).

    Raises:
      DataError: the file is missing, not JSON lines, or holds no event.

    Source:
      The UBI specification 1.x; OpenSource Connections, Chorus.
    """
    file = find_file(path, "ubi_queries_events.ndjson", "ubi_events.ndjson")
    files = [file, *filter(None, [beside(file, "ubi_queries.ndjson")])]
    records = [record for part in dict.fromkeys(files) for record in read_json_lines(part) if "index" not in record]
    query_records = _records(records)
    events = _events(records)
    if not len(events):
        raise DataError(f"{file} holds no events; expected records with action_name")
    searches, joins = _searches(query_records, events)
    texts = searches.set_index("query_id")["query"]
    events["query"] = events["query_id"].map(texts)
    known = query_records.drop_duplicates("query_id").set_index("query_id")["user_id"]
    owners = events["query_id"].map(known)
    products = events[events["item_id"].notna()].copy()
    keys = pd.MultiIndex.from_frame(products[["query_id", "item_id"]])
    shown = keys[(products["behavior"] == "impression").to_numpy()]
    actions = (products["behavior"] != "impression").to_numpy()
    joins |= {
        "events": len(events),
        "events_on_no_product": int((events["item_id"].isna() & ~events["behavior"].isin(_SEARCHES)).sum()),
        "events_of_a_query_record": int(owners.notna().sum()),
        "events_without_query_text": int(products["query"].isna().sum()),
        "events_of_another_client": int((owners.notna() & (owners != events["user_id"])).sum()),
        "actions_without_impression": int((actions & ~keys.isin(shown)).sum()),
        "searches": int((~searches["typed_on_the_way"]).sum()),
    }
    kept = searches[~searches["typed_on_the_way"] & searches["query"].notna()].assign(behavior=SEARCH, first=0)
    log = pd.concat([kept, products.assign(first=1)], ignore_index=True)
    log = log.sort_values(["milliseconds", "first"], kind="stable", ignore_index=True)
    log["timestamp"] = log["milliseconds"] // 1000
    columns = Columns(behavior="behavior", session_id="session_id", query="query", position="position")
    described = most_frequent(products["description"], by=products["item_id"])
    items = pd.DataFrame({"item_id": np.sort(products["item_id"].unique())})
    items["description"] = items["item_id"].map(described)
    return SearchLog(PublicDataset(public_events(log, columns, path=file, timestamp_unit="s"), items), joins)


def _records(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a query record."""
    rows = [
        (one.get("query_id"), one.get("client_id"), one.get("user_query") or None, one.get("timestamp"))
        for one in records
        if "action_name" not in one and one.get("query_id")
    ]
    frame = pd.DataFrame(rows, columns=["query_id", "user_id", "text", "timestamp"], dtype=object)
    return frame.assign(milliseconds=_milliseconds(frame["timestamp"]))


def _events(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row an event, item only where it is of a product."""
    rows = []
    for one in (record for record in records if "action_name" in record):
        details = one.get("event_attributes") or {}
        thing = details.get("object") or {}
        product = thing.get("object_id_field") in _PRODUCT_FIELDS
        typed = one.get("message") if one.get("message_type") == "QUERY" else None
        rows.append(
            {
                "user_id": one.get("client_id"),
                "session_id": one.get("session_id") or details.get("session_id"),
                "query_id": one.get("query_id"),
                "behavior": one["action_name"],
                "item_id": thing.get("object_id") if product else None,
                "position": (details.get("position") or {}).get("ordinal"),
                "description": thing.get("description") if product else None,
                "text": one.get("user_query") or None,
                "typed": typed or None,
                "timestamp": one.get("timestamp"),
            }
        )
    names = ["user_id", "session_id", "query_id", "behavior", "item_id", "position", "description", "text", "typed"]
    frame = pd.DataFrame(rows, columns=[*names, "timestamp"], dtype=object)
    return frame.assign(milliseconds=_milliseconds(frame["timestamp"]))


def _searches(records: pd.DataFrame, events: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """A row a query id, `typed_on_the_way` or not, and counts."""
    together = pd.concat([records, events], ignore_index=True)
    together = together[together["query_id"].notna()]
    with_text = records.dropna(subset=["text"])
    latest = with_text.sort_values("milliseconds", kind="stable").groupby("query_id")["text"].last()
    ids = pd.Series(together["query_id"].unique())
    of_events, typed = (most_frequent(events[name], by=events["query_id"]) for name in ("text", "typed"))
    text = ids.map({**typed, **latest, **of_events}).astype(object)
    by_id = together.sort_values("milliseconds", kind="stable").groupby("query_id", sort=False)
    searches = pd.DataFrame(
        {
            "query_id": ids,
            "query": text,
            "user_id": ids.map(by_id["user_id"].first()),
            "session_id": ids.map(by_id["session_id"].first()),
            "milliseconds": ids.map(by_id["milliseconds"].min()),
        }
    ).sort_values(["user_id", "milliseconds"], kind="stable", ignore_index=True)
    followed = searches["query_id"].isin(events.loc[~events["behavior"].isin(_SEARCHES), "query_id"])
    after = searches.groupby("user_id", sort=False)[["query", "milliseconds"]].shift(-1)
    begins = [
        isinstance(now, str) and isinstance(then, str) and then.startswith(now)
        for now, then in zip(searches["query"], after["query"], strict=True)
    ]
    soon = after["milliseconds"] - searches["milliseconds"] <= _TYPING_MILLISECONDS
    several = with_text.groupby("query_id")["text"].nunique() > 1
    searches["typed_on_the_way"] = ~followed & soon & np.array(begins, dtype=bool)
    counts = {
        "query_records": len(records),
        "queries": len(searches),
        "queries_without_record": int((~searches["query_id"].isin(records["query_id"])).sum()),
        "queries_without_text": int(searches["query"].isna().sum()),
        "queries_with_several_texts": int(several.sum()),
        "searches_typed_on_the_way": int(searches["typed_on_the_way"].sum()),
    }
    return searches, counts


def _milliseconds(written: pd.Series) -> pd.Series:
    """Of ISO 8601 strings and integers of milliseconds, also mixed; missing where a time is neither."""
    numbers = pd.to_numeric(written, errors="coerce")
    texts = pd.to_datetime(written.where(numbers.isna()).astype(object), utc=True, errors="coerce", format="ISO8601")
    of_texts = (texts - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    return numbers.astype("Float64").fillna(of_texts.astype("Float64")).astype("Int64")
