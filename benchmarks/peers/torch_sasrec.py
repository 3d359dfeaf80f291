"""A plain PyTorch SASRec, trained as common repositories train it.

A batch is of random users with their last L training events, padded on the left; every position is computed. The loss
is binary cross entropy with one uniform negative a position that the user has not seen, or cross entropy over all
items. Negatives are drawn for the whole batch at once, and attention does not return its weights, both of which is
faster than what is usual.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from histories import TOP, ndcg, padded_left, read_histories
from protocol import serve
from torch import nn

WIDTH, BLOCKS = 64, 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(array: np.ndarray) -> torch.Tensor:
    """A tensor on the GPU where there is one."""
    return torch.from_numpy(array).to(DEVICE)


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each with its residual."""

    def __init__(self, heads: int, dropout: float):
        super().__init__()
        self.attention_norm, self.forward_norm = nn.LayerNorm(WIDTH, eps=1e-8), nn.LayerNorm(WIDTH, eps=1e-8)
        self.attention = nn.MultiheadAttention(WIDTH, heads, dropout, batch_first=True)
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
        queries = self.attention_norm(x)
        x = queries + self.attention(queries, x, x, attn_mask=unseen, need_weights=False)[0]
        x = self.forward_norm(x)
        return x + self.layers(x)


class Sasrec(nn.Module):
    """States of every position; items are scored with their input embeddings."""

    def __init__(self, num_items: int, length: int, heads: int, dropout: float):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(length + 1, WIDTH, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(heads, dropout) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-8)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def forward(self, item_ids: torch.Tensor) -> torch.Tensor:
        length = item_ids.shape[1]
        places = torch.arange(1, length + 1, device=DEVICE) * (item_ids > 0)
        x = self.dropout(self.items(item_ids) * WIDTH**0.5 + self.positions(places))
        unseen = torch.triu(torch.ones(length, length, dtype=torch.bool, device=DEVICE), diagonal=1)
        for block in self.blocks:
            x = block(x, unseen)
        return self.norm(x)


class TorchSasrec:
    """The contender."""

    def prepare(self, length: int, loss: str, heads: int = 2, dropout: float = 0.2, batch_size: int = 128) -> dict:
        torch.manual_seed(0)
        self.length, self.loss, self.batch_size = length, loss, batch_size
        self.histories = read_histories()
        rows = padded_left(self.histories.training, length + 1)
        self.inputs, self.targets = rows[:, :-1], rows[:, 1:] * (rows[:, :-1] > 0)
        self.seen = np.zeros((len(rows), self.histories.num_items + 1), dtype=bool)
        for user, sequence in enumerate(self.histories.training):
            self.seen[user, sequence] = True
        self.rng = np.random.default_rng(0)
        self.model = Sasrec(self.histories.num_items, length, heads, dropout).to(DEVICE)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, betas=(0.9, 0.98))
        return {
            "model": {"num_heads": heads, "dropout": dropout, "attention_dropout": dropout, "activation": "relu"},
            "batch_size": batch_size,
            "version": torch.__version__,
        }

    def draw(self) -> np.ndarray:
        """`[B]` users of a batch."""
        return self.rng.integers(len(self.inputs), size=self.batch_size)

    def draw_negatives(self, users: np.ndarray) -> np.ndarray:
        """`[B, L]` items that the users have not seen."""
        drawn = self.rng.integers(1, self.histories.num_items + 1, (len(users), self.length))
        while (again := self.seen[users[:, None], drawn]).any():
            drawn[again] = self.rng.integers(1, self.histories.num_items + 1, int(again.sum()))
        return drawn

    def samples(self, path: str, batches: int) -> None:
        users = np.stack([self.draw() for _ in range(batches)])
        np.savez(path, item_ids=self.inputs[users].astype(np.int32), targets=self.targets[users].astype(np.int32))

    def train(self, seconds: float) -> dict:
        self.model.train()
        steps, targets, total, started = 0, 0, 0.0, time.perf_counter()
        while not steps or time.perf_counter() - started < seconds:
            users = self.draw()
            item_ids, positives = on_device(self.inputs[users]), on_device(self.targets[users])
            states = self.model(item_ids)
            where = positives > 0
            if self.loss == "softmax":
                scores = states @ self.model.items.weight.T
                loss = nn.functional.cross_entropy(scores.flatten(0, 1), positives.flatten(), ignore_index=0)
            else:
                negatives = on_device(self.draw_negatives(users))
                of_positives = (states * self.model.items(positives)).sum(-1)[where]
                of_negatives = (states * self.model.items(negatives)).sum(-1)[where]
                entropy = nn.functional.binary_cross_entropy_with_logits
                loss = entropy(of_positives, torch.ones_like(of_positives))
                loss = loss + entropy(of_negatives, torch.zeros_like(of_negatives))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            steps, targets, total = steps + 1, targets + int(where.sum()), total + loss.item()
        seconds = time.perf_counter() - started
        return {
            "steps": steps,
            "targets": targets,
            "samples": steps * self.batch_size,
            "seconds": seconds,
            "loss": total / steps,
        }

    @torch.inference_mode()
    def rank(self, batch_size: int = 256) -> dict:
        self.model.eval()
        started = time.perf_counter()
        known = [sequence[:-1] for sequence in self.histories.sequences]
        lists = []
        for start in range(0, len(known), batch_size):
            batch = known[start : start + batch_size]
            states = self.model(on_device(padded_left(batch, self.length)))
            scores = states[:, -1] @ self.model.items.weight.T
            users = on_device(np.repeat(np.arange(len(batch)), [len(sequence) for sequence in batch]))
            scores[users, on_device(np.concatenate(batch))] = -torch.inf
            scores[:, 0] = -torch.inf
            lists.append(scores.topk(TOP).indices.cpu().numpy())
        figure = ndcg(np.concatenate(lists), self.histories.targets)
        return {"users": len(known), "seconds": time.perf_counter() - started, "ndcg": figure}


if __name__ == "__main__":
    serve(TorchSasrec())
