"""The deciding metric by kind of user: cuts into bins, figures with intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import check_users
from seqrec_jax.reporting.sections import Section, plain, section, table
from seqrec_jax.reporting.wording import format_count, format_figure, format_p, join_names
from seqrec_jax.statistics import (
    Interval,
    benjamini_hochberg_correction,
    bootstrap_means,
    holm_correction,
    paired_differences,
)

FEWEST_USERS = 30
"""A bin of fewer users joins a neighbour, since percentile intervals of so few are too short."""
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_UNITS = (("day", _DAY), ("hour", _HOUR), ("minute", _MINUTE), ("second", 1))


class Bins(NamedTuple):
    """A cut of users into bins.

    Attributes:
      labels: names of the B bins, in order.
      codes: `[U]` int64 bin of each user in 0…B-1.
    """

    labels: list[str]
    codes: np.ndarray

    def members(self, place: int) -> np.ndarray:
        """`[U]` bool, True for the users of one bin."""
        return np.asarray(self.codes == place)


def duration(seconds: float) -> str:
    """A duration as text, in the largest unit that it is a multiple of.

    >>> duration(0), duration(60), duration(86_400 * 7)
    ('0 seconds', '1 minute', '7 days')
    """
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds and seconds % size == 0), _UNITS[-1])
    count = seconds / size
    return f"{count:g} {unit}" + ("" if count == 1 else "s")


class Cut(NamedTuple):
    """The cut of one column of the user table.

    Attributes:
      name: name of the slices.
      column: column of the user table.
      edges: rising lower ends of the bins of a number; empty for categories.
      end: upper end of the last bin; None where there is no bound.
      text: function that writes an edge.
    """

    name: str
    column: str
    edges: tuple[float, ...] = ()
    end: float | None = None
    text: Callable[[float], str] = "{:g}".format


USER_CUTS = (
    Cut("history_length", "history_length", (0, 1, 2, 5, 10, 20, 50, 100, 200)),
    Cut("target_popularity", "first_target_popularity", (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
    Cut("popularity_decile", "popularity_decile", tuple(range(1, 11)), 11),
    Cut("target_age_days", "first_target_age_days", (0, 1, 7, 30, 90, 180, 365)),
    Cut(
        "time_since_last_event",
        "seconds_since_last_event",
        (0, _MINUTE, _HOUR, _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY),
        text=duration,
    ),
    Cut("target_behavior", "first_target_behavior"),
    Cut("last_behavior", "last_behavior"),
    Cut("repeat", "target_in_history"),
)
"""The cuts of the user table in every report; those with one bin only are left out."""
_NAMED = 3  # kinds of users in a sentence
_ALWAYS = ("history_length", "target_popularity")
_BOOLEANS = {"target_in_history": ("new item", "item of the history")}


def bins_of(
    values: pd.Series,
    *,
    edges: Sequence[float] | None = None,
    categories: Sequence[Any] | None = None,
    end: float | None = None,
    fewest: int = FEWEST_USERS,
    text: Callable[[float], str] = "{:g}".format,
) -> Bins:
    """Cut users by a number or a category.

    A bin of a number includes its edge and ends before the next edge; the last bin has no end. A bin of few users joins
    the next one, the last bin the one before. Categories of few users are merged into "other". Missing values form the
    bin "unknown", of any size.

    Args:
      values: U numbers, categories, texts or truth values.
      edges: rising lower ends of the bins of a number; None for categories.
      categories: order of the categories; None takes that of a categorical column, else the most frequent first.
      end: upper end of the last bin of a number, for its name; None where there is no bound.
      fewest: least number of users of a bin of its own.
      text: function that writes an edge.

    Returns:
      Labels and codes. Bins of whole numbers are called such as "2–4", others "1 to 7".

    Raises:
      ConfigError: edges that do not rise.
      DataError: a number below the first edge, or a category that is not listed.

    >>> bins = bins_of(pd.Series([1, 3, 2, 9]), edges=[1, 2, 5], fewest=1)
    >>> bins.labels, bins.codes.tolist()
    (['1', '2–4', '5+'], [0, 1, 1, 2])
    """
    missing = values.isna().to_numpy()
    if edges is None:
        labels, codes = _category_codes(values, missing, categories, fewest)
    else:
        labels, codes = _number_codes(values, missing, edges, end, fewest, text)
    if missing.any():
        codes[missing] = len(labels)
        labels.append("unknown")
    return Bins(labels, codes)


def slice_by(
    judged: Sequence[Judged],
    values: pd.Series,
    *,
    config: EvaluationConfig,
    edges: Sequence[float] | None = None,
    categories: Sequence[Any] | None = None,
    end: float | None = None,
    text: Callable[[float], str] = "{:g}".format,
) -> list[dict[str, Any]]:
    """The deciding metric by system in each bin of a column, with the interval of a bootstrap within the bin.

    Args:
      judged: the systems.
      values: U values, one a user in the order of the cases.
      config: deciding metric, resamples and seed.
      edges: as in `bins_of`.
      categories: as in `bins_of`.
      end: as in `bins_of`.
      text: as in `bins_of`.

    Returns:
      One row a bin: `{"label", "users", "systems": {name: {"mean", "low", "high"}}}`, None where undefined.

    Raises:
      ShapeError: values of another number of users.
      ConfigError: edges that do not rise.
      DataError: a number below the first edge, or a category that is not listed.
    """
    check_users(values, len(judged[0].per_user))
    return slice_figures(judged, bins_of(values, edges=edges, categories=categories, end=end, text=text), config=config)


def slice_figures(judged: Sequence[Judged], bins: Bins, *, config: EvaluationConfig) -> list[dict[str, Any]]:
    """The rows of `slice_by` for given bins.

    Args:
      judged: the systems.
      bins: of the U users.
      config: deciding metric, resamples and seed.
    """
    values = _metric_table(judged, config.metric)
    rows = []
    for place, label in enumerate(bins.labels):
        members = bins.members(place)
        if not members.any():
            continue
        interval = bootstrap_means(values[members], num_resamples=config.num_resamples, seed=config.seed)
        systems = {entry.name: figure(interval, column) for column, entry in enumerate(judged)}
        rows.append({"label": label, "users": int(members.sum()), "systems": systems})
    return rows


def user_bins(users: pd.DataFrame, *, fewest: int = FEWEST_USERS) -> dict[str, Bins]:
    """The cuts of a user table by the name of the slices.

    Args:
      users: as `user_table` makes it; item attributes of the target and further columns of categories are cut too.
      fewest: least number of users of a bin of its own.

    Returns:
      `USER_CUTS`, then the other columns of categories, truth values or texts. Cuts with one bin are left out, except
      those by the length of the history and the target's popularity.
    """
    found: dict[str, Bins] = {}
    for cut in USER_CUTS:
        if cut.column in users and users[cut.column].notna().any():
            values = _named(users[cut.column])
            found[cut.name] = bins_of(values, edges=cut.edges or None, end=cut.end, text=cut.text, fewest=fewest)
    known = {cut.column for cut in USER_CUTS} | {"user_id", "first_target", "targets", "target_is_last_item"}
    for name in users.columns:
        numeric = pd.api.types.is_numeric_dtype(users[name]) and not pd.api.types.is_bool_dtype(users[name])
        if name not in known and not numeric and users[name].notna().any():
            found[name] = bins_of(_named(users[name]), fewest=fewest)
    return {name: bins for name, bins in found.items() if len(bins.labels) > 1 or name in _ALWAYS}


def user_slices(
    judged: Sequence[Judged], users: pd.DataFrame, *, config: EvaluationConfig
) -> dict[str, list[dict[str, Any]]]:
    """The slices of a report: the rows of `slice_by` for all cuts of `user_bins`, by name.

    Args:
      judged: the systems.
      users: as `user_table` makes it.
      config: deciding metric, resamples and seed.

    Raises:
      ShapeError: a user table of other users.
    """
    check_users(users, len(judged[0].per_user))
    return {name: slice_figures(judged, bins, config=config) for name, bins in user_bins(users).items()}


def paired_slices(
    judged: Sequence[Judged], users: pd.DataFrame, *, config: EvaluationConfig, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """The first system minus each other one within each slice, with p-values corrected over all of them.

    Bins of fewer than `FEWEST_USERS` users are listed and not tested.

    Args:
      judged: the systems; the first is compared with all others.
      users: as `user_table` makes it.
      config: deciding metric, resamples and seed.
      names: names of the slices; None takes all of `user_bins`.

    Returns:
      One row a slice, bin and other system: `slice`, `label`, `users`, `other`, `difference`, `low`, `high`,
      `p_value`, `p_holm` (controls the probability of any false finding in the table) and `p_bh` (controls the share
      of false findings, for positively dependent tests).

    Raises:
      ConfigError: one system only, or a name without slices.
      ShapeError: a user table of other users.
    """
    check_users(users, len(judged[0].per_user))
    if len(judged) < 2:
        raise ConfigError(f"there is nothing to compare {judged[0].name} with; judge two systems")
    cuts = user_bins(users)
    if unknown := [name for name in names or () if name not in cuts]:
        raise ConfigError(f"there are no slices {unknown}; these users have {', '.join(cuts)}")
    values = _metric_table(judged, config.metric)
    rows = []
    for name in cuts if names is None else names:
        for place, label in enumerate(cuts[name].labels):
            members = cuts[name].members(place)
            if not members.any():
                continue
            model = np.repeat(values[members, :1], len(judged) - 1, axis=1)
            paired = paired_differences(
                model, values[members, 1:], num_resamples=config.num_resamples, seed=config.seed
            )
            count = int(members.sum())
            for column, other in enumerate(judged[1:]):
                rows.append(
                    {
                        "slice": name,
                        "label": label,
                        "users": count,
                        "other": other.name,
                        "difference": paired.mean[column],
                        "low": paired.low[column],
                        "high": paired.high[column],
                        "p_value": paired.p_value[column] if count >= FEWEST_USERS else np.nan,
                    }
                )
    found = pd.DataFrame(rows)
    p_values = found["p_value"].to_numpy(dtype=np.float64)
    return found.assign(p_holm=holm_correction(p_values), p_bh=benjamini_hochberg_correction(p_values))


def paired_slices_section(found: pd.DataFrame, *, model: str, metric: str, level: float = 0.05) -> Section:
    """The section of the report on where the model is better or worse than each other system.

    Args:
      found: from `paired_slices`.
      model: name of the first system.
      metric: name of the deciding metric.
      level: error level after Holm's correction.
    """
    significant = found["p_holm"] < level
    better, worse = (int((significant & (sign * found["difference"] > 0)).sum()) for sign in (1, -1))
    tested = int(found["p_value"].notna().sum())
    summary = (
        f"{model} minus {join_names(list(found['other'].unique()))} on {metric}, among the users of each kind. Of "
        f"{format_count(tested)} differences {format_count(better)} favour {model} and {format_count(worse)} speak "
        f"against it after Holm's correction over all of them, at {100 * level:g} %; the others may be chance."
    )
    named = found[significant].sort_values("p_holm", kind="stable").head(_NAMED)
    if len(named):
        kinds = [
            f"{row.slice.replace('_', ' ')} {row.label} ({format_figure(row.difference, signed=True)})"
            for row in named.itertuples()
        ]
        summary += f" Clearest: {join_names(kinds)}."
    columns = ["slice", "users of", "users", "other system", "difference", "p", "p (Holm)", "p (Benjamini–Hochberg)"]
    rows = [
        [
            row.slice.replace("_", " "),
            row.label,
            row.users,
            row.other,
            {"mean": row.difference, "low": row.low, "high": row.high},
            format_p(row.p_value),
            format_p(row.p_holm),
            format_p(row.p_bh),
        ]
        for row in found.itertuples()
    ]
    note = f"Intervals are 95 % and not corrected. Kinds of fewer than {FEWEST_USERS} users are not tested."
    return section("paired_slices", "For whom it is better", summary, [table("by slice", columns, rows, note=note)])


def figure(interval: Interval, column: int) -> dict[str, float | None]:
    """One column of an interval as `{"mean", "low", "high"}`, None where undefined."""
    return {name: plain(getattr(interval, name)[column]) for name in ("mean", "low", "high")}


def slice_text(row: dict[str, Any], system: str) -> str:
    """A system's figure in one row of `slice_by`, for a sentence, such as "0.0312 at 2–4 (1,204 users)"."""
    return f"{format_figure(row['systems'][system]['mean'])} at {row['label']} ({format_count(row['users'])} users)"


