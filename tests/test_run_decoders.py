"""Decoders on a trained run: fitted, written, read, judged and listed from; a law they must find; what is refused."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import yaml

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.judging import judge
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig
from seqrec_jax.items.semantic_ids import SemanticIdConfig
from seqrec_jax.pipeline import decoders
from seqrec_jax.retrieval import RunDecoder

QUICK = DecoderTrainingConfig(
    batch_size=128,
    max_epochs=2,
    codes=SemanticIdConfig(num_levels=2, codebook_size=8),
    decoder=EncoderConfig(kind="gru", width=8, num_layers=1),
)


def fit(run, config=QUICK, **options):
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        return pipeline.fit_decoder(run, config=config, **options)


@pytest.fixture(scope="module")
def dataset(tiny_run):
    return read_dataset(tiny_run.dataset)


@pytest.fixture(scope="module")
def fitted(tiny_run, loaded, tmp_path_factory):
    """A decoder of the tiny run's items, and the run that it lies beside."""
    run = tmp_path_factory.mktemp("decoders") / "tiny"
    shutil.copytree(tiny_run.run, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loaded), "load", lambda *_, **__: loaded)
        return run, fit(run)


@pytest.mark.usefixtures("quick_load")
class TestADecoderOfTheTinyRun:
    def test_it_scores_as_before_it_was_written_and_lists_the_best(self, fitted, dataset):
        run, report = fitted
        assert report.path == run / "decoders" / "decoder.npz"
        assert report.notes[0].startswith("60 of 60 items have codes") and report.codes.num_items == 60
        assert f"{report.codes.colliding_items} share all codes but the last" in report.notes[1]
        decoder = RunDecoder.load(run)
        histories = dataset.sequences.select_users(np.arange(40))
        scores = np.asarray(decoder.scores(histories))
        np.testing.assert_array_equal(scores, report.decoder.scores(histories))
        assert (scores[:, 0] == -np.inf).all() and (np.exp(scores).sum(axis=1) < 1.0001).all()
        found = decoder.lists(histories, 20, num_beams=64)
        np.testing.assert_array_equal(found.item_ids, np.argsort(-scores, axis=1)[:, :20])
        np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :20], rtol=1e-4, atol=1e-4)

    def test_only_what_may_be_listed_is(self, fitted, dataset):
        decoder = fitted[1].decoder
        histories = dataset.sequences.select_users(np.arange(30))
        candidates = np.arange(61) % 2 == 1
        found = decoder.lists(histories, 10, candidates=candidates, seen_items="excluded").item_ids
        for place, items in enumerate(found):
            seen = histories.item_ids[histories.offsets[place] : histories.offsets[place + 1]]
            assert not np.isin(items[items > 0], seen).any() and (items[items > 0] % 2 == 1).all()

    def test_users_without_history_get_the_most_popular(self, fitted, dataset):
        decoder = fitted[1].decoder
        histories = dataset.sequences.select_users(np.arange(3))
        histories = histories.select_events(histories.users_of_events != 1)
        counts = dataset.items["training_events"].to_numpy()
        found = decoder.lists(histories, 5)
        assert (np.diff(counts[found.item_ids[1] - 1]) <= 0).all() and counts[found.item_ids[1, 0] - 1] == counts.max()
        scores = np.asarray(decoder.scores(histories))
        np.testing.assert_allclose(scores[1, 1:], np.log1p(counts), rtol=1e-6)
        assert decoder.recommend(histories, 5).without_history == [histories.user_ids[1]]

    def test_lists_are_judged_as_the_scores_of_all_items_are(self, fitted, dataset, monkeypatch):
        decoder, config = fitted[1].decoder, EvaluationConfig(targets="next", cutoffs=(5, 16), metric="ndcg@5")
        cases = pipeline.cases_of(dataset, config)
        assert decoders.judged_decoder(decoder, cases, config) is decoder
        whole = judge(decoder, cases, config=config)
        monkeypatch.setattr(decoders, "MAX_SCORED_ITEMS", 10)
        listed = decoders.judged_decoder(decoder, cases, config)
        assert (whole.name, listed.name, listed.whole_ranking) == ("decoder", "decoder", False)
        # 32 beams of 60 items miss little
        for metric in ("ndcg@5", "hit_rate@16"):
            np.testing.assert_allclose(listed.per_user[metric].mean(), whole.per_user[metric].mean(), atol=0.02)

    def test_targets_have_the_state_of_the_events_before_them(self, tiny_run, loaded, dataset, monkeypatch):
        weights = np.array([1.0, 0.5, 0.0, 2.0], np.float32)
        monkeypatch.setattr(decoders, "_HISTORIES", 700)
        targets, count = decoders.training_targets(loaded, dataset, weights, seed=0)
        log, place = dataset.training_sequences, 0
        for user in range(log.num_users):
            for event in range(log.offsets[user] + 1, log.offsets[user + 1]):
                if weight := weights[log.behaviors[event]]:
                    assert targets.item_ids[place] == log.item_ids[event] and targets.weights[place] == weight
                    if place % 97 == 0:
                        before = log.select_users(np.array([user]))
                        before = before.select_events(np.arange(len(before.item_ids)) < event - log.offsets[user])
                        state = loaded.user_vectors(before)[0]
                        np.testing.assert_allclose(targets.states[place], state, rtol=1e-3, atol=1e-4)
                    place += 1
        assert place == count == len(targets.item_ids)
        monkeypatch.setattr(decoders, "MAX_TARGETS", 100)
        some, all_of_them = decoders.training_targets(loaded, dataset, weights, seed=0)
        assert (len(some.item_ids), all_of_them) == (100, count)

    def test_the_verbs(self, run, call):
        words = ["--max_epochs", "1", "--codes.num_levels", "2", "--codes.codebook_size", "8", "--decoder.kind", "gru"]
        with jax.numpy_dtype_promotion("standard"):
            code, lines, errors = call("fit-decoder", "--checkpoint", run, "--name", "small", *words)
        assert (code, errors, lines[-1]) == (0, "", "written    runs/tiny/decoders/small.npz")
        assert lines[0].startswith("items      60 of 60 items have codes")
        assert re.fullmatch(r"fitted     1 passes, -log P\(item\) of the validation targets \d\.\d{4}", lines[-2])
        code, lines, _ = call("evaluate", "--checkpoint", run, "--decoder", "small", "--parts", "[]")
        assert code == 0
        assert sum(line.startswith("small ") for line in lines) == 2  # its figures, and the model minus it
        result = json.loads((run / "metrics.json").read_text())
        assert [system["name"] for system in result["systems"]][:2] == ["sasrec", "small"]
        assert result["comparisons"][0]["baseline"] == "small"
        raw = read_dataset(result_directory(run)).items["item_id"][0]
        words = ["--history", raw, "none", "--decoder", "small", "--k", "3", "--output", "lists.csv"]
        code, lines, errors = call("recommend", "--checkpoint", run, *words)
        assert (code, lines) == (0, ["written    lists.csv: 3 rows, 1 users"])
        assert "skipped    items that the catalogue does not have: none" in errors
        code, _, errors = call("recommend", "--checkpoint", run, *words, "--query", "shoe")
        assert code == 2 and "lists of a --decoder take no --query" in errors

    def test_a_decoder_without_parameters_of_its_own_is_read_back(self, run, dataset):
        report = fit(run, replace(QUICK, max_epochs=1, decoder=EncoderConfig(kind="mean", width=8)), name="mean")
        histories = dataset.sequences.select_users(np.arange(5))
        found, again = (one.lists(histories, 5) for one in (report.decoder, RunDecoder.load(run, "mean")))
        np.testing.assert_array_equal(found.item_ids, again.item_ids)

    def test_what_is_refused(self, fitted, run):
        for options, error, message in (
            ({"name": "a/b"}, ConfigError, "a decoder's name must be a plain file name"),
            ({"feature": "text"}, ConfigError, r"no vectors 'text' of its items \(it has none\)"),
            ({"config": replace(QUICK, codes=SemanticIdConfig(1, 2))}, DataError, "more than the last level's 2"),
            ({"config": replace(QUICK, decoder=EncoderConfig(kind="bert4rec"))}, ConfigError, "cannot be bert4rec"),
        ):
            with pytest.raises(error, match=message):
                fit(run, **options)
        with pytest.raises(CheckpointError, match=r"no decoder 'x' \(decoders there: none\); `seqrec fit-decoder`"):
            RunDecoder.load(run, "x")
        with pytest.raises(ConfigError, match="k must be at least 1"):
            fitted[1].decoder.recommend(["sku-00001"], 0)
        with np.load(fitted[1].path) as file:
            arrays = dict(file)
        facts = json.loads(str(arrays["facts"])) | {"fingerprint": "x"}
        (run / "decoders").mkdir()
        np.savez(run / "decoders" / "x.npz", **(arrays | {"facts": np.array(json.dumps(facts))}))
        with pytest.raises(CheckpointError, match="was fitted on other parameters of"):
            RunDecoder.load(run, "x")


