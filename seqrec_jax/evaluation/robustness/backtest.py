"""Rolling-origin backtest: lists at several moments, by models that were trained then or earlier.

At each origin all events before it are history, and the window up to the next one holds the targets, so that each event
is a target at most once. A model may have been trained at that origin or at an earlier one. The same targets under
models of different age give the cost of age, separate from the difficulty of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import HISTORY, TEST, TRAIN, EvaluationCases, Split, SplitConfig, evaluation_cases
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.robustness.list_changes import ratio_values, spread_cases
from seqrec_jax.reporting.sections import Section, curve, section, table
from seqrec_jax.reporting.wording import format_figure, format_percent
from seqrec_jax.settings import check_value
from seqrec_jax.statistics import bootstrap_means

_MOST_SERIES = 5  # curves of one chart


def rolling_origins(
    sequences: Sequences, *, num_origins: int, window_seconds: int | None = None, first_share: float = 0.5
) -> list[int]:
    """The cuts of a backtest: its origins, and the end of the last window.

    Args:
      sequences: a whole log.
      num_origins: number of consecutive windows of equal length up to the last event, at least 1.
      window_seconds: length of a window, at least 1; None derives it from `first_share`.
      first_share: share of the events before the first origin, in (0, 1), if no length is given.

    Returns:
      num_origins + 1 rising times in seconds; window i is from cut i up to, and without, cut i+1.

    Raises:
      ConfigError: an option out of range.
      DataError: no event before the first origin, or windows shorter than a second.

    >>> import numpy as np
    >>> log = Sequences(np.array(["u"]), np.array([0, 4]), np.array([2, 1, 2, 1], dtype=np.int32),
    ...                 np.array([0, 40, 60, 99]), np.zeros(4, dtype=np.int8), np.ones(4, dtype=np.float32))
    >>> rolling_origins(log, num_origins=2, window_seconds=30)
    [40, 70, 100]
    """
    check_value("num_origins", num_origins, "[1, inf)")
    check_value("window_seconds", window_seconds, "[1, inf)")
    check_value("first_share", first_share, "(0, 1)")
    times = sequences.timestamps
    if not len(times):
        raise DataError("the log has no events; expected some before the first origin and some after it")
    first, end = int(times.min()), int(times.max()) + 1
    if window_seconds is None:
        start = int(np.partition(times, int(first_share * len(times)))[int(first_share * len(times))])
        cuts = [start + (end - start) * origin // num_origins for origin in range(num_origins + 1)]
    else:
        cuts = [end - window_seconds * (num_origins - origin) for origin in range(num_origins + 1)]
    if cuts[0] <= first or any(late <= early for early, late in pairwise(cuts)):
        length = "" if window_seconds is None else f" of {window_seconds} s"
        raise DataError(
            f"{num_origins} windows{length} do not fit behind the first event of a log from {_day(first)} to "
            f"{_day(end)}; take fewer or shorter windows"
        )
    return cuts


def backtest(
    dataset: Dataset,
    *,
    cuts: Sequence[int],
    fit: Callable[[Sequences], Sequence[Ranker]],
    config: EvaluationConfig,
    retrain: bool = True,
    max_age: int | None = 0,
    case_options: Mapping[str, Any] | None = None,
    num_users: int | None = None,
) -> pd.DataFrame:
    """Judge rankers at every origin.

    Args:
      dataset: the log; of its split only which events may be targets counts.
      cuts: from `rolling_origins`.
      fit: function of the events before a cut, of all users (some have none), to trained rankers, with the same names
        at each call. It must not read later events from elsewhere.
      config: the protocol; `stage` is ignored.
      retrain: whether to call `fit` at every origin, or once at the first.
      max_age: with `retrain`, number of further windows in which a model is judged beside the newer ones; None for all
        that follow. Each adds time for judging, not for training.
      case_options: further options of `evaluation_cases`, such as `available_from`.
      num_users: largest number of users at each origin, taken evenly over the cases; None for all.

    Returns:
      One row an origin, model and system: `origin` (its number), `cut` and `trained_at` (seconds), `age` (in windows),
      `age_days`, `system`, `metric`, `users`, `targets`; `mean` of the deciding metric, with `mean_low` and `mean_high`
      over users; `loss_share`, with `loss_share_low` and `loss_share_high`: the share of the metric that age costs,
      against the model trained at this origin on the same users (nan for that model, and where there is none).

    Raises:
      ConfigError: cuts that do not rise, or a negative max_age.
      DataError: no times, nothing to train on, or no user to evaluate in a window.
    """
    if len(cuts) < 2 or any(late <= early for early, late in pairwise(cuts)):
        raise ConfigError(f"cuts must rise and be at least two, an origin and an end, got {list(cuts)}")
    check_value("max_age", max_age, "[0, inf)")
    if dataset.time_kind != "seconds":
        raise DataError("a backtest needs timestamps, this log has only an order; use leave_one_out")
    times = dataset.sequences.timestamps
    oldest = len(cuts) if max_age is None or not retrain else max_age
    models: dict[int, list[Ranker]] = {}
    rows: list[dict[str, Any]] = []
    for origin, window in enumerate(pairwise(cuts)):
        cases = _cases_of_window(dataset, window, config, case_options or {}, num_users)
        if retrain or not models:
            models[origin] = _fitted(fit, dataset.sequences.select_events(times < window[0]), window[0])
        models = {made: rankers for made, rankers in models.items() if origin - made <= oldest}
        fresh: dict[str, np.ndarray] = {}
        for made, rankers in sorted(models.items(), reverse=True):
            for ranker in rankers:
                judged = judge(ranker, cases, config=config)
                values = judged.per_user[[config.metric]].to_numpy(dtype=np.float64, na_value=np.nan)
                if made == origin:
                    fresh[ranker.name] = values
                best = fresh.get(ranker.name) if made < origin else None
                lost = np.full_like(values, np.nan) if best is None else ratio_values(best - values, best[:, 0])
                interval = bootstrap_means(
                    np.concatenate([values, lost], axis=1), num_resamples=config.num_resamples, seed=config.seed
                )
                rows.append(
                    {
                        "origin": origin,
                        "cut": window[0],
                        "trained_at": cuts[made],
                        "age": origin - made,
                        "age_days": (window[0] - cuts[made]) / SECONDS_PER_DAY,
                        "system": ranker.name,
                        "metric": config.metric,
                        "users": len(cases.users),
                        "targets": len(cases.target_items),
                        **_columns("mean", interval, 0),
                        **_columns("loss_share", interval, 1),
                    }
                )
    return pd.DataFrame(rows)


def mean_over_origins(frame: pd.DataFrame, *, figure: str = "mean", confidence: float = 0.95) -> pd.DataFrame:
    """A figure of each system by the age of the model, as the plain mean over origins.

    Origins are the sampling unit: their means vary with their users and with the window, so that Student's interval of
    the means covers both. A single origin has the interval over its users.

    Args:
      frame: from `backtest`.
      figure: "mean" or "loss_share".
      confidence: level of the intervals, in (0, 1).

    Returns:
      One row a system and age, in the order of `frame` and from fresh to old: `system`, `age`, `age_days`, `origins`,
      `mean`, `low`, `high`; origins where the figure is undefined do not count.

    Source:
      Student (1908), The probable error of a mean; Tashman (2000), Out-of-sample tests of forecasting accuracy
      (rolling origins).
    """
    rows = []
    order = {name: place for place, name in enumerate(frame["system"].unique())}
    defined = frame[frame[figure].notna()]
    for (system, age), part in defined.groupby(["system", "age"], sort=True):
        values, count = part[figure].to_numpy(), len(part)
        mean = values.mean()
        low, high = part[f"{figure}_low"].iloc[0], part[f"{figure}_high"].iloc[0]
        if count > 1:
            wide = stats.t.ppf((1 + confidence) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
            low, high = mean - wide, mean + wide
        names = {"system": system, "age": age, "age_days": part["age_days"].mean(), "origins": count}
        rows.append({**names, "mean": mean, "low": low, "high": high})
    columns = ["system", "age", "age_days", "origins", "mean", "low", "high"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values("system", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def freshness_section(frame: pd.DataFrame) -> Section:
    """The section of the report on freshness: figures over time and by the age of the model.

    Args:
      frame: from `backtest`, the model's rows first; frames with and without retraining may be put together.
    """
    frame = frame.drop_duplicates(["system", "cut", "trained_at"], ignore_index=True)
    metric = frame["metric"].iloc[0]
    by_age, losses = mean_over_origins(frame), mean_over_origins(frame, figure="loss_share")
    days = _days(np.concatenate([frame["cut"], frame["trained_at"]]))
    newest = frame.loc[frame.groupby(["system", "cut"], sort=False)["age"].idxmin()]
    over_time = [
        {"name": name, "x": [days[cut] for cut in part["cut"]], **_band(part, "mean")}
        for name, part in newest.groupby("system", sort=False)
    ]
    blocks = [
        curve(
            f"{metric} over time, the newest model at each origin",
            x_label="origin",
            y_label=metric,
            series=over_time[:_MOST_SERIES],
            note="Intervals over users. Windows differ in difficulty, whatever the model.",
        )
    ]
    if by_age["age"].nunique() > 1:
        blocks.append(_age_curve(f"{metric} by age of the model", metric, by_age))
    if len(losses):
        blocks.append(_age_curve(f"Share of {metric} that age costs, on the same users", "share lost", losses))
    columns = ["origin", "trained", "age in days", "system", "users", metric, "lost to age"]
    rows = [
        [
            days[row["cut"]],
            days[row["trained_at"]],
            round(row["age_days"], 1),
            row["system"],
            row["users"],
            *(
                {"mean": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
                for name in ("mean", "loss_share")
            ),
        ]
        for _, row in frame.iterrows()
    ]
    blocks.append(table("Every origin", columns, rows))
    return section(
        "freshness", "Freshness: performance against the age of the model", _summary(frame, losses, days), blocks
    )


def _summary(frame: pd.DataFrame, losses: pd.DataFrame, days: Mapping[int, str]) -> str:
    system, metric = frame["system"].iloc[0], frame["metric"].iloc[0]
    ours = frame[frame["system"] == system]
    origins = ours["origin"].nunique()
    across = ours.loc[ours.groupby("cut")["age"].idxmin(), "mean"]
    text = (
        f"At {origins} origins from {days[ours['cut'].min()]} to {days[ours['cut'].max()]} the newest {system} has a "
    )
    text += f"{metric} between {format_figure(across.min())} and {format_figure(across.max())}."
    for name in losses["system"].unique()[:2]:
        row = losses[losses["system"] == name].iloc[-1]
        verb = "loses" if row["low"] > 0 else "gains" if row["high"] < 0 else "neither clearly loses nor gains:"
        change = format_percent(abs(row["mean"]) if row["low"] > 0 or row["high"] < 0 else row["mean"])
        text += f" Trained {row['age_days']:.3g} days before the lists are made, {name} {verb} {change} of {metric} "
        text += f"against trained at that time (lost: {format_percent(row['low'])} to {format_percent(row['high'])}, "
        text += f"from {row['origins']} origin{'s' if row['origins'] > 1 else ''})."
    if not len(losses) and ours["age"].max() > 0:
        text += " No model was retrained, so the cost of age cannot be separated from the difficulty of later windows."
    return text


def _cases_of_window(
    dataset: Dataset, window: tuple[int, int], config: EvaluationConfig, options: Mapping[str, Any], most: int | None
) -> EvaluationCases:
    """The cases of a timeline whose test part is the window; later events are in no part that is used."""
    times = dataset.sequences.timestamps
    parts = np.full(len(times), TRAIN, dtype=np.int8)
    parts[times >= window[0]] = TEST
    parts[times >= window[1]] = HISTORY  # never before a target of the window
    rule = SplitConfig(rule="global_timeline", target_behaviors=dataset.split.config.target_behaviors)
    split = Split(parts, dataset.split.targets, rule, {"validation_start": window[0], "test_start": window[0]})
    protocol: dict[str, Any] = {
        "num_items": dataset.num_items,
        "targets": config.targets,
        "min_history": config.min_history,
    }
    try:
        cases = evaluation_cases(dataset.sequences, split, stage="test", **(protocol | dict(options)))
    except DataError as error:
        raise DataError(f"the window from {_day(window[0])} to {_day(window[1])}: {error}") from error
    return cases if most is None else spread_cases(cases, most)


def _fitted(fit: Callable[[Sequences], Sequence[Ranker]], known: Sequences, cut: int) -> list[Ranker]:
    if not len(known.item_ids):
        raise DataError(f"there are no events before {_day(cut)} to train on; take a later first cut")
    rankers = list(fit(known))
    names = [ranker.name for ranker in rankers]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"fit must give at least one ranker, each under its own name, got {names}")
    return rankers


def _columns(name: str, interval: Any, column: int) -> dict[str, float]:
    return {
        name: interval.mean[column],
        f"{name}_low": interval.low[column],
        f"{name}_high": interval.high[column],
    }


def _age_curve(title: str, label: str, means: pd.DataFrame) -> dict[str, Any]:
    series = [
        {"name": name, "x": part["age_days"], "y": part["mean"], "low": part["low"], "high": part["high"]}
        for name, part in means.groupby("system", sort=False)
    ]
    return curve(
        title,
        x_label="age of the model in days",
        y_label=label,
        series=series[:_MOST_SERIES],
        note="Means over origins, with intervals over origins where there are several.",
    )


def _band(part: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    return {"y": part[name], "low": part[f"{name}_low"], "high": part[f"{name}_high"]}


def _days(times: np.ndarray) -> dict[int, str]:
    """The days of some times in seconds as text, with hours where several are on one day."""
    moments = [int(time) for time in np.unique(times)]
    days = [_day(time)[:10] for time in moments]
    return dict(zip(moments, days if len(set(days)) == len(days) else map(_day, moments), strict=True))


def _day(seconds: float) -> str:
    return str(pd.Timestamp(int(seconds), unit="s").strftime("%Y-%m-%d %H:%M"))
