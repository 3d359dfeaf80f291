"""A joined search log: by hand, and the counts of the real one."""

import json

import pytest

from seqrec_jax.data.readers import READERS
from seqrec_jax.data.readers.search_log import read_search_log
from seqrec_jax.errors import DataError


def record(query_id, text, second, client="ann"):
    return {
        "query_id": query_id,
        "client_id": client,
        "user_query": text,
        "timestamp": f"2024-12-10T00:00:{second:06.3f}Z",
    }


def event(action, query_id, second, item=None, client="ann", **more):
    found = {"action_name": action, "query_id": query_id, "client_id": client, "session_id": "s"} | more
    found["timestamp"] = round(1_733_788_800_000 + 1000 * second)  # the same clock as an integer
    if item:
        found["event_attributes"] = {
            "object": {"object_id": item, "object_id_field": "asin"},
            "position": {"ordinal": 1},
        }
    return found


RECORDS = [
    event("click", "tea", 5.2, "a"),  # out of order: the log is sorted
    record("tea", "te", 1.0),
    record("tea", "tea", 1.5),
    event("impression", "tea", 2.0, "a"),
    event("add_to_cart", "tea", 6.0, "b"),  # never shown
    event("type_filter", "tea", 6.5),
    event("search", "c", 8.0, message_type="QUERY", message="c"),  # typed on the way to "cup"
    event("search", "cup", 8.4, message_type="QUERY", message="cup"),
    event("impression", "cup", 8.4, "c"),
    event("purchase", "gone", 9.0, "d", client="bob"),  # nobody says what was searched
    event("click", "tea", 9.5, "a", client="eve"),  # the query is another client's
]


def write(folder, records, *, index):
    lines = [line for one in records for line in ([{"index": {"_id": "x"}}] if index else []) + [one]]
    (folder / "ubi_queries_events.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.mark.parametrize("index", [True, False])
def test_searches_and_what_followed_are_joined(tmp_path, index):
    log = read_search_log(write(tmp_path, RECORDS, index=index))
    frame = log.dataset.events.frame
    names = ["user_id", "behavior", "item_id", "query"]
    found = frame[names].astype(object).where(frame[names].notna(), None).values.tolist()
    assert found == [
        ["ann", "search", None, "tea"],
        ["ann", "impression", "a", "tea"],
        ["ann", "click", "a", "tea"],
        ["ann", "add_to_cart", "b", "tea"],
        ["ann", "search", None, "cup"],
        ["ann", "impression", "c", "cup"],
        ["bob", "purchase", "d", None],
        ["eve", "click", "a", "tea"],
    ]
    assert frame["timestamp"].tolist() == [1_733_788_800 + second for second in (1, 2, 5, 6, 8, 8, 9, 9)]
    assert log.joins == {
        "query_records": 2,
        "queries": 4,
        "queries_without_record": 3,
        "queries_without_text": 1,
        "queries_with_several_texts": 1,
        "searches_typed_on_the_way": 1,
        "events": 9,
        "events_on_no_product": 1,
        "events_of_a_query_record": 5,
        "events_without_query_text": 1,
        "events_of_another_client": 1,
        "actions_without_impression": 2,
        "searches": 3,
    }


def test_the_real_log_joins_as_counted(shared_data):
    log = read_search_log(shared_data / "search_ubi")
    frame = log.dataset.events.frame
    assert (log.joins["query_records"], log.joins["events"]) == (473, 3_448)
    counts = frame["behavior"].value_counts()
    assert (counts["impression"], counts["click"], counts["add_to_cart"], counts["purchase"]) == (1_999, 287, 234, 6)
    assert counts["search"] == log.joins["searches"] - log.joins["queries_without_text"] == 362
    assert log.joins["events_of_a_query_record"] == 2_502 and log.joins["events_of_another_client"] == 0
    searches = frame[frame["behavior"] == "search"]
    assert searches["item_id"].isna().all() and searches["query"].notna().all()
    assert frame["timestamp"].is_monotonic_increasing


def test_a_log_without_events_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no event"):
        READERS["search_ubi_joined"](write(tmp_path, RECORDS[1:3], index=True))
