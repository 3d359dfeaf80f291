"""Typed configuration: YAML files and command-line overrides to frozen dataclasses, and the checks of their values.

A field states its range in its type, `Annotated[float, Interval("(0, 1]")]`, and its choices as a `Literal`;
`check_fields` in `__post_init__` raises for a value outside. `check_value` is the same check for an argument.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from seqrec_jax.errors import ConfigError

Config = TypeVar("Config")

# the parser's words in the language of a configuration file
_PLAIN_WORDS = (
    (r"<class '(\w+)'>", r"\1"),
    (r"\ba typing\.Literal\[([^]]*)\]", r"one of \1"),
    (r"\ba int\b", "an int"),
    ("Parser key", "key"),
)


class Interval:
    """The values that a number may take, in the notation of mathematics: `Interval("[0, 1)")`, `Interval("(0, inf)")`.

    A square bracket includes its end, a round one excludes it. nan is in no interval.

    >>> 0.5 in Interval("[0, 1)"), 1 in Interval("[0, 1)")
    (True, False)
    >>> print(Interval("[1, inf)"))
    at least 1
    """

    def __init__(self, notation: str):
        """Read `notation`: a bracket, the lower end, a comma, the upper end, a bracket."""
        ends = notation[1:-1].split(",")
        self.low, self.high = (float(end) for end in ends)
        self._includes_low, self._includes_high = notation[0] == "[", notation[-1] == "]"
        self._low, self._high = (end.strip() for end in ends)

    def __contains__(self, value: float) -> bool:
        above = self.low <= value if self._includes_low else self.low < value
        return above and (value <= self.high if self._includes_high else value < self.high)

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


def check_value(name: str, value: float | None, interval: str) -> None:
    """Raise a ConfigError that names the argument unless `value` is None or in the interval, such as `"[1, inf)"`."""
    _check_number(name, value, Interval(interval))


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a ConfigError that names the argument unless `value` is one of the choices, a `Literal` or a collection."""
    names = get_args(choices) if get_origin(choices) is Literal else tuple(choices)
    if value not in names:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, names))}, got {value!r}")


def check_fields(config: Any, section: str) -> None:
    """Raise a ConfigError for the first field of a dataclass outside its `Interval` or its `Literal`.

    Each entry of a tuple and each value of a dictionary is checked; None passes where the type allows it.

    Args:
      config: an instance of a dataclass whose fields are annotated.
      section: the dotted name of the section that the message starts with, such as `training.loss`.

    Raises:
      ConfigError: `section.field`, its range or its choices, and the value found.
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


def parse_config(
    cls: type[Config], *, path: str | Path | None = None, overrides: Sequence[str] = (), values: Any = None
) -> Config:
    """A typed configuration from a YAML file or nested values, and `--section.field value` overrides.

    Args:
      cls: a frozen dataclass.
      path: YAML file.
      overrides: command-line words, which win.
      values: nested dictionary instead of a file, for example one that `config_dict` made.

    Returns:
      The configuration.

    Raises:
      ConfigError: no such file, not YAML, an unknown or doubled key (with the nearest valid one), a value of the
        wrong type or out of range.
    """
    import jsonargparse  # a tenth of a second, which a call of a metric should not cost

    where = "the configuration" if path is None else str(path)
    values = (values or {}) if path is None else _read_yaml(Path(path))
    _check_keys(cls, values, where=where)
    parser = jsonargparse.ArgumentParser(exit_on_error=False, prog="", allow_abbrev=False)
    parser.add_class_arguments(cls)
    place = where
    try:
        namespace = parser.parse_object(values)
        place = "the command line" if overrides else where
        namespace = parser.parse_args(list(overrides), namespace=namespace)
        return _build(cls, namespace)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        if unknown := re.search(r"unrecognized arguments: --([\w.-]+)", text):
            raise ConfigError(_unknown_key(unknown[1], cls, place)) from error
        for pattern, plain in _PLAIN_WORDS:
            text = re.sub(pattern, plain, text)
        raise ConfigError(f"{place}: {text}") from error


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists, for YAML or JSON."""
    return yaml.safe_load(config_yaml(config))


def config_yaml(config: Any) -> str:
    """A configuration as YAML text, every field written out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True)


def field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of every field of a nested configuration."""
    names = []
    for entry in fields(cls):
        names.append(prefix + entry.name)
        if (section := _section(entry)) is not None:
            names += field_names(section, f"{prefix}{entry.name}.")
    return names


def _build(cls: Any, namespace: Any, prefix: str = "") -> Any:
    """Nested dataclasses out of parsed values; their own checks run here."""
    values, hints = {}, get_type_hints(cls)
    for entry in fields(cls):
        value, section = namespace[entry.name], _section(entry)
        if section is not None and not is_dataclass(value):
            value = _build(section, value, f"{prefix}{entry.name}.")
        if value is None and type(None) not in get_args(hints[entry.name]):  # the parser lets every null pass
            raise ConfigError(f"{prefix}{entry.name} must have a value, got null; leave it out for its default")
        values[entry.name] = value
    return cls(**values)


class _Loader(yaml.SafeLoader):
    """YAML without doubled keys, of which all but the last would be lost."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        if doubled := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {min(doubled)} occurs twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections and fields, found {type(values).__name__}")
    return values


def _check_keys(cls: type, values: Any, *, where: str, prefix: str = "", root: type | None = None) -> None:
    """Raise a ConfigError for a key that no field has, or a plain value where a section belongs."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix.rstrip('.')} is a section with fields of its own, got {values!r}")
    sections = {entry.name: _section(entry) for entry in fields(cls)}
    for key, value in values.items():
        if key not in sections:
            raise ConfigError(_unknown_key(f"{prefix}{key}", root or cls, where))
        section = sections[key]
        if section is not None:
            _check_keys(section, value, where=where, prefix=f"{prefix}{key}.", root=root or cls)


def _section(entry: Any) -> type | None:
    """The dataclass of a nested section, None for a plain field."""
    default = entry.default_factory() if callable(entry.default_factory) else entry.default
    return type(default) if is_dataclass(default) else None


def _unknown_key(key: str, cls: type, where: str) -> str:
    """The text for an unknown key: near names in its section, else the same or a near name elsewhere."""
    names = field_names(cls)
    section, _, last = key.rpartition(".")
    siblings = [name for name in names if name.rpartition(".")[0] == section]

    def near(candidates: list[str], cutoff: float) -> list[str]:
        lasts = [name.rpartition(".")[2] for name in candidates]
        found = difflib.get_close_matches(last, lasts, n=1, cutoff=cutoff)
        return [name for name, end in zip(candidates, lasts, strict=True) if end in found]

    nearest = near(siblings, 0.6) or near(names, 1.0) or near(names, 0.6)
    hint = f"did you mean {' or '.join(nearest[:3])}?" if nearest else f"the fields are {siblings}"
    return f"{where}: unknown key {key}; {hint}"
