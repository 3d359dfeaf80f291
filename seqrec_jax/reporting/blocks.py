"""Blocks of a section (see `sections.py`) as drawings: a chart with its numbers as a table beside it, or a table.

What a block is about does not matter here. Every chart comes with a table of its numbers and a description in words.
A caption or note states what was cut, thinned or is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from seqrec_jax.errors import DataError
from seqrec_jax.reporting.charts import Interval, interval_chart
from seqrec_jax.reporting.curves import MAX_POINTS, Line, curve_chart, points_chart, starts_at_zero
from seqrec_jax.reporting.svg import SERIES_SIGNS, printable
from seqrec_jax.reporting.wording import format_count, format_figure, format_interval, is_finite, number, shorten

MAX_ROWS = 30  # of a table, and of a chart with a row an entry
MAX_COLUMNS = 16  # of a table
_MAX_CLOUD = 500  # points of all groups
_MAX_DRAWN = 720  # points of all lines
_LONGEST_TEXT, _LONGEST_NOTE = 160, 1500
_NEEDED = {
    "table": ("title", "columns", "rows"),
    "bars": ("title", "label", "rows"),
    "curve": ("title", "x_label", "y_label", "series"),
    "points": ("title", "x_label", "y_label", "groups"),
}


class Cell(NamedTuple):
    """One cell as text, and the interval of a figure that has one."""

    text: str
    interval: str = ""


class Numbers(NamedTuple):
    """A table ready to be written.

    Attributes:
      columns: headings.
      right: whether each column holds numbers only and is aligned right.
      rows: one cell a column; the first cell is the row's heading.
      cut: a sentence on what the table leaves out; empty where it holds everything.
    """

    columns: list[str]
    right: list[bool]
    rows: list[list[Cell]]
    cut: str


class Drawing(NamedTuple):
    """A block ready to be put on the page.

    Attributes:
      title: heading.
      svg: the chart; empty for a table, and for a chart in which nothing is defined.
      caption: what the chart leaves out and how to read it; may be empty.
      legend: (series, sign, name) of each series; empty for one series.
      note: the block's own note; may be empty.
      numbers: the table, or the numbers of the chart.
      wide: whether it takes the width of the page.
    """

    title: str
    svg: str
    caption: str
    legend: list[tuple[int, str, str]]
    note: str
    numbers: Numbers
    wide: bool


def check_block(block: Any, where: str) -> None:
    """Raise a DataError, which names `where`, unless `block` is a block.

    Raises:
      DataError: no mapping, an unknown kind, or a missing key.
    """
    kind = block.get("kind") if isinstance(block, Mapping) else None
    if kind not in _NEEDED:
        raise DataError(f"{where}: a block's kind is one of {list(_NEEDED)}, found {kind!r}; make it with sections.py")
    missing = [key for key in _NEEDED[kind] if key not in block]
    if missing:
        raise DataError(f"{where}: the block of kind {kind} misses {missing}, found {sorted(block)}")


def draw_block(block: Mapping[str, Any], *, name: str) -> Drawing:
    """A block as chart and table.

    Args:
      block: made by `table`, `bars`, `curve` or `points`, perhaps read back from JSON.
      name: prefix of the chart's ids, unique on the page.

    Returns:
      The drawing; at most `MAX_ROWS` rows of its numbers and 500 of its points.

    Raises:
      DataError: not a block.
      MissingExtraError: a chart, and matplotlib is not installed.
    """
    check_block(block, name)
    draw: Callable[[Mapping[str, Any], str], Drawing] = {
        "table": _table, "bars": _bars, "curve": _curve, "points": _points,
    }[block["kind"]]  # fmt: skip
    return draw(block, name)


def _table(block: Mapping[str, Any], name: str) -> Drawing:
    numbers = tabulate(block["columns"], block["rows"])
    return _drawing(block, numbers=numbers, wide=len(numbers.columns) > 4)


def _bars(block: Mapping[str, Any], name: str) -> Drawing:
    rows = block["rows"]
    intervals = [
        Interval(str(row["name"]), number(row.get("mean")), number(row.get("low")), number(row.get("high")), series=0)
        for row in rows[:MAX_ROWS]
    ]
    numbers = tabulate(["", block["label"]], [[row["name"], dict(row)] for row in rows])
    if not any(is_finite(row.mean) for row in intervals):
        return _drawing(block, numbers=numbers)
    svg = interval_chart(intervals, name=name, title=str(block["title"]), label=str(block["label"]), bars=True)
    whiskers = any(is_finite(row.low) and is_finite(row.high) for row in intervals)
    caption = _sentences(
        "Whiskers: 95 % intervals." if whiskers else "",
        f"The first {MAX_ROWS} of {len(rows):,} bars." if len(rows) > MAX_ROWS else "",
    )
    return _drawing(block, svg=svg, caption=caption, numbers=numbers)


def _curve(block: Mapping[str, Any], name: str) -> Drawing:
    series = block["series"]
    drawn, ticks = series[: len(SERIES_SIGNS)], _categories(series)
    most = min(MAX_POINTS, _MAX_DRAWN // max(1, len(drawn)))
    lines = [_line(entry, ticks, spread(len(entry["x"]), most)) for entry in drawn]
    numbers = _curve_numbers(block, series)
    if not _any_finite(lines):
        return _drawing(block, numbers=numbers)
    svg = curve_chart(
        lines, name=name, title=str(block["title"]), x_label=str(block["x_label"]), y_label=str(block["y_label"]),
        log_x=bool(block.get("log_x")) and not ticks, ticks=ticks,
    )  # fmt: skip
    longest = max(len(entry["x"]) for entry in drawn)
    ends = [end for line in lines for end in (*line.y, *line.low, *line.high) if is_finite(end)]
    caption = _sentences(
        "Bands: 95 % intervals." if any(line.low for line in lines) else "",
        "The vertical axis does not start at zero." if min(ends) > 0 and not starts_at_zero(ends) else "",
        "The horizontal axis is logarithmic." if block.get("log_x") and not ticks else "",
        f"{most} of {longest:,} points of a line, evenly spaced." if longest > most else "",
        f"The first {len(drawn)} of {len(series)} lines." if len(series) > len(drawn) else "",
    )
    return _drawing(block, svg=svg, caption=caption, legend=_legend(lines), numbers=numbers)


def _points(block: Mapping[str, Any], name: str) -> Drawing:
    groups = block["groups"]
    total = sum(len(group["x"]) for group in groups)
    rows = [
        [group["name"], *([label] if label is not None else [""]), x, y]
        for group in groups
        for x, y, label in zip(
            group["x"], group["y"], group.get("labels") or [None] * len(group["x"]), strict=True
        )
    ]  # fmt: skip
    columns = ["group", "point", block["x_label"], block["y_label"]]
    if not any(group.get("labels") for group in groups):
        rows, columns = [[row[0], *row[2:]] for row in rows], [columns[0], *columns[2:]]
    numbers = tabulate(columns, rows, evenly=True)
    clouds = []
    for group in groups:
        share = max(1, len(group["x"]) * _MAX_CLOUD // max(total, _MAX_CLOUD))
        clouds.append(_line(group, (), spread(len(group["x"]), share)))
    clouds = _at_most(clouds, len(SERIES_SIGNS))
    if not _any_finite(clouds):
        return _drawing(block, numbers=numbers)
    svg = points_chart(
        clouds, name=name, title=str(block["title"]), x_label=str(block["x_label"]), y_label=str(block["y_label"])
    )
    drawn = sum(len(cloud.x) for cloud in clouds)
    caption = f"{drawn:,} of {total:,} points, evenly chosen." if drawn < total else ""
    return _drawing(block, svg=svg, caption=caption, legend=_legend(clouds), numbers=numbers)


def tabulate(columns: Sequence[Any], rows: Sequence[Sequence[Any]], *, evenly: bool = False) -> Numbers:
    """Cells as text, cut to `MAX_ROWS` rows and `MAX_COLUMNS` columns.

    Args:
      columns: headings.
      rows: cells: a text, a number, None, or a mapping with `mean`, `low` and `high`.
      evenly: leave out rows evenly; otherwise the last ones.

    >>> tabulate(["who", "rank"], [["anna", 12], ["bert", None]]).rows[0]
    [Cell(text='anna', interval=''), Cell(text='12', interval='')]
    """
    chosen = spread(len(rows), MAX_ROWS) if evenly else range(min(len(rows), MAX_ROWS))
    kept = [list(rows[place])[:MAX_COLUMNS] for place in chosen]
    right = [
        any(_is_numeric(row[column]) for row in kept) and all(
            row[column] is None or _is_numeric(row[column]) for row in kept
        )
        for column in range(min(len(columns), MAX_COLUMNS))
    ]  # fmt: skip
    how = "evenly chosen" if evenly else "the first"
    cut = _sentences(
        f"{len(kept)} of {len(rows):,} rows, {how}." if len(rows) > len(kept) else "",
        f"{MAX_COLUMNS} of {len(columns)} columns." if len(columns) > MAX_COLUMNS else "",
    )
    headings = [shorten(column, 60) for column in columns[:MAX_COLUMNS]]
    return Numbers(headings, right, [[_cell(value) for value in row] for row in kept], cut)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to `count - 1`, evenly spaced, first and last among them.

    >>> spread(3, 5), spread(101, 5), spread(7, 1)
    ([0, 1, 2], [0, 25, 50, 75, 100], [0])
    """
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / max(1, most - 1)) for place in range(most)]


