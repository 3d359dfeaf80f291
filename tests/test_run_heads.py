"""Heads on a trained run: fitted to labelled rows, written, read, asked, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.data.moments import histories_before
from seqrec_jax.data.outcomes import outcome_rows
from seqrec_jax.data.shop.simulator import simulate
from seqrec_jax.errors import CheckpointError, ConfigError, DataError, ShapeError
from seqrec_jax.heads.fitting import HeadTrainingConfig
from seqrec_jax.retrieval import RunHead

pytestmark = pytest.mark.usefixtures("quick_load")
QUICK = HeadTrainingConfig(max_epochs=2, batch_size=256)


@pytest.fixture(scope="module")
def dataset(tiny_run):
    return read_dataset(tiny_run.dataset)


@pytest.fixture(scope="module")
def impressions(tiny_run):
    """Of the tiny run's own shop; a conversion is made up for every second click."""
    shop = simulate(tiny_run.config.data.shop, tiny_run.config.data.shop_seed)
    rows = shop.impressions.rename(columns={"response": "click"})
    rows = rows[rows["item_id"].isin(read_dataset(tiny_run.dataset).items["item_id"])]
    rows = rows.iloc[::5].reset_index(drop=True)
    return rows.assign(conversion=rows["click"] * (rows["click"].cumsum() % 2))


def fit(run, rows, **options):
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        return pipeline.fit_head(run, rows, config=QUICK, **options)


@pytest.fixture(scope="module")
def fitted(tiny_run, impressions, loaded, tmp_path_factory):
    """A head of click and conversion, and the run that it lies beside."""
    run = tmp_path_factory.mktemp("heads") / "tiny"
    shutil.copytree(tiny_run.run, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loaded), "load", lambda *_, **__: loaded)
        return run, fit(run, impressions, name="ads", label="click", conversion="conversion")


def test_a_head_is_read_as_it_was_written_and_ranks_by_value(fitted, impressions, dataset):
    run, report = fitted
    assert report.path == run / "heads" / "ads.npz"
    assert f"{len(impressions):,} rows at" in report.notes[0]
    head = RunHead.load(run, "ads")
    assert (head.kind, head.config.num_positions, head.classes) == ("click_and_conversion", 6, ())
    histories = dataset.sequences.select_users(np.arange(5))
    raw = [[dataset.items["item_id"][place] for place in (0, 4, 7)]] * 5
    candidates = head.numbers(raw)
    np.testing.assert_array_equal(candidates, [[1, 5, 8]] * 5)
    chances = head.probabilities(histories, candidates)
    assert chances.shape == (5, 3, 2) and (chances > 0).all() and (chances < 1).all()
    np.testing.assert_array_equal(chances, report.head.probabilities(histories, candidates))
    assert (chances[..., 0] > head.probabilities(histories, candidates, position=6)[..., 0]).all()
    values = np.zeros(len(dataset.items) + 1)
    values[[1, 5, 8]] = 1, 2, 300
    ranking = head.rank_by_value(histories, candidates, values=values)
    assert (np.asarray(ranking.item_ids)[:, 0] == 8).all()
    np.testing.assert_allclose(ranking.expected_values, -np.sort(-chances.prod(axis=2) * values[candidates]), rtol=1e-5)


