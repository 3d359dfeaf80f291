"""A run that recommends: against NumPy on the exported vectors, from a copy without its dataset, and bad requests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import TinyRun

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases, evaluation_cases
from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval import USERS_PER_TILE, Recommender, row_lengths
from seqrec_jax.scoring import catalogue_order


def asked_recommender(tiny_run: TinyRun, dataset: Dataset) -> Recommender:
    """Of an untrained model whose v_x depends on the behaviour to be predicted."""
    config = replace(tiny_run.config, model=replace(tiny_run.config.model, target_behavior=True))
    purchases = replace(dataset.split.config, target_behaviors=("purchase",))
    dataset = replace(dataset, split=replace(dataset.split, config=purchases))
    model, item_table = pipeline.build_model(config, dataset)
    params = model.init(jax.random.key(0))
    rows = params["target_behaviors"]["scale"]
    params["target_behaviors"] = {"scale": jax.random.normal(jax.random.key(1), rows.shape), "shift": rows + 0.1}
    return Recommender.for_dataset(dataset, model, params, item_table, length=10, name="asked")


@pytest.fixture(scope="module")
def dataset(tiny_run: TinyRun) -> Dataset:
    return read_dataset(tiny_run.dataset)


@pytest.fixture(scope="module")
def recommender(tiny_run: TinyRun, tmp_path_factory) -> Recommender:
    """Loaded from a copy of the run, elsewhere, whose record of the dataset's place leads nowhere."""
    copy = tmp_path_factory.mktemp("elsewhere") / "copied"
    shutil.copytree(tiny_run.run, copy)
    facts = (copy / "dataset.json").read_text(encoding="utf-8")
    (copy / "dataset.json").write_text(facts.replace(str(tiny_run.dataset), "/nowhere"), encoding="utf-8")
    return Recommender.load(copy)


def history_of(dataset: Dataset, user: int) -> pd.DataFrame:
    """A user's events as raw values, as another program would send them."""
    one = dataset.sequences.select_users(np.array([user]))
    return pd.DataFrame(
        {
            "item_id": dataset.items["item_id"].to_numpy()[one.item_ids - 1],
            "behavior": np.array(dataset.behaviors)[one.behaviors],
            "timestamp": one.timestamps,
        }
    )


def longest(dataset: Dataset) -> int:
    return int(np.argmax(dataset.sequences.lengths))


def brute_force_list(scores: np.ndarray, k: int, *, excluded=()) -> list[int]:
    """Item ids by falling score, equal ones by the catalogue's order, without what cannot be ranked."""
    priority = np.asarray(catalogue_order(len(scores) - 1, jax.random.key(0)))
    items = [item for item in range(1, len(scores)) if np.isfinite(scores[item]) and item not in excluded]
    return sorted(items, key=lambda item: (-scores[item], priority[item]))[:k]


def test_a_copied_run_recommends_without_its_dataset(recommender, dataset):
    history = history_of(dataset, longest(dataset))
    result = recommender.recommend(history, 5)
    assert list(result.table.columns) == ["user_id", "rank", "item_id", "score"]
    assert result.table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert set(result.table["item_id"]) <= set(dataset.items["item_id"])
    assert result.table["score"].is_monotonic_decreasing and result.table["score"].dtype == np.float32
    assert (result.unknown_items, result.without_history) == ([], [])
    users = dataset.sequences.select_users(np.array([longest(dataset)]))
    same = recommender.recommend(users, 5).table
    pd.testing.assert_frame_equal(result.table.drop(columns="user_id"), same.drop(columns="user_id"))
    assert set(same["user_id"]) == set(users.user_ids)


def test_scores_are_v_x_w_v_y_of_the_exported_vectors(tiny_run, recommender, dataset, tmp_path):
    users_path, items_path, weight_path = pipeline.embed(tiny_run.run, tmp_path / "vectors")
    users, items = pd.read_parquet(users_path), pd.read_parquet(items_path)
    assert users["user_id"].tolist() == list(dataset.sequences.user_ids)
    assert items["item_id"].tolist() == dataset.items["item_id"].tolist()
    v_x, v_y, weight = np.stack(users["vector"]), np.stack(items["vector"]), np.load(weight_path)
    assert (v_x.dtype, v_y.dtype, weight.shape) == (np.float32, np.float32, (8, 8))
    assert not np.allclose(weight, np.eye(8), atol=1e-3)  # else the test could not miss it
    scores = np.asarray(recommender.scores(dataset.sequences))[:, 1:]
    rankable = np.isfinite(scores[0])
    assert rankable.sum() >= 50
    np.testing.assert_allclose((v_x @ weight @ v_y.T)[:, rankable], scores[:, rankable], rtol=1e-4, atol=1e-5)
    for user in (0, 70, 149):
        listed = recommender.recommend(dataset.sequences.select_users(np.array([user])), 10).table["item_id"]
        assert list(items["item_id"].to_numpy()[np.array(brute_force_list(np.r_[0, scores[user]], 10)) - 1]) == list(
            listed
        )