def first_and_last(rows: Sequence[dict[str, Any]], system: str) -> str:
    """A system's figures in the first and the last row of `slice_by`, for a sentence; one figure for one row."""
    return ", ".join(slice_text(row, system) for row in ([rows[0]] if len(rows) == 1 else [rows[0], rows[-1]]))


def _number_codes(
    values: pd.Series,
    missing: np.ndarray,
    edges: Sequence[float],
    end: float | None,
    fewest: int,
    text: Callable[[float], str],
) -> tuple[list[str], np.ndarray]:
    if not len(edges) or np.any(np.diff(edges) <= 0):
        raise ConfigError(f"edges must be rising lower ends of bins, got {list(edges)}")
    whole = pd.api.types.is_integer_dtype(values)
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if (numbers < edges[0]).any():
        raise DataError(
            f"{values.name or 'values'} has {np.nanmin(numbers):g}, the first bin begins at {edges[0]:g}; add an edge"
        )
    fine = np.searchsorted(edges, numbers, side="right") - 1
    counts = np.bincount(fine[~missing], minlength=len(edges))
    starts, inside = [0], 0
    for place in range(1, len(edges)):
        inside += counts[place - 1]
        if inside >= fewest:
            starts.append(place)
            inside = 0
    if len(starts) > 1 and counts[starts[-1] :].sum() < fewest:
        starts.pop()
    lows = [edges[start] for start in starts]
    labels = [_label(low, high, whole, text) for low, high in zip(lows, [*lows[1:], end], strict=True)]
    return labels, np.searchsorted(starts, fine, side="right") - 1


