"""Charts of lines with bands, of clouds of points, and of a value by training step, as small SVG drawings.

How a drawing gets the page's colours and stays the same every time is in `svg.py`; dots with intervals are in
`charts.py`. Each chart says in words what it shows, and the page puts its numbers beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from seqrec_jax.errors import ConfigError
from seqrec_jax.reporting.svg import (
    INK,
    SERIES_COLORS,
    SERIES_MARKERS,
    SERIES_SIGNS,
    load_extra,
    new_figure,
    page_style,
    printable,
    to_svg,
)
from seqrec_jax.reporting.wording import format_figure, is_finite, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 300  # of a curve
_MAX_LABELS, _LABEL_SIZE = 16, 8.5  # of the points of a cloud


class Curve(NamedTuple):
    """Values by training step, ready to draw.

    Attributes:
      name: what the values are.
      steps: `[N]` increasing.
      values: `[N]`, nan where undefined.
      best: index of the best point; None marks no point.
      averaged: number of rows of the log that each point averages.
      words: the curve in one sentence.
    """

    name: str
    steps: list[float]
    values: list[float]
    best: int | None
    averaged: int
    words: str


class Line(NamedTuple):
    """One line of a curve chart or one group of a scatter plot; values that are not finite are not drawn.

    Attributes:
      name: of the line.
      x: `[N]` places, increasing for a line.
      y: `[N]` values.
      low: `[N]` lower ends of the intervals; empty where there are none.
      high: `[N]` upper ends.
      labels: `[N]` names of the points; empty where they have none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()


