"""Processes that are killed at random moments, continued, and compared with one that was left alone."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from tiny_training import CONFIG, same_bits, tiny_params
from train_in_process import MAX_EPOCHS

import seqrec_jax
from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import prepare_dataset, write_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.parallel import make_mesh
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import config_yaml, parse_config
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.log import read_log
from seqrec_jax.training.state import init_state, make_optimizer

SCRIPT = Path(__file__).with_name("train_in_process.py")
PATIENCE_SECONDS = 120.0


def environment(cache=None, *, writes=True):
    """One device, quick compilation, and a cache of what was compiled, which only processes that live may write.

    Nothing of the tests' cache: what one of two processes compiles is not for the other, and a kill may cut an entry.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    places = [str(Path(seqrec_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    if cache is not None:
        seconds = "0" if writes else "1e6"  # only what took longer to compile is written
        flags |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": seconds}
    return {**inherited, **flags, "PYTHONPATH": os.pathsep.join(filter(None, places))}


@pytest.fixture
def start():
    """Starts processes, and ends those that a failing test leaves."""
    started = []

    def start(words, directory, *, env=None, **options):
        with (directory / "output.txt").open("a") as output:
            command = [sys.executable, *map(str, words)]
            process = subprocess.Popen(command, env=env or environment(), stdout=output, stderr=output, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def output_of(directory):
    return (directory / "output.txt").read_text()


def wait_for(condition, process, directory):
    """Wait until a condition holds while the process runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"ended by itself with {process.returncode}: {output_of(directory)}"
        assert time.monotonic() < deadline, f"nothing happened: {output_of(directory)}"
        time.sleep(0.005)


def steps_on_disk(directory):
    checkpoints = directory / "checkpoints"
    names = os.listdir(checkpoints) if checkpoints.is_dir() else []
    return {int(name) for name in names if name.isdigit()}


def last_state(directory):
    optimizer = make_optimizer(CONFIG.optimizer, total_steps=100)
    like = jax.eval_shape(lambda: init_state(tiny_params(), optimizer, with_average=True))
    store = CheckpointStore(directory / "checkpoints", read_only=True)
    state, progress = store.restore(like, mesh=make_mesh(1))
    best, best_step = store.restore_params(tiny_params(), mesh=make_mesh(1))
    store.close()
    return state, {name: value for name, value in progress.items() if name != "seconds"}, best, best_step


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, start):
    """The run beside it is saved once an epoch, the killed one all the time, which changes no bit either."""
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    whole.mkdir()
    killed.mkdir()
    undisturbed = start([SCRIPT, whole, 1e6], whole, env=environment(cache))
    wait_for(lambda: read_log(whole), undisturbed, whole)  # it has compiled for all
    start_killed = partial(start, [SCRIPT, killed, 0.03], killed, env=environment(cache, writes=False))
    delays = random.Random(7)  # what the process is doing at that moment is random anyhow
    moments = []
    for _ in range(2):
        process = start_killed()
        before = steps_on_disk(killed)
        wait_for(lambda: steps_on_disk(killed) - before, process, killed)  # noqa: B023
        time.sleep(delays.uniform(0.0, 0.3))
        assert process.poll() is None, f"it was over before it could be killed: {output_of(killed)}"
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        moments.append(max(steps_on_disk(killed)))
    assert moments[0] < moments[1]
    for process, directory in ((start_killed(), killed), (undisturbed, whole)):
        assert process.wait(PATIENCE_SECONDS) == 0, output_of(directory)
    expected, found = last_state(whole), last_state(killed)
    assert moments[1] < int(found[0].step)
    assert found[1]["finished"] and found[1]["epoch"] == MAX_EPOCHS
    assert found[1] == expected[1] and found[3] == expected[3]
    assert same_bits(found[0], expected[0]), f"killed at {moments}"
    assert same_bits(found[2], expected[2])
    rows, whole_rows = read_log(killed), read_log(whole)
    for kind in ("validation", "end"):
        here, there = ([row for row in log if row["kind"] == kind] for log in (rows, whole_rows))
        assert [{k: v for k, v in row.items() if "seconds" not in k} for row in here] == [
            {k: v for k, v in row.items() if "seconds" not in k} for row in there
        ]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == int(found[0].step)
    assert set(moments) <= set(steps), "every checkpoint lies at the end of a line of the log"
    assert not [name for name in os.listdir(killed / "checkpoints") if not name.isdigit()]


@pytest.fixture
def experiment(tmp_path):
    """A prepared dataset, and a function that writes the configuration of a run on it."""
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in np.repeat(np.arange(800), 8)],
            "item_id": [f"i{number}" for number in rng.integers(0, 15, 6400)],
            "timestamp": np.tile(np.arange(8), 800),
        }
    )
    write_dataset(prepare_dataset(events, name="small", split=SplitConfig("leave_one_out")), tmp_path / "small")

    def write(name, **training):
        config = parse_config(
            ExperimentConfig,
            values={
                "name": name,
                "data": {"directory": str(tmp_path / "small")},
                "model": {"encoder": {"kind": "mean", "width": 8, "max_length": 6}, "items": {"width": 8}},
                "training": {"batch_size": 8, "patience": None, **training},
            },
        )
        (tmp_path / f"{name}.yaml").write_text(config_yaml(config))
        return config, ["-m", "seqrec_jax.cli", "train", "--config", f"{name}.yaml"]

    return write


def test_ctrl_c_on_the_command_line_saves_and_exits_with_130(tmp_path, experiment, start):
    process = start(experiment("long", max_epochs=1_000_000)[1], tmp_path, cwd=tmp_path)
    run = tmp_path / "runs" / "long"
    wait_for(lambda: any(row["kind"] == "validation" for row in read_log(run)), process, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 130, output_of(tmp_path)
    assert "everything is saved; the same command continues" in output_of(tmp_path)
    assert "Traceback" not in output_of(tmp_path)
    last = [row["step"] for row in read_log(run)][-1]
    assert max(steps_on_disk(run)) == last


def test_two_processes_train_one_run_and_continue_it_after_one_was_killed(tmp_path, experiment, start):
    settings = {"max_epochs": 3}  # of 100 steps, so that a kill seldom meets a checkpoint
    words, run = experiment("together", **settings)[1], tmp_path / "runs" / "together"

    def start_both():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            together = ["--coordinator", f"127.0.0.1:{free.getsockname()[1]}", "--num-processes", "2"]
        return [start([*words, *together, "--process-id", number], tmp_path, cwd=tmp_path) for number in (0, 1)]

    first, second = start_both()
    wait_for(lambda: steps_on_disk(run), first, tmp_path)
    second.send_signal(signal.SIGKILL)
    assert first.wait(PATIENCE_SECONDS) == 1, output_of(tmp_path)
    # it finds out in a step, or in the middle of a checkpoint
    assert re.search(r"process 0 of 2( ends, since another|: .* another process) was lost", output_of(tmp_path))
    stopped_at = max(steps_on_disk(run))
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        alone = experiment("alone", **settings, num_devices=1)[0]
        pipeline.train(alone, runs=tmp_path / "runs", show_progress=False)
    for process in start_both():
        assert process.wait(PATIENCE_SECONDS) == 0, output_of(tmp_path)
    expected, found = (Recommender.load(tmp_path / "runs" / name).params for name in ("alone", "together"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
    rows, alone = (read_log(tmp_path / "runs" / name) for name in ("together", "alone"))
    assert [row["step"] for row in rows if row["kind"] == "end"] == [alone[-1]["step"]] > [stopped_at]
    scores = [[row["ndcg@10"] for row in log if row["kind"] == "validation"] for log in (rows, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4) and len(scores[0]) == 3
