"""Four questions of a shop as sections of the report: cold start, long tail, freshness and personalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from seqrec_jax import metrics
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.users.attributes import TAIL_SHARE, check_users, tail_items, target_table, training_counts
from seqrec_jax.evaluation.users.slices import Bins, bins_of, duration, figure, first_and_last, slice_figures
from seqrec_jax.reporting.sections import Block, Section, bars, curve, section, table
from seqrec_jax.reporting.wording import format_count, format_figure, format_percent
from seqrec_jax.statistics import bootstrap_means

_LENGTHS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200)
_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_AGES = (0, 1, 7, 30, 90, 180, 365)
_HOUR, _DAY = 3_600, 86_400
_GAPS = (0, 60, _HOUR, _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY)
_SHARES = np.linspace(0, 1, 101)
POPULAR = "most popular"
"""Name of the baseline that gives all users the same list."""


class Gain(NamedTuple):
    """The gain of each user over another system.

    Attributes:
      per_user: `[U]` float64 difference of the metric, nan where it is undefined.
      better: share of users with a gain above 0.
      worse: share of users with a gain below 0.
      same: share of users with a gain of 0.
    """

    per_user: np.ndarray
    better: float
    worse: float
    same: float


def shop_question_sections(
    judged: Sequence[Judged],
    dataset: Dataset,
    cases: EvaluationCases,
    users: pd.DataFrame,
    *,
    config: EvaluationConfig,
    popular: str = POPULAR,
) -> list[Section]:
    """The sections on all four questions.

    Args:
      judged: the systems, the model first.
      dataset: where the cases come from.
      cases: the U evaluated users.
      users: as `user_table` makes it.
      config: the protocol.
      popular: name of the system that the gain of personalisation is measured against; without it there is no gain.

    Returns:
      Sections "cold_start", "long_tail", "freshness" and "personalisation".

    Raises:
      ShapeError: a user table of other users.
    """
    check_users(users, len(judged[0].per_user))
    targets = target_table(dataset, cases)
    return [
        cold_start_section(judged, cases, users, targets, config=config),
        long_tail_section(judged, dataset, cases, users, config=config),
        freshness_section(judged, dataset, users, config=config),
        personalisation_section(judged, config=config, popular=popular),
    ]


def cold_start_section(
    judged: Sequence[Judged],
    cases: EvaluationCases,
    users: pd.DataFrame,
    targets: pd.DataFrame,
    *,
    config: EvaluationConfig,
) -> Section:
    """The section on cold start: users by length of history, targets by training events and by age of the item.

    Args:
      judged: the systems, the model first.
      cases: the U evaluated users with T targets.
      users: U rows, as `user_table` makes it.
      targets: T rows, as `target_table` makes it.
      config: the protocol.
    """
    k, model = cutoff(config), judged[0].name
    rows, block = _user_curve(
        judged, users["history_length"], _LENGTHS, config, "by length of history", "1 + events of the history"
    )
    counts = bins_of(targets["popularity"], edges=_COUNTS)
    found, by_count = _target_curve(
        judged, cases, targets["popularity"], counts, config, "items by count", "1 + training events of the target"
    )
    blocks = [block, by_count]
    if targets["age_days"].notna().any():
        ages = bins_of(targets["age_days"], edges=_AGES)
        label = "1 + days since the item's first event"
        blocks.append(_target_curve(judged, cases, targets["age_days"], ages, config, "items by age", label)[1])
    new = int((targets["popularity"] == 0).sum())
    summary = (
        f"{config.metric} of {model} by length of history: {first_and_last(rows, model)}. "
        f"{_without_history(cases, users)} Of targets with {counts.labels[0]} training "
        f"events {model} has {format_percent(found[0])} in the first {k}, of those with {counts.labels[-1]} "
        f"{format_percent(found[-1])}. {format_count(new)} of {format_count(len(targets))} targets were never seen in "
        "training."
    )
    return section("cold_start", "Cold start", summary, blocks)


def long_tail_section(
    judged: Sequence[Judged],
    dataset: Dataset,
    cases: EvaluationCases,
    users: pd.DataFrame,
    *,
    config: EvaluationConfig,
) -> Section:
    """The section on the long tail: the metric by popularity of the target, and the tail's share of lists and targets.

    Args:
      judged: the systems, the model first.
      dataset: where the cases come from.
      cases: the U evaluated users with T targets.
      users: U rows, as `user_table` makes it.
      config: the protocol.
    """
    k, model = cutoff(config), judged[0].name
    tail = tail_items(training_counts(dataset))
    in_tail = tail[cases.target_items]
    halves = Bins(["head", "tail"], in_tail.astype(np.int64))
    demand, cells, shown = float(in_tail.mean()), [], []
    for entry in judged:
        found = bootstrap_means(
            found_by_bin(entry, cases, halves, k=k), num_resamples=config.num_resamples, seed=config.seed
        )
        shown.append(exposure_share(entry.lists[:, :k], tail))
        cells.append([entry.name, shown[-1], demand, figure(found, 1), figure(found, 0)])
    columns = ["system", "tail in lists", "tail among targets", f"tail found in {k}", f"head found in {k}"]
    word = "less" if shown[0] < demand else "more"
    definition = (
        f"The tail are the {format_count(int(tail.sum()))} least popular of {format_count(dataset.num_items)} items, "
        f"which have at most {100 * TAIL_SHARE:g} % of the training events together"
    )
    summary = (
        f"{definition}. They are {format_percent(demand)} of the targets of users and {format_percent(shown[0])} "
        f"of the items that {model} lists in {k} places: {word} than the demand."
    )
    _, block = _user_curve(
        judged,
        users["popularity_decile"],
        tuple(range(1, 11)),
        config,
        "by popularity of the target",
        "tenth of the catalogue by training events, 1 = the most popular",
        shift=0,
        end=11,
    )
    note = "Shares of list places and of targets; found: share of a user's targets of the kind, mean over users."
    return section("long_tail", "Long tail", summary, [block, table("tail and head", columns, cells, note=note)])


def freshness_section(
    judged: Sequence[Judged], dataset: Dataset, users: pd.DataFrame, *, config: EvaluationConfig
) -> Section:
    """The section on freshness: the metric by the time since the user's last event and by the age of the target.

    Args:
      judged: the systems, the model first.
      dataset: where the cases come from.
      users: U rows, as `user_table` makes it.
      config: the protocol.
    """
    model, title = judged[0].name, "Freshness"
    if dataset.time_kind != "seconds":
        return section("freshness", title, "The log has an order but no times, so ages are unknown.", [])
    gaps = users["seconds_since_last_event"]
    if not gaps.notna().any():
        return section("freshness", title, "No user has a history, so there is no time since the last event.", [])
    rows, block = _user_curve(
        judged,
        gaps,
        _GAPS,
        config,
        "by time since the last event",
        "1 + hours since the last event",
        unit=_HOUR,
        text=duration,
    )
    _, by_age = _user_curve(
        judged,
        users["first_target_age_days"],
        _AGES,
        config,
        "by age of the target",
        "1 + days since the item's first event",
    )
    rows = [row for row in rows if row["label"] != "unknown"]
    median = float(np.nanmedian(gaps))
    length = f"{median / _DAY:,.1f} days" if median >= 2 * _DAY else f"{median / _HOUR:,.1f} hours"
    summary = (
        f"Half of the users came back within {length}. {config.metric} of {model} by time since the last event: "
        f"{first_and_last(rows, model)}."
    )
    return section("freshness", title, summary, [block, by_age])


def personalisation_section(judged: Sequence[Judged], *, config: EvaluationConfig, popular: str = POPULAR) -> Section:
    """The section on personalisation: distance between users' lists, and the gain of each user over the popular list.

    Args:
      judged: the systems, the model first.
      config: the protocol.
      popular: name of the system that gives all users the same list.
    """
    k, model = cutoff(config), judged[0].name
    distances = {entry.name: list_distance(entry.lists[:, :k]) for entry in judged}
    rows = [{"name": name, "mean": distance} for name, distance in distances.items()]
    blocks = [
        bars(f"distance between users' lists of {k}", "share of places that two users do not have in common", rows)
    ]
    summary = f"Two users' lists by {model} differ in {format_percent(distances[model])} of {k} places on average."
    base = next((entry for entry in judged if entry.name == popular), None)
    if base is None or base is judged[0]:
        summary += f" No system is called “{popular}”, so no gain over it is given."
        return section("personalisation", "Personalisation", summary, blocks)
    others = [entry for entry in judged if entry is not base]
    gains = {entry.name: gain_over(entry, base, config.metric) for entry in others}
    interval = bootstrap_means(
        np.stack([gain.per_user for gain in gains.values()], axis=1),
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    own = gains[model]
    summary += (
        f" Against the popular list {format_percent(own.better)} of users are better off, {format_percent(own.worse)} "
        f"worse and {format_percent(own.same)} the same; the mean gain in {config.metric} is "
        f"{format_figure(interval.mean[0], signed=True)}."
    )
    cells = [
        [name, figure(interval, column), gain.better, gain.worse, gain.same]
        for column, (name, gain) in enumerate(gains.items())
    ]
    columns = ["system", f"gain in {config.metric}", "better off", "worse off", "the same"]
    series = [
        {"name": name, "x": _SHARES, "y": np.quantile(gain.per_user[~np.isnan(gain.per_user)], _SHARES)}
        for name, gain in gains.items()
        if not np.isnan(gain.per_user).all()
    ]
    blocks += [
        table(f"gain over {popular}", columns, cells),
        curve(
            "gain of each user, from the least to the largest",
            x_label="share of users",
            y_label=f"gain in {config.metric} over {popular}",
            series=series,
        ),
    ]
    return section("personalisation", "Personalisation", summary, blocks)


def cutoff(config: EvaluationConfig) -> int:
    """The list length k of the deciding metric; the largest cutoff for a metric without one."""
    stem, _, k = config.metric.partition("@")
    return int(k) if k and stem != "accuracy" else max(config.cutoffs)


def found_by_bin(judged: Judged, cases: EvaluationCases, bins: Bins, *, k: int) -> np.ndarray:
    """Share of each user's targets of each bin that are in the first k places.

    Args:
      judged: a system.
      cases: U users with T targets.
      bins: B bins of the T targets.
      k: length of the list.

    Returns:
      `[U, B]` float64 in [0, 1], nan for users without a target in the bin.
    """
    width, users = len(bins.labels), len(cases.users)
    cells = np.repeat(np.arange(users), cases.num_targets) * width + bins.codes
    count = np.bincount(cells, minlength=users * width)
    found = np.bincount(cells, weights=judged.ranks <= k, minlength=users * width)
    shares = np.divide(found, count, out=np.full(len(count), np.nan), where=count > 0)
    return np.reshape(shares, (users, width))


def exposure_share(lists: np.ndarray, group: np.ndarray) -> float:
    """Share of the filled places of `[U, K]` lists that hold an item of a group `[V+1]` bool; nan without places."""
    items = known_items(lists, len(group) - 1)
    filled = int((items > 0).sum())
    return float(group[items].sum() / filled) if filled else float("nan")


def known_items(lists: np.ndarray, num_items: int) -> np.ndarray:
    """`[U, K]` lists with 0 in place of numbers that are no item of the catalogue, as lists from elsewhere may have."""
    return np.where((lists > 0) & (lists <= num_items), lists, 0)


def list_distance(lists: np.ndarray) -> float:
    """Mean share of the K places that two users' lists do not have in common, over all pairs of `[U, K]` lists."""
    return float(metrics.mean_list_distance(jnp.asarray(lists, dtype=jnp.int32)))


