"""Lists against a slow oracle: whatever may be listed is one mask before the list, on every path."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from builders import make_sequences
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.errors import DataError
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval import ItemCatalogue, ItemFilter, Recommender, read_item_lists, recommend_with

NUM_ITEMS = 300
RAW = np.array([f"i{number}" for number in range(1, NUM_ITEMS + 1)], dtype=object)


@dataclass
class World:
    """A catalogue, scores of three users that hold many ties, and what limits a request."""

    items: pd.DataFrame
    scores: np.ndarray
    histories: list[list[int]]
    seen_items: str
    k: int
    rules: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@st.composite
def worlds(draw) -> World:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stock = generator.random(NUM_ITEMS) < draw(st.sampled_from([0.02, 0.3, 1.0]))
    items = pd.DataFrame(
        {
            "item_id": RAW,
            "in_stock": np.where(stock, "yes", "no"),
            "category": generator.choice(["a", "b", "c"], NUM_ITEMS),
            "training_events": generator.integers(0, 9, NUM_ITEMS),
        }
    )
    scores = generator.integers(-3, draw(st.sampled_from([-2, 4, 400])), (3, NUM_ITEMS + 1)).astype(np.float32)
    if draw(st.booleans()):
        scores[:, generator.integers(1, NUM_ITEMS, 30)] = -np.inf  # what the ranker cannot rank
    histories = [generator.integers(1, NUM_ITEMS + 1, size).tolist() for size in (0, 4, 200)]
    rules: list[dict[str, Any]] = []
    if draw(st.booleans()):
        rules.append({"action": "filter", "where": {"in_stock": "no"}})
    if draw(st.booleans()):
        rules.append({"action": "filter", "where": {"category": ["a"]}, "until": "2000-01-01"})  # long over
    options = {name: draw(some_lists(generator)) for name in ("allowed", "denied")}
    seen_items = draw(st.sampled_from(["kept", "excluded"]))
    return World(items, scores, histories, seen_items, draw(st.sampled_from([1, 10, 50, 400])), rules, options)


def some_lists(generator: np.random.Generator) -> st.SearchStrategy:
    """No list, one list, one a user, or a mapping that lacks a user."""

    def ids(size: int) -> list[str]:
        return [*generator.choice(RAW, size), "unknown"]

    forms = [None, ids(5), ids(120), [], [ids(3), ids(40), ids(0)], {"u0": ids(8), "u2": ids(150)}]
    return st.sampled_from(forms)


def oracle_eligible(world: World) -> np.ndarray:
    """`[3, V+1]` by loops over users and items."""
    hidden = any(rule["where"] == {"in_stock": "no"} for rule in world.rules)
    eligible = np.zeros((3, NUM_ITEMS + 1), dtype=bool)
    for user in range(3):
        for item in range(1, NUM_ITEMS + 1):
            lists = []
            for name in ("allowed", "denied"):
                given = world.options[name]
                if isinstance(given, dict):
                    given = given.get(f"u{user}")
                elif given and not isinstance(given[0], str):
                    given = given[user]
                lists.append(given)
            allowed, denied = lists
            eligible[user, item] = not (
                (hidden and world.items["in_stock"][item - 1] == "no")
                or (allowed is not None and RAW[item - 1] not in allowed)
                or (denied is not None and RAW[item - 1] in denied)
                or (world.seen_items == "excluded" and item in world.histories[user])
            )
    return eligible


def oracle_list(world: World, scores: np.ndarray, eligible: np.ndarray, order: np.ndarray) -> list[int]:
    """Eligible items by score and the catalogue's order, then the unranked ones by popularity and that order."""
    counts = world.items["training_events"].to_numpy()
    items = np.flatnonzero(eligible).tolist()
    ranked = sorted((item for item in items if scores[item] > -np.inf), key=lambda item: (-scores[item], order[item]))
    rest = sorted(
        (item for item in items if not scores[item] > -np.inf), key=lambda item: (-counts[item - 1], order[item])
    )
    return [*ranked, *rest][: world.k]


@pytest.fixture(scope="module")
def rules_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rules") / "rules.yaml"


