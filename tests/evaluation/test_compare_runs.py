"""Runs and other systems' lists side by side, from the command line's words to the three files and what is refused."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from tiny import TinyRun, tiny_config

from seqrec_jax import pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.report.verdict import verdict
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs import Run
from seqrec_jax.statistics import paired_differences

FAMILY = ["ndcg@10", "hit_rate@10", "mrr@10"]


@pytest.fixture(scope="module")
def second(tiny_run: TinyRun, tmp_path_factory) -> Path:
    """A run over the tiny run's data, of one epoch from another seed."""
    folder = tmp_path_factory.mktemp("second")
    words = ["--name", "second", "--training.seed", "5", "--training.max_epochs", "1"]
    config = tiny_config(tiny_run.folder, *words)
    with jax.numpy_dtype_promotion("standard"):  # Optax's own arithmetic mixes types
        return pipeline.train(config, show_progress=False, runs=folder / "runs")[0]


@pytest.fixture(scope="module")
def lists_file(tiny_run: TinyRun, second: Path, tmp_path_factory) -> Path:
    """The second run's own lists as another program would write them, without user-000003's."""
    dataset = read_dataset(tiny_run.dataset)
    cases = pipeline.cases_of(dataset, tiny_run.config.evaluation)
    table = Recommender.load(second).recommend(cases.histories, 20).table
    path = tmp_path_factory.mktemp("lists") / "theirs.csv"
    first = cases.histories.user_ids[0]
    table[table["user_id"] != first].to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def compared(tiny_run: TinyRun, second: Path, lists_file: Path, tmp_path_factory):
    output = tmp_path_factory.mktemp("compared") / "deep" / "comparison"
    evaluation, reason = pipeline.compare(
        [tiny_run.run, second], tiny_run.config.evaluation, output=output, lists={"theirs": lists_file}
    )
    assert reason is None
    return evaluation, output


def test_every_later_system_is_held_against_the_first(compared, tiny_run, second):
    evaluation, _ = compared
    result = evaluation.result
    kinds = ["model", "model", "other", *["baseline"] * 5, "ceiling"]
    assert [system["kind"] for system in result["systems"]] == kinds
    assert [system["name"] for system in result["systems"]][:3] == ["tiny", "second", "theirs"]
    assert result["run"] == "second, theirs against tiny" and result["kind"] == "comparison"
    pairs = [(row["system"], row["baseline"], row["metric"]) for row in result["comparisons"]]
    assert pairs == [(name, "tiny", metric) for name in ("second", "theirs") for metric in FAMILY]
    # the figures are those that each run has alone, on the same users
    alone = json.loads((tiny_run.run / "metrics.json").read_text(encoding="utf-8"))["systems"][0]["metrics"]
    for name in ("ndcg@10", "auc", "log_loss"):
        assert result["systems"][0]["metrics"][name]["mean"] == pytest.approx(alone[name]["mean"], abs=1e-9)
    today, other = (evaluation.judged[place].per_user[FAMILY] for place in (0, 1))
    direct = paired_differences(other, today, num_resamples=200, seed=0)
    np.testing.assert_allclose([row["difference"] for row in result["comparisons"][:3]], direct.mean, atol=1e-12)
    np.testing.assert_allclose([row["p_value"] for row in result["comparisons"][:3]], direct.p_value, atol=1e-12)


def test_lists_of_a_run_give_the_figures_of_the_run_but_for_whom_they_lack(compared, tiny_run):
    evaluation, _ = compared
    whole, lists = evaluation.judged[1].per_user, evaluation.judged[2].per_user
    cases = pipeline.cases_of(read_dataset(tiny_run.dataset), tiny_run.config.evaluation)
    # an item that could not be recommended at the time keeps its place in a list from elsewhere
    allowed = cases.candidates[evaluation.judged[2].lists].all(axis=1)
    assert 10 < allowed.sum() < len(allowed)
    np.testing.assert_allclose(lists["ndcg@20"][allowed], whole["ndcg@20"][allowed], atol=1e-7)
    assert (lists["ndcg@20"] <= whole["ndcg@20"] + 1e-7).all()
    assert lists["ndcg@20"][0] == 0 and evaluation.judged[2].lists[0].tolist() == [0] * 20
    assert lists["auc"].isna().all()
    users = len(lists)
    assert f"theirs: 1 of {users} evaluated users have no list: they count as misses, and" in " ".join(
        evaluation.result["warnings"]
    )


