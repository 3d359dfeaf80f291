"""The main job on the simulated shop: clean, train, evaluate, recommend and embed, all in runs/quickstart/."""

import shlex
import sys

from seqrec_jax.cli import run

STEPS = [
    "prepare --config configs/quickstart.yaml --overwrite",
    "train --config configs/quickstart.yaml --overwrite",
    "evaluate --checkpoint runs/quickstart",
    "recommend --checkpoint runs/quickstart --users user-000007 --k 5",
    "recommend --checkpoint runs/quickstart --all-users --output runs/quickstart/recommendations.parquet",
    "embed --checkpoint runs/quickstart --output runs/quickstart/vectors",
]

if __name__ == "__main__":
    for step in STEPS:
        print(f"\n$ seqrec {step}", flush=True)
        code = run(shlex.split(step))
        if code:
            sys.exit(code)
    print("\nOpen runs/quickstart/report.html in a browser.")