def curve_chart(
    lines: Sequence[Line],
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    ticks: Sequence[str] = (),
) -> str:
    """Lines over a number, with their intervals as bands.

    Args:
      lines: at most as many as there are `SERIES_SIGNS`.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      x_label: of the axis below.
      y_label: of the values, written above the chart.
      log_x: space the places by their logarithm; zero and below are then drawn on a linear piece.
      ticks: names of the places 0, 1, …; empty where the places are numbers.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
      ConfigError: no lines, too many of them, or nothing finite in any.
    """
    _check_lines(lines, name)
    with page_style():
        figure, axes = new_figure(height=2.7)
        for line, color, marker in zip(lines, SERIES_COLORS, SERIES_MARKERS, strict=False):
            if len(line.low) == len(line.high) == len(line.x) > 1:
                axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.18, linewidth=0)
            elif len(line.low) == len(line.high) == len(line.x):
                axes.plot([line.x[0]] * 2, [line.low[0], line.high[0]], color=color, linewidth=1.6)
            every = max(1, len(line.x) // 10)
            axes.plot(line.x, line.y, color=color, linewidth=1.6, marker=marker, markersize=4, markevery=every)
        ends = [end for line in lines for end in (*line.y, *line.low, *line.high) if is_finite(end)]
        if starts_at_zero(ends):
            axes.set_ylim(bottom=0)
        elif min(ends) < 0 < max(ends):
            axes.axhline(0, color=INK, linewidth=0.8)
        _finish_curve_axes(axes, x_label=x_label, y_label=y_label)
        places = sorted({place for line in lines for place in line.x if is_finite(place)})
        if ticks:
            shown = places if len(places) <= 5 else [places[round(part * (len(places) - 1) / 4)] for part in range(5)]
            axes.set_xticks(shown, [printable(ticks[int(place)], width=12) for place in shown])
        elif log_x:
            _use_logarithm(axes, places)
        return to_svg(figure, name=name, title=title, description=". ".join(map(_line_in_words, lines)))


def points_chart(groups: Sequence[Line], *, name: str, title: str, x_label: str, y_label: str) -> str:
    """A scatter plot with one sign and colour a group; labels are written where there are few points.

    Args:
      groups: at most as many as there are `SERIES_SIGNS`.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      x_label: of the axis below.
      y_label: of the other axis, written above the chart.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
      ConfigError: no groups, too many of them, or nothing finite in any.
    """
    _check_lines(groups, name)
    total = sum(len(group.x) for group in groups)
    size = 6.5 if total <= 60 else 3.6
    with page_style():
        figure, axes = new_figure(height=3.2)
        for group, color, marker in zip(groups, SERIES_COLORS, SERIES_MARKERS, strict=False):
            axes.plot(
                group.x, group.y, linestyle="", marker=marker, markersize=size, color=color,
                alpha=0.8, markeredgewidth=0,
            )  # fmt: skip
        axes.margins(0.08)
        _finish_curve_axes(axes, x_label=x_label, y_label=y_label)
        labelled = [
            (x, y, str(label))
            for group in groups
            for x, y, label in zip(group.x, group.y, group.labels, strict=False)
            if is_finite(x) and is_finite(y)
        ]
        if total <= _MAX_LABELS:
            _write_labels(axes, labelled)
            words = "; ".join(f"{label}: {format_figure(x)} and {format_figure(y)}" for x, y, label in labelled)
        else:
            words = ""
        counts = "; ".join(f"{group.name}: {len(group.x):,} points" for group in groups)
        description = f"{y_label} over {x_label}. {counts}" + (f". {words}" if words else "")
        return to_svg(figure, name=name, title=title, description=description)


def starts_at_zero(values: Sequence[float]) -> bool:
    """Whether a curve's axis starts at zero: nothing is negative and zero is not far from the values.

    >>> starts_at_zero([0.2, 0.5]), starts_at_zero([0.90, 0.95]), starts_at_zero([-1.0, 1.0])
    (True, False, False)
    """
    return bool(values) and 0 <= min(values) <= 0.6 * max(values)


def line_chart(curve: Curve, *, name: str) -> str:
    """A curve over training steps; undefined points break the line, a ring marks the best.

    Args:
      curve: from `training_curve`.
      name: prefix of the ids, unique on the page.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
    """
    steps, values = curve.steps, curve.values
    with page_style():
        figure, axes = new_figure(height=2.6)
        marker = "o" if len(steps) <= 40 else ""
        axes.plot(steps, values, color=SERIES_COLORS[0], linewidth=1.6, marker=marker, markersize=3)
        if curve.best is not None:
            axes.plot(
                steps[curve.best], values[curve.best], marker="o", markersize=9, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=1.4, clip_on=False,
            )  # fmt: skip
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set_xlabel("training step")
        axes.set_title(printable(curve.name, width=50), loc="left", fontsize=10, color=INK)
        return to_svg(figure, name=name, title=f"{curve.name} by training step", description=curve.words)


def training_curve(
    points: Mapping[int, float | None], *, name: str, best: Literal["highest", "lowest"] | None = None
) -> Curve | None:
    """Order the points of a training log and thin them to a few hundred by averaging neighbours.

    Args:
      points: value by step; values that are not finite are gaps.
      name: what the values are.
      best: which point is marked with a ring; None for none.

    Returns:
      The curve, or None where no value is finite.

    >>> training_curve({20: 0.3, 10: 0.1}, name="ndcg@10", best="highest").words
    '2 points; first 0.1000, last 0.3000, best 0.3000 at step 20 (ring).'
    """
    steps: list[float] = sorted(points)
    values = [number(points[step]) for step in sorted(points)]
    finite = [place for place, value in enumerate(values) if is_finite(value)]
    if not finite:
        return None
    words = f"{len(steps):,} points; first {format_figure(values[0])}, last {format_figure(values[-1])}"
    share, ring = -(-len(steps) // MAX_POINTS), None
    if best is not None:
        ring = (max if best == "highest" else min)(finite, key=lambda place: values[place])
        words += f", best {format_figure(values[ring])} at step {steps[ring]:,}"
        words += " (ring)" if share == 1 else ""
    if share > 1:
        ring, starts = None, range(0, len(steps), share)
        steps = [steps[min(start + share, len(steps)) - 1] for start in starts]
        values = [sum(part) / len(part) for part in (values[start : start + share] for start in starts)]
    return Curve(name, steps, values, ring, share, words + ".")


def _check_lines(lines: Sequence[Line], name: str) -> None:
    if not 1 <= len(lines) <= len(SERIES_SIGNS):
        raise ConfigError(f"chart {name!r}: expected 1 to {len(SERIES_SIGNS)} lines or groups, got {len(lines)}")
    if not any(is_finite(x) and is_finite(y) for line in lines for x, y in zip(line.x, line.y, strict=True)):
        raise ConfigError(f"chart {name!r}: no point of it is finite; leave it out")


def _finish_curve_axes(axes: Axes, *, x_label: str, y_label: str) -> None:
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.locator_params(nbins=5)
    axes.xaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_major_formatter(_plain_number)
    axes.set_xlabel(printable(x_label, width=44))
    axes.set_title(printable(y_label, width=50), loc="left", fontsize=10, color=INK)


def _plain_number(value: float, _: object = None) -> str:
    return f"{value:,g}".replace("-", "−")


def _use_logarithm(axes: Axes, places: Sequence[float]) -> None:
    """A logarithmic axis with ticks at the places themselves where they are few and round, else at 1, 10, 100, …"""
    ticker = load_extra("matplotlib.ticker")
    largest = max(map(abs, places))
    smallest = max(min((place for place in places if place > 0), default=1.0), 1e-6 * largest)
    if places[0] > 0:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=smallest)
    if len(places) <= 7 and all(len(_plain_number(place)) <= 4 for place in places):
        axes.xaxis.set_major_locator(ticker.FixedLocator(list(places)))
    elif places[0] > 0 and places[-1] < 1000 * places[0]:
        few = places[-1] > 100 * places[0]
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0) if few else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(_plain_number)


