"""The documentation site builds strictly, shows every public name, and loads nothing from elsewhere; notebooks run."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqrec_jax as sj

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
ASSET = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+""", re.I)


def public_names() -> list[str]:
    """Dotted names of the public functions and classes of the package."""
    names = []
    for path in sorted((ROOT / "seqrec_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                names.append(f"{module}.{node.name}")
    return names


def test_there_are_five_notebooks_and_the_page_of_tutorials_links_each():
    assert len(NOTEBOOKS) == 5
    page = (ROOT / "docs/tutorials/index.md").read_text(encoding="utf-8")
    assert {path.name for path in NOTEBOOKS} == set(re.findall(r"\((\w+\.ipynb)\)", page))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_the_outputs_of_one_run_and_no_paths_of_a_machine(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.findall(r"/tmp/|/home/|/root/|/Users/|[A-Z]:\\\\", json.dumps(outputs))


def test_every_import_and_attribute_that_a_page_shows_exists():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"^[> ]*from (seqrec_jax[\w.]*) import ([\w, ]+)", text, re.M):
            for name in names.split(","):
                found = importlib.import_module(module)
                if not hasattr(found, name.strip()):
                    importlib.import_module(f"{module}.{name.strip()}")
        for room, name in re.findall(r"`sj\.(metrics|losses|scoring|negatives|statistics|baselines)\.(\w+)", text):
            assert hasattr(getattr(sj, room), name), f"{page.name}: {room}.{name}"
        for name in re.findall(r"\bpipeline\.([a-z]\w+|[A-Z]\w+)\(", text):
            assert hasattr(importlib.import_module("seqrec_jax.pipeline"), name), f"{page.name}: pipeline.{name}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # as a reader runs it, on one device
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly (without --quiet, which would hide warnings from --strict)."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_shows_every_public_name(site):
    shown = set()
    for page in (site / "api").glob("*.html"):
        shown |= set(re.findall(r'id="(seqrec_jax[\w.]*)"', page.read_text(encoding="utf-8")))
    names = public_names()
    assert len(names) > 300
    assert [name for name in names if name not in shown] == []


@pytest.mark.slow
def test_examples_of_docstrings_are_shown_as_code(site):
    pages = {page.name: page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")}
    assert [name for name, text in pages.items() if "<blockquote>" in text] == []
    assert "1.0986123" in pages["losses.html"]


@pytest.mark.slow
def test_reading_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert [tag for tag in ASSET.findall(text) if 'rel="canonical"' not in tag] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet.name
        )


@pytest.mark.slow
def test_the_site_shows_the_notebooks_with_their_outputs(site):
    for path in NOTEBOOKS:
        page = (site / "tutorials" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert 'class="output"' in page
