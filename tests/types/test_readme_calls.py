"""The README's style of calls, with NumPy arrays, runs, and passes mypy in its strict mode."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import readme_calls

FILE = Path(readme_calls.__file__)


@pytest.mark.parametrize("room", ["losses", "metrics", "scoring"])
def test_calls_with_numpy_arrays_run(room):
    getattr(readme_calls, f"call_{room}")()
    called = set(re.findall(rf"\b{room}\.(\w+)", FILE.read_text(encoding="utf-8")))
    assert called == set(getattr(readme_calls, room).__all__)


def test_calls_with_numpy_arrays_pass_mypy():
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(FILE)]
    found = subprocess.run(mypy, cwd=FILE.parents[2], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
