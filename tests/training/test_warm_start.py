"""A run that continues yesterday's parameters on today's log."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.batches import history_batch
from seqrec_jax.data.dataset import prepare_dataset, write_dataset
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import CheckpointError
from seqrec_jax.model import last_states
from seqrec_jax.parallel import make_mesh
from seqrec_jax.retrieval import Recommender
from seqrec_jax.settings import parse_config
from seqrec_jax.training.checkpoints import CheckpointStore

LENGTH = 6


def log_of(users, items, days, seed):
    rng = np.random.default_rng(seed)
    size = len(users) * 8
    return pd.DataFrame(
        {
            "user_id": np.repeat(users, 8),
            "item_id": rng.choice(items, size),
            "timestamp": 86_400 * days + np.tile(np.arange(8), len(users)),
        }
    )


YESTERDAY = log_of([f"u{n:02}" for n in range(30)], [f"i{n:02}" for n in range(12)], 0, seed=0)
# sorts before all old ids, so that numbering everything anew would move them
NEW_ITEMS = ["a brand new one", "i05b"]
TODAY = pd.concat([YESTERDAY, log_of(["u00", "u01", "a new user"], [*NEW_ITEMS, "i03"], 1, seed=1)])


def experiment(folder, name, events, *, vocabulary=(), known_items=(), **training):
    """A prepared dataset and its configuration."""
    dataset = prepare_dataset(
        events, name=name, split=SplitConfig("leave_one_out"), vocabulary=vocabulary, known_items=known_items
    )
    write_dataset(dataset, folder / name)
    values = {
        "name": name,
        "data": {"directory": str(folder / name)},
        "model": {"encoder": {"kind": "mean", "width": 8, "max_length": LENGTH}, "items": {"width": 8}},
        "training": {"max_epochs": 2, "batch_size": 8, "optimizer": {"learning_rate": 0.05}, **training},
    }
    return parse_config(ExperimentConfig, values=values), dataset


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    config, dataset = experiment(folder, "yesterday", YESTERDAY)
    run, _ = pipeline.train(config, runs=folder / "runs", show_progress=False)
    return folder, run, dataset


def warm_params(folder, run, name, events, **options):
    config, dataset = experiment(folder, name, events, **options)
    model, table = pipeline.build_model(config, dataset)
    like = jax.jit(model.init)(jax.random.key(config.training.seed))
    return pipeline.warm_start_params(str(run), dataset, like=like, seed=0), like, model, table, dataset


@pytest.fixture(scope="module")
def today(yesterday):
    folder, run, before = yesterday
    return warm_params(folder, run, "today", TODAY, vocabulary=list(before.items["item_id"]))


def test_old_ids_do_not_move_and_new_ones_follow(yesterday, today):
    before, after = yesterday[2], today[-1]
    assert list(after.items["item_id"]) == [*before.items["item_id"], *NEW_ITEMS]
    assert "a new user" in after.sequences.user_ids


def test_old_rows_are_kept_and_new_ones_are_fresh(yesterday, today):
    run, (params, like, *_) = yesterday[1], today
    old = Recommender.load(run).params
    size = len(old["items"]["ids"]["embedding"])
    rows = np.asarray(params["items"]["ids"]["embedding"])
    np.testing.assert_array_equal(rows[:size], old["items"]["ids"]["embedding"])
    assert rows.shape == like["items"]["ids"]["embedding"].shape == (size + len(NEW_ITEMS), 8)
    fresh = rows[size:]
    assert 0 < np.abs(fresh).max() <= 0.05 and not np.array_equal(fresh[0], fresh[1])
    kept, others = ({**tree, "items": None} for tree in (params, old))
    jax.tree.map(np.testing.assert_array_equal, kept, others)


def test_before_the_first_step_old_items_score_as_yesterday(yesterday, today):
    _, run, before = yesterday
    params, _, model, table, after = today
    histories = before.sequences
    batch = jax.tree.map(jnp.asarray, history_batch(histories, length=LENGTH, first_timestamp=after.first_timestamp))
    scored = jax.jit(
        lambda params: (
            model.project(params, last_states(model.encode(params, table, batch), batch))
            @ model.item_vectors(params, table).T
        )
    )(params)
    expected = np.asarray(Recommender.load(run).scores(histories))[:, 1:]
    found = np.asarray(scored)[:, 1 : expected.shape[1] + 1]
    assert np.ptp(expected[0]) > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused_with_a_way_out(yesterday):
    folder, run, before = yesterday

    def refuse(name, events, from_run=run, **options):
        dataset = experiment(folder, name, events, **options)[1]
        pipeline.warm_start_params(str(from_run), dataset, like={}, seed=0)

    with pytest.raises(CheckpointError, match=r"the dataset does not begin with the 12 items of .*yesterday; prepare"):
        refuse("numbered anew", TODAY)
    old = list(before.items["item_id"])
    with pytest.raises(
        CheckpointError, match=r"was trained with the behaviours \['event'\], the dataset has \['view'\]"
    ):
        refuse("renamed", TODAY.assign(behavior="view"), vocabulary=old)
    with pytest.raises(CheckpointError, match=r"has other parameters than this configuration; use its model section"):
        refuse("another model", TODAY, vocabulary=old)
    with pytest.raises(CheckpointError, match=r"nowhere is not a run: it does not exist"):
        refuse("lost", TODAY, folder / "nowhere")
    store = CheckpointStore(run / "checkpoints", read_only=True)
    wider = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], 9)), Recommender.load(run).params)
    with pytest.raises(CheckpointError, match=r"items\.ids\.embedding is \(13, 8\) there, \(13, 9\) here"):
        store.restore_params(wider, mesh=make_mesh(1))
    store.close()


def test_items_without_events_today_stay_known(yesterday):
    """A log of the new events alone must not forget what was learnt."""
    folder, run, before = yesterday
    old = list(before.items["item_id"])
    only_new = log_of([f"n{n:02}" for n in range(30)], ["i00", "i01", "i02", "fresh"], 1, seed=2)
    params, _, model, table, dataset = warm_params(folder, run, "only new", only_new, vocabulary=old, known_items=old)
    absent = ~dataset.items["item_id"].isin(["i00", "i01", "i02", "fresh"]).to_numpy()
    assert absent.sum() == 9
    assert (dataset.items["training_events"][absent] == 0).all()
    v_y = np.asarray(model.item_vectors(params, table))[1:]
    trained = Recommender.load(run).item_vectors()[1:]
    np.testing.assert_array_equal(v_y[: len(old)], trained)
    assert np.abs(v_y[:12][absent[:12]]).max() > 0
