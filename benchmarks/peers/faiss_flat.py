"""faiss's exact index of inner products as a contender; the requests are those of `seqrec_top_k.py`.

Runs in the environment of faiss.txt.
"""

from __future__ import annotations

import time
from typing import Any

import faiss
import numpy as np
from protocol import serve


class Flat:
    """An `IndexFlatIP` of the item vectors."""

    def prepare(self, path: str, k: int) -> dict[str, Any]:
        vectors = np.load(path)
        self._users, self._k = vectors["users"], k
        self._index = faiss.IndexFlatIP(vectors["items"].shape[1])
        self._index.add(vectors["items"])
        self.search()
        return {"version": faiss.__version__}

    def search(self, repeats: int = 1) -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(repeats):
            self._found = self._index.search(self._users, self._k)
        return {"seconds": (time.perf_counter() - start) / repeats}

    def save(self, path: str) -> None:
        scores, rows = self._found
        np.savez(path, scores=scores, item_ids=rows + 1)


if __name__ == "__main__":
    serve(Flat())
