"""The verb doctor: versions, devices, extras, and what it says of a broken installation."""

import tomllib
from importlib import metadata
from pathlib import Path

import jax
import pytest

import seqrec_jax
from seqrec_jax.cli import doctor

ROOT = Path(__file__).resolve().parents[2]


def installed(missing):
    """`metadata.version` of an environment without some distributions."""

    def version(name):
        if name in missing:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    return version


def test_a_whole_installation_is_described(call, monkeypatch):
    monkeypatch.setattr(metadata, "version", installed(()))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere/kept")
    code, lines, errors = call("doctor")
    assert (code, errors) == (0, "")
    found = {line[:17].strip(): line[17:] for line in lines}
    assert found["seqrec_jax"] == seqrec_jax.__version__
    assert {found[name] for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pandas")} == {
        "1.2.3"
    }
    assert found["devices"] == f"{len(jax.devices())} (cpu cpu)"
    assert found["extra report"] == found["extra search"] == "installed"
    assert found["compile cache"] == "/somewhere/kept"


def test_missing_extras_are_named_with_the_way_to_install_them(call, monkeypatch):
    monkeypatch.setattr(metadata, "version", installed(("jinja2", "bm25s")))
    code, lines, errors = call("doctor")
    assert (code, errors) == (0, "")
    assert f"{'extra report':<17}missing jinja2; pip install 'seqrec_jax[report]'" in lines
    assert f"{'extra search':<17}missing bm25s; pip install 'seqrec_jax[search]'" in lines
    assert f"{'extra language':<17}installed" in lines


def test_a_broken_installation_is_a_sentence_and_exit_code_2(call, monkeypatch):
    monkeypatch.setattr(metadata, "version", installed(("optax",)))

    def no_devices():
        raise RuntimeError("Unable to initialize\nbackend")

    monkeypatch.setattr(jax, "devices", no_devices)
    code, lines, errors = call("doctor")
    assert code == 2
    assert f"{'optax':<17}missing" in lines
    assert errors.splitlines() == [
        "seqrec doctor: optax is not installed; pip install seqrec_jax",
        "seqrec doctor: JAX finds no device: Unable to initialize backend",
    ]


def test_requirements_come_from_the_source_where_nothing_is_installed(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    found = doctor.requirements()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(found) == {"", *project["optional-dependencies"]}
    assert len(found[""]) == len(project["dependencies"])
    assert "orbax-checkpoint" in found[""] and found["search"] == ["bm25s"]
    lines = [
        "jax>=0.10; python_version < '3.20'",
        'jinja2>=3 ; extra == "report"',
        "seqrec_jax[report]; extra == 'test'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    assert doctor.requirements() == {"": ["jax"], "report": ["jinja2"]}


@pytest.mark.parametrize("name", ["numpy", "no-such-distribution"])
def test_versions_are_those_installed(name):
    expected = metadata.version(name) if name == "numpy" else None
    assert doctor.version(name) == expected