def test_a_single_user_gets_what_a_tile_of_users_gives(recommender, dataset):
    many = np.asarray(recommender.scores(dataset.sequences))
    for user in range(0, 150, 30):
        one = np.asarray(recommender.scores(dataset.sequences.select_users(np.array([user]))))
        np.testing.assert_allclose(one[0], many[user], rtol=1e-5, atol=1e-6)
    vectors = recommender.user_vectors(dataset.sequences)
    assert vectors.shape == (150, 8) and vectors.dtype == np.float32
    one = recommender.user_vectors(dataset.sequences.select_users(np.array([3])))
    np.testing.assert_allclose(one[0], vectors[3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("longest", [1, 2, 10, 50, 200, 1023])
def test_a_row_holds_the_history_and_is_of_one_of_five_lengths(longest):
    lengths = np.arange(3 * longest)
    rows = row_lengths(lengths, longest=longest)
    assert (rows >= np.minimum(lengths, longest)).all() and rows.max() == longest
    assert len(set(rows)) <= 5
    # not much longer than the history either
    assert (rows <= np.maximum(2 * lengths, longest / 8 + 2)).all()
    assert rows.min() >= min(longest, 2)  # one event and a masked one after it
    np.testing.assert_array_equal(row_lengths(lengths[::-1], longest=longest), rows[::-1])


def test_a_users_vector_does_not_depend_on_the_other_users_to_the_last_bit(recommender, dataset):
    whole = recommender.user_vectors(dataset.sequences)
    lengths = row_lengths(dataset.sequences.lengths, longest=recommender.length)
    assert len(set(lengths)) > 2
    order = np.random.default_rng(0).permutation(150)
    for users in (order, order[:40], np.flatnonzero(lengths == lengths.min())[:2], np.tile(order, 3)):
        part = recommender.user_vectors(dataset.sequences.select_users(users))
        np.testing.assert_array_equal(part, whole[users])


def test_figures_of_a_model_depend_neither_on_the_order_nor_on_the_number_of_users(recommender, dataset):
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    config = EvaluationConfig(metric="ndcg@5", cutoffs=(1, 5), seen_items="excluded")
    many = some_cases(cases, np.tile(np.arange(len(cases.users)), 1 + 600 // len(cases.users)))
    whole = judge(recommender, many, config=config)
    order = np.random.default_rng(1).permutation(len(many.users))
    for users in (order, order[:30]):
        part = judge(recommender, some_cases(many, users), config=config)
        expected = whole.per_user.iloc[users].reset_index(drop=True)
        pd.testing.assert_frame_equal(part.per_user, expected, check_exact=True)
        np.testing.assert_array_equal(part.lists, whole.lists[users])
        np.testing.assert_array_equal(part.list_scores, whole.list_scores[users])


def some_cases(cases: EvaluationCases, users: np.ndarray) -> EvaluationCases:
    """The given cases with their first target only, an index may come twice."""
    return replace(
        cases,
        users=cases.users[users],
        histories=cases.histories.select_users(users),
        target_offsets=np.arange(len(users) + 1),
        target_items=cases.target_items[cases.target_offsets[users]],
    )


def test_every_user_of_many_gets_a_list_of_their_own(recommender, dataset):
    """More users than a tile holds, in an order of their own, so that the last tile is filled up."""
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(150), 2))
    assert len(order) > USERS_PER_TILE
    users = dataset.sequences.select_users(order)
    names = np.array([f"{place}" for place in range(len(order))], dtype=object)
    users = Sequences(**{**vars(users), "user_ids": names})
    table = recommender.recommend(users, 3).table
    assert table["user_id"].tolist() == list(np.repeat(names, 3))
    scores = np.concatenate([np.asarray(recommender.scores(dataset.sequences))])
    raw = dataset.items["item_id"].to_numpy()
    for place in (0, 1, 255, 256, 299):
        expected = raw[np.array(brute_force_list(scores[order[place]], 3)) - 1]
        assert table.loc[table["user_id"] == names[place], "item_id"].tolist() == list(expected)


def test_a_frame_with_user_ids_is_of_several_users(recommender, dataset):
    frames = [history_of(dataset, user).assign(user_id=f"00{user}") for user in (5, 9)]
    mixed = pd.concat(frames).sort_values("timestamp", kind="stable")
    table = recommender.recommend(mixed, 4).table
    for user in (5, 9):
        alone = recommender.recommend(history_of(dataset, user), 4).table
        assert table.loc[table["user_id"] == f"00{user}", "item_id"].tolist() == alone["item_id"].tolist()


def test_raw_item_ids_are_enough_and_only_the_last_events_count(recommender, dataset):
    raw = dataset.items["item_id"].tolist()
    history = [raw[number % 50] for number in range(3, 40, 2)]
    table = recommender.recommend(history, 5).table
    assert table["user_id"].tolist() == ["history"] * 5
    again = recommender.recommend(tuple(history[-recommender.length :]), 5).table
    pd.testing.assert_frame_equal(table, again)
    other = recommender.recommend(history[:-1], 5).table
    assert other["score"].tolist() != table["score"].tolist()


def test_unknown_items_are_reported_and_skipped(recommender, dataset):
    raw = dataset.items["item_id"].tolist()
    result = recommender.recommend([raw[7], "no such thing", raw[9], "0", "no such thing", "", None], 5)
    assert result.unknown_items == ["", "0", "no such thing"]
    assert result.without_history == []
    pd.testing.assert_frame_equal(result.table, recommender.recommend([raw[7], raw[9]], 5).table)


def test_without_a_known_history_the_most_popular_items_are_the_fallback(recommender, dataset):
    train = dataset.training_sequences
    counts = np.bincount(train.item_ids, minlength=dataset.num_items + 1).astype(float)
    expected = brute_force_list(counts, 6)
    assert counts[expected[0]] > counts[expected[-1]] > 0
    nobody = recommender.histories([pd.DataFrame({"item_id": []})], ["nobody"])[0]
    for history in ([], ["unknown"], pd.DataFrame({"item_id": pd.Series([], dtype=object)}), nobody):
        result = recommender.recommend(history, 6)
        assert result.table["item_id"].tolist() == dataset.items["item_id"].to_numpy()[np.array(expected) - 1].tolist()
        assert result.table["score"].tolist() == counts[expected].tolist()
        assert result.without_history == list(result.table["user_id"].unique())
    assert not recommender.user_vectors(nobody).any()


def test_a_user_without_history_among_others_changes_nobody(recommender, dataset):
    some = dataset.sequences.select_users(np.array([4, 5, 6]))
    keep = some.users_of_events != 1
    scores = np.asarray(recommender.scores(some.select_events(keep)))
    alone = np.asarray(recommender.scores(dataset.sequences.select_users(np.array([4, 6, 4]))))
    np.testing.assert_allclose(scores[[0, 2]], alone[:2], rtol=1e-5, atol=1e-6)
    result = recommender.recommend(some.select_events(keep), 2)
    assert result.without_history == [some.user_ids[1]]


def test_items_that_the_model_cannot_rank_are_in_no_list(recommender, dataset):
    """The attributes of the tiny shop give every item a vector; without any, an unseen item has none."""
    vectors = recommender.item_vectors()
    assert vectors.shape == (61, 8) and not vectors[0].any() and vectors[1:].any(axis=1).all()
    blind = recommender.with_params(jax.tree.map(np.asarray, recommender.params))
    blind.params["items"]["attributes"] = jax.tree.map(np.zeros_like, blind.params["items"]["attributes"])
    unseen = dataset.items["training_events"].to_numpy() == 0
    assert 0 < unseen.sum() < 10
    table = blind.recommend(dataset.sequences.select_users(np.array([0])), 100).table
    assert set(table["item_id"]) == set(dataset.items["item_id"][~unseen])
    fallback = blind.recommend([], 100).table
    assert set(fallback["item_id"]) == set(dataset.items["item_id"][~unseen])
    assert len(recommender.recommend([], 100).table) == 60  # which the first recommender did not lose


@pytest.mark.parametrize("k", [60, 61, 10**9])
def test_a_list_longer_than_the_catalogue_is_the_catalogue(recommender, dataset, k):
    table = recommender.recommend(history_of(dataset, 0), k).table
    assert sorted(table["item_id"]) == sorted(dataset.items["item_id"])
    assert table["rank"].tolist() == list(range(1, 61))
    again = recommender.recommend(history_of(dataset, 0), k, reranking=RerankConfig(repeat_boost=1e-9)).table
    assert again["item_id"].tolist() == table["item_id"].tolist()


def test_seen_items_are_left_out_where_asked_also_those_that_the_model_no_longer_looks_at(recommender, dataset):
    user = longest(dataset)
    history = history_of(dataset, user)
    seen = set(history["item_id"])
    assert len(history) > recommender.length
    assert len(seen - set(history["item_id"][-recommender.length :])) > 0
    kept = recommender.recommend(history, 60).table
    excluded = recommender.recommend(history, 60, seen_items="excluded").table
    assert excluded["item_id"].tolist() == [item for item in kept["item_id"] if item not in seen]
    assert excluded["rank"].tolist() == list(range(1, 61 - len(seen)))
    everybody = recommender.recommend(dataset.sequences, 60, seen_items="excluded").table
    theirs = everybody.loc[everybody["user_id"] == dataset.sequences.user_ids[user], "item_id"]
    assert theirs.tolist() == excluded["item_id"].tolist()


def test_rules_and_weights_of_the_re_ranking_reach_the_list(recommender, dataset, tmp_path):
    history = history_of(dataset, longest(dataset))
    plain = recommender.recommend(history, 60).table["item_id"].tolist()
    category = dataset.items.set_index("item_id")["category"]
    rules = [
        {"action": "filter", "where": {"category": category[plain[0]]}},
        {"action": "pin", "where": {"item_id": plain[30]}, "position": 1, "from": "2024-01-01", "until": "2025-01-01"},
    ]
    rules[1]["where"]["item_id"] = pinned = next(item for item in plain[30:] if category[item] != category[plain[0]])
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules), encoding="utf-8")
    config = RerankConfig(rules=str(path))
    left = [item for item in plain if category[item] != category[plain[0]]]
    then = recommender.recommend(history, 60, reranking=config, now=1_710_000_000).table["item_id"].tolist()
    assert then == [pinned, *(item for item in left if item != pinned)]
    later = recommender.recommend(history, 60, reranking=config, now=1_800_000_000).table["item_id"].tolist()
    assert later == left
    # a short list is filled from beyond its own length
    assert recommender.recommend(history, 3, reranking=config, now=1_800_000_000).table["item_id"].tolist() == left[:3]

    seen = set(history["item_id"])
    repeats = recommender.recommend(history, 5, reranking=RerankConfig(repeat_boost=100.0)).table["item_id"]
    assert set(repeats) <= seen
    diverse = recommender.recommend(history, 4, reranking=RerankConfig(diversity=1.0)).table["item_id"]
    assert diverse.iloc[0] == plain[0]
    vectors = recommender.item_vectors()[dataset.item_index(plain)]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert diverse.iloc[1] in [
        plain[place] for place in np.flatnonzero(unit @ unit[0] <= max(0, (unit @ unit[0]).min()))
    ]
    by_category = RerankConfig(diversity=1.0, diversity_attributes=("category",))
    assert category[recommender.recommend(history, 4, reranking=by_category).table["item_id"]].nunique() == 4


