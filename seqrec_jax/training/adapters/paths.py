"""Parameters by path, `layers/0/attention/query/kernel`, and patterns that choose some of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from seqrec_jax.errors import ConfigError

Params = dict[str, Any]
Value = TypeVar("Value")


def flat_params(params: Params) -> Params:
    """Arrays by path; an empty dictionary is kept as a value.

    Raises:
      ConfigError: a key that is not a string, or has a slash.

    >>> flat_params({"query": {"kernel": 1, "bias": 2}})
    {'query/kernel': 1, 'query/bias': 2}
    """
    flat: Params = {}
    for key, value in params.items():
        if not isinstance(key, str) or "/" in key:
            raise ConfigError(f"parameters must have string keys without a slash, found {key!r}; rename it")
        if isinstance(value, dict) and value:
            flat |= {f"{key}/{path}": leaf for path, leaf in flat_params(value).items()}
        else:
            flat[key] = value
    return flat


def nested_params(flat: Params) -> Params:
    """The tree that `flat_params` was made from."""
    nested: Params = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = leaf
    return nested


def is_adapter(path: str) -> bool:
    """Whether a path belongs to an array of an adapter.

    >>> is_adapter("layers/0/query/adapter/a"), is_adapter("layers/0/query/kernel")
    (True, False)
    """
    return path.split("/")[-2:-1] == ["adapter"]


def matches(pattern: str, path: str) -> bool:
    """Whether consecutive names of a path match those of a pattern; `*` stands for any part of a name.

    >>> matches("attention/q*", "layers/0/attention/query/kernel"), matches("key", "layers/0/keys")
    (True, False)
    """
    text = re.escape(pattern.strip("/")).replace(r"\*", "[^/]*")
    return re.search(f"(^|/){text}(/|$)", path) is not None


def matching(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The paths that match any of the patterns, in their order."""
    patterns = list(patterns)
    return [path for path in paths if any(matches(pattern, path) for pattern in patterns)]


def last_match(values: dict[str, Value], path: str, *, default: Value) -> Value:
    """The value of the last pattern that a path matches; `default` if there is none."""
    return next((value for pattern, value in reversed(values.items()) if matches(pattern, path)), default)


def require_matches(patterns: Iterable[str], paths: Iterable[str], *, field: str, kind: str) -> None:
    """Check that every pattern matches a path.

    Args:
      patterns: patterns of a setting.
      paths: paths of the parameters or layers.
      field: name of the setting, for the message.
      kind: what the paths lead to, for the message.

    Raises:
      ConfigError: a pattern that matches none; the message lists the most similar paths.
    """
    paths = list(paths)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            raise ConfigError(f"{field} has {pattern!r}, which matches no {kind}; near it are {near(pattern, paths)}")


def near(pattern: str, paths: Iterable[str], *, most: int = 3) -> list[str]:
    """The `most` paths with the part most similar to a pattern."""
    length = pattern.count("/") + 1

    def likeness(path: str) -> float:
        names = path.split("/")
        parts = ["/".join(names[start : start + length]) for start in range(len(names))]
        return max(difflib.SequenceMatcher(None, pattern, part).ratio() for part in parts)

    return sorted(paths, key=likeness, reverse=True)[:most]
