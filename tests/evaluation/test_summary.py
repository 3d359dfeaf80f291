"""What is reported against NumPy on the per-user table, and against the statistics called directly."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.judging import judge_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig, metric_names
from seqrec_jax.evaluation.protocol_card import protocol_fingerprint
from seqrec_jax.evaluation.report.examples import example_users
from seqrec_jax.evaluation.summary import compare, evaluate
from seqrec_jax.evaluation.systems import Contender
from seqrec_jax.scoring import UNREACHABLE
from seqrec_jax.statistics import bootstrap_means, holm_correction, paired_differences

NUM_ITEMS = 12
CONFIG = EvaluationConfig(cutoffs=(3, 10), num_resamples=200, parts=("audit",))
PROBABILITIES = ("log_loss", "confidence")  # which these rankers do not give


def make_log(lengths, *, seed=0, seconds_apart=60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    users = np.repeat([f"u{user:03}" for user in range(len(lengths))], lengths)
    popularity = np.arange(1, NUM_ITEMS + 1) ** 2 / sum(np.arange(1, NUM_ITEMS + 1) ** 2)
    return pd.DataFrame(
        {
            "user_id": users,
            "item_id": [f"i{item:02}" for item in 1 + rng.choice(NUM_ITEMS, len(users), p=popularity)],
            "timestamp": np.arange(len(users)) * seconds_apart,
        }
    )


def make_dataset(log, *, rule="leave_one_out", **options):
    items = pd.DataFrame({"item_id": [f"i{item:02}" for item in range(1, NUM_ITEMS + 1)]})
    items["title"] = [f"Title {item}" if item % 2 else None for item in range(1, NUM_ITEMS + 1)]
    options = {"cleaning": {"dropped": {}}, **options}
    return prepare_dataset(log, name="log", split=SplitConfig(rule=rule), items=items, **options)


def cases_of(dataset, **options):
    return evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items, **options)


def random_ranker(name: str, seed: int, *, unreachable=()) -> FunctionRanker:
    """Scores that depend on the user's id alone; rounded, so that some tie."""

    def scores(histories):
        rows = [np.random.default_rng([seed, int(user[1:])]).normal(size=NUM_ITEMS + 1) for user in histories.user_ids]
        table = np.round(np.array(rows, dtype=np.float32), 1)
        table[:, list(unreachable)] = -np.inf
        return table

    return FunctionRanker(name, scores)


CONTENDERS = [
    Contender(random_ranker("gru", 1, unreachable=[4]), "model"),
    Contender(random_ranker("most popular", 2), "baseline"),
    Contender(random_ranker("last item again", 3), "baseline"),
    Contender(random_ranker("optimum", 4), "ceiling"),
]


@pytest.fixture(scope="module")
def whole():
    dataset = make_dataset(make_log(np.random.default_rng(0).integers(2, 30, 150)))
    cases = cases_of(dataset)
    return dataset, cases, evaluate(CONTENDERS, dataset, cases, config=CONFIG, protocol={"note": "a fact"})


def test_the_per_user_table_has_a_row_a_system_and_user_and_its_means_are_the_figures(whole):
    dataset, cases, evaluation = whole
    table = evaluation.per_user
    assert len(table) == len(CONTENDERS) * len(cases.users)
    assert not table.duplicated(["system", "user_id"]).any()
    assert list(table["system"].unique()) == [contender.system.name for contender in CONTENDERS]
    assert set(table["user_id"]) == set(dataset.sequences.user_ids[cases.users])
    for system, contender in zip(evaluation.result["systems"], CONTENDERS, strict=True):
        assert (system["name"], system["kind"]) == (contender.system.name, contender.kind)
        assert list(system["metrics"]) == [name for name in metric_names(CONFIG.cutoffs) if name not in PROBABILITIES]
        rows = table[table["system"] == system["name"]]
        for name, figure in system["metrics"].items():
            assert figure["mean"] == pytest.approx(np.nanmean(rows[name].to_numpy(dtype=float)), abs=1e-12)
            direct = bootstrap_means(rows[[name]], num_resamples=200, seed=0)
            assert (figure["low"], figure["high"]) == pytest.approx((direct.low[0], direct.high[0]), abs=1e-12)
            reachable = rows[name][rows["rank"].notna()].to_numpy(dtype=float)
            assert figure["reachable_mean"] == pytest.approx(np.nanmean(reachable), abs=1e-12)
        assert system["users_per_second"] > 0
    model = evaluation.result["systems"][0]
    missing = table.loc[table["system"] == "gru", "rank"].isna()
    assert missing.sum() == (cases.target_items == 4).sum() > 0
    assert model["metrics"]["ndcg@10"]["reachable_mean"] > model["metrics"]["ndcg@10"]["mean"]


