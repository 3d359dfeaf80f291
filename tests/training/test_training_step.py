"""One compiled step: its gradient, the same on any number of devices, however the steps are cut into pieces."""

from dataclasses import replace
from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import (
    BEHAVIOR_WEIGHTS,
    CONFIG,
    FIRST_TIMESTAMP,
    LENGTH,
    NUM_ITEMS,
    STEPS_PER_EPOCH,
    Steps,
    same_bits,
    shared_steps,
    tiny_model,
    tiny_params,
    tiny_rows,
    tiny_sequences,
)

from seqrec_jax.data.batches import gather_batch, history_batch
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import id_table
from seqrec_jax.model import last_states
from seqrec_jax.parallel import is_item_rows, make_mesh, over_items, replicate
from seqrec_jax.training.checkpoints import CheckpointStore
from seqrec_jax.training.config import LossConfig, LossKind, OptimizerConfig
from seqrec_jax.training.objective import Objective
from seqrec_jax.training.state import init_state
from seqrec_jax.training.step import make_run_steps
from seqrec_jax.training.update import gradient_update

LOSSES = get_args(LossKind)
PLAIN_GRADIENT = replace(CONFIG, optimizer=OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0))
ADAPTIVE = replace(
    CONFIG,
    optimizer=OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_steps=2, weight_decay=0.01, clip_norm=1.0),
    ema_decay=0.9,
)


@cache
def adaptive_steps(devices: int) -> Steps:
    return shared_steps(ADAPTIVE, devices=devices)


def gradient(steps: Steps, batch: int) -> dict:
    """The gradient as what plain gradient descent at rate 1 takes off."""
    before = tiny_params(steps.kind)
    after = steps(steps.start(), batch, batch + 1)[0].params
    return jax.tree.map(lambda old, new: old - np.asarray(new), before, after)


def test_the_gradient_is_that_of_the_mean_over_all_targets():
    steps = shared_steps(PLAIN_GRADIENT, devices=8, kind="mean", dropout=0.0)
    rows = jax.tree.map(lambda leaf: leaf[:16], tiny_rows())
    batch = gather_batch(steps.events, rows, length=LENGTH, behavior_weights=jnp.asarray(BEHAVIOR_WEIGHTS))
    trained = np.bincount(tiny_sequences().item_ids, minlength=NUM_ITEMS + 1) > 0
    model = tiny_model("mean", 0.0)

    def mean_loss(params):
        queries = model.project(params, model.encode(params, id_table(NUM_ITEMS), batch))
        scores = jnp.where(trained[None, None], queries @ model.item_vectors(params, id_table(NUM_ITEMS)).T, -jnp.inf)
        scores = scores.at[..., 0].set(-jnp.inf)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), batch.targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(batch.targets > 0, batch.weights * chosen, 0.0)) / jnp.sum(batch.weights)

    expected = jax.jit(jax.grad(mean_loss))(tiny_params("mean"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), gradient(steps, 0), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_the_same_on_one_and_on_eight_devices(loss):
    # attention has the most random sites; one loss through it is enough, since compiling takes long
    kind = "sasrec" if loss == "softmax" else "mean"
    config = replace(PLAIN_GRADIENT, loss=LossConfig(kind=loss, num_negatives=4))
    one, eight = (shared_steps(config, devices=devices, kind=kind) for devices in (1, 8))
    for batch in (0, STEPS_PER_EPOCH - 1):  # the last has rows of padding only, so some devices have no target
        first, second = gradient(one, batch), gradient(eight, batch)
        assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(first)) > 0.01
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), first, second)


