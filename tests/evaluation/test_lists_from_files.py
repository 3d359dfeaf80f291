"""Lists of other systems, in every format, against sorting in plain Python; and what becomes of what does not fit."""

from __future__ import annotations

import gzip
import random
import re
from itertools import pairwise

import jax
import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import judge, judge_lists
from seqrec_jax.evaluation.lists import match_lists, read_lists, read_qrels, trec_table, write_trec
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.scoring import catalogue_order

NUM_USERS, NUM_ITEMS = 8, 9
CONFIG = EvaluationConfig(metric="ndcg@3", cutoffs=(3,), num_resamples=100)


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(NUM_USERS), 5)
    # the last user has two events and is not evaluated
    users = users[: NUM_USERS * 5 - 3]
    log = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in rng.integers(1, NUM_ITEMS + 1, len(users))],
            "timestamp": np.arange(len(users)) * 60,
        }
    )
    items = pd.DataFrame({"item_id": [f"i{item}" for item in range(1, NUM_ITEMS + 1)]})
    dataset = prepare_dataset(log, name="shop", split=SplitConfig(rule="leave_one_out"), items=items)
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=NUM_ITEMS)
    assert len(cases.users) == NUM_USERS - 1
    return dataset, cases


def entries(*rows, columns=("user_id", "item_id", "rank", "score")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)[: len(rows[0])])


FULL = entries(
    *[
        (f"u{user}", f"i{1 + (user + place) % NUM_ITEMS}", place + 1, 1.5 - place)
        for user in range(7)
        for place in range(3)
    ]
)


def write(table: pd.DataFrame, folder, kind: str):
    path = folder / f"lists.{kind}"
    if kind in ("csv", "tsv"):
        table.to_csv(path, index=False, sep={"csv": ",", "tsv": "\t"}[kind])
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "nested.parquet":
        lists = table.groupby("user_id", sort=False).agg(item_ids=("item_id", list), scores=("score", list))
        lists.reset_index().to_parquet(path)
    else:
        lines = "".join(f"{row.user_id} Q0 {row.item_id}\t{row.rank} {row.score} mine\n" for row in table.itertuples())
        path.write_bytes(gzip.compress(lines.encode()) if kind.endswith("gz") else lines.encode())
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "nested.parquet", "run", "trec", "run.gz"])
def test_every_format_gives_the_same_lists(shop, tmp_path, kind):
    read = read_lists(write(FULL, tmp_path, kind))
    assert list(read.columns) == ["user_id", "item_id", "rank", "score"]
    found = match_lists(read, *shop, k=3)
    expected = [[1 + (user + place) % NUM_ITEMS for place in range(3)] for user in range(7)]
    assert found.lists.dtype == np.int32 and found.lists.tolist() == expected
    np.testing.assert_array_equal(found.scores, np.tile(np.float32([1.5, 0.5, -0.5]), (7, 1)))
    assert found.covered.all() and not found.blocked.any() and found.sentences == []
    assert {name: count for name, count in found.facts.items() if count} == {"entries": 21, "users": 7}


def test_a_file_is_what_the_format_says_it_is(shop, tmp_path):
    path = write(FULL, tmp_path, "run").rename(tmp_path / "lists.txt")
    assert match_lists(read_lists(path, format="trec"), *shop, k=3).facts["entries"] == 21
    with pytest.raises(ConfigError, match="format must be one of table, trec, got 'json'"):
        read_lists(path, format="json")


def brute_force(table: pd.DataFrame, dataset, cases, k: int):
    """Lists and counts, one user and entry after another."""
    priority = np.asarray(catalogue_order(NUM_ITEMS, jax.random.key(0)))
    numbers = {name: number for number, name in enumerate(dataset.items["item_id"], start=1)}
    lists, facts = [], dict.fromkeys(["tied_entries", "irregular_ranks", "contradicting_scores"], 0)
    facts |= dict.fromkeys(["entries_beyond_k", "short_lists", "unknown_items", "repeated_items", "users_missing"], 0)
    for user in dataset.sequences.user_ids[cases.users]:
        own = [row for row in table.to_dict("records") if row["user_id"] == user]
        own.sort(key=lambda row: (row["rank"], -row["score"], priority[numbers.get(row["item_id"], 0)]))
        keys = [(row["rank"], row["score"]) for row in own]
        facts["tied_entries"] += sum(keys.count(key) > 1 for key in keys)
        facts["irregular_ranks"] += [row["rank"] for row in own] != list(range(1, len(own) + 1))
        facts["contradicting_scores"] += any(
            a["rank"] < b["rank"] and a["score"] < b["score"] for a, b in pairwise(own)
        )
        facts["entries_beyond_k"] += max(0, len(own) - k)
        facts["short_lists"] += 0 < len(own) < k
        facts["users_missing"] += not own
        placed = []
        for row in own[:k]:
            item = numbers.get(row["item_id"], 0)
            facts["unknown_items"] += item == 0
            facts["repeated_items"] += item > 0 and item in placed
            placed.append(0 if item in placed else item)
        lists.append(placed + [0] * (k - len(placed)))
    return lists, facts


