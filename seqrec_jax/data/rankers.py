"""What every system that ranks items for histories offers, trained or not."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import jax
import numpy as np

from seqrec_jax.data.sequences import Sequences

SeenItems = Literal["kept", "excluded"]
"""Whether the items of a user's history may be recommended again."""


@runtime_checkable
class Ranker(Protocol):
    """A name, and scores `[U, V+1]` of all items for the histories of U users.

    Higher is better; column 0 is ignored; -inf marks an item that the ranker cannot rank. A ranker whose softmax over
    the scores is the probability of the next item has an attribute `gives_logits` that is true.
    """

    @property
    def name(self) -> str:
        """The system's label in tables."""

    def scores(self, histories: Sequences, /) -> jax.Array | np.ndarray:
        """`[U, V+1]` float32 scores."""
