"""Which contenders there are, how one is started, and rounds in which they alternate."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from peers.environments import python_of
from peers.protocol import Contender

Reply = dict[str, Any]


class Peer(NamedTuple):
    """Another library's model, or a plain one.

    Attributes:
      label: in tables.
      environment: name of its environment.
      script: in this folder.
      loss: softmax or binary_cross_entropy.
    """

    label: str
    environment: str
    script: str
    loss: str = "softmax"


PEERS = {
    "recbole": Peer("RecBole", "recbole", "recbole_sasrec.py"),
    "torch_bce": Peer("PyTorch, one negative", "torch", "torch_sasrec.py", "binary_cross_entropy"),
    "torch": Peer("PyTorch, full softmax", "torch", "torch_sasrec.py"),
    "rectools": Peer("RecTools", "rectools", "rectools_sasrec.py"),
    "replay": Peer("RePlay", "replay", "replay_sasrec.py"),
}


def start_peer(name: str) -> Contender:
    """A peer's process, in its environment, which is made if it does not exist."""
    return Contender(python_of(PEERS[name].environment), PEERS[name].script)


def start_ours() -> Contender:
    """This library's process, in the benchmark's environment."""
    return Contender(sys.executable, "seqrec_sasrec.py")


def alternate(turns: Mapping[str, Callable[[], Reply]], *, rounds: int, seed: int = 0) -> dict[str, list[Reply]]:
    """The replies of every contender's turns, one a round, in an order drawn anew each round."""
    order, draw = list(turns), random.Random(seed)
    replies: dict[str, list[Reply]] = {name: [] for name in turns}
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            replies[name].append(turns[name]())
    return replies


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of ours to theirs."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
