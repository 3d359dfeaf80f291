"""The verdict claims what the comparisons allow, and nothing more."""

from __future__ import annotations

import math

import pytest
from report_cases import Page, comparison, make_comparison, make_result, render, system

from seqrec_jax.evaluation.report.verdict import verdict


@pytest.mark.parametrize(
    ("differences", "p_holm", "level", "headline"),
    [
        ((0.012, 0.04), 0.001, "better", "sasrec beats both baselines on ndcg@10."),
        ((0.001, 0.04), 0.001, "unclear", "sasrec is not distinguishable from item-to-item on ndcg@10."),
        ((0.001, -0.001), 0.001, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        ((0.012, 0.04), 0.2, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        (
            (0.012, 0.04),
            math.nan,
            "unclear",
            "sasrec is not distinguishable from either baseline on ndcg@10.",
        ),
        ((0.012, 0.04), None, "unclear", "sasrec is not distinguishable from either baseline on ndcg@10."),
        ((-0.012, 0.04), 0.001, "worse", "sasrec is worse than item-to-item on ndcg@10."),
        ((-0.012, -0.04), 0.001, "worse", "sasrec is worse than both baselines on ndcg@10."),
        ((-0.012, 0.001), 0.001, "worse", "sasrec is worse than item-to-item on ndcg@10."),
        ((math.nan, 0.04), 0.001, "unclear", "sasrec is not distinguishable from item-to-item on ndcg@10."),
    ],
)
def test_verdict_follows_interval_and_corrected_p(differences, p_holm, level, headline):
    result = make_result()
    rows = [comparison(name, gain) for name, gain in zip(("item-to-item", "most popular"), differences, strict=True)]
    result["comparisons"] = [row | {"p_holm": p_holm} for row in rows]
    found = verdict(result)
    assert (found.level, found.headline) == (level, headline)


def test_verdict_details_name_the_hardest_baseline_and_the_rest():
    result = make_result()
    result["systems"].append(system("last item", "baseline", 0.05))
    result["systems"].append(system("exact Bayes filter", "ceiling", 0.08))
    gains = {"item-to-item": 0.001, "most popular": 0.04, "last item": -0.01, "exact Bayes filter": -0.03}
    result["comparisons"] = [comparison(name, gain) for name, gain in gains.items()]
    result["comparisons"].append(comparison("most popular", -0.5) | {"metric": "hit_rate@10"})
    assert verdict(result).details == [
        "Largest shortfall: −0.0100 [−0.0120, −0.0080] against last item.",
        "Not distinguishable from item-to-item.",
        "Difference: +0.0010 [−0.0010, +0.0030] against item-to-item. "
        "This does not show that they are equal, only that these users do not distinguish them.",
        "It does beat most popular.",
        "It reaches 62 % of exact Bayes filter, an oracle that uses the known truth.",
    ]


def test_verdict_does_not_claim_what_was_not_compared():
    result = make_result()
    result["comparisons"] = [comparison("item-to-item", 0.012)]
    found = verdict(result)
    assert found.headline == "sasrec beats item-to-item, the only baseline it was compared with, on ndcg@10."
    assert found.details[-1] == "Not compared with most popular."
    result["comparisons"] = []
    assert verdict(result).level == "open"
    del result["systems"][0]
    assert verdict(result).headline == "No trained model is part of this evaluation."


def test_verdict_turns_round_where_lower_is_better():
    result = make_result() | {"primary_metric": "mean_rank"}
    rows = [comparison("item-to-item", -50.0, width=10), comparison("most popular", -200.0, width=10)]
    result["comparisons"] = [row | {"metric": "mean_rank"} for row in rows]
    found = verdict(result)
    assert found.headline == "sasrec beats both baselines on mean_rank."
    assert found.details == ["Smallest gain: −50.0 [−60.0, −40.0] against item-to-item."]
    assert "▼ worse" not in Page(render(result)).text


@pytest.mark.parametrize(
    ("differences", "p_holm", "level", "headline"),
    [
        ((0.012,), 0.001, "better", "B is better than A on ndcg@10."),
        ((-0.012,), 0.001, "worse", "B is worse than A on ndcg@10."),
        ((0.001,), 0.001, "unclear", "B is not distinguishable from A on ndcg@10."),
        ((0.012,), 0.3, "unclear", "B is not distinguishable from A on ndcg@10."),
        ((0.012, 0.02), 0.001, "better", "C, B are better than A on ndcg@10."),
        (
            (0.012, -0.02, 0.001),
            0.001,
            "better",
            "B is better than A; D is not distinguishable from A; C is worse than A on ndcg@10.",
        ),
        ((-0.02, 0.001), 0.001, "unclear", "C is not distinguishable from A; B is worse than A on ndcg@10."),
    ],
)
def test_verdict_of_a_comparison(differences, p_holm, level, headline):
    found = verdict(make_comparison(*differences, p_holm=p_holm))
    assert (found.level, found.headline) == (level, headline.replace("C, B", "C and B"))
