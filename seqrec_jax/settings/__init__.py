"""Typed configuration: YAML and overrides to frozen dataclasses, and checks of ranges and choices in one dialect."""

from __future__ import annotations

from seqrec_jax.settings.parsing import config_dict, config_yaml, field_names, parse_config
from seqrec_jax.settings.ranges import Interval, check_choice, check_fields, check_value

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
