"""A run's directory: made whole, continued only by the same run, and a log without doubled or lost lines."""

import errno
import json
import os
import re
import shutil
import struct
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import prepare_dataset, write_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import CheckpointError, DataError
from seqrec_jax.runs import DatasetFacts, Run, open_run
from seqrec_jax.settings import config_dict, parse_config
from seqrec_jax.training.config import LossConfig, TrainingConfig
from seqrec_jax.training.log import RunLog, read_log

CONFIG = config_dict(ExperimentConfig(name="trial"))


def small_dataset(users=4):
    events = pd.DataFrame(
        [(f"u{user}", f"item {place}", 10 * place) for user in range(users) for place in range(4)],
        columns=["user_id", "item_id", "timestamp"],
    )
    return prepare_dataset(events, name="small", split=SplitConfig(rule="leave_one_out"))


def open_trial(directory, config=CONFIG, dataset=None, **options):
    config = parse_config(ExperimentConfig, values=config)
    open_run(directory, config=config, dataset=dataset or small_dataset(), dataset_directory="data/small", **options)


def changed(**sections):
    config = json.loads(json.dumps(CONFIG))
    for section, fields in sections.items():
        config[section].update(fields)
    return config


def test_a_run_holds_config_facts_and_items(tmp_path):
    dataset = small_dataset()
    open_trial(tmp_path / "runs" / "trial")
    run = Run.open(tmp_path / "runs" / "trial")
    assert Run.open(run) is run and (run.name, str(run)) == ("trial", str(tmp_path / "runs" / "trial"))
    assert run.section("", ExperimentConfig) == ExperimentConfig(name="trial")
    assert run.section("training.loss", LossConfig) == LossConfig()
    assert run.settings(evaluation=1) == {**CONFIG, "evaluation": 1}
    assert run.facts == DatasetFacts(
        name="small",
        fingerprint=dataset.fingerprint,
        counts={"users": 4, "items": 4, "events": 16, "train": 8, "validation": 4, "test": 4, "history": 0},
        behaviors=("event",),
        query_behavior=None,
        attributes=dataset.attributes,
        time_kind="seconds",
        first_timestamp=0,
        split=SplitConfig(rule="leave_one_out"),
        cuts={},
        directory=Path("data/small").absolute(),
    )
    assert list(run.items["item_id"]) == list(dataset.items["item_id"])
    assert run.log() == []
    assert not [path for path in (tmp_path / "runs" / "trial").iterdir() if path.name.endswith(".tmp")]


