"""The search for badly served users: brute force, its rate of false findings, and planted weaknesses."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.segments import distinct_segments, make_segments, segments_section, worst_segments
from seqrec_jax.evaluation.users.slices import Bins


def make_attributes(rng, users: int) -> dict[str, Bins]:
    """Three cuts, the second of which leans on the first."""
    history = rng.integers(0, 4, users)
    device = np.where(rng.random(users) < 0.5, history % 2, rng.integers(0, 2, users))
    return {
        "history_length": Bins(["1", "2–4", "5–9", "10+"], history),
        "device": Bins(["phone", "desk"], device),
        "repeat": Bins(["new", "again"], (rng.random(users) < 0.3).astype(np.int64)),
    }


def test_segments_are_all_bins_and_pairs_with_enough_users():
    attributes = {"a": Bins(["x", "y"], np.repeat([0, 1], [6, 4])), "b": Bins(["u", "v"], np.array([0] * 4 + [1] * 6))}
    segments = make_segments(attributes, fewest=2)
    # x with u is u itself and y with v is y itself
    assert segments.names == ["a x", "a y", "b u", "b v", "a x and b v"]
    expected = [range(6), range(6, 10), range(4), range(4, 10), [4, 5]]
    assert [np.flatnonzero(segments.users(place)).tolist() for place in range(5)] == [list(users) for users in expected]
    assert make_segments(attributes, fewest=5).names == []
    assert make_segments(attributes, fewest=4).names == ["a x", "a y", "b u", "b v"]


def test_every_segment_equals_a_mask_over_users():
    rng = np.random.default_rng(0)
    attributes = make_attributes(rng, 500)
    segments = make_segments(attributes, fewest=20)
    masks = {}
    for name, bins in attributes.items():
        for place, label in enumerate(bins.labels):
            masks[f"{name.replace('_', ' ')} {label}"] = bins.codes == place
    for place, name in enumerate(segments.names):
        parts = name.split(" and ")
        np.testing.assert_array_equal(segments.users(place), np.all([masks[part] for part in parts], axis=0))
    pairs = [4 * 2, 4 * 2, 2 * 2]
    assert len(segments.names) == 4 + 2 + 2 + sum(pairs)


def brute_force_p_values(values, segments, *, permutations: int, seed: int) -> np.ndarray:
    """The same test user by user and shuffle by shuffle, with shuffles of its own."""
    rng = np.random.default_rng(seed)
    total, deviation = len(values), np.std(values)
    members = [segments.users(place) for place in range(len(segments.names))]

    def statistics(of_users):
        mean = of_users.mean()
        return (
            np.array(
                [
                    (mean - of_users[inside].mean()) * math.sqrt(inside.sum() * (total - 1) / (total - inside.sum()))
                    for inside in members
                ]
            )
            / deviation
        )

    observed = statistics(values)
    largest = np.array([statistics(rng.permutation(values)).max() for _ in range(permutations)])
    return observed, (1 + (largest[None] >= observed[:, None] - 1e-9).sum(axis=1)) / (1 + permutations)


def test_deficits_and_p_values_equal_brute_force():
    rng = np.random.default_rng(1)
    attributes = make_attributes(rng, 300)
    values = rng.exponential(size=300)
    values[attributes["device"].codes == 1] *= 0.75
    found = worst_segments(values, attributes, fewest=20, num_permutations=999, seed=3)
    observed, p_values = brute_force_p_values(values, found.segments, permutations=600, seed=4)
    table = found.table
    assert table.index.tolist() == np.argsort(-observed, kind="stable").tolist()
    for segment, row in table.iterrows():
        inside = found.segments.users(segment)
        assert (row["segment"], row["users"]) == (found.segments.names[segment], inside.sum())
        assert (row["mean"], row["rest"]) == pytest.approx((values[inside].mean(), values[~inside].mean()))
        assert row["deficit"] == pytest.approx(row["rest"] - row["mean"])
        assert row["effect_size"] == pytest.approx(row["deficit"] / values.std())
        noise = 4 * math.sqrt(p_values[segment] * (1 - p_values[segment]) * (1 / 600 + 1 / 999)) + 0.01
        assert row["p_value"] == pytest.approx(p_values[segment], abs=noise)
    assert ((table["at_least"] > 0) == (table["p_value"] <= 0.05)).all()
    assert table["p_value"].is_monotonic_increasing
    again = worst_segments(values, attributes, fewest=20, num_permutations=999, seed=3)
    pd.testing.assert_frame_equal(again.table, table)


@pytest.mark.parametrize("kind", ["rare hits", "shares"])
def test_on_noise_the_search_errs_as_often_as_it_says(kind):
    """Of 400 searches through some 28 overlapping segments 5 % find anything: 20 ± 4.4."""
    rng = np.random.default_rng(5)
    findings = 0
    for seed in range(400):
        attributes = make_attributes(rng, 240)
        values = (rng.random(240) < 0.1).astype(float) if kind == "rare hits" else rng.beta(0.5, 2, 240)
        found = worst_segments(values, attributes, fewest=15, num_permutations=199, seed=seed)
        findings += bool(found.table["p_value"].iloc[0] <= 0.05)
    assert 20 - 3 * 4.4 <= findings <= 20 + 3 * 4.4


@pytest.mark.parametrize("planted", ["history length 1", "device phone and repeat again"])
def test_a_planted_weakness_is_found_as_the_worst(planted):
    rng = np.random.default_rng(6)
    for _ in range(10):
        attributes = make_attributes(rng, 4000)
        segments = make_segments(attributes)
        weak = segments.users(segments.names.index(planted))
        values = (rng.random(4000) < np.where(weak, 0.15, 0.3)).astype(float)
        found = worst_segments(values, attributes, num_permutations=199)
        worst = distinct_segments(found).iloc[0]
        assert worst["segment"] == planted
        assert worst["p_value"] == 1 / 200
        assert 0 < worst["at_least"] < 0.15 < worst["deficit"] + 0.05


def test_what_is_reported_says_something_new():
    rng = np.random.default_rng(7)
    attributes = make_attributes(rng, 3000)
    weak = (attributes["history_length"].codes == 0, attributes["repeat"].codes == 1)
    values = rng.normal(size=3000) - 2.0 * weak[0] - 0.8 * weak[1]
    found = worst_segments(values, attributes, num_permutations=199)
    assert (found.table["p_value"] <= 0.05).sum() > 5
    chosen = distinct_segments(found)
    assert chosen["segment"].tolist()[:2] == ["history length 1", "repeat again"]
    covered = np.zeros(3000, dtype=bool)
    for segment in chosen.index:
        inside = found.segments.users(segment)
        assert covered[inside].mean() <= 0.5
        covered |= inside
    assert len(distinct_segments(found, most=1)) == 1
    assert not len(distinct_segments(found, level=1e-9))


def test_users_without_a_figure_are_left_out():
    rng = np.random.default_rng(8)
    attributes = make_attributes(rng, 400)
    values = rng.random(400)
    values[:60] = np.nan
    found = worst_segments(values, attributes, num_permutations=99)
    rest = {name: Bins(bins.labels, bins.codes[60:]) for name, bins in attributes.items()}
    pd.testing.assert_frame_equal(found.table, worst_segments(values[60:], rest, num_permutations=99).table)
    assert found.kept.tolist() == [False] * 60 + [True] * 340


@pytest.mark.parametrize("values", [np.full(200, 0.3), np.full(200, np.nan), np.zeros(200)])
def test_values_that_do_not_vary_have_no_segments(values):
    found = worst_segments(values, make_attributes(np.random.default_rng(9), 200))
    assert not len(found.table) and math.isnan(found.smallest_found) and not len(distinct_segments(found))


def test_wrong_input_is_refused():
    attributes = make_attributes(np.random.default_rng(10), 200)
    values = np.arange(200.0)
    with pytest.raises(DataError, match="there are no attributes of users to search in"):
        worst_segments(values, {})
    with pytest.raises(ShapeError, match="attribute history_length is of 200 users"):
        worst_segments(values[1:], attributes)
    with pytest.raises(ShapeError, match=r"different numbers of users: \[2, 200\]"):
        make_segments({**attributes, "x": Bins(["y"], np.zeros(2, dtype=int))})
    with pytest.raises(DataError, match="values are infinite"):
        worst_segments(np.where(values == 3, np.inf, values), attributes)
    with pytest.raises(ConfigError, match="num_permutations must be at least 99, got 50"):
        worst_segments(values, attributes, num_permutations=50)
    with pytest.raises(ConfigError, match=r"level must be greater than 0 and less than 1, got 1\.0"):
        worst_segments(values, attributes, level=1.0)
    with pytest.raises(ConfigError, match="fewest must be at least 2, got 1"):
        worst_segments(values, attributes, fewest=1)


def make_judged(name: str, values) -> Judged:
    lists = np.zeros((len(values), 1), dtype=np.int32)
    ranks = np.ones(len(values), dtype=np.int32)
    per_user = pd.DataFrame({"ndcg@10": values})
    return Judged(name, per_user, lists, lists.astype(np.float32), ranks, ranks, ranks, 0, 1.0, 0.0, 1.0)


def test_the_section_names_the_worst_served_and_says_when_there_is_nobody():
    rng = np.random.default_rng(11)
    users = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(1500)],
            "history_length": rng.integers(1, 30, 1500),
            "first_target_popularity": rng.integers(0, 300, 1500),
            "target_in_history": rng.random(1500) < 0.4,
        }
    )
    model, other = rng.random((2, 1500))
    config = EvaluationConfig(num_resamples=200)
    quiet = segments_section([make_judged("gru", model)], users, config=config, num_permutations=199)
    assert len(quiet["blocks"]) == 1 and not quiet["blocks"][0]["rows"]
    assert "none of" in quiet["summary"] and "would have been found" in quiet["summary"]
    weak = (users["history_length"] < 5).to_numpy()
    judged = [make_judged("gru", model - 0.3 * weak), make_judged("pop", other - 0.3 * weak)]
    section = segments_section(judged, users, config=config, num_permutations=199)
    assert "history length 2–4" in section["summary"] or "history length 1" in section["summary"]
    low, gain = section["blocks"]
    assert low["rows"][0][0].startswith("history length") and low["rows"][0][-1] == "0.005"
    assert low["rows"][0][2]["low"] < low["rows"][0][2]["mean"] < low["rows"][0][2]["high"]
    assert not gain["rows"]  # the other system is as weak there