def _drawing(
    block: Mapping[str, Any],
    *,
    numbers: Numbers,
    svg: str = "",
    caption: str = "",
    legend: Sequence[tuple[int, str, str]] = (),
    wide: bool = False,
) -> Drawing:
    if not svg and block["kind"] != "table":
        caption = "Nothing is drawn, since no figure is defined."
    note = shorten(block.get("note") or "", _LONGEST_NOTE)
    note += "" if not note or note.endswith((".", "!", "?", "…")) else "."
    return Drawing(shorten(block["title"], 160), svg, caption, list(legend), note, numbers, wide)


def _curve_numbers(block: Mapping[str, Any], series: Sequence[Mapping[str, Any]]) -> Numbers:
    """A column a line where all have the same places and there are few lines, else a row a point."""

    def cells(entry: Mapping[str, Any]) -> list[Any]:
        if entry.get("low") is None or entry.get("high") is None:
            return list(entry["y"])
        ends = zip(entry["y"], entry["low"], entry["high"], strict=True)
        return [{"mean": mean, "low": low, "high": high} for mean, low, high in ends]

    x_label = str(block["x_label"])
    if series and len(series) < MAX_COLUMNS and all(entry["x"] == series[0]["x"] for entry in series):
        columns = [x_label, *(entry["name"] if len(series) > 1 else block["y_label"] for entry in series)]
        rows = zip(series[0]["x"], *(cells(entry) for entry in series), strict=True)
        return tabulate(columns, [[_place(row[0]), *row[1:]] for row in rows], evenly=True)
    rows_of_all = [
        [entry["name"], _place(x), y] for entry in series for x, y in zip(entry["x"], cells(entry), strict=True)
    ]
    return tabulate(["line", x_label, block["y_label"]], rows_of_all, evenly=True)


