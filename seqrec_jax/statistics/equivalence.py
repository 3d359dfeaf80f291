"""Whether two systems are as good as each other for all that matters: equivalence within a stated margin.

That a difference is not significant does not show that there is none. Equivalence is shown by an interval
that lies within a margin which somebody chose beforehand as too small to matter; and where the users are too
few for such an interval ever to be short enough, the question is refused instead of answered by chance.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr, stdtrit

from seqrec_jax.errors import ConfigError, ShapeError
from seqrec_jax.statistics.bootstrap import percentile_interval
from seqrec_jax.statistics.inputs import (
    Moments,
    check_count,
    check_seed,
    check_share,
    moments,
    paired_tables,
)
from seqrec_jax.statistics.resampling import resampled_deviations

Question = Literal["equivalence", "non-inferiority"]


class EquivalenceResult(NamedTuple):
    """What a margin allows one to say of each of M metrics: `[M]` each.

    Attributes:
      verdict: "equivalent": the whole interval lies within the margin on both sides; "not inferior": it lies
        above the margin on the worse side; "inferior": it lies beyond the margin on the worse side;
        "undecided": none of these; "refused": the data cannot carry the margin.
      reason: the same in a sentence, with figures.
      mean: mean of a - b.
      low: lower end of the interval at confidence 1 - 2 level.
      high: upper end.
      margin: the margin in the metric's own unit.
      smallest_margin: the smallest margin that these users could have carried.
      p_equivalent: the larger of the two one-sided p-values, that the difference is beyond either margin.
      p_not_inferior: one-sided, that a is worse than b by the margin or more.
      users: int64, for how many users both are defined.
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
    users: np.ndarray


def equivalence(
    a: ArrayLike | pd.DataFrame,
    b: ArrayLike | pd.DataFrame,
    *,
    margin: ArrayLike | None = None,
    relative_margin: ArrayLike | None = None,
    question: Question = "equivalence",
    higher_is_better: ArrayLike = True,
    level: float = 0.05,
    power: float = 0.8,
    interval: Literal["t", "bootstrap"] = "t",
    num_resamples: int = 2000,
    seed: int = 0,
) -> EquivalenceResult:
    """Two one-sided tests of a - b against a margin, refused where the users are too few for it.

    The data carry a margin if, were there no difference at all, the question would be answered with yes in a
    share `power` of repetitions: `margin ≥ (t_{1-level} + z) · s / √n`, with z at `(1 + power) / 2` for
    equivalence and at `power` for non-inferiority. That looks at the spread of the differences and never at
    their mean, so refusing does not depend on how the comparison came out.

    Args:
      a: `[U, M]` one row a user, nan = undefined: the system that is to be shown as good. Data frames must
        have the same index and columns.
      b: `[U, M]` the baseline, for the same users and metrics in the same order.
      margin: largest difference that does not matter, above 0, in the metric's own unit; one for all or `[M]`.
      relative_margin: the same as a share of b's mean, taken as a known number; one for all or `[M]`. Pass
        one of the two.
      question: what is to be shown, and so what the data must be able to carry.
      higher_is_better: False for metrics such as log loss; one for all or `[M]`.
      level: chance of a wrong "equivalent", and of a wrong "not inferior", between 0 and 0.5.
      power: see above, between 0 and 1.
      interval: "t" for Student's, "bootstrap" for percentiles of resampled users.
      num_resamples: of the bootstrap, at least 100.
      seed: of the bootstrap's draws, not negative.

    Returns:
      Verdict, reason and figures of each of the M columns.

    Raises:
      ShapeError: a and b that are not `[U, M]` alike, or a margin that is neither one number nor `[M]`.
      DataError: no users, infinite or non-numeric values, data frames of different users or metrics.
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
    check_count("num_resamples", num_resamples)
    check_seed(seed)
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

    degrees = np.maximum(moment.users - 1, 1)
    error = moment.deviation / np.sqrt(np.maximum(moment.users, 1))
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
        verdict = _verdict(ends[0], ends[1], margins[column], smallest[column], int(moment.users[column]))
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
        moment.users,
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


def _verdict(low: float, high: float, margin: float, smallest: float, users: int) -> str:
    """From the interval turned so that higher is better."""
    if users < 2 or not margin > 0 or not smallest <= margin:
        return "refused"
    if low > -margin:
        return "equivalent" if high < margin else "not inferior"
    return "inferior" if high < -margin else "undecided"


def _reason(
    verdict: str, ends: str, moment: Moments, column: int, *, margin: float, smallest: float, power: float
) -> str:
    users = int(moment.users[column])
    if verdict == "refused":
        if users < 2:
            return f"{users} user(s) with both systems defined: nothing can be said"
        if not margin > 0:
            return "the margin is a share of a baseline whose mean is 0, so every difference is beyond it"
        needed = users * (smallest / margin) ** 2
        return (
            f"{users:,} users can carry a margin of {smallest:.3g} or more with power {power:g}, and the margin is "
            f"{margin:.3g}; that would take about {needed:,.0f} users"
        )
    return {
        "equivalent": f"{ends} lies within ±{margin:.3g}",
        "not inferior": f"{ends} does not reach the margin of {margin:.3g} on the worse side",
        "inferior": f"{ends} lies beyond the margin of {margin:.3g} on the worse side",
        "undecided": f"{ends} holds the margin of {margin:.3g} on the worse side",
    }[verdict]


def _per_column(name: str, value: ArrayLike | None, columns: int) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape not in ((), (columns,)):
        raise ShapeError(f"{name} has shape {array.shape}, expected one number or one for each of {columns} metrics")
    return np.broadcast_to(array, (columns,)).copy()


def _check_options(
    margin: ArrayLike | None,
    relative_margin: ArrayLike | None,
    question: str,
    level: float,
    power: float,
    interval: str,
) -> None:
    if (margin is None) == (relative_margin is None):
        raise ConfigError("pass one of margin (in the metric's unit) and relative_margin (a share of b's mean)")
    for name, value in (("margin", margin), ("relative_margin", relative_margin)):
        if value is not None and not (np.asarray(value, dtype=np.float64) > 0).all():
            raise ConfigError(f"{name} is {value}, expected above 0: the largest difference that does not matter")
    if question not in ("equivalence", "non-inferiority"):
        raise ConfigError(f"question is {question!r}, expected 'equivalence' or 'non-inferiority'")
    if interval not in ("t", "bootstrap"):
        raise ConfigError(f"interval is {interval!r}, expected 't' or 'bootstrap'")
    if not 0 < level < 0.5:
        raise ConfigError(f"level is {level}, expected a share between 0 and 0.5 such as 0.05")
    check_share("power", power)
