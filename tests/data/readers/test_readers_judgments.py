"""Judgments and experiments: the counts that their files are known to have, and small files by hand."""

import json

import pytest

from seqrec_jax.data.readers.judgments import read_cookie_cats, read_esci_judgments, read_home_depot_judgments
from seqrec_jax.errors import DataError


def test_the_real_files_have_the_stated_counts(shared_data):
    pairs = read_home_depot_judgments(shared_data / "search_home_depot")
    assert (len(pairs), pairs["query"].nunique(), pairs["item_id"].nunique()) == (74_067, 11_795, 54_667)
    assert pairs["relevance"].between(1, 3).all()
    graded = read_esci_judgments(shared_data / "search_ubi")
    assert (len(graded), graded["query"].nunique()) == (6_678, 150)
    users = read_cookie_cats(shared_data / "ab_cookie_cats")
    assert users["group"].value_counts().to_dict() == {"gate_30": 44_700, "gate_40": 45_489}
    assert users["user_id"].is_unique
    assert 0.1 < users["retained_7_days"].mean() < users["retained_1_day"].mean() < 0.5


def test_small_files(tmp_path):
    (tmp_path / "train.csv").write_text(
        'id,product_uid,product_title,search_term,relevance\n2,007,"Caf\xe9, round",NA,2.5\n', encoding="latin-1"
    )
    assert read_home_depot_judgments(tmp_path).values.tolist() == [["NA", "007", "Café, round", 2.5]]
    ratings = {"judgmentRatings": [{"query": "tea", "ratings": [{"docId": "B1", "rating": "10.000"}]}]}
    (tmp_path / "esci_us_judgments.json").write_text(json.dumps(ratings))
    assert read_esci_judgments(tmp_path).values.tolist() == [["tea", "B1", 10.0]]
    (tmp_path / "cookie_cats.csv").write_text(
        "userid,version,sum_gamerounds,retention_1,retention_7\n01,gate_40,3,True,False\n"
    )
    assert read_cookie_cats(tmp_path).values.tolist() == [["01", "gate_40", 3, True, False]]


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds none of train\.csv\.zip"):
        read_home_depot_judgments(tmp_path)
    (tmp_path / "esci_us_judgments.json").write_text('{"judgmentRatings": [{"query": "tea"}]}')
    with pytest.raises(DataError, match=r"is not a list of judgments.*ratings"):
        read_esci_judgments(tmp_path)
    (tmp_path / "cookie_cats.csv").write_text("userid,version\n1,gate_30\n")
    with pytest.raises(DataError, match="sum_gamerounds"):
        read_cookie_cats(tmp_path)
