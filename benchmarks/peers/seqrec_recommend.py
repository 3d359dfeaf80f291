"""Lists for one user as a contender: `Recommender.recommend` of any version of this library, and the engine's.

- `prepare(run, users, library) -> items, place`: the run, by the library at a path, None for the installed one;
- `recommend(repeats) -> seconds` of one request by raw item ids, the mean over users and repeats;
- `engine(repeats) -> seconds` likewise, from arrays to arrays;
- `lists(path)`: `item_ids` and `scores` `[U, K]` of `recommend`, to an .npz file.

Runs with the Python of the environment that the library is installed in.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from protocol import serve

K = 10


class Recommends:
    """A run's recommender and some histories."""

    def prepare(self, run: str, users: int, library: str | None = None) -> dict[str, Any]:
        if library is not None:
            sys.path.insert(0, library)
        import seqrec_jax
        from seqrec_jax.retrieval import Recommender

        self._recommender = Recommender.load(run)
        raw = self._recommender.items["item_id"].tolist()
        draw = np.random.default_rng(0)
        self._histories = [
            [raw[place] for place in draw.integers(0, len(raw), draw.integers(1, 60))] for _ in range(users)
        ]
        self.recommend()
        return {"items": len(raw), "place": str(next(iter(seqrec_jax.__path__)))}

    def recommend(self, repeats: int = 1) -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(repeats):
            for history in self._histories:
                self._recommender.recommend(history, K)
        return {"seconds": (time.perf_counter() - start) / repeats / len(self._histories)}

    def table(self, repeats: int = 1) -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(repeats):
            for history in self._histories:
                _ = self._recommender.recommend(history, K).table
        return {"seconds": (time.perf_counter() - start) / repeats / len(self._histories)}

    def engine(self, repeats: int = 1) -> dict[str, Any]:
        from seqrec_jax.retrieval import Histories

        catalogue, engine, requests = self._recommender.catalogue, self._recommender.engine, []
        for history in self._histories:
            numbers = catalogue.numbers(history)[0][None]
            zeros = np.zeros_like(numbers)
            seconds = zeros + engine.first_second
            requests.append(Histories(numbers, np.array([numbers.shape[1]], np.int32), zeros, seconds))
        for histories in requests:
            engine(histories, k=K)
        start = time.perf_counter()
        for _ in range(repeats):
            for histories in requests:
                engine(histories, k=K)
        return {"seconds": (time.perf_counter() - start) / repeats / len(requests)}

    def lists(self, path: str) -> None:
        tables = [self._recommender.recommend(history, K).table for history in self._histories]
        numbers = {raw: number for number, raw in enumerate(self._recommender.items["item_id"], start=1)}
        item_ids = np.array([[numbers[raw] for raw in table["item_id"]] for table in tables])
        np.savez(path, item_ids=item_ids, scores=np.array([table["score"] for table in tables], dtype=np.float32))


if __name__ == "__main__":
    serve(Recommends())
