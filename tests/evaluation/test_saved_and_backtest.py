"""Evaluations compared as they were saved, a backtest from a configuration, and lists that do not know the test."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_config

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.judging import judge_lists
from seqrec_jax.evaluation.summary import evaluate
from seqrec_jax.evaluation.systems import Contender


@pytest.fixture
def two(tiny_run, tmp_path):
    """Two folders with the same saved evaluation, to be changed by a test."""
    return [shutil.copytree(tiny_run.run, tmp_path / name) for name in ("today", "new")]


def change(folder, users=None, **protocol):
    """Change a saved evaluation: its users' table, and facts of its protocol's card."""
    path = folder / "metrics.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    result["run"] = folder.name
    result["protocol"]["card"].update(protocol)
    path.write_text(json.dumps(result), encoding="utf-8")
    if users is not None:
        users(pd.read_parquet(folder / "per_user.parquet")).to_parquet(folder / "per_user.parquet", index=False)


def test_saved_evaluations_are_compared_user_by_user_whatever_their_order(two, tmp_path):
    change(two[0])
    change(two[1], users=lambda table: table.assign(**{"ndcg@10": table["ndcg@10"] + 0.1}).iloc[::-1])
    result, reason = pipeline.compare_saved(two, output=tmp_path / "out")
    assert reason is None and not result["fingerprints_differ"] and result["warnings"] == []
    assert "audit" not in result and "sections" in result
    (row,) = result["comparisons"]
    assert (row["system"], row["baseline"], row["metric"]) == ("new", "today", "ndcg@10")
    assert row["difference"] == pytest.approx(0.1, abs=1e-6)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == result
    assert "new is better than today" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_other_protocols_are_compared_loudly_and_other_users_are_counted(two, tmp_path):
    change(two[0])
    change(two[1], users=lambda table: table[table["user_id"] != table["user_id"].iloc[0]], targets="all")
    result, _ = pipeline.compare_saved(two, output=tmp_path / "out")
    assert result["fingerprints_differ"] and len(set(result["fingerprints"].values())) == 2
    loud, counted = result["warnings"]
    assert loud.startswith("THESE FIGURES CANNOT BE COMPARED: new") and "targets: next against all" in loud
    assert counted.endswith("1 of today and 0 of new have no counterpart.")
    assert "Not comparable" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_saved_evaluations_that_cannot_be_compared_are_refused(two, tmp_path):
    with pytest.raises(ConfigError, match="saved evaluations are compared two at a time, got 1"):
        pipeline.compare_saved(two[:1], output=tmp_path / "out")
    change(two[1], users=lambda table: table.assign(user_id="other " + table["user_id"]))
    with pytest.raises(DataError, match="have no user in common"):
        pipeline.compare_saved(two)
    (two[1] / "per_user.parquet").unlink()
    with pytest.raises(CheckpointError, match="new has no whole evaluation "):
        pipeline.compare_saved(two)


def test_a_backtest_trains_on_the_past_only_and_judges_every_age(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, "--training.max_epochs", "1")
    dataset = pipeline.prepare(config)
    trained = []

    def recorded(config, dataset, known, *, show_progress):
        trained.append(int(known.timestamps.max()))
        return original(config, dataset, known, show_progress=show_progress)

    original = pipeline.backtesting._trained
    monkeypatch.setattr(pipeline.backtesting, "_trained", recorded)
    rows, section = pipeline.backtest(
        config, num_origins=2, window_days=4, output=tmp_path / "out", show_progress=False
    )
    cuts = sorted(rows["cut"].unique())
    assert len(trained) == 2 and all(last < cut for last, cut in zip(trained, cuts, strict=True))
    assert cuts[1] - cuts[0] == 4 * SECONDS_PER_DAY and cuts[1] < dataset.sequences.timestamps.max()
    model = rows[rows["system"] == "sasrec"]
    assert model["age_days"].tolist() == [0, 0, 4] and model["mean"].between(0, 1).all()
    assert len(rows["system"].unique()) == 6 and section["key"] == "freshness"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "backtest.parquet"), rows, check_dtype=False)
    with pytest.raises(ConfigError, match="window_days must be above 0, got 0"):
        pipeline.backtest(config, num_origins=2, window_days=0, output=tmp_path / "out")


def test_histories_before_the_test_are_those_of_the_evaluation(tiny_run):
    dataset = read_dataset(tiny_run.dataset)
    cases = pipeline.cases_of(dataset, tiny_run.config.evaluation)
    before = pipeline.user_histories(tiny_run.run, None, before="test")
    assert list(before.user_ids) == list(cases.histories.user_ids)
    np.testing.assert_array_equal(before.item_ids, cases.histories.item_ids)
    user = str(before.user_ids[3])
    whole = pipeline.user_histories(tiny_run.run, [user])
    assert pipeline.user_histories(tiny_run.run, [user], before="test").lengths[0] < whole.lengths[0]


def test_what_was_judged_otherwise_is_refused_and_few_users_are_named(tiny_run):
    dataset, config = read_dataset(tiny_run.dataset), replace(tiny_run.config.evaluation, parts=())
    cases = pipeline.cases_of(dataset, config)
    lists = np.tile(np.arange(1, 21), (len(cases.users), 1))
    judged = judge_lists("theirs", lists, cases, config=config)
    with pytest.raises(ConfigError, match="the cases were made with targets 'next', the configuration says 'all'"):
        evaluate([Contender(judged, "other")], dataset, cases, config=replace(config, targets="all"))
    shorter = judged._replace(per_user=judged.per_user.iloc[:2])
    with pytest.raises(DataError, match="theirs was judged on 2 users with "):
        evaluate([Contender(shorter, "other")], dataset, cases, config=config)
    with pytest.raises(DataError, match="theirs: lists are float64 with "):
        judge_lists("theirs", lists + 0.5, cases, config=config)
    few = evaluate([Contender(judged, "other")], dataset, cases, config=config).result["warnings"]
    assert few == [] if len(cases.users) >= 30 else few[0].startswith("ONLY")