def test_the_per_user_table_says_what_is_known_of_user_and_target(whole):
    dataset, _, evaluation = whole
    log = pd.DataFrame(
        {
            "user": dataset.sequences.user_ids[dataset.sequences.users_of_events],
            "item": dataset.items["item_id"].to_numpy()[dataset.sequences.item_ids - 1],
        }
    )
    rows = evaluation.per_user[evaluation.per_user["system"] == "gru"].set_index("user_id")
    sizes = log.groupby("user").size()
    # the last two events of users with at least three are held out
    train = log[(log.groupby("user").cumcount(ascending=False) >= 2) | (log["user"].map(sizes) < 3)]
    assert set(rows.index) == set(sizes.index[sizes >= 3])
    for user, row in rows.iterrows():
        items = log.loc[log["user"] == user, "item"]
        assert (row["history_length"], row["targets"]) == (len(items) - 1, 1)
        assert row["first_target"] == items.iloc[-1]
        assert row["first_target_popularity"] == (train["item"] == row["first_target"]).sum()


def test_comparisons_are_those_of_the_statistics_with_baselines_only(whole):
    _, _, evaluation = whole
    by_name = {judged.name: judged.per_user[["ndcg@10"]].to_numpy() for judged in evaluation.judged}
    names = ["most popular", "last item again"]
    direct = [paired_differences(by_name["gru"], by_name[name], num_resamples=200, seed=0) for name in names]
    holm = holm_correction(np.array([difference.p_value[0] for difference in direct]))
    rows = evaluation.result["comparisons"]
    assert [row["baseline"] for row in rows] == names
    for row, name, difference, p_holm in zip(rows, names, direct, holm, strict=True):
        assert row["metric"] == "ndcg@10"
        assert row["difference"] == pytest.approx(float(np.mean(by_name["gru"] - by_name[name])), abs=1e-7)
        for key in ("low", "high", "p_value", "effect_size"):
            assert row[key] == pytest.approx(getattr(difference, key)[0])
        assert row["p_holm"] == p_holm >= row["p_value"]


def test_nothing_is_compared_without_a_model_or_without_baselines(whole):
    dataset, cases, _ = whole
    for contenders in (CONTENDERS[1:3], [CONTENDERS[0], CONTENDERS[3]]):
        assert evaluate(contenders, dataset, cases, config=CONFIG).result["comparisons"] == []


def bounds(label: str) -> tuple[float, float]:
    low, _, high = label.rstrip("+").partition("–")
    return int(low), math.inf if label.endswith("+") else int(high or low)


def test_slices_part_the_users_and_hold_their_means(whole):
    _, cases, evaluation = whole
    columns = {"history_length": "history_length", "target_popularity": "first_target_popularity"}
    for slice_name, column in columns.items():
        bins = evaluation.result["slices"][slice_name]
        assert sum(entry["users"] for entry in bins) == len(cases.users)
        assert len(bins) > 1 and all(entry["users"] >= 30 for entry in bins)
        for entry in bins:
            low, high = bounds(entry["label"])
            inside = evaluation.per_user[evaluation.per_user[column].between(low, high)]
            for name, figure in entry["systems"].items():
                rows = inside[inside["system"] == name]
                assert entry["users"] == len(rows)
                assert figure["mean"] == pytest.approx(rows["ndcg@10"].astype(float).mean(), abs=1e-9)