def _place(x: Any) -> Any:
    """A place on the axis in the form of the axis' own labels."""
    return f"{x:,g}".replace("-", "−") if is_finite(x) and not isinstance(x, bool) else x


def _categories(series: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the places in order of appearance; empty where all places are numbers."""
    places = [x for entry in series for x in entry["x"] if x is not None]
    return list(dict.fromkeys(map(str, places))) if any(isinstance(x, str) for x in places) else []


def _line(entry: Mapping[str, Any], ticks: Sequence[str], chosen: Sequence[int]) -> Line:
    def of(key: str) -> list[float]:
        values = entry.get(key)
        return [] if values is None else [number(values[place]) for place in chosen]

    x = of("x")
    if ticks:
        where = {tick: float(place) for place, tick in enumerate(ticks)}
        x = [where.get(str(entry["x"][place]), math.nan) for place in chosen]
    low, high = of("low"), of("high")
    if not (any(map(math.isfinite, low)) and any(map(math.isfinite, high))):
        low, high = [], []
    labels = entry.get("labels") or []
    return Line(
        printable(entry.get("name", ""), width=60), x, of("y"), low, high,
        [str(labels[place]) for place in chosen] if labels else [],
    )  # fmt: skip


def _at_most(clouds: list[Line], most: int) -> list[Line]:
    """The groups, the last ones merged into one where there are more than `most`."""
    if len(clouds) <= most:
        return clouds
    rest = clouds[most - 1 :]
    merged = Line(
        f"{len(rest)} more groups", [x for line in rest for x in line.x], [y for line in rest for y in line.y]
    )
    return [*clouds[: most - 1], merged]


def _legend(lines: Sequence[Line]) -> list[tuple[int, str, str]]:
    if len(lines) < 2:
        return []
    return [(place, sign, line.name) for place, (sign, line) in enumerate(zip(SERIES_SIGNS, lines, strict=False))]


def _any_finite(lines: Sequence[Line]) -> bool:
    return any(is_finite(x) and is_finite(y) for line in lines for x, y in zip(line.x, line.y, strict=True))


def _is_numeric(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> Cell:
    if isinstance(value, Mapping):
        return Cell(_figure(value.get("mean")), format_interval(value))
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int):
        return Cell(format_count(value).replace("-", "−"))
    return Cell(_figure(value) if isinstance(value, float) else shorten(value, _LONGEST_TEXT))


def _figure(value: Any) -> str:
    """A figure as `format_figure` writes it; one that would be written as 0.0000 in scientific notation instead."""
    if is_finite(value) and 1e-12 < abs(value) < 5e-5:
        return f"{value:.1e}".replace("-", "−")
    return format_figure(value)


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
