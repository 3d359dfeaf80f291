"""Eight simulated devices, strict dtypes and ranks, for every test."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import shutil
import sys
import tempfile

# tests compile far more than they compute, hence the low optimisation level
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # what one process compiles, the other workers and the processes that tests start need not
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="seqrec_jax_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import pytest
import typechecking

if TYPE_CHECKING:
    from tiny import TinyRun

    from seqrec_jax.retrieval import Recommender

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

WORKER_BYTES = 2 * 2**30
"""The most memory that a worker takes at its peak, and what it is planned with."""

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Run the annotations, unless the command line says how."""
    if not config.getoption("jaxtyping_packages"):
        typechecking.install()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many workers for `-n auto` as there are cores, or fewer where the free memory does not hold them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _free_bytes() // WORKER_BYTES))


def _free_bytes() -> int:
    """Memory that a new process can take without swapping; half of all memory where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Compiled programs are dropped after a file of tests once the worker has grown to half of its share."""
    yield
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/statm", encoding="utf-8") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > WORKER_BYTES // 2:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the allocator keeps what was freed


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"public data sets are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A small simulated shop, prepared, trained and evaluated once for all tests."""
    from tiny import TinyRun, tiny_config, write_config

    from seqrec_jax import pipeline

    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_config(folder)
    write_config(config, folder / "tiny.yaml")
    pipeline.prepare(config)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        run, _ = pipeline.train(config, show_progress=False, runs=folder / "runs")
    pipeline.evaluate(run, config.evaluation)
    return TinyRun(folder, config)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tiny_run: TinyRun, home: Path) -> Path:
    """A copy of the tiny run as runs/tiny under the current folder."""
    shutil.copytree(tiny_run.run, home / "runs" / "tiny")
    return Path("runs/tiny")


@pytest.fixture(scope="session")
def loaded(tiny_run: TinyRun) -> Recommender:
    """The tiny run's recommender, to be looked at only."""
    from seqrec_jax.retrieval import Recommender

    return Recommender.load(tiny_run.run)


@pytest.fixture
def quick_load(monkeypatch: pytest.MonkeyPatch, loaded: Recommender) -> None:
    """The tiny run's recommender, compiled once, in place of a fresh one a call."""
    monkeypatch.setattr(type(loaded), "load", lambda *_, **__: loaded)


@pytest.fixture
def call(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str], str]]:
    """Runs the command line and gives the exit code, the lines of stdout, and stderr."""
    from seqrec_jax import cli

    def call(*words: object) -> tuple[int, list[str], str]:
        code = cli.run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call
