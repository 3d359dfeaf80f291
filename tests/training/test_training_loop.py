"""The loop: what it returns, logs and keeps, when it stops, and that stopping changes nothing of the result."""

import signal
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import (
    CONFIG,
    LENGTH,
    NUM_ITEMS,
    STEPS_PER_EPOCH,
    same_bits,
    share_compiled,
    tiny_data,
    tiny_model,
    tiny_params,
    train_tiny,
)

from seqrec_jax.errors import CheckpointError, ConfigError, DataError, DivergenceError
from seqrec_jax.items import id_table
from seqrec_jax.parallel import make_mesh
from seqrec_jax.training import loop
from seqrec_jax.training.adapters.config import AdaLoraConfig, FineTuningConfig
from seqrec_jax.training.adapters.paths import flat_params
from seqrec_jax.training.adapters.wiring import add_adapters, with_adapters
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.config import OptimizerConfig
from seqrec_jax.training.log import read_log
from seqrec_jax.training.loop import train
from seqrec_jax.training.state import init_state, make_optimizer

TOTAL_STEPS = CONFIG.max_epochs * STEPS_PER_EPOCH
shared_run_steps = share_compiled(loop.make_run_steps)


@pytest.fixture(autouse=True)
def compile_once(monkeypatch):
    monkeypatch.setattr(loop, "make_run_steps", shared_run_steps)


def distance_moved(params):
    """A figure that grows while the parameters move away from where they began."""
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).sum(), params, tiny_params())
    return {"score": float(sum(jax.tree.leaves(moved)))}


def scripted(*scores):
    """A validation that gives these scores, and afterwards the parameters that it saw."""
    left, seen = list(scores), []

    def validate(params):
        seen.append(jax.tree.map(np.asarray, params))
        return {"score": left.pop(0)}

    validate.seen = seen
    return validate


def open_checkpoints(directory):
    return CheckpointStore(directory / "checkpoints", read_only=True)


def last_state(directory, config=CONFIG):
    """The state of the last checkpoint, its progress without the clock, and its step."""
    store = open_checkpoints(directory)
    optimizer = make_optimizer(config.optimizer, total_steps=TOTAL_STEPS)
    like = jax.eval_shape(lambda: init_state(tiny_params(), optimizer, with_average=config.ema_decay is not None))
    state, progress = store.restore(like, mesh=make_mesh(1))
    store.close()
    return state, {name: value for name, value in progress.items() if name != "seconds"}


def rows_of(directory, kind):
    return [row for row in read_log(directory) if row["kind"] == kind]


def without_clock(rows):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("whole")
    progress = train_tiny(directory, validate=distance_moved)
    return directory, progress


def assert_same_result(directory, whole_run):
    expected, found = last_state(whole_run[0]), last_state(directory)
    assert same_bits(found[0], expected[0])
    assert found[1] == expected[1]
    for kind in ("validation", "end"):
        assert without_clock(rows_of(directory, kind)) == without_clock(rows_of(whole_run[0], kind))
    steps = [row["step"] for row in rows_of(directory, "train")]
    assert steps == sorted(set(steps)) and steps[-1] == TOTAL_STEPS


def test_a_run_to_its_end(whole_run):
    directory, progress = whole_run
    assert progress.finished and progress.epoch == CONFIG.max_epochs
    validations = rows_of(directory, "validation")
    assert [row["step"] for row in validations] == [STEPS_PER_EPOCH * epoch for epoch in (1, 2, 3, 4)]
    assert [row["epoch"] for row in validations] == [1, 2, 3, 4]
    assert progress.best_score == max(row["score"] for row in validations)
    assert [(row["step"], row["stopped_early"]) for row in rows_of(directory, "end")] == [(TOTAL_STEPS, False)]
    train = rows_of(directory, "train")
    assert {"loss", "learning_rate", "parameter_norm", "targets_per_second", "sequences_per_second"} <= set(train[0])
    assert train[0]["step"] == 1 and train[-1]["step"] == TOTAL_STEPS
    assert all(row["memory_bytes"] > 2**20 and row["targets_per_second"] > 0 for row in train)
    assert train[-1]["loss"] < train[0]["loss"] - 0.1
    assert list((directory / "tensorboard").iterdir())
    state, saved = last_state(directory)
    assert int(state.step) == TOTAL_STEPS and saved["finished"]
    assert saved["first_loss"] == train[0]["loss"]


