"""The promises of intervals and tests, kept on 2,000 simulated evaluations each.

An evaluation is one column of independent users whose NDCG@10 is zero for most and skewed for the rest.
Columns share the draws of users and signs, which does not make their data dependent.
"""

from __future__ import annotations

import numpy as np
import pytest

from seqrec_jax.statistics import bootstrap_means, equivalence, paired_differences, resampling, units_needed

REPETITIONS = 2000
GAINS = np.append(1 / np.log2(np.arange(2, 12)), 0.0)


def place_chances(hits: float) -> np.ndarray:
    """Chances of places 1 to 10 and of none of them; early places are likelier, as with real lists."""
    places = np.arange(1, 11) ** -0.8
    return np.append(hits * places / places.sum(), 1 - hits)


UNIT = float(place_chances(1.0) @ GAINS)
"""Mean NDCG@10 if every user were a hit."""


def ndcg(generator: np.random.Generator, users: int, hits: float) -> np.ndarray:
    """`[U, REPETITIONS]` NDCG@10 of users with one target each."""
    drawn = np.searchsorted(np.cumsum(place_chances(hits)), generator.random((users, REPETITIONS)), side="right")
    return GAINS[np.minimum(drawn, 10)]


def rival(generator: np.random.Generator, system: np.ndarray, other: np.ndarray, agreement: float) -> np.ndarray:
    """A second system that agrees with the first on a share of the users, and else is like `other`."""
    return np.where(generator.random(system.shape) < agreement, system, other)


@pytest.mark.parametrize(("users", "hits", "poisson"), [(300, 0.4, False), (1000, 0.12, False), (1000, 0.2, True)])
def test_intervals_cover_the_truth_as_often_as_they_say(users, hits, poisson, monkeypatch):
    if poisson:
        monkeypatch.setattr(resampling, "MOST_EXACT", 300)
        monkeypatch.setattr(resampling, "TILE", 300)
    table = ndcg(np.random.default_rng(11), users, hits)
    truth = place_chances(hits) @ GAINS
    interval = bootstrap_means(table)
    covered = np.mean((interval.low <= truth) & (truth <= interval.high))
    assert 0.94 <= covered <= 0.96


@pytest.mark.parametrize(("users", "hits", "agreement"), [(300, 0.4, 0.3), (1000, 0.12, 0.5)])
def test_equal_systems_differ_in_a_twentieth_of_comparisons(users, hits, agreement):
    generator = np.random.default_rng(12)
    a, other = ndcg(generator, users, hits), ndcg(generator, users, hits)
    b = rival(generator, a, other, agreement)
    result = paired_differences(a, b)
    for name in ("p_value", "p_bootstrap", "p_t", "p_wilcoxon"):
        p_values = getattr(result, name)
        assert 0.04 <= np.mean(p_values <= 0.05) <= 0.06, name
        assert 0.08 <= np.mean(p_values <= 0.1) <= 0.12, name
    # the difference's own interval covers 0
    assert 0.94 <= np.mean((result.low <= 0) & (result.high >= 0)) <= 0.96


def test_a_real_difference_is_found_as_often_as_the_power_says():
    """With as many users as are said to be needed, four of five evaluations find it."""
    difference = 0.05
    chances = [place_chances(hits) for hits in (0.25 + difference / UNIT, 0.25)]
    deviation = np.sqrt(sum(chance @ GAINS**2 - (chance @ GAINS) ** 2 for chance in chances))
    users = int(units_needed(deviation, difference))
    assert 300 < users < 1000
    generator = np.random.default_rng(13)
    a, b = ndcg(generator, users, 0.25 + difference / UNIT), ndcg(generator, users, 0.25)
    result = paired_differences(a, b, tests=["permutation", "t"])
    assert abs(np.mean(result.p_value <= 0.05) - 0.8) < 0.03
    assert abs(np.mean(result.p_t <= 0.05) - 0.8) < 0.03
    np.testing.assert_allclose(result.deviation.mean(), deviation, rtol=0.01)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_at_the_margin_a_twentieth_is_wrongly_passed(interval):
    """The true difference is the margin itself, on the worse side: at most 5 % may be called not inferior."""
    generator = np.random.default_rng(14)
    users, margin = 1000, 0.06
    b = ndcg(generator, users, 0.4)
    a = ndcg(generator, users, 0.4 - margin / UNIT)
    result = equivalence(a, b, margin=margin, question="non-inferiority", interval=interval)
    assert np.mean(result.verdict == "refused") < 0.01
    passed = np.isin(result.verdict, ["not inferior", "equivalent"])
    assert np.mean(result.p_not_inferior <= 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(passed) <= 0.06
    # and with the other sign: at most 5 % may be called equivalent
    assert np.mean(equivalence(b, a, margin=margin).p_equivalent <= 0.05) <= 0.06