@pytest.mark.parametrize(
    ("lengths", "labels"),
    [
        ([4] * 60, ["0+"]),
        ([4] * 60 + [60] * 5, ["0+"]),  # the five last are too few and join the others
        ([4] * 40 + [60] * 40, ["0–4", "5+"]),  # 59 events of history
        ([4] * 5 + [60] * 40, ["0+"]),
        ([4] * 5, ["0+"]),  # too few users in all are still shown
    ],
)
def test_no_user_is_lost_from_the_slices(lengths, labels):
    dataset = make_dataset(make_log(lengths))
    config = EvaluationConfig(cutoffs=(10,), num_resamples=100, parts=())
    bins = evaluate(CONTENDERS[:1], dataset, cases_of(dataset), config=config).result["slices"]["history_length"]
    assert [entry["label"] for entry in bins] == labels
    assert sum(entry["users"] for entry in bins) == len(lengths)


def test_the_protocol_card_counts_what_was_asked(whole):
    dataset, cases, evaluation = whole
    card = evaluation.result["protocol"]
    lengths = dataset.sequences.lengths
    assert card["users"] == card["targets"] == (lengths >= 3).sum()
    assert card["unreachable_targets"] == (cases.target_items == 4).sum()
    assert (card["dataset"], card["fingerprint"]) == ("log", dataset.fingerprint)
    assert card["candidates"] == "12 of 12 items: all items of the vocabulary, also those that appear later"
    assert card["split"].startswith("leave_one_out: each user's last target is the test")
    assert (card["order"], card["seen_items"], card["users_without_history"]) == (
        "time, then row of the log",
        "kept",
        0,
    )
    assert card["targets_per_user"] == "all that followed the history"
    assert card["intervals"] == "95 %, 200 resamples of users"
    assert card["card"]["note"] == "a fact"
    assert card["protocol_fingerprint"] == protocol_fingerprint(card["card"])
    assert evaluation.result["stage"] == "test" and evaluation.result["primary_metric"] == "ndcg@10"
    assert evaluation.result["cleaning"] == {"dropped": {}}


def test_the_protocol_card_of_a_timeline_with_several_targets():
    log = make_log([10] * 40).sort_values("item_id", kind="stable").assign(timestamp=np.arange(400))
    dataset = make_dataset(log.sample(frac=1, random_state=0).assign(timestamp=np.arange(400)), rule="global_timeline")
    cases = cases_of(dataset)
    result = evaluate(CONTENDERS[:1], dataset, cases, config=CONFIG).result
    held_out = pd.Series(dataset.sequences.item_ids)[dataset.split.parts == 2]
    users = dataset.sequences.users_of_events[dataset.split.parts == 2]
    assert result["protocol"]["targets"] == len({*zip(users, held_out, strict=True)}) > result["protocol"]["users"]
    assert result["protocol"]["users"] == len(set(users))
    first = evaluate(
        CONTENDERS[:1],
        dataset,
        cases_of(dataset, targets="next"),
        config=EvaluationConfig(cutoffs=(10,), num_resamples=100, targets="next", parts=()),
    ).result["protocol"]
    assert first["targets"] == first["users"] == len(set(users))
    assert first["targets_per_user"] == "the first after the history"


def audit_of(dataset, **options) -> dict[str, dict]:
    """What the audit found of the data and the split, by key; the rankers' own ties and misses are left out."""
    config = replace(CONFIG, **options)
    found = evaluate(CONTENDERS[:1], dataset, cases_of(dataset, **options), config=config).result["audit"]
    return {row["key"]: row for row in found if row["key"] not in ("tied_scores", "unreachable_targets", "popularity")}


