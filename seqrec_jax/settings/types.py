"""Values of a configuration file or a command line as the types of the fields that they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from seqrec_jax.errors import ConfigError

_WORDS = {int: "an int", float: "a number", str: "a string", bool: "true or false", NoneType: "null"}
_PLURALS = {int: "ints", float: "numbers", str: "strings", bool: "truth values"}


def typed_value(name: str, value: Any, hint: Any) -> Any:
    """A value as a field's type, in which lists become tuples and whole numbers floats where the type says so.

    Text is read as YAML for a field that is no string, so that words of the command line and quoted numbers count.

    Args:
      name: the dotted name of the field, for the message.
      value: as YAML gives it, or a word of the command line.
      hint: int, float, bool, str, a `Literal`, or a tuple, mapping or union of these.

    Raises:
      ConfigError: a value of another type.
    """
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType not in options:
        raise ConfigError(f"{name} must have a value, got null; leave it out for its default")
    for read in _readings(value, options):
        for option in options:
            found, fits = _as(name, read, option)
            if fits:
                return found
    raise ConfigError(f"{name} must be {' or '.join(map(_in_words, options))}, got {value!r}")


def _readings(value: Any, options: tuple[Any, ...]) -> list[Any]:
    """The value, and what a text says as YAML; only null counts where it may be a string."""
    if not isinstance(value, str):
        return [value]
    said = value_of_text(value)
    if str in options:
        return [said if said is None and NoneType in options else value]
    return [value, said]


def value_of_text(text: str) -> Any:
    """The value of a text as YAML, or the text itself; a number may be written without a point, as 1e-3."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:  # YAML 1.1 takes it for text
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _as(name: str, value: Any, option: Any) -> tuple[Any, bool]:
    """The value as one type, and whether it is of this type."""
    origin, arguments = get_origin(option), get_args(option)
    if origin is Literal:
        return value, any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is tuple:
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (repeated or len(value) == len(arguments)):
            return value, False
        hints = arguments[:1] * len(value) if repeated else arguments
        parts = enumerate(zip(value, hints, strict=True))
        return tuple(typed_value(f"{name}[{number}]", part, hint) for number, (part, hint) in parts), True
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return value, False
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"the keys of {name} must be strings, got {strange[0]!r}; put it in quotes")
        return {key: typed_value(f"{name}.{key}", part, arguments[1]) for key, part in value.items()}, True
    if option is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    return value, type(value) is option


def _in_words(option: Any) -> str:
    """A type in the language of a configuration file.

    >>> _in_words(tuple[int, ...]), _in_words(dict[str, float]), _in_words(Literal["left", "right"])
    ('a list of ints', 'a mapping of names to numbers', 'one of left, right')
    """
    origin, arguments = get_origin(option), get_args(option)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_PLURALS.get(arguments[0], 'values')}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping of names to {_PLURALS.get(arguments[1], 'values')}"
    return _WORDS.get(option, str(option))