def test_other_params_give_another_recommender_and_leave_the_first_as_it_was(recommender, dataset):
    one = dataset.sequences.select_users(np.array([0]))
    before = np.asarray(recommender.scores(one))
    half = recommender.with_params(
        {**recommender.params, "bilinear": {"weight": recommender.params["bilinear"]["weight"] * 0.5}}
    )
    np.testing.assert_allclose(np.asarray(half.scores(one)), 0.5 * before, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(recommender.scores(one)), before)
    assert half.name == recommender.name == "sasrec"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"seen_items": "keep"}, "seen_items must be one of kept, excluded, got 'keep'"),
    ],
)
def test_a_wrong_request_is_refused(recommender, options, message):
    with pytest.raises(ConfigError) as raised:
        recommender.recommend(["sku-00001"], **options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"item": ["a"]}, "a history needs the column item_id, found ['item']"),
        (
            {"item_id": ["sku-00001"], "behavior": ["like"]},
            "behaviour 'like' is unknown to the model; it knows ['view', 'click', 'cart', 'purchase']",
        ),
        (
            {"item_id": ["sku-00001"], "timestamp": ["2024-01-01"]},
            "a history's timestamp must be whole seconds UTC, found 2024-01-01",
        ),
        (
            {"item_id": ["sku-00001"], "timestamp": pd.to_datetime(["2024-01-01"]).as_unit("s")},
            "a history's timestamp must be whole seconds UTC, found datetime64[s]",
        ),
        (
            {"item_id": ["sku-00001", "sku-00002"], "timestamp": [5, None]},
            "a history's timestamp must be whole seconds UTC, found nan",
        ),
        (
            {"item_id": ["sku-00001", "sku-00002"], "timestamp": [20, 10]},
            "a history must be in order of time, found 20 before 10; sort it by timestamp",
        ),
        (
            {"item_id": ["sku-00001"], "timestamp": [9_000_000_000]},
            "timestamps span 7295908820 to 7295908820 s from the dataset's first event, more than int32 holds "
            "(68 years); check for mixed units or clean out the outliers",
        ),
    ],
)
def test_a_wrong_history_is_refused(recommender, history, message):
    with pytest.raises(DataError) as raised:
        recommender.recommend(pd.DataFrame(history))
    assert str(raised.value) == message


