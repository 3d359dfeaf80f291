"""Rows of comparisons against scipy, textbook formulas and counting by hand; tables of users brought together."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from seqrec_jax.errors import DataError
from seqrec_jax.evaluation.comparison import compare_systems, shared_users
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig

CONFIG = EvaluationConfig(num_resamples=500, parts=())
NDCG = 1 / np.log2(np.arange(2, 12))
METRICS = ["ndcg@10", "hit_rate@10", "mrr@10"]
Z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)


def table_of(ranks: np.ndarray) -> pd.DataFrame:
    """Per-user metrics of users with one target each at the given rank."""
    hit = ranks <= 10
    ndcg = np.where(hit, NDCG[np.minimum(ranks, 10) - 1], 0.0)
    columns = {"ndcg@10": ndcg, "hit_rate@10": hit.astype(float), "mrr@10": np.where(hit, 1 / ranks, 0.0)}
    return pd.DataFrame(columns).astype(np.float32)


def system(name: str, per_user: pd.DataFrame) -> Judged:
    users = len(per_user)
    lists, ranks = np.zeros((users, 1), dtype=np.int32), np.ones(users, dtype=np.int32)
    return Judged(name, per_user, lists, lists.astype(np.float32), ranks, ranks, ranks, 0, 1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def systems() -> list[Judged]:
    """Today's system, one a little better, one alike, on 800 users of whom they agree about half."""
    rng = np.random.default_rng(3)
    today = rng.integers(1, 60, 800)
    better = np.where(rng.random(800) < 0.5, today, rng.integers(1, 25, 800))
    alike = np.where(rng.random(800) < 0.5, today, rng.integers(1, 60, 800))
    return [system(name, table_of(ranks)) for name, ranks in (("today", today), ("new", better), ("alike", alike))]


@pytest.fixture(scope="module")
def rows(systems) -> list[dict]:
    today, *others = systems
    return compare_systems([(other, today) for other in others], METRICS, config=CONFIG)


def test_a_row_a_pair_and_metric_in_their_order(rows):
    pairs = [(row["system"], row["baseline"], row["metric"]) for row in rows]
    assert pairs == [(name, "today", metric) for name in ("new", "alike") for metric in METRICS]


def test_figures_are_those_of_scipy_on_the_users_differences(systems, rows):
    tables = {one.name: one.per_user.astype(np.float64) for one in systems}
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(5000, 800))
    for row in rows:
        a, b = (tables[row[side]][row["metric"]].to_numpy() for side in ("system", "baseline"))
        gains = a - b
        assert row["users"] == 800
        assert row["difference"] == pytest.approx(gains.mean(), abs=1e-12)
        assert row["relative"] == pytest.approx(gains.mean() / b.mean(), rel=1e-9)
        assert row["effect_size"] == pytest.approx(gains.mean() / gains.std(ddof=1), rel=1e-9)
        assert row["p_t"] == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6)
        signed = stats.wilcoxon(a, b, zero_method="pratt", correction=False, method="asymptotic")
        # Pratt's ranks with their own variance, as scipy's are with ties
        assert row["p_wilcoxon"] == pytest.approx(signed.pvalue, rel=0.02, abs=1e-6)
        # chance of other draws: three standard errors of 5,000 flips and 500 resamples
        flipped = np.mean(np.abs(signs @ gains) >= abs(gains.sum()) - 1e-9)
        assert row["p_value"] == pytest.approx(flipped, abs=3 * math.sqrt(0.5 / 5000))
        assert row["p_bootstrap"] == pytest.approx(row["p_t"], abs=0.07)
        # nor do 500 resamples miss the ends of the normal interval by much
        half = 1.96 * gains.std(ddof=1) / math.sqrt(800)
        assert (row["low"], row["high"]) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.25 * half)


def test_what_these_users_could_have_shown_follows_from_the_spread_of_their_differences(systems, rows):
    tables = {one.name: one.per_user.astype(np.float64) for one in systems}
    for row in rows:
        gains = tables[row["system"]][row["metric"]] - tables[row["baseline"]][row["metric"]]
        # the noncentral t test has the stated power at exactly this difference
        shift = row["minimal_detectable"] * math.sqrt(800) / gains.std()
        power = stats.nct.sf(stats.t.ppf(0.975, 799), 799, shift) + stats.nct.cdf(stats.t.ppf(0.025, 799), 799, shift)
        assert power == pytest.approx(0.8, abs=0.002)
        assert row["users_needed"] == pytest.approx((Z * gains.std() / gains.mean()) ** 2, abs=4)