def test_three_files_are_written_into_a_folder_made_for_them(compared):
    evaluation, output = compared
    assert {path.name for path in output.iterdir()} == {"metrics.json", "per_user.parquet", "report.html"}
    written = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(evaluation.result))
    table = pd.read_parquet(output / "per_user.parquet")
    assert list(table["system"].unique())[:3] == ["tiny", "second", "theirs"]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert verdict(evaluation.result).headline.split(";")[0] in page and "For whom second is better" in page


def test_the_verb_prints_the_table_and_the_verdict(call, tiny_run, second, home):
    words = ["compare", tiny_run.run, second, "--output", "out", "--num_resamples", "100", "--parts", "[]"]
    code, lines, errors = call(*words)
    assert (code, errors) == (0, "")
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    for name in ("tiny", "second", "most popular"):
        assert re.search(rf"^{name} +\d\.\d{{4}} \[\d\.\d{{4}}, \d\.\d{{4}}\]", text, re.M), name
    assert re.search(r"^second, ndcg@10 +[+-]\d\.\d{4} \[[+-].* p [=<] \d\.\d{3}", text, re.M)
    assert re.search(
        r"^verdict +second is (better than|worse than|not distinguishable from) tiny on ndcg@10\.", text, re.M
    )
    assert lines[-1] == "written    out/metrics.json, out/per_user.parquet, out/report.html"
    assert (home / "out" / "report.html").is_file()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, loaded: Recommender) -> None:
    """No baselines, and the tiny run's recommender, compiled once, for every run."""
    monkeypatch.setattr(Recommender, "load", lambda *_, **__: copy.copy(loaded))
    monkeypatch.setattr(pipeline.judging, "references", lambda *_: [])


def quick(tiny_run: TinyRun):
    return replace(tiny_run.config.evaluation, num_resamples=100, parts=())


def copy_of(run: Path, folder: Path, name: str) -> Path:
    return Path(shutil.copytree(run, folder / name))


def test_identical_runs_are_not_distinguishable_and_the_verdict_says_what_that_means(tiny_run, tmp_path):
    again = copy_of(tiny_run.run, tmp_path, "again")
    evaluation, _ = pipeline.compare([tiny_run.run, again], quick(tiny_run), output=tmp_path / "out")
    result = evaluation.result
    assert {(row["difference"], row["p_value"], row["p_holm"]) for row in result["comparisons"]} == {(0.0, 1.0, 1.0)}
    words = verdict(result)
    assert words.level == "unclear"
    assert words.headline == "again is not distinguishable from tiny on ndcg@10."
    assert "This does not show that they are equal" in " ".join(words.details)
    assert all(row["shop"] == "" for row in result["comparisons"])
    assert result["warnings"] == []
    np.testing.assert_array_equal(evaluation.judged[0].ranks, evaluation.judged[1].ranks)


def test_runs_of_one_name_are_told_apart_by_their_folders(fast, tiny_run, tmp_path):
    again = copy_of(tiny_run.run, tmp_path, "tiny")
    evaluation, _ = pipeline.compare([tiny_run.run, again], quick(tiny_run), output=tmp_path / "out")
    assert [judged.name for judged in evaluation.judged][:2] == [str(tiny_run.run), str(again)]


