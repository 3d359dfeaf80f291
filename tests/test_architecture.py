"""The house rules that a machine can check: floors, weight of imports, sizes, style and types."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "seqrec_jax"
HEAVY = {"jax", "flax", "optax", "orbax", "numpy", "pandas", "pyarrow", "matplotlib", "jinja2", "yaml"}
HEAVY |= {"tokenizers", "safetensors"}


def passes(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = (
        f"{statement}; import json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def sources() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


def imported_by(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in its text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_a_room_imports_rooms_on_lower_floors_only():
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["seqrec_jax", "seqrec_jax.errors", "seqrec_jax.cli"])
def test_the_package_and_its_command_line_load_nothing_heavy(module):
    assert not loaded_by(f"import {module}") & HEAVY


@pytest.mark.parametrize("module", ["metrics", "losses", "scoring", "negatives"])
def test_array_functions_need_jax_and_nothing_else_of_weight(module):
    loaded = loaded_by(f"import seqrec_jax.{module}")
    assert "jax" in loaded
    assert not loaded & (HEAVY - {"jax", "numpy"})


@pytest.mark.parametrize("module", ["cleaning", "dataset", "readers", "shop.simulator", "splits"])
def test_preparing_data_needs_no_jax(module):
    assert not loaded_by(f"import seqrec_jax.data.{module}") & {"jax", "flax", "optax", "orbax", "matplotlib"}


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("orbax", ["training/checkpoints.py"]),
        ("flax", ["encoders/", "items/"]),
        ("matplotlib", ["reporting/"]),
        ("jinja2", ["evaluation/", "reporting/"]),
        ("tensorboardX", ["training/log.py"]),
        ("tokenizers", ["encoders/language/tokenizer.py"]),
        ("safetensors", ["encoders/language/weights.py", "training/adapters/files.py"]),
    ],
)
def test_a_library_lives_in_one_place(library, rooms):
    users = [str(path.relative_to(PACKAGE)) for path in sources() if library in imported_by(path)]
    assert [user for user in users if not user.startswith(tuple(rooms))] == []


def test_files_are_short_enough_to_be_read():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > 500} == {}
    forbidden = {"utils.py", "common.py", "helpers.py"}
    assert not forbidden & {path.name for path in sources()}


def test_scripts_only_call_the_library():
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    assert {"train.py", "evaluate.py", "recommend.py", "quickstart.py"} <= {script.name for script in scripts}
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, script.name
        assert "jnp" not in text and "jax" not in imported_by(script), script.name


@pytest.mark.parametrize("name", ["configuration"])
def test_the_pages_made_from_the_code_are_true(name):
    spec = importlib.util.spec_from_file_location(f"make_{name}", ROOT / "docs" / f"make_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert written == module.page(), f"run python docs/make_{name}.py"


def test_lint_and_format():
    passes("ruff", "check", ".")
    passes("ruff", "format", "--check", ".")


def test_types():
    passes("mypy")
