"""Verbs as tables: what the parser, the help and the messages make of them."""

import json
import logging

import pytest

from seqrec_jax import cli
from seqrec_jax.cli.table import Argument, Verb, named_paths, without_section
from seqrec_jax.errors import ConfigError

READS_A_DATASET = {"evaluate", "compare", "recommend", "embed", "fit-head", "fit-decoder"}


def names(verb):
    return [
        name
        for entry in verb.arguments
        for one in (entry if isinstance(entry, tuple) else (entry,))
        for name in one.names
    ]


def small_verb(seen, fields=None):
    arguments = (
        Argument("--many", type=int, default=1, help="how many"),
        (Argument("--one", help="one"), Argument("--other", help="other")),
    )

    def run(options, words):
        seen.append((options.many, options.one, options.other, words))
        return 0

    return Verb("try", "Try it.", arguments, run, fields=fields)


def test_a_verb_parses_its_table_and_passes_fields_on_only_where_it_takes_them(capsys):
    seen = []
    assert small_verb(seen)(["--many", "3", "--other", "x"]) == 0
    assert small_verb(seen, fields="Fields can follow.")(["--a.b", "4"]) == 0
    assert seen == [(3, None, "x", []), (1, None, None, ["--a.b", "4"])]
    for words in (["--a.b", "4"], ["--one", "x", "--other", "y"]):
        with pytest.raises(SystemExit) as end:
            small_verb(seen)(words)
        assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "unrecognized arguments: --a.b 4" in errors and "not allowed with argument --one" in errors


def test_every_verb_is_unique_described_and_takes_a_dataset_where_it_reads_one():
    assert len({id(verb) for verb in cli.VERBS.values()}) == len(cli.VERBS)
    for name, verb in cli.VERBS.items():
        assert verb.name == name and verb.summary.endswith(".")
        assert ("--dataset" in names(verb)) == (name in READS_A_DATASET)
        assert len(set(names(verb))) == len(names(verb))


def test_named_paths_and_fields_of_one_section():
    assert named_paths(["a=b/c", "d=e=f"], what="lists") == {"a": "b/c", "d": "e=f"}
    for wrong in ("a", "=b", "a="):
        with pytest.raises(ConfigError, match="lists are given as name=path, such as first=folder/file, got '"):
            named_paths([wrong], what="lists")
    with pytest.raises(ConfigError, match="lists name 'a' twice; give each a name of its own"):
        named_paths(["a=b", "a=c"], what="lists")
    words = ["--evaluation.stage", "test", "--stage=test", "--other.stage"]
    assert without_section(words, "evaluation") == ["--stage", "test", "--stage=test", "--other.stage"]


def test_notes_of_the_library_are_lines_on_stderr_and_the_logger_is_put_back(call, run, tiny_run, home):
    path = run / "dataset.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "directory": "/gone/project/tiny"}), encoding="utf-8")
    (home / "tiny").symlink_to(tiny_run.dataset)
    logger = logging.getLogger("seqrec_jax")
    before = (logger.level, logger.propagate, list(logger.handlers))
    code, lines, errors = call("recommend", "--checkpoint", run, "--users", "user-000007", "--k", "2")
    assert (code, len(lines)) == (0, 3)
    assert (
        errors
        == f"note       the dataset of runs/tiny is not at /gone/project/tiny any more; reading {home / 'tiny'}\n"
    )
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    (home / "tiny").unlink()
    code, _, errors = call("recommend", "--checkpoint", run, "--users", "user-000007")
    assert code == 2 and errors.endswith("if the dataset was moved, give its directory (--dataset)\n")
    code, _, errors = call("recommend", "--checkpoint", run, "--users", "a", "--dataset", tiny_run.dataset)
    assert (code, errors) == (0, "fallback   the most popular items for 1 users without a known history: a\n")
