"""Published-figure runs: `python benchmarks/quality.py [config …] [--seeds 0 1 2]` sends each through the four scripts.

Writes a row a run to benchmarks/results/quality.json, replacing an earlier row of the same configuration file and seed.
A run that was stopped is continued, a finished one is not trained again: remove runs/<name> to start over. Seed 0 goes
to runs/<name>, seed 1 to runs/<name>_seed1, and so on. Where several seeds were run, a row with the means over seeds
and users, and over the differences from the strongest baseline, goes to benchmarks/results/quality_seeds.json. At the
end stand the means beside the published figures on the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from records import Row, circumstances, write_rows

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.settings import parse_config
from seqrec_jax.statistics import two_level_intervals

CONFIGS = ("configs/amazon_beauty.yaml", "configs/movielens_1m.yaml", "configs/online_retail.yaml")
RESULTS = Path("benchmarks/results/quality.json")
SEEDS_RESULTS = Path("benchmarks/results/quality_seeds.json")
KEYS = ("configuration", "seed")
SEED: Row = {"seed": 0}  # of rows that do not say it
METRICS = ("hit_rate@10", "ndcg@10")
PUBLISHED = {
    "configs/amazon_beauty.yaml": {
        "SASRec + sampled softmax": (0.0921, 0.0531),
        "eSASRec": (0.0928, 0.0523),
        "HSTU": (0.0788, 0.0439),
        "TIGER": (0.0648, 0.0384),
    },
    "configs/amazon_sports.yaml": {"best": (0.0569, 0.0314), "eSASRec": (0.0560, 0.0323)},
    "configs/amazon_beauty_bert4rec.yaml": {
        "SASRec + cross entropy": (0.0533, 0.0327),
        "SASRec of RecTools": (0.0595, 0.0359),
    },
    "configs/movielens_1m.yaml": {
        "SASRec + cross entropy": (0.3152, 0.1821),
        "FuXi-α, another preparation": (0.3164, 0.1813),
        "HSTU-large, another preparation": (0.3294, 0.1893),
        "HSTU-large of RecTools, another preparation": (0.3642, 0.2164),
    },
}
"""HR@10 and NDCG@10 as published, all items ranked, leave one out."""


def main() -> None:
    """Run every configuration named on the command line, all by default, with every seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configurations", nargs="*", metavar="config", help=f"default: {' '.join(CONFIGS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training (default: 0)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    configurations = options.configurations or CONFIGS
    summaries = []
    for configuration in configurations:
        prepared = {"prepare": run_script("prepare", "--config", configuration, "--overwrite")}
        rows = []
        for seed in options.seeds:
            rows.append(run(configuration, seed, prepared))
            write_rows(options.results, rows[-1:], keys=KEYS, defaults=SEED)
        summaries.append(over_seeds(configuration, rows))
        if len(rows) > 1:
            write_rows(SEEDS_RESULTS, summaries[-1:], keys=("configuration",))
    for summary in summaries:
        print_summary(summary)


def run(configuration: str, seed: int, prepared: dict[str, tuple[float, int]]) -> Row:
    """One configuration and seed from its prepared dataset to its lists; the row that describes it."""
    config = parse_config(ExperimentConfig, path=configuration)
    name = run_name(config.name, seed)
    seeded = ["--name", name, "--data.directory", config.dataset_directory, "--training.seed", str(seed)]
    usage = dict(prepared)
    for verb, words in {
        "train": ["--config", configuration, "--quiet", *(seeded if seed else [])],
        "evaluate": ["--checkpoint", f"runs/{name}"],
        "recommend": ["--checkpoint", f"runs/{name}", "--all-users", "--output", f"runs/{name}/lists.parquet"],
    }.items():
        usage[verb] = run_script(verb, *words)
    result = json.loads(Path(f"runs/{name}/metrics.json").read_text(encoding="utf-8"))
    model = result["systems"][0]
    return {
        "data": result["protocol"]["dataset"],
        "fingerprint": result["protocol"]["fingerprint"],
        "split": result["protocol"]["split"],
        "seen_items": result["protocol"]["seen_items"],
        "users": result["protocol"]["users"],
        "model": model["name"],
        "configuration": configuration,
        "seed": seed,
        "settings": {section: result["config"][section] for section in ("model", "training")},
        "figures": {
            system["name"]: {metric: system["metrics"][metric] for metric in METRICS} for system in result["systems"]
        },
        "comparisons": result["comparisons"],
        "training": result["model"],
        "users_per_second": round(model["users_per_second"]),
        "seconds": {
            **{verb: round(seconds, 1) for verb, (seconds, _) in usage.items()},
            "train": result["model"]["training_seconds"],
        },
        "peak_memory_bytes": max(peak for _, peak in usage.values()),
        **circumstances(f"python benchmarks/quality.py {configuration}" + (f" --seeds {seed}" if seed else "")),
    }


def run_script(verb: str, *words: str) -> tuple[float, int]:
    """Run a script; its wall time in seconds and its peak of memory in bytes."""
    command = [sys.executable, f"scripts/{verb}.py", *words]
    print(f"$ python {' '.join(command[1:])}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    return time.monotonic() - started, usage.ru_maxrss * unit


def run_name(name: str, seed: int) -> str:
    """Folder of a seed's run below runs/."""
    return name if seed == 0 else f"{name}_seed{seed}"


def over_seeds(configuration: str, rows: list[Row]) -> Row:
    """Means over seeds and users with intervals that allow for both; from one seed, over users alone."""
    first, model = rows[0], rows[0]["model"]
    rivals = {row["baseline"] for row in first["comparisons"]}
    rival = max(rivals, key=lambda name: first["figures"][name]["ndcg@10"]["mean"])
    figures = {
        "seeds": [row["seed"] for row in rows],
        "training_seconds": float(np.mean([row["seconds"]["train"] for row in rows])),
        "strongest_baseline": rival,
        **{name: {metric: first["figures"][name][metric]["mean"] for metric in METRICS} for name in (model, rival)},
    }
    if len(rows) > 1:
        name = parse_config(ExperimentConfig, path=configuration).name
        tables = [pd.read_parquet(f"runs/{run_name(name, row['seed'])}/per_user.parquet") for row in rows]
        values = np.stack([values_of(table, model) for table in tables])
        rival_values = np.stack([values_of(table, rival) for table in tables])
        figures[model], figures[rival] = intervals(values), intervals(rival_values)
        figures["difference"] = intervals(values - rival_values)
    facts = {key: first[key] for key in ("data", "fingerprint", "split", "seen_items", "users", "model")}
    seeds = " ".join(str(row["seed"]) for row in rows)
    command = f"python benchmarks/quality.py {configuration} --seeds {seeds}"
    return {"configuration": configuration, **facts, **figures, **circumstances(command)}


def values_of(table: pd.DataFrame, system: str) -> np.ndarray:
    """`[U, M]` a system's metrics, users in one order."""
    return table[table["system"] == system].sort_values("user_id")[list(METRICS)].to_numpy(dtype=np.float64)


def intervals(values: np.ndarray) -> Row:
    """Mean and 95 % interval of each metric of `[S, U, M]`."""
    found = two_level_intervals(values)
    return {
        metric: {
            "mean": float(found.mean[column]),
            "low": float(found.low[column]),
            "high": float(found.high[column]),
            "seed_deviation": float(found.seed_deviation[column]),
        }
        for column, metric in enumerate(METRICS)
    }


def print_summary(row: Row) -> None:
    """A configuration's figures, and the published ones."""
    print(f"\n{row['configuration']}, test, seeds {', '.join(map(str, row['seeds']))}")
    print(f"{'':<56} {METRICS[0]:<26} {METRICS[1]}")
    names = [row["model"], row["strongest_baseline"], *(["difference"] if "difference" in row else [])]
    for name in names:
        cells = [in_words(row[name][metric]) for metric in METRICS]
        print(f"{name:<56} {cells[0]:<26} {cells[1]}")
    for name, (hit_rate, ndcg) in PUBLISHED.get(row["configuration"], {}).items():
        print(f"{'published: ' + name:<56} {hit_rate:<26.4f} {ndcg:.4f}")


def in_words(figure: float | Row) -> str:
    """Mean and interval; of one seed the mean alone."""
    if isinstance(figure, float):
        return f"{figure:.4f} (one seed)"
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


if __name__ == "__main__":
    main()
