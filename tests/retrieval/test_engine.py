"""The request engine and user states: against the lists and vectors of whole histories, and exported."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax import export
from tiny import TinyRun

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import Dataset, read_dataset
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.errors import ShapeError
from seqrec_jax.model import Event
from seqrec_jax.retrieval import Histories, Recommender
from seqrec_jax.retrieval.engine import answer, batch_of


@pytest.fixture(scope="module")
def dataset(tiny_run: TinyRun) -> Dataset:
    return read_dataset(tiny_run.dataset)


@pytest.fixture(scope="module")
def masked(tiny_run: TinyRun, dataset: Dataset) -> Recommender:
    """Of an untrained model that predicts masked events and is conditioned on the predicted behaviour."""
    encoder = EncoderConfig(kind="bert4rec", width=8, num_layers=1, num_heads=1, max_length=10)
    changed = replace(tiny_run.config.model, encoder=encoder, bilinear="identity", target_behavior=True)
    config = replace(tiny_run.config, model=changed)
    purchases = replace(dataset.split.config, target_behaviors=("purchase",))
    dataset = replace(dataset, split=replace(dataset.split, config=purchases))
    model, item_table = pipeline.build_model(config, dataset)
    params = model.init(jax.random.key(0))
    return Recommender.for_dataset(dataset, model, params, item_table, length=10, name="masked")


def arrays_of(recommender: Recommender, dataset: Dataset, users: np.ndarray, width: int) -> Histories:
    """Histories of some users as another program would send them, in rows of `width`, the last events kept."""
    chosen = dataset.sequences.select_users(users)
    first = recommender.engine.encoder.first_timestamp
    whole = chosen.lengths.max()
    rows = [np.zeros((len(users), whole), np.int32) for _ in range(3)]
    for row, (start, stop) in enumerate(zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True)):
        monday = (first - 4 * 86400) // (7 * 86400) * (7 * 86400) + 4 * 86400
        columns = (chosen.item_ids, chosen.behaviors, chosen.timestamps - monday)
        for table, column in zip(rows, columns, strict=True):
            table[row, : stop - start] = column[start:stop]
    item_ids, behaviors, seconds = rows
    return Histories(item_ids[:, :width], chosen.lengths.astype(np.int32), behaviors[:, :width], seconds[:, :width])


@pytest.mark.parametrize("which", ["loaded", "masked"])
def test_arrays_give_the_lists_of_recommend(which, dataset, request):
    recommender = request.getfixturevalue(which)
    short = np.flatnonzero(dataset.sequences.lengths <= 9)[:3]
    for users in (short[:1], np.r_[short, np.argmax(dataset.sequences.lengths)]):
        histories = arrays_of(recommender, dataset, users, width=dataset.sequences.lengths.max())
        found = recommender.engine(histories, k=7)
        expected = recommender.recommend(dataset.sequences.select_users(users), 7)
        np.testing.assert_array_equal(found.item_ids, expected.item_ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
        assert (found.item_ids.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_one_user_gets_the_same_bits_as_from_all_scores(loaded, dataset):
    for user in range(0, 150, 50):
        one = dataset.sequences.select_users(np.array([user]))
        found = loaded.recommend(one, 60)
        np.testing.assert_array_equal(found.scores[0], np.asarray(loaded.scores(one))[0, found.item_ids[0]])


def test_eligible_and_excluded_items_of_a_request(loaded, dataset):
    users = np.array([0, 3, 5])
    histories = arrays_of(loaded, dataset, users, width=dataset.sequences.lengths.max())
    items = np.arange(61) % 2 == 1
    excluded = np.array([[1, 3], [0, 0], [59, 0]], np.int32)
    found = loaded.engine(histories, k=60, items=items, excluded=excluded)
    for row, expected in zip(found.item_ids, ({1, 3}, set(), {59}), strict=True):
        assert set(row[row > 0].tolist()) == set(range(1, 61, 2)) - expected
    by_user = np.stack([items, ~items, items])
    assert (loaded.engine(histories, k=5, items=by_user).item_ids % 2 == [[1], [0], [1]]).all()
    nobody = Histories(*(column[:0] for column in histories[:4]))
    with pytest.raises(ShapeError, match="a request has 0 users, expected 1 to 256"):
        loaded.engine(nobody, k=5)


def test_few_functions_are_compiled(loaded):
    """The second round of requests of other sizes and lengths compiles nothing."""
    compiled = []
    for item in (1, 7):
        for users in (1, 2, 8):
            for lengths in (2, 5, 9):
                columns = (np.full((users, 9), value, np.int32) for value in (item, 0, item))
                item_ids, behaviors, seconds = columns
                histories = Histories(item_ids, np.full(users, lengths, np.int32), behaviors, seconds)
                loaded.engine(histories, k=4)
        compiled.append(loaded.engine._answer._cache_size())
    assert compiled[0] == compiled[1]


@pytest.mark.parametrize("which", ["loaded", "masked"])
def test_a_request_is_exported_for_any_number_of_users(which, dataset, request):
    recommender = request.getfixturevalue(which)
    engine, k = recommender.engine, 5
    model, encoder = engine.encoder.model, engine.encoder

    @jax.jit
    def request_of(weights, histories, items, excluded):
        return answer(model, weights, histories, items, excluded, k=k, target_behavior=encoder.target_behavior)

    length = 10
    (users,) = export.symbolic_shape("users")

    def rows(*shape):
        return jax.ShapeDtypeStruct((users, *shape), jnp.int32)

    shapes = Histories(rows(length), rows(), rows(length), rows(length))
    weights = jax.eval_shape(lambda: engine.weights)
    items = jax.ShapeDtypeStruct((61,), bool)
    exported = export.export(request_of)(weights, shapes, items, rows(2))
    for members in (np.array([4]), np.arange(3)):
        histories = engine._in_a_bucket(arrays_of(recommender, dataset, members, width=200))
        columns = [
            np.pad(column, ((0, 0), (0, length - column.shape[1]))) for column in (histories[0], *histories[2:4])
        ]
        histories = Histories(columns[0], histories.lengths, *columns[1:])
        excluded = np.tile(np.array([[7, 0]], np.int32), (len(members), 1))
        arguments = (engine.weights, histories, np.asarray(encoder.rankable), excluded)
        found, expected = exported.call(*arguments), request_of(*arguments)
        np.testing.assert_array_equal(found.item_ids, expected.item_ids)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_the_batch_of_arrays_is_that_of_histories(loaded, masked, dataset):
    for recommender in (loaded, masked):
        encoder = recommender.engine.encoder
        batch = encoder.batch(dataset.sequences.select_users(np.arange(6)), length=10)
        lengths = np.minimum(dataset.sequences.lengths[:6], 10 - encoder.masked_end).astype(np.int32)
        histories = Histories(batch.item_ids, lengths, batch.behaviors, batch.timestamps)
        made = batch_of(histories, masked_end=encoder.masked_end, target_behavior=encoder.target_behavior)
        jax.tree.map(np.testing.assert_array_equal, batch, made)


def test_states_that_follow_events_have_the_vectors_of_whole_histories(loaded, dataset):
    states, users = loaded.user_states, np.flatnonzero(dataset.sequences.lengths > 2)[:4]
    chosen = dataset.sequences.select_users(users)
    cache, v_x = states.start(4), np.zeros((4, 8), np.float32)
    counts = np.minimum(chosen.lengths, [3, 6, 8, 2])
    for step in range(counts.max()):
        where = step < counts
        places = chosen.offsets[:-1] + np.minimum(step, counts - 1)
        new, cache = states.append(
            cache,
            chosen.item_ids[places],
            behaviors=chosen.behaviors[places],
            timestamps=chosen.timestamps[places],
            where=where,
        )
        v_x = np.where(where[:, None], new, v_x)
    ages = np.arange(len(chosen.item_ids)) - chosen.offsets[chosen.users_of_events]
    first = chosen.select_events(ages < counts[chosen.users_of_events])
    np.testing.assert_allclose(v_x, loaded.user_vectors(first), rtol=1e-4, atol=1e-5)


def test_appending_is_exported_for_any_number_of_users(loaded):
    encoder = loaded.engine.encoder
    (users,) = export.symbolic_shape("users")

    def shapes(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((users, *leaf.shape[1:]), leaf.dtype), tree)

    def event(number: int) -> Event:
        ones = jnp.ones(number, jnp.int32)
        return Event(3 * ones, ones, 60 * ones, jnp.ones(number, bool))

    append = jax.jit(encoder.model.append)
    fixed = (encoder.params, encoder.item_table)
    exported = export.export(append)(*jax.eval_shape(lambda: fixed), shapes(encoder.model.start(2)), shapes(event(2)))
    for number in (1, 3):
        arguments = (*fixed, encoder.model.start(number), event(number))
        expected = append(*arguments)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6),
            exported.call(*arguments),
            expected,
        )


def test_a_frame_without_rows_and_ids_that_are_numbers(loaded):
    assert loaded.recommend(pd.DataFrame({"item_id": []}), 3).without_history == ["history"]
    assert loaded.recommend([7, 8.0, None], 3).unknown_items == ["", "7", "8"]