@pytest.mark.parametrize(
    ("loss", "model_devices"), [("softmax", 2), ("softmax", 4), ("sampled_softmax", 4), ("in_batch", 8)]
)
def test_gradients_are_the_same_where_devices_share_the_items(loss, model_devices):
    """Meshes of 4×2, 2×4 and 1×8; 21 rows of items do not divide, so that the last devices hold rows of none."""
    kind = {("softmax", 2): "language", ("softmax", 4): "sasrec"}.get((loss, model_devices), "mean")
    fields = {"kind": "sampled_softmax", "negatives": "in_batch"} if loss == "in_batch" else {"kind": loss}
    config = replace(PLAIN_GRADIENT, loss=LossConfig(num_negatives=4, **fields))
    one, many = (
        shared_steps(config, devices=1, kind=kind),
        shared_steps(config, devices=8, model_devices=model_devices, kind=kind),
    )
    state, totals, norm = one(one.start(), 0, 1)
    shared, shared_totals, shared_norm = many(many.start(), 0, 1)
    table, shared_table = (found.params["items"]["ids"]["embedding"] for found in (state, shared))
    assert shared_table.sharding.spec == over_items(many.mesh).spec
    assert {shard.data.shape[0] for shard in shared_table.addressable_shards} == {many.num_rows // model_devices}
    assert (np.asarray(shared_table)[NUM_ITEMS + 1 :] == 0).all()
    if kind == "language":  # some heads and hidden numbers are on one device, the others on another
        layer = shared.params["encoder"]["language"]["layers"]["0"]
        for array, axis in ((layer["attention"]["query"]["kernel"], 1), (layer["feed_forward"]["down"]["kernel"], 0)):
            assert {shard.data.shape[axis] for shard in array.addressable_shards} == {array.shape[axis] // 2}
        assert layer["attention_norm"]["scale"].sharding.is_fully_replicated
    assert np.abs(table - tiny_params(kind)["items"]["ids"]["embedding"]).max() > 0.01
    shared_params = without_filling(shared.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), state.params, shared_params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), (totals, norm), (shared_totals, shared_norm))


def test_many_steps_agree_where_devices_share_the_items():
    one, many = adaptive_steps(1), shared_steps(ADAPTIVE, devices=4, model_devices=2)
    first = one(one.start(), 0, STEPS_PER_EPOCH)[0]
    second = many.one_by_one(many.start(), 0, STEPS_PER_EPOCH)
    for tree, other in ((first.params, second.params), (first.average, second.average)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tree, without_filling(other))
    moments = [leaf for leaf in jax.tree.leaves(second.optimizer) if leaf.shape[:1] == (many.num_rows,)]
    assert len(moments) == 2  # the first and the second moments of the table lie where the table lies
    assert all(leaf.sharding.spec == over_items(many.mesh).spec for leaf in moments)


