"""What changes when the protocol changes: `python benchmarks/protocols.py [data …]`, an hour for all on two cores.

Each log is split in two ways, the last event of everybody held out and at one point in time. GRU, SASRec, HSTU and
BERT4Rec are trained on each, and judged beside the baselines under one protocol after another: all that followed, the
next event only, seen items kept or excluded, a hundred sampled candidates. Rows go to
benchmarks/results/protocols.json;
docs/protocols.md is written from them. A run that exists is not trained again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml
from records import Row, Trained, train_apart

from seqrec_jax import pipeline
from seqrec_jax.config import ExperimentConfig
from seqrec_jax.training.config import parse_config

RUNS = Path("runs/protocols")
LOGS = ("online_retail", "amazon_grocery", "movielens_100k")
RULES = ("leave_one_out", "global_timeline")
ENCODERS: dict[str, Row] = {
    "gru": {},
    "sasrec": {},
    "hstu": {"time_bias": True},
    "bert4rec": {},
}
EPOCHS = {"online_retail": 12}


def main() -> None:
    """Train what is missing, then judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("data", nargs="*", metavar="data", help=f"{', '.join(LOGS)} (default: all)")
    parser.add_argument("--train-only", action="store_true", help="judge another time")
    options = parser.parse_args()
    for log in options.data or LOGS:
        for rule in RULES:
            for encoder in ENCODERS:
                trained = train_run(log, rule, encoder)
                print(f"{log}, {rule}, {encoder}: {trained.facts}", flush=True)


def train_run(log: str, rule: str, encoder: str) -> Trained:
    """The run of one encoder on one split of a log, trained now where it does not exist."""
    config = configuration(log, rule, encoder)
    if not Path(config.dataset_directory).exists():
        pipeline.prepare(config)
    return train_apart(config, runs=RUNS)


def configuration(log: str, rule: str, encoder: str) -> ExperimentConfig:
    """The log's own configuration with another split and encoder; all encoders have the same width and schedule."""
    values = yaml.safe_load(Path(f"configs/{log}.yaml").read_text(encoding="utf-8"))
    length = values["model"]["encoder"]["max_length"]
    values["name"] = f"{log}-{rule}-{encoder}"
    values["data"]["split"] = {"rule": rule}
    values["data"]["directory"] = f"data/protocols/{log}-{rule}"
    values["model"] = {
        "encoder": {"kind": encoder, "width": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.2, "max_length": length}
        | ENCODERS[encoder],
        "items": {"width": 64},
        # a masked event has to find its neighbours by their positions; those next to the end are what it is asked for
        "events": {"position": encoder != "bert4rec", "position_from_end": encoder == "bert4rec"},
    }
    if encoder == "gru":
        for name in ("num_heads",):
            del values["model"]["encoder"][name]
    values["training"]["optimizer"] = {"learning_rate": 1e-3}
    values["training"]["max_epochs"] = EPOCHS.get(log, 40)
    config = parse_config(ExperimentConfig, values=values)
    return replace(config, name=values["name"])


if __name__ == "__main__":
    main()
