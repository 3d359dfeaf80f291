"""What a paired comparison could have found: the smallest detectable difference, and the users one would need.

Both follow from the standard deviation of the users' differences and the number of users, before anybody
looks at the mean difference. A difference that is not significant says nothing unless one of that size
would have been seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from seqrec_jax.errors import ShapeError
from seqrec_jax.statistics.inputs import check_share


def minimal_detectable_difference(
    deviation: ArrayLike, users: ArrayLike, *, level: float = 0.05, power: float = 0.8
) -> np.ndarray:
    """Smallest true mean difference that a two-sided paired test finds with the given power.

    `(z_{1-α/2} + z_power) · s / √(n - z²_{1-α/2} / 2)`, where the subtraction stands for t in place of z.

    Args:
      deviation: standard deviations s of the users' differences, such as `PairedDifference.deviation`.
      users: numbers n of users, of a shape that fits.
      level: α of the test, between 0 and 1.
      power: share of repetitions in which the difference is to be found, between 0 and 1.

    Returns:
      float64, in the metric's own unit; nan with too few users for any test (at the usual level, one), 0
      where the differences do not vary.

    Raises:
      ConfigError: a share out of range.

    Source:
      Guenther (1981), Sample size formulas for normal theory t tests.

    >>> float(minimal_detectable_difference(0.15, 22363).round(4))
    0.0028
    """
    single, both = _quantiles(level, power)
    deviation, users = np.asarray(deviation, dtype=np.float64), np.asarray(users, dtype=np.float64)
    effective = np.where(users >= 2, users - single**2 / 2, np.nan)
    return both * deviation / np.sqrt(np.where(effective > 0, effective, np.nan))


def users_needed(deviation: ArrayLike, difference: ArrayLike, *, level: float = 0.05, power: float = 0.8) -> np.ndarray:
    """Number of users with which a two-sided paired test finds a true mean difference with the given power.

    The inverse of `minimal_detectable_difference`: `(z_{1-α/2} + z_power)² s² / d² + z²_{1-α/2} / 2`.

    Args:
      deviation: standard deviations s of the users' differences.
      difference: differences d to be found, of a shape that fits; the sign does not matter.
      level: α of the test, between 0 and 1.
      power: share of repetitions in which the difference is to be found, between 0 and 1.

    Returns:
      Whole numbers as float64, at least 2; infinite for a difference of 0.

    Raises:
      ConfigError: a share out of range.

    Source:
      Guenther (1981), Sample size formulas for normal theory t tests.

    >>> float(users_needed(0.15, 0.0028))
    22528.0
    """
    single, both = _quantiles(level, power)
    deviation, difference = np.asarray(deviation, dtype=np.float64), np.abs(np.asarray(difference, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil((both * deviation / difference) ** 2 + single**2 / 2)
    needed = np.where((difference == 0) & ~np.isnan(deviation), np.inf, needed)
    return np.where(np.isnan(needed), np.nan, np.maximum(needed, 2))


def power_sentence(
    metric: str,
    *,
    baseline: float,
    deviation: float,
    users: int,
    share: float = 0.01,
    level: float = 0.05,
    power: float = 0.8,
) -> str:
    """What a comparison could have found on one metric, in words, to stand beside the comparison.

    Args:
      metric: its name.
      baseline: mean of the system that is compared with.
      deviation: standard deviation of the users' differences.
      users: number of users compared.
      share: share of the baseline for which the users needed are named.
      level: α of the two-sided test.
      power: share of repetitions in which the difference is to be found.

    Raises:
      ConfigError: a share out of range.
      ShapeError: arrays where single numbers are expected.

    >>> print(power_sentence("ndcg@10", baseline=0.029, deviation=0.06, users=22363))
    With 22,363 users, a true difference of 0.00112 (3.9 % of 0.029) in ndcg@10 would be found 80 times in 100; \
smaller ones are more likely missed. To find one of 1 % as reliably takes about 336,000 users.
    """
    for name, value in (("baseline", baseline), ("deviation", deviation), ("users", users)):
        if np.ndim(value):
            raise ShapeError(f"{name} has shape {np.shape(value)}, expected one number; call this once per metric")
    check_share("share", share)
    smallest = float(minimal_detectable_difference(deviation, users, level=level, power=power))
    if np.isnan(smallest):
        return f"With {users:,} users nothing can be said about differences in {metric}."
    if smallest == 0:
        return f"All {users:,} users differ by the same amount in {metric}: their spread tells nothing."
    of_baseline = f" ({smallest / abs(baseline):.2g} of the baseline)" if baseline else ""
    if baseline and smallest < abs(baseline):
        of_baseline = f" ({100 * smallest / abs(baseline):.2g} % of {baseline:.3g})"
    text = (
        f"With {users:,} users, a true difference of {smallest:.3g}{of_baseline} in {metric} would be found "
        f"{100 * power:.0f} times in 100; smaller ones are more likely missed."
    )
    if not baseline:
        return text
    needed = float(users_needed(deviation, share * baseline, level=level, power=power))
    rounded = round(needed, 2 - int(np.floor(np.log10(needed))))
    return f"{text} To find one of {100 * share:.2g} % as reliably takes about {rounded:,.0f} users."


def _quantiles(level: float, power: float) -> tuple[float, float]:
    """z at 1 - α/2, and its sum with z at the power."""
    check_share("level", level)
    check_share("power", power)
    single = float(ndtri(1 - level / 2))
    return single, single + float(ndtri(power))
