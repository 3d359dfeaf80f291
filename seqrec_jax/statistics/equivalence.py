"""Equivalence of two systems within a stated margin.

A difference that is not significant may still exist. Equivalence is shown by an interval that lies within a
margin, chosen beforehand as too small to matter. If there are too few units for such an interval ever to be short
enough, the question is refused instead of answered by chance.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.settings import check_choice, check_value
from seqrec_jax.statistics.bootstrap import percentile_interval
from seqrec_jax.statistics.inputs import Moments, Numbers, Table, moments, paired_tables
from seqrec_jax.statistics.resampling import resampled_deviations

Question = Literal["equivalence", "non-inferiority"]
IntervalKind = Literal["t", "bootstrap"]


class EquivalenceResult(NamedTuple):
    """Result of the tests against a margin for each of M metrics: `[M]` each, float64 unless stated.

    Attributes:
      verdict: str; "equivalent": the whole interval lies within the margin on both sides; "not inferior": it lies
        above the margin on the worse side; "inferior": it lies beyond the margin on the worse side;
        "undecided": none of these; "refused": there are too few units for the margin.
      reason: str, the verdict in a sentence with its numbers.
      mean: mean of a - b.
      low: lower end of the interval at confidence 1 - 2 level.
      high: upper end.
      margin: the margin, on the metric's own scale.
      smallest_margin: the smallest margin for which there are enough units.
      p_equivalent: the larger of the two one-sided p-values, that the difference is beyond either margin.
      p_not_inferior: one-sided, that a is worse than b by the margin or more.
      units: int64 number of units for which both are defined.
    """

    verdict: np.ndarray
    reason: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    margin: np.ndarray
    smallest_margin: np.ndarray
    p_equivalent: np.ndarray
    p_not_inferior: np.ndarray
    units: np.ndarray


def equivalence(
    a: Table,
    b: Table,
    *,
    margin: Numbers | None = None,
    relative_margin: Numbers | None = None,
    question: Question = "equivalence",
    higher_is_better: Numbers = True,
    level: float = 0.05,
    power: float = 0.8,
    interval: IntervalKind = "t",
    num_resamples: int = 2000,
    seed: int = 0,
    unit_name: str = "units",
) -> EquivalenceResult:
    """Two one-sided tests of a - b against a margin, refused if there are too few units for it.

    There are enough units if, without any difference, the question would be answered with yes in a share `power`
    of repetitions: `margin ≥ (t_{1-level} + z) · s / √n`, with z at `(1 + power) / 2` for
    equivalence and at `power` for non-inferiority. This uses the spread of the differences and not their mean, so
    a refusal does not depend on the outcome of the comparison.

    Args:
      a: `[U, M]` numbers, one row for each unit, nan = undefined: the system to be tested. Data frames must have
        the same index and columns.
      b: `[U, M]` numbers of the baseline, for the same units and metrics in the same order.
      margin: largest difference that does not matter, above 0, on the metric's own scale; one for all or `[M]`.
      relative_margin: the same as a share of b's mean, taken as a known number; one for all or `[M]`. Pass
        one of the two.
      question: the claim to be tested, which determines how many units are enough.
      higher_is_better: False for metrics such as log loss; one for all or `[M]`.
      level: probability of a wrong "equivalent", and of a wrong "not inferior", between 0 and 0.5.
      power: share of repetitions as above, between 0 and 1.
      interval: "t" for Student's interval, "bootstrap" for percentiles of resampled units.
      num_resamples: number of bootstrap resamples, at least 100.
      seed: seed of the bootstrap's draws, not negative.
      unit_name: plural noun for the units in the reasons, such as "users".

    Returns:
      Verdict, reason and numbers of each of the M columns.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike, or a margin that is neither one number nor `[M]`.
      DataError: no units, infinite or non-numeric values, data frames of different units or metrics.
      ConfigError: an option out of range, both margins or none.

    Source:
      Schuirmann (1987), A comparison of the two one-sided tests procedure and the power approach; Lakens
      (2017), Equivalence tests; Piaggio et al. (2012), the CONSORT statement on non-inferiority.

    >>> a = [[0.50], [0.20], [0.40], [0.31], [0.60]]
    >>> b = [[0.49], [0.21], [0.40], [0.30], [0.61]]
    >>> equivalence(a, b, margin=0.05).verdict, equivalence(a, b, margin=0.001).verdict
    (array(['equivalent'], dtype='<U12'), array(['refused'], dtype='<U12'))
    """
    _check_options(margin, relative_margin, question, level, power, interval)
    check_value("num_resamples", num_resamples, "[100, inf)")
    check_value("seed", seed, "[0, inf)")
    first, second = paired_tables(a, b)
    differences = first - second
    moment = moments(differences)
    columns = len(moment.mean)
    if margin is not None:
        margins = _per_column("margin", margin, columns)
    else:
        baseline = moments(np.where(np.isnan(differences), np.nan, second)).mean
        margins = _per_column("relative_margin", relative_margin, columns) * np.abs(baseline)
    sign = np.where(_per_column("higher_is_better", higher_is_better, columns) != 0, 1.0, -1.0)

    degrees = np.maximum(moment.units - 1, 1)
    error = moment.deviation / np.sqrt(np.maximum(moment.units, 1))
    if interval == "t":
        half = stdtrit(degrees, 1 - level) * error
        low, high = moment.mean - half, moment.mean + half
        worse, better = _t_tests(sign * moment.mean, error, margins, degrees)
    else:
        deviations = resampled_deviations(differences, moment.mean, num_resamples=num_resamples, seed=seed)
        _, low, high = percentile_interval(moment.mean, deviations, confidence=1 - 2 * level)
        worse, better = _shifted_tests(sign * moment.mean, sign * deviations, margins)
    quantiles = stdtrit(degrees, 1 - level) + ndtri((1 + power) / 2 if question == "equivalence" else power)
    smallest = quantiles * error
    verdicts, reasons = [], []
    for column in range(columns):
        ends = sorted([sign[column] * low[column], sign[column] * high[column]])
        verdict = _verdict(ends[0], ends[1], margins[column], smallest[column], int(moment.units[column]))
        verdicts.append(verdict)
        reasons.append(
            _reason(
                verdict,
                f"the {100 * (1 - 2 * level):.3g} % interval [{low[column]:.3g}, {high[column]:.3g}]",
                moment,
                column,
                margin=float(margins[column]),
                smallest=float(smallest[column]),
                power=power,
                unit_name=unit_name,
            )
        )
    return EquivalenceResult(
        np.array(verdicts, dtype="<U12"),
        np.array(reasons, dtype=object),
        moment.mean,
        low,
        high,
        margins,
        smallest,
        np.maximum(worse, better),
        worse,
        moment.units,
    )


def _t_tests(
    mean: np.ndarray, error: np.ndarray, margins: np.ndarray, degrees: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One-sided p-values that the mean is at most -margin, and at least margin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        below, above = (mean + margins) / error, (mean - margins) / error
    return stdtr(degrees, -below), stdtr(degrees, above)


def _shifted_tests(mean: np.ndarray, deviations: np.ndarray, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same from resampled means that are moved to the margin."""
    says = (~np.isnan(deviations)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        worse = (1 + (deviations >= mean + margins).sum(axis=0)) / (1 + says)
        better = (1 + (deviations <= mean - margins).sum(axis=0)) / (1 + says)
    unknown = np.isnan(mean)
    return np.where(unknown, np.nan, worse), np.where(unknown, np.nan, better)


def _verdict(low: float, high: float, margin: float, smallest: float, units: int) -> str:
    """From the interval turned so that higher is better."""
    if units < 2 or not margin > 0 or not smallest <= margin:
        return "refused"
    if low > -margin:
        return "equivalent" if high < margin else "not inferior"
    return "inferior" if high < -margin else "undecided"


def _reason(
    verdict: str,
    ends: str,
    moment: Moments,
    column: int,
    *,
    margin: float,
    smallest: float,
    power: float,
    unit_name: str,
) -> str:
    units = int(moment.units[column])
    if verdict == "refused":
        if units < 2:
            return f"the number of {unit_name} with both systems defined is {units}: nothing can be said"
        if not margin > 0:
            return "the margin is a share of a baseline whose mean is 0, so every difference is beyond it"
        needed = units * (smallest / margin) ** 2
        return (
            f"{units:,} {unit_name} can carry a margin of {smallest:.3g} or more with power {power:g}, and the margin "
            f"is {margin:.3g}; that would take about {needed:,.0f} {unit_name}"
        )
    return {
        "equivalent": f"{ends} lies within ±{margin:.3g}",
        "not inferior": f"{ends} does not reach the margin of {margin:.3g} on the worse side",
        "inferior": f"{ends} lies beyond the margin of {margin:.3g} on the worse side",
        "undecided": f"{ends} holds the margin of {margin:.3g} on the worse side",
    }[verdict]


def _per_column(name: str, value: Numbers | None, columns: int) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), (columns,)):
        raise ShapeError(f"{name} has shape {array.shape}, expected one number or one for each of {columns} metrics")
    return np.broadcast_to(array, (columns,)).copy()


def _check_options(
    margin: Numbers | None,
    relative_margin: Numbers | None,
    question: str,
    level: float,
    power: float,
    interval: str,
) -> None:
    if (margin is None) == (relative_margin is None):
        raise ConfigError("pass one of margin (on the metric's scale) and relative_margin (a share of b's mean)")
    for name, value in (("margin", margin), ("relative_margin", relative_margin)):
        if value is not None and not (np.asarray(value, dtype=np.float64) > 0).all():
            raise ConfigError(f"{name} is {value}, expected above 0: the largest difference that does not matter")
    check_choice("question", question, Question)
    check_choice("interval", interval, IntervalKind)
    check_value("level", level, "(0, 0.5)")
    check_value("power", power, "(0, 1)")
