"""Two systems on the same units: the mean difference, its interval and tests, and its size relative to the spread."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr

from seqrec_jax.settings import check_choice, check_value
from seqrec_jax.statistics.bootstrap import percentile_interval
from seqrec_jax.statistics.inputs import Moments, Table, moments, paired_tables
from seqrec_jax.statistics.resampling import resampled_deviations
from seqrec_jax.statistics.sign_flips import sign_flip_p_values

TESTS = ("permutation", "bootstrap", "t", "wilcoxon")
"""The tests of `paired_differences`."""


class PairedDifference(NamedTuple):
    """Difference of a and b on the same units: `[M]` each, float64 except `units`.

    Attributes:
      mean: mean of a - b over the units for which both are defined, nan without any.
      low: lower end of the confidence interval of the mean.
      high: upper end.
      p_value: two-sided, of the permutation test: under the hypothesis that a and b are exchangeable within
        each unit.
      effect_size: Cohen's d_z, the mean over the standard deviation of the differences; nan where these do
        not vary.
      p_bootstrap: two-sided, from resampled means moved to 0: under the hypothesis that the mean is 0.
      p_t: two-sided, of the paired t-test; nan where the differences are equal and not 0.
      p_wilcoxon: two-sided, of the signed-rank test; under the hypothesis that the differences lie
        symmetrically around 0, so it may be small although the mean is 0.
      deviation: standard deviation of the differences, nan with fewer than two units.
      units: int64 number of units for which both are defined.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray
    effect_size: np.ndarray
    p_bootstrap: np.ndarray
    p_t: np.ndarray
    p_wilcoxon: np.ndarray
    deviation: np.ndarray
    units: np.ndarray


def paired_differences(
    a: Table,
    b: Table,
    *,
    num_resamples: int = 2000,
    num_permutations: int = 5000,
    seed: int = 0,
    confidence: float = 0.95,
    tests: Collection[str] = TESTS,
) -> PairedDifference:
    """Difference a - b of each metric on the same units, with interval, p-values and effect size.

    Decide by one test, chosen beforehand; `p_value`, of the permutation test, makes the fewest assumptions. The
    others are for comparison with published results that used them.

    The signed-rank test includes units without a difference in the ranking, and drops their ranks (Pratt), since
    most units may have none. Values that are equal up to rounding are ties, and the p-value is that of the normal
    distribution, which needs about 20 units that differ.

    Args:
      a: `[U, M]` numbers, one row for each unit, nan = undefined. Data frames must have the same index and columns.
      b: `[U, M]` numbers of the same units and metrics in the same order.
      num_resamples: number of bootstrap resamples for the interval, at least 100.
      num_permutations: least number of exchanges for the permutation test, at least 100; rounded up to a
        power of two that exceeds the number of units that differ. p is never below one over that number.
      seed: seed of all draws, not negative.
      confidence: probability that such an interval holds the true mean, between 0 and 1.
      tests: tests to compute, of "permutation", "bootstrap", "t" and "wilcoxon"; the p-values of others are nan.

    Returns:
      `[M]` mean, low, high, p-values, effect size, standard deviation and units of each column; nan for a column
      without a unit for which both are defined.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike.
      DataError: no units, infinite or non-numeric values, data frames of different units or metrics.
      ConfigError: an option out of range.

    Source:
      Smucker, Allan and Carterette (2007), A comparison of statistical significance tests for information
      retrieval evaluation; Koning and Hemerik (2024) for the group of exchanges; Efron and Tibshirani (1993),
      ch. 16, for the bootstrap test; Pratt (1959) for zeros among signed ranks; Lakens (2013) for d_z.

    >>> result = paired_differences([[0.9], [0.8], [0.7], [0.9]], [[0.1], [0.1], [0.2], [0.3]])
    >>> result.mean.round(3), result.effect_size.round(2), result.p_value
    (array([0.65]), array([5.03]), array([0.125]))
    """
    check_value("num_resamples", num_resamples, "[100, inf)")
    check_value("num_permutations", num_permutations, "[100, inf)")
    check_value("seed", seed, "[0, inf)")
    check_value("confidence", confidence, "(0, 1)")
    for test in tests:
        check_choice("tests", test, TESTS)
    first, second = paired_tables(a, b)
    differences = first - second
    moment = moments(differences)
    deviations = resampled_deviations(differences, moment.mean, num_resamples=num_resamples, seed=seed)
    p_values = dict.fromkeys(TESTS, np.full(differences.shape[1], np.nan))
    if "permutation" in tests:
        p_values["permutation"] = sign_flip_p_values(differences, num_flips=num_permutations, seed=(seed, 1))
    if "bootstrap" in tests:
        p_values["bootstrap"] = _bootstrap_p_values(moment.mean, deviations)
    if "t" in tests:
        p_values["t"] = _t_p_values(moment)
    if "wilcoxon" in tests:
        p_values["wilcoxon"] = np.array([_signed_rank_p_value(column) for column in differences.T])
    effect_size = np.full_like(moment.mean, np.nan)
    np.divide(moment.mean, moment.deviation, out=effect_size, where=moment.deviation > 0)
    return PairedDifference(
        *percentile_interval(moment.mean, deviations, confidence=confidence),
        p_values["permutation"],
        effect_size,
        p_values["bootstrap"],
        p_values["t"],
        p_values["wilcoxon"],
        moment.deviation,
        moment.units,
    )


def _bootstrap_p_values(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """`(1 + resamples at least as far from the mean as that is from 0) / (1 + resamples)`."""
    says = ~np.isnan(deviations)
    with np.errstate(invalid="ignore"):
        extreme = np.abs(deviations) >= np.abs(means) * (1 - 1e-10)
    p_values = (1 + (extreme & says).sum(axis=0)) / (1 + says.sum(axis=0))
    return np.where(np.isnan(means), np.nan, p_values)


def _t_p_values(moment: Moments) -> np.ndarray:
    error = moment.deviation / np.sqrt(np.maximum(moment.units, 1))
    t = np.divide(moment.mean, error, out=np.full_like(error, np.nan), where=error > 0)
    p_values = 2 * stdtr(np.maximum(moment.units - 1, 1), -np.abs(t))
    return np.where((moment.mean == 0) & (moment.deviation == 0), 1.0, p_values)


def _signed_rank_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of one column `[U]`: Σ sign · rank over the root of Σ rank², by the normal distribution."""
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return float("nan")
    moves = differences[differences != 0]
    if not len(moves):
        return 1.0
    moves = moves[np.argsort(np.abs(moves))]
    size = np.abs(moves)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(size) > 1e-10 * size[1:]]))
    lengths = np.diff(np.append(starts, len(moves)))
    ranks = np.repeat(len(differences) - len(moves) + starts + (lengths + 1) / 2, lengths)
    z = np.sign(moves) @ ranks / np.sqrt(ranks @ ranks)
    return float(2 * ndtr(-abs(z)))
