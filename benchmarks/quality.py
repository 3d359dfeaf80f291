"""Published-figure runs: `python benchmarks/quality.py [config …]` sends each through the four scripts.

Writes a row a run to benchmarks/results/quality.json, replacing an earlier row of the same configuration file. A run
that was stopped is continued, a finished one is not trained again: remove runs/<name> to start over.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax

CONFIGS = ("configs/amazon_beauty.yaml", "configs/movielens_1m.yaml", "configs/online_retail.yaml")
RESULTS = Path("benchmarks/results/quality.json")


def main() -> None:
    """Run every configuration named on the command line, all by default."""
    for config in sys.argv[1:] or CONFIGS:
        row = run(config)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        rows = [old for old in rows if old["configuration"] != config] + [row]
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(sorted(rows, key=lambda row: row["configuration"]), indent=1) + "\n")
        print(json.dumps(row["figures"], indent=1))


def run(config: str) -> dict:
    """One configuration from its log to its lists; the row that describes it."""
    name = Path(config).stem
    seconds = {}
    for verb, words in {
        "prepare": ["--config", config, "--overwrite"],
        "train": ["--config", config, "--quiet"],
        "evaluate": ["--checkpoint", f"runs/{name}"],
        "recommend": ["--checkpoint", f"runs/{name}", "--all-users", "--output", f"runs/{name}/lists.parquet"],
    }.items():
        print(f"$ python scripts/{verb}.py {' '.join(words)}", flush=True)
        started = time.monotonic()
        subprocess.run([sys.executable, f"scripts/{verb}.py", *words], check=True)
        seconds[verb] = round(time.monotonic() - started, 1)
    result = json.loads(Path(f"runs/{name}/metrics.json").read_text())
    model = result["systems"][0]
    device = jax.devices()[0]
    return {
        "data": result["protocol"]["dataset"],
        "fingerprint": result["protocol"]["fingerprint"],
        "split": result["protocol"]["split"],
        "seen_items": result["protocol"]["seen_items"],
        "users": result["protocol"]["users"],
        "model": model["name"],
        "configuration": config,
        "figures": {
            system["name"]: {metric: system["metrics"][metric] for metric in ("hit_rate@10", "ndcg@10")}
            for system in result["systems"]
        },
        "comparisons": result["comparisons"],
        "training": result["model"],
        "users_per_second": round(model["users_per_second"]),
        "seconds": {**seconds, "train": result["model"]["training_seconds"]},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {device.platform} ({device.device_kind}), shared",
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/quality.py {config}",
    }


if __name__ == "__main__":
    main()