def test_the_audit_tells_of_leakage_ties_and_users_left_out(whole):
    found = {row["key"]: row["severity"] for row in whole[2].result["audit"]}
    assert "error" not in found.values() and "users_left_out" not in found and "ambiguous_targets" not in found
    assert whole[2].result["warnings"] == []
    with pytest.warns(UserWarning, match="random_ratio"):
        dataset = make_dataset(make_log([8] * 40), rule="random_ratio")
    found = audit_of(dataset)
    cases = cases_of(dataset)
    parts, users = dataset.split.parts, dataset.sequences.users_of_events
    first_targets = dict(zip(cases.users, cases.target_events[cases.target_offsets[:-1]], strict=True))
    after = [event for event, user in enumerate(users) if parts[event] == 0 and event > first_targets.get(user, 999)]
    assert found["own_future"]["severity"] == "error"
    assert found["own_future"]["count"] == len({users[event] for event in after}) > 0
    assert f"training saw {len(after)} events after their target" in found["own_future"]["text"]
    assert found["later_events"]["severity"] == "warning"
    first_is_test = parts[dataset.sequences.offsets[:-1]] == 2
    assert found["users_left_out"]["count"] == first_is_test.sum() > 0

    tied = make_log([8] * 40, seconds_apart=0)
    ambiguous = audit_of(make_dataset(tied))["ambiguous_targets"]
    items = tied["item_id"].to_numpy().reshape(40, 8)
    # the one before the last is held out too, and can be the target just as well, unless it is the same item
    assert ambiguous["count"] == sum(len(set(row)) > 1 for row in items) == 40
    assert ambiguous["severity"] == "warning"
    # an order without times has no ties, and neither have equal times of different users
    ordered = tied.assign(timestamp=np.arange(320))
    assert set(audit_of(make_dataset(ordered, time_kind="order"))) <= {"no_times", "repeated_targets"}
    assert "ambiguous_targets" not in audit_of(make_dataset(tied.assign(timestamp=np.tile(np.arange(8), 40))))
    assert "users_left_out" not in audit_of(make_dataset(ordered), min_history=6)
    few = make_log([8] * 30 + [4] * 10)
    left = audit_of(make_dataset(few), min_history=6)["users_left_out"]
    assert left["count"] == 10 and left["share"] == 10 / 40
    assert left["text"].startswith("10 of 40 users with a target have too short a history and are left out; ")


def test_without_the_audit_nothing_is_said_of_it(whole):
    dataset, cases, _ = whole
    config = EvaluationConfig(cutoffs=(10,), num_resamples=100, parts=())
    result = evaluate(CONTENDERS[:1], dataset, cases, config=config).result
    assert not result.get("audit") and result["sections"] == []


# -- comparing --


def test_what_runs_today_stands_first_and_every_other_system_is_held_against_it(whole):
    dataset, cases, _ = whole
    contenders = [CONTENDERS[0], CONTENDERS[1], Contender(random_ranker("new", 5), "model"), CONTENDERS[3]]
    evaluation = compare(contenders, dataset, cases, config=CONFIG)
    rows = evaluation.result["comparisons"]
    assert evaluation.result["kind"] == "comparison"
    assert {(row["system"], row["baseline"]) for row in rows} == {("new", "gru")}
    assert [row["metric"] for row in rows] == ["ndcg@10", "hit_rate@10", "mrr@10"]
    # of one target a user recall is the hit rate and map is mrr: the same test again, and no further one
    today, new = (evaluation.judged[place].per_user[[row["metric"] for row in rows]] for place in (0, 2))
    direct = paired_differences(new, today, num_resamples=200, seed=0)
    np.testing.assert_allclose([row["difference"] for row in rows], direct.mean, atol=1e-12)
    np.testing.assert_allclose([row["p_value"] for row in rows], direct.p_value, atol=1e-12)
    np.testing.assert_allclose([row["p_holm"] for row in rows], holm_correction(direct.p_value), atol=1e-12)
    # the deciding row says what it would take in the shop, for whom it holds, and that stands as a section too
    section = evaluation.result["sections"][0]
    assert (section["key"], section["title"]) == ("paired_slices_1", "For whom new is better")
    assert rows[0]["shop"] == rows[1]["shop"] != "" and rows[0]["for_whom"] == f"By kind of user: {section['summary']}"
    assert json.loads(json.dumps(evaluation.result, allow_nan=False)) == evaluation.result
    assert evaluation.comparisons["metric"].tolist() == [row["metric"] for row in rows]
    figures = evaluation.figures.set_index(["system", "metric"])
    assert figures.loc[("new", "ndcg@10"), "mean"] == pytest.approx(new["ndcg@10"].astype(float).mean(), abs=1e-12)
    assert set(figures["kind"]) == {"model", "baseline", "ceiling"}


