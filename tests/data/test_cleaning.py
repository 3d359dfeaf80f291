"""Cleaning: every row is accounted for, the order is fixed, and the rules equal plain loops in Python."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqrec_jax.data.cleaning import CleaningConfig, CleaningReport, clean_events
from seqrec_jax.data.columns import Columns
from seqrec_jax.data.events import read_events
from seqrec_jax.errors import ConfigError, DataError

NOW = 2_000_000_000
DAY = 86_400


def raw_events(rows, names=("user_id", "item_id", "timestamp", "behavior"), **kwargs):
    columns = Columns(**{name: name for name in names if name != "timestamp"}, **kwargs)
    if "timestamp" not in names:
        columns = Columns(**{name: name for name in names}, timestamp=None)
    return read_events(pd.DataFrame(rows, columns=list(names), dtype=object), columns)


def clean(rows, names=("user_id", "item_id", "timestamp", "behavior"), **config):
    return clean_events(raw_events(rows, names), CleaningConfig(**config), now=NOW)


def test_each_reason_is_counted_once_with_examples():
    rows = [
        ("u", "a", 10, "view"),
        ("", "a", 10, "view"),
        ("u", None, 10, "view"),
        ("u", "a", "soon", "view"),
        ("u", "a", None, "view"),
        ("u", "a", -1, "view"),
        ("u", "a", NOW + 1, "view"),
        ("u", "a", 10, "hover"),
        ("u", "a", 10, ""),
        ("u", "a", 10, "view"),
        (None, None, None, None),
        ("v", "b", NOW, "click"),
    ]
    frame, report = clean(rows, behaviors=("view", "click"))
    assert report.dropped == {
        "missing user id": 2,
        "missing behaviour": 1,
        "unknown behaviour": 1,
        "missing item id": 1,
        "unparsable time": 1,
        "missing time": 1,
        "time before 1970": 1,
        "time in the future": 1,
        "exact duplicate": 1,
    }
    rows_of = {reason: [example["row"] for example in examples] for reason, examples in report.examples.items()}
    assert rows_of["missing user id"] == [1, 10] and rows_of["exact duplicate"] == [9]
    assert report.examples["unparsable time"][0]["timestamp_as_written"] == "soon"
    assert report.examples["unknown behaviour"][0]["behavior"] == "hover"
    assert frame["row"].tolist() == [0, 11]
    assert report.behaviors == {"view": 1, "click": 1} and (report.users, report.items) == (2, 2)
    assert (report.first_timestamp, report.last_timestamp) == (10, NOW)


def test_the_clean_frame_has_the_contract_s_columns_and_types():
    names = ("user_id", "item_id", "timestamp", "behavior", "value", "session_id", "position", "propensity")
    frame, _ = clean([("u", "a", 2, "view", 1.5, "s", 3, 0.1), ("v", "b", 1, "view", None, None, None, None)], names)
    assert list(frame.columns) == ["user_id", "item_id", "timestamp", "behavior", "value", *names[5:], "row"]
    assert frame["timestamp"].dtype == np.int64 and frame["row"].dtype == np.int64
    assert frame["value"].dtype == np.float32 and np.isnan(frame["value"][1])
    frame, report = clean([("u", "a", 2), ("v", "b", 1)], ("user_id", "item_id", "timestamp"))
    assert list(frame.columns) == ["user_id", "item_id", "timestamp", "behavior", "value", "row"]
    assert frame["value"].isna().all() and report.behaviors == {"event": 2}


def test_behaviours_keep_the_configured_order_else_are_sorted():
    rows = [("u", "a", 1, "view"), ("v", "b", 2, "buy")]
    assert list(clean(rows)[1].behaviors) == ["buy", "view"]
    assert clean(rows, behaviors=("view", "cart", "buy"))[1].behaviors == {"view": 1, "cart": 0, "buy": 1}


def test_users_sort_by_code_point_then_time_then_row():
    rows = [
        ("é", "a", 1),
        ("b", "a", 5),
        ("a10", "a", 1),
        ("B", "c", 1),
        ("a9", "c", 2),
        ("b", "b", 5),
        ("b", "c", 4),
        ("🛒", "a", 0),
    ]
    frame, report = clean(rows, ("user_id", "item_id", "timestamp"))
    assert frame["row"].tolist() == [3, 2, 4, 6, 1, 5, 0, 7]
    assert report.tied_timestamps == 2


def test_an_item_free_behaviour_needs_a_query_instead():
    names = ("user_id", "item_id", "timestamp", "behavior", "query")
    rows = [
        ("u", None, 1, "search", "red shoes"),
        ("u", "", 2, "search", ""),
        ("u", None, 3, "view", "red shoes"),
        ("u", "a", 4, "view", None),
        ("v", "b", 5, "search", None),
    ]
    frame, report = clean(rows, names, item_free_behaviors=("search",))
    assert frame["row"].tolist() == [0, 3, 4] and frame["item_id"].tolist() == ["", "a", "b"]
    assert report.dropped == {"missing item id and query": 1, "missing item id": 1} and report.items == 2
    with pytest.raises(
        DataError, match=r"item-free behaviours \['search'\] need a query, but the log was read without"
    ):
        clean([("u", "a", 1, "search")], item_free_behaviors=("search",))


def test_duplicates_are_equal_in_every_column_and_may_be_kept():
    names = ("user_id", "item_id", "timestamp", "behavior", "value")
    rows = [
        ("u", "a", 1, "buy", 5),
        ("u", "a", 1, "buy", 5),
        ("u", "a", 1, "buy", 6),
        ("v", "b", 1, "buy", None),
    ] * 2
    assert clean(rows, names)[0]["row"].tolist() == [0, 2, 3]
    assert clean(rows, names, drop_exact_duplicates=False)[1].dropped == {}


def test_a_log_with_an_order_only_has_no_duplicates_and_no_seconds():
    rows = [("u", "a"), ("u", "a"), ("v", "b")]
    frame, report = clean(rows, ("user_id", "item_id"))
    assert report.dropped == {} and frame["timestamp"].tolist() == [0, 1, 2] and report.time_kind == "order"
    assert "the log has an order only" in str(report)
    for key in ("collapse_repeats_seconds", "max_events_per_user_per_day"):
        with pytest.raises(DataError, match=rf"cleaning.{key} needs times, but the dataframe has only an order"):
            clean(rows, ("user_id", "item_id"), **{key: 5})


def test_repeats_collapse_along_a_chain():
    rows = [("u", "a", t, "view") for t in (100, 0, 8, 16, 27)] + [
        ("u", "a", 17, "buy"),
        ("v", "b", 1, "view"),
    ]
    frame, report = clean(rows, collapse_repeats_seconds=10)
    # 8 and 16 follow their predecessors within 10 s, 27 is 11 s after 16, 100 far away
    assert sorted(frame["timestamp"]) == [0, 1, 17, 27, 100]
    assert report.dropped == {"repeat within the time gap": 2}


def test_searches_repeat_only_with_the_same_query():
    names = ("user_id", "item_id", "timestamp", "behavior", "query")
    rows = [("u", None, 1, "search", "x"), ("u", None, 2, "search", "y"), ("u", None, 3, "search", "x")]
    rows += [("v", "a", 1, "view", "x"), ("v", "a", 2, "view", "y"), ("v", "b", 2, "view", None)]
    frame, _ = clean(rows, names, item_free_behaviors=("search",), collapse_repeats_seconds=5)
    assert frame["row"].tolist() == [0, 1, 3, 5]


def test_bot_like_users_go_with_all_their_events():
    rows = [("bot", "a", DAY + t, "view") for t in range(4)] + [("bot", "a", 9 * DAY, "view")]
    rows += [("u", "a", DAY - 2 + t, "view") for t in range(4)] + [("v", "b", 5, "view")]
    frame, report = clean(rows, max_events_per_user_per_day=3)
    assert report.dropped == {"bot-like repetition": 5} and set(frame["user_id"]) == {"u", "v"}


def test_earlier_limit_of_time_is_named():
    rows = [("u", "a", 99, "view"), ("u", "a", 100, "view"), ("v", "b", 101, "view")]
    assert clean(rows, min_timestamp=100)[1].dropped == {"time before 1970-01-01 00:01:40": 1}


def test_the_default_now_is_the_clock():
    year = datetime.now(UTC).year
    rows = [("u", "a", f"{year - 1}-01-01"), ("v", "b", f"{year - 1}-01-02"), ("v", "b", f"{year + 1}-01-02")]
    raw = raw_events(rows, ("user_id", "item_id", "timestamp"))
    assert clean_events(raw)[1].dropped == {"time in the future": 1}


events = st.tuples(
    st.sampled_from(["", "u1", "u2", "u3", "u10", "ü"]),
    st.sampled_from(["", "a", "b", "c", "d"]),
    st.one_of(st.integers(-2, 12), st.sampled_from(["soon", None])),
    st.sampled_from(["view", "buy", "hover", "search"]),
    st.sampled_from(["", "q", "r"]),
)


def plain_clean(rows, *, user_k, item_k, gap, per_day):
    """The same rules with loops; returns the kept row numbers in order and the count of each reason."""
    dropped = Counter()
    kept = []
    for number, (user, item, at, behavior, query) in enumerate(rows):
        if not user:
            dropped["missing user id"] += 1
        elif behavior == "hover":
            dropped["unknown behaviour"] += 1
        elif not item and behavior != "search":
            dropped["missing item id"] += 1
        elif not item and not query:
            dropped["missing item id and query"] += 1
        elif at == "soon":
            dropped["unparsable time"] += 1
        elif at is None:
            dropped["missing time"] += 1
        elif at < 0:
            dropped["time before 1970"] += 1
        elif at > 10:
            dropped["time in the future"] += 1
        elif any(rows[other] == rows[number] for other in kept):
            dropped["exact duplicate"] += 1
        else:
            kept.append(number)
    last, rest = {}, []
    for number in sorted(kept, key=lambda n: (rows[n][2], n)):
        user, item, at, behavior, query = rows[number]
        key = (user, item, behavior, query if not item else "")
        if gap and key in last and at - last[key] <= gap:
            dropped["repeat within the time gap"] += 1
        else:
            rest.append(number)
        last[key] = at
    busy = Counter(rows[n][0] for n in rest)  # all times lie on one day
    bots = {user for user, count in busy.items() if per_day and count > per_day}
    dropped["bot-like repetition"] += sum(rows[n][0] in bots for n in rest)
    kept = [n for n in rest if rows[n][0] not in bots]
    while True:
        size = len(kept)
        counts = Counter(rows[n][0] for n in kept if rows[n][1])
        below = [n for n in kept if user_k > 1 and counts[rows[n][0]] < user_k]
        dropped["user below k-core"] += len(below)
        kept = [n for n in kept if n not in below]
        counts = Counter(rows[n][1] for n in kept)
        below = [n for n in kept if rows[n][1] and counts[rows[n][1]] < item_k]
        dropped["item below k-core"] += len(below)
        kept = [n for n in kept if n not in below]
        if len(kept) == size:
            break
    kept.sort(key=lambda n: (rows[n][0], rows[n][2], n))
    return kept, {reason: count for reason, count in dropped.items() if count}


@given(
    rows=st.lists(events, min_size=1, max_size=60),
    user_k=st.integers(1, 4),
    item_k=st.integers(1, 4),
    gap=st.sampled_from([None, 1, 4]),
    per_day=st.sampled_from([None, 6]),
)
@example(  # u3 has no item, and an item core of 2 is no reason to drop users
    rows=[
        ("u1", "a", 0, "view", ""),
        ("u1", "c", 0, "view", ""),
        ("u1", "c", 1, "view", ""),
        ("u2", "a", 0, "view", ""),
        ("u3", "", 0, "search", "q"),
    ],
    user_k=1,
    item_k=2,
    gap=None,
    per_day=None,
)
@settings(max_examples=100, deadline=None)
def test_cleaning_equals_plain_loops(rows, user_k, item_k, gap, per_day):
    kept, dropped = plain_clean(rows, user_k=user_k, item_k=item_k, gap=gap, per_day=per_day)
    raw = raw_events(rows, ("user_id", "item_id", "timestamp", "behavior", "query"))
    config = CleaningConfig(
        behaviors=("view", "search", "buy"),
        item_free_behaviors=("search",),
        collapse_repeats_seconds=gap,
        max_events_per_user_per_day=per_day,
        user_k_core=user_k,
        item_k_core=item_k,
    )
    users, items = {rows[n][0] for n in kept}, {rows[n][1] for n in kept} - {""}
    if len(users) < 2 or len(items) < 2:
        with pytest.raises(DataError, match=r"no row is left|is left; a recommender|only 1 user is left"):
            clean_events(raw, config, now=10)
        return
    frame, report = clean_events(raw, config, now=10)
    assert frame["row"].tolist() == kept
    assert report.dropped == dropped
    assert report.rows_read == len(rows) == report.rows_kept + sum(report.dropped.values())
    assert report.rows_kept == len(frame) == sum(report.behaviors.values())
    assert (report.users, report.items) == (len(users), len(items))
    together = Counter((rows[n][0], rows[n][2]) for n in kept)
    assert report.tied_timestamps == sum(count for count in together.values() if count > 1)
    assert {r: min(3, c) for r, c in dropped.items()} == {r: len(e) for r, e in report.examples.items()}
    assert CleaningReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert f"{report.rows_read}" in str(report) and all(reason in str(report) for reason in dropped)
    if dropped:
        with pytest.raises(DataError, match=r"strict cleaning allows no dropped rows"):
            clean_events(raw, config, strict=True, now=10)
    else:
        assert clean_events(raw, config, strict=True, now=10)[0].equals(frame)


@given(
    edges=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=120),
    k=st.integers(2, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_core_is_the_largest_set_that_holds(edges, k):
    """Peeling one event at a time, in any order, ends at the same core."""
    rows = [(f"u{u}", f"i{i}", n) for n, (u, i) in enumerate(edges)]
    alive = set(range(len(rows)))
    while worst := [n for n in alive if any(sum(rows[m][side] == rows[n][side] for m in alive) < k for side in (0, 1))]:
        alive.discard(worst[-1])
    raw = raw_events(rows, ("user_id", "item_id", "timestamp"))
    config = CleaningConfig(user_k_core=k, item_k_core=k)
    if not alive:
        with pytest.raises(DataError, match=r"no row is left of .*below k-core.*lower cleaning.user_k_core"):
            clean_events(raw, config, now=NOW)
    elif min(len({rows[n][side] for n in alive}) for side in (0, 1)) > 1:
        assert set(clean_events(raw, config, now=NOW)[0]["row"]) == alive


def test_nothing_left_says_why_and_shows_the_report():
    rows = [("u", "a", 1, "view"), ("v", "b", 2, "view")]
    with pytest.raises(DataError) as caught:
        clean(rows, user_k_core=5)
    assert (
        "the dataframe: no row is left of 2; most were dropped as 'user below k-core' (2 rows); lower "
        "cleaning.user_k_core (5) or cleaning.item_k_core (1)\nCleaning of the dataframe\n"
    ) in str(caught.value)
    with pytest.raises(DataError, match=r"'unknown behaviour' \(2 rows\); check cleaning.behaviors"):
        clean(rows, behaviors=("buy",))
    with pytest.raises(DataError, match=r"'unparsable time' \(1 rows\); check the column names and the unit of time"):
        clean([("u", "a", "12/1/2010 8:26", "view")])


def test_one_user_or_one_item_is_too_few():
    with pytest.raises(DataError, match=r"only 1 user is left; training and evaluation need at least 2"):
        clean([("u", "a", 1, "view"), ("u", "b", 2, "view")])
    with pytest.raises(DataError, match=r"only 1 item is left; a recommender needs at least 2"):
        clean([("u", "a", 1, "view"), ("v", "a", 2, "view")])


def test_strict_shows_what_would_be_dropped():
    raw = raw_events([("u", "a", 1, "x"), ("v", "b", 2, "x"), ("", "b", 2, "x")])
    with pytest.raises(
        DataError, match=r"(?s)strict cleaning allows no dropped rows, 1 were\n.*dropped: missing user id +1"
    ):
        clean_events(raw, strict=True, now=NOW)


def test_unreadable_values_are_counted_and_their_events_kept():
    names = ("user_id", "item_id", "timestamp", "behavior", "value")
    frame, report = clean([("u", "a", 1, "buy", "free"), ("v", "b", 2, "buy", 3)], names)
    assert len(frame) == 2 and report.unreadable == {"value": 1}
    assert "value not a number" in str(report)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"user_k_core": 0}, "cleaning.user_k_core must be at least 1, got 0"),
        ({"item_k_core": -2}, "cleaning.item_k_core must be at least 1, got -2"),
        (
            {"collapse_repeats_seconds": 0},
            "cleaning.collapse_repeats_seconds must be at least 1, got 0",
        ),
        ({"max_events_per_user_per_day": -1}, "cleaning.max_events_per_user_per_day must be at least 1, got -1"),
        ({"behaviors": ()}, "cleaning.behaviors must name each behaviour once, got []"),
        ({"behaviors": ("view", "view")}, "must name each behaviour once, got ['view', 'view']"),
        ({"behaviors": "view"}, "cleaning.behaviors must be a list of names, got the text 'view'"),
        (
            {"behaviors": ("view",), "item_free_behaviors": ("search",)},
            "['search'] are not in behaviors ['view']",
        ),
    ],
)
def test_bad_rules_are_named(config, message):
    with pytest.raises(ConfigError) as caught:
        CleaningConfig(**config)
    assert message in str(caught.value)


def test_a_report_of_another_shape_is_refused():
    _, report = clean([("u", "a", 1, "x"), ("v", "b", 2, "x")])
    content = {**report.to_dict(), "extra": 1}
    del content["users"]
    with pytest.raises(DataError, match=r"lacks the keys \['users'\] and has unknown keys \['extra'\]"):
        CleaningReport.from_dict(content)
