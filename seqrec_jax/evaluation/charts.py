"""The report's charts: small SVG drawings that take their colours from the page and are the same every time.

Matplotlib draws with placeholder colours; afterwards these become CSS variables (`--series-0`, …) and
`currentColor`, so that one drawing serves the light page, the dark page and paper. Text stays text, ids are
numbered within each chart, and each chart says in words what it shows.
"""

from __future__ import annotations

import importlib
import io
import math
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from numbers import Real
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from seqrec_jax.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES_SIGNS = ("●", "■", "▲", "◆", "▼", "✚")
"""The sign of each series as text, for legends; the page names its colours `--series-0`, `--series-1`, …"""

_SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
_INK, _MUTED, _LINE, _PAPER = "#fe0000", "#fe0001", "#fe0002", "#fe0003"
_SERIES = tuple(f"#fe001{number}" for number in range(len(SERIES_SIGNS)))
_CSS_COLORS = {_INK: "currentColor", _MUTED: "var(--muted)", _LINE: "var(--line)", _PAPER: "var(--card)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(_SERIES)
}
_MAX_POINTS = 300  # of a curve
_WIDTH_INCHES = 4.7  # 338 units: one to one on a phone, half a page wide on a desk
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqrec_jax",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}


class Interval(NamedTuple):
    """One row of a dot plot: a label and a figure with its interval.

    `series` picks colour and sign (index into `SERIES_SIGNS`); None draws a hollow dot in the text's colour.
    A figure that is not finite leaves the row empty; an interval that is not finite leaves out the whiskers.
    """

    label: str
    mean: float
    low: float
    high: float
    series: int | None = None


class Curve(NamedTuple):
    """Values by training step, ready to draw.

    Attributes:
      name: what the values are.
      steps: `[N]` increasing.
      values: `[N]`, nan where undefined.
      best: index of the best point, None if that is not asked.
      averaged: how many rows of the log each point averages.
      words: the curve in one sentence.
    """

    name: str
    steps: list[float]
    values: list[float]
    best: int | None
    averaged: int
    words: str


def is_finite(value: Any) -> bool:
    """Whether the value is a number, and neither infinite nor nan.

    >>> is_finite(0.1), is_finite(None), is_finite(float("nan"))
    (True, False, False)
    """
    return isinstance(value, Real) and math.isfinite(value)


def format_figure(value: Any, *, signed: bool = False) -> str:
    """A figure as text: four decimals below 10, fewer above; a dash where it is undefined.

    >>> format_figure(0.05172), format_figure(-0.0123, signed=True), format_figure(None)
    ('0.0517', '−0.0123', '–')
    """
    if not is_finite(value):
        return "–"
    decimals = 4 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", "−")


def load_extra(module: str) -> ModuleType:
    """Import a module of the extra `report`, or say how to install it.

    Args:
      module: name of a module that comes with the extra, such as `matplotlib.figure`.

    Returns:
      The module.

    Raises:
      MissingExtraError: it is not installed.

    >>> load_extra("jinja2").__name__
    'jinja2'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"the report needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            'install it with: pip install "seqrec_jax[report]"'
        ) from error


def interval_chart(rows: Sequence[Interval], *, name: str, title: str, label: str, signed: bool = False) -> str:
    """Dots with interval whiskers, one row each with its value, on an axis that always holds zero.

    Args:
      rows: top to bottom.
      name: prefix of the ids, unique on the page.
      title: what the chart shows, for screen readers.
      label: of the axis.
      signed: write a plus before positive values.

    Returns:
      An `<svg>` element for an HTML page.

    Raises:
      MissingExtraError: matplotlib is not installed.
      ConfigError: no rows.
    """
    if not rows:
        raise ConfigError(f"chart {name!r}: expected at least one row, got none")
    with _style():
        figure, axes = _figure(height=0.75 + 0.3 * len(rows))
        for place, row in enumerate(rows):
            _draw_interval(axes, row, y=place)
            text = format_figure(row.mean, signed=signed) if is_finite(row.mean) else "undefined"
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5)
        axes.set_yticks(range(len(rows)), [_plain(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _finish_value_axis(axes, rows, label=label)
        return _to_svg(figure, name=name, title=title, description=_in_words(rows))


def grouped_chart(groups: Sequence[tuple[str, Sequence[Interval]]], *, name: str, title: str, label: str) -> str:
    """Dots with interval whiskers for several series within each group, such as systems within a slice.

    Args:
      groups: top to bottom, each a label (may have two lines) and its rows.
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
    with _style():
        figure, axes = _figure(height=0.75 + 0.13 * step * len(groups))
        for number, (_, rows) in enumerate(groups):
            first = number * step + (step - 1 - len(rows)) / 2
            for place, row in enumerate(rows):
                _draw_interval(axes, row, y=first + place, size=5)
            if number:
                axes.axhline(number * step - 1, color=_LINE, linewidth=0.8)
        centres = [number * step + (step - 2) / 2 for number in range(len(groups))]
        axes.set_yticks(centres, ["\n".join(map(_plain, text.split("\n"))) for text, _ in groups])
        axes.set_ylim(len(groups) * step - 1, -1)
        _finish_value_axis(axes, [row for _, rows in groups for row in rows], label=label)
        words = ". ".join(f"{text.replace(chr(10), ', ')}: {_in_words(rows)}" for text, rows in groups)
        return _to_svg(figure, name=name, title=title, description=words)


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
    with _style():
        figure, axes = _figure(height=2.6)
        marker = "o" if len(steps) <= 40 else ""
        axes.plot(steps, values, color=_SERIES[0], linewidth=1.6, marker=marker, markersize=3)
        if curve.best is not None:
            axes.plot(
                steps[curve.best], values[curve.best], marker="o", markersize=9, markerfacecolor="none",
                markeredgecolor=_INK, markeredgewidth=1.4, clip_on=False,
            )  # fmt: skip
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set_xlabel("training step")
        axes.set_title(_plain(curve.name, width=50), loc="left", fontsize=10, color=_INK)
        return _to_svg(figure, name=name, title=f"{curve.name} by training step", description=curve.words)


