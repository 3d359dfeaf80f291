"""Checkpoints: which are kept, what is half-written or of another model, and a disk that fills."""

import errno
import json
import os
import shutil
from contextlib import closing

import jax
import jax.numpy as jnp
import pytest
from tiny_training import same_bits

from seqrec_jax.errors import CheckpointError
from seqrec_jax.parallel import make_mesh, replicate, rows_on_mesh, state_sharding
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.state import TrainState

MESH = make_mesh(1)


def state_of(step, *, rows=4, average=False):
    params = {"items": {"ids": {"embedding": jnp.full((rows, 3), float(step))}}, "bias": jnp.arange(2.0)}
    optimizer = {"mean": jnp.full((rows, 3), -float(step))}
    kept = jax.tree.map(lambda leaf: leaf + 0.5, params) if average else {}
    return replicate(TrainState(params, optimizer, kept, jnp.int32(step)), MESH)


def restore(store, **options):
    return store.restore(jax.eval_shape(lambda: state_of(1, **options)), mesh=MESH)


def restore_params(store, step=None, **options):
    return store.restore_params(state_of(1, **options).params, step=step, mesh=MESH)


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    yield store
    store.close()


def steps_on_disk(store):
    store.wait()
    return sorted(int(name) for name in os.listdir(store.directory) if name.isdigit())


def test_the_best_and_the_last_are_kept(store):
    kept = []
    for step, score in [(1, None), (2, 0.5), (3, 0.7), (4, None), (5, 0.6), (6, None), (7, 0.7)]:
        store.save(state_of(step), {"epoch": step}, score=score)
        kept.append((steps_on_disk(store), store.best_step, store.last_step))
    assert kept == [
        ([1], 1, 1),  # none is validated: the last counts as the best
        ([2], 2, 2),
        ([3], 3, 3),
        ([3, 4], 3, 4),
        ([3, 5], 3, 5),
        ([3, 6], 3, 6),
        ([7], 7, 7),  # of equal ones the later
    ]


def test_what_is_saved_is_what_is_restored(store):
    store.save(state_of(2), {"epoch": 1, "best_score": float("-inf")}, score=0.5)
    store.save(state_of(3), {"epoch": 2})
    state, progress = restore(store)
    assert same_bits(state, state_of(3))
    assert progress == {"epoch": 2}
    params, step = restore_params(store)
    assert step == 2 and same_bits(params, state_of(2).params)
    params, step = restore_params(store, step=3)
    assert step == 3 and same_bits(params, state_of(3).params)
    assert store.progress(2) == {"epoch": 1, "best_score": float("-inf")}


def test_with_an_average_that_is_what_is_read_as_parameters(store):
    store.save(state_of(2, average=True), {})
    assert same_bits(restore_params(store)[0], state_of(2, average=True).average)
    assert same_bits(restore(store, average=True)[0], state_of(2, average=True))


def test_a_step_is_saved_once(store):
    store.save(state_of(2), {"epoch": 1}, score=0.5)
    store.save(state_of(2), {"epoch": 9})
    assert store.progress(2) == {"epoch": 1}
    assert store.best_step == 2


def test_a_directory_that_is_missing_or_empty(tmp_path, store):
    with pytest.raises(CheckpointError, match=r"absent does not exist: nothing was trained there"):
        CheckpointStore(tmp_path / "absent", read_only=True)
    assert store.last_step is None and store.best_step is None
    for read in (restore, restore_params):
        with pytest.raises(CheckpointError, match=r"has no whole checkpoint; the run was stopped before"):
            read(store)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot use .*file for checkpoints: it is a file"):
        CheckpointStore(tmp_path / "file")


def test_a_step_that_is_not_there(store):
    store.save(state_of(2), {})
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 9; there are those of steps \[2\]"):
        restore_params(store, step=9)


def half_written(directory, whole, step):
    """What a kill leaves in the middle of writing: Orbax renames the directory when all of it is there."""
    left = directory / f"{step}.orbax-checkpoint-tmp"
    shutil.copytree(directory / str(whole), left)
    (left / "params").rename(left / "params.orbax-checkpoint-tmp")
    return left


