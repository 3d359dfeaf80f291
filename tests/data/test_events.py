"""Reading logs: all formats give one table, ids stay as written, bad input is named at the door."""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.data.columns import Columns
from seqrec_jax.data.events import frame_fingerprint, read_events
from seqrec_jax.data.files import as_text
from seqrec_jax.data.timestamps import parse_timestamps
from seqrec_jax.errors import ConfigError, DataError

HEADER = "user_id,item_id,timestamp\n"
ODD_IDS = [
    "007",
    "7",
    " 7",
    "7 ",
    "NA",
    "nan",
    "None",
    "null",
    "ünïcödé 🛒",
    "a,b",
    'say "hi"',
    "two\nlines",
    "1e5",
    "-0",
]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def table(raw) -> list[list[object]]:
    return raw.frame[["user_id", "item_id", "timestamp", "row"]].values.tolist()


@pytest.mark.parametrize(
    "ending", [".csv", ".tsv", ".csv.gz", ".jsonl", ".ndjson.gz", ".json", ".parquet", "list.json"]
)
def test_every_format_keeps_ids_as_written(tmp_path, ending):
    log = pd.DataFrame(
        {"who": ODD_IDS, "what": ODD_IDS[::-1], "when": np.arange(len(ODD_IDS)) + 1_700_000_000, "other": 1}
    )
    path = tmp_path / f"log{ending}"
    if ending.endswith(".parquet"):
        log.to_parquet(path)
    elif "csv" in ending or "tsv" in ending:
        log.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    elif ending == "list.json":
        path.write_text(json.dumps(log.to_dict("records"), indent=1))
    else:
        write(tmp_path, path.name, "\n".join(json.dumps(record) for record in log.to_dict("records")) + "\n\n")
    raw = read_events(path, Columns("who", "what", "when"))
    assert raw.frame["user_id"].tolist() == ODD_IDS
    assert raw.frame["item_id"].tolist() == ODD_IDS[::-1]
    assert raw.frame["timestamp"].tolist() == list(range(1_700_000_000, 1_700_000_000 + len(ODD_IDS)))
    assert raw.frame["row"].tolist() == list(range(len(ODD_IDS)))
    assert raw.time_kind == "seconds" and raw.source == str(path)
    assert raw.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_events(str(path), Columns("who", "what", "when")).frame.equals(raw.frame)


def test_only_the_empty_string_is_missing(tmp_path):
    raw = read_events(write(tmp_path, "log.csv", "\ufeff" + HEADER + ',i,1\nu,"",2\n" ",i,3\nu,i,\n'))
    assert raw.frame["user_id"].isna().tolist() == [True, False, False, False]
    assert raw.frame["item_id"].isna().tolist() == [False, True, False, False]
    assert raw.frame["timestamp"].isna().tolist() == [False, False, False, True]
    assert "timestamp_as_written" not in raw.frame


def test_fields_missing_at_the_end_of_a_row_are_missing_values(tmp_path):
    assert table(read_events(write(tmp_path, "log.csv", HEADER + "u,i\nv,j,5\n")))[1] == ["v", "j", 5, 1]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([1, 20]), ["1", "20"]),
        (pd.Series([17850.0, np.nan]), ["17850", None]),
        (pd.Series([1.5, 2.0]), ["1.5", "2.0"]),
        (pd.Series([2**60 + 1, None], dtype="Int64"), ["1152921504606846977", None]),
        (pd.Series(["a", None, ""], dtype=object), ["a", None, None]),
        (pd.Series([1, "01", 2.0, None, b"x", True], dtype=object), ["1", "01", "2", None, "x", "True"]),
        (pd.Series(["b", "a", None], dtype="category"), ["b", "a", None]),
        (pd.Series([3, 4], dtype="category"), ["3", "4"]),
        (pd.Series([True, False]), ["True", "False"]),
        (pd.Series([None, None], dtype=object), [None, None]),
        (pd.Series(["x", pd.NA], dtype="string"), ["x", None]),
    ],
)
def test_ids_of_a_dataframe_become_text(column, expected):
    text = as_text(column, name="id")
    assert [None if pd.isna(cell) else cell for cell in text] == expected
    assert all(isinstance(cell, str) for cell in text.dropna())


def test_long_integer_ids_beside_missing_ones_keep_their_digits(tmp_path):
    log = pd.DataFrame({"user_id": pd.array([2**60 + 1, None], dtype="Int64"), "item_id": [1, 2], "timestamp": [1, 2]})
    log.to_parquet(tmp_path / "log.parquet")
    assert read_events(tmp_path / "log.parquet").frame["user_id"].tolist()[0] == "1152921504606846977"


def test_float_ids_that_lost_digits_are_refused():
    with pytest.raises(DataError, match=r"'id' holds ids as floats up to 10000000000000000, which have lost digits"):
        as_text(pd.Series([1e16]), name="id")


