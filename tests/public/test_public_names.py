"""The names that the package offers: light, resolvable, typed, and listed on the page that promises their stability."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqrec_jax as sj

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(sj.__file__).read_text(encoding="utf-8")


def test_importing_the_package_loads_none_of_its_rooms_and_nothing_from_elsewhere():
    code = "import sys; before = set(sys.modules); import seqrec_jax; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)
    assert loaded == {"seqrec_jax"}
    assert [name for name in done.stdout.split() if name.startswith("seqrec_jax.")] == []


@pytest.mark.parametrize("name", sj.__all__)
def test_every_name_resolves_and_is_documented(name):
    assert (getattr(sj, name).__doc__ or "").strip()
    assert name in dir(sj)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        sj.recomend  # noqa: B018


def test_the_type_checker_sees_the_same_names():
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    imported = {alias.asname or alias.name for node in block.body for alias in node.names}
    assert imported == set(sj.__all__)


def test_the_page_on_stability_lists_the_same_names():
    page = (ROOT / "docs/stability.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`sj\.(\w+)`", page)) == set(sj.__all__)