@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_a_list_holds_the_best_eligible_items_and_is_as_long_as_they_last(world, rules_file):
    rules_file.write_text(yaml.safe_dump(world.rules), encoding="utf-8")
    catalogue = ItemCatalogue(world.items, ["view"], first_timestamp=0)
    order, histories = np.asarray(catalogue.order), make_sequences(world.histories)
    rows = {len(items): row for row, items in enumerate(world.histories)}
    ranker = FunctionRanker("given", lambda part: world.scores[[rows[length] for length in part.lengths.tolist()]])
    found = recommend_with(
        ranker,
        catalogue,
        histories,
        world.k,
        seen_items=world.seen_items,
        reranking=RerankConfig(rules=str(rules_file)) if world.rules else None,
        **world.options,
    )
    eligible = oracle_eligible(world)
    for user in range(3):
        expected = oracle_list(world, world.scores[user], eligible[user], order)
        assert len(expected) == min(world.k, eligible[user].sum())
        assert [item for item in found.item_ids[user].tolist() if item] == expected
    short = {f"u{user}": int(eligible[user].sum()) for user in range(3) if eligible[user].sum() < world.k}
    assert found.short_lists == short
    assert (found.note_on_short_lists is None) == (not short)


@pytest.fixture(scope="module")
def histories(loaded):
    """Three users of the tiny run: a long history, a short one, none."""
    raw = loaded.items["item_id"].tolist()
    return loaded.histories(
        [pd.DataFrame({"item_id": ids}) for ids in (raw[:30] * 2, raw[5:8], [])], ["long", "short", "none"]
    )[0]


def expected_lists(recommender: Recommender, histories, k: int, eligible: np.ndarray) -> list[list[str]]:
    scores, order = np.asarray(recommender.scores(histories)), np.asarray(recommender.catalogue.order)
    lists = []
    for user in range(histories.num_users):
        items = sorted(np.flatnonzero(eligible[user]), key=lambda item, user=user: (-scores[user, item], order[item]))
        lists.append(recommender.catalogue.raw_ids[np.array(items[:k], dtype=int) - 1].tolist())
    return lists


def lists_of(found) -> list[list[str]]:
    return [found.table["item_id"][found.table["user_id"] == user].tolist() for user in found.user_ids]


@pytest.mark.parametrize("k", [3, 20, 60])
@pytest.mark.parametrize("seen_items", ["kept", "excluded"])
def test_a_models_lists_hold_its_best_eligible_items(loaded, histories, k, seen_items):
    raw = loaded.items["item_id"].tolist()
    eligible = np.zeros((3, 61), dtype=bool)
    eligible[0, 21:61], eligible[1, 1:61], eligible[2, [4, 9]] = True, True, True
    eligible[:, 50:55] = False
    if seen_items == "excluded":
        eligible[0, 1:31], eligible[1, 6:9] = False, False
    allowed = {"long": raw[20:60], "none": [raw[3], raw[8]]}
    found = loaded.recommend(histories, k, allowed=allowed, denied=raw[49:54], seen_items=seen_items)
    assert lists_of(found) == expected_lists(loaded, histories, k, eligible)
    assert found.short_lists == {
        user: count for user, count in zip(found.user_ids, eligible.sum(axis=1), strict=True) if count < k
    }
    for place, user in enumerate(found.user_ids):  # one user goes through the engine
        alone = loaded.recommend(
            histories.select_users(np.array([place])), k, allowed=allowed, denied=raw[49:54], seen_items=seen_items
        )
        assert lists_of(alone) == [lists_of(found)[place]] and alone.user_ids.tolist() == [user]


