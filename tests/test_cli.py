"""Every verb as a user types it: what it prints, its exit code, and one clear line for each kind of bad input."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import TinyRun

from seqrec_jax import cli, pipeline
from seqrec_jax.data.dataset import read_dataset
from seqrec_jax.training.loop import Progress

HEADER = "user_id,item_id,timestamp\n"
ROWS = [f"u{user},i{(user + n) % 3},{1_700_000_000 + 60 * n + user}\n" for user in range(3) for n in range(4)]
LOG = HEADER + "".join(ROWS)


@pytest.fixture
def call(capsys):
    """Runs the command line and gives the exit code, the lines of stdout, and stderr."""

    def call(*words: str) -> tuple[int, list[str], str]:
        code = cli.run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(tiny_run: TinyRun, home: Path) -> Path:
    """A copy of the tiny run as runs/tiny under the current folder."""
    shutil.copytree(tiny_run.run, home / "runs" / "tiny")
    return Path("runs/tiny")


def write_config(path: Path, *, log: str | None = LOG, file: str = "log.csv", **sections: Any) -> Path:
    if log is not None:
        (path / file).write_text(log, encoding="utf-8")
    data = {"source": file, "directory": "data", "split": {"rule": "leave_one_out"}}
    (path / "c.yaml").write_text(yaml.safe_dump({"name": "small", "data": data, **sections}), encoding="utf-8")
    return path / "c.yaml"


# -- happy paths --


def test_prepare_prints_the_cleaning_the_split_and_the_place(call, home):
    write_config(home, log=LOG + ROWS[0] + ",i1,1700000000\n")
    code, lines, errors = call("prepare", "--config", "c.yaml")
    assert (code, errors) == (0, "")
    text = "\n".join(lines)
    assert lines[0] == "Cleaning of log.csv"
    for expected in (r"rows read +14", r"rows kept +12", r"exact duplicate +1 +7.14%", r"missing user id +1 +7.14%"):
        assert re.search(expected, text), expected
    assert lines[-3] == (
        "split      leave_one_out: each user's last target is the test, the one before the validation; targets are "
        "events of any behaviour"
    )
    assert lines[-2] == "           6 train, 3 validation, 3 test events"
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

    write_config(home)
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
    assert lines[1] == "run        runs/tiny"
    assert {path.name: path.stat().st_mtime_ns for path in (run / "checkpoints").iterdir()} == before
    code, _, errors = call("train", "--config", tiny_run.yaml, "--training.optimizer.learning_rate", "0.5")
    assert code == 2 and errors.startswith("seqrec train: runs/tiny is a run with another configuration (training.")
    assert "learning_rate: 0.01 there, 0.5 now" in errors

    stopped = Progress(epoch=1)
    monkeypatch.setattr(pipeline, "train_run", lambda *_, **__: (run, stopped))
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
    for name in ("sasrec", "most popular", "popular in the last 7 days", "last item again", "item to item"):
        assert re.search(rf"^{name} +\d\.\d{{4}} \[\d\.\d{{4}}, \d\.\d{{4}}\]", text, re.M), name
    assert re.search(r"^most popular +[+-]\d\.\d{4} \[[+-].* p [=<] \d\.\d{3}$", text, re.M)
    assert {path.name for path in run.iterdir()} >= {"metrics.json", "per_user.parquet", "report.html"}


def test_evaluate_says_why_there_is_no_report(call, run, monkeypatch):
    def missing(*_, **__):
        raise pipeline.MissingExtraError("jinja2 is not installed; pip install 'seqrec_jax[report]'")

    monkeypatch.setattr(pipeline, "render_report", missing)
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


def test_recommend_for_a_typed_history_reports_unknown_items(call, run):
    code, lines, errors = call("recommend", "--checkpoint", run, "--history", "sku-00007", "sku-7", "--k", "2")
    assert code == 0 and len(lines) == 3
    assert errors == "skipped    items that the catalogue does not have: sku-7\n"
    code, _, errors = call("recommend", "--checkpoint", run, "--history", "sku-7")
    assert code == 0
    assert errors.splitlines()[1] == "fallback   the most popular items for a history without a known item"


def test_recommend_takes_weights_of_the_re_ranking_and_leaves_out_seen_items(call, run):
    words = ["recommend", "--checkpoint", run, "--history", "sku-00007", "sku-00009", "--k", "3"]
    _, plain, _ = call(*words)
    _, repeated, _ = call(*words, "--reranking.repeat_boost", "50")
    items = [line.split()[2] for line in repeated[1:]]
    assert set(items[:2]) == {"sku-00007", "sku-00009"}
    _, excluded, _ = call(*words[:-1], "60", "--seen-items", "excluded")
    assert len(excluded) == 1 + 58 and not {"sku-00007", "sku-00009"} & {line.split()[2] for line in excluded[1:]}
    rules = Path("rules.yaml")
    rules.write_text(f"- {{action: filter, where: {{item_id: {plain[1].split()[2]}}}}}", encoding="utf-8")
    _, filtered, _ = call(*words, "--reranking.rules", rules)
    assert [line.split()[2] for line in filtered[1:3]] == [line.split()[2] for line in plain[2:4]]


@pytest.mark.parametrize("name", ["lists/all.parquet", "all.csv"])
def test_recommend_writes_lists_of_all_users(call, run, tiny_run, name):
    code, lines, errors = call("recommend", "--checkpoint", run, "--all-users", "--k", "3", "--output", name)
    assert (code, errors) == (0, "")
    assert lines == [f"written    {name}: 450 rows, 150 users"]
    table = pd.read_parquet(name) if name.endswith("parquet") else pd.read_csv(name, dtype={"user_id": str})
    assert list(table.columns) == ["user_id", "rank", "item_id", "score"]
    assert table["user_id"].unique().tolist() == list(read_dataset(tiny_run.dataset).sequences.user_ids)


def test_a_k_beyond_the_catalogue_lists_the_catalogue(call, run):
    _, lines, _ = call("recommend", "--checkpoint", run, "--users", "user-000007", "--k", "1000000")
    assert len(lines) == 1 + 60


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
    assert cli.VERBS[verb].__doc__.splitlines()[0] in lines
    if verb != "embed":
        assert any("can follow, e.g. --" in line for line in lines)


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
        (["recommend", "--checkpoint", "x"], "one of the arguments --users --all-users --history is required"),
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


def test_the_installed_command_and_the_scripts_exit_with_the_code():
    script = Path(__file__).parents[1] / "scripts" / "evaluate.py"
    for command in ([sys.executable, "-m", "seqrec_jax.cli", "evaluate"], [sys.executable, str(script)]):
        done = subprocess.run([*command, "--checkpoint", "none"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.endswith("seqrec evaluate: none is not a run: it does not exist; give the directory that "
                                    "`seqrec train` wrote\n")  # fmt: skip


# -- bad input at the door: the log --

BAD_LOGS = {
    "missing": (None, "log.csv does not exist"),
    "empty": ("", "log.csv is empty (0 bytes); expected a header and rows"),
    "only a header": (HEADER, "log.csv has column names but no rows; expected at least one event"),
    "missing column": (
        "user,item_id,timestamp\na,b,1\n",
        "log.csv: no column 'user_id'; did you mean 'user'? (columns found: user, item_id, timestamp)",
    ),
    "doubled column": (
        "user_id,user_id,item_id,timestamp\na,a,b,1\n",
        "log.csv: 2 columns are named 'user_id'; give each column its own name",
    ),
    "mixed units of time": (
        LOG + "u1,i1,1700000000000\n",
        "log.csv: column 'timestamp' mixes units of time: 12 look like seconds (1700000000 to 1700000182, as in row 0: "
        "1700000000) and 1 look like milliseconds",
    ),
    "no readable time": (
        HEADER + "a,b,soon\nc,d,later\n",
        "log.csv: no row is left of 2; most were dropped as 'unparsable time'",
    ),
    "a single user": (
        HEADER + "a,x,1700000000\na,y,1700000060\n",
        "log.csv: only 1 user is left; training and evaluation need at least 2",
    ),
    "a single item": (
        HEADER + "a,x,1700000000\nb,x,1700000060\n",
        "log.csv: only 1 item is left; a recommender needs at least 2",
    ),
    "nothing to hold out": (
        HEADER + "a,x,1700000000\nb,y,1700000060\n",
        "the leave_one_out split leaves no validation events of any behaviour with an item among 2 events of 2 users; it "
        "takes a user with at least three of them; choose another split.rule, or bring a longer log",
    ),
}


@pytest.mark.parametrize("kind", BAD_LOGS)
def test_a_bad_log_is_refused_with_its_reason(call, home, kind):
    log, message = BAD_LOGS[kind]
    write_config(home, log=log)
    code, lines, errors = call("prepare", "--config", "c.yaml")
    assert (code, lines) == (2, [])
    assert errors.startswith(f"seqrec prepare: {message}")
    assert not (home / "data").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",i1,1700000000", "missing user id"),
        ("u1,,1700000000", "missing item id"),
        ("u1,i1,99999999999", "time in the future"),
        ("u1,i1,-5", "time before 1970"),
        ("u1,i1,soon", "unparsable time"),
        ("u1,i1,", "missing time"),
    ],
)
def test_a_bad_row_is_counted_or_an_error_where_asked(call, home, row, reason):
    write_config(home, log=LOG + row + "\n")
    code, _, errors = call("prepare", "--config", "c.yaml", "--strict")
    assert code == 2
    assert errors.startswith("seqrec prepare: strict cleaning allows no dropped rows, 1 were")
    assert re.search(rf"dropped: {reason} +1 +7\.69%  rows 12", errors)
    code, lines, _ = call("prepare", "--config", "c.yaml")
    assert code == 0 and any(re.search(rf"dropped: {reason} +1", line) for line in lines)


def test_ids_are_kept_as_they_are_written(call, home):
    odd = ["007", "7", "NA", "né à l'été", " a b ", "1e5", "中文", "null"]
    rows = "".join(f'{user},"{item}",{1_700_000_000 + 10 * n}\n' for user in odd for n, item in enumerate(odd))
    write_config(home, log=HEADER + rows)
    assert call("prepare", "--config", "c.yaml")[0] == 0
    dataset = read_dataset(home / "data")
    assert sorted(dataset.items["item_id"]) == sorted(odd) == sorted(dataset.sequences.user_ids)


# -- bad input at the door: the configuration --


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--training.batch_sise", "3"],
            "the command line: unknown key training.batch_sise; did you mean training.batch_size?",
        ),
        (["--batch_size", "3"], "the command line: unknown key batch_size; did you mean training.batch_size?"),
        (
            ["--training.batch_size", "many"],
            'the command line: key "training.batch_size": Expected an int. Got value: many',
        ),
        (["--training.batch_size", "-3"], "c.yaml: training.batch_size must be greater than 0, got -3"),
        (["--model.encoder.width", "-3"], "encoder.width must be at least 1, got -3"),
        (["--data.cleaning.item_k_core", "0"], "cleaning.item_k_core must be at least 1, got 0"),
        (["--evaluation.cutoffs", "[0]"], "evaluation.cutoffs must be list lengths of at least 1, got (0,)"),
        (["--name", "a/b"], "name must be a plain folder name, got 'a/b'"),
        (["--training.batch_size"], "argument --training.batch_size: expected one argument"),
        (["log.csv"], "unrecognized arguments: log.csv"),
        (
            ["--data.cleaning.user_k_core", "50"],
            "log.csv: no row is left of 12; most were dropped as 'user below k-core' (12 rows); lower "
            "cleaning.user_k_core (50) or cleaning.item_k_core (1)",
        ),
        (
            ["--data.columns.timestamp", "null", "--data.split.rule", "global_timeline"],
            "global_timeline needs timestamps, this log has only an order; use leave_one_out",
        ),
        (["--data.vocabulary_from", "none"], "none is not a prepared dataset: it has no dataset.json"),
    ],
)
def test_a_bad_setting_is_refused(call, home, words, message):
    write_config(home)
    code, lines, errors = call("prepare", "--config", "c.yaml", *words)
    assert (code, lines) == (2, [])
    assert errors.startswith("seqrec prepare: ") and errors.count("seqrec") == errors.count("seqrec prepare")
    assert message in errors
    assert not (home / "data").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no configuration file c.yaml"),
        ("a: [1", "c.yaml is not YAML: while parsing a flow sequence"),
        ("- 1", "c.yaml must hold sections and fields, found list"),
        ("trainig: {batch_size: 3}", "c.yaml: unknown key trainig; did you mean training?"),
        ("training: 5", "c.yaml: training is a section with fields of its own, got 5"),
        ("training: {max_epochs: many}", 'c.yaml: key "training.max_epochs": Expected an int. Got value: many'),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_a_bad_configuration_file_is_refused(call, home, text, message, verb):
    if text is not None:
        (home / "c.yaml").write_text(text, encoding="utf-8")
    code, lines, errors = call(verb, "--config", "c.yaml")
    assert (code, lines) == (2, [])
    assert errors.startswith(f"seqrec {verb}: {message}")


# -- bad input at the door: runs and requests --


@pytest.mark.parametrize("words", [["evaluate"], ["recommend", "--history", "a"], ["embed", "--output", "o"]])
def test_a_missing_or_half_written_run_is_refused(call, home, run, words):
    verb, *rest = words
    code, lines, errors = call(verb, "--checkpoint", "runs/none", *rest)
    assert (code, lines) == (2, [])
    assert errors == (
        f"seqrec {verb}: runs/none is not a run: it does not exist; give the directory that `seqrec train` wrote\n"
    )
    code, _, errors = call(verb, "--checkpoint", run, *rest, "--step", "3")
    assert code == 2 and "has no checkpoint" in errors and errors.startswith(f"seqrec {verb}: ")
    shutil.rmtree(run / "checkpoints")
    code, _, errors = call(verb, "--checkpoint", run, *rest)
    assert code == 2
    assert errors == (
        f"seqrec {verb}: runs/tiny/checkpoints does not exist: nothing was trained there, or the path is wrong\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history", "a", "--k", "0"], "k must be at least 1, got 0"),
        (["--history", "a", "--diversty", "1"], "the command line: unknown key diversty; did you mean diversity?"),
        (["--history", "a", "--reranking.diversity", "2"], "diversity must be between 0 and 1, got 2"),
        (["--history", "a", "--reranking.rules", "none.yaml"], "there is no rules file none.yaml"),
        (["--history", "a", "--output", "lists.xlsx"], "lists.xlsx must end in .parquet or .csv"),
    ],
)
def test_a_bad_request_is_refused(call, run, words, message):
    code, lines, errors = call("recommend", "--checkpoint", run, *words)
    assert (code, lines) == (2, [])
    assert f"seqrec recommend: {message}" in errors or (errors.startswith("seqrec recommend: ") and message in errors)


def test_a_bad_evaluation_is_refused(call, run):
    for words, message in [
        (["--evaluation.metric", "ndcg@7"], "evaluation.metric is 'ndcg@7'; with these cutoffs it can be accuracy@1, "),
        (["--sead", "1"], "the command line: unknown key sead; did you mean seed?"),
        (["--min_history", "999"], "no user has a test target and a history of at least 999 events ("),
        (
            ["--dataset", "nowhere"],
            "nowhere is not a prepared dataset: it has no dataset.json; run `seqrec prepare` first",
        ),
    ]:
        code, lines, errors = call("evaluate", "--checkpoint", run, *words)
        assert (code, lines) == (2, [])
        assert errors.startswith("seqrec evaluate: ") and message in errors


# -- disks and keyboards --


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "lists.parquet")


@pytest.mark.parametrize(("fail", "reason"), [(full, "No space left on device"), (read_only, "Permission denied")])
def test_a_place_that_cannot_be_written_is_told(call, home, run, monkeypatch, fail, reason):
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    for verb, words, what in [
        ("recommend", ["--history", "a", "--output", "lists.parquet"], "lists.parquet"),
        ("embed", ["--output", "vectors"], "vectors to vectors"),
        ("evaluate", [], "the evaluation to runs/tiny"),
    ]:
        code, _, errors = call(verb, "--checkpoint", run, *words)
        assert code == 2
        assert errors.splitlines()[-1] == f"seqrec {verb}: cannot write {what}: {reason}"
    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    write_config(home)
    code, _, errors = call("prepare", "--config", "c.yaml")
    assert (code, errors) == (2, f"seqrec prepare: cannot write the dataset to data: {reason}\n")
    assert not (home / "data").exists()


def test_a_file_where_a_folder_belongs_is_told(call, home, run):
    (home / "taken").write_text("")
    code, _, errors = call("embed", "--checkpoint", run, "--output", "taken")
    assert (code, errors) == (2, "seqrec embed: cannot write vectors to taken: File exists\n")
    write_config(home)
    code, _, errors = call("prepare", "--config", "c.yaml", "--data.directory", "taken/data")
    assert code == 2 and errors.startswith("seqrec prepare: cannot write the dataset to taken/data: ")


def test_what_no_room_foresaw_of_a_disk_is_still_one_line(call, home, run, monkeypatch):
    monkeypatch.setattr(pipeline, "embed_run", full)
    code, _, errors = call("embed", "--checkpoint", run, "--output", "o")
    assert (code, errors) == (2, "seqrec embed: [Errno 28] No space left on device\n")


def test_ctrl_c_ends_quietly(call, run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "embed_run", interrupt)
    assert call("embed", "--checkpoint", run, "--output", "o") == (130, [], "seqrec embed: interrupted\n")