def test_two_systems_of_one_name_are_refused(tiny_run, lists_file, tmp_path):
    for runs, lists, name in (
        ([tiny_run.run, tiny_run.run], {}, str(tiny_run.run)),
        ([tiny_run.run], {"tiny": lists_file}, "tiny"),
        ([tiny_run.run], {"most popular": lists_file}, "most popular"),
    ):
        with pytest.raises(ConfigError) as raised:
            pipeline.compare(runs, quick(tiny_run), output=tmp_path / "out", lists=lists)
        assert str(raised.value) == f"two systems are called {name!r}; give each a name of its own"


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_systems_are_refused(tiny_run, tmp_path, count):
    with pytest.raises(ConfigError, match="compare takes two systems or more, the one that runs today first"):
        pipeline.compare([tiny_run.run] * count, quick(tiny_run), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_over_another_vocabulary_is_refused(tiny_run, second, tmp_path):
    other = copy_of(second, tmp_path, "other")
    items = pd.read_parquet(other / "items.parquet")
    names = items["item_id"].to_numpy(dtype=object).copy()
    names[7] = "renamed"
    items.assign(item_id=names).to_parquet(other / "items.parquet", index=False)
    with pytest.raises(CheckpointError) as raised:
        pipeline.compare([tiny_run.run, other], quick(tiny_run), output=tmp_path / "out")
    assert str(raised.value) == (
        f"tiny numbers its 60 items differently from the 60 of {other} (59 in common); prepare it with "
        f"--data.vocabulary_from {other}, and train on it with training.warm_start {other} if it has new items"
    )
    assert not (tmp_path / "out").exists()


def test_a_run_over_other_behaviours_is_refused(tiny_run, second, tmp_path):
    other = copy_of(second, tmp_path, "other")
    facts = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    (other / "dataset.json").write_text(json.dumps({**facts, "behaviors": facts["behaviors"][::-1]}), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"was trained with the behaviours \['purchase', 'cart', 'click', 'view'\]"
    ):
        pipeline.compare([tiny_run.run, other], quick(tiny_run), output=tmp_path / "out")


def test_a_run_over_another_preparation_is_judged_with_a_loud_warning(fast, call, tiny_run, second, tmp_path):
    other = copy_of(second, tmp_path, "elsewhere")
    facts = json.loads((other / "dataset.json").read_text(encoding="utf-8"))
    (other / "dataset.json").write_text(json.dumps({**facts, "fingerprint": "f" * 16}), encoding="utf-8")
    words = ["compare", tiny_run.run, other, "--output", tmp_path / "out", "--num_resamples", "100", "--parts", "[]"]
    code, lines, _ = call(*words)
    assert code == 0
    warning = (
        f"elsewhere WAS TRAINED ON ANOTHER PREPARATION ({'f' * 16}) than it is judged on "
        f"({Run.open(tiny_run.run).facts.fingerprint}): whether it has seen the tested events is not known."
    )
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert written["warnings"] == [warning]
    assert warning in " ".join(" ".join(lines).split())
    assert "WAS TRAINED ON ANOTHER PREPARATION" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_all_runs_over_another_preparation_are_told_of(fast, tiny_run, second, tmp_path):
    pipeline.prepare(tiny_config(tmp_path, "--data.split.rule", "leave_one_out"))
    evaluation, _ = pipeline.compare(
        [tiny_run.run, second], quick(tiny_run), output=tmp_path / "out", dataset=str(tmp_path / "data/tiny")
    )
    assert [text.split(" WAS ")[0] for text in evaluation.result["warnings"]] == ["tiny", "second"]
    assert evaluation.result["protocol"]["split"].startswith("leave_one_out")


def test_lists_that_cannot_be_used_are_refused(call, tiny_run, lists_file, tmp_path):
    wrong = tmp_path / "wrong.csv"
    pd.read_csv(lists_file).assign(user_id="somebody else").drop_duplicates("item_id").to_csv(wrong, index=False)
    for given, message in (
        (f"theirs={tmp_path / 'none.csv'}", f"{tmp_path / 'none.csv'} "),
        (str(lists_file), "lists are given as name=path, such as first=folder/file, got "),
        (f"={lists_file}", "lists are given as name=path, "),
        ("theirs=", "lists are given as name=path, "),
        (("a=x", "a=y"), "lists name 'a' twice; give each a name of its own"),
        (f"theirs={wrong}", "wrong.csv names none of the "),
    ):
        words = [word for one in ([given] if isinstance(given, str) else given) for word in ("--lists", one)]
        code, lines, errors = call("compare", tiny_run.run, *words, "--output", tmp_path / "out")
        assert (code, lines) == (2, [])
        assert errors.startswith("seqrec compare: ") and message in errors and errors.count("\n") == 1
    with pytest.raises(DataError):
        pipeline.compare(
            [tiny_run.run], quick(tiny_run), output=tmp_path / "out", lists={"theirs": tmp_path / "none.run"}
        )


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_judged(tiny_run, second, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(pipeline.judging, "compare", lambda *_, **__: pytest.fail("judged for nothing"))
    for output in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        with pytest.raises(CheckpointError, match=rf"cannot write the comparison to {output}: (File exists|Not a dir)"):
            pipeline.compare([tiny_run.run, second], quick(tiny_run), output=output)


def test_a_missing_run_is_told(call, tiny_run, tmp_path):
    for runs in (["runs/none", tiny_run.run], [tiny_run.run, "runs/none"]):
        code, lines, errors = call("compare", *runs, "--output", tmp_path / "out")
        assert (code, lines) == (2, [])
        assert errors.startswith("seqrec compare: runs/none is not a run: it does not exist; ")
