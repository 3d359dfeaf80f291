"""A language model inside an item tower: token ids to vectors, trained with the rest of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int

from seqrec_jax.encoders.config import Params
from seqrec_jax.encoders.language.config import read_language_config
from seqrec_jax.encoders.language.pooling import read_pooling, text_vectors
from seqrec_jax.encoders.language.weights import init_weights, on_host, read_weights
from seqrec_jax.types import ArrayLike

TEXTS_AT_ONCE = 256
"""Number of texts whose hidden states are held at a time; the gradient recomputes them."""


class PretrainedTextModel(NamedTuple):
    """A language model as pure functions; an `items.tower.TextModel` with pretrained parameters.

    Attributes:
      width: D, the width of its vectors.
      init: `init(key) -> params`, random.
      pretrained: `pretrained() -> params`, those of its directory, NumPy arrays on the host.
      vectors: `vectors(params, tokens [*N, T]) -> [*N, D]`; tokens are int32 token ids + 1, 0 after a text's end.
    """

    width: int
    init: Callable[[jax.Array], Params]
    pretrained: Callable[[], Params]
    vectors: Callable[[Params, jax.Array], jax.Array]


def make_text_model(directory: str | Path) -> PretrainedTextModel:
    """The language model of a directory in the Hugging Face layout; its weights are not read.

    Raises:
      ConfigError: as `read_language_config` and `read_pooling`.
    """
    config = read_language_config(directory)
    pooling = read_pooling(directory, config)

    @jax.checkpoint
    def of_some(params: Params, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        return text_vectors(params, jnp.maximum(tokens - 1, 0), tokens > 0, config=config, pooling=pooling)

    def vectors(params: Params, tokens: Int[ArrayLike, "*N T"]) -> Float[Array, "*N D"]:
        rows = tokens.reshape(-1, tokens.shape[-1])
        number = rows.shape[0]
        if is_symbolic_dim(number) or number <= TEXTS_AT_ONCE:
            found = of_some(params, rows)
        else:
            filled = jnp.pad(rows, ((0, -number % TEXTS_AT_ONCE), (0, 0)))
            pieces = filled.reshape(-1, TEXTS_AT_ONCE, rows.shape[1])
            found = jax.lax.map(lambda piece: of_some(params, piece), pieces)
            found = found.reshape(-1, config.width)[:number]
        return found.reshape(*tokens.shape[:-1], config.width)

    return PretrainedTextModel(
        width=config.width,
        init=lambda key: init_weights(config, key),
        pretrained=lambda: read_weights(directory, config, put=on_host).params,
        vectors=vectors,
    )
