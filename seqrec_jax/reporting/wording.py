"""Figures, intervals, counts and names as text, the same way on a page, in a chart and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def is_finite(value: Any) -> bool:
    """Whether the value is a number, and neither infinite nor nan.

    >>> is_finite(0.1), is_finite(None), is_finite(float("nan"))
    (True, False, False)
    """
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any) -> float:
    """The value as a float, nan for anything that is no finite number.

    >>> number(3), number(None)
    (3.0, nan)
    """
    return float(value) if is_finite(value) else math.nan


def format_figure(value: Any, *, signed: bool = False) -> str:
    """A figure as text: four decimals below 10, fewer above, none for a whole number; a dash where it is undefined.

    >>> format_figure(0.05172), format_figure(-0.0123, signed=True), format_figure(12345), format_figure(None)
    ('0.0517', '−0.0123', '12,345', '–')
    """
    if not is_finite(value):
        return "–"
    decimals = 4 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    if isinstance(value, Integral):
        decimals = 0
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", "−")


def format_interval(row: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """`[low, high]` as text, empty where an end is undefined.

    >>> format_interval({"low": 0.05, "high": 0.06})
    '[0.0500, 0.0600]'
    """
    if not row or not (is_finite(row.get("low")) and is_finite(row.get("high"))):
        return ""
    return f"[{format_figure(row['low'], signed=signed)}, {format_figure(row['high'], signed=signed)}]"


def format_p(value: Any) -> str:
    """A p-value as text.

    >>> format_p(0.0321), format_p(1e-9), format_p(None)
    ('0.032', '< 0.001', '–')
    """
    return "–" if not is_finite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_count(value: Any) -> str:
    """A whole number as text.

    >>> format_count(22363), format_count(None)
    ('22,363', '–')
    """
    return f"{value:,.0f}" if is_finite(value) else "–"


def format_percent(value: Any, *, signed: bool = False) -> str:
    """A share in [0, 1] as a percentage.

    >>> format_percent(0.07), format_percent(-0.31, signed=True)
    ('7.0 %', '−31 %')
    """
    if not is_finite(value):
        return "–"
    return f"{100 * value:{'+' if signed else ''}.{1 if abs(value) < 0.1 else 0}f} %".replace("-", "−")


def shorten(value: Any, width: int = 120) -> str:
    """The value as text of at most `width` characters, the last an ellipsis where something was cut.

    >>> shorten("most popular", 8), shorten(None)
    ('most po…', '–')
    """
    text = "–" if value is None else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def sentence(text: Any) -> str:
    """The text with a capital at its start and a full stop at its end.

    >>> sentence("the margin is not reached"), sentence("Is it?")
    ('The margin is not reached.', 'Is it?')
    """
    words = str(text).strip()
    return words[:1].upper() + words[1:] + ("" if not words or words.endswith((".", "!", "?", "…")) else ".")


def join_names(names: Sequence[str]) -> str:
    """At most four names as one phrase.

    >>> join_names(["a"]), join_names(["a", "b", "c"]), join_names(list("abcdef"))
    ('a', 'a, b and c', 'a, b, c, d and 2 more')
    """
    shown = list(names[:4]) + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return str(shown[0]) if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
