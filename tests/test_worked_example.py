"""The page runs as it stands, prints what it says, and what it says is the optimum."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "worked_example.md"


def run_page():
    """The variables that the page leaves behind, what it printed, and what it says that it prints."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (promised,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    variables: dict = {"__name__": "worked_example"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), variables)
    return variables, printed.getvalue(), promised


def test_the_page_prints_what_it_says_and_reaches_the_optimum():
    page, printed, promised = run_page()
    assert printed == promised
    clicks = np.array([[1, 1, 0, 0], [0, 1, 0, 1]])
    v_x = np.array([[1, 1, 1, 0], [0, 1, 1, 1]]) / 3
    for v_y in (np.eye(4), np.asarray(page["attributes"], dtype=np.float64)[1:]):
        # the same problem as one long least-squares system: f = (v_x ⊗ v_y) · vec(W)
        system = np.kron(v_x, v_y)
        optimum, *_ = np.linalg.lstsq(system, clicks.ravel().astype(np.float64))
        table = np.concatenate([np.zeros((1, v_y.shape[1])), v_y]).astype(np.float32)
        weight, values = page["fit"](table)
        np.testing.assert_allclose(weight, optimum.reshape(weight.shape), atol=1e-4)
        least = np.mean((system @ optimum - clicks.ravel()) ** 2)
        np.testing.assert_allclose(values[-1], least, atol=1e-6)
        assert np.all(np.diff(values) <= 1e-7)
