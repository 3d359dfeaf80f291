"""Forecast probabilities of a binary outcome, such as a click, compared between systems with intervals over users.

Rows of one user depend on each other, so users are resampled whole, with the same draws for every system; the interval
of a difference is therefore that of the paired difference. All figures are over the rows of the drawn users together;
none is a mean over users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.settings import check_value

FIGURES = ("auc", "grouped_auc", "log_loss", "ece", "forecast_share")
_LEAST = float(np.finfo(np.float32).eps)


class ForecastFigures(NamedTuple):
    """Figures of forecasts and their differences.

    Attributes:
      figures: system → figure → `{"value", "low", "high"}`. `auc` compares all rows; `grouped_auc` the rows of each
        user, weighted by their number; `log_loss` is in nats; `ece` is the expected calibration error over bins of
        equally many rows; `forecast_share`, the sum of the forecasts over the number of True labels, is 1 for unbiased
        forecasts.
      differences: system → figure → the same for the system minus the reference.
      rows: number of `rows`, of rows with a `true` label, and of `users`.
    """

    figures: dict[str, dict[str, dict[str, float]]]
    differences: dict[str, dict[str, dict[str, float]]]
    rows: dict[str, int]


def judge_forecasts(
    probabilities: Mapping[str, Float[np.ndarray, " N"]],
    labels: Bool[np.ndarray, " N"],
    users: Int[np.ndarray, " N"],
    *,
    reference: str | None = None,
    num_bins: int = 10,
    num_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> ForecastFigures:
    """Figures of each system's forecasts, and their differences from one of them.

    Args:
      probabilities: `[N]` float forecasts in [0, 1] of each system, by its name.
      labels: `[N]` bool, True where the outcome happened.
      users: `[N]` integer user of each row.
      reference: name of the system that the others are compared with; None for none.
      num_bins: number of bins of the calibration error.
      num_resamples: number of resamples of the users, at least 100.
      confidence: level of the percentile intervals, in (0, 1).
      seed: of the resamples.

    Raises:
      ShapeError: arrays that are not one value a row.
      DataError: no rows, or what is no probability.
      ConfigError: a reference that is not there, or an option out of range.

    Source:
      Zhu et al. (2017), Optimized cost per click in Taobao display advertising (grouped AUC); Cameron, Gelbach and
      Miller (2008), Bootstrap-based improvements for inference with clustered errors.
    """
    if reference is not None and reference not in probabilities:
        raise ConfigError(f"there is no system {reference!r} among {list(probabilities)}")
    check_value("num_bins", num_bins, "[1, inf)")
    check_value("num_resamples", num_resamples, "[100, inf)")
    check_value("confidence", confidence, "(0, 1)")
    happened, (_, rows_of) = np.asarray(labels, dtype=bool), np.unique(users, return_inverse=True)
    tables = {name: np.asarray(chances, dtype=np.float64) for name, chances in probabilities.items()}
    for name, chances in tables.items():
        if happened.ndim != 1 or chances.shape != happened.shape or rows_of.shape != happened.shape:
            raise ShapeError(f"{name}: {chances.shape} probabilities, {happened.shape} labels, {rows_of.shape} users")
        if not len(chances) or not ((chances >= 0) & (chances <= 1)).all():
            raise DataError(f"{name}: expected one probability in [0, 1] or more; give logits through a sigmoid first")
    num_users = int(rows_of.max()) + 1
    random = np.random.default_rng(seed)
    draws = np.ones((num_resamples + 1, num_users))
    for draw in draws[1:]:
        draw[:] = np.bincount(random.integers(0, num_users, num_users), minlength=num_users)
    values = {name: _figures(chances, happened, rows_of, draws, num_bins=num_bins) for name, chances in tables.items()}
    tail = (1 - confidence) / 2
    others = {name: table - values[reference] for name, table in values.items()} if reference is not None else {}
    return ForecastFigures(
        {name: _with_ends(table, tail) for name, table in values.items()},
        {name: _with_ends(table, tail) for name, table in others.items() if name != reference},
        {"rows": len(happened), "true": int(happened.sum()), "users": num_users},
    )


def _with_ends(table: np.ndarray, tail: float) -> dict[str, dict[str, float]]:
    """Values and intervals of `[R + 1, F]` figures: the first row is over all users, the others over resamples."""
    ends = np.full((2, len(FIGURES)), np.nan)
    some = ~np.isnan(table[1:]).all(axis=0)
    ends[:, some] = np.nanquantile(table[1:, some], [tail, 1 - tail], axis=0)
    low, high = ends
    return {
        name: {"value": float(table[0, i]), "low": float(low[i]), "high": float(high[i])}
        for i, name in enumerate(FIGURES)
    }


def _figures(
    chances: np.ndarray, happened: np.ndarray, users: np.ndarray, draws: np.ndarray, *, num_bins: int
) -> Float[np.ndarray, "R F"]:
    """The figures under each of R draws `[R, U]`."""
    kept = np.clip(chances, _LEAST, 1 - _LEAST)
    losses = -np.log(np.where(happened, kept, 1 - kept))
    num_users = draws.shape[1]

    def by_user(values: np.ndarray) -> np.ndarray:
        return np.bincount(users, weights=values, minlength=num_users)

    count, true, forecast = by_user(np.ones(len(users))), by_user(happened), by_user(chances)
    own, has_both = _user_aucs(chances, happened, users, num_users)
    # as many rows in each bin, equal forecasts in one
    edges = np.unique(np.quantile(chances, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, chances, side="left")
    gaps = sum(np.abs(draws @ by_user((chances - happened) * (bins == one))) for one in range(len(edges) + 1))
    weight = count * has_both
    totals = draws @ count
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(
            [
                _aucs(chances, happened, users, draws),
                (draws @ (own * weight)) / (draws @ weight),
                (draws @ by_user(losses)) / totals,
                gaps / totals,
                (draws @ forecast) / (draws @ true),
            ],
            axis=1,
        )


def _aucs(chances: np.ndarray, happened: np.ndarray, users: np.ndarray, draws: np.ndarray) -> Float[np.ndarray, " R"]:
    """AUC of all rows under each draw, ties counting half; nan without both outcomes."""
    order = np.argsort(chances, kind="stable")
    ordered, positive, who = chances[order], happened[order], users[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))

    def of_draw(draw: np.ndarray) -> float:
        weights = draw[who]
        ones = np.add.reduceat(weights * positive, starts)
        zeros = np.add.reduceat(weights * ~positive, starts)
        pairs = ones.sum() * zeros.sum()
        return float(np.sum(ones * (np.cumsum(zeros) - zeros / 2)) / pairs) if pairs > 0 else np.nan

    return np.array([of_draw(draw) for draw in draws])


def _user_aucs(
    chances: np.ndarray, happened: np.ndarray, users: np.ndarray, num_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """`[U]` AUC of each user's own rows, and `[U]` bool whether the user has both outcomes; AUC is 0 without."""
    order = np.lexsort((chances, users))
    who, ordered, positive = users[order], chances[order], happened[order]
    starts = np.flatnonzero(np.concatenate([[True], (who[1:] != who[:-1]) | (ordered[1:] != ordered[:-1])]))
    ones, zeros = np.add.reduceat(positive.astype(float), starts), np.add.reduceat((~positive).astype(float), starts)
    whose = who[starts]
    num_ones = np.bincount(whose, weights=ones, minlength=num_users)
    num_zeros = np.bincount(whose, weights=zeros, minlength=num_users)
    before = np.concatenate([[0.0], np.cumsum(num_zeros)])[whose]  # of earlier users
    won = np.bincount(whose, weights=ones * (np.cumsum(zeros) - before - zeros / 2), minlength=num_users)
    both = (num_ones > 0) & (num_zeros > 0)
    return np.divide(won, num_ones * num_zeros, out=np.zeros(num_users), where=both), both
