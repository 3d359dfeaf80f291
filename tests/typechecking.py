"""Runs the annotations: in tests, calls of the rooms below are checked by beartype, shapes and dtypes by jaxtyping.

A room is switched on by its name in `ROOMS`. `pytest --jaxtyping-packages=seqrec_jax,beartype.beartype` checks all of
them, and arguments before the call instead of after it, so that tests of refused arguments fail.
"""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

ROOMS = ("seqrec_jax",)


_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as it is to mypy


def install() -> None:
    """Check every module of `ROOMS` that is imported from now on."""
    install_import_hook(ROOMS, f"{__name__}.check_after_call")
    # a function that is checked has the globals of its wrapper, by which doctest would take it for another module's
    is_own = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]
    doctest.DocTestFinder._from_module = (  # type: ignore[attr-defined]
        lambda finder, module, value: is_own(finder, module, inspect.unwrap(value))
    )


def check_after_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """The checker that jaxtyping applies to two stand-ins of a function, of its arguments and of its whole signature.

    Only the second, which is called after the function, is checked: what the function refuses itself, with an error
    of its own, must not be refused by its annotations first. The first is known by `Any` as its return type.
    """
    return function if inspect.signature(function).return_annotation is Any else _checked(function)