def without_filling(tree):
    """Tables cut after the last item."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.asarray(leaf)[: NUM_ITEMS + 1] if is_item_rows(path) else np.asarray(leaf), tree
    )


READ = {"name": "sgd", "learning_rate": 1.0, "b1": 0.0, "rows": "read"}


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(kind="sampled_softmax", num_negatives=3, negatives_per="batch", propensity_power=0.5),
        LossConfig(kind="sampled_softmax", num_negatives=4, negatives="mixed"),
        LossConfig(kind="bpr_max", num_negatives=2),
    ],
    ids=lambda loss: f"{loss.kind}, {loss.negatives}",
)
def test_the_gradient_is_the_same_where_only_the_rows_that_are_read_are_seen(loss):
    every = shared_steps(replace(PLAIN_GRADIENT, loss=loss), devices=1)
    read = Steps(replace(PLAIN_GRADIENT, loss=loss, optimizer=OptimizerConfig(**READ)), devices=1)
    for batch in (0, STEPS_PER_EPOCH - 1):
        first, second = gradient(every, batch), gradient(read, batch)
        assert np.abs(first["items"]["ids"]["embedding"]).max() > 0.01
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), first, second)


def test_rows_that_a_step_does_not_read_keep_their_bits_and_moments():
    """One row of one window of at most ten items, and two negatives, of twenty items."""
    loss = LossConfig(kind="sampled_softmax", num_negatives=2, negatives_per="batch")
    adam = OptimizerConfig(name="adam", learning_rate=0.1, rows="read")
    steps = shared_steps(replace(CONFIG, loss=loss, optimizer=adam, batch_size=1), devices=1)
    rows = tiny_rows()
    first = steps(steps.start(), 0, 1, rows=rows)[0]
    second = steps(steps.start(), 0, 2, rows=rows)[0]

    def moved(before, after):
        return np.abs(np.asarray(after) - np.asarray(before)).max(axis=1) > 0

    table = tiny_params()["items"]["ids"]["embedding"]
    tables = table, first.params["items"]["ids"]["embedding"], second.params["items"]["ids"]["embedding"]
    in_first, in_second = moved(*tables[:2]), moved(*tables[1:])
    window = int(rows.starts[0, 0]) + np.arange(int(rows.lengths[0, 0]) + 1)
    assert in_first[tiny_sequences().item_ids[window]].all()
    assert not in_first.all() and not in_second.all() and (in_first != in_second).any()
    means = [state.optimizer[0].mu["items"]["ids"]["embedding"] for state in (first, second)]
    assert ((np.abs(means[0]).max(axis=1) > 0) == in_first).all()
    np.testing.assert_array_equal(means[0][~in_second], means[1][~in_second])


def test_reading_some_rows_agrees_where_devices_share_the_items():
    loss = LossConfig(kind="sampled_softmax", num_negatives=4, negatives_per="batch")
    config = replace(PLAIN_GRADIENT, loss=loss, optimizer=OptimizerConfig(**READ))
    state = shared_steps(config, devices=1)(shared_steps(config, devices=1).start(), 0, 1)[0]
    many = shared_steps(config, devices=4, model_devices=2)
    shared = without_filling(many(many.start(), 0, 1)[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), state.params, shared)


def test_an_objective_that_cannot_be_trained_with_is_refused():
    options = {"length": LENGTH, "behavior_weights": jnp.asarray(BEHAVIOR_WEIGHTS), "mesh": make_mesh(1)}
    update = gradient_update(optax.sgd(1.0))
    with pytest.raises(ConfigError, match=r"objective must be an Objective, got function; make one of a function"):
        make_run_steps(tiny_model(), lambda *_: jnp.zeros(()), update, config=CONFIG, **options)
    read = replace(CONFIG, loss=LossConfig(kind="bpr"), optimizer=OptimizerConfig(rows="read"))
    own = Objective(lambda queries, v_y, targets, negatives: jnp.zeros(targets.shape))
    with pytest.raises(ConfigError, match=r"rows is read, but the objective draws no negatives"):
        make_run_steps(tiny_model(), own, update, config=read, **options)


def test_no_device_gathers_the_table_or_the_scores_of_all_items():
    """Of the table and the scores of all items each device has its share only: what is exchanged is small."""
    steps = Steps(replace(PLAIN_GRADIENT, loss=LossConfig()), devices=8, model_devices=4, kind="sasrec")
    compiled = steps.run.lower(steps.start(), steps.item_table, steps.events, tiny_rows(), 0, 1).compile()
    text = compiled.as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text and "all-to-all" not in text


def test_masks_are_the_same_on_one_and_on_eight_devices():
    config = replace(PLAIN_GRADIENT, mask_rate=0.4)
    one, eight = (shared_steps(config, devices=devices, kind="bert4rec", dropout=0.0) for devices in (1, 8))
    first, second = gradient(one, 0), gradient(eight, 0)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(first)) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), first, second)
    other = gradient(shared_steps(replace(config, seed=1), devices=1, kind="bert4rec", dropout=0.0), 0)
    assert not np.allclose(first["items"]["ids"]["embedding"], other["items"]["ids"]["embedding"], atol=1e-4)


@pytest.mark.parametrize("kind", ["linear_recurrence", "sasrec", "bert4rec", "ligr", "hstu"])
def test_an_encoder_learns_which_item_follows(kind):
    """Nine in ten events are followed by the next item of the catalogue; the model predicts as for a recommendation."""
    config = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=2e-2), max_epochs=80, mask_last_share=0.9)
    model, steps = tiny_model(kind, 0.0), shared_steps(config, devices=1, kind=kind, dropout=0.0)
    params = jax.jit(model.init)(jax.random.key(0))
    state = replicate(init_state(params, steps.optimizer, with_average=False), steps.mesh)
    for _ in range(config.max_epochs):
        state = steps(state, 0, STEPS_PER_EPOCH)[0]
    histories = tiny_sequences(num_users=200, seed=5)
    batch = history_batch(histories, length=LENGTH, first_timestamp=FIRST_TIMESTAMP, masked_end=not model.causal)
    batch = jax.tree.map(jnp.asarray, batch)
    queries = model.project(state.params, last_states(model.encode(state.params, id_table(NUM_ITEMS), batch), batch))
    best = jnp.argmax((queries @ model.item_vectors(state.params, id_table(NUM_ITEMS)).T)[:, 1:], axis=1)
    last_items = histories.item_ids[histories.offsets[1:] - 1]
    assert np.mean(np.asarray(best) == last_items % NUM_ITEMS) > 0.6


def test_many_steps_agree_on_one_and_on_eight_devices():
    one, eight = adaptive_steps(1), adaptive_steps(8)
    first = one(one.start(), 0, STEPS_PER_EPOCH)[0]
    second = eight.one_by_one(eight.start(), 0, STEPS_PER_EPOCH)
    assert int(first.step) == int(second.step) == STEPS_PER_EPOCH
    assert not np.allclose(
        first.params["items"]["ids"]["embedding"], tiny_params()["items"]["ids"]["embedding"], atol=0.01
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first.params, second.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first.average, second.average)


def test_totals_count_targets_and_windows():
    steps, rows = adaptive_steps(1), tiny_rows()
    _, totals, _ = steps(steps.start(), 0, STEPS_PER_EPOCH)
    lengths = np.asarray(rows.lengths)
    assert int(totals.windows) == (lengths > 0).sum()
    assert int(totals.targets) == lengths.sum()  # every event of the data has a behaviour with a weight
    assert int(adaptive_steps(8)(adaptive_steps(8).start(), 0, 1)[1].targets) == lengths[:16].sum()


def test_pieces_of_any_size_give_the_same_bits():
    steps = adaptive_steps(1)
    whole, totals, _ = steps(steps.start(), 0, STEPS_PER_EPOCH)
    by_one = steps.one_by_one(steps.start(), 0, STEPS_PER_EPOCH)
    uneven, first_totals, _ = steps(steps.start(), 0, 3)
    uneven, last_totals, norm = steps(uneven, 3, STEPS_PER_EPOCH)
    assert same_bits(whole, by_one)
    assert same_bits(whole, uneven)
    assert float(totals.loss) == pytest.approx(float(first_totals.loss + last_totals.loss), rel=1e-6)
    squares = sum(np.square(np.asarray(leaf, dtype=np.float64)).sum() for leaf in jax.tree.leaves(whole.params))
    assert float(norm) == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_saving_and_restoring_between_steps_changes_no_bit(tmp_path):
    steps = adaptive_steps(1)
    whole = steps.one_by_one(steps.start(), 0, STEPS_PER_EPOCH)
    state = steps.one_by_one(steps.start(), 0, 2)
    store = CheckpointStore(tmp_path)
    store.save(state, {"epoch": 0})
    steps.one_by_one(state, 2, 4)  # takes over the saved state's buffers while it is being written
    store.close()
    store = CheckpointStore(tmp_path)
    restored, progress = store.restore(jax.eval_shape(steps.start), mesh=steps.mesh)
    store.close()
    assert progress == {"epoch": 0}
    assert same_bits(restored, steps.one_by_one(steps.start(), 0, 2))
    assert same_bits(whole, steps.one_by_one(restored, 2, STEPS_PER_EPOCH))


@pytest.mark.parametrize("devices", [1, 8])
def test_it_compiles_once_for_every_piece_and_epoch(devices):
    steps = adaptive_steps(devices)
    state = steps(steps.start(), 0, 1)[0]
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(listener := lambda name, *_, **__: compiled.append(name))
    try:
        rows = tiny_rows(seed=4)  # compiles nothing that counts: arrays from the host
        compiled.clear()
        for first, last in [(1, 2), (2, 3), (0, 1), (3, 5) if devices == 1 else (3, 4)]:
            state = steps(state, first, last, rows=rows)[0]
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert not [name for name in compiled if "compile" in name]
    assert steps.run._cache_size() == 1


def test_the_average_is_the_running_average_of_the_parameters():
    steps = adaptive_steps(1)
    state = steps.start()
    expected = tiny_params()
    for step in range(3):
        state = steps(state, step, step + 1)[0]
        expected = jax.tree.map(lambda mean, new: 0.9 * mean + 0.1 * np.asarray(new), expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.average, expected)


def test_the_same_step_draws_anew_in_another_epoch_and_with_another_seed():
    steps = shared_steps(PLAIN_GRADIENT, devices=1)
    later = steps.start()._replace(step=replicate(jnp.int32(STEPS_PER_EPOCH), steps.mesh))
    reseeded = shared_steps(replace(PLAIN_GRADIENT, seed=1), devices=1)
    results = [steps(steps.start(), 0, 1), steps(later, 0, 1), reseeded(reseeded.start(), 0, 1)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not same_bits(results[a][0].params, results[b][0].params)


def test_bfloat16_trains_and_stays_close_to_float32():
    config = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.05))
    losses = {}
    for precision in ("float32", "bfloat16"):
        steps = shared_steps(replace(config, precision=precision), devices=1)
        state, losses[precision] = steps.start(), []
        for _ in range(6):
            state, totals, _ = steps(state, 0, STEPS_PER_EPOCH)
            losses[precision].append(float(totals.loss) / STEPS_PER_EPOCH)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    assert losses["bfloat16"][-1] < losses["bfloat16"][0] - 0.5
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.02)
    assert losses["bfloat16"] != losses["float32"]
