"""This library's `encode_texts` as a contender for text throughput.

- `prepare(directory, texts, threads) -> version, tokens_per_batch, …`: a model's directory and a JSON file of texts;
- `encode() -> seconds` from all texts to all vectors, tokens included;
- `save(path)`: the vectors of the last time, to an .npy file.

Runs with the benchmark's Python.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from protocol import serve

from seqrec_jax.encoders.language import encode_texts, load_text_encoder


class Ours:
    """The encoder and the texts; XLA takes as many threads as there are cores."""

    def prepare(self, directory: str, texts: str, threads: int) -> dict[str, Any]:
        self._encoder = load_text_encoder(directory)
        self._texts = json.loads(Path(texts).read_text())
        first, second = self.encode()["seconds"], self.encode()["seconds"]
        return {"version": f"JAX {jax.__version__}", "seconds_of_compilation": round(first - second, 1)}

    def encode(self) -> dict[str, Any]:
        start = time.perf_counter()
        self._vectors = encode_texts(self._encoder, self._texts).vectors
        return {"seconds": time.perf_counter() - start}

    def save(self, path: str) -> None:
        np.save(path, self._vectors)


if __name__ == "__main__":
    serve(Ours())
