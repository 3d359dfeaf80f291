"""This library's `top_k` as a contender, compiled for one batch of users.

- `prepare(path, k) -> version, compiled_bytes`: `users` `[U, E]` and `items` `[V, E]` of an .npz file;
  compiled_bytes are what the compiled program takes beside its arguments;
- `search(repeats) -> seconds` of one search, the mean of the repeats;
- `save(path)`: `scores` and `item_ids` (1…V) `[U, K]` of the last search, to an .npz file.

Runs with the benchmark's Python.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from protocol import serve

from seqrec_jax.scoring import TopK, catalogue_order, top_k


class Ours:
    """The compiled function and its arguments."""

    def prepare(self, path: str, k: int) -> dict[str, Any]:
        vectors = np.load(path)
        users, items = vectors["users"], vectors["items"]
        v_y = jnp.asarray(np.concatenate([np.zeros_like(items[:1]), items]))
        self._arguments = jnp.asarray(users), v_y, catalogue_order(len(items), jax.random.key(0))
        del vectors, users, items

        def search(v_x: jax.Array, v_y: jax.Array, priority: jax.Array) -> TopK:
            return top_k(v_x, None, v_y, k=k, priority=priority)

        self._function = jax.jit(search).lower(*self._arguments).compile()
        self.search()
        compiled = self._function.memory_analysis()
        taken = compiled.temp_size_in_bytes + compiled.output_size_in_bytes
        return {"version": jax.__version__, "compiled_bytes": taken}

    def search(self, repeats: int = 1) -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(repeats):
            self._found = jax.block_until_ready(self._function(*self._arguments))
        return {"seconds": (time.perf_counter() - start) / repeats}

    def save(self, path: str) -> None:
        np.savez(path, scores=self._found.scores, item_ids=self._found.item_ids)


if __name__ == "__main__":
    serve(Ours())
