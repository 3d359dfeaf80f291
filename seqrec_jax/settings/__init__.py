"""Typed configuration: YAML and overrides to frozen dataclasses, and checks of ranges and choices in one dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqrec_jax.settings.ranges import Interval, check_choice, check_fields, check_value

if TYPE_CHECKING:
    from seqrec_jax.settings.parsing import config_dict, config_yaml, field_names, parse_config

__all__ = [
    "Interval",
    "check_choice",
    "check_fields",
    "check_value",
    "config_dict",
    "config_yaml",
    "field_names",
    "parse_config",
]


def __getattr__(name: str) -> Any:
    """What reads YAML, imported when it is used: functions over arrays check their arguments without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from seqrec_jax.settings import parsing

    return getattr(parsing, name)