@pytest.mark.parametrize("seed", range(6))
def test_lists_and_counts_equal_doing_it_one_by_one(shop, seed):
    draw = random.Random(seed)
    rows = []
    for user in ["u0", "u1", "u2", "u4", "u5", "u6"]:
        for _ in range(draw.randrange(1, 9)):
            rows.append((user, f"i{draw.randrange(1, NUM_ITEMS + 5)}", draw.randrange(1, 7), draw.randrange(3)))
    draw.shuffle(rows)
    table = entries(*rows)
    found = match_lists(table, *shop, k=4, duplicates="first")
    lists, facts = brute_force(table, *shop, k=4)
    assert found.lists.tolist() == lists
    assert {name: found.facts[name] for name in facts} == facts
    assert int(found.blocked.sum()) == facts["unknown_items"] + facts["repeated_items"]
    assert not found.lists[found.blocked].any()
    assert found.covered.tolist() == [True, True, True, False, True, True, True]


def test_listing_junk_or_repeating_oneself_does_not_help(shop):
    dataset, cases = shop
    target = dataset.items["item_id"].iloc[cases.target_items[0] - 1]
    other = next(name for name in dataset.items["item_id"] if name != target)

    def ndcg(*items, **options):
        table = entries(*[("u0", item, place) for place, item in enumerate(items, start=1)])
        found = match_lists(table, dataset, cases, k=3, **options)
        judged = judge_lists("theirs", found.lists, cases, config=CONFIG, list_scores=found.scores)
        return found, judged.per_user["ndcg@3"].iloc[0]

    found, value = ndcg("no such item", target)
    assert value == pytest.approx(1 / np.log2(3)) and found.blocked[0].tolist() == [True, False, False]
    assert ndcg(other, other, target, duplicates="first")[1] == pytest.approx(1 / np.log2(4))
    assert ndcg(target)[1] == 1.0


def test_what_did_not_fit_is_said(shop):
    dataset, cases = shop
    seen = dataset.items["item_id"].iloc[cases.histories.item_ids[0] - 1]
    unseen = next(
        name
        for number, name in enumerate(dataset.items["item_id"], start=1)
        if number not in cases.histories.item_ids[: cases.histories.offsets[1]]
    )
    table = entries(
        ("u0", seen, 0, 0.5),
        ("u0", unseen, 2, 0.7),
        ("u1", "junk", 1, 1.0),
        ("u1", "i2", 1, 1.0),
        ("u2", None, None, None),
        ("u7", "i1", 1, 1.0),
        ("stranger", "i1", 1, 1.0),
    )
    candidates = cases.candidates.copy()
    candidates[2] = False
    cases = type(cases)(**{**vars(cases), "candidates": candidates})
    found = match_lists(table, dataset, cases, k=3, seen_items="excluded")
    counts = {"entries": 7, "users": 5, "users_unknown": 1, "users_not_evaluated": 1, "users_missing": 4}
    counts |= {"entries_without_item": 1, "entries_beyond_k": 0, "short_lists": 3, "unknown_items": 1}
    counts |= {"unavailable_items": 1 + int(unseen == "i2"), "seen_items": found.facts["seen_items"]}
    counts |= {"repeated_items": 0, "tied_entries": 2, "irregular_ranks": 2, "contradicting_scores": 1}
    assert found.facts == counts and 1 <= found.facts["seen_items"] <= 2
    assert found.covered.tolist() == [True, True, True, False, False, False, False]
    assert found.lists[1].tolist() == [0, 2, 0]  # a tie with an unknown item is lost
    assert found.scores[1].tolist() == [1.0, 1.0, -np.inf]
    text = " ".join(found.sentences)
    for words in (
        "4 of 7 evaluated users have no list: they count as misses",
        "1 users of the file are not in the log",
        "1 users of the file are not evaluated",
        "1 entries of evaluated users name no item",
        "3 lists have fewer than 3 entries",
        "1 places hold items that the dataset does not have; they keep their places and are misses",
        "of the user's history, which this protocol excludes",
        "2 entries share rank and score with another of their list",
        "2 lists have ranks that do not start at 1, have gaps or come twice",
        "1 lists have a score that rises with the rank; the rank decides",
    ):
        assert words in text
    kept = match_lists(table, dataset, cases, k=3)
    assert kept.facts["seen_items"] == 0 and kept.lists.tolist() == found.lists.tolist()