def result_directory(run):
    return json.loads((run / "dataset.json").read_text())["directory"]


def test_a_law_without_exceptions_is_found(home, call):
    """Every user goes round a ring of 20 items: nothing is left to chance after the first event."""
    starts, rows = np.random.default_rng(0).integers(0, 20, 80), ["user_id,item_id,timestamp"]
    rows += [f"u{u},i{(s + n) % 20:02},{1_700_000_000 + 60 * n}" for u, s in enumerate(starts) for n in range(9)]
    (home / "log.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    values = {
        "name": "ring",
        "data": {"source": "log.csv", "directory": "data", "split": {"rule": "leave_one_out"}},
        "model": {
            "encoder": {"kind": "mean", "width": 16, "recency_half_life": 0.5, "max_length": 8},
            "items": {"width": 16},
        },
        "training": {"batch_size": 16, "max_epochs": 8, "num_devices": 1, "optimizer": {"learning_rate": 0.01}},
        "evaluation": {"cutoffs": [1, 5], "metric": "hit_rate@1", "num_resamples": 200, "parts": []},
    }
    (home / "ring.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    words = ["--codes.num_levels", "2", "--codes.codebook_size", "8", "--decoder.kind", "gru", "--batch_size", "64"]
    with jax.numpy_dtype_promotion("standard"):
        assert call("prepare", "--config", "ring.yaml")[0] == 0
        assert call("train", "--config", "ring.yaml", "--quiet")[0] == 0
        assert call("fit-decoder", "--checkpoint", "runs/ring", *words, "--learning_rate", "0.01")[0] == 0
    cases = pipeline.cases_of(read_dataset(home / "data"), EvaluationConfig())
    found = RunDecoder.load(home / "runs" / "ring").lists(cases.histories, 1)
    assert np.mean(found.item_ids[:, 0] == cases.target_items) > 0.95
