"""Each planted flaw is found with its count and its effect, and a clean evaluation is left alone."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.data.dataset import prepare_dataset
from seqrec_jax.data.splits import SplitConfig, evaluation_cases
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.audit.audit import audit
from seqrec_jax.evaluation.audit.leakage import metric_of_ranks
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.scoring import UNREACHABLE

METRIC, K = "ndcg@3", 3
CONFIG = EvaluationConfig(metric=METRIC, cutoffs=(K,), num_resamples=100)
ITEMS = [f"i{item}" for item in range(1, 10)]


def log_of(rows) -> pd.DataFrame:
    """Rows of user, items as digits, and either one time an item or the first of times an hour apart."""
    events = [
        (user, f"i{item}", times[place] if isinstance(times, list) else times + 3600 * place)
        for user, items, times in rows
        for place, item in enumerate(items)
    ]
    return pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"])


def prepare(rows, *, rule="leave_one_out", behaviors=None, time_kind="seconds", **options):
    split = SplitConfig(rule=rule, **options)
    return prepare_dataset(
        log_of(rows), name="log", split=split, items=pd.DataFrame({"item_id": ITEMS}), time_kind=time_kind
    )


def cases_of(dataset, **options):
    return evaluation_cases(dataset.sequences, dataset.split, stage="test", num_items=dataset.num_items, **options)


def system(cases, scores, *, name="model", k=K) -> Judged:
    """What `judge` says, by sorting; equal scores by id. `scores` is `[V]` for everybody or `[U, V]`."""
    scores = np.broadcast_to(np.asarray(scores, dtype=np.float64), (len(cases.users), len(ITEMS)))
    users = np.repeat(np.arange(len(cases.users)), cases.num_targets)
    lists, values = np.zeros((len(scores), k), dtype=np.int32), np.full((len(scores), k), -np.inf, dtype=np.float32)
    places = np.full((len(scores), len(ITEMS) + 1), UNREACHABLE)
    for user, own in enumerate(scores):
        usable = [item for item in range(1, len(ITEMS) + 1) if cases.candidates[item] and own[item - 1] > -np.inf]
        ranked = sorted(usable, key=lambda item: (-own[item - 1], item))
        places[user, ranked] = np.arange(len(ranked)) + 1
        lists[user, : len(ranked[:k])] = ranked[:k]
        values[user, : len(ranked[:k])] = own[np.array(ranked[:k], dtype=int) - 1]
    ranks = places[users, cases.target_items].astype(np.int32)
    own = scores[users, cases.target_items - 1]
    greater, equal = (scores[users] > own[:, None]).sum(axis=1), (scores[users] == own[:, None]).sum(axis=1)
    best, worst = ((greater + n).astype(np.int32) for n in (1, equal))
    figures = [metric_of_ranks(METRIC, r, cases) for r in (ranks, best, worst)]
    return Judged(
        name=name,
        per_user=pd.DataFrame({"rank": ranks[cases.target_offsets[:-1]], METRIC: figures[0].astype(np.float32)}),
        lists=lists,
        list_scores=values,
        ranks=ranks,
        best_ranks=best,
        worst_ranks=worst,
        tied_targets=int((equal > 1).sum()),
        best=float(figures[1].mean()),
        worst=float(figures[2].mean()),
        seconds=1.0,
    )


def by_key(findings) -> dict:
    return {finding.key: finding for finding in findings if "not compared" not in finding.text}


DISTINCT = np.arange(9, 0, -1)  # item 1 first, then 2, …
STAGGERED = [(f"u{user}", items, 10**6 * (user + 1)) for user, items in enumerate(["1234", "4321", "2413", "3142"])]


def test_an_honest_timeline_has_nothing_to_complain_of():
    rows = [
        (f"u{user}", items, [10, 20, 30, 40 + user, 90 + user])
        for user, items in enumerate(["12345", "54321", "24153"])
    ]
    dataset = prepare(
        rows, rule="global_timeline", validation_start="1970-01-01T00:00:40", test_start="1970-01-01T00:01:30"
    )
    cases = cases_of(dataset)
    findings = audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG)
    assert [(finding.key, finding.severity) for finding in findings] == [("popularity", "info")]
    assert findings[0].text == 'Popularity was not compared: no system is called "most popular".'


def test_later_training_events_are_counted_and_belong_to_leave_one_out():
    dataset = prepare(STAGGERED)
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["later_events"]
    # two training events a user; u0 is asked before all of the three others', u2 before those of u3
    assert (found.severity, found.count, found.share) == ("warning", 6, 6 / 8)
    assert "For 75.0% of the users" in found.text and "on average 37.5% of all training events" in found.text
    values = model.per_user[METRIC].to_numpy(dtype=float)
    assert found.effect[METRIC] == pytest.approx(-values[:3].sum() / 4)
    few, many = values[2:].mean(), values[:2].mean()  # 2 and 0 later events, 6 and 4
    assert f"is {few:.4f} for the half of users with the fewest of them and {many:.4f} for the others" in found.text
    assert "The rule leave_one_out has this by design" in found.text


def test_a_timeline_whose_model_saw_the_test_is_an_error():
    rows = [(f"u{user}", "12345", [10, 20, 30, 40 + user, 90 + user]) for user in range(3)]
    cuts = {"validation_start": "1970-01-01T00:00:40", "test_start": "1970-01-01T00:01:30"}
    dataset = prepare(rows, rule="global_timeline", **cuts)
    cases = cases_of(dataset)
    leaky = np.ones(15, dtype=bool)
    found = by_key(audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG, train_events=leaky))
    assert (found["later_events"].severity, found["later_events"].count) == ("error", 2)
    assert (found["targets_trained_on"].severity, found["targets_trained_on"].count) == ("error", 3)
    assert "undefined, since no user is left" in found["targets_trained_on"].text
    assert "own_future" not in found  # the target itself is not later than itself
    assert found["later_events"].text.endswith("A global timeline should have none.")
    own = np.ones(15, dtype=bool)
    own[cases.target_events] = False
    assert not {"targets_trained_on", "own_future", "later_events"} & set(
        by_key(audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG, train_events=own))
    )


def test_a_random_split_trains_on_a_users_own_future():
    with pytest.warns(UserWarning, match="random_ratio"):
        dataset = prepare([(f"u{user}", "1234567", 1000 * user) for user in range(8)], rule="random_ratio")
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["own_future"]
    parts, users = dataset.split.parts, dataset.sequences.users_of_events
    tested = np.array([np.flatnonzero((parts == 2) & (users == user))[0] for user in cases.users])
    pairs = zip(cases.users, tested, strict=True)
    expected = [((parts == 0) & (users == user) & (np.arange(56) > event)).sum() for user, event in pairs]
    assert found.severity == "error" and found.count == np.count_nonzero(expected) > 0
    assert f"training saw {sum(expected)} events after their target" in found.text


def test_items_that_did_not_exist_yet_are_found_and_their_places_given_back():
    # u0 is asked at once; items 7, 8 and 9 appear only with u1, a day later
    dataset = prepare([("u0", "1234", 0), ("u1", "789123", 86_400)])
    cases = cases_of(dataset)
    assert cases.target_items.tolist() == [4, 3]
    scores = np.array([1, 2, 3, 7, 0, 0.5, 9, 8, 0.1])  # 7 and 8 before 4
    model = system(cases, scores)
    assert model.ranks.tolist() == [3, 4]
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["unborn_items"]
    assert (found.severity, found.count, found.share) == ("warning", 1, 0.5)
    # items 5 and 6 are in the item table only, so nothing is known of them
    assert "on average 1.5 of 9; they take 2 of 6 places in the lists of model, and 0 targets are" in found.text
    assert found.effect[METRIC] == pytest.approx((1 - 0.5) / 2)


def test_targets_among_events_of_the_same_time_are_bounded_by_the_lists():
    rows = [
        ("u0", "1234", [1, 2, 3, 3]),  # 3 could be the target: rank 3 instead of miss
        ("u1", "1243", [1, 2, 3, 3]),  # 4 could be: a miss instead of rank 3
        ("u2", "5611", [1, 2, 3, 3]),  # the same item twice changes nothing
        ("u3", "9872", [1, 2, 3, 4]),
    ]
    dataset = prepare(rows)
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    assert model.ranks.tolist() == [4, 3, 1, 2]
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["ambiguous_targets"]
    assert (found.severity, found.count, found.share) == ("warning", 2, 0.5)
    third, second = 1 / math.log2(4), 1 / math.log2(3)
    mean = (0 + third + 1 + second) / 4
    assert "2 of 4 users have other events at the very time of their first target, 2 items" in found.text
    assert f"would be {(1 + second) / 4:.4f} or {(3 + second) / 4:.4f}." in found.text
    low, high = (1 + second) / 4, (2 * third + 1 + second) / 4
    average = (third / 2 + third / 2 + 1 + second) / 4
    assert (
        f"any choice among these items gives {low:.4f} to {high:.4f}, and a random one {average:.4f} on" in found.text
    )
    assert abs(found.effect[METRIC]) == pytest.approx(high - mean) == pytest.approx(mean - low)
    assert "seen items are excluded" not in found.text
    excluding = replace(CONFIG, seen_items="excluded")
    said = by_key(audit(dataset, cases, [model], config=excluding))["ambiguous_targets"].text
    assert said.endswith("counts as a miss there, since seen items are excluded.")


def test_with_several_targets_only_all_or_nothing_is_known():
    rows = [("u0", "1234", [1, 2, 95, 95]), ("u1", "5678", [1, 2, 95, 96]), ("u2", "5678", [1, 2, 3, 50])]
    cuts = {"validation_start": "1970-01-01T00:00:40", "test_start": "1970-01-01T00:01:30"}
    dataset = prepare(rows, rule="global_timeline", **cuts)
    cases = cases_of(dataset)
    first_only = cases_of(dataset, targets="next")
    assert cases.num_targets.tolist() == [2, 2] and first_only.num_targets.tolist() == [1, 1]
    # as if the second event of u0 were no target, and u1 had both of its own
    keep = np.array([True, False, True, True])
    mixed = replace(
        cases,
        target_offsets=np.array([0, 1, 3]),
        target_items=cases.target_items[keep],
        target_events=cases.target_events[keep],
    )
    assert (
        "any choice"
        in by_key(audit(dataset, mixed, [system(mixed, DISTINCT)], config=CONFIG))["ambiguous_targets"].text
    )
    mixed = replace(
        cases,
        target_offsets=np.array([0, 2, 3]),
        target_items=np.array([3, 9, 7], dtype=np.int32),
        target_events=cases.target_events[[0, 0, 2]],
    )
    model = system(mixed, DISTINCT)
    found = by_key(audit(dataset, mixed, [model], config=CONFIG))["ambiguous_targets"]
    value = float(model.per_user[METRIC].iloc[0])
    assert found.count == 1 and "any choice" not in found.text
    assert found.effect[METRIC] == pytest.approx(max(-value, 1 - value, key=abs) / 2)


def test_a_basket_is_no_ambiguity():
    rows = [("u0", "12345", [1, 2, 3, 95, 95]), ("u1", "54321", [1, 2, 50, 95, 96])]
    cuts = {"validation_start": "1970-01-01T00:00:40", "test_start": "1970-01-01T00:01:30"}
    dataset = prepare(rows, rule="global_timeline", **cuts)
    everything, following = cases_of(dataset), cases_of(dataset, targets="next")
    assert "ambiguous_targets" not in by_key(audit(dataset, everything, [system(everything, DISTINCT)], config=CONFIG))
    found = by_key(audit(dataset, following, [system(following, DISTINCT)], config=CONFIG))["ambiguous_targets"]
    assert found.count == 1


def test_users_with_the_same_sequence_are_found_by_items_and_order():
    rows = [
        ("a", "1234", 0),
        ("b", "1234", 500),
        ("c", "2134", 900),
        ("d", "12345", 70),
        ("e", "12", 5),
        ("f", "12", 6),
    ]
    dataset = prepare(rows)
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["duplicate_users"]
    assert (found.severity, found.count, found.share) == ("warning", 2, 0.5)  # e and f are too short to say so
    values = model.per_user[METRIC].to_numpy(dtype=float)
    assert found.effect[METRIC] == pytest.approx(-values[:2].sum() / 4)
    assert f"{values[2:].mean():.4f} instead of {values.mean():.4f}" in found.text


def test_the_same_items_with_other_behaviours_are_no_duplicates():
    log = log_of([("a", "1234", 0), ("b", "1234", 500), ("c", "1234", 900)])
    log["behavior"] = ["view"] * 8 + ["view", "cart", "view", "view"]
    split = SplitConfig(rule="leave_one_out")
    dataset = prepare_dataset(log, name="log", split=split, items=pd.DataFrame({"item_id": ITEMS}))
    cases = cases_of(dataset)
    assert by_key(audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG))["duplicate_users"].count == 2


def test_targets_that_repeat_the_last_event():
    dataset = prepare([("a", "1233", 0), ("b", "4311", 1), ("c", "1234", 2), ("d", "4321", 3)])
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["repeated_targets"]
    assert (found.severity, found.count, found.share) == ("warning", 2, 0.5)
    values = model.per_user[METRIC].to_numpy(dtype=float)
    assert found.effect[METRIC] == pytest.approx(values[2:].mean() - values.mean())


def test_ties_constant_scores_and_short_lists_are_told_for_each_system():
    dataset = prepare(STAGGERED)
    cases = cases_of(dataset)
    constant, short = system(cases, np.ones(9), name="constant"), [9, 8] + [-np.inf] * 7
    table = np.tile(short, (4, 1))
    table[0] = -np.inf
    lists = system(cases, table, name="short")
    findings = audit(dataset, cases, [system(cases, DISTINCT), constant, lists], config=CONFIG)
    titled = {(finding.key, finding.title.partition(": ")[2]): finding for finding in findings}
    found = titled["constant_scores", "constant"]
    assert (found.severity, found.count, found.share) == ("error", 4, 1.0)
    assert found.effect[METRIC] == pytest.approx(-constant.per_user[METRIC].astype(float).mean())
    found = titled["tied_scores", "constant"]
    assert (found.severity, found.count) == ("warning", 4)
    assert f"is {constant.worst:.4f} if all ties were lost and {constant.best:.4f} if all were won" in found.text
    found = titled["short_lists", "short"]
    assert (found.severity, found.count) == ("warning", 4)
    assert "4 of 4 lists of short have fewer than 3 items, 1 have none" in found.text
    found = titled["unreachable_targets", "short"]
    missing = int((lists.ranks == UNREACHABLE).sum())
    assert (found.severity, found.count) == ("warning", missing) and "(0 are no candidates)" in found.text
    reached = lists.per_user[METRIC].astype(float)[lists.ranks != UNREACHABLE].mean()
    assert f"is {reached:.4f} instead of {lists.per_user[METRIC].astype(float).mean():.4f}" in found.text
    assert not {("short_lists", "model"), ("tied_scores", "model"), ("unreachable_targets", "model")} & set(titled)
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)


def test_a_model_that_lists_what_is_popular_is_told_so():
    dataset = prepare(STAGGERED)
    cases = cases_of(dataset)
    counts = np.bincount(dataset.training_sequences.item_ids, minlength=10)[1:]
    popular, other = system(cases, counts, name="most popular"), system(cases, -np.arange(9.0), name="model")
    same = by_key(audit(dataset, cases, [popular._replace(name="model"), popular], config=CONFIG))["popularity"]
    hits = int((popular.per_user[METRIC] > 0).sum())
    assert (same.severity, same.count, same.share, same.effect[METRIC]) == ("warning", hits, 1.0, 0.0)
    assert "reaches 100% of the ndcg@3 of model" in same.text
    exposure = np.bincount(popular.lists.ravel(), minlength=10)[1:]
    rank = np.corrcoef(pd.Series(exposure).rank(), pd.Series(counts).rank())[0, 1]
    assert f"a rank correlation of {rank:.2f} with its training events" in same.text
    better = by_key(audit(dataset, cases, [other, popular], config=CONFIG))["popularity"]
    ours, theirs = (float(entry.per_user[METRIC].mean()) for entry in (other, popular))
    assert better.effect[METRIC] == pytest.approx(theirs - ours)
    assert better.severity == ("warning" if theirs >= 0.9 * ours else "info")
    nothing = system(cases, -DISTINCT, name="model")
    texts = [finding.text for finding in audit(dataset, cases, [nothing, popular], config=CONFIG)]
    assert "Popularity was not compared: model hits nothing." in texts


def test_users_left_out_are_counted_as_if_all_hit_or_missed():
    dataset = prepare([*STAGGERED, ("x", "123", 5), ("y", "321", 7)])
    cases = cases_of(dataset, min_history=3)
    assert cases.users_without_history == 2
    model = system(cases, DISTINCT)
    found = by_key(audit(dataset, cases, [model], config=CONFIG))["users_left_out"]
    total = model.per_user[METRIC].astype(float).sum()
    assert (found.severity, found.count, found.share) == ("warning", 2, 1 / 3)
    assert f"would lie between {total / 6:.4f} and {(total + 2) / 6:.4f}." in found.text


def test_a_log_without_times_says_what_was_not_looked_for():
    log = log_of(STAGGERED).assign(timestamp=np.arange(16))
    split = SplitConfig(rule="leave_one_out")
    dataset = prepare_dataset(log, name="log", split=split, items=pd.DataFrame({"item_id": ITEMS}), time_kind="order")
    cases = cases_of(dataset)
    findings = audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG)
    assert {"later_events", "unborn_items", "ambiguous_targets"}.isdisjoint(finding.key for finding in findings)
    assert any(finding.key == "no_times" for finding in findings)


def test_one_user_with_one_target_can_be_audited():
    dataset = prepare([("a", "1233", 0)])
    cases = cases_of(dataset)
    findings = audit(dataset, cases, [system(cases, DISTINCT)], config=CONFIG)
    assert {"repeated_targets", "popularity"} == {finding.key for finding in findings}


def test_a_metric_of_all_ranks_needs_more_than_the_first_places():
    """Without a metric at k the alternatives are not computed, and the crude bounds stand."""
    rows = [("u0", "1234", [1, 2, 3, 3]), ("u1", "1243", [1, 2, 3, 3])]
    dataset = prepare(rows)
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    model = model._replace(per_user=model.per_user.assign(auc=[0.5, 0.7]))
    found = by_key(audit(dataset, cases, [model], config=replace(CONFIG, metric="auc")))["ambiguous_targets"]
    assert found.effect["auc"] == pytest.approx(-0.6) and "any choice" not in found.text
    assert metric_of_ranks("auc", np.ones(len(cases.target_items), dtype=np.int32), cases) is None


def test_what_does_not_belong_together_is_refused():
    dataset = prepare(STAGGERED)
    cases = cases_of(dataset)
    model = system(cases, DISTINCT)
    with pytest.raises(DataError, match="there is no system to audit"):
        audit(dataset, cases, [], config=CONFIG)
    with pytest.raises(DataError, match=re.escape("model was not measured by mrr@3, the deciding metric")):
        audit(dataset, cases, [model], config=replace(CONFIG, metric="mrr@3"))
    with pytest.raises(ShapeError, match=re.escape("model has 3 lists and 4 ranks, these cases have 4 users and 4")):
        audit(dataset, cases, [model._replace(lists=model.lists[:3])], config=CONFIG)
    with pytest.raises(ShapeError, match=re.escape("train_events must be bool (16,), one an event, got int64 (3,)")):
        audit(dataset, cases, [model], config=CONFIG, train_events=np.zeros(3, dtype=np.int64))
