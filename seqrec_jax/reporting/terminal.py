"""Sections, tables and labelled sentences as text for a terminal, at most 120 characters wide where lines can break."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from seqrec_jax.reporting.sections import Section
from seqrec_jax.reporting.wording import shorten

WIDTH = 120
"""Characters of a line."""
_LABEL = 11  # width of the words at the left
_LONGEST_CELL = 60


def labelled(name: str, text: str) -> list[str]:
    """A word at the left and a text beside it, in as many lines as it takes.

    >>> labelled("users", "468 with 468 targets")
    ['users      468 with 468 targets']
    """
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{name:<{_LABEL}}", subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )


def section_table(section: Section) -> str:
    """The tables of one section, each below its title; charts are left out."""
    lines: list[str] = []
    for block in section["blocks"]:
        if block["kind"] == "table":
            rows = [[_cell(cell) for cell in row] for row in block["rows"]]
            lines += [block["title"], pd.DataFrame(rows, columns=block["columns"]).to_string(index=False), ""]
    return "\n".join(lines)


def frame_table(frame: pd.DataFrame, *, numbers: tuple[str, ...] = ()) -> str:
    """All rows of a table, with a heading.

    Args:
      frame: the table.
      numbers: columns of numbers; all others are written as text of at most 60 characters.
    """
    words = {name: _short for name in frame.columns if name not in numbers}
    return str(frame.to_string(index=False, formatters=words, float_format=lambda value: f"{value:.4f}"))


def interval_text(figure: Mapping[str, Any] | None, *, sign: str = "") -> str:
    """`mean [low, high]`; "undefined" for a mean that does not exist, nothing for no figure.

    >>> interval_text({"mean": 0.05, "low": 0.04, "high": 0.06}), interval_text(None)
    ('0.0500 [0.0400, 0.0600]', '')
    """
    if figure is None:
        return ""
    mean, low, high = (figure_text(figure[name], sign=sign) for name in ("mean", "low", "high"))
    return mean if figure["mean"] is None else f"{mean} [{low}, {high}]"


def figure_text(value: float | None, *, sign: str = "") -> str:
    """A figure with four decimals below 10 and one above.

    >>> figure_text(0.05172), figure_text(0.05172, sign="+"), figure_text(250.0), figure_text(None)
    ('0.0517', '+0.0517', '250.0', 'undefined')
    """
    if value is None:
        return "undefined"
    return f"{round(value, 4) + 0.0:{sign}.4f}" if abs(value) < 10 else f"{value:{sign},.1f}"


def _short(value: Any) -> str:
    return shorten(str(value), _LONGEST_CELL)


def _cell(cell: Any) -> str:
    """A table's cell as text."""
    if isinstance(cell, Mapping):
        return interval_text(cell)
    if cell is None:
        return "–"
    return figure_text(cell) if isinstance(cell, float) else _short(cell)
