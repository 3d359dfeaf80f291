"""Cuts of users and the figures within them, against counting by hand and the statistics called directly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.slices import (
    FEWEST_USERS,
    bins_of,
    duration,
    paired_slices,
    paired_slices_section,
    slice_by,
    user_bins,
    user_slices,
)
from seqrec_jax.statistics import (
    benjamini_hochberg_correction,
    bootstrap_means,
    holm_correction,
    paired_differences,
)

CONFIG = EvaluationConfig(num_resamples=200)


def make_judged(name: str, values) -> Judged:
    users = len(values)
    lists = np.zeros((users, 1), dtype=np.int32)
    ranks = np.ones(users, dtype=np.int32)
    per_user = pd.DataFrame({"ndcg@10": values})
    return Judged(name, per_user, lists, lists.astype(np.float32), ranks, ranks, ranks, 0, 1.0, 0.0, 1.0)


def make_users(rng, count: int) -> pd.DataFrame:
    behaviors = pd.Categorical.from_codes(rng.integers(0, 2, count), categories=["view", "buy"])
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(count)],
            "history_length": rng.integers(1, 30, count),
            "targets": 1,
            "first_target": "i1",
            "first_target_popularity": rng.integers(0, 300, count),
            "popularity_decile": rng.integers(1, 11, count),
            "first_target_age_days": rng.uniform(0, 50, count),
            "seconds_since_last_event": np.where(rng.random(count) < 0.2, np.nan, rng.uniform(0, 1e6, count)),
            "first_target_behavior": behaviors,
            "target_in_history": rng.random(count) < 0.4,
            "target_is_last_item": False,
            "history_popularity": rng.normal(size=count),
            "country": rng.choice(["de", "fr", "it"], count, p=[0.6, 0.3, 0.1]),
        }
    )


def test_numbers_are_cut_from_edge_to_edge_and_few_users_join_a_neighbour():
    values = pd.Series([0] * 40 + [1] * 29 + [2] * 5 + [7] * 31 + [300] * 3)
    bins = bins_of(values, edges=[0, 1, 2, 5, 10, 200])
    assert bins.labels == ["0", "1–4", "5+"]
    assert [int(bins.members(place).sum()) for place in range(3)] == [40, 34, 34]
    assert bins_of(pd.Series([3, 4]), edges=[0, 1, 2]).labels == ["0+"]
    assert bins_of(pd.Series([1, 9, 10]), edges=[1, 9, 10], end=11, fewest=1).labels == ["1–8", "9", "10"]
    floats = bins_of(pd.Series([0.5, 3.0, np.nan, 90_000.0]), edges=[0, 60, 86_400], text=duration, fewest=1)
    assert floats.labels == [
        "0 seconds to 1 minute",
        "1 minute and more",
        "unknown",
    ]
    assert floats.codes.tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize("fewest", [1, 10, 30, 1000])
def test_every_user_is_in_one_bin_that_its_value_belongs_to(fewest):
    rng = np.random.default_rng(fewest)
    values = pd.Series(rng.geometric(0.05, 500))
    edges = [0, 1, 2, 5, 10, 20, 50, 100]
    bins = bins_of(values, edges=edges, fewest=fewest)
    for place, label in enumerate(bins.labels):
        low, _, high = label.rstrip("+").partition("–")
        low, high = int(low), np.inf if label.endswith("+") else int(high or low)
        np.testing.assert_array_equal(bins.members(place), values.between(low, high))
        assert bins.members(place).sum() >= min(fewest, 500)


def test_categories_of_few_users_are_put_together():
    values = pd.Series(["b"] * 40 + ["a"] * 50 + ["c"] * 3 + ["d"] * 2 + [None] * 4, name="brand")
    bins = bins_of(values)
    assert bins.labels == ["a", "b", "other", "unknown"]
    assert np.bincount(bins.codes).tolist() == [50, 40, 5, 4]
    ordered = bins_of(values, categories=["c", "b", "a", "d"], fewest=3)
    assert ordered.labels == ["c", "b", "a", "other", "unknown"]
    assert bins_of(values.astype("category"), fewest=1).labels == ["a", "b", "c", "d", "unknown"]
    assert bins_of(pd.Series(["x", "y"])).labels == ["all"]
    with pytest.raises(DataError, match=r"brand has 'a', expected one of \['b'\]"):
        bins_of(values, categories=["b"])


@pytest.mark.parametrize("edges", [[], [1, 1], [2, 1]])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(ConfigError, match="edges must be rising lower ends of bins"):
        bins_of(pd.Series([3]), edges=edges)


def test_a_number_below_the_first_edge_is_refused():
    with pytest.raises(DataError, match="age has -1, the first bin begins at 0; add an edge"):
        bins_of(pd.Series([3.0, -1.0], name="age"), edges=[0, 1])


def test_slices_are_the_statistics_within_each_bin():
    rng = np.random.default_rng(0)
    users = make_users(rng, 400)
    tables = rng.random((400, 2))
    tables[:5, 0] = np.nan
    judged = [make_judged("gru", tables[:, 0]), make_judged("pop", tables[:, 1])]
    slices = user_slices(judged, users, config=CONFIG)
    assert list(slices) == [
        *["history_length", "target_popularity", "popularity_decile", "target_age_days", "time_since_last_event"],
        *["target_behavior", "repeat", "country"],
    ]
    for name, rows in slices.items():
        assert sum(row["users"] for row in rows) == 400, name
    direct = slice_by(judged, users["history_length"], edges=[0, 1, 2, 5, 10, 20, 50, 100, 200], config=CONFIG)
    assert direct == slices["history_length"]
    inside = users["target_in_history"].to_numpy()
    assert [row["label"] for row in slices["repeat"]] == ["new item", "item of the history"]
    for row, members in zip(slices["repeat"], (~inside, inside), strict=True):
        interval = bootstrap_means(tables[members], num_resamples=200, seed=0)
        assert row["users"] == members.sum()
        for column, system in enumerate(("gru", "pop")):
            figures = row["systems"][system]
            assert figures["mean"] == pytest.approx(np.nanmean(tables[members, column]))
            assert (figures["low"], figures["high"]) == pytest.approx((interval.low[column], interval.high[column]))
    with pytest.raises(ShapeError, match="the table of users has 399 rows, 400 users were judged"):
        user_slices(judged, users.iloc[1:], config=CONFIG)


def test_columns_without_any_difference_are_no_slices_but_the_two_of_old():
    users = pd.DataFrame({"history_length": [3] * 50, "first_target_popularity": [2] * 50, "target_in_history": True})
    users["first_target_age_days"] = np.nan
    assert list(user_bins(users)) == ["history_length", "target_popularity"]


def test_paired_slices_are_paired_differences_corrected_over_the_whole_table():
    rng = np.random.default_rng(1)
    users = make_users(rng, 300)
    model, first, second = rng.random((3, 300))
    model[users["target_in_history"]] += 0.5
    judged = [make_judged(name, values) for name, values in zip("mab", (model, first, second), strict=True)]
    found = paired_slices(judged, users, config=CONFIG, names=["repeat", "country"])
    assert found["slice"].tolist() == ["repeat"] * 4 + ["country"] * 6
    tested = found["users"] >= FEWEST_USERS
    assert found["p_value"].notna().tolist() == tested.tolist()
    for row in found[found["slice"] == "repeat"].itertuples():
        inside = users["target_in_history"].to_numpy() == (row.label == "item of the history")
        other = first if row.other == "a" else second
        assert row.difference == pytest.approx((model - other)[inside].mean())
        direct = paired_differences(model[inside, None], other[inside, None], num_resamples=200, seed=0)
        assert (row.low, row.high) == pytest.approx((direct.low[0], direct.high[0]))
    np.testing.assert_allclose(found["p_holm"], holm_correction(found["p_value"]))
    np.testing.assert_allclose(found["p_bh"], benjamini_hochberg_correction(found["p_value"]))
    repeats = found[found["label"] == "item of the history"]
    assert (repeats["p_holm"] < 0.01).all() and (found["p_holm"].drop(repeats.index) > 0.05).any()
    section = paired_slices_section(found, model="m", metric="ndcg@10")
    assert len(section["blocks"][0]["rows"]) == 10
    assert section["summary"].startswith("m minus a and b on ndcg@10")
    with pytest.raises(ConfigError, match="there is nothing to compare m with"):
        paired_slices(judged[:1], users, config=CONFIG)
    with pytest.raises(ConfigError, match=r"there are no slices \['age'\]; these users have history_length"):
        paired_slices(judged, users, config=CONFIG, names=["age"])
