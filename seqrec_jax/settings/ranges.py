"""Ranges and choices of values, checked in one dialect for fields of configurations and for arguments.

A field states its range in its type, `Annotated[float, Interval("(0, 1]")]`, and its choices as a `Literal`;
`check_fields` in `__post_init__` raises for a value outside. `check_value` and `check_choice` do so for arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from seqrec_jax.errors import ConfigError


class Interval:
    """The values that a number may take, in the notation of mathematics: `Interval("[0, 1)")`, `Interval("(0, inf)")`.

    A square bracket includes its end, a round one excludes it. nan is in no interval.

    >>> 0.5 in Interval("[0, 1)"), 1 in Interval("[0, 1)")
    (True, False)
    >>> print(Interval("[1, inf)"))
    at least 1
    """

    def __init__(self, notation: str):
        """Read the notation.

        Args:
          notation: a bracket, the lower end, a comma, the upper end and a bracket.
        """
        ends = notation[1:-1].split(",")
        self.low, self.high = (float(end) for end in ends)
        self._includes_low, self._includes_high = notation[0] == "[", notation[-1] == "]"
        self._low, self._high = (end.strip() for end in ends)

    def __contains__(self, value: Any) -> bool:
        above = self.low <= value if self._includes_low else self.low < value
        return bool(above and (value <= self.high if self._includes_high else value < self.high))

    def __str__(self) -> str:
        low = "at least" if self._includes_low else "greater than"
        if self.high == math.inf:
            return f"{low} {self._low}"
        if self._includes_low and self._includes_high:
            return f"from {self._low} to {self._high}"
        return f"{low} {self._low} and {'at most' if self._includes_high else 'less than'} {self._high}"

    def __repr__(self) -> str:
        ends = f"{'[' if self._includes_low else '('}{self._low}, {self._high}{']' if self._includes_high else ')'}"
        return f'Interval("{ends}")'


def check_value(name: str, value: object, interval: str) -> None:
    """Check the range of an argument.

    Args:
      name: the argument's name, for the message.
      value: the argument; None always passes.
      interval: the numbers that are allowed, such as `"[1, inf)"`.

    Raises:
      ConfigError: a number outside the interval, or something that is no number.
    """
    _check_number(name, value, Interval(interval))


def check_choice(name: str, value: object, choices: Any) -> None:
    """Check an argument with a fixed set of values.

    Args:
      name: the argument's name, for the message.
      value: the argument.
      choices: a `Literal` or a collection of the values that are allowed.

    Raises:
      ConfigError: a value that is not one of them.
    """
    names = get_args(choices) if get_origin(choices) is Literal else tuple(choices)
    if value not in names:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, names))}, got {value!r}")


def check_fields(config: Any, section: str) -> None:
    """Check every field of a dataclass against its `Interval` or its `Literal`.

    Each entry of a tuple and each value of a dictionary is checked; None passes where the type allows it.

    Args:
      config: an instance of a dataclass whose fields are annotated.
      section: the dotted name of the section that the message starts with, such as `training.loss`.

    Raises:
      ConfigError: the first value outside; the message names `section.field`, its range or choices, and the value.
    """
    for name, interval, choices in _checks(config.__class__):
        value = getattr(config, name)
        if value is None:
            continue
        for place, part in _parts(f"{section}.{name}", value):
            if choices:
                check_choice(place, part, choices)
            if interval is not None:
                _check_number(place, part, interval)


def _parts(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """A value with its name, or each value of a dictionary with its key, or each entry of a sequence."""
    if isinstance(value, dict):
        return [(f"{name}.{key}", part) for key, part in value.items()]
    return [(name, part) for part in (value if isinstance(value, (tuple, list)) else (value,))]


def _check_number(name: str, value: Any, interval: Interval) -> None:
    if value is None:
        return
    if isinstance(value, str) or not hasattr(value, "__float__") or value not in interval:
        raise ConfigError(f"{name} must be {interval}, got {value!r}")


@cache
def _checks(cls: Any) -> list[tuple[str, Interval | None, tuple[Any, ...]]]:
    """Each field with an interval or choices: its name, the interval or None, the choices or ()."""
    found = []
    hints = get_type_hints(cls, include_extras=True)
    for entry in fields(cls):
        nested = list(_nested(hints[entry.name]))
        interval = next((hint for hint in nested if isinstance(hint, Interval)), None)
        choices = tuple(value for hint in nested if get_origin(hint) is Literal for value in get_args(hint))
        if interval is not None or choices:
            found.append((entry.name, interval, choices))
    return found


def _nested(hint: Any) -> Iterable[Any]:
    """A type hint, its arguments and its annotations, at any depth; a Literal's values excluded."""
    yield hint
    if get_origin(hint) is Literal or isinstance(hint, Interval):
        return
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        yield from _nested(hint.__origin__)
        return
    for argument in get_args(hint):
        yield from _nested(argument)