def gain_over(judged: Judged, base: Judged, metric: str) -> Gain:
    """Each user's gain in a metric over another system.

    Args:
      judged: the system in question.
      base: the other system, judged on the same users.
      metric: a column of the per-user tables.

    Raises:
      ConfigError: a metric that was not measured.
    """
    if metric not in judged.per_user or metric not in base.per_user:
        raise ConfigError(f"{metric} was not measured; there are {', '.join(judged.per_user.columns)}")
    own, other = (entry.per_user[metric].to_numpy(dtype=np.float64, na_value=np.nan) for entry in (judged, base))
    gain = own - other
    known = gain[~np.isnan(gain)]
    shares = [float(part.mean()) if len(known) else float("nan") for part in (known > 0, known < 0, known == 0)]
    return Gain(gain, *shares)


def _user_curve(
    judged: Sequence[Judged],
    values: pd.Series,
    edges: Sequence[float],
    config: EvaluationConfig,
    title: str,
    x_label: str,
    *,
    shift: float = 1,
    end: float | None = None,
    unit: float = 1,
    text: Callable[[float], str] = "{:g}".format,
) -> tuple[list[dict[str, Any]], Block]:
    """The metric by a number of the users: rows of its bins, and a curve with points at bin mean / unit + shift."""
    bins = bins_of(values, edges=edges, end=end, text=text)
    rows = slice_figures(judged, bins, config=config)
    middles = _middles(values, bins)
    shown = [(middles[bins.labels.index(row["label"])], row) for row in rows if row["label"] != "unknown"]
    series = [
        {
            "name": entry.name,
            "x": [middle / unit + shift for middle, _ in shown],
            "y": [row["systems"][entry.name]["mean"] for _, row in shown],
            "low": [row["systems"][entry.name]["low"] for _, row in shown],
            "high": [row["systems"][entry.name]["high"] for _, row in shown],
        }
        for entry in judged
    ]
    note = "Points at the mean of their bin: " + ", ".join(
        f"{row['label']} ({format_count(row['users'])} users)" for _, row in shown
    )
    labels = {"x_label": x_label, "y_label": config.metric}
    return rows, curve(f"{config.metric} {title}", **labels, series=series, log_x=shift > 0, note=note)


