"""What the contenders of text throughput share outside this library: titles sorted by length, padded to the longest.

Runs in the environment of language.txt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer

MAX_LENGTH = 256
SIZES = (512, 1024, 2048, 4096)  # tokens of a batch that are tried

Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]


class SortedTexts:
    """Texts to unit vectors by a forward pass from token ids and mask `[B, L]` int64 to hidden states `[B, L, D]`.

    Each batch is padded to its own longest text only, and the tokens of a batch are the fastest of some that are tried.
    """

    def __init__(self, directory: str, texts: list[str], forward: Forward):
        self._tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_LENGTH)
        self._texts, self._forward = texts, forward
        seconds = {}
        for size in (SIZES[0], *SIZES):  # the first one warms up
            self._size = size
            seconds[size] = self.encode()["seconds"]
        self._size = min(seconds, key=seconds.__getitem__)

    @property
    def tokens_per_batch(self) -> int:
        return self._size

    def encode(self) -> dict[str, Any]:
        start = time.perf_counter()
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(self._texts)]
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        vectors = None
        at = 0
        while at < len(order):
            length = len(rows[order[at]])
            places = order[at : at + max(1, self._size // length)]
            token_ids = np.zeros((len(places), length), np.int64)
            mask = np.zeros((len(places), length), np.int64)
            for row, place in enumerate(places):
                token_ids[row, : len(rows[place])] = rows[place]
                mask[row, : len(rows[place])] = 1
            states = self._forward(token_ids, mask)
            weights = mask[:, :, None].astype(np.float32)
            means = (states * weights).sum(1) / weights.sum(1)
            if vectors is None:
                vectors = np.zeros((len(rows), means.shape[1]), np.float32)
            vectors[places] = means / np.linalg.norm(means, axis=1, keepdims=True)
            at += len(places)
        self.vectors = vectors
        return {"seconds": time.perf_counter() - start}

    def save(self, path: str) -> None:
        np.save(path, self.vectors)