def test_times_may_fall_between_users_and_numbers_of_ids_become_text(recommender):
    frames = [
        pd.DataFrame({"item_id": ["sku-00001", "sku-00002"], "timestamp": [1_704_200_000, 1_704_200_060.0]}),
        pd.DataFrame({"item_id": pd.Series([], dtype=object), "timestamp": pd.Series([], dtype=float)}),
        pd.DataFrame({"item_id": [7, 8.0], "timestamp": [1_704_100_000, 1_704_100_000]}),
    ]
    sequences, unknown = recommender.histories(frames, ["a", "b", "c"])
    assert sequences.lengths.tolist() == [2, 0, 0]
    assert sequences.timestamps.tolist() == [1_704_200_000, 1_704_200_060]
    assert unknown == ["7", "8"]
    empty = Sequences(**{**vars(sequences), "user_ids": np.array([], dtype=object), "offsets": np.array([0])})
    with pytest.raises(DataError, match="there is no user to recommend to"):
        recommender.recommend(empty)


def test_what_is_predicted_can_be_asked_for(tiny_run, recommender, dataset):
    asked = asked_recommender(tiny_run, dataset)
    few = dataset.sequences.select_users(np.arange(5))
    np.testing.assert_array_equal(asked.scores(few), asked.predicting("purchase").scores(few))  # the split's
    assert not np.allclose(asked.scores(few), asked.predicting("view").scores(few))
    with pytest.raises(ConfigError, match=r"behaviour 'buy' is unknown to the model; it knows \['view', "):
        asked.predicting("buy")
    with pytest.raises(ConfigError, match=r"train one with model\.target_behavior on to predict 'view'"):
        recommender.predicting("view")