def test_optional_columns_and_unreadable_values(tmp_path):
    text = HEADER[:-1] + ',kind,price,place,p\nu,i,1,view,"12,50",1,0.5\nu,j,2,,3.5,1.5,inf\nv,k,3,buy,,,\n'
    columns = Columns(behavior="kind", value="price", position="place", propensity="p")
    raw = read_events(write(tmp_path, "log.csv", text), columns)
    frame = raw.frame
    assert frame["behavior"].isna().tolist() == [False, True, False]
    assert frame["value"].dtype == np.float32 and frame["value"].fillna(-1).tolist() == [-1, 3.5, -1]
    assert frame["position"].dtype == "Int32" and frame["position"].fillna(-1).tolist() == [1, -1, -1]
    assert frame["propensity"].fillna(-1).tolist() == [0.5, -1, -1]
    assert dict(raw.unreadable) == {"value": 1, "position": 1, "propensity": 1}


def test_one_column_of_the_log_may_serve_twice_and_an_order_may_replace_times(tmp_path):
    raw = read_events(write(tmp_path, "log.csv", "s,i\nb,1\na,2\n"), Columns("s", "i", None, session_id="s"))
    assert raw.time_kind == "order"
    assert raw.frame["session_id"].tolist() == ["b", "a"] and raw.frame["timestamp"].tolist() == [0, 1]


def test_separator_opens_other_endings(tmp_path):
    path = write(tmp_path, "log.inter", HEADER.replace(",", "\t") + "u\ti\t5\n")
    assert table(read_events(path, separator="\t")) == [["u", "i", 5, 0]]


def test_the_fingerprint_of_a_dataframe_is_its_content():
    log = pd.DataFrame({"user_id": ["a", "b"], "item_id": [1, 2], "timestamp": [1, 2], "unused": [1, 2]})
    same = log.assign(item_id=["1", "2"], unused=0).set_index(pd.Index([5, 9]))
    assert read_events(log).fingerprint == read_events(same).fingerprint == frame_fingerprint(read_events(log).frame)
    for changed in (log.iloc[::-1], log.assign(user_id=["ab", ""]), log.assign(timestamp=[1, 3])):
        assert read_events(changed).fingerprint != read_events(log).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "log.csv is empty (0 bytes); expected a header and rows"),
        ("log.csv", "\n\n", "log.csv holds no text; expected a header and rows"),
        ("log.jsonl", "\n", "log.jsonl holds no text; expected one JSON object a line"),
        ("log.csv", HEADER, "log.csv has column names but no rows; expected at least one event"),
        (
            "log.csv",
            "userid,item_id,timestamp\nu,i,1\n",
            "no column 'user_id'; did you mean 'userid'? (columns found: userid,",
        ),
        ("log.csv", "USER_ID,item_id,timestamp\nu,i,1\n", "no column 'user_id'; did you mean 'USER_ID'?"),
        ("log.csv", "user_id,item_id\nu,i\n", "no column 'timestamp' (columns found: user_id, item_id)"),
        ("log.csv", HEADER.replace(",", ";") + "u;i;1\n", "separated by ';': pass separator=';'"),
        (
            "log.csv",
            "user_id,item_id,item_id,timestamp\nu,i,j,1\n",
            "2 columns are named 'item_id'; give each column its",
        ),
        (
            "log.csv",
            HEADER + "u,i,1\nu,i,j,2\n",
            "is not a table separated by ',': Error tokenizing data. C error: Expected 3",
        ),
        ("log.csv", HEADER + 'u,"i,1\n', "EOF inside string"),
        ("log.csv", (HEADER + "u,\u00e9,1\n").encode("latin-1"), "is not UTF-8 text"),
        (
            "log.xlsx",
            "x",
            "cannot tell the format from the ending '.xlsx'; known are .csv, .tsv, .jsonl, .ndjson, .json",
        ),
        ("log", "x", "cannot tell the format from the ending ''"),
        (
            "log.jsonl",
            '{"user_id": 1}\n\n{"user_id":\n',
            "log.jsonl, line 3: expected one JSON object a line, found '{\"user",
        ),
        ("log.jsonl", '{"user_id": 1}, {"user_id": 1}\n', "line 1: expected one JSON object a line"),
        ("log.jsonl", "{}\n5\n", "line 2: expected one JSON object a line, found '5' (not an object)"),
        (
            "log.jsonl",
            '{"user_id": [1], "item_id": 1, "timestamp": 1}',
            "'user_id' holds lists such as [1]; expected one id",
        ),
        ("log.parquet", "no parquet at all", "log.parquet is not a readable Parquet file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    with pytest.raises(DataError) as caught:
        read_events(write(tmp_path, name, content))
    assert message in str(caught.value)


def test_missing_files_folders_and_broken_archives(tmp_path):
    write(tmp_path, "events.csv", HEADER)
    with pytest.raises(DataError, match=r"event\.csv does not exist; did you mean .*events\.csv\?"):
        read_events(tmp_path / "event.csv")
    with pytest.raises(DataError, match=r"is a folder; expected one file"):
        read_events(tmp_path)
    (tmp_path / "a.csv.gz").write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"is not a whole gzip file"):
        read_events(tmp_path / "a.csv.gz")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"user_id": 1}\n' * 99)[:-12])
    with pytest.raises(DataError, match=r"is not a whole gzip file"):
        read_events(tmp_path / "b.jsonl.gz")


