"""Intervals and the checks of fields and arguments, worked by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_choice, check_fields, check_value


@pytest.mark.parametrize(
    ("notation", "inside", "outside", "words"),
    [
        ("(0, inf)", [1e-9, 5], [0, -1, math.inf, math.nan], "greater than 0"),
        ("[1, inf)", [1, 2.5], [0.99, math.inf], "at least 1"),
        ("[0, 1]", [0, 0.5, 1], [-0.1, 1.1, math.nan], "from 0 to 1"),
        ("[0, 1)", [0, 0.99], [1, -1e-9], "at least 0 and less than 1"),
        ("(0, 1]", [0.01, 1], [0], "greater than 0 and at most 1"),
        ("(0, 1)", [0.5], [0, 1], "greater than 0 and less than 1"),
    ],
)
def test_an_interval_holds_what_its_notation_says(notation, inside, outside, words):
    interval = Interval(notation)
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)
    assert str(interval) == words
    assert repr(interval) == f'Interval("{notation}")'


@dataclass(frozen=True)
class Example:
    share: Annotated[float, Interval("[0, 1)")] = 0.0
    limit: Annotated[float, Interval("(0, inf)")] | None = None
    lengths: tuple[Annotated[int, Interval("[1, inf)")], ...] = (1, 2)
    weights: dict[str, Annotated[float, Interval("[0, inf)")]] = field(default_factory=dict)
    kind: Literal["left", "right"] = "left"
    text: str = ""


def test_values_inside_pass_and_none_is_not_checked():
    check_fields(Example(), "example")
    check_fields(Example(share=0.5, limit=3, lengths=(4,), weights={"view": 0.0}, kind="right"), "example")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1}, "example.share must be at least 0 and less than 1, got 1"),
        ({"share": "much"}, "example.share must be at least 0 and less than 1, got 'much'"),
        ({"limit": 0.0}, "example.limit must be greater than 0, got 0.0"),
        ({"lengths": (3, 0)}, "example.lengths must be at least 1, got 0"),
        ({"weights": {"view": -1}}, "example.weights.view must be at least 0, got -1"),
        ({"kind": "middle"}, "example.kind must be one of left, right, got 'middle'"),
    ],
)
def test_a_value_outside_is_named_with_its_range(values, message):
    with pytest.raises(ConfigError) as caught:
        check_fields(Example(**values), "example")
    assert str(caught.value) == message


def test_arguments_are_checked_alike():
    check_value("k", 1, "[1, inf)")
    check_choice("side", "left", Literal["left", "right"])
    with pytest.raises(ConfigError, match=r"^k must be at least 1, got 0$"):
        check_value("k", 0, "[1, inf)")
    with pytest.raises(ConfigError, match=r"^side must be one of left, right, got 'up'$"):
        check_choice("side", "up", ("left", "right"))