def _target_curve(
    judged: Sequence[Judged],
    cases: EvaluationCases,
    values: pd.Series,
    bins: Bins,
    config: EvaluationConfig,
    title: str,
    x_label: str,
) -> tuple[np.ndarray, Block]:
    """The share of targets found by a number of the targets: the model's shares, and the curve."""
    k, middles = cutoff(config), _middles(values, bins)
    known = ~np.isnan(middles)
    series, means = [], []
    for entry in judged:
        shares = found_by_bin(entry, cases, bins, k=k)[:, : len(middles)]
        interval = bootstrap_means(shares, num_resamples=config.num_resamples, seed=config.seed)
        means.append(interval.mean)
        ends = {name: getattr(interval, name)[known] for name in ("low", "high")}
        series.append({"name": entry.name, "x": middles[known] + 1, "y": interval.mean[known], **ends})
    counts = np.bincount(bins.codes, minlength=len(middles))
    note = "Points at the mean of their bin: " + ", ".join(
        f"{bins.labels[place]} ({format_count(int(counts[place]))} targets)" for place in np.flatnonzero(known)
    )
    y_label = f"share of targets in the first {k}"
    return means[0], curve(
        f"{y_label}, {title}", x_label=x_label, y_label=y_label, series=series, log_x=True, note=note
    )


def _middles(values: pd.Series, bins: Bins) -> np.ndarray:
    """`[B]` mean of the numbers in each bin, nan for bins without numbers such as "unknown"."""
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    sums = np.bincount(bins.codes, weights=numbers, minlength=len(bins.labels))
    counts = np.bincount(bins.codes, minlength=len(bins.labels))
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def _without_history(cases: EvaluationCases, users: pd.DataFrame) -> str:
    empty = int((users["history_length"] == 0).sum())
    if empty:
        return f"{format_count(empty)} users have no history at all."
    if cases.users_without_history:
        return f"{format_count(cases.users_without_history)} users with a history that is too short are left out."
    return "No user was without history."
