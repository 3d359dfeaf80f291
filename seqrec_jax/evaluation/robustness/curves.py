"""Robustness curves: the deciding metric against the share of the history that is noise, from a bot, missing or out of
order. The same users are judged with changed histories and the same targets; intervals are over users. Changes of lists
after single events are in `list_changes.py`; the section of the report holds both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.judging import Judged, judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.robustness import perturbations
from seqrec_jax.evaluation.robustness.list_changes import interval_columns, list_overlaps, ratio_values, spread_cases
from seqrec_jax.reporting.sections import Section, bars, curve, section, table
from seqrec_jax.reporting.wording import format_percent

RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
_WORDS_AT = 0.1  # the rate that the summary is about
_MOST_SERIES = 5  # curves of one chart


class Change(NamedTuple):
    """A way in which histories may be worse.

    Attributes:
      name: label of the row.
      words: the change in words, with a place for the share: "{} of the events are random items".
      apply: a function of `perturbations`: `(histories, *, rate, num_items, rng) -> histories`.
    """

    name: str
    words: str
    apply: Callable[..., Sequences]


class Robustness(NamedTuple):
    """Figures of one ranker under worse histories.

    Attributes:
      curves: one row a change and rate: `system`, `metric`, `change`, `words`, `rate`, `users`; `mean` of the metric;
        `loss`, the metric without the change minus the mean, on the same users; `loss_share`, the loss as a share of
        the metric without the change; each of these three with `_low` and `_high`; `overlap`, the mean Jaccard index
        of the lists before and after.
      areas: one row a change: `system`, `change`; `area` under the curve relative to that of a constant metric,
        1 = unaffected, with `area_low` and `area_high`.
    """

    curves: pd.DataFrame
    areas: pd.DataFrame


def default_changes(
    cases: EvaluationCases, *, behaviors: Sequence[str] = (), time_kind: str = "seconds"
) -> tuple[Change, ...]:
    """The changes that apply to a log.

    Noise is drawn from the candidates, so that no item appears before it is available. A log with several behaviours
    adds missing events of the most frequent one; a log with times adds longer gaps.

    Args:
      cases: the cases whose histories are to be changed.
      behaviors: names of the behaviour codes; without them a behaviour is named by its code.
      time_kind: "seconds" or "order".
    """
    histories, candidates = cases.histories, cases.candidates.astype(np.float64)
    popular = np.bincount(histories.item_ids, minlength=len(candidates)) * candidates
    if not popular.any():
        popular = candidates
    changes = [
        Change(
            "noise", "{} of the events are random items", partial(perturbations.inject_noise, item_weights=candidates)
        ),
        Change(
            "popular noise",
            "{} of the events are popular items at random",
            partial(perturbations.inject_noise, item_weights=popular),
        ),
        Change(
            "bot",
            "{} of the events are a bot's at the end, on one item over and over",
            partial(perturbations.inject_bot, item_weights=candidates),
        ),
        Change(
            "crawler",
            "{} of the events are a bot's at the end, on the most popular items in turn",
            partial(perturbations.inject_bot, kind="crawl", item_weights=popular),
        ),
        Change("missing events", "{} of the events are missing", perturbations.drop_events),
        Change("missing past", "the oldest {} of the events are missing", perturbations.truncate),
        Change("swapped neighbours", "{} of the events traded places with a neighbour", perturbations.swap_adjacent),
        Change("shuffled", "{} of the events are in random order", perturbations.shuffle_order),
    ]
    counts = np.bincount(histories.behaviors, minlength=1)
    if np.count_nonzero(counts) > 1:
        code = int(counts.argmax())
        name = behaviors[code] if behaviors else f"behaviour {code}"
        apply = partial(perturbations.drop_behavior, behavior=code)
        changes.append(Change(f"missing {name}", f"{{}} of the {name} events are missing", apply))
    if time_kind == "seconds":
        changes.append(Change("longer gaps", "all gaps between events are {} longer", perturbations.shift_time))
    return tuple(changes)


def robustness(
    ranker: Ranker,
    cases: EvaluationCases,
    *,
    config: EvaluationConfig,
    changes: Sequence[Change] | None = None,
    rates: Sequence[float] = RATES,
    num_users: int = 2000,
    seed: int = 0,
) -> Robustness:
    """The deciding metric on histories that are changed at rising rates.

    All rates of a change use the same random draws. If seen items are excluded, they are those of the changed history.

    Args:
      ranker: the system, judged once for each change and rate.
      cases: the evaluation cases.
      config: the protocol.
      changes: None for `default_changes`.
      rates: rising shares, the first 0.
      num_users: largest number of users, taken evenly over the cases.
      seed: of the changes.

    Returns:
      Curves and the areas under them.

    Raises:
      ConfigError: rates that do not rise from 0, or a number of users below 1.
    """
    if len(rates) < 2 or rates[0] != 0 or any(late <= early for early, late in pairwise(rates)):
        raise ConfigError(f"rates must rise from 0 and be at least two, got {tuple(rates)}")
    cases = spread_cases(cases, num_users)
    changes = default_changes(cases) if changes is None else changes
    num_items = len(cases.candidates) - 1
    whole = judge(ranker, cases, config=config)
    base = _metric_of(whole, config)
    values = np.repeat(base[:, None, None], len(changes), axis=1).repeat(len(rates), axis=2)
    overlaps = np.ones((len(changes), len(rates)))
    for row, change in enumerate(changes):
        for column, rate in enumerate(rates[1:], start=1):
            rng = np.random.default_rng([seed, row])
            changed = change.apply(cases.histories, rate=rate, num_items=num_items, rng=rng)
            judged = judge(ranker, replace(cases, histories=changed), config=config)
            values[:, row, column] = _metric_of(judged, config)
            overlaps[row, column] = list_overlaps(whole.lists, judged.lists).mean()
    flat = values.reshape(len(base), -1)
    areas = ratio_values(np.trapezoid(values, rates, axis=2) / (rates[-1] - rates[0]), base)
    curves = pd.DataFrame(
        {
            "system": ranker.name,
            "metric": config.metric,
            "change": np.repeat([change.name for change in changes], len(rates)),
            "words": np.repeat([change.words for change in changes], len(rates)),
            "rate": np.tile(rates, len(changes)),
            "users": len(base),
            **interval_columns(flat, config, "mean"),
            **interval_columns(base[:, None] - flat, config, "loss"),
            **interval_columns(ratio_values(base[:, None] - flat, base), config, "loss_share"),
            "overlap": overlaps.ravel(),
        }
    )
    names = {"system": ranker.name, "change": [change.name for change in changes]}
    return Robustness(curves, pd.DataFrame({**names, **interval_columns(areas, config, "area")}))


def robustness_section(
    results: Sequence[Robustness],
    *,
    stability: pd.DataFrame | None = None,
    taste: pd.DataFrame | None = None,
    promoted: pd.DataFrame | None = None,
) -> Section:
    """The section of the report on robustness.

    Args:
      results: of the model first, then of other systems under the same changes.
      stability: rows of `stability`; None leaves them out.
      taste: rows of `taste_change`; None leaves them out.
      promoted: rows of `promotion`; None leaves them out.
    """
    curves, areas = (pd.concat([getattr(entry, name) for entry in results]) for name in ("curves", "areas"))
    system, metric = curves["system"].iloc[0], curves["metric"].iloc[0]
    rates = np.unique(curves["rate"])[1:]
    rate = float(rates[np.abs(rates - _WORDS_AT).argmin()])
    ours = areas[areas["system"] == system].sort_values("area")
    at_rate = curves[curves["rate"] == rate]
    worst = list(ours["change"][:_MOST_SERIES])
    lines = [
        {"name": name, "x": part["rate"], "y": part["mean"], "low": part["mean_low"], "high": part["mean_high"]}
        for name, part in curves[(curves["system"] == system)].groupby("change", sort=False)
        if name in worst
    ]
    losses = [
        [change, *(_cell(part[part["system"] == name], "loss_share") for name in curves["system"].unique())]
        for change, part in at_rate.groupby("change", sort=False)
    ]
    blocks = [
        bars(
            f"Area under the curve of {metric}, {system}",
            "1 = unaffected",
            [
                {"name": row["change"], "mean": row["area"], "low": row["area_low"], "high": row["area_high"]}
                for _, row in ours.iterrows()
            ],
            note=f"Rates from 0 to {format_percent(float(rates[-1]))}.",
        ),
        curve(
            f"{metric} of {system} by how much of the history is changed",
            x_label="rate",
            y_label=metric,
            series=lines,
            note="" if len(ours) == len(lines) else f"The {len(lines)} changes that cost the most.",
        ),
        table(
            f"Share of {metric} lost at a rate of {format_percent(rate)}",
            ["change", *curves["system"].unique()],
            losses,
            note="Paired on the same users; below 0 is a gain.",
        ),
    ]
    if stability is not None:
        rows = [
            [row["system"], row["event"], _cell(stability.iloc[[place]], "overlap"), row["unchanged"]]
            for place, (_, row) in enumerate(stability.iterrows())
        ]
        columns = ["system", "event", f"share of the {stability['k'].iloc[0]} that stays", "lists unchanged"]
        blocks.append(table("The list after one event more or less", columns, rows, note="Shares are Jaccard's."))
    if taste is not None:
        series = [
            {"name": name, "x": part["events"], **_band(part, "adopted")}
            for name, part in taste.groupby("system", sort=False)
        ]
        blocks.append(
            curve(
                "A change of taste in the list",
                x_label="events of another user that follow",
                y_label="0 = a stranger's list, 1 = the other user's own",
                series=series,
            )
        )
    if promoted is not None:
        figures = ["rank_before", "rank_after", "gain", "listed_before", "listed_after"]
        rows = [
            [row["system"], row["promoted"], row["users"], *(row.get(name) for name in figures[:2])]
            + [_cell(promoted.iloc[[place]], name) for name in figures[2:]]
            for place, (_, row) in enumerate(promoted.iterrows())
        ]
        k = promoted["k"].iloc[0]
        columns = [
            "system",
            "item",
            "users",
            "median rank before",
            "after",
            "places won",
            f"in the top {k} before",
            "after",
        ]
        blocks.append(table("One injected event", columns, rows))
    return section("robustness", "Robustness", _summary(at_rate, curves, rate, taste), blocks)


def _summary(at_rate: pd.DataFrame, curves: pd.DataFrame, rate: float, taste: pd.DataFrame | None) -> str:
    system, metric = curves["system"].iloc[0], curves["metric"].iloc[0]
    ours = at_rate[at_rate["system"] == system]
    losses = ours["loss_share"].to_numpy()
    if np.isnan(losses).all():
        text = f"{system} has a {metric} of 0 on these users, so it has nothing to lose."
    else:
        row = ours.iloc[int(np.nanargmax(losses))]
        where = f"when {row['words'].format(format_percent(rate))}"
        interval = f"interval {format_percent(row['loss_share_low'])} to {format_percent(row['loss_share_high'])}"
        if not (losses != 0).any():
            text = f"{system} does not change at all at a rate of {format_percent(rate)}, whatever is changed."
        elif row["loss_share_low"] > 0:
            text = f"{system} loses {format_percent(row['loss_share'])} of {metric} ({interval}) {where}, "
            text += f"the worst of {len(ours)} changes at that rate."
        else:
            text = f"No change at a rate of {format_percent(rate)} clearly costs {system} any {metric}; the worst is a "
            text += f"loss of {format_percent(row['loss_share'])} ({interval}) {where}."
    still = [name for name, part in curves.groupby("system", sort=False) if name != system and not part["loss"].any()]
    if still:
        text += f" {', '.join(still)}: no loss at all, since the list does not depend on the history."
    if taste is not None:
        ours = taste[(taste["system"] == taste["system"].iloc[0]) & (taste["events"] > 0)]
        row = ours.iloc[min(2, len(ours) - 1)]
        text += (
            f" After {row['events']} events of another user the list is {format_percent(row['adopted'])} of the way "
        )
        text += "from a stranger's list to that user's own."
    return text


def _metric_of(judged: Judged, config: EvaluationConfig) -> np.ndarray:
    return np.asarray(judged.per_user[config.metric].to_numpy(dtype=np.float64, na_value=np.nan))


def _band(part: pd.DataFrame, name: str) -> dict[str, pd.Series]:
    return {"y": part[name], "low": part[f"{name}_low"], "high": part[f"{name}_high"]}


def _cell(part: pd.DataFrame, name: str) -> dict[str, float] | None:
    """The figure of a frame's first row with its interval, as a table's cell; None without a row."""
    if not len(part):
        return None
    row = part.iloc[0]
    return {"mean": row.get(name), "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")}
