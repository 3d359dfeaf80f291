"""What is installed: declared dependencies, one version everywhere, and a wheel that works in an empty environment."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import seqrec_jax

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def imported() -> set[str]:
    """Top-level modules that the package imports, without its own and the standard library's."""
    names: set[str] = set()
    for path in (ROOT / "seqrec_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"seqrec_jax"}


def test_every_library_that_is_imported_is_declared():
    extras = [
        requirement
        for name in ("report", "streaming", "language", "search")
        for requirement in PROJECT["optional-dependencies"][name]
    ]
    declared = {normal(requirement) for requirement in [*PROJECT["dependencies"], *extras]}
    distributions = packages_distributions()
    missing = {name for name in imported() if not {normal(one) for one in distributions.get(name, [name])} & declared}
    assert missing == set()


def test_one_version_everywhere():
    version = seqrec_jax.__version__
    assert "version" in PROJECT["dynamic"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    newest = re.search(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest[1] == version


def test_every_requirement_of_the_readme_is_pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line) for line in lines if "==" in line}
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    wanted = {normal(requirement) for requirement in [*PROJECT["dependencies"], *extras]} - {"seqrec-jax"}
    assert wanted - pinned == set()


def test_forms_and_workflows_are_valid_yaml():
    paths = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(paths) >= 5
    for path in paths:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path.name


def test_the_packaged_quickstart_is_the_committed_configuration():
    packaged = ROOT / "seqrec_jax/cli/quickstart.yaml"
    assert packaged.read_bytes() == (ROOT / "configs/quickstart.yaml").read_bytes()


@pytest.mark.slow
def test_the_quickstart_of_the_wheel_runs_in_an_empty_environment(tmp_path):
    pytest.importorskip("build")
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "seqrec_jax", tree / "seqrec_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(tree), folder=tmp_path)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.name.startswith(f"seqrec_jax-{seqrec_jax.__version__}-")
    run(sys.executable, "-m", "venv", "venv", folder=tmp_path)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(
        scripts / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        ROOT / "constraints.txt",
        f"{wheel}[report]",
        folder=tmp_path,
    )
    away = tmp_path / "away"
    away.mkdir()
    shop = ["--data.shop.num_users=200", "--data.shop.num_items=60", "--data.shop.num_days=30"]
    training = ["--training.max_epochs=2", "--training.optimizer.warmup_steps=1"]
    shown = run(scripts / "seqrec", "quickstart", *shop, *training, folder=away)
    assert "Open runs/quickstart/report.html" in shown
    assert (away / "runs/quickstart/report.html").stat().st_size > 10_000
    assert (away / "runs/quickstart/recommendations.parquet").exists()


def run(*command: object, folder: Path) -> str:
    """What a command prints; it runs outside this checkout."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment without what would lead to this checkout or change JAX."""
    left_out = ("PYTHONPATH", "XLA_FLAGS", "JAX_PLATFORMS")
    return {name: value for name, value in os.environ.items() if name not in left_out} | {"JAX_PLATFORMS": "cpu"}