def _label(low: float, high: float | None, whole: bool, text: Callable[[float], str]) -> str:
    if whole:
        return f"{low:.12g}+" if high is None else f"{low:.12g}" if high == low + 1 else f"{low:.12g}–{high - 1:.12g}"
    return f"{text(low)} and more" if high is None else f"{text(low)} to {text(high)}"


def _category_codes(
    values: pd.Series, missing: np.ndarray, categories: Sequence[Any] | None, fewest: int
) -> tuple[list[str], np.ndarray]:
    if categories is None:
        frequent = values.value_counts().index
        categories = list(values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else frequent)
    codes = pd.Index(categories, dtype=object).get_indexer(values.astype(object))
    if (unlisted := (codes < 0) & ~missing).any():
        raise DataError(f"{values.name or 'values'} has {values[unlisted].iloc[0]!r}, expected one of {categories}")
    counts = np.bincount(codes[~missing], minlength=len(categories))
    alone = counts >= fewest
    labels = [str(category) for category, keep in zip(categories, alone, strict=True) if keep]
    places = np.where(alone, np.cumsum(alone) - 1, len(labels))
    if counts[~alone].any():
        labels.append("other" if alone.any() else "all")
    return labels, np.where(missing, 0, places[codes] if len(places) else 0).astype(np.int64)


def _named(values: pd.Series) -> pd.Series:
    """Truth values as words, other values unchanged."""
    if not pd.api.types.is_bool_dtype(values):
        return values
    words = _BOOLEANS.get(str(values.name), ("no", "yes"))
    named = pd.Categorical.from_codes(values.to_numpy(dtype=np.int64), categories=list(words))
    return pd.Series(named, name=values.name)


def _metric_table(judged: Sequence[Judged], metric: str) -> np.ndarray:
    """`[U, S]` float64 values of the metric of each system."""
    return np.stack([entry.per_user[metric].to_numpy(dtype=np.float64, na_value=np.nan) for entry in judged], axis=1)