def test_bad_dataframes_are_named():
    log = pd.DataFrame({"user_id": ["a"], "item_id": [1], "timestamp": [1]})
    with pytest.raises(DataError, match=r"the dataframe has column names but no rows"):
        read_events(log.iloc[:0])
    with pytest.raises(DataError, match=r"2 columns are named 'item_id'"):
        read_events(pd.concat([log, log["item_id"]], axis=1))
    with pytest.raises(DataError, match=r"the dataframe: no column 'price'"):
        read_events(log, Columns(value="price"))


def test_bad_column_mappings_are_named():
    with pytest.raises(ConfigError, match=r"columns.user_id and columns.item_id both name the column 'x'"):
        Columns("x", "x")
    with pytest.raises(ConfigError, match=r"columns.item_id must be a column name, got None"):
        Columns(item_id=None)
    with pytest.raises(ConfigError, match=r"columns.value must be a column name or None, got ''"):
        Columns(value="")


moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(
    moment=moments,
    hours=st.integers(-14, 14),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
@settings(max_examples=60, deadline=None)
def test_every_way_to_write_a_time_gives_the_same_second(moment, hours, unit):
    ticks = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    expected = ticks // 1_000_000
    numbers = {"s": ticks // 10**6, "ms": ticks // 10**3, "us": ticks, "ns": ticks * 1000}[unit]
    local = moment.astimezone(timezone(timedelta(hours=hours)))
    naive = moment.replace(tzinfo=None)
    columns = [
        pd.Series([numbers]),
        pd.Series([str(numbers)]),
        pd.Series([numbers, None], dtype="Int64"),
        pd.Series([str(numbers), "soon"]),
        pd.Series([local.isoformat(), naive.isoformat(sep=" ")]),
        pd.Series([moment, local], dtype=object),
        pd.Series([naive]),
        pd.Series(pd.to_datetime([local.isoformat()], utc=True)),
        pd.Series([naive], dtype="datetime64[ns]"),
    ]
    for column in columns:
        parsed = parse_timestamps(column, unit=unit)
        assert parsed.dtype == "Int64" and parsed[0] == expected, column
    if numbers > 0 and datetime(1974, 1, 1, tzinfo=UTC) < moment:
        assert parse_timestamps(pd.Series([numbers])).tolist() == [expected]


def test_times_that_are_none_are_missing():
    odd = ["", "soon", "now", "today", "2024-13-01", "inf", "nan", "12:30", "1e30", None]
    assert parse_timestamps(pd.Series(odd, dtype=object)).isna().all()
    assert parse_timestamps(pd.Series([np.nan, np.inf, 1.9])).tolist()[2] == 1
    assert parse_timestamps(pd.Series([pd.NaT, pd.Timestamp("1970-01-01")])).isna().tolist() == [True, False]
    assert parse_timestamps(pd.Series([-0.5])).tolist() == [-1]


def test_numbers_and_strings_may_share_a_column():
    column = pd.Series([1717527762025, "2024-06-04T19:02:42.025Z", "1717527762025"], dtype=object)
    assert parse_timestamps(column).tolist() == [1717527762] * 3


def test_unparsable_times_keep_their_text(tmp_path):
    raw = read_events(write(tmp_path, "log.csv", HEADER + "u,i,soon\nu,j,5\nu,k,\n"))
    assert raw.frame["timestamp"].isna().tolist() == [True, False, True]
    assert raw.frame["timestamp_as_written"].fillna("?").tolist() == ["soon", "5", "?"]


def test_mixed_units_are_refused_with_both_ranges(tmp_path):
    path = write(tmp_path, "log.csv", HEADER + "u,i,0\nu,i,1396437466\nu,i,\nu,j,1396437466940\nu,k,1396437999\n")
    with pytest.raises(DataError) as caught:
        read_events(path)
    assert (
        "column 'timestamp' mixes units of time: 2 look like seconds (1396437466 to 1396437999, as in row 1: "
        "1396437466) and 1 look like milliseconds "
        "(1396437466940 to 1396437466940, as in row 3: 1396437466940); "
        "bring them to one unit, or set timestamp_unit to s, ms, us or ns if they are of one"
    ) in str(caught.value)
    assert read_events(path, timestamp_unit="s").frame["timestamp"].tolist()[3] == 1396437466940
    assert read_events(path, timestamp_unit="ms").frame["timestamp"].tolist()[1] == 1396437


def test_dates_without_dashes_are_not_taken_for_seconds():
    with pytest.raises(DataError, match=r"looks like dates written as YYYYMMDD .as in row 0: 20140401"):
        parse_timestamps(pd.Series(["20140401", "20141231"]))
    assert parse_timestamps(pd.Series([20140401]), unit="s").tolist() == [20140401]
    assert parse_timestamps(pd.Series([20140401, 20140399])).tolist() == [20140401, 20140399]


def test_an_unknown_unit_is_refused():
    with pytest.raises(ConfigError, match=r"timestamp_unit must be one of auto, s, ms, us, ns, got 'minutes'"):
        parse_timestamps(pd.Series([1]), unit="minutes")