def test_half_written_checkpoints_are_ignored_and_cleared_by_the_next_training(store):
    store.save(state_of(2), {"epoch": 1})
    store.wait()
    left = half_written(store.directory, 2, 9)
    reader = CheckpointStore(store.directory, read_only=True)
    assert reader.last_step == 2
    assert same_bits(restore(reader)[0], state_of(2))
    reader.close()
    assert left.exists(), "who only reads may not remove what another process is writing"
    trainer = CheckpointStore(store.directory)
    assert trainer.last_step == 2
    trainer.save(state_of(3), {"epoch": 2})
    trainer.wait()
    assert not left.exists()
    assert same_bits(restore(trainer)[0], state_of(3))
    trainer.close()


def test_only_half_written_checkpoints(tmp_path):
    first = CheckpointStore(tmp_path)
    first.save(state_of(2), {})
    first.close()
    half_written(tmp_path, 2, 3)
    shutil.rmtree(tmp_path / "2")
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match="has no whole checkpoint"):
        restore(store)
    store.close()


def test_a_checkpoint_of_another_model_names_the_parameters(store):
    store.save(state_of(2), {})
    message = r"does not fit this model, or is damaged: items\.ids\.embedding is \(4, 3\) there, \(5, 3\) here"
    with pytest.raises(CheckpointError, match=message):
        restore(store, rows=5)
    with pytest.raises(CheckpointError, match=message):
        restore_params(store, rows=5)
    other = {**state_of(2).params, "norm": jnp.zeros(7)}
    with pytest.raises(CheckpointError, match=r"norm is absent there, \(7,\) here"):
        store.restore_params(other, mesh=MESH)
    del other["norm"], other["bias"]
    with pytest.raises(CheckpointError, match=r"bias is \(2,\) there, absent here"):
        store.restore_params(other, mesh=MESH)


def test_a_damaged_checkpoint(store):
    store.save(state_of(2), {})
    store.wait()
    for file in (store.directory / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint 2 in .* does not fit this model, or is damaged"):
        restore(store)


def test_a_checkpoint_of_another_schema_version(store):
    store.save(state_of(2), {"epoch": 1})
    store.wait()
    path = store.directory / "2" / "progress" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    for read in (restore, restore_params):
        with pytest.raises(CheckpointError, match="has checkpoint schema version 99, this release reads 1; use the"):
            read(store)


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_full_disk_is_one_clear_error_and_the_earlier_checkpoint_stays(store, monkeypatch, at):
    store.save(state_of(2), {"epoch": 1})
    store.wait()
    rename = os.rename

    def full(*arguments, **options):
        if at == "start" or any("checkpoints/3." in str(argument) for argument in arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(*arguments, **options)

    # the call itself fails, or the thread that writes in the background, when it renames what is whole
    monkeypatch.setattr(*((store._manager, "save") if at == "start" else (os, "rename")), full)
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*checkpoints: the disk is full; the "):
        store.save(state_of(3), {"epoch": 2})
        store.wait()
    monkeypatch.undo()
    again = CheckpointStore(store.directory)
    state, progress = restore(again)
    assert progress == {"epoch": 1}
    assert same_bits(state, state_of(2))
    again.close()


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 2)])
def test_a_checkpoint_is_read_onto_any_mesh(tmp_path, before, after):
    """Seven rows, 0 and six items, filled up to eight where devices share them."""

    def filled(model_devices, value):
        mesh = make_mesh(4, model_devices=model_devices)
        rows = rows_on_mesh(6, model_devices=model_devices)
        table = jnp.pad(jnp.full((7, 3), value), ((0, rows - 7), (0, 0)))
        params = {"items": {"ids": {"embedding": table}}, "bias": jnp.arange(2.0)}
        state = TrainState(params, {"mean": jax.tree.map(lambda leaf: 2.0 * leaf, params)}, {}, jnp.int32(3))
        return jax.device_put(state, state_sharding(state, mesh)), mesh

    with closing(CheckpointStore(tmp_path)) as store:
        store.save(filled(before, 5.0)[0], {"num_items": 6})
        store.wait()
        expected, mesh = filled(after, 5.0)
        state, _ = store.restore(jax.eval_shape(lambda: filled(after, 0.0)[0]), mesh=mesh)
        assert same_bits(state, expected)
        jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) or pytest.fail(), state, expected)
        params, _ = store.restore_params(filled(1, 0.0)[0].params, mesh=make_mesh(1))
        assert same_bits(params, filled(1, 5.0)[0].params)
        with pytest.raises(CheckpointError, match=r"items.ids.embedding is \(7, 3\) there, \(5, 3\) here"):
            store.restore_params({"items": {"ids": {"embedding": jnp.zeros((5, 3))}}, "bias": jnp.zeros(2)}, mesh=MESH)
