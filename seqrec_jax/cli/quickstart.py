"""The verb quickstart: the whole job on the simulated shop."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from seqrec_jax.cli.table import EXPERIMENT, Verb

_CONFIG = Path("runs/quickstart.yaml")
_STEPS = (
    "prepare --config {config} --overwrite {fields}",
    "train --config {config} --overwrite {fields}",
    "evaluate --checkpoint runs/quickstart",
    "recommend --checkpoint runs/quickstart --users user-000007 --k 5",
    "recommend --checkpoint runs/quickstart --all-users --output runs/quickstart/recommendations.parquet",
    "embed --checkpoint runs/quickstart --output runs/quickstart/vectors",
)


def _quickstart(_: argparse.Namespace, fields: list[str]) -> int:
    from seqrec_jax.cli import run

    _CONFIG.parent.mkdir(exist_ok=True)
    _CONFIG.write_bytes(Path(__file__).with_name("quickstart.yaml").read_bytes())
    for step in _STEPS:
        words = step.format(config=_CONFIG, fields=shlex.join(fields)).strip()
        print(f"\n$ seqrec {words}", flush=True)
        if code := run(shlex.split(words)):
            return code
    print("\nOpen runs/quickstart/report.html in a browser.")
    return 0


VERBS = (
    Verb(
        "quickstart",
        "The whole job on a simulated shop: prepare, train, evaluate, recommend and embed, in runs/quickstart/.",
        (),
        _quickstart,
        fields=EXPERIMENT,
    ),
)