def test_a_finished_run_started_again_does_nothing(whole_run):
    directory, progress = whole_run

    def contents():
        return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}

    before = contents()

    def validate(params):
        raise AssertionError("nothing is left to validate")

    assert train_tiny(directory, validate=validate) == progress
    assert contents() == before


def test_parameters_that_are_passed_stay_usable(tmp_path):
    params = jax.tree.map(jnp.asarray, tiny_params())
    train_tiny(tmp_path, params=params, max_epochs=1)
    assert same_bits(params, tiny_params())


class Interrupting:
    """Sends the process a signal when the log gets its first line of a kind at or after a step."""

    def __init__(self, monkeypatch, kind, step, number=signal.SIGINT):
        real = loop.RunLog.write

        def write(log, kind_here, step_here, **values):
            real(log, kind_here, step_here, **values)
            if (kind_here, step_here >= step) == (kind, True) and not self.sent:
                self.sent = True
                signal.raise_signal(number)

        self.sent = False
        monkeypatch.setattr(loop.RunLog, "write", write)
        # short chunks, whatever the clock says, so that steps within an epoch are reached
        monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)


@pytest.mark.parametrize(
    ("kind", "step", "number"),
    [
        ("train", 1, signal.SIGINT),  # after the first step
        ("train", 7, signal.SIGTERM),  # within an epoch, by a polite kill
        ("train", 10, signal.SIGINT),  # after the last step of an epoch, before its validation
        ("validation", 10, signal.SIGINT),  # during a validation
        ("train", TOTAL_STEPS, signal.SIGINT),  # after the very last step
    ],
)
def test_ctrl_c_saves_and_the_run_continues_to_the_same_result(tmp_path, monkeypatch, whole_run, kind, step, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    interrupting = Interrupting(monkeypatch, kind, step, number)
    progress = train_tiny(tmp_path, validate=distance_moved)
    assert interrupting.sent
    assert progress.finished == (step == TOTAL_STEPS)
    assert int(last_state(tmp_path)[0].step) == step
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert train_tiny(tmp_path, validate=distance_moved).finished
    assert_same_result(tmp_path, whole_run)


def test_adalora_stopped_between_two_cuts_ends_with_the_same_bits(tmp_path, monkeypatch):
    """Ranks, and what decides them, are part of the state."""
    ranks = AdaLoraConfig(initial_rank=3, target_rank=1, warmup_steps=2, final_steps=4)
    fine_tuning = FineTuningConfig(mode="adalora", targets=("encoder",), adalora=ranks)
    config = replace(CONFIG, fine_tuning=fine_tuning)
    base = jax.tree.map(jnp.asarray, tiny_params("sasrec"))
    params = add_adapters(base, fine_tuning, key=jax.random.key(2))
    model, data = with_adapters(tiny_model("sasrec"), fine_tuning), (tiny_data(), id_table(NUM_ITEMS))

    def run(name):
        where = tmp_path / name
        progress = train(model, params, *data, config=config, length=LENGTH, directory=where, show_progress=False)
        store = open_checkpoints(where)
        found, _ = store.restore_params(params, mesh=make_mesh(1))
        store.close()
        return progress, found

    _, expected = run("whole")
    left = [leaf for path, leaf in flat_params(expected).items() if path.endswith("/singular")]
    assert sum(int((leaf != 0).sum()) for leaf in left) <= len(left) < sum(leaf.size for leaf in left)
    interrupting = Interrupting(monkeypatch, "train", 9)
    progress, _ = run("stopped")
    assert interrupting.sent and not progress.finished
    progress, found = run("stopped")
    assert progress.finished
    assert same_bits(found, expected)


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    def validate(params):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("interrupted before this line")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(tmp_path, validate=validate)
    assert signal.getsignal(signal.SIGINT) is before


def test_checkpoints_by_time_do_not_collide_with_those_of_an_epoch(tmp_path, monkeypatch, whole_run):
    saved = []
    real = CheckpointStore.save

    def save(store, state, progress, *, score=None):
        saved.append((int(state.step), score is not None))
        real(store, state, progress, score=score)

    monkeypatch.setattr(CheckpointStore, "save", save)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    train_tiny(tmp_path, validate=distance_moved, checkpoint_seconds=1e-9)
    ends = {STEPS_PER_EPOCH * epoch for epoch in range(1, 5)}
    assert saved == [(step, step in ends) for step in range(1, TOTAL_STEPS + 1)]
    assert_same_result(tmp_path, whole_run)


def test_the_best_is_kept_and_training_stops_early(tmp_path):
    validate = scripted(0.1, 0.5, 0.3, 0.4, 0.9)
    progress = train_tiny(tmp_path, validate=validate, max_epochs=10, patience=2)
    assert progress.finished and progress.epoch == 4
    assert (progress.best_score, progress.best_step) == (0.5, 2 * STEPS_PER_EPOCH)
    store = open_checkpoints(tmp_path)
    assert (store.best_step, store.last_step) == (2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH)
    best, step = store.restore_params(tiny_params(), mesh=make_mesh(1))
    assert step == 2 * STEPS_PER_EPOCH and same_bits(best, validate.seen[1])
    store.close()
    assert rows_of(tmp_path, "end")[0]["stopped_early"] is True


def test_the_best_score_and_patience_survive_a_stop(tmp_path, monkeypatch):
    Interrupting(monkeypatch, "train", 2 * STEPS_PER_EPOCH + 2)
    progress = train_tiny(tmp_path, validate=scripted(0.5, 0.3), max_epochs=10, patience=2)
    assert not progress.finished and progress.validations_without_gain == 1
    validate = scripted(0.4)
    progress = train_tiny(tmp_path, validate=validate, max_epochs=10, patience=2)
    assert progress.finished and (progress.best_score, progress.best_step) == (0.5, STEPS_PER_EPOCH)
    store = open_checkpoints(tmp_path)
    assert (store.best_step, store.last_step) == (STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH)
    store.close()


def test_equal_scores_are_no_gain_and_the_later_one_is_kept(tmp_path):
    progress = train_tiny(tmp_path, validate=scripted(0.5, 0.5, 0.5), max_epochs=10, patience=2)
    assert progress.epoch == 3 and progress.best_step == 3 * STEPS_PER_EPOCH
    store = open_checkpoints(tmp_path)
    assert store.best_step == progress.best_step
    store.close()


def test_validation_is_as_rare_as_asked_and_always_at_the_end(tmp_path):
    validate = scripted(0.1, 0.2, 0.3)
    train_tiny(tmp_path, validate=validate, max_epochs=5, validate_every=2)
    assert [row["epoch"] for row in rows_of(tmp_path, "validation")] == [2, 4, 5]
    assert len(validate.seen) == 3


def test_without_validation_the_last_checkpoint_is_the_result(tmp_path):
    progress = train_tiny(tmp_path, max_epochs=2)
    assert progress.finished
    store = open_checkpoints(tmp_path)
    assert store.best_step == store.last_step == 2 * STEPS_PER_EPOCH
    store.close()


def test_the_average_is_what_is_validated_and_saved(tmp_path):
    config = replace(CONFIG, ema_decay=0.5)
    validate = scripted(0.1, 0.2)
    train_tiny(tmp_path, validate=validate, config=config, max_epochs=2)
    state, _ = last_state(tmp_path, config)
    assert not same_bits(state.average, state.params)
    assert same_bits(validate.seen[-1], state.average)
    store = open_checkpoints(tmp_path)
    params, _ = store.restore_params(tiny_params(), mesh=make_mesh(1))
    assert same_bits(params, state.average)
    store.close()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_rate_that_is_far_too_high_stops_with_an_explanation(tmp_path, name):
    with pytest.raises(DivergenceError) as error:
        train_tiny(tmp_path, optimizer=OptimizerConfig(name=name, learning_rate=1e6))
    text = str(error.value)
    assert "training diverged at or before step " in text
    assert "the learning rate 1.00e+06; no checkpoint was made yet. Lower training.optimizer.learning_rate" in text
    assert "clip_norm" in text
    # Adam's steps have a length, so its loss explodes and stays finite
    assert name == "sgd" or "nan" not in text


@pytest.mark.parametrize("what", ["loss", "parameters"])
def test_a_nan_stops_before_it_can_be_saved(tmp_path, monkeypatch, what):
    real = loop.make_run_steps
    poisoned_step = 2 * STEPS_PER_EPOCH  # the end of an epoch, where a checkpoint is due

    def make(*arguments, **options):
        run_steps = real(*arguments, **options)

        def poisoned(state, *inputs):
            state, totals, norm = run_steps(state, *inputs)
            if int(state.step) >= poisoned_step:
                if what == "loss":
                    totals = totals._replace(loss=totals.loss * np.nan)
                else:
                    state = state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
                    norm = norm * np.nan
            return state, totals, norm

        return poisoned

    monkeypatch.setattr(loop, "make_run_steps", make)
    with pytest.raises(
        DivergenceError, match=f"the last good checkpoint is of step {STEPS_PER_EPOCH}\\. Lower"
    ) as error:
        train_tiny(tmp_path, validate=distance_moved)
    assert "nan" in str(error.value) and f"training.warm_start {tmp_path} would start it" in str(error.value)
    state, progress = last_state(tmp_path)
    assert int(state.step) == STEPS_PER_EPOCH and progress["epoch"] == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_parameters_that_overflow_in_the_last_step_are_noticed(tmp_path, monkeypatch):
    # the loss of a step is taken before its update, so it can be finite while the new parameters are not
    optimizer = OptimizerConfig(name="sgd", learning_rate=3e38, b1=0.0)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    with pytest.raises(DivergenceError, match=r"at or before step 1: the loss is [\d.]+ .*parameters (inf|nan)"):
        train_tiny(tmp_path, optimizer=optimizer)
    assert open_checkpoints(tmp_path).last_step is None


def test_figures_that_cannot_decide(tmp_path):
    with pytest.raises(ConfigError, match=r"the validation gives nan for score, .* choose another of recall"):
        train_tiny(tmp_path / "nan", validate=lambda params: {"score": float("nan"), "recall": 0.5})
    with pytest.raises(ConfigError, match=r"the validation gives None for score, .* choose another of recall"):
        train_tiny(tmp_path / "absent", validate=lambda params: {"recall": 0.5})


def test_a_batch_that_devices_cannot_share(tmp_path):
    with pytest.raises(ConfigError, match="batch_size is 12, which 8 devices cannot share evenly; choose a multiple"):
        train_tiny(tmp_path, batch_size=12, num_devices=None)
    with pytest.raises(ConfigError, match="num_devices is 9, but 8 devices are visible"):
        train_tiny(tmp_path, num_devices=9)


def test_nobody_with_two_events(tmp_path):
    data = loop.TrainingData(
        loop.Sequences(
            np.array(["a", "b"], dtype=object),
            np.array([0, 1, 2]),
            np.array([1, 2], dtype=np.int32),
            np.array([0, 0]),
            np.zeros(2, dtype=np.int8),
            np.zeros(2, dtype=np.float32),
        ),
        0,
        np.ones(1, dtype=np.float32),
        3,
    )
    with pytest.raises(DataError, match="no user among 2 has two training events, so there is nothing to predict"):
        loop.train(tiny_model(), {}, data, id_table(3), config=CONFIG, length=10, directory=tmp_path)


def test_a_full_disk_ends_training_with_a_clear_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        train_tiny(tmp_path)


def test_on_eight_devices_it_ends_near_one_device(tmp_path, whole_run):
    train_tiny(tmp_path, validate=distance_moved, num_devices=None)
    expected, found = last_state(whole_run[0])[0], last_state(tmp_path)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found.params, expected.params)


def test_the_progress_bar_shows_rates_and_time_left(tmp_path, capsys):
    data_options = {"config": replace(CONFIG, max_epochs=2), "show_progress": True}
    train_tiny(tmp_path, validate=distance_moved, **data_options)
    text = capsys.readouterr().err
    for part in ("loss=", "targets/s=", "sequences/s=", "score=", f"{2 * STEPS_PER_EPOCH}/{2 * STEPS_PER_EPOCH}", "<"):
        assert part in text


@pytest.mark.parametrize("packing", [False, True])
def test_a_streamed_run_has_the_bits_of_one_whose_events_are_all_on_the_device(tmp_path, packing):
    """Pieces of two batches of five, so that the last one is not full; stopped within a piece and continued."""
    settings = {"packing": packing, "max_epochs": 2, "validate": distance_moved}
    resident = train_tiny(tmp_path / "resident", **settings)
    streamed = train_tiny(tmp_path / "streamed", stream_batches=2, **settings)
    assert asdict(resident) | {"seconds": 0.0} == asdict(streamed) | {"seconds": 0.0}
    assert same_bits(last_state(tmp_path / "streamed")[0], last_state(tmp_path / "resident")[0])