def test_rows_are_judged_at_their_own_moments(fitted, impressions, dataset):
    head = fitted[1].head
    with pytest.raises(DataError, match="no column 'position'"):
        pipeline.label_examples(head, dataset, impressions.drop(columns="position"), label="click")
    with pytest.raises(DataError, match="position has 9, the head 'ads' knows 1 to 6"):
        pipeline.label_examples(head, dataset, impressions.iloc[:3].assign(position=9), label="click")
    some = impressions.iloc[::97].reset_index(drop=True)
    rows, states = pipeline.label_examples(head, dataset, some, label="click", conversion="conversion")
    of_rows = head.row_logits(states, rows)[:, 0]
    for place in (0, len(some) // 2, len(some) - 1):
        one = some.iloc[place]
        user = int(np.flatnonzero(dataset.sequences.user_ids == one["user_id"])[0])
        events = dataset.sequences.select_users(np.array([user]))
        before = events.select_events(events.timestamps < one["timestamp"])
        asked = head.logits(before, head.numbers([[one["item_id"]]]), position=int(one["position"]))
        np.testing.assert_allclose(asked[0, 0, 0], of_rows[place], rtol=1e-3, atol=1e-4)


def test_classes_of_users_alone_come_from_words_by_the_verb(run, dataset, call, tmp_path):
    """The next category: the label is that of the user's last event, foretold from those before."""
    sequences = dataset.sequences
    events = np.flatnonzero(np.diff(sequences.users_of_events, append=-1) == 0) + 1
    words = dataset.items["category"].to_numpy()[sequences.item_ids[events] - 1]
    rows = pd.DataFrame(
        {
            "user_id": sequences.user_ids[sequences.users_of_events[events]],
            "timestamp": sequences.timestamps[events],
            "next": words,
        }
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    words_of_call = ("--rows", tmp_path / "rows.csv", "--name", "category", "--label", "next")
    with jax.numpy_dtype_promotion("standard"):
        code, lines, error = call("fit-head", "--checkpoint", run, *words_of_call)
    assert (code, error, lines[-1]) == (0, "", "written    runs/tiny/heads/category.npz")
    head = RunHead.load(run, "category")
    assert head.kind == "classes" and head.classes == tuple(sorted(set(words)))
    chances = head.probabilities(sequences.select_users(np.arange(4)))
    assert chances.shape == (4, len(head.classes))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    few, _ = pipeline.label_examples(head, dataset, rows.iloc[:3], label="next")
    assert [head.classes[one - 1] for one in few.labels] == list(words[:3])
    with pytest.raises(ConfigError, match="predicts classes"):
        head.rank_by_value(sequences.select_users(np.arange(1)), np.array([[1]]), values=np.zeros(3))
    with pytest.raises(ShapeError, match="takes no candidates"):
        head.probabilities(sequences.select_users(np.arange(1)), np.array([[1]]))
    assert len(head.calibrations) == 1


def test_a_head_that_is_told_the_time_since_the_last_event_learns_who_comes_back(tiny_run, run, dataset):
    moments = dataset.first_timestamp + 43_200 * np.arange(10, 60)
    rows, _ = outcome_rows(dataset, moments, days=1)
    config = HeadTrainingConfig(max_epochs=40, batch_size=64, learning_rate=0.02, since_last=True)
    with jax.numpy_dtype_promotion("standard"):
        report = pipeline.fit_head(run, rows, name="return", config=config)
    head = RunHead.load(run, "return")
    assert head.since_last and head.config.state_width == report.head.recommender.project(np.eye(8)).shape[1] + 2
    users = np.arange(dataset.sequences.num_users)
    last = dataset.sequences.timestamps[dataset.sequences.offsets[1:] - 1]
    soon, late = (
        head.probabilities(dataset.sequences.select_users(users), times=last + days * 86_400) for days in (1, 15)
    )
    assert (soon > late).mean() > 0.9
    asked = rows.iloc[[0, len(rows) // 2]].reset_index(drop=True)
    labelled, states = pipeline.label_examples(head, dataset, asked)
    places = pd.Index(dataset.sequences.user_ids).get_indexer(asked["user_id"])
    times = asked["timestamp"].to_numpy()
    before = histories_before(dataset.sequences, places, times)
    np.testing.assert_allclose(
        head.logits(before, times=times)[:, 0], head.row_logits(states, labelled)[:, 0], rtol=1e-3, atol=1e-4
    )
    for wrong in (None, times[:1]):
        with pytest.raises(ShapeError, match=r"takes times \[2\], a second a history"):
            head.logits(before, times=wrong)


def test_rows_that_are_refused(run, impressions):
    cases = [
        ({"click": 2}, "column 'click' of the labelled rows has 2, expected 0 and 1"),
        ({"click": 0}, "are all negative"),
        ({"click": None}, "is empty in"),
        ({"item_id": "sku-none"}, r"name item 'sku-none' \([\d,]+ rows in all\), which is not among"),
        ({"position": 0}, "position has 0, expected whole numbers from 1"),
        ({"timestamp": "soon"}, "timestamp has 'soon', which is no time"),
    ]
    for columns, message in cases:
        with pytest.raises(DataError, match=message):
            fit(run, impressions.assign(**columns), label="click")
    with pytest.raises(DataError, match="column 'conversion' of the labelled rows has 'no', expected 0 and 1"):
        fit(run, impressions.assign(conversion="no"), label="click", conversion="conversion")
    with pytest.raises(DataError, match="no column 'label'"):
        fit(run, impressions)
    with pytest.raises(DataError, match="no labelled rows"):
        fit(run, impressions.iloc[:0], label="click")
    with pytest.raises(ConfigError, match="plain file name"):
        fit(run, impressions, label="click", name="a/b")
    assert not (run / "heads").exists()


def test_heads_that_cannot_be_read_or_asked(fitted, run, dataset):
    with pytest.raises(CheckpointError, match=r"no head 'ads' \(heads there: none\)"):
        RunHead.load(run, "ads")
    path = run / "heads" / "ads.npz"
    path.parent.mkdir()
    shutil.copy(fitted[1].path, path)
    head = RunHead.load(run, "ads")
    histories = dataset.sequences.select_users(np.arange(2))
    with pytest.raises(ShapeError, match="takes no times"):
        head.probabilities(histories, np.array([[1], [2]]), times=np.array([0, 0]))
    with pytest.raises(ShapeError, match="a row a history"):
        head.probabilities(histories, np.array([[1]]))
    with pytest.raises(DataError, match="candidates are from 1 to 999"):
        head.probabilities(histories, np.array([[1], [999]]))
    with pytest.raises(DataError, match="position is 7"):
        head.probabilities(histories, np.array([[1], [2]]), position=7)
    with pytest.raises(DataError, match="'sku-x'"):
        head.numbers([["sku-x"]])
    with np.load(path) as file:
        arrays = dict(file)
    facts = json.loads(str(arrays["facts"]))
    for changed, message in (({"schema_version": 9}, "schema version 9"), ({"fingerprint": "x"}, "other parameters")):
        np.savez(path, **(arrays | {"facts": np.array(json.dumps(facts | changed))}))
        with pytest.raises(CheckpointError, match=message):
            RunHead.load(run, "ads")
    path.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match="is damaged"):
        RunHead.load(run, "ads")