def test_the_same_run_is_continued(tmp_path):
    open_trial(tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    open_trial(tmp_path)
    # what changes neither the training nor which checkpoint is the best may differ
    free = changed(training={"checkpoint_seconds": 1.0}, evaluation={"stage": "validation", "num_resamples": 100})
    open_trial(tmp_path, free)
    assert (tmp_path / "log.jsonl").exists()
    assert Run.open(tmp_path).settings() == CONFIG


def test_a_run_of_before_a_field_existed_is_continued(tmp_path):
    open_trial(tmp_path)
    older = changed()
    del older["training"]["ema_decay"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    open_trial(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape("(training.ema_decay: None there, 0.9 now)")):
        open_trial(tmp_path, changed(training={"ema_decay": 0.9}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(training={"batch_size": 7}), "(training.batch_size: 128 there, 7 now)"),
        (changed(training={"seed": 1, "patience": None}), "training.seed: 0 there, 1 now)"),
        (changed(evaluation={"metric": "mrr@10"}), "(evaluation.metric: 'ndcg@10' there, 'mrr@10' now)"),
        (changed(evaluation={"seen_items": "excluded"}), "(evaluation.seen_items: 'kept' there, 'excluded' now)"),
        (changed(training={"loss": {"kind": "bpr"}}), "training.loss.kind: 'softmax' there, 'bpr' now"),
    ],
)  # fmt: skip
def test_another_configuration_is_refused_and_named(tmp_path, config, message):
    open_trial(tmp_path)
    with pytest.raises(CheckpointError) as error:
        open_trial(tmp_path, config)
    assert f"{tmp_path} is a run with another configuration (" in str(error.value)
    assert message in str(error.value)
    assert "choose another --name, or --overwrite" in str(error.value)
    assert Run.open(tmp_path).settings() == CONFIG


def test_another_dataset_is_refused(tmp_path):
    open_trial(tmp_path)
    other = small_dataset(users=5)
    with pytest.raises(CheckpointError) as error:
        open_trial(tmp_path, dataset=other)
    assert f"was trained on a dataset with fingerprint {small_dataset().fingerprint}" in str(error.value)
    assert f"this one has {other.fingerprint}" in str(error.value)


def test_overwriting_starts_over_and_spares_what_is_no_run(tmp_path):
    open_trial(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    open_trial(tmp_path / "run", changed(training={"seed": 1}), overwrite=True)
    assert Run.open(tmp_path / "run").section("training", TrainingConfig).seed == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    open_trial(tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_checkpoints_without_a_configuration_are_not_adopted(tmp_path):
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"checkpoints but no config\.yaml, so their configuration is unknown"):
        open_trial(tmp_path)


def test_directories_that_are_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent is not a run: it does not exist; give the directory"):
        Run.open(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"is not a run: it is empty or something else"):
        Run.open(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write the run to .*file"):
        open_trial(tmp_path / "file" / "trial")


def test_a_kill_while_the_run_is_made_leaves_none(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(yaml, "safe_dump", killed)
    with pytest.raises(KeyboardInterrupt):
        open_trial(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="is not a run"):
        Run.open(tmp_path)
    open_trial(tmp_path)
    assert Run.open(tmp_path).settings() == CONFIG


def scalars(directory):
    """`(step, tag, value)` of every event file in order of writing, read by the format's own description."""
    found, purges = [], []
    for path in sorted((directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            if event.HasField("session_log"):
                purges.append(event.step)
                found = [entry for entry in found if entry[0] < event.step]  # as TensorBoard does
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found, purges


def test_the_log_is_lines_for_machines_and_scalars_for_tensorboard(tmp_path):
    log = RunLog(tmp_path, resume_step=0)
    log.write("train", 1, loss=2.5, memory_bytes=2**33, epoch=0)
    log.write("validation", 1, **{"ndcg@10": 0.25, "auc": float("nan")})
    log.write("end", 1, stopped_early=False)
    # at once on the disk, before the log is closed
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    log.close()
    assert [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines] == [
        {"kind": "train", "step": 1, "loss": 2.5, "memory_bytes": 2**33, "epoch": 0},
        {"kind": "validation", "step": 1, "ndcg@10": 0.25, "auc": None},
        {"kind": "end", "step": 1, "stopped_early": False},
    ]
    assert read_log(tmp_path) == [json.loads(line) for line in lines]
    found, _ = scalars(tmp_path)
    assert found[:3] == [(1, "train/loss", 2.5), (1, "train/memory_bytes", 2.0**33), (1, "train/epoch", 0.0)]
    assert [tag for _, tag, _ in found[3:]] == ["validation/ndcg@10", "validation/auc"]


def test_a_continued_log_has_no_line_after_the_checkpoint_twice(tmp_path):
    log = RunLog(tmp_path, resume_step=0)
    for step in (1, 2, 3, 4):
        log.write("train", step, loss=float(step))
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # cut short by a kill
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    log = RunLog(tmp_path, resume_step=2)
    log.write("train", 3, loss=30.0)
    log.close()
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    found, purges = scalars(tmp_path)
    assert purges == [1, 3]
    assert found == [(1, "train/loss", 1.0), (2, "train/loss", 2.0), (3, "train/loss", 30.0)]


def test_a_full_disk_stops_the_log_with_a_clear_error(tmp_path, monkeypatch):
    log = RunLog(tmp_path, resume_step=0)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"cannot write the log of the run to .*: No space left on device"):
        log.write("train", 1, loss=1.0)
    monkeypatch.undo()
    log.close()
    assert read_log(tmp_path) == []


# -- parameters and datasets --


def moved_project(tiny_run, folder):
    """A copy of the tiny run's whole folder, whose run says that its dataset was where nothing is any more."""
    shutil.copytree(tiny_run.folder, folder)
    path = folder / "runs" / "tiny" / "dataset.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "directory": "/gone/project/data/tiny"}), encoding="utf-8")
    return folder / "runs" / "tiny"


def test_the_best_checkpoint_is_taken_unless_a_step_is_named(tiny_run):
    run = Run.open(tiny_run.run)
    best, last = run.steps
    assert run.checkpoint().step == best
    assert run.params() is run.params(best)
    assert run.checkpoint(last).step == last
    with pytest.raises(CheckpointError, match="has no checkpoint of step 12345; there are those of steps"):
        run.params(12345)


def test_a_dataset_that_moved_with_its_run_is_found_and_said(tiny_run, tmp_path, caplog):
    caplog.set_level("INFO", logger="seqrec_jax")
    run = Run.open(moved_project(tiny_run, tmp_path / "copy"))
    assert run.dataset().fingerprint == run.facts.fingerprint
    assert run.dataset() is run.dataset()
    assert [record.getMessage() for record in caplog.records] == [
        f"the dataset of {run} is not at /gone/project/data/tiny any more; reading {tmp_path / 'copy/data/tiny'}"
    ]


def test_a_dataset_beside_the_run_is_found_only_by_its_fingerprint(tiny_run, tmp_path):
    run = Run.open(moved_project(tiny_run, tmp_path / "copy"))
    shutil.move(tmp_path / "copy" / "data" / "tiny", tmp_path / "kept")
    shutil.copytree(run.directory, tmp_path / "copy" / "data" / "tiny")  # a run states the same fingerprint
    with pytest.raises(DataError, match=r"gone/project/data/tiny is not a prepared dataset: .*its directory \(--data"):
        run.dataset()
    assert run.dataset(tmp_path / "kept").fingerprint == run.facts.fingerprint
    write_dataset(small_dataset(), tmp_path / "other")
    with pytest.raises(CheckpointError, match="small numbers its 4 items differently from the 60 of"):
        run.dataset(tmp_path / "other")


def test_a_dataset_at_its_place_is_read_without_a_word(tiny_run, caplog):
    caplog.set_level("INFO", logger="seqrec_jax")
    assert Run.open(tiny_run.run).dataset().fingerprint == Run.open(tiny_run.run).facts.fingerprint
    assert not caplog.records


def test_damaged_facts_are_named(tmp_path):
    open_trial(tmp_path)
    (tmp_path / "dataset.json").write_text('{"schema_version": 1, "name": "small"}')
    with pytest.raises(DataError, match=r"dataset\.json is damaged: KeyError"):
        _ = Run.open(tmp_path).facts
