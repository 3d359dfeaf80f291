"""Sections of a report as plain JSON values: a few sentences, tables, bars, curves and points.

A section is `{"key", "title", "summary", "blocks"}`. Blocks are made by `table`, `bars`, `curve` and `points`; the page
and the terminal draw them without knowing what they are about. nan and infinity become None, which JSON can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from seqrec_jax.errors import DataError

Section = dict[str, Any]
"""`key`, `title`, `summary` and `blocks`, as `section` makes it."""
Block = dict[str, Any]
"""`kind`, `title`, `note` and the values of its kind, as `table`, `bars`, `curve` and `points` make it."""


def section(key: str, title: str, summary: str, blocks: Sequence[Block]) -> Section:
    """A part of the report.

    Args:
      key: short name in snake case, unique in a report; the anchor of the section.
      title: heading.
      summary: what the blocks show, in one to three sentences; it must make sense without them.
      blocks: charts and tables in the order in which they are shown.

    Returns:
      The section.
    """
    return {"key": key, "title": title, "summary": summary, "blocks": list(blocks)}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, note: str = "") -> Block:
    """A table.

    Args:
      title: heading.
      columns: heading of each column.
      rows: a cell a column: a text, a number, None, or `{"mean", "low", "high"}` for a figure with its interval.
      note: sentences below the table.

    Raises:
      DataError: a row with another number of cells than there are columns.

    >>> table("who", ["user", "rank"], [["anna", 1]])
    {'kind': 'table', 'title': 'who', 'columns': ['user', 'rank'], 'rows': [['anna', 1]], 'note': ''}
    """
    for row in rows:
        if len(row) != len(columns):
            raise DataError(f"table {title!r} has {len(columns)} columns, a row has {len(row)} cells: {list(row)}")
    return {"kind": "table", "title": title, "columns": list(columns), "rows": plain(rows), "note": note}


def bars(title: str, label: str, rows: Sequence[Mapping[str, Any]], *, note: str = "") -> Block:
    """A bar chart, one bar a row.

    Args:
      title: heading.
      label: of the axis of figures.
      rows: `{"name", "mean"}`, with `low` and `high` where there is an interval.
      note: sentences below the chart.
    """
    return {"kind": "bars", "title": title, "label": label, "rows": plain(rows), "note": note}


def curve(
    title: str,
    *,
    x_label: str,
    y_label: str,
    series: Sequence[Mapping[str, Any]],
    log_x: bool = False,
    note: str = "",
) -> Block:
    """A line chart.

    Args:
      title: heading.
      x_label: of the horizontal axis.
      y_label: of the values.
      series: one line each: `{"name", "x", "y"}`, with `low` and `high` where there are intervals. `x` holds numbers or
        names of places.
      log_x: whether the horizontal axis is logarithmic.
      note: sentences below the chart.

    Raises:
      DataError: a series whose lists differ in length.
    """
    _check_lengths(title, series)
    labels = {"x_label": x_label, "y_label": y_label, "log_x": log_x}
    return {"kind": "curve", "title": title, **labels, "series": plain(series), "note": note}


def points(title: str, *, x_label: str, y_label: str, groups: Sequence[Mapping[str, Any]], note: str = "") -> Block:
    """A scatter plot.

    Args:
      title: heading.
      x_label: of the horizontal axis.
      y_label: of the vertical axis.
      groups: points of one colour each: `{"name", "x", "y"}`, with `labels` where points have names of their own.
      note: sentences below the chart.

    Raises:
      DataError: a group whose lists differ in length.
    """
    _check_lengths(title, groups)
    return {
        "kind": "points",
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "groups": plain(groups),
        "note": note,
    }


def plain(value: Any) -> Any:
    """The value in JSON's own types: arrays and tuples as lists, NumPy's numbers as Python's, nan and infinity as None.

    Raises:
      DataError: a value of another type.

    >>> import numpy as np
    >>> plain({"a": np.array([1.5, np.nan]), "b": (np.int64(3), "x")})
    {'a': [1.5, None], 'b': [3, 'x']}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # arrays and NumPy's booleans
        return plain(value.tolist())
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    raise DataError(f"{value!r} of type {type(value).__name__} has no form in JSON; pass numbers, texts and lists")


def _check_lengths(title: str, series: Sequence[Mapping[str, Any]]) -> None:
    for line in series:
        lengths = {name: len(line[name]) for name in ("x", "y", "low", "high", "labels") if line.get(name) is not None}
        if len(set(lengths.values())) != 1:
            raise DataError(f"{title!r}: the lists of {line.get('name')!r} differ in length: {lengths}")