def test_lists_without_scores_or_ranks(shop):
    ranked = match_lists(FULL.drop(columns="score"), *shop, k=4)
    assert np.isnan(ranked.scores).all() and ranked.sentences[-1] == "The lists have no scores."
    scored = match_lists(FULL.drop(columns="rank").sample(frac=1, random_state=0), *shop, k=4)
    np.testing.assert_array_equal(ranked.lists, scored.lists)
    assert scored.facts["irregular_ranks"] == scored.facts["contradicting_scores"] == 0


def test_a_user_with_an_empty_list_was_served(shop, tmp_path):
    table = pd.DataFrame({"user_id": ["u0", "u1"], "item_ids": [["i1", "i2"], []]})
    table.to_parquet(tmp_path / "l.parquet")
    found = match_lists(read_lists(tmp_path / "l.parquet"), *shop, k=2)
    assert found.covered.tolist() == [True, True] + [False] * 5
    assert found.lists[:2].tolist() == [[1, 2], [0, 0]]
    assert found.facts["entries_without_item"] == found.facts["short_lists"] == 1


def test_number_ids_match_the_text_ids_of_the_log(tmp_path):
    log = pd.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [10, 11, 12, 11, 10, 12], "timestamp": range(6)})
    dataset = prepare_dataset(log, name="numbers", split=SplitConfig(rule="leave_one_out"))
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=3)
    pd.DataFrame({"user_id": [1, 2], "item_ids": [[12, 10], [11, 99]]}).to_parquet(tmp_path / "l.parquet")
    found = match_lists(read_lists(tmp_path / "l.parquet"), dataset, cases, k=2)
    assert found.lists.tolist() == [[3, 1], [2, 0]]


