"""Charts of figures with intervals: one dot with whiskers a row, alone or in groups, as small SVG drawings.

How a drawing gets the page's colours and stays the same every time is in `svg.py`; lines and clouds of points are in
`curves.py`. Each chart says in words what it shows, and the page puts its numbers beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from seqrec_jax.errors import ConfigError
from seqrec_jax.reporting.svg import (
    INK,
    LINE,
    PAPER,
    SERIES_COLORS,
    SERIES_MARKERS,
    new_figure,
    page_style,
    printable,
    to_svg,
)
from seqrec_jax.reporting.wording import format_figure, is_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Interval(NamedTuple):
    """One row of a dot plot.

    Attributes:
      label: name of the row.
      mean: the figure; the row stays empty where it is not finite.
      low: lower end of the interval; no whiskers are drawn where an end is not finite.
      high: upper end.
      series: index into `SERIES_SIGNS`, which gives colour and sign; None draws a hollow dot in the text's colour.
    """

    label: str
    mean: float
    low: float
    high: float
    series: int | None = None


def interval_chart(
    rows: Sequence[Interval], *, name: str, title: str, label: str, signed: bool = False, bars: bool = False
) -> str:
    """Dots with interval whiskers, one row each with its value, on an axis that always contains zero.

    Args:
      rows: from top to bottom.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      label: of the axis.
      signed: write a plus before positive values.
      bars: draw a bar from zero to each figure.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
      ConfigError: no rows.
    """
    if not rows:
        raise ConfigError(f"chart {name!r}: expected at least one row, got none")
    with page_style():
        figure, axes = new_figure(height=0.75 + 0.3 * len(rows))
        for place, row in enumerate(rows):
            if bars and is_finite(row.mean):
                axes.barh(place, row.mean, height=0.6, color=SERIES_COLORS[row.series or 0], alpha=0.3)
            _draw_interval(axes, row, y=place)
            text = format_figure(row.mean, signed=signed) if is_finite(row.mean) else "undefined"
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5)
        axes.set_yticks(range(len(rows)), [printable(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _finish_value_axis(axes, rows, label=label)
        return to_svg(figure, name=name, title=title, description=_in_words(rows))


def grouped_chart(groups: Sequence[tuple[str, Sequence[Interval]]], *, name: str, title: str, label: str) -> str:
    """Dots with interval whiskers for several series within each group, such as systems within a slice.

    Args:
      groups: from top to bottom, each a label of one or two lines and its rows.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      label: of the axis of values.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
      ConfigError: no groups.
    """
    if not groups:
        raise ConfigError(f"chart {name!r}: expected at least one group, got none")
    step = max(2, *(len(rows) for _, rows in groups)) + 1
    with page_style():
        figure, axes = new_figure(height=0.75 + 0.13 * step * len(groups))
        for number, (_, rows) in enumerate(groups):
            first = number * step + (step - 1 - len(rows)) / 2
            for place, row in enumerate(rows):
                _draw_interval(axes, row, y=first + place, size=5)
            if number:
                axes.axhline(number * step - 1, color=LINE, linewidth=0.8)
        centres = [number * step + (step - 2) / 2 for number in range(len(groups))]
        axes.set_yticks(centres, ["\n".join(map(printable, text.split("\n"))) for text, _ in groups])
        axes.set_ylim(len(groups) * step - 1, -1)
        _finish_value_axis(axes, [row for _, rows in groups for row in rows], label=label)
        words = ". ".join(f"{text.replace(chr(10), ', ')}: {_in_words(rows)}" for text, rows in groups)
        return to_svg(figure, name=name, title=title, description=words)


def _draw_interval(axes: Axes, row: Interval, *, y: float, size: float = 7) -> None:
    if not math.isfinite(row.mean):
        return
    color = INK if row.series is None else SERIES_COLORS[row.series]
    marker = "o" if row.series is None else SERIES_MARKERS[row.series]
    if math.isfinite(row.low) and math.isfinite(row.high):
        axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.6, marker="|", markersize=size)
    axes.plot(
        row.mean, y, marker=marker, markersize=size, color=PAPER if row.series is None else color,
        markeredgecolor=color, markeredgewidth=1.4, clip_on=False,
    )  # fmt: skip


def _finish_value_axis(axes: Axes, rows: Sequence[Interval], *, label: str) -> None:
    """From zero (or across it) to the widest whisker, with light grid lines."""
    ends = [end for row in rows for end in (row.mean, row.low, row.high) if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.04 * (high - low) or 1.0
    axes.set_xlim(low - room if low < 0 else 0.0, high + room if high > 0 or low == 0 else 0.0)
    axes.grid(axis="x")
    if low < 0:
        axes.axvline(0, color=INK, linewidth=1)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(length=0, pad=8)
    axes.spines["left"].set_visible(low == 0)
    axes.set_xlabel(printable(label, width=48), loc="right")


def _in_words(rows: Sequence[Interval]) -> str:
    """The rows as a sentence, for screen readers."""
    parts = []
    for row in rows:
        part = f"{row.label}: {format_figure(row.mean) if is_finite(row.mean) else 'undefined'}"
        if is_finite(row.low) and is_finite(row.high):
            part += f", interval {format_figure(row.low)} to {format_figure(row.high)}"
        parts.append(part)
    return "; ".join(parts)
