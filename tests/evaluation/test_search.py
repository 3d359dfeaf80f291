"""Judged search against figures worked by hand."""

import math

import numpy as np
import pytest

from seqrec_jax.baselines import FunctionRanker
from seqrec_jax.data.judgments import Judgments
from seqrec_jax.errors import DataError, ShapeError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.search import Slice, judge_search, search_report

CONFIG = EvaluationConfig(metric="graded_ndcg@2", cutoffs=(2,), gains={"judged": 1.0}, num_resamples=100)
JUDGMENTS = Judgments(
    queries=np.array(["tea", "cup"], dtype=object),
    offsets=np.array([0, 3, 4]),
    item_ids=np.array([1, 2, 3, 4], dtype=np.int32),
    gains=np.array([2.0, 0.0, 1.0, 1.0], dtype=np.float32),
)
SCORES = {"tea": [0, 0.1, 0.9, 0.5, 0.3, 0.8], "cup": [0, 0.1, 0.2, 0.3, 0.4, 0.5]}


def by_text(name="by hand", scores=SCORES):
    return FunctionRanker(
        name, lambda histories: np.array([scores[query] for query in histories.last_queries], np.float32)
    )


def test_figures_are_those_worked_by_hand():
    found = judge_search(by_text(), JUDGMENTS, num_items=5, config=CONFIG)
    # tea, judged only: items 2 (worth 0), 3 (worth 1), 1 (worth 2)
    ideal = 2 + 1 / math.log2(3)
    judged = found.judged_only.per_user
    np.testing.assert_allclose(judged["graded_ndcg@2"], [(1 / math.log2(3)) / ideal, 1.0], rtol=1e-6)
    assert judged["mrr@2"].tolist() == [0.5, 1.0]
    assert judged["recall@2"].tolist() == [0.5, 1.0]
    assert found.judged_only.lists.tolist() == [[2, 3], [4, 0]]
    # among all items 5 comes between: 2, 5, 3, 4, 1
    among_all = found.all_items.per_user
    np.testing.assert_allclose(among_all["graded_ndcg@2"], [0.0, 1 / math.log2(3)], rtol=1e-6)
    assert among_all["rank"].tolist() == [3, 2]
    assert among_all["judged@2"].tolist() == [0.5, 0.5]
    assert found.all_items.ranks.tolist() == [5, 1, 3, 2]


def test_what_is_relevant_is_a_matter_of_the_grade():
    found = judge_search(by_text(), JUDGMENTS, num_items=5, config=CONFIG, relevant_from=2.0).judged_only.per_user
    assert found["recall@2"].tolist()[0] == 0.0
    assert np.isnan(found["recall@2"][1])  # nothing relevant was judged
    assert found["graded_ndcg@2"][1] == 1.0


def test_the_last_tile_is_filled_up():
    many = JUDGMENTS.select(np.arange(151) % 2)
    found = judge_search(by_text(), many, num_items=5, config=CONFIG)
    assert found.all_items.per_user["rank"].tolist() == [3, 2] * 75 + [3]


def test_report_compares_every_pair():
    constant = FunctionRanker("constant", lambda histories: np.zeros((histories.num_users, 6), np.float32))
    judged = [judge_search(one, JUDGMENTS, num_items=5, config=CONFIG) for one in (constant, by_text(), by_text("b"))]
    cuts = {"words": Slice(np.array([1, 1]), (1, 2))}
    report = search_report(judged, columns=["graded_ndcg@2", "recall@2"], slices=cuts, config=CONFIG)
    assert [row["system"] for row in report["all_items"]["figures"]] == ["constant", "by hand", "b"]
    compared = [(row["system"], row["baseline"]) for row in report["judged_only"]["comparisons"]]
    assert compared == [("by hand", "constant"), ("b", "constant"), ("b", "by hand")]
    assert report["judged_only"]["comparisons"][2]["difference"] == 0
    assert report["judged_only"]["slices"]["words"][0]["users"] == 2
    assert judged[0].all_items.tied_targets == 4


def test_what_is_wrong_is_named():
    with pytest.raises(DataError, match="item number 4 was judged, but there are num_items = 3"):
        judge_search(by_text(), JUDGMENTS, num_items=3, config=CONFIG)
    with pytest.raises(ShapeError, match="by hand gave scores"):
        judge_search(by_text(), JUDGMENTS, num_items=6, config=CONFIG)
    broken = {query: [*scores[:5], math.nan] for query, scores in SCORES.items()}
    with pytest.raises(DataError, match="gave nan"):
        judge_search(by_text(scores=broken), JUDGMENTS, num_items=5, config=CONFIG)
