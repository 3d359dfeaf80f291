"""The verb quickstart: its steps, with what follows the verb, and where it stops."""

from __future__ import annotations

import shlex
from pathlib import Path

from seqrec_jax import cli
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.settings import parse_config


def test_the_steps_run_in_order_on_the_packaged_configuration(home, monkeypatch, capsys):
    called: list[list[str]] = []
    monkeypatch.setattr(cli, "run", lambda words: called.append(list(words)) or 0)
    assert cli.VERBS["quickstart"](["--training.max_epochs", "2"]) == 0
    verbs = [words[0] for words in called]
    assert verbs == ["prepare", "train", "evaluate", "recommend", "recommend", "embed"]
    assert all(words[-2:] == ["--training.max_epochs", "2"] for words in called[:2])
    assert parse_config(ExperimentConfig, path=Path("runs/quickstart.yaml")).name == "quickstart"
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("$ ")] == [
        f"$ seqrec {shlex.join(words)}" for words in called
    ]
    assert shown.endswith("Open runs/quickstart/report.html in a browser.\n")


def test_a_step_that_fails_is_the_last(home, monkeypatch, capsys):
    calls: list[str] = []
    monkeypatch.setattr(cli, "run", lambda words: calls.append(words[0]) or (2 if words[0] == "train" else 0))
    assert cli.VERBS["quickstart"]([]) == 2
    assert calls == ["prepare", "train"]
    assert "Open" not in capsys.readouterr().out