def test_a_run_that_is_missing_or_damaged_is_refused(tiny_run, tmp_path):
    with pytest.raises(CheckpointError) as raised:
        Recommender.load(tmp_path / "none")
    assert str(raised.value) == (
        f"{tmp_path / 'none'} is not a run: it does not exist; give the directory that `seqrec train` wrote"
    )
    with pytest.raises(CheckpointError, match="it is empty or something else"):
        Recommender.load(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 7"):
        Recommender.load(tiny_run.run, step=7)

    copy = tmp_path / "copy"
    shutil.copytree(tiny_run.run, copy)
    for step in sorted((copy / "checkpoints").iterdir()):
        (step / "params").rename(step / "gone")
    with pytest.raises(CheckpointError, match="does not fit this model, or is damaged"):
        Recommender.load(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="does not exist: nothing was trained there, or the path is wrong"):
        Recommender.load(copy)
    (copy / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"has no a whole checkpoint|has no whole checkpoint"):
        Recommender.load(copy)
    (copy / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"items\.parquet is missing or damaged"):
        Recommender.load(copy)


def test_a_checkpoint_whose_bytes_are_wrong_is_refused(tiny_run, tmp_path):
    """In a process of its own, since Orbax leaves the reads that were under way behind when one of them fails."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run.run, copy)
    for step in sorted((copy / "checkpoints").iterdir()):
        for file in (step / "params" / "ocdbt.process_0" / "d").iterdir():
            file.write_bytes(file.read_bytes()[:-5])
        for file in (step / "params" / "d").iterdir():
            file.write_bytes(b"x" + file.read_bytes()[1:-5])
    command = [sys.executable, "-m", "seqrec_jax.cli", "recommend", "--checkpoint", str(copy), "--history", "a"]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(
        r"^seqrec recommend: checkpoint \d+ in .* does not fit this model, or is damaged: ", done.stderr, re.M
    )


def test_a_checkpoint_of_another_model_is_refused(tiny_run, tmp_path):
    shutil.copytree(tiny_run.run, tmp_path / "copy")
    path = tmp_path / "copy" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"]["encoder"]["num_layers"] = 2
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not fit this model, or is damaged"):
        Recommender.load(tmp_path / "copy")