BAD = {
    "no rows": (FULL[:0], "the table of lists has no rows; expected at least one entry of a list"),
    "no order": (
        FULL[["user_id", "item_id"]],
        "the table of lists has neither a column 'rank' nor 'score' (columns found: user_id, item_id), which decide",
    ),
    "no column": (FULL.rename(columns={"item_id": "item"}), "the table of lists: no column 'item_id'; did you"),
    "no user": (FULL.assign(user_id=None), "the table of lists: row 0 has no user_id (and 21 rows in all)"),
    "nan score": (
        FULL.assign(score=[1.0] * 4 + [np.nan] * 2 + [1.0] * 15),
        "the score of user 'u1' in row 4 (item 'i3') is missing or nan, expected a finite number; 2 such rows in all",
    ),
    "infinite score": (FULL.assign(score=np.inf), "the score of user 'u0' in row 0 (item 'i1') is inf, expected"),
    "words for ranks": (FULL.assign(rank="first"), "the rank of user 'u0' in row 0 (item 'i1') is 'first', expected a"),
    "doubled item": (
        FULL.assign(item_id="i4"),
        "the list of user 'u0' has item 'i4' more than once (14 such entries in all); remove them, or let the first",
    ),
    "other users": (
        FULL.assign(user_id=FULL["user_id"].str.upper()),
        "names none of the 7 evaluated users: its ids are like 'U0', 'U1', 'U2', the dataset's like 'u0', 'u1', 'u2'",
    ),
    "other items": (
        FULL.assign(item_id=FULL["item_id"].str.upper()),
        "lists none of the 9 items of the dataset: its ids are like 'I1', 'I2', 'I3', the dataset's like 'i1', 'i2'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_lists_that_cannot_be_used_are_refused(shop, case):
    table, message = BAD[case]
    with pytest.raises(DataError, match=re.escape(message)):
        match_lists(table, *shop, k=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 3, "duplicates": "last"}, "duplicates must be one of error, first, got 'last'"),
        ({"k": 3, "seen_items": "gone"}, "seen_items must be one of kept, excluded, got 'gone'"),
    ],
)
def test_options_out_of_range_are_refused(shop, options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        match_lists(FULL, *shop, **options)


BAD_FILES = {
    "none.run": (None, "none.run is not a file; expected a TREC run"),
    "none.csv": (None, "none.csv does not exist"),
    "empty.run": ("", "empty.run holds no text; expected a TREC run, lines of 6 fields: user_id Q0 item_id rank"),
    "table.run": ("user_id,item_id,rank\n", "is not a TREC run: the first line is 'user_id,item_id,rank', expected 6"),
    "short.run": ("a Q0 i 1 2.0 t\nb Q0 i 1 2.0\n", "short.run, row 1: 'b Q0 i 1 2.0' is too short, expected 6 fields"),
    "long.run": ("a Q0 i 1 2.0 t\nb Q0 i 1 2.0 my tag\n", "Expected 6 fields in line 2, saw 7"),
    "nan.run": ("a Q0 i 1 nan t\n", "nan.run: the score of user 'a' in row 0 (item 'i') is missing or nan"),
    "broken.parquet": ("PAR", "broken.parquet is not a readable Parquet file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_hold_no_lists_are_refused(tmp_path, name):
    content, message = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read_lists(tmp_path / name)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_ids": [["i1"], ["i2"]], "scores": [[0.5], [0.5, 0.1]]}, "row 1 (user 'b') has 1 item_ids and 2 scores"),
        ({"item_ids": ["i1", "i2"]}, "column 'item_ids' holds"),
    ],
)
def test_lists_in_cells_that_do_not_fit_are_refused(tmp_path, columns, message):
    pd.DataFrame({"user_id": ["a", "b"], **columns}).to_parquet(tmp_path / "l.parquet")
    with pytest.raises(DataError, match=re.escape(message)):
        read_lists(tmp_path / "l.parquet")


def test_our_lists_come_back_from_a_trec_run_and_targets_from_qrels(shop, tmp_path):
    dataset, cases = shop
    table = np.round(np.random.default_rng(0).random((NUM_USERS, NUM_ITEMS + 1)), 1).astype(np.float32)

    class Ours:
        name = "our model"

        def scores(self, histories):
            return table[[int(user[1:]) for user in histories.user_ids]]

    judged = judge(Ours(), cases, config=CONFIG)
    run, qrels = trec_table(judged, dataset, cases)
    assert set(run["tag"]) == {"our_model"} and run["score"].tolist() == (4 - run["rank"]).tolist()
    back = match_lists(read_lists(write_trec(run, tmp_path / "ours.run")), dataset, cases, k=3)
    np.testing.assert_array_equal(back.lists, judged.lists)
    again = judge_lists("back", back.lists, cases, config=CONFIG)
    np.testing.assert_array_equal(again.per_user["ndcg@3"], judged.per_user["ndcg@3"])
    judgments = read_qrels(write_trec(qrels, tmp_path / "targets.qrels"))
    assert judgments["user_id"].tolist() == [f"u{user}" for user in range(7)]
    np.testing.assert_array_equal(dataset.item_index(judgments["item_id"].tolist()), cases.target_items)
    assert set(judgments["relevance"]) == {1.0}


def test_qrels_and_ids_that_the_format_cannot_hold_are_refused(tmp_path):
    path = tmp_path / "a.qrels"
    path.write_text("u 0 i 1\nu 0 i 0\n")
    with pytest.raises(DataError, match=re.escape("judges item 'i' of user 'u' twice (1 such rows in all)")):
        read_qrels(path)
    path.write_text("u 0 i much\n")
    with pytest.raises(DataError, match="row 0: the relevance is 'much', expected a number"):
        read_qrels(path)
    with pytest.raises(DataError, match="user_id 'a b' has a space in it"):
        write_trec(pd.DataFrame({"user_id": ["a b"], "item_id": ["i"]}), path)