def test_few_items_in_stock_fill_whole_lists(tmp_path):
    """5,000 items of which 106 are in stock: rules act before the best are chosen."""
    generator = np.random.default_rng(0)
    stock = np.isin(np.arange(5000), generator.choice(5000, 106, replace=False))
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(5000)], "in_stock": stock, "training_events": 1})
    rules = [
        {"action": "filter", "where": {"in_stock": False}},
        {"action": "pin", "where": {"item_id": f"i{int(np.flatnonzero(~stock)[0])}"}, "position": 1},
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    scores = generator.normal(size=(3, 5001)).astype(np.float32)
    ranker = FunctionRanker("drawn", lambda histories: scores[: histories.num_users])
    catalogue = ItemCatalogue(items, ["view"], first_timestamp=0)
    three = make_sequences([[1], [1], [1]])
    reranking = RerankConfig(rules=str(tmp_path / "rules.yaml"))
    for k, length in ((10, 10), (106, 106), (200, 106)):
        found = recommend_with(ranker, catalogue, three, k, reranking=reranking)
        assert (found.lengths == length).all() and stock[found.item_ids[found.item_ids > 0] - 1].all()
        best = np.argsort(-np.where(np.r_[False, stock], scores, -np.inf), axis=1)[:, :length]
        np.testing.assert_array_equal(found.item_ids[:, :length], best)
    assert found.note_on_short_lists == (
        "3 of 3 lists have fewer than 200 items, since no more may be listed: u0 (106), u1 (106), u2 (106)"
    )
    one = recommend_with(ranker, catalogue, ["i1"], 200, reranking=reranking)
    assert one.note_on_short_lists == "106 of 200 items, since no more may be listed"


def test_items_are_listed_from_the_time_when_they_are_available(tmp_path):
    items = pd.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "training_events": [0, 1, 2],
            "available_from": ["2030-01-01", None, "2030-01-01"],
            "first_timestamp": [np.iinfo(np.int64).max, 0, 5],  # c was in the log before
        }
    )
    ranker = FunctionRanker("constant", lambda histories: np.zeros((histories.num_users, 4), np.float32))
    catalogue = ItemCatalogue(items, ["view"], first_timestamp=0)
    for now, listed in ((1_700_000_000, {"b", "c"}), (1_900_000_000, {"a", "b", "c"})):
        assert set(recommend_with(ranker, catalogue, ["b"], now=now).table["item_id"]) == listed


def test_a_rules_file_that_changes_is_read_again(loaded, tmp_path):
    path, raw = tmp_path / "rules.yaml", loaded.items["item_id"].tolist()
    for hidden in (raw[:1], raw[1:2], raw[2:4]):
        path.write_text(yaml.safe_dump([{"action": "filter", "where": {"item_id": hidden}}]), encoding="utf-8")
        listed = loaded.recommend([raw[9]], 60, reranking=RerankConfig(rules=str(path))).table["item_id"]
        assert set(raw) - set(listed) == set(hidden)


def test_files_of_item_ids(tmp_path):
    (tmp_path / "ids.txt").write_text("a\n\n 007 \n", encoding="utf-8")
    assert read_item_lists(tmp_path / "ids.txt") == ["a", "007"]
    (tmp_path / "ids.csv").write_text("item_id\n007\nb\n", encoding="utf-8")
    assert read_item_lists(tmp_path / "ids.csv") == ["007", "b"]
    (tmp_path / "users.csv").write_text("user_id,item_id\n01,a\nu,b\n01,c\n", encoding="utf-8")
    assert read_item_lists(tmp_path / "users.csv") == {"01": ["a", "c"], "u": ["b"]}
    (tmp_path / "other.csv").write_text("id\na\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'item_id'"):
        read_item_lists(tmp_path / "other.csv")
    with pytest.raises(DataError, match="cannot read the item ids"):
        read_item_lists(tmp_path / "none.txt")


def test_wrong_lists_are_refused_and_unknown_ids_reported(loaded):
    raw = loaded.items["item_id"].tolist()
    with pytest.raises(DataError, match="allowed has 2 lists for 1 users; give one a user"):
        loaded.recommend([raw[0]], allowed=[[raw[1]], [raw[2]]])
    with pytest.raises(DataError, match="denied must be a collection of item ids, got the text 'abc'"):
        loaded.recommend([raw[0]], denied="abc")
    found = loaded.recommend([raw[0]], 2, allowed=[raw[1], "nothing", "sock"], denied={"history": ["hat"]})
    assert found.unknown_in_filters == ["hat", "nothing", "sock"]
    assert found.table["item_id"].tolist() == [raw[1]] and found.short_lists == {"history": 1}


def test_candidates_of_a_request_for_some_of_its_users(loaded):
    """The mask that an evaluation takes for a tile of users."""
    raw, base = loaded.items["item_id"].tolist(), np.arange(61) > 1
    both = ItemFilter(loaded.catalogue, ["u", "v", "w"], allowed=raw[:10], denied={"v": raw[4:6]})
    items = both.candidates(base, np.array([1, 0]))
    assert np.flatnonzero(items[0]).tolist() == [2, 3, 4, 7, 8, 9, 10]
    assert np.flatnonzero(items[1]).tolist() == list(range(2, 11))
    assert ItemFilter(loaded.catalogue, ["u"], denied=raw[:3]).candidates(base, np.array([0])).shape == (61,)
