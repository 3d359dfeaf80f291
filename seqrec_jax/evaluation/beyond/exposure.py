"""The deciding metric corrected for exposure by inverse propensities.

A log holds only events on items that users were shown. A target that was seldom shown stands for more wishes that were
not recorded, so its user gets the weight 1 / propensity. Where exposure was not logged it is modelled as a power of
popularity, which is an assumption: compare the corrected figures for several powers and caps.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from seqrec_jax import metrics
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import training_counts
from seqrec_jax.reporting.sections import Section, section, table
from seqrec_jax.reporting.wording import format_count, format_figure
from seqrec_jax.settings import check_value
from seqrec_jax.statistics import bootstrap_means

OBSERVED = "as logged"


def exposure_correction(
    judged: Sequence[Judged],
    dataset: Dataset,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    propensities: ArrayLike | None = None,
    powers: Sequence[float] = (0.5, 1.0),
    caps: Sequence[float] = (5.0, 20.0),
) -> pd.DataFrame:
    """The self-normalised, clipped estimate of every system's deciding metric.

    A user's weight w is the mean of 1 / propensity over the user's targets, at most the cap times the median user's.
    The estimate is `sum w m / sum w`; its interval resamples users, with the estimate linearised around itself.

    Args:
      judged: the systems.
      dataset: where the cases come from.
      cases: U users with T targets.
      config: deciding metric, resamples and seed.
      propensities: `[T]` float in (0, 1], the logged probability that each target was shown to its user, up to a common
        factor; None models them as (training events + 1)^power, relative to the largest.
      powers: exponents of popularity for that model.
      caps: largest weights, as multiples of the median weight, each at least 1.

    Returns:
      One row a system, exposure and cap: `system`, `exposure` ("as logged", or such as "popularity^0.5"), `cap`,
      `plain` (the uncorrected mean), `mean`, `low`, `high`, `effective_users` (number of equally weighted users with
      the same precision) and `capped` (share of users whose weight was capped).

    Raises:
      ShapeError: propensities that are not one a target.
      DataError: a propensity that is not above 0 and at most 1.
      ConfigError: no powers or caps, or a cap below 1.
    """
    for cap in caps:
        check_value("caps", cap, "[1, inf]")
    if not len(caps) or (propensities is None and not len(powers)):
        raise ConfigError(f"expected at least one cap and one power, got caps {list(caps)}, powers {list(powers)}")
    values = np.stack([entry.per_user[config.metric].to_numpy(np.float64, na_value=np.nan) for entry in judged], axis=1)
    rows = []
    for exposure, chances in _exposures(dataset, cases, propensities, powers).items():
        raw = _user_weights(chances, cases)
        for cap in caps:
            highest = cap * float(np.median(raw))
            weights = np.minimum(raw, highest)
            for column, entry in enumerate(judged):
                known = ~np.isnan(values[:, column])
                estimate = _estimate(values[known, column], weights[known], config)
                rows.append(
                    {
                        "system": entry.name,
                        "exposure": exposure,
                        "cap": float(cap),
                        "plain": values[known, column].mean() if known.any() else np.nan,
                        **estimate,
                        "capped": float((raw > highest).mean()),
                    }
                )
    return pd.DataFrame(rows)


def exposure_correction_section(found: pd.DataFrame, *, metric: str) -> Section:
    """The section of the report with plain and corrected figures.

    Args:
      found: from `exposure_correction`.
      metric: name of the deciding metric.
    """
    plain = found.drop_duplicates("system").set_index("system")["plain"]
    best = str(plain.idxmax()) if plain.notna().any() else "no system"
    winners = [
        str(rows.loc[rows["mean"].idxmax(), "system"])
        for _, rows in found.groupby(["exposure", "cap"], sort=False)
        if rows["mean"].notna().any()
    ]
    agree = sum(winner == best for winner in winners)
    others = sorted(set(winners) - {best})
    model = found[found["system"] == found["system"].iloc[0]]
    modelled = OBSERVED not in set(found["exposure"])
    source = (
        "How likely an item is shown is not in the log and was modelled as a power of its popularity, which is an "
        "assumption."
        if modelled
        else "How likely each target was shown comes from the log."
    )
    verdict = (
        f"{best} is the best by the plain figure and stays so under all {len(winners)} corrections"
        if not others
        else f"{best} is the best by the plain figure and under {agree} of {len(winners)} corrections, else "
        f"{' or '.join(others)}"
    )
    summary = (
        f"{source} Corrected for exposure, {metric} of {model['system'].iloc[0]} lies between "
        f"{format_figure(model['mean'].min())} and {format_figure(model['mean'].max())}, plain it is "
        f"{format_figure(model['plain'].iloc[0])}; the weights leave as much information as "
        f"{format_count(float(model['effective_users'].min()))} equal users. {verdict}."
    )
    columns = ["system", "exposure", "cap", f"plain {metric}", f"corrected {metric}", "effective users", "share capped"]
    rows = [
        [
            row.system,
            row.exposure,
            row.cap,
            row.plain,
            {"mean": row.mean, "low": row.low, "high": row.high},
            row.effective_users,
            row.capped,
        ]
        for row in found.itertuples()
    ]
    note = "Self-normalised inverse propensities; the cap is a multiple of the median user's weight."
    return section(
        "exposure_correction", "Corrected for exposure", summary, [table("by system", columns, rows, note=note)]
    )


def _exposures(
    dataset: Dataset, cases: EvaluationCases, propensities: ArrayLike | None, powers: Sequence[float]
) -> dict[str, Float[np.ndarray, " T"]]:
    """`[T]` propensities of the targets by the name of their source."""
    if propensities is not None:
        given = np.asarray(propensities, dtype=np.float64)
        if given.shape != cases.target_items.shape:
            raise ShapeError(
                f"propensities have shape {given.shape}, expected one a target, {cases.target_items.shape}"
            )
        odd = given[~((given > 0) & (given <= 1))]
        if odd.size:
            raise DataError(f"propensities hold {odd[0]}, expected above 0 and at most 1 for every target")
        return {OBSERVED: given}
    counts = training_counts(dataset) + 1  # a target may have no training event
    return {
        f"popularity^{power:g}": np.asarray(
            metrics.popularity_propensities(jnp.asarray(counts, dtype=jnp.int32), power=power), dtype=np.float64
        )[cases.target_items]
        for power in powers
    }


def _user_weights(chances: Float[np.ndarray, " T"], cases: EvaluationCases) -> Float[np.ndarray, " U"]:
    inverse = np.asarray(metrics.inverse_propensity_weights(jnp.asarray(chances, dtype=jnp.float32)), dtype=np.float64)
    return np.asarray(np.add.reduceat(inverse, cases.target_offsets[:-1]) / cases.num_targets)


def _estimate(values: np.ndarray, weights: np.ndarray, config: EvaluationConfig) -> dict[str, float]:
    if not len(values):
        return dict.fromkeys(("mean", "low", "high", "effective_users"), float("nan"))
    mean = float((weights * values).sum() / weights.sum())
    # the estimate linearised in each user, so that resampling a mean gives its interval
    linear = mean + weights * (values - mean) / weights.mean()
    interval = bootstrap_means(linear[:, None], num_resamples=config.num_resamples, seed=config.seed)
    effective = float(metrics.effective_sample_size(jnp.asarray(weights, dtype=jnp.float32)))
    return {"mean": mean, "low": interval.low[0], "high": interval.high[0], "effective_users": effective}
