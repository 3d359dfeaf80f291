"""What lists are like, against loops over users and cases worked by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import combinations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from seqrec_jax import metrics
from seqrec_jax.baselines import FunctionRanker, last_item, most_popular
from seqrec_jax.data.attributes import AttributeConfig
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import TRAIN, SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.evaluation.beyond import lists as module
from seqrec_jax.evaluation.beyond.lists import FIGURES, beyond_accuracy, beyond_accuracy_section
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import tail_items, training_counts

NUM_ITEMS, K = 25, 4
CONFIG = EvaluationConfig(metric="ndcg@4", cutoffs=(4, 6), num_resamples=200)


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.15, 80) + 2, 40)
    log = pd.DataFrame({"user_id": np.repeat([f"u{user:02}" for user in range(80)], lengths)})
    log["item_id"] = [f"i{int(NUM_ITEMS * value**2):02}" for value in rng.random(len(log))]
    log["timestamp"] = np.arange(len(log))
    items = pd.DataFrame({"item_id": [f"i{item:02}" for item in range(NUM_ITEMS)]})
    items["kind"] = [None if item % 7 == 3 else "abc"[item % 3] for item in range(NUM_ITEMS)]
    items["brand"] = ["abcdefgh"[item % 8] for item in range(NUM_ITEMS)]
    dataset = prepare_dataset(
        log, name="log", split=SplitConfig("leave_one_out"), items=items,
        attributes=AttributeConfig(categorical=("kind", "brand")),
    )  # fmt: skip
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items)
    train, size = dataset.training_sequences, dataset.num_items

    def scores(histories):
        return np.stack([np.random.default_rng(int(user[1:])).random(size + 1) for user in histories.user_ids])

    rankers = [
        FunctionRanker("random", lambda histories: scores(histories).astype(np.float32)),
        most_popular(train, num_items=size),
        last_item(num_items=size),
    ]
    return dataset, cases, [judge(ranker, cases, config=CONFIG) for ranker in rankers]


@pytest.fixture(scope="module")
def found(shop):
    vectors = np.random.default_rng(1).normal(size=(shop[0].num_items + 1, 5))
    return beyond_accuracy(shop[2], shop[0], shop[1], k=K, config=CONFIG, item_vectors=vectors), vectors


def of(found, system: str, figure: str) -> pd.Series:
    table = found.figures
    return table[(table["system"] == system) & (table["figure"] == figure)].iloc[0]


def test_figures_of_each_list_equal_loops(shop, found):
    dataset, cases, judged = shop
    found, vectors = found
    train = dataset.training_sequences
    counts = Counter(train.item_ids.tolist())
    owners = Counter(item for item, _ in set(zip(train.item_ids.tolist(), train.users_of_events.tolist(), strict=True)))
    kinds, brands = (dataset.items[name].tolist() for name in ("kind", "brand"))
    popular = judged[1].lists[:, :K]
    for entry in judged:
        table = found.per_user[entry.name]
        for user in range(len(cases.users)):
            items = [int(item) for item in entry.lists[user, :K] if item]
            history = cases.histories.item_ids[
                cases.histories.offsets[user] : cases.histories.offsets[user + 1]
            ].tolist()
            targets = cases.target_items[cases.target_offsets[user] : cases.target_offsets[user + 1]]
            row = table.iloc[user]
            bits = [-math.log2((owners[item] + 1) / (train.num_users + 1)) for item in items]
            assert row["novelty"] == pytest.approx(np.mean(bits), rel=1e-5)
            lift = np.mean([counts[item] for item in items]) / np.mean([counts[item] for item in history]) - 1
            assert row["popularity_lift"] == pytest.approx(lift, rel=1e-4, abs=1e-5)
            assert row["repeat_rate"] == pytest.approx(np.mean([item in history for item in items]))
            surprises = [item in targets and item not in popular[user] for item in items]
            assert row["serendipity"] == pytest.approx(np.mean(surprises))
            distances = []
            for one, two in combinations(items, 2):
                first, second = (
                    {("kind", kinds[item - 1]), ("brand", brands[item - 1])} - {("kind", None), ("kind", math.nan)}
                    for item in (one, two)
                )
                first, second = ({pair for pair in pairs if isinstance(pair[1], str)} for pairs in (first, second))
                distances.append(1 - len(first & second) / len(first | second))
            assert row["attribute_diversity"] == pytest.approx(np.mean(distances), abs=1e-6)
            units = vectors[items] / np.linalg.norm(vectors[items], axis=1, keepdims=True)
            cosines = [units[one] @ units[two] for one, two in combinations(range(len(items)), 2)]
            assert row["vector_diversity"] == pytest.approx(1 - np.mean(cosines), abs=1e-5)
            wanted, given = (
                Counter(kinds[item - 1] for item in ids if isinstance(kinds[item - 1], str)) for ids in (history, items)
            )
            if wanted and given:
                p = {kind: wanted[kind] / wanted.total() for kind in wanted}
                q = {kind: 0.99 * given[kind] / given.total() + 0.01 * p[kind] for kind in p}
                divergence = sum(p[kind] * math.log(p[kind] / q[kind]) for kind in p)
                assert row["miscalibration"] == pytest.approx(divergence, abs=1e-5)
            else:
                assert math.isnan(row["miscalibration"])


def test_serendipity_from_ranks_is_that_of_the_metrics(shop, found):
    _, cases, judged = shop
    targets = cases.padded(cases.target_items, np.arange(len(cases.users)))
    for entry in judged:
        direct = metrics.serendipity(
            jnp.asarray(entry.lists[:, :K]), jnp.asarray(targets), jnp.asarray(judged[1].lists[:, :K])
        )
        np.testing.assert_allclose(found[0].per_user[entry.name]["serendipity"], direct, rtol=1e-6)


def test_figures_of_all_lists_equal_counting(shop, found):
    dataset, cases, judged = shop
    found, _ = found
    tail = tail_items(training_counts(dataset))
    size = int(cases.candidates.sum())
    for entry in judged:
        lists = entry.lists[:, :K]
        shown = Counter(int(item) for item in lists.reshape(-1) if item)
        counts = sorted([*shown.values(), *[0] * (size - len(shown))])
        total = sum(counts)
        assert of(found, entry.name, "coverage")["mean"] == pytest.approx(len(shown) / size)
        gini = sum((2 * place - size - 1) * count for place, count in enumerate(counts, start=1)) / (size * total)
        assert of(found, entry.name, "gini")["mean"] == pytest.approx(gini, abs=1e-6)
        bits = -sum(count / total * math.log2(count / total) for count in shown.values())
        assert of(found, entry.name, "exposure_entropy")["mean"] == pytest.approx(bits / math.log2(size), abs=1e-5)
        share = sum(count for item, count in shown.items() if tail[item]) / total
        assert of(found, entry.name, "tail_share")["mean"] == pytest.approx(share)
        assert of(found, entry.name, "coverage")[["low", "high"]].isna().all()
        line = found.lorenz[entry.name]
        assert (line[0], line[-1]) == (0, 1) and (np.diff(line) >= 0).all()
        assert line[20] == pytest.approx(sum(counts[: size // 5]) / total, abs=0.05)
    assert of(found, "most popular", "personalisation")["mean"] == pytest.approx(0, abs=1e-6)
    assert of(found, "most popular", "serendipity")["mean"] == 0
    repeats = of(found, "last item again", "repeat_rate")
    assert repeats["low"] <= repeats["mean"] <= repeats["high"]
    assert repeats["mean"] > 2 * of(found, "random", "repeat_rate")["mean"]


def test_groups_have_their_shares_of_targets_and_of_places(shop, found):
    dataset, cases, judged = shop
    groups = found[0].groups.set_index("group")
    assert found[0].attribute == "kind" and set(groups.index) == {"(none)", "a", "b", "c"}
    kinds = [None, *dataset.items["kind"].tolist()]
    for name in groups.index:
        mine = [kind == name or (name == "(none)" and not isinstance(kind, str)) for kind in kinds]
        assert groups.loc[name, "demand"] == pytest.approx(np.mean([mine[item] for item in cases.target_items]))
        shown = [mine[item] for item in judged[0].lists[:, :K].reshape(-1) if item]
        assert groups.loc[name, "random"] == pytest.approx(np.mean(shown))
    np.testing.assert_allclose(groups.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("elements", [16, 300, 2**22])
def test_tiles_hold_every_user_once_and_are_no_larger_than_allowed(monkeypatch, elements):
    monkeypatch.setattr(module, "_TILE_ELEMENTS", elements)
    lengths = np.random.default_rng(2).geometric(0.05, 3000)
    seen = []
    for users, length, size in module._tiles(lengths, 4, 10):
        assert len(users) <= size and lengths[users].max() <= length
        assert size == 1 or size * max(4 * length, 10) <= elements
        seen.extend(users.tolist())
    assert sorted(seen) == list(range(3000))


def test_figures_do_not_depend_on_the_tiles(shop, found, monkeypatch):
    dataset, cases, judged = shop
    monkeypatch.setattr(module, "_TILE_ELEMENTS", 2000)
    again = beyond_accuracy(judged[:1], dataset, cases, k=K, config=CONFIG, item_vectors=found[1])
    columns = again.per_user["random"].columns
    assert "serendipity" not in columns  # no popular list among the systems
    pd.testing.assert_frame_equal(again.per_user["random"], found[0].per_user["random"][list(columns)], rtol=1e-6)


def test_the_section_has_a_column_a_figure(shop, found):
    section = beyond_accuracy_section(found[0], k=K, model="random")
    json.dumps(section, allow_nan=False)
    table, lorenz, groups = section["blocks"]
    assert len(table["columns"]) == 1 + len(FIGURES) and len(table["rows"]) == 3
    assert set(table["rows"][0][6]) == {"mean", "low", "high"} and isinstance(table["rows"][0][1], float)
    assert [line["name"] for line in lorenz["series"]] == ["random", "most popular", "last item again"]
    assert len(groups["rows"]) == 4 and "kind farthest from its demand is" in section["summary"]


def test_lists_from_elsewhere_and_data_without_attributes(shop):
    dataset, _, _ = shop
    log = pd.DataFrame({"user_id": ["a"] * 3 + ["b"] * 3, "item_id": list("xyzzyx"), "timestamp": range(6)})
    dataset = prepare_dataset(log, name="log", split=SplitConfig("leave_one_out"))
    cases = evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=3)
    judged = judge(most_popular(dataset.training_sequences, num_items=3), cases, config=CONFIG)
    judged = judged._replace(lists=np.array([[1, 99, 2, 0], [0, 0, -1, 99]]), name="theirs")
    found = beyond_accuracy([judged], dataset, cases, k=4, config=CONFIG)
    assert found.groups is None and found.attribute is None
    assert of(found, "theirs", "coverage")["mean"] == pytest.approx(2 / 3)
    assert found.per_user["theirs"]["novelty"].isna().tolist() == [False, True]
    beyond_accuracy_section(found, k=4, model="theirs")
    assert (dataset.split.parts == TRAIN).sum() == 2
    for k in (0, 5):
        with pytest.raises(ConfigError, match=f"k must be from 1 to 4, got {k}"):
            beyond_accuracy([judged], dataset, cases, k=k, config=CONFIG)
    with pytest.raises(ShapeError, match=r"item_vectors have shape \(3, 2\), expected \[4, E\]"):
        beyond_accuracy([judged], dataset, cases, k=4, config=CONFIG, item_vectors=np.zeros((3, 2)))


def test_many_groups_are_put_together():
    categories = np.concatenate([[0], np.arange(1, 31)])
    values = [f"v{value}" for value in range(1, 31)]
    found = module._groups(categories, values, np.repeat(np.arange(1, 31), np.arange(31, 1, -1)), {"m": np.ones(31)})
    assert len(found) == 20 and found["group"].iloc[-1] == "11 others"
    assert found["group"].iloc[0] == "v1" and found["demand"].sum() == pytest.approx(1)
