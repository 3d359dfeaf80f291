"""Every verb as a user types it: what it prints, its exit code, and what full disks and Ctrl-C do to it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import SMALL_LOG, write_small

from seqrec_jax import cli, pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.errors import MissingExtraError
from seqrec_jax.training.log import read_log
from seqrec_jax.training.loop import Progress

# -- happy paths --


def test_prepare_prints_the_cleaning_the_split_and_the_place(call, home):
    write_small(home, log=SMALL_LOG + SMALL_LOG.splitlines()[1] + "\n,i1,1700000000\n")
    code, lines, errors = call("prepare", "--config", "c.yaml")
    assert (code, errors) == (0, "")
    text = "\n".join(lines)
    assert lines[0] == "Cleaning of log.csv"
    for expected in (r"rows read +14", r"rows kept +12", r"exact duplicate +1 +7.14%", r"missing user id +1 +7.14%"):
        assert re.search(expected, text), expected
    assert " ".join(" ".join(lines[-4:-1]).split()) == (
        "split leave_one_out: each user's last target is the test, the one before the validation; targets are events "
        "of any behaviour 6 train, 3 validation, 3 test events"
    )
    assert max(map(len, lines)) <= 120
    fingerprint = read_dataset(home / "data").fingerprint
    assert re.fullmatch(rf"prepared   data \(fingerprint {fingerprint}\) in \d+\.\d s", lines[-1])
    code, _, errors = call("prepare", "--config", "c.yaml")
    assert (code, errors) == (
        2,
        "seqrec prepare: data exists; add --overwrite to prepare it anew, or set data.directory\n",
    )
    assert call("prepare", "--config", "c.yaml", "--overwrite", "--data.split.rule=user_holdout")[0] == 0
    assert read_dataset(home / "data").split.config.rule == "user_holdout"


def test_warnings_are_one_line_on_stderr_and_the_hook_is_put_back(call, home):
    import warnings

    write_small(home)
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, errors = call("prepare", "--config", "c.yaml", "--data.split.rule", "random_ratio")
    assert (code, errors) == (0, "warning: random_ratio trains on events that happen after the ones it tests\n")
    assert warnings.showwarning is before


def test_train_goes_on_with_a_run_or_says_that_it_has_ended(call, run, tiny_run, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()}
    code, lines, errors = call("train", "--config", tiny_run.yaml, "--quiet")
    assert (code, errors) == (0, "")
    assert re.fullmatch(
        r"trained    2 epochs in \d+ s; best ndcg@10 on the validation part 0\.\d{4}, at step \d+", lines[0]
    )
    speed = np.median([row["targets_per_second"] for row in read_log(run) if row["kind"] == "train"])
    assert lines[1] == f"speed      {speed:,.0f} target positions a second"
    assert lines[2] == "run        runs/tiny"
    assert {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()} == before
    code, _, errors = call("train", "--config", tiny_run.yaml, "--training.optimizer.learning_rate", "0.5")
    assert code == 2 and errors.startswith("seqrec train: runs/tiny is a run with another configuration (training.")
    assert "learning_rate: 0.01 there, 0.5 now" in errors

    stopped = Progress(epoch=1)
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: (run, stopped))
    code, lines, _ = call("train", "--config", tiny_run.yaml)
    assert (code, lines) == (
        130,
        ["stopped    epoch 1, everything is saved; the same command continues runs/tiny"],
    )


def test_evaluate_prints_a_table_that_fits_and_writes_three_files(call, run):
    for name in ("metrics.json", "per_user.parquet", "report.html"):
        (run / name).unlink()
    code, lines, errors = call("evaluate", "--checkpoint", run, "--evaluation.seen_items", "excluded", "--metric=mrr@5")
    assert (code, errors) == (0, "")
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "written    runs/tiny/metrics.json, runs/tiny/per_user.parquet, runs/tiny/report.html"
    text = "\n".join(lines)
    assert "seen items excluded" in text
    assert re.search(r"^ +mrr@5 +ndcg@5 +hit_rate@5$", text, re.M)
    for name in ("sasrec", "most popular", "popular in the last 7 days", "last item again", "item to item", "EASE"):
        assert re.search(rf"^{name} +\d\.\d{{4}} \[\d\.\d{{4}}, \d\.\d{{4}}\]", text, re.M), name
    assert re.search(r"^most popular +[+-]\d\.\d{4} \[[+-].* p [=<] \d\.\d{3} +\d\.\d{4}$", text, re.M)
    assert re.search(r"^verdict +sasrec (is|beats) ", text, re.M)
    assert {path.name for path in run.iterdir()} >= {"metrics.json", "per_user.parquet", "report.html"}


def test_evaluate_says_why_there_is_no_report(call, run, monkeypatch, quick_load):
    def missing(*_, **__):
        raise MissingExtraError("jinja2 is not installed; pip install 'seqrec_jax[report]'")

    monkeypatch.setattr(pipeline.writing, "render_report", missing)
    code, lines, _ = call("evaluate", "--checkpoint", run, "--stage", "validation")
    assert code == 0
    assert lines[-2] == "written    runs/tiny/metrics.json, runs/tiny/per_user.parquet"
    assert lines[-1] == "no report  jinja2 is not installed; pip install 'seqrec_jax[report]'"


def test_recommend_lists_for_users_with_titles(call, run):
    code, lines, errors = call("recommend", "--checkpoint", run, "--users", "user-000007", "nobody", "--k", "4")
    assert code == 0
    assert lines[0].split() == ["user_id", "rank", "item_id", "score", "title"]
    assert [line.split()[:2] for line in lines[1:]] == [
        [user, str(rank)] for user in ("user-000007", "nobody") for rank in range(1, 5)
    ]
    assert errors == "fallback   the most popular items for 1 users without a known history: nobody\n"
    assert max(map(len, lines)) <= 120


def test_recommend_for_a_typed_history_reports_unknown_items(call, run, quick_load):
    code, lines, errors = call("recommend", "--checkpoint", run, "--history", "sku-00007", "sku-7", "--k", "2")
    assert code == 0 and len(lines) == 3
    assert errors == "skipped    items that the catalogue does not have: sku-7\n"
    code, _, errors = call("recommend", "--checkpoint", run, "--history", "sku-7")
    assert code == 0
    assert errors.splitlines()[1] == "fallback   the most popular items for a history without a known item"


def test_recommend_takes_weights_of_the_re_ranking_and_leaves_out_seen_items(call, run, quick_load):
    words = ["recommend", "--checkpoint", run, "--history", "sku-00007", "sku-00009", "--k", "60"]
    plain = [line.split()[2] for line in call(*words)[1][1:]]
    repeated = [line.split()[2] for line in call(*words, "--reranking.repeat_boost", "50")[1][1:]]
    assert set(repeated[:2]) == {"sku-00007", "sku-00009"}
    excluded = [line.split()[2] for line in call(*words, "--seen-items", "excluded")[1][1:]]
    assert excluded == [item for item in plain if item not in ("sku-00007", "sku-00009")]
    rules = Path("rules.yaml")
    rules.write_text(f"- {{action: filter, where: {{item_id: {plain[0]}}}}}", encoding="utf-8")
    assert [line.split()[2] for line in call(*words, "--reranking.rules", rules)[1][1:]] == plain[1:]


@pytest.mark.parametrize("name", ["lists/all.parquet", "all.csv"])
def test_recommend_writes_lists_of_all_users(call, run, tiny_run, name, quick_load):
    code, lines, errors = call("recommend", "--checkpoint", run, "--all-users", "--k", "3", "--output", name)
    assert (code, errors) == (0, "")
    assert lines == [f"written    {name}: 450 rows, 150 users"]
    table = pd.read_parquet(name) if name.endswith("parquet") else pd.read_csv(name, dtype={"user_id": str})
    assert list(table.columns) == ["user_id", "rank", "item_id", "score"]
    assert table["user_id"].unique().tolist() == list(read_dataset(tiny_run.dataset).sequences.user_ids)


def test_a_k_beyond_the_catalogue_lists_the_catalogue(call, run, quick_load):
    _, lines, _ = call("recommend", "--checkpoint", run, "--users", "user-000007", "--k", "1000000")
    assert len(lines) == 1 + 60


def test_recommend_lists_only_what_files_allow_and_do_not_deny(call, run, quick_load):
    words = ["recommend", "--checkpoint", run, "--users", "user-000007", "user-000008", "--k", "3"]
    Path("allowed.txt").write_text("sku-00001\nsku-00002\n\nsku-00003\nsku-9\n", encoding="utf-8")
    Path("denied.csv").write_text("user_id,item_id\nuser-000008,sku-00002\n", encoding="utf-8")
    code, lines, errors = call(*words, "--allowed", "allowed.txt", "--denied", "denied.csv")
    listed = pd.DataFrame([line.split()[:3] for line in lines[1:]]).groupby(0)[2].agg(set).to_dict()
    assert (code, listed) == (
        0,
        {"user-000007": {"sku-00001", "sku-00002", "sku-00003"}, "user-000008": {"sku-00001", "sku-00003"}},
    )
    assert errors.splitlines() == [
        "skipped    items of --allowed and --denied that the catalogue does not have: sku-9",
        "short      1 of 2 lists have fewer than 3 items, since no more may be listed: user-000008 (2)",
    ]


def test_embed_writes_vectors(call, run):
    code, lines, errors = call("embed", "--checkpoint", run, "--output", "vectors")
    assert (code, errors) == (0, "")
    names = [f"vectors/{name}" for name in ("user_vectors.parquet", "item_vectors.parquet", "bilinear_weight.npy")]
    assert lines == [f"written    {', '.join(names)}"]
    assert len(pd.read_parquet(names[0])) == 150 and len(pd.read_parquet(names[1])) == 60
    assert np.load(names[2]).shape == (8, 8)


# -- help and what is not a verb --


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(call, verb):
    code, lines, errors = call(verb, "--help")
    assert (code, errors) == (0, "")
    assert lines[0].startswith(f"usage: seqrec {verb}")
    assert cli.VERBS[verb].summary in lines
    assert any("can follow, e.g. --" in line for line in lines) == (
        verb not in ("embed", "add-items", "fit-head", "join", "doctor")
    )


def test_without_a_verb_or_with_an_unknown_one_the_verbs_are_listed(call):
    for words in ([], ["--help"], ["-h"]):
        code, lines, errors = call(*words)
        assert (code, errors, lines[0]) == (0, "", "usage: seqrec <verb> [options]")
        assert [line.split()[0] for line in lines if line.startswith("  ")] == list(cli.VERBS)
        assert max(map(len, lines)) <= 120
    code, lines, errors = call("evalute", "--checkpoint", "x")
    assert (code, lines) == (2, [])
    assert errors.splitlines()[0] == "seqrec: there is no verb 'evalute'; did you mean evaluate?"
    assert "prepare" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "seqrec train: error: the following arguments are required: --config"),
        (["recommend", "--checkpoint", "x"], "one of the arguments --users --all-users --history --query is required"),
        (["recommend", "--checkpoint", "x", "--users", "a", "--all-users"], "not allowed with argument --users"),
        (
            ["recommend", "--checkpoint", "x", "--history", "a", "--k", "many"],
            "argument --k: invalid int value: 'many'",
        ),
        (["embed", "--checkpoint", "x"], "the following arguments are required: --output"),
    ],
)
def test_wrong_options_exit_with_2_and_say_which(call, words, message):
    code, lines, errors = call(*words)
    assert (code, lines) == (2, [])
    assert message in errors


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_scripts_are_the_verbs(verb, home):
    root = Path(__file__).parents[2]

    def script(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(root / "scripts" / f"{verb.replace('-', '_')}.py"), *words]
        path = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=path)

    helped, wrong = script("--help"), script("--nothing")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: seqrec {verb}")
    # every word after quickstart is a field, which its first step refuses
    expected = "seqrec prepare: the command line: unknown key nothing" if verb == "quickstart" else f"{verb}: error: "
    assert wrong.returncode == 2 and expected in wrong.stderr


# -- disks and keyboards --


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "lists.parquet")


@pytest.mark.parametrize(("fail", "reason"), [(full, "No space left on device"), (read_only, "Permission denied")])
def test_a_place_that_cannot_be_written_is_told(call, home, run, monkeypatch, fail, reason, quick_load):
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    writers = {
        "recommend": (["--history", "a", "--output", "lists.parquet"], "lists.parquet"),
        "embed": (["--output", "vectors"], "vectors to vectors"),
        "evaluate": ([], "the evaluation to runs/tiny"),
    }
    for verb, (words, what) in list(writers.items())[: 3 if fail is full else 2]:
        code, _, errors = call(verb, "--checkpoint", run, *words)
        assert code == 2
        assert errors.splitlines()[-1] == f"seqrec {verb}: cannot write {what}: {reason}"
    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    write_small(home)
    code, _, errors = call("prepare", "--config", "c.yaml")
    assert (code, errors) == (2, f"seqrec prepare: cannot write the dataset to data: {reason}\n")
    assert not (home / "data").exists()


def test_a_file_where_a_folder_belongs_is_told(call, home, run, quick_load):
    (home / "taken").write_text("")
    code, _, errors = call("embed", "--checkpoint", run, "--output", "taken")
    assert (code, errors) == (2, "seqrec embed: cannot write vectors to taken: File exists\n")
    write_small(home)
    code, _, errors = call("prepare", "--config", "c.yaml", "--data.directory", "taken/data")
    assert code == 2 and errors.startswith("seqrec prepare: cannot write the dataset to taken/data: ")


def test_what_no_room_foresaw_of_a_disk_is_still_one_line(call, home, run, monkeypatch):
    monkeypatch.setattr(pipeline, "embed", full)
    code, _, errors = call("embed", "--checkpoint", run, "--output", "o")
    assert (code, errors) == (2, "seqrec embed: [Errno 28] No space left on device\n")


def test_ctrl_c_ends_quietly(call, run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "embed", interrupt)
    assert call("embed", "--checkpoint", run, "--output", "o") == (130, [], "seqrec embed: interrupted\n")