def training_curve(
    points: Mapping[int, float], *, name: str, best: Literal["highest", "lowest"] | None = None
) -> Curve | None:
    """Order the points of a training log and thin them to a few hundred by averaging neighbours.

    Args:
      points: value by step; values that are not finite are gaps.
      name: what the values are.
      best: which point to point out.

    Returns:
      The curve, or None where no value is finite.

    >>> training_curve({20: 0.3, 10: 0.1}, name="ndcg@10", best="highest").words
    '2 points; first 0.1000, last 0.3000, best 0.3000 at step 20 (ring).'
    """
    steps: list[float] = sorted(points)
    values = [float(points[step]) if is_finite(points[step]) else math.nan for step in sorted(points)]
    finite = [place for place, value in enumerate(values) if is_finite(value)]
    if not finite:
        return None
    words = f"{len(steps):,} points; first {format_figure(values[0])}, last {format_figure(values[-1])}"
    share, ring = -(-len(steps) // _MAX_POINTS), None
    if best is not None:
        ring = (max if best == "highest" else min)(finite, key=lambda place: values[place])
        words += f", best {format_figure(values[ring])} at step {steps[ring]:,}"
        words += " (ring)" if share == 1 else ""
    if share > 1:
        ring, starts = None, range(0, len(steps), share)
        steps = [steps[min(start + share, len(steps)) - 1] for start in starts]
        values = [sum(part) / len(part) for part in (values[start : start + share] for start in starts)]
    return Curve(name, steps, values, ring, share, words + ".")


def _style() -> AbstractContextManager[None]:
    """A context with the charts' own settings, whatever the user's matplotlibrc says."""
    matplotlib = load_extra("matplotlib")
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": matplotlib.rcParams["backend"]})


def _figure(*, height: float) -> tuple[Figure, Axes]:
    figure = load_extra("matplotlib.figure").Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_interval(axes: Axes, row: Interval, *, y: float, size: float = 7) -> None:
    if not math.isfinite(row.mean):
        return
    color = _INK if row.series is None else _SERIES[row.series]
    marker = "o" if row.series is None else _SERIES_MARKERS[row.series]
    if math.isfinite(row.low) and math.isfinite(row.high):
        axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.6, marker="|", markersize=size)
    axes.plot(
        row.mean, y, marker=marker, markersize=size, color=_PAPER if row.series is None else color,
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
        axes.axvline(0, color=_INK, linewidth=1)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(length=0, pad=8)
    axes.spines["left"].set_visible(low == 0)
    axes.set_xlabel(_plain(label, width=60))


def _in_words(rows: Sequence[Interval]) -> str:
    """The rows as a sentence, for readers who do not see them."""
    parts = []
    for row in rows:
        part = f"{row.label}: {format_figure(row.mean) if is_finite(row.mean) else 'undefined'}"
        if is_finite(row.low) and is_finite(row.high):
            part += f", interval {format_figure(row.low)} to {format_figure(row.high)}"
        parts.append(part)
    return "; ".join(parts)


def _plain(text: str, *, width: int = 22) -> str:
    """Printable characters only, and no more of them than the chart has room for."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _to_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The reader's fonts draw the text, so glyphs that matplotlib's own font lacks do not matter.
        warnings.filterwarnings("ignore", message=r"(?s).*[Gg]lyph.*missing", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"(?s).*does not support", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = ElementTree.fromstring(buffer.getvalue())
    for parent in drawing.iter():
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    used = [value for node in drawing.iter() for value in node.attrib.values() if "#" in value]
    ids: dict[str, str] = {}
    for node in drawing.iter():
        node.tag = node.tag.rpartition("}")[2]
        found = node.attrib.pop("id", None)
        if found and any(value in (f"#{found}", f"url(#{found})") for value in used):
            ids[found] = node.attrib["id"] = f"{name}-{len(ids) + 1}"
        if "style" in node.attrib:
            node.attrib["style"] = _themed(node.attrib["style"])
        node.text, node.tail = (part if part and part.strip() else None for part in (node.text, node.tail))
    for node in drawing.iter():
        for key, value in list(node.attrib.items()):
            if key.endswith("href"):
                del node.attrib[key]
                node.attrib["href"] = f"#{ids[value[1:]]}"
            elif value.startswith("url(#"):
                node.attrib[key] = f"url(#{ids[value[5:-1]]})"
    drawing.attrib = {
        "viewBox": drawing.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-description",
    }
    for tag, text in (("desc", description), ("title", title)):
        node = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        node.text = "".join(letter if letter.isprintable() else " " for letter in text)
        drawing.insert(0, node)
    return ElementTree.tostring(drawing, encoding="unicode")


def _themed(style: str) -> str:
    """One style attribute with CSS colours for the placeholders and the page's font."""
    declarations = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":  # size, then matplotlib's list of families
            size = next(part for part in value.split() if part.endswith("px"))
            key, value = "font-size", size
        if key and key != "font-family":
            declarations.append(f"{key}:{_CSS_COLORS.get(value, value)}")
    return ";".join(declarations)
