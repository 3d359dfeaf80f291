"""The verb doctor: what is installed, on which devices, and what is missing."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import seqrec_jax
from seqrec_jax.cli.table import Verb

_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pandas")
"""Distributions whose versions a report of a fault needs."""


def requirements() -> dict[str, list[str]]:
    """Names of the distributions that the package needs: under "" those of every use, else by extra.

    They come from the installed package's metadata, or from `pyproject.toml` where the package runs from its source.
    """
    try:
        lines = metadata.requires("seqrec_jax") or []
    except metadata.PackageNotFoundError:
        path = Path(__file__).parents[2] / "pyproject.toml"
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else {}
        lines = list(project.get("dependencies", []))
        for extra, names in project.get("optional-dependencies", {}).items():
            lines += [f"{name}; extra == '{extra}'" for name in names]
    found: dict[str, list[str]] = {"": []}
    for line in lines:
        named, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if named is not None and named[0] != "seqrec_jax":
            found.setdefault(extra[1] if extra else "", []).append(named[0])
    return found


def version(distribution: str) -> str | None:
    """The installed version of a distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _doctor(_: argparse.Namespace, __: list[str]) -> int:
    needed = requirements()
    required = needed.pop("")
    print(f"{'python':<17}{platform.python_version()} ({sys.executable})")
    print(f"{'seqrec_jax':<17}{seqrec_jax.__version__}")
    for name in _SHOWN:
        print(f"{name:<17}{version(name) or 'missing'}")
    broken = [f"{name} is not installed; pip install seqrec_jax" for name in required if version(name) is None]
    broken += [reason for reason in (_devices(), _imports()) if reason is not None]
    for extra, names in needed.items():
        missing = [name for name in names if version(name) is None]
        state = f"missing {', '.join(missing)}; pip install 'seqrec_jax[{extra}]'" if missing else "installed"
        print(f"{'extra ' + extra:<17}{state}")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    print(f"{'compile cache':<17}{cache or 'none; JAX_COMPILATION_CACHE_DIR names a folder that keeps compiled code'}")
    for reason in broken:
        print(f"seqrec doctor: {reason}", file=sys.stderr)
    return 2 if broken else 0


def _devices() -> str | None:
    """Print JAX's devices; the reason where there are none."""
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # whatever a driver raises
        return f"JAX finds no device: {' '.join(str(error).split())}"
    kinds = sorted({f"{device.platform} {device.device_kind}" for device in devices})
    print(f"{'devices':<17}{len(devices)} ({', '.join(kinds)})")
    return None


def _imports() -> str | None:
    """The reason why the package cannot be imported, None where it can."""
    try:
        importlib.import_module("seqrec_jax.pipeline")
    except Exception as error:  # whatever a broken installation raises
        return f"seqrec_jax cannot be imported: {error}"
    return None


VERBS = (
    Verb("doctor", "Versions, devices, extras and the folder of compiled code, to find what is missing.", (), _doctor),
)
