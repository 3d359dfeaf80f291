"""A project folder of version 0.1.0, moved since: dataset, run, head and decoder open and give what they gave."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.retrieval import RunHead
from seqrec_jax.runs import Run

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "run_0_1"


@pytest.fixture(scope="module")
def old():
    return Run.open(GOLDEN / "tiny")


def same_lists(found, name):
    expected = pd.read_csv(GOLDEN / name, dtype={"user_id": str, "item_id": str})
    assert (
        found[["user_id", "rank", "item_id"]].values.tolist()
        == expected[["user_id", "rank", "item_id"]].values.tolist()
    )
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-4)


def test_its_dataset_is_found_and_its_configuration_read(old):
    assert not old.facts.directory.exists()
    assert old.dataset().fingerprint == old.facts.fingerprint
    assert old.section("", ExperimentConfig).name == "tiny"
    assert [row["kind"] for row in old.log()][-1] == "end"


def test_its_checkpoint_recommends_the_same(old):
    same_lists(pipeline.recommend(old, "all", k=5).table, "lists.csv")


def test_its_decoder_lists_the_same(old):
    same_lists(pipeline.recommend(old, "all", k=5, decoder="decoder").table, "decoder_lists.csv")


def test_its_head_gives_the_same_probabilities(old):
    histories = old.dataset().sequences
    ids = np.tile(np.arange(1, 4), (histories.num_users, 1))
    found = RunHead.load(old, "buys").probabilities(histories, ids)
    np.testing.assert_allclose(found, np.load(GOLDEN / "head_probabilities.npy"), rtol=1e-4)


def test_it_is_judged_by_the_same_figures(old, tmp_path):
    run = shutil.copytree(old.directory, tmp_path / "tiny")
    evaluation, _ = pipeline.evaluate(run, dataset=GOLDEN / "dataset")
    expected = json.loads((GOLDEN / "figures.json").read_text(encoding="utf-8"))["metrics"]
    systems = {system["name"]: system["metrics"] for system in evaluation.result["systems"]}
    assert set(systems) == set(expected)
    for name, metrics in expected.items():
        for metric, mean in metrics.items():
            assert systems[name][metric]["mean"] == pytest.approx(mean, rel=1e-4), (name, metric)
