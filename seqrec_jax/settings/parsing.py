"""Frozen dataclasses from YAML files, nested dictionaries and words of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings.types import typed_value, value_of_text

Config = TypeVar("Config")


def parse_config(
    cls: type[Config], *, path: str | Path | None = None, overrides: Sequence[str] = (), values: Any = None
) -> Config:
    """A typed configuration from a YAML file or nested values, and `--section.field value` overrides.

    Args:
      cls: a frozen dataclass, every field with a default.
      path: YAML file.
      overrides: words of the command line, which win over the file.
      values: nested dictionary instead of a file, for example one that `config_dict` made.

    Raises:
      ConfigError: no such file, not YAML, an unknown or doubled key (with the nearest valid one), a value of the
        wrong type or out of range.
    """
    where = "the configuration" if path is None else str(path)
    values = (values or {}) if path is None else _read_yaml(Path(path))
    default = cls()
    given: dict[str, Any] = {}
    place = where
    try:
        for key, value in values.items():
            _put(given, default, [key], value, name=str(key), root=cls)
        place = "the command line"
        for name, word in _named_words(overrides, cls):
            _put(given, default, name.split("."), word, name=name, root=cls)
        place = where
        return _with_values(default, given)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries and lists, for YAML or JSON."""
    values: dict[str, Any] = yaml.safe_load(config_yaml(config))
    return values


def config_yaml(config: Any) -> str:
    """A configuration as YAML text, every field written out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    text: str = yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True)
    return text


def field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of every section and field of a nested configuration."""
    names = []
    for entry in fields(cls):
        names.append(prefix + entry.name)
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if is_dataclass(default):
            names += field_names(type(default), f"{prefix}{entry.name}.")
    return names


def _named_words(words: Sequence[str], cls: type) -> Iterator[tuple[str, str]]:
    """Name and value of each `--name value` or `--name=value`."""
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"unrecognized arguments: {' '.join([word, *left])}")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not left or re.match("-[^0-9.]", left[0]):
                raise ConfigError(f"--{name} needs a value" if name in field_names(cls) else _unknown_key(name, cls))
            value = left.pop(0)
        yield name, value


def _put(given: dict[str, Any], section: Any, path: list[Any], value: Any, *, name: str, root: type) -> None:
    """Enter a value, as the type of its field, into the values that are given for a section.

    Args:
      given: values of the section so far, nested as the section is.
      section: the section with its defaults.
      path: key of a field, or keys of sections and then of a field; a mapping's entry has one key more.
      value: as YAML gives it, or a word of the command line.
      name: the whole dotted name, for messages.
      root: the class of the whole configuration, for near names.
    """
    key, *rest = path
    hints = _hints(section.__class__)
    if key not in hints:
        raise ConfigError(_unknown_key(name, root))
    default = getattr(section, key)
    if is_dataclass(default):
        inner = given.setdefault(key, {})
        if rest:
            _put(inner, default, rest, value, name=name, root=root)
            return
        value = value_of_text(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is a section with fields of its own, got {value!r}")
        for inner_key, inner_value in value.items():
            _put(inner, default, [inner_key], inner_value, name=f"{name}.{inner_key}", root=root)
        return
    if rest:  # an entry of a mapping
        if not isinstance(default, Mapping):
            raise ConfigError(_unknown_key(name, root))
        entry = ".".join(rest)
        value, name = {**given.get(key, default), entry: value}, name.removesuffix(f".{entry}")
    given[key] = typed_value(name, value, hints[key])


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The type of each field, ranges left out."""
    hints = get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in fields(cls)}


def _with_values(section: Config, given: dict[str, Any]) -> Config:
    """A section with some fields replaced, at any depth; their own checks run here."""
    changes = {}
    for key, value in given.items():
        default = getattr(section, key)
        changes[key] = _with_values(default, value) if is_dataclass(default) else value
    changed: Config = replace(section, **changes)  # type: ignore[type-var]  # a dataclass, see `parse_config`
    return changed


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        text = path.read_text(encoding="utf-8")
        _check_doubled(yaml.compose(text, Loader=yaml.SafeLoader))
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections and fields, found {type(values).__name__}")
    return values


def _check_doubled(node: yaml.Node | None) -> None:
    """Raise for a key that occurs twice in a mapping, of which YAML would keep the last."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        if doubled := {str(key) for key in keys if keys.count(key) > 1}:
            mark = node.start_mark
            raise yaml.MarkedYAMLError(problem=f"the key {min(doubled)} occurs twice", problem_mark=mark)
        for _, value in node.value:
            _check_doubled(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_doubled(value)


def _unknown_key(key: str, cls: type) -> str:
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
    return f"unknown key {key}; {hint}"
