"""Linear probes against scikit-learn, planted labels, labels of nothing, and labels learned by heart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.evaluation.representation import probes
from seqrec_jax.evaluation.representation.probes import fit_probe, probe_table


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def classes_of(vectors, count, *, noise, seed=1):
    """Labels that a linear function of the vectors tells, as far as there is no noise."""
    random = np.random.default_rng(seed)
    scores = vectors @ random.normal(size=(vectors.shape[1], count)) + noise * random.normal(size=(len(vectors), count))
    return scores.argmax(axis=1)


class WithRidge:
    """The covariance that the probe uses, for scikit-learn."""

    def fit(self, inputs):
        centered = inputs - inputs.mean(axis=0)
        self.covariance_ = centered.T @ centered / len(inputs) + 0.01 * np.eye(inputs.shape[1])


@pytest.mark.parametrize("classes", [0, 2, 5])
def test_predictions_agree_with_scikit_learn(classes):
    vectors = gaussian(120, 6) * np.arange(1, 7) + 3
    truth = classes_of(vectors, classes, noise=3.0) if classes else vectors @ gaussian(6) + gaussian(120, seed=2)
    in_fold = np.random.default_rng(3).integers(0, 3, size=120)
    found = probes._predictions(vectors, truth[None], in_fold, classes=classes, ridge=0.01)[0]
    for fold in range(3):
        held_out = in_fold == fold
        if classes:
            model = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=WithRidge())
        else:
            model = Ridge(alpha=0.01 * (~held_out).sum())
        model = make_pipeline(StandardScaler(), model).fit(vectors[~held_out], truth[~held_out])
        expected = model.decision_function(vectors[held_out]) if classes == 2 else model.predict(vectors[held_out])
        np.testing.assert_allclose(found[held_out], expected, rtol=1e-6)


def test_figures_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    weights = random.integers(0, 4, size=(5, 60)).astype(np.float64)
    truth, scores = random.integers(0, 2, size=60), random.integers(0, 6, size=60).astype(np.float64)  # with ties
    classes, guesses = random.integers(0, 3, size=(2, 60))
    for row, weight in enumerate(weights):
        found = {name: figure(truth, scores, weights)[row] for name, figure in probes._FIGURES.items()}
        assert found["auc"] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
        assert probes._accuracy(classes, guesses, weights)[row] == pytest.approx(
            accuracy_score(classes, guesses, sample_weight=weight)
        )
    everybody = np.ones((1, 60))
    assert probes._r2(scores, scores + truth, everybody)[0] == pytest.approx(r2_score(scores, scores + truth))


def test_planted_labels_are_found_about_as_well_as_by_logistic_regression():
    vectors = gaussian(800, 10)
    labels = classes_of(vectors, 4, noise=1.5)
    probe = fit_probe(vectors, labels)
    logistic = cross_val_predict(LogisticRegression(max_iter=500), vectors, labels, cv=5)
    assert probe.metric == "accuracy" and probe.classes == 4 and probe.examples == 800
    assert probe.value == pytest.approx(accuracy_score(labels, logistic), abs=0.03)
    assert probe.constant == pytest.approx(np.bincount(labels).max() / 800)
    assert probe.permuted < probe.constant + 0.03 < 0.5 < probe.low < probe.value < probe.high < probe.value + 0.05
    assert probe.p_value == pytest.approx(1 / 21)
    assert fit_probe(vectors, labels)[:7] == probe[:7]


def test_planted_numbers_are_found():
    vectors = gaussian(600, 5)
    signal = vectors @ np.array([1.0, 0, 0, 2, 0])
    probe = fit_probe(vectors, signal + gaussian(600, seed=3) * np.sqrt(5))  # half of the variance is noise
    assert probe.metric == "r2" and probe.classes == 0 and probe.constant == 0
    assert probe.low < 0.5 < probe.high and probe.low > 0.3 and probe.high < 0.7
    assert probe.permuted == pytest.approx(0.0, abs=0.03)


def test_a_middle_class_is_not_hidden_by_its_neighbours():
    """Regression onto one-hot classes would give nearly none of the middle third to it."""
    vectors = gaussian(600, 3)
    bands = np.searchsorted(np.quantile(vectors[:, 0], [1 / 3, 2 / 3]), vectors[:, 0])
    assert fit_probe(vectors, bands).value > 0.9


@pytest.mark.parametrize("kind", ["r2", "auc", "accuracy"])
def test_labels_of_nothing_are_at_chance(kind):
    random = np.random.default_rng(5)
    vectors = random.normal(size=(500, 8))
    labels = {"r2": random.normal(size=500), "auc": random.random(500) < 0.3, "accuracy": random.integers(0, 4, 500)}
    probe = fit_probe(vectors, labels[kind])
    assert probe.metric == kind
    assert probe.low - 0.02 <= max(probe.constant, probe.permuted)
    assert abs(probe.value - probe.permuted) < 0.09
    assert probe.p_value > 0.05


def test_permuting_keeps_the_labels_of_each_fold():
    random = np.random.default_rng(0)
    labels, in_fold = random.integers(0, 3, size=60), random.integers(0, 4, size=60)
    permuted = probes._permuted(labels, in_fold, random)
    assert (permuted != labels).any()
    for fold in range(4):
        np.testing.assert_array_equal(np.sort(permuted[in_fold == fold]), np.sort(labels[in_fold == fold]))


def test_folds_hold_classes_in_like_shares():
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    in_fold = probes._folds(labels, 5, np.random.default_rng(0))
    counts = np.array([np.bincount(labels[in_fold == fold], minlength=3) for fold in range(5)])
    np.testing.assert_array_equal(counts, [[8, 3, 1]] * 5)


def test_what_is_learned_by_heart_is_not_selective():
    random = np.random.default_rng(6)
    types = random.integers(0, 30, size=900)
    one_hot = np.eye(30)[types] + 0.1 * random.normal(size=(900, 30))
    by_heart = fit_probe(one_hot, random.integers(0, 3, size=30)[types], types=types)
    assert by_heart.value > 0.95 and by_heart.control > 0.95 and abs(by_heart.selectivity) < 0.05
    narrow = random.normal(size=(30, 4))[types] + 0.3 * random.normal(size=(900, 4))
    known = fit_probe(narrow, narrow[:, 0] > 0, types=types)
    assert known.value > 0.95 and known.selectivity > 0.15


def test_the_interval_does_not_depend_on_blocks_and_narrows_with_examples(monkeypatch):
    vectors = gaussian(400, 4)
    labels = classes_of(vectors, 2, noise=2.0).astype(bool)
    probe = fit_probe(vectors, labels)
    monkeypatch.setattr(probes, "_BLOCK_ELEMENTS", 3000)
    np.testing.assert_allclose(fit_probe(vectors, labels)[1:4], probe[1:4], rtol=1e-12)
    few = fit_probe(vectors[:100], labels[:100])
    assert few.high - few.low > 1.4 * (probe.high - probe.low)
    # the spread of an AUC by Hanley and McNeil (1982)
    auc, ones = probe.value, int(labels.sum())
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (ones - 1) * (first - auc**2) + (399 - ones) * (second - auc**2)
    error = np.sqrt(variance / (ones * (400 - ones)))
    assert probe.high - probe.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_constant_inputs_and_rare_classes_do_no_harm():
    vectors = np.concatenate([gaussian(60, 2), np.ones((60, 1))], axis=1)
    labels = np.where(vectors[:, 0] > 0, "a", "b").astype(object)
    labels[7] = "seen once"
    assert fit_probe(vectors, labels).value > 0.85


def test_a_table_of_probes_leaves_gaps_out():
    vectors = gaussian(200, 3)
    labels = pd.DataFrame(
        {
            "big": pd.Series(vectors[:, 0] > 0, dtype="boolean"),
            "size": pd.Series(np.round(10 * vectors[:, 1]), dtype="Int64"),
            "kind": pd.Categorical.from_codes(np.random.default_rng(0).integers(0, 3, 200), ["x", "y", "z"]),
        }
    )
    labels.loc[:49, "size"] = pd.NA
    labels.loc[100:, "kind"] = None
    found = probe_table(vectors, labels, types=np.arange(200) // 4, num_permutations=5)
    assert found["metric"].to_dict() == {"big": "auc", "size": "r2", "kind": "accuracy"}
    assert found["examples"].to_dict() == {"big": 200, "size": 150, "kind": 100}
    assert found.loc["big", "gain"] > 0.9 and found.loc["size", "gain"] > 0.9 > 0.4 > found.loc["kind", "gain"]
    chance = max(found.loc["kind", "constant"], found.loc["kind", "permuted"])
    assert found.loc["kind", "gain"] == pytest.approx((found.loc["kind", "value"] - chance) / (1 - chance))
    assert (found["selectivity"] == found["value"] - found["control"]).all()
    assert not len(probe_table(vectors, labels[[]]))
    with pytest.raises(DataError, match="kind: there are 3 examples"):
        probe_table(vectors, labels[["kind"]].where(labels.index.to_numpy()[:, None] < 3))
    with pytest.raises(ShapeError, match="200 examples and 100 vectors"):
        probe_table(vectors[:100], labels)


def test_bad_input_is_refused():
    vectors, labels = gaussian(40, 2), np.arange(40) % 3
    with pytest.raises(ShapeError, match=r"\(40, 2\) and labels \(39,\)"):
        fit_probe(vectors, labels[1:])
    with pytest.raises(ShapeError, match=r"types have shape \(39,\)"):
        fit_probe(vectors, labels, types=labels[1:])
    with pytest.raises(DataError, match="there are 9 examples, at least 10"):
        fit_probe(vectors[:9], labels[:9])
    with pytest.raises(DataError, match="nothing to distinguish"):
        fit_probe(vectors, np.zeros(40, dtype=np.int64))
    with pytest.raises(DataError, match="nothing to distinguish"):
        fit_probe(vectors, np.zeros(40))
    for wrong in (np.nan, np.inf):
        with pytest.raises(DataError, match="label 3 is"):
            fit_probe(vectors, np.where(np.arange(40) == 3, wrong, labels))
    with pytest.raises(DataError, match="label 3 is None"):
        fit_probe(vectors, np.where(np.arange(40) == 3, None, labels.astype(str)))
    with pytest.raises(DataError, match="vector 5 has values"):
        fit_probe(np.where(np.arange(40)[:, None] == 5, np.nan, vectors), labels)
    for option in ({"folds": 1}, {"ridge": 0.0}, {"num_permutations": 0}, {"num_resamples": 9}, {"confidence": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            fit_probe(vectors, labels, **option)