def test_p_values_are_corrected_over_all_rows_together(rows):
    """Holm and Benjamini–Hochberg by their definitions, over systems and metrics alike."""
    p = np.array([row["p_value"] for row in rows])
    order = np.argsort(p, kind="stable")
    holm, rate = np.empty(len(p)), np.empty(len(p))
    for place, which in enumerate(order):
        holm[which] = max(min(1.0, (len(p) - step) * p[order[step]]) for step in range(place + 1))
        rate[which] = min(min(1.0, len(p) / (step + 1) * p[order[step]]) for step in range(place, len(p)))
    np.testing.assert_allclose([row["p_holm"] for row in rows], holm, rtol=1e-12)
    np.testing.assert_allclose([row["p_bh"] for row in rows], rate, rtol=1e-12)
    assert rows[0]["p_holm"] > rows[0]["p_value"]  # else nothing was corrected
    np.testing.assert_allclose(rate, stats.false_discovery_control(p), rtol=1e-12)


def test_one_pair_and_metric_alone_has_nothing_to_correct(systems):
    (row,) = compare_systems([(systems[1], systems[0])], ["ndcg@10"], config=CONFIG)
    assert row["p_holm"] == row["p_bh"] == row["p_value"]


def test_a_better_system_is_found_and_an_alike_one_is_not(rows):
    new, alike = rows[0], rows[3]
    assert new["low"] > 0 and new["p_holm"] < 0.001
    assert alike["low"] < 0 < alike["high"] and alike["p_holm"] > 0.05
    # nobody asks whether the better one is not worse; of the other the question has an answer in words
    assert new["equivalence"] == ""
    assert "margin" in alike["equivalence"]


def test_the_margin_is_a_share_of_what_runs_today(systems):
    """With 800 users a margin of 5 % is refused, one of 60 % is not."""
    today, _, alike = systems
    said = {}
    for margin in (0.05, 0.6):
        config = EvaluationConfig(num_resamples=500, parts=(), margin=margin)
        said[margin] = compare_systems([(alike, today)], ["ndcg@10"], config=config)[0]["equivalence"]
    gains = (alike.per_user["ndcg@10"] - today.per_user["ndcg@10"]).astype(np.float64)
    carried = (stats.t.ppf(0.975, 799) + stats.norm.ppf(0.8)) * gains.std() / math.sqrt(800)
    assert said[0.05].startswith(f"800 users can carry a margin of {carried:.3g} or more with power 0.8")
    assert f"the margin is {0.05 * today.per_user['ndcg@10'].astype(np.float64).mean():.3g};" in said[0.05]
    assert re.search(r"does not reach the margin|lies within", said[0.6])


# -- in the shop --


def visitors(p: float, q: float) -> int:
    """Fleiss, Levin and Paik (2003), ch. 4, without the correction for continuity: a group of a two-sided z test."""
    return math.ceil(Z**2 * (p * (1 - p) + q * (1 - q)) / (p - q) ** 2)


@pytest.mark.parametrize(("p", "q", "more"), [(0.12, 0.1, "20 more"), (0.05, 0.1, "50 fewer"), (0.3, 0.299, "1 more")])
def test_the_shop_needs_the_visitors_of_the_textbook(p, q, more):
    hits = [np.arange(1000) < 1000 * share for share in (p, q)]
    pair = tuple(
        system(name, pd.DataFrame({"hit_rate@10": values.astype(np.float32)}))
        for name, values in zip(("new", "today"), hits, strict=True)
    )
    (row,) = compare_systems([pair], ["hit_rate@10"], config=CONFIG)
    assert row["shop"] == (
        f"Of 1,000 visitors {more} would find their next item in the first 10 ({p:.4f} against {q:.4f}). If every hit "
        f"became a click, a test with two equal groups would need about {visitors(p, q):,} visitors in each to show it."
    )


def test_a_known_sample_size():
    """10 % against 12 % at 80 % power: R's power.prop.test, which pools the rates, says 3,840.8 a group."""
    assert visitors(0.12, 0.1) == pytest.approx(3840.8, rel=0.001)


def test_the_test_of_two_groups_of_that_size_shows_it_four_times_in_five():
    n = visitors(0.12, 0.1)
    rng = np.random.default_rng(0)
    p, q = rng.binomial(n, 0.12, 20_000) / n, rng.binomial(n, 0.1, 20_000) / n
    z = (p - q) / np.sqrt((p * (1 - p) + q * (1 - q)) / n)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.012)


def test_only_hits_become_clicks_and_equal_rates_need_nobody(systems, rows):
    assert [bool(row["shop"]) for row in rows] == [False, True, False] * 2
    (row,) = compare_systems([(systems[0], systems[0])], ["hit_rate@10"], config=CONFIG)
    assert row["shop"] == ""


# -- what cannot be said --


def test_two_times_the_same_system_does_not_differ(systems):
    row = compare_systems([(systems[0], systems[0]._replace(name="again"))], METRICS, config=CONFIG)[0]
    assert (row["difference"], row["low"], row["high"], row["relative"]) == (0, 0, 0, 0)
    assert (row["p_value"], row["p_t"], row["p_wilcoxon"], row["p_holm"]) == (1, 1, 1, 1)
    # the differences do not vary: neither effect size nor a number of users is defined
    assert row["effect_size"] is None and row["users_needed"] is None
    assert row["minimal_detectable"] == 0


