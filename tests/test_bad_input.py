"""Bad input as it comes through the command line: one clear line on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import re
import shutil

import pytest
from tiny import SMALL_HEADER, SMALL_LOG, write_small

from seqrec_jax.data.dataset import read_dataset

# -- bad input at the door: the log --

BAD_LOGS = {
    "missing": (None, "log.csv does not exist"),
    "empty": ("", "log.csv is empty (0 bytes); expected a header and rows"),
    "only a header": (SMALL_HEADER, "log.csv has column names but no rows; expected at least one event"),
    "missing column": (
        "user,item_id,timestamp\na,b,1\n",
        "log.csv: no column 'user_id'; did you mean 'user'? (columns found: user, item_id, timestamp)",
    ),
    "doubled column": (
        "user_id,user_id,item_id,timestamp\na,a,b,1\n",
        "log.csv: 2 columns are named 'user_id'; give each column its own name",
    ),
    "mixed units of time": (
        SMALL_LOG + "u1,i1,1700000000000\n",
        "log.csv: column 'timestamp' mixes units of time: 12 look like seconds (1700000000 to 1700000182, as in row 0: "
        "1700000000) and 1 look like milliseconds",
    ),
    "no readable time": (
        SMALL_HEADER + "a,b,soon\nc,d,later\n",
        "log.csv: no row is left of 2; most were dropped as 'unparsable time'",
    ),
    "a single user": (
        SMALL_HEADER + "a,x,1700000000\na,y,1700000060\n",
        "log.csv: only 1 user is left; training and evaluation need at least 2",
    ),
    "a single item": (
        SMALL_HEADER + "a,x,1700000000\nb,x,1700000060\n",
        "log.csv: only 1 item is left; a recommender needs at least 2",
    ),
    "nothing to hold out": (
        SMALL_HEADER + "a,x,1700000000\nb,y,1700000060\n",
        "the leave_one_out split leaves no validation events of any behaviour with an item among 2 events of 2 users; "
        "it takes a user with at least three of them; choose another split.rule, or bring a longer log",
    ),
}


@pytest.mark.parametrize("kind", BAD_LOGS)
def test_a_bad_log_is_refused_with_its_reason(call, home, kind):
    log, message = BAD_LOGS[kind]
    write_small(home, log=log)
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
    write_small(home, log=SMALL_LOG + row + "\n")
    code, _, errors = call("prepare", "--config", "c.yaml", "--strict")
    assert code == 2
    assert errors.startswith("seqrec prepare: strict cleaning allows no dropped rows, 1 were")
    assert re.search(rf"dropped: {reason} +1 +7\.69%  rows 12", errors)
    code, lines, _ = call("prepare", "--config", "c.yaml")
    assert code == 0 and any(re.search(rf"dropped: {reason} +1", line) for line in lines)


def test_ids_are_kept_as_they_are_written(call, home):
    odd = ["007", "7", "NA", "né à l'été", " a b ", "1e5", "中文", "null"]
    rows = "".join(f'{user},"{item}",{1_700_000_000 + 10 * n}\n' for user in odd for n, item in enumerate(odd))
    write_small(home, log=SMALL_HEADER + rows)
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
            "the command line: training.batch_size must be an int, got 'many'",
        ),
        (["--training.batch_size", "-3"], "c.yaml: training.batch_size must be at least 1, got -3"),
        (["--model.encoder.width", "-3"], "encoder.width must be at least 1, got -3"),
        (["--data.cleaning.item_k_core", "0"], "cleaning.item_k_core must be at least 1, got 0"),
        (["--evaluation.cutoffs", "[0]"], "evaluation.cutoffs must be at least 1, got 0"),
        (["--name", "a/b"], "name must be a plain folder name, got 'a/b'"),
        (["--training.batch_size"], "--training.batch_size needs a value"),
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
    write_small(home)
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
        ("training: {max_epochs: many}", "c.yaml: training.max_epochs must be an int, got 'many'"),
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
        (["--history", "a", "--reranking.diversity", "2"], "reranking.diversity must be from 0 to 1, got 2"),
        (["--history", "a", "--reranking.rules", "none.yaml"], "there is no rules file none.yaml"),
        (["--history", "a", "--output", "lists.xlsx"], "lists.xlsx must end in .parquet or .csv"),
    ],
)
def test_a_bad_request_is_refused(call, run, words, message, quick_load):
    code, lines, errors = call("recommend", "--checkpoint", run, *words)
    assert (code, lines) == (2, [])
    assert f"seqrec recommend: {message}" in errors or (errors.startswith("seqrec recommend: ") and message in errors)


def test_a_bad_evaluation_is_refused(call, run, quick_load):
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
