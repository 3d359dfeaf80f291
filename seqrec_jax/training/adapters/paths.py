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
    """Arrays by path; an empty dictionary stays as it is, so that nothing is lost.

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
    """Whether a path is that of an array of an adapter.

    >>> is_adapter("layers/0/query/adapter/a"), is_adapter("layers/0/query/kernel")
    (True, False)
    """
    return path.split("/")[-2:-1] == ["adapter"]


def matches(pattern: str, path: str) -> bool:
    """Whether a path has the names of a pattern somewhere, one after another; `*` is any part of a name.

    >>> matches("attention/q*", "layers/0/attention/query/kernel"), matches("key", "layers/0/keys")
    (True, False)
    """
    text = re.escape(pattern.strip("/")).replace(r"\*", "[^/]*")
    return re.search(f"(^|/){text}(/|$)", path) is not None


def matching(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """The paths that any of the patterns finds, in their order."""
    patterns = list(patterns)
    return [path for path in paths if any(matches(pattern, path) for pattern in patterns)]


def last_match(values: dict[str, Value], path: str, *, default: Value) -> Value:
    """The value of the last pattern that finds a path."""
    return next((value for pattern, value in reversed(values.items()) if matches(pattern, path)), default)


def require_matches(patterns: Iterable[str], paths: Iterable[str], *, field: str, kind: str) -> None:
    """Raise a ConfigError that lists near paths for a pattern that finds none of them."""
    paths = list(paths)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            raise ConfigError(f"{field} has {pattern!r}, which matches no {kind}; near it are {near(pattern, paths)}")


def near(pattern: str, paths: Iterable[str], *, most: int = 3) -> list[str]:
    """The paths with a part that looks most like a pattern."""
    length = pattern.count("/") + 1

    def likeness(path: str) -> float:
        names = path.split("/")
        parts = ["/".join(names[start : start + length]) for start in range(len(names))]
        return max(difflib.SequenceMatcher(None, pattern, part).ratio() for part in parts)

    return sorted(paths, key=likeness, reverse=True)[:most]