def _write_labels(axes: Axes, labelled: Sequence[tuple[float, float, str]]) -> None:
    """Each label right, left, above or below its point: the first place where it meets no other."""
    width, height = 270.0, 165.0  # of the axes in points, nearly
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    at = [((x - left) / (right - left) * width, (y - bottom) / (top - bottom) * height) for x, y, _ in labelled]
    taken = [(x - 4, x + 4, y - 4, y + 4) for x, y in at]
    for (x, y), (x_value, y_value, label) in zip(at, labelled, strict=True):
        text = printable(label, width=20)
        reach = 0.56 * _LABEL_SIZE * len(text)
        for dx, dy, align in ((7, 0, "left"), (-7, 0, "right"), (0, 10, "center"), (0, -10, "center"), (7, 9, "left")):
            start = x + dx - {"left": 0.0, "right": reach, "center": reach / 2}[align]
            box = (start, start + reach, y + dy - 5, y + dy + 5)
            free = all(
                box[1] < other[0] or box[0] > other[1] or box[3] < other[2] or box[2] > other[3] for other in taken
            )
            if free and box[0] > -8 and box[1] < width + 8:
                break
        taken.append(box)
        axes.annotate(
            text, (x_value, y_value), xytext=(dx, dy), textcoords="offset points", ha=align, va="center",
            fontsize=_LABEL_SIZE, color=INK,
        )  # fmt: skip


def _line_in_words(line: Line) -> str:
    """First, last, lowest and highest value, for screen readers."""
    ends = [(x, y) for x, y in zip(line.x, line.y, strict=True) if is_finite(x) and is_finite(y)]
    if not ends:
        return f"{line.name}: undefined"
    (_, first), (_, last) = ends[0], ends[-1]
    values = [y for _, y in ends]
    return (
        f"{line.name}: {len(ends):,} points from {format_figure(first)} to {format_figure(last)}, "
        f"lowest {format_figure(min(values))}, highest {format_figure(max(values))}"
    )
