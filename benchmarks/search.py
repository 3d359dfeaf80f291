"""Tuning on the validation part only: `python benchmarks/search.py configs/amazon_beauty.yaml`.

Trains the configuration once for each entry of benchmarks/search/<name of the file>.yaml (or of `--trials`): a list of
dictionaries of fields to change, by dotted names. Each goes to runs/search/, and to a row of
benchmarks/results/search.json, also one that diverged; a trial that has a row on the same data is skipped, a stopped
one is continued. The test part is never looked at here: benchmarks/quality.py does that, once the choice is made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from records import Row, circumstances, dataset_of, described, experiment, read_rows, train_apart, write_rows

from seqrec_jax.errors import ConfigError, DivergenceError, SeqrecError
from seqrec_jax.settings import config_dict

RESULTS = Path("benchmarks/results/search.json")
RUNS = Path("runs/search")
KEYS = ("configuration", "digest", "fingerprint")


def main() -> None:
    """Run the trials that have no row yet, and print all by their validation figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configuration", help="YAML file of the experiment that the trials change")
    parser.add_argument("--trials", type=Path, help="list of changes (default: benchmarks/search/<name>.yaml)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    trials = options.trials or Path("benchmarks/search") / Path(options.configuration).name
    try:
        search(options.configuration, trials, results=options.results)
    except SeqrecError as error:
        sys.exit(f"search: {error}")
    except KeyboardInterrupt:
        sys.exit("search: stopped; the same command continues")


def search(configuration: str, trials: Path, *, results: Path) -> None:
    """The trials of a file on one configuration, each one run and one row."""
    fingerprint = dataset_of(experiment(configuration, {}).config).fingerprint
    command = f"python benchmarks/search.py {configuration} --trials {trials}"
    for overrides in read_trials(trials):
        config, digest = experiment(configuration, overrides)
        row: Row = {
            "data": Path(config.dataset_directory).name,
            "fingerprint": fingerprint,
            "configuration": configuration,
            "digest": digest,
            "overrides": overrides,
            "model": config.model.encoder.kind,
            "metric": f"validation {config.evaluation.metric}",
            "settings": {section: config_dict(getattr(config, section)) for section in ("model", "training")},
        }
        if any(all(old[key] == row[key] for key in KEYS) for old in read_rows(results)):
            continue
        print(f"training {RUNS / config.name}: {described(overrides)}", flush=True)
        try:
            row |= train_apart(config, runs=RUNS).facts
        except DivergenceError as error:
            row |= {"best_validation": None, "error": str(error)}
        write_rows(results, [row | circumstances(command)], keys=KEYS)
    print_table([row for row in read_rows(results) if row["configuration"] == configuration])


def read_trials(path: Path) -> list[Row]:
    """The dictionaries of a file of trials.

    Raises:
      ConfigError: no such file, or something else in it.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file of trials {path}; write a list of changes, such as [{{}}], or --trials")
    trials = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(trials, list) or not all(isinstance(trial, dict) for trial in trials):
        raise ConfigError(f"{path} must be a list of dictionaries such as {{training.batch_size: 32}}")
    return trials


def print_table(rows: list[Row]) -> None:
    """One line a trial, the best first, diverged ones last."""
    print(f"{'validation':>10} {'epochs':>6} {'seconds':>8} {'targets/s':>9}  changes")
    for row in sorted(rows, key=lambda row: -(row["best_validation"] or 0)):
        if row["best_validation"] is None:
            print(f"{'diverged':>10} {'':>25}  {described(row['overrides'])}")
            continue
        speed = f"{row['targets_per_second']:9,.0f}"
        figures = f"{row['best_validation']:10.4f} {row['epochs']:6} {row['seconds']:8.0f} {speed}"
        print(f"{figures}  {described(row['overrides'])}")


if __name__ == "__main__":
    main()