@pytest.mark.parametrize("places", [[0], [0, 1], [0, 3], [1, 0, 0]])
def test_fewer_than_two_systems_or_a_baseline_in_front_is_refused(whole, places):
    dataset, cases, _ = whole
    contenders = [CONTENDERS[place] for place in places]
    with pytest.raises(ConfigError, match="compare takes two systems or more, the one that runs today first"):
        compare(contenders, dataset, cases, config=CONFIG)


def test_two_systems_of_one_name_are_refused(whole):
    dataset, cases, _ = whole
    twice = [CONTENDERS[0], Contender(random_ranker("gru", 9), "model")]
    for judging in (evaluate, compare):
        with pytest.raises(ConfigError, match="two systems are called 'gru'; give each a name of its own"):
            judging(twice, dataset, cases, config=CONFIG)


def test_figures_that_nobody_has_are_none_and_the_result_is_json():
    log = make_log([4] * 40)
    dataset = make_dataset(log)
    cases = cases_of(dataset)
    only = np.arange(NUM_ITEMS + 1) == cases.target_items[0]
    alone = np.flatnonzero(cases.target_items == cases.target_items[0])[:1]
    cases = type(cases)(
        users=cases.users[alone],
        histories=cases.histories.select_users(alone),
        target_offsets=np.array([0, 1]),
        target_items=cases.target_items[alone],
        target_events=cases.target_events[alone],
        candidates=only,
        users_without_history=0,
    )
    result = evaluate(CONTENDERS[1:2], dataset, cases, config=CONFIG).result
    # of one candidate there is no auc, and what no system has is left out
    assert "auc" not in result["systems"][0]["metrics"] and not set(PROBABILITIES) & set(
        result["systems"][0]["metrics"]
    )
    assert result["systems"][0]["metrics"]["mean_rank"]["mean"] == 1.0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_figure_that_only_some_systems_have_is_none_for_the_others(whole):
    """Lists that end have no auc, and only logits have probabilities and a calibration."""
    dataset, cases, evaluation = whole
    lists = judge_lists("theirs", evaluation.judged[1].lists, cases, config=CONFIG)
    system = random_ranker("logits", 8)
    logits = SimpleNamespace(name="logits", scores=system.scores, gives_logits=True)
    contenders = [Contender(logits, "model"), CONTENDERS[1], Contender(lists, "other")]
    result = evaluate(contenders, dataset, cases, config=CONFIG).result
    model, popular, theirs = (system["metrics"] for system in result["systems"])
    undefined = {"mean": None, "low": None, "high": None, "reachable_mean": None}
    assert theirs["auc"] == theirs["mean_rank"] == theirs["log_loss"] == popular["log_loss"] == undefined
    assert popular["auc"]["mean"] is not None and theirs["ndcg@10"]["mean"] == popular["ndcg@10"]["mean"]
    assert model["log_loss"]["low"] < model["log_loss"]["mean"] < model["log_loss"]["high"]
    # the calibration is of the first place: 15 bins of the confidence against how often it is right
    table = evaluate(contenders[:1], dataset, cases, config=CONFIG).judged[0].per_user
    sure, right = table["confidence"].to_numpy(), table["accuracy@1"].to_numpy()
    bins = np.minimum((sure * 15).astype(int), 14)
    error = sum(abs((right - sure)[bins == place].sum()) for place in range(15)) / len(sure)
    assert model["calibration_error"]["mean"] == pytest.approx(error, abs=1e-6)
    assert (model["calibration_error"]["low"], theirs["calibration_error"]["mean"]) == (None, None)
    # lists that are the best baseline's own do not differ from it
    rows = {row["baseline"]: row for row in result["comparisons"]}
    assert rows["theirs"]["difference"] == rows["most popular"]["difference"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(
    ("hits", "misses", "expected"),
    [(20, 20, (3, 3)), (1, 20, (1, 5)), (20, 1, (5, 1)), (20, 0, (6, 0)), (0, 20, (0, 6)), (2, 2, (2, 2))],
)
def test_example_users_are_half_hits_and_half_misses_where_possible(whole, hits, misses, expected):
    dataset, cases, evaluation = whole
    ranks = np.full(len(cases.users), 11, dtype=np.int32)
    chosen = np.random.default_rng(0).permutation(len(ranks))[: hits + misses]
    ranks[chosen[:hits]] = 10
    small = type(cases)(
        users=cases.users[chosen],
        histories=cases.histories.select_users(chosen),
        target_offsets=np.arange(hits + misses + 1),
        target_items=cases.target_items[chosen],
        target_events=cases.target_events[chosen],
        candidates=cases.candidates,
        users_without_history=0,
    )
    judged = evaluation.judged[0]._replace(
        ranks=ranks[chosen],
        lists=evaluation.judged[0].lists[chosen],
        list_scores=evaluation.judged[0].list_scores[chosen],
    )
    alone = {**evaluation.result, "systems": evaluation.result["systems"][:1]}
    examples = example_users(evaluation._replace(judged=[judged], result=alone), dataset, small)
    assert all("other" not in example for example in examples)
    found = [example["target_ranks"][0] <= 10 for example in examples]
    assert (sum(found), len(found) - sum(found)) == expected
    assert len({example["user"] for example in examples}) == len(examples)


def test_an_example_shows_the_users_last_events_targets_and_list(whole):
    dataset, cases, evaluation = whole
    judged = evaluation.judged[0]
    examples = example_users(evaluation, dataset, cases, count=12, last_events=4, k=5)
    assert len(examples) == 12
    rows = {user: case for case, user in enumerate(dataset.sequences.user_ids[cases.users])}
    sequences = dataset.sequences
    for example in examples:
        case = rows[example["user"]]
        user = cases.users[case]
        events = range(sequences.offsets[user], sequences.offsets[user + 1])
        items = [f"i{sequences.item_ids[event]:02}" for event in events]
        assert [event["item"] for event in example["history"]] == items[:-1][-4:]
        number = int(example["history"][-1]["item"][1:])
        assert example["history"][-1]["title"] == (f"Title {number}" if number % 2 else None)
        assert re.fullmatch(r"1970-01-\d\d \d\d:\d\d", example["history"][-1]["time"])
        assert example["history"][-1]["behavior"] == "event"
        assert [target["item"] for target in example["targets"]] == items[-1:]
        rank = judged.ranks[case]
        assert example["target_ranks"] == [None if rank == UNREACHABLE else rank]
        listed = example["recommended"]
        assert [row["rank"] for row in listed] == [1, 2, 3, 4, 5]
        assert [row["item"] for row in listed] == [f"i{item:02}" for item in judged.lists[case, :5]]
        assert [row["score"] for row in listed] == judged.list_scores[case, :5].tolist()
        assert [row["hit"] for row in listed] == [row["item"] == items[-1] for row in listed]
        assert any(row["hit"] for row in listed) == (rank <= 5)
        other = evaluation.judged[
            1 + int(np.argmax([one.per_user["ndcg@10"].mean() for one in evaluation.judged[1:3]]))
        ]
        assert example["other"]["name"] == other.name  # the better one of the baselines, not the optimum
        assert [row["item"] for row in example["other"]["recommended"]] == [
            f"i{item:02}" for item in other.lists[case, :5]
        ]
        assert example["other"]["target_ranks"] == [other.ranks[case]]
    json.dumps(examples, allow_nan=False)


def test_an_example_is_a_hit_only_if_the_list_is_long_enough_to_show_it(whole):
    dataset, cases, _ = whole
    config = EvaluationConfig(metric="ndcg@3", cutoffs=(3,), num_resamples=100, parts=())
    evaluation = evaluate(CONTENDERS[:1], dataset, cases, config=config)
    shown = []
    for example in example_users(evaluation, dataset, cases, count=40):
        rank = example["target_ranks"][0]
        shown.append(any(row["hit"] for row in example["recommended"]))
        assert shown[-1] == (rank is not None and rank <= 3)
    assert sum(shown) == 20


def test_events_without_item_and_logs_without_times_can_be_shown():
    log = make_log([5] * 3)
    log.loc[3, "item_id"] = ""
    dataset = make_dataset(log.assign(timestamp=np.arange(15)), time_kind="order")
    evaluation = evaluate(CONTENDERS[:1], dataset, cases_of(dataset), config=CONFIG)
    events = [
        event for example in example_users(evaluation, dataset, cases_of(dataset)) for event in example["history"]
    ]
    assert {"item": "(no item)", "title": None, "behavior": "event", "time": None} in events
