"""Readers of public data: the stated counts of the real files, and tiny files in the publishers' layouts."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.cleaning import CleaningConfig, clean_events
from seqrec_jax.data.readers import READERS
from seqrec_jax.data.readers.public_files import find_file, most_frequent, read_table
from seqrec_jax.errors import DataError, MissingExtraError


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    data = content.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@functools.cache
def read_once(path: Path):
    return READERS[path.name.removesuffix("_100k") if path.name.startswith("yoo") else path.name](path)


def real(shared_data: Path, folder: str):
    path = shared_data / folder
    if not path.is_dir():
        pytest.skip(f"{folder} is not among the public data sets")
    return read_once(path)


def rows(dataset, *names: str) -> list[list[object]]:
    names = names or ("user_id", "item_id", "timestamp", "behavior", "value")
    return [
        [None if pd.isna(cell) else cell for cell in row] for row in dataset.events.frame[list(names)].to_numpy(object)
    ]


@pytest.mark.parametrize(
    ("folder", "events", "users", "items", "kind"),
    [
        ("online_retail", 541_909, 4_372, 4_070, "seconds"),
        ("complete_journey", 75_000, 2_377, 20_902, "seconds"),
        ("amazon_grocery", 121_892, 14_681, 8_687, "seconds"),
        ("amazon_beauty_s3rec", 198_502, 22_363, 12_101, "order"),
        ("amazon_sports_s3rec", 296_337, 35_598, 18_357, "order"),
        ("amazon_beauty_bert4rec", 353_962, 40_226, 54_542, "order"),
        ("movielens_1m", 999_611, 6_040, 3_416, "order"),
        ("movielens_100k", 100_000, 943, 1_682, "seconds"),
    ],
)
def test_the_real_files_have_the_stated_counts(shared_data, folder, events, users, items, kind):
    dataset = real(shared_data, folder)
    frame = dataset.events.frame
    assert (len(frame), frame["user_id"].nunique(), frame["item_id"].nunique()) == (events, users, items)
    assert dataset.events.time_kind == kind and dataset.events.unreadable == {}
    if dataset.items is not None:
        # five products of the Complete Journey are in no row of its product table
        unlisted = 5 if folder == "complete_journey" else 0
        assert dataset.items["item_id"].is_unique
        assert len(set(frame["item_id"].unique()) - set(dataset.items["item_id"])) == unlisted
    if dataset.users is not None:
        assert dataset.users["user_id"].is_unique and dataset.users.columns[0] == "user_id"


def test_online_retail_as_it_is(shared_data):
    dataset = real(shared_data, "online_retail")
    frame, items = dataset.events.frame, dataset.items.set_index("item_id")
    file = pd.read_csv(
        shared_data / "online_retail" / "online_retail.csv.gz", dtype={"StockCode": str, "InvoiceNo": str}
    )
    assert file.duplicated().sum() == 5_268 and (file["Quantity"] < 0).sum() == 10_624
    assert frame["user_id"].isna().sum() == 135_080
    assert (frame["behavior"] == "cancel").sum() == (
        (file["Quantity"] <= 0) | file["InvoiceNo"].str.startswith("C")
    ).sum()
    np.testing.assert_allclose(frame["value"], file["Quantity"] * file["UnitPrice"], rtol=1e-6)
    seconds = (pd.to_datetime(file["InvoiceDate"]) - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
    assert (frame["timestamp"].astype(np.int64) == seconds).all()
    assert (
        items.loc["85123A", "description"] == "WHITE HANGING HEART T-LIGHT HOLDER"
        and items.loc["85123A", "price"] == 2.95
    )
    clean, report = clean_events(dataset.events, CleaningConfig(behaviors=("purchase",)))
    known = file[file["CustomerID"].notna() & (file["Quantity"] > 0) & ~file["InvoiceNo"].str.startswith("C")]
    same = known.assign(value=known["Quantity"] * known["UnitPrice"]).duplicated(
        ["InvoiceNo", "StockCode", "InvoiceDate", "CustomerID", "value"]
    )
    assert report.dropped == {
        "missing user id": 135_080,
        "unknown behaviour": 406_829 - len(known),
        "exact duplicate": int(same.sum()),
    }
    assert len(clean) == len(known) - same.sum() == report.rows_kept


def test_a_quarter_of_grocery_shares_user_and_day(shared_data):
    _, report = clean_events(real(shared_data, "amazon_grocery").events)
    days = pd.read_csv(shared_data / "amazon_grocery" / "train.csv", sep="\t")[["user_id", "time"]]
    assert report.dropped == {} and report.tied_timestamps == days.duplicated(keep=False).sum()
    assert abs(days.duplicated().mean() - 0.25) < 0.01


def test_yoochoose_has_the_stated_counts(shared_data):
    joined = real(shared_data, "yoochoose_100k")
    training = READERS["yoochoose"](
        shared_data / "yoochoose_100k" / "yoochoose-clicks-100k_train_full.txt"
    ).events.frame
    assert (len(training), training["session_id"].nunique(), training["item_id"].nunique()) == (
        70_278,
        17_794,
        2_933,
    )
    assert len(joined.events.frame) == 70_278 + 13_568 and joined.events.frame.iloc[:70_278].equals(training)


def test_movielens_titles_belong_to_the_prepared_ids(shared_data):
    dataset = real(shared_data, "movielens_1m")
    titles = dataset.items.set_index("item_id")["title"]
    assert titles.notna().all() and dataset.users["gender"].isin(["F", "M"]).all()
    # the set's most rated film, and the known number of its ratings
    counts = dataset.events.frame["item_id"].value_counts()
    assert titles[counts.index[0]] == "American Beauty (1999)" and counts.iloc[0] == 3_428
    small = real(shared_data, "movielens_100k")
    assert small.items.loc[0, ["title", "genres"]].tolist() == [
        "Toy Story",
        ["Animation", "Children's", "Comedy"],
    ]


def test_office_sequences_contain_every_row_s_history(shared_data):
    dataset = real(shared_data, "amazon_office_titles")
    frame = dataset.events.frame
    sequences = {user: " ".join(items) + " " for user, items in frame.groupby("user_id")["item_id"]}
    for part in ("valid", "test"):
        for row in pd.read_csv(shared_data / "amazon_office_titles" / f"{part}.csv").itertuples():
            piece = " ".join(map(str, [*json.loads(row.history_item_id), row.item_id])) + " "
            assert f" {piece}" in f" {sequences[row.user_id]}"
    assert len(dataset.items) == 3_459 and set(frame["item_id"]) <= set(dataset.items["item_id"])
    assert dataset.items["description"].iloc[1] == "An Amazon Brand."  # written as a list of one


def test_search_ubi_as_it_is(shared_data):
    dataset = real(shared_data, "search_ubi")
    frame = dataset.events.frame
    assert len(frame) == 3_448 and frame["timestamp"].notna().all()
    assert (frame["behavior"] == "impression").sum() == 1_999 and (frame["behavior"] == "purchase").sum() == 6
    assert frame.loc[frame["behavior"].isin(["impression", "click", "purchase"]), "item_id"].notna().all()
    assert frame.loc[frame["behavior"] == "search", "item_id"].isna().all()
    assert frame["timestamp"].min() == 1_717_527_762  # an integer of milliseconds in the file


@pytest.mark.parametrize(("policy", "campaign"), [("random", "men"), ("bts", "women")])
def test_open_bandit_as_it_is(shared_data, policy, campaign):
    dataset = READERS["open_bandit"](shared_data / "open_bandit", policy=policy, campaign=campaign)
    frame = dataset.events.frame
    file = pd.read_csv(shared_data / "open_bandit" / policy / campaign / f"{campaign}.csv")
    assert len(frame) == 10_000 and 46 <= (frame["behavior"] == "click").sum() == frame["value"].sum() <= 69
    assert (frame["propensity"] == file["propensity_score"]).all() and set(frame["position"]) == {1, 2, 3}
    assert set(frame["item_id"]) == set(dataset.items["item_id"]) and set(frame["user_id"]) == set(
        dataset.users["user_id"]
    )


RETAIL_HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def test_online_retail_as_others_export_it(tmp_path):
    lines = "536365,85123A,CAFÉ £1,6,12/1/2010 8:26,2.5,17850,France\n536366,085,X,2,12/13/2010 14:05,1,,UK\n"
    lines += "C536379,D,Discount,-1,12/1/2010 9:41,27.5,14527,UK\nA1,B,Y,1,soon,3,00012,UK\n"
    write(tmp_path / "data.csv", RETAIL_HEADER + lines, encoding="latin-1")
    dataset = READERS["online_retail"](tmp_path)
    assert rows(dataset) == [
        ["17850", "85123A", 1291191960, "purchase", 15.0],
        [None, "085", 1292249100, "purchase", 2.0],
        ["14527", "D", 1291196460, "cancel", -27.5],
        ["00012", "B", None, "purchase", 3.0],
    ]
    assert dataset.items.values.tolist() == [
        ["085", "X", 1.0],
        ["85123A", "CAFÉ £1", 2.5],
        ["B", "Y", 3.0],
        ["D", "Discount", 27.5],
    ]
    second = (
        RETAIL_HEADER.replace("InvoiceNo", "Invoice").replace("UnitPrice", "Price").replace("CustomerID", "Customer ID")
    )
    write(tmp_path / "II.csv.gz", second + "489434,85048,A,12,2009-12-01 07:45:00,6.95,13085.0,UK\n")
    assert rows(READERS["online_retail"](tmp_path / "II.csv.gz"))[0][:2] == ["13085", "85048"]
    with pytest.raises(DataError, match=r"lacks the columns \['UnitPrice', 'CustomerID'\]"):
        READERS["online_retail"](write(tmp_path / "x.csv", "InvoiceNo,StockCode,Quantity,InvoiceDate\n1,2,3,4\n"))


def test_online_retail_s_own_spreadsheet(tmp_path):
    path = tmp_path / "Online Retail.xlsx"
    if importlib.util.find_spec("openpyxl") is None:
        path.write_bytes(b"PK\x03\x04")
        with pytest.raises(MissingExtraError, match=r"needs openpyxl: pip install openpyxl, or save the sheet as CSV"):
            READERS["online_retail"](path)
        return
    sheet = {
        "InvoiceNo": [536365, "C1"],
        "StockCode": ["85123A", 71053],
        "Description": ["A", None],
        "Quantity": [6, -1],
    }
    sheet |= {
        "InvoiceDate": pd.to_datetime(["2010-12-01 08:26"] * 2),
        "UnitPrice": [2.5, 1],
        "CustomerID": [17850, np.nan],
    }
    pd.DataFrame(sheet).assign(Country="UK").to_excel(path, index=False)
    assert rows(READERS["online_retail"](tmp_path)) == [
        ["17850", "85123A", 1291191960, "purchase", 15.0],
        [None, "71053", 1291191960, "cancel", -1.0],
    ]


def test_complete_journey_as_dunnhumby_ships_it(tmp_path):
    names = "household_key,BASKET_ID,DAY,PRODUCT_ID,QUANTITY,SALES_VALUE,STORE_ID,RETAIL_DISC,TRANS_TIME,WEEK_NO"
    write(
        tmp_path / "transaction_data.csv",
        names + "\n2375,26984851472,1,1004906,1,1.39,364,-0.6,1631,1\n8,9,3,7,1,2,3,0,5,1\n",
    )
    write(tmp_path / "product.csv", "PRODUCT_ID,MANUFACTURER,DEPARTMENT\n7,2,GROCERY\n")
    write(tmp_path / "hh_demographic.csv", "AGE_DESC,household_key\n65+,8\n")
    dataset = READERS["complete_journey"](tmp_path, first_day="2020-02-28")
    assert rows(dataset)[0][:4] == [
        "2375",
        "1004906",
        int(pd.Timestamp("2020-02-28 16:31").timestamp()),
        "purchase",
    ]
    assert rows(dataset)[1][2] == int(pd.Timestamp("2020-03-01 00:05").timestamp())
    assert dataset.events.frame["session_id"].tolist() == ["26984851472", "9"]
    assert dataset.items.to_dict("records") == [{"item_id": "7", "manufacturer": "2", "department": "GROCERY"}]
    assert dataset.users.to_dict("records") == [{"user_id": "8", "age_desc": "65+"}]


def test_yoochoose_as_the_challenge_ships_it(tmp_path):
    write(
        tmp_path / "yoochoose-clicks.dat",
        "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n",
    )
    dataset = READERS["yoochoose"](tmp_path)
    assert rows(dataset, "user_id", "item_id", "timestamp", "behavior", "session_id") == [
        ["1", "214536502", 1396867869, "click", "1"],
        ["1", "214536500", 1396868049, "click", "1"],
    ]
    write(tmp_path / "yoochoose-buys.dat", "1,2014-04-07T11:00:00.000Z,214536500,12462,2\n")
    assert rows(READERS["yoochoose"](tmp_path))[2] == ["1", "214536500", 1396868400, "purchase", 24924.0]


def test_movielens_as_grouplens_ships_it(tmp_path):
    write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    flags = "|".join(["0"] * 5 + ["1"] + ["0"] * 12 + ["1"])
    write(tmp_path / "u.item", f'242|"Kolya" é (1996)|24-Jan-1997||http://x|{flags}\n', encoding="latin-1")
    write(tmp_path / "u.user", "196|49|M|writer|55105\n")
    small = READERS["movielens_100k"](tmp_path)
    assert rows(small)[0] == ["196", "242", 881250949, "rating", 3.0]
    assert small.items.values.tolist() == [["242", '"Kolya" é (1996)', "1997", ["Comedy", "Western"]]]
    assert small.users.to_dict("records")[0]["zip_code"] == "55105"
    write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    write(tmp_path / "movies.dat", "661::James: the Peach (1996)::Animation|Musical\n")
    write(tmp_path / "users.dat", "1::F::1::10::48067\n")
    large = READERS["movielens_1m"](tmp_path)
    assert rows(large)[1] == ["1", "661", 978302109, "rating", 3.0]
    assert large.items.values.tolist() == [["661", "James: the Peach (1996)", ["Animation", "Musical"]]]
    assert large.users.values.tolist() == [["1", "F", "1", "10", "48067"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "reviews_Beauty_5.json.gz",
            '{"reviewerID": "A2", "asin": "0005", "overall": 4.0, "unixReviewTime": 1390694400}\n',
        ),
        (
            "Beauty.jsonl",
            '{"user_id": "A2", "parent_asin": "0005", "rating": 4.0, "timestamp": 1390694400000}\n',
        ),
        ("ratings_Beauty.csv", "A2,0005,4.0,1390694400\n"),
        ("Beauty.csv", "user_id,parent_asin,rating,timestamp\nA2,0005,4.0,1390694400123\n"),
    ],
)
def test_amazon_reviews_of_every_release(tmp_path, name, content):
    file = write(tmp_path / name, content)
    for reader in ("amazon_reviews", "amazon_grocery", "amazon_beauty_s3rec", "amazon_office_titles"):
        assert rows(READERS[reader](file)) == [["A2", "0005", 1390694400, "review", 4.0]]


def test_amazon_ratings_of_2018_name_the_item_first(tmp_path):
    file = write(
        tmp_path / "Beauty.csv",
        "0143026860,A1V6B6TNIC10QE,1.0,1424304000\n014789302X,A2DPLB8VTE3KQQ,2.0,1424304000\n",
    )
    assert rows(READERS["amazon_reviews"](file))[1][:2] == ["A2DPLB8VTE3KQQ", "014789302X"]
    with pytest.raises(DataError, match=r"the first record has none of the keys \['reviewerID', 'user_id'\]"):
        READERS["amazon_reviews"](write(tmp_path / "x.json", '{"a": 1}\n'))
    with pytest.raises(DataError, match=r"x.json, line 1: expected one JSON object a line"):
        READERS["amazon_reviews"](write(tmp_path / "x.json", "a,b\n"))


def test_s3rec_lines_and_attributes(tmp_path):
    file = write(tmp_path / "Toys_and_Games.txt", "u1 1 2 03\nu2 2 2\n")
    write(tmp_path / "Toys_and_Games_item2attributes.json", '{"1": [4, 5], "2": []}')
    dataset = READERS["amazon_beauty_s3rec"](tmp_path)
    assert rows(dataset, "user_id", "item_id", "timestamp") == [
        ["u1", "1", 0], ["u1", "2", 1], ["u1", "03", 2], ["u2", "2", 3], ["u2", "2", 4],
    ]  # fmt: skip
    assert dataset.items.values.tolist() == [["1", ["4", "5"]], ["2", []]]
    with pytest.raises(DataError, match=r"line 2: expected a user and at least one item, got \['u2'\]"):
        READERS["amazon_beauty_s3rec"](write(file, "u1 1\nu2\n"))


def test_ubi_in_two_files_without_index_lines(tmp_path):
    event = {
        "action_name": "impression",
        "client_id": "c",
        "query_id": "q1",
        "timestamp": "2024-12-10T00:01:29.378Z",
    }
    event["event_attributes"] = {
        "object": {"object_id": "007", "object_id_field": "asin"},
        "position": {"ordinal": 2},
    }
    search = {"action_name": "search", "client_id": "c", "query_id": "q2", "timestamp": 1733788889378}
    search |= {"message_type": "QUERY", "message": "go", "event_attributes": None}
    page = event | {
        "action_name": "page_exit",
        "event_attributes": {"object": {"object_id": "x", "object_id_field": "page"}},
    }
    write(tmp_path / "ubi_events.ndjson", "\n".join(map(json.dumps, [event, search, page])))
    write(tmp_path / "ubi_queries.ndjson", '{"query_id": "q1", "user_query": "red shoes"}\n')
    names = ("user_id", "item_id", "timestamp", "behavior", "query", "position")
    assert rows(READERS["search_ubi"](tmp_path), *names) == [
        ["c", "007", 1733788889, "impression", "red shoes", 2],
        ["c", None, 1733788889, "search", "go", None],
        ["c", None, 1733788889, "page_exit", "red shoes", None],
    ]
    write(tmp_path / "ubi_events.ndjson", "{}\n{\n")
    with pytest.raises(DataError, match=r"ubi_events.ndjson, line 2: expected one JSON object a line"):
        READERS["search_ubi"](tmp_path)


@pytest.mark.parametrize("name", sorted(READERS))
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(DataError, match=r"nowhere does not exist; expected a file, or a folder with one of"):
        READERS[name](tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds none of"):
        READERS[name](tmp_path)


def test_files_are_found_by_name_and_in_order(tmp_path):
    write(tmp_path / "b.csv", "x\n")
    assert find_file(tmp_path, "a.csv", "b.csv").name == "b.csv"
    write(tmp_path / "a.csv.gz", "x\n")
    assert find_file(tmp_path, "a.csv", "b.csv").name == "a.csv.gz"
    with pytest.raises(DataError, match=r"a.csv is not the expected table"):
        read_table(write(tmp_path / "a.csv", "x,y\n1,2\n1,2,3\n"), separator=",")


def test_the_most_frequent_word_wins_and_ties_are_alphabetical():
    words = pd.Series(["b", "a", "b", "a", "c", None])
    assert most_frequent(words, by=pd.Series(["k", "k", "k", "k", "m", "n"])).to_dict() == {
        "k": "a",
        "m": "c",
    }