def test_users_for_whom_a_metric_is_undefined_are_left_out_of_it_alone(systems):
    today, new, _ = systems
    holes = new.per_user.copy()
    holes.loc[:99, "mrr@10"] = np.nan
    ndcg, mrr = compare_systems([(new._replace(per_user=holes), today)], ["ndcg@10", "mrr@10"], config=CONFIG)
    assert (ndcg["users"], mrr["users"]) == (800, 700)
    kept = (new.per_user["mrr@10"] - today.per_user["mrr@10"])[100:].astype(np.float64)
    assert mrr["difference"] == pytest.approx(kept.mean(), abs=1e-7)
    # the share is of the baseline's mean over the same users
    assert mrr["relative"] == pytest.approx(kept.mean() / today.per_user["mrr@10"][100:].mean(), rel=1e-5)


def test_a_metric_that_nobody_has_is_none_and_the_others_stand(systems):
    today, new, _ = systems
    empty = new._replace(per_user=new.per_user.assign(**{"mrr@10": np.float32(np.nan)}))
    ndcg, mrr = compare_systems([(empty, today)], ["ndcg@10", "mrr@10"], config=CONFIG)
    assert ndcg["p_value"] < 0.01
    assert [mrr[name] for name in ("difference", "low", "high", "p_value", "p_holm", "relative")] == [None] * 6
    assert (mrr["users"], mrr["equivalence"], mrr["shop"]) == (0, "", "")
    # and it does not count among what was tested
    assert ndcg["p_holm"] == ndcg["p_value"]


def test_a_baseline_that_hits_nothing_has_no_share_to_lose(systems):
    nothing = system("nothing", table_of(np.full(800, 999)))
    (row,) = compare_systems([(systems[0], nothing)], ["ndcg@10"], config=CONFIG)
    assert row["relative"] is None and row["equivalence"] == "" and row["difference"] > 0


def test_one_user_says_nothing(systems):
    one, other = (entry._replace(per_user=entry.per_user.head(1)) for entry in systems[:2])
    (row,) = compare_systems([(one, other)], ["ndcg@10"], config=CONFIG)
    assert row["users"] == 1 and row["p_value"] == 1
    assert row["effect_size"] is None and row["minimal_detectable"] is None and row["equivalence"] == ""


def test_nothing_to_compare_is_no_row(systems):
    assert compare_systems([], METRICS, config=CONFIG) == []


def test_systems_over_different_users_are_refused(systems):
    short = systems[1]._replace(per_user=systems[1].per_user.head(799))
    with pytest.raises(DataError) as raised:
        compare_systems([(short, systems[0])], METRICS, config=CONFIG)
    assert str(raised.value) == "new was judged on 799 users and today on 800; judge both on the same cases"


# -- tables of different users --


def users_table(names: list[str], start: float) -> pd.DataFrame:
    return pd.DataFrame({"user_id": names, "ndcg@10": start + np.arange(len(names))})


def test_tables_are_cut_to_their_shared_users_in_the_order_of_the_first():
    first, second, sentence = shared_users(
        users_table(["c", "a", "x", "b"], 0), users_table(["y", "b", "c", "z", "a"], 10), names=("ours", "theirs")
    )
    assert first["user_id"].tolist() == second["user_id"].tolist() == ["c", "a", "b"]
    assert first["ndcg@10"].tolist() == [0, 1, 3] and second["ndcg@10"].tolist() == [12, 14, 11]
    assert sentence == ("Only the 3 users of both are compared: 1 of ours and 2 of theirs have no counterpart.")


def test_the_same_users_in_another_order_need_no_sentence():
    table = users_table(["a", "b", "c"], 0)
    first, second, sentence = shared_users(table, table[::-1])
    assert sentence is None
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, table)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            ["a", "b"],
            ["1", "2"],
            "ours and theirs have no user in common (such as 'a' and '1'); judge both on the same",
        ),
        (["a"], [], "ours and theirs have no user in common (such as 'a' and 'none')"),
        (["a", "b", "a"], ["a"], "the table of ours has user 'a' twice; give one system's rows only"),
        (["a"], ["a", "b", "b"], "the table of theirs has user 'b' twice; give one system's rows only"),
    ],
)
def test_tables_that_cannot_be_brought_together_are_refused(first, second, message):
    with pytest.raises(DataError) as raised:
        shared_users(users_table(first, 0), users_table(second, 0), names=("ours", "theirs"))
    assert str(raised.value).startswith(message)


def test_a_table_without_users_is_refused():
    with pytest.raises(DataError, match=r"the table of the second has no column user_id, only \['ndcg@10'\]"):
        shared_users(users_table(["a"], 0), users_table(["a"], 0)[["ndcg@10"]])
