"""Power of a paired comparison: the smallest detectable difference, and the number of units that one would need.

Both follow from the standard deviation of the units' differences and the number of units, and not from the mean
difference. A difference that is not significant says nothing unless one of that size would have been detected.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from seqrec_jax.errors import ShapeError
from seqrec_jax.settings import check_value
from seqrec_jax.statistics.inputs import Numbers


def minimal_detectable_difference(
    deviation: Numbers, units: Numbers, *, level: float = 0.05, power: float = 0.8
) -> np.ndarray:
    """Smallest true mean difference that a two-sided paired test finds with the given power.

    `(z_{1-α/2} + z_power) · s / √(n - z²_{1-α/2} / 2)`, where the subtraction stands for t in place of z.

    Args:
      deviation: numbers, standard deviations s of the units' differences, such as `PairedDifference.deviation`.
      units: numbers n of units, of a shape that broadcasts.
      level: α of the test, between 0 and 1.
      power: share of repetitions in which the difference is to be found, between 0 and 1.

    Returns:
      float64, on the metric's own scale; nan with too few units for any test (at the usual level, one), 0
      if the differences do not vary.

    Raises:
      ConfigError: a share out of range.

    Source:
      Guenther (1981), Sample size formulas for normal theory t tests.

    >>> float(minimal_detectable_difference(0.15, 22363).round(4))
    0.0028
    """
    single, both = _quantiles(level, power)
    deviation, units = np.asarray(deviation, dtype=np.float64), np.asarray(units, dtype=np.float64)
    effective = np.where(units >= 2, units - single**2 / 2, np.nan)
    return np.asarray(both * deviation / np.sqrt(np.where(effective > 0, effective, np.nan)))


def units_needed(deviation: Numbers, difference: Numbers, *, level: float = 0.05, power: float = 0.8) -> np.ndarray:
    """Number of units with which a two-sided paired test finds a true mean difference with the given power.

    The inverse of `minimal_detectable_difference`: `(z_{1-α/2} + z_power)² s² / d² + z²_{1-α/2} / 2`.

    Args:
      deviation: numbers, standard deviations s of the units' differences.
      difference: numbers, differences d to be found, of a shape that broadcasts; the sign does not matter.
      level: α of the test, between 0 and 1.
      power: share of repetitions in which the difference is to be found, between 0 and 1.

    Returns:
      Whole numbers as float64, at least 2; infinite for a difference of 0.

    Raises:
      ConfigError: a share out of range.

    Source:
      Guenther (1981), Sample size formulas for normal theory t tests.

    >>> float(units_needed(0.15, 0.0028))
    22528.0
    """
    single, both = _quantiles(level, power)
    deviation, difference = np.asarray(deviation, dtype=np.float64), np.abs(np.asarray(difference, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil((both * deviation / difference) ** 2 + single**2 / 2)
    needed = np.where((difference == 0) & ~np.isnan(deviation), np.inf, needed)
    return np.asarray(np.where(np.isnan(needed), np.nan, np.maximum(needed, 2)))


def power_sentence(
    metric: str,
    *,
    baseline: float,
    deviation: float,
    units: int,
    share: float = 0.01,
    level: float = 0.05,
    power: float = 0.8,
    unit_name: str = "units",
) -> str:
    """Power of a comparison on one metric, in words.

    Args:
      metric: its name.
      baseline: mean of the baseline.
      deviation: standard deviation of the units' differences.
      units: number of units compared.
      share: share of the baseline for which the units needed are named.
      level: α of the two-sided test.
      power: share of repetitions in which the difference is to be found.
      unit_name: plural noun for the units, such as "users".

    Raises:
      ConfigError: a share out of range.
      ShapeError: arrays where single numbers are expected.

    >>> print(power_sentence("ndcg@10", baseline=0.029, deviation=0.06, units=22363, unit_name="users"))
    With 22,363 users, a true difference of 0.00112 (3.9 % of 0.029) in ndcg@10 would be found 80 times in 100; \
smaller ones are more likely missed. To find one of 1 % as reliably takes about 336,000 users.
    """
    for name, value in (("baseline", baseline), ("deviation", deviation), ("units", units)):
        if np.ndim(value):
            raise ShapeError(f"{name} has shape {np.shape(value)}, expected one number; call this once per metric")
    check_value("share", share, "(0, 1)")
    smallest = float(minimal_detectable_difference(deviation, units, level=level, power=power))
    if np.isnan(smallest):
        return f"With {units:,} {unit_name} nothing can be said about differences in {metric}."
    if smallest == 0:
        return f"All {units:,} {unit_name} differ by the same amount in {metric}: their spread tells nothing."
    of_baseline = f" ({smallest / abs(baseline):.2g} of the baseline)" if baseline else ""
    if baseline and smallest < abs(baseline):
        of_baseline = f" ({100 * smallest / abs(baseline):.2g} % of {baseline:.3g})"
    text = (
        f"With {units:,} {unit_name}, a true difference of {smallest:.3g}{of_baseline} in {metric} would be found "
        f"{100 * power:.0f} times in 100; smaller ones are more likely missed."
    )
    if not baseline:
        return text
    needed = float(units_needed(deviation, share * baseline, level=level, power=power))
    rounded = round(needed, 2 - int(np.floor(np.log10(needed))))
    return f"{text} To find one of {100 * share:.2g} % as reliably takes about {rounded:,.0f} {unit_name}."


def _quantiles(level: float, power: float) -> tuple[float, float]:
    """z at 1 - α/2, and its sum with z at the power."""
    check_value("level", level, "(0, 1)")
    check_value("power", power, "(0, 1)")
    single = float(ndtri(1 - level / 2))
    return single, single + float(ndtri(power))
