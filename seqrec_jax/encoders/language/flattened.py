"""A user's history as one text: a language model reads the texts of all items in it."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.language.encoder import blocks_config
from seqrec_jax.encoders.language.pooling import pool, read_pooling
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.encoders.language.weights import init_weights
from seqrec_jax.errors import ConfigError

_TEXTLESS_DEVIATION = 0.02


def text_encoder(config: EncoderConfig) -> Encoder:
    """A language model over `batch.item_tokens`, the texts of the events' items one after the other.

    A token attends to its own text (all of it, or earlier tokens only, as the model's family does), to the texts of all
    earlier events of its segment, and to no later event, so that the states of all events are trained at once.
    Positions count the segment's tokens. The event vector is added to each token embedding of the event. An event
    without text (a search, an item without a title) is one token: a learned vector plus its event vector. A state is
    the model's own pooling of the hidden states of the event's tokens; after one event it is the vector of that text.

    `init` draws random parameters; `pretrained_blocks` reads the pretrained ones. Dropout applies to event vectors
    only. The gradient recomputes each layer.

    Raises:
      ConfigError: as `language_encoder`, and as `read_pooling`.

    Source:
      Li et al. (2023), Text Is All You Need: Learning Language Representations for Sequential Recommendation. There
      tokens attend to later events too, and only the last state of a sequence is trained.
    """
    language = blocks_config(config)
    pooling = read_pooling(config.language_model or "", language)

    def init(key: Array) -> Params:
        language_key, textless_key = jax.random.split(key)
        textless = _TEXTLESS_DEVIATION * jax.random.normal(textless_key, (config.width,))
        return {"language": init_weights(language, language_key), "textless": textless}

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        there = batch.segment_ids > 0
        tokens = batch.item_tokens
        if tokens is None:
            tokens = jnp.zeros((*there.shape, 1), jnp.int32)
        size, length = tokens.shape[-1], tokens.shape[-1] * there.shape[1]
        real = (tokens > 0).at[..., 0].set(True) & there[..., None]
        table = params["language"]["embeddings"]["tokens"]
        textless = params["textless"][None, None, None]
        words = jnp.where((tokens > 0)[..., None], table[jnp.maximum(tokens - 1, 0)], textless)
        embeddings = words + event_vectors.astype(words.dtype)[:, :, None]
        rows = (there.shape[0], length)
        states = hidden_states(
            params["language"],
            None,
            real.reshape(rows),
            config=language,
            positions=_token_positions(real, batch).reshape(rows),
            embeddings=embeddings.reshape(*rows, config.width),
            segment_ids=jnp.where(real, batch.segment_ids[..., None], 0).reshape(rows),
            where=_no_later_block(length, size=size),
            checkpoint_layers=True,
        )
        texts = pool(states.reshape(-1, size, config.width), real.reshape(-1, size), pooling=pooling)
        return texts.reshape(*there.shape, config.width).astype(states.dtype)

    return Encoder(init, encode)


def check_texts(config: EncoderConfig, features: Mapping[str, Array]) -> None:
    """Check that a dataset's items have texts that an encoder of kind text can read.

    Args:
      config: settings of the encoder.
      features: features of the item table, `[V+1, F]` each, concrete arrays.

    Raises:
      ConfigError: no such feature, or vectors in the place of tokens; more tokens in a row than the language model has
        positions; tokens that it does not have.
    """
    language = blocks_config(config)
    texts = [name for name, feature in features.items() if jnp.issubdtype(feature.dtype, jnp.integer)]
    if config.text not in texts:
        found = "as vectors" if config.text in features else "not at all"
        raise ConfigError(
            f"encoder.text names {config.text!r}, which the dataset has {found}; encoder.kind text reads tokens, and "
            f"there are those of {', '.join(texts) or 'no text'}; prepare it with data.items.text.tokens"
        )
    num_tokens = features[config.text].shape[1]
    if config.max_length * num_tokens > language.max_length:
        raise ConfigError(
            f"encoder.max_length is {config.max_length} and texts of {config.text!r} have up to {num_tokens} tokens, "
            f"which makes {config.max_length * num_tokens}, but {config.language_model} has positions for "
            f"{language.max_length}; choose fewer events, or prepare the dataset with fewer data.items.text.tokens"
        )
    if (largest := int(jnp.max(features[config.text]))) > language.vocab_size:
        raise ConfigError(
            f"the texts of {config.text!r} have a token {largest - 1}, but {config.language_model} knows "
            f"{language.vocab_size}; prepare the dataset with encoder.language_model as data.items.text.model"
        )


def _token_positions(real: Bool[Array, "B L T"], batch: Batch) -> Int[Array, "B L T"]:
    """Number of each token in its segment, padding not counted.

    Args:
      real: `[B, L, T]` True at tokens, which come first in each event.
      batch: its positions say where a segment starts.

    Returns:
      `[B, L, T]` int32; arbitrary where `real` is False, but within L * T.
    """
    counts = jnp.sum(real, axis=-1, dtype=jnp.int32)
    before = jnp.cumsum(counts, axis=1) - counts
    first = jnp.arange(real.shape[1], dtype=jnp.int32)[None] - batch.positions
    before = before - jnp.take_along_axis(before, jnp.maximum(first, 0), axis=1)
    return before[..., None] + jnp.arange(real.shape[-1], dtype=jnp.int32)[None, None]


def _no_later_block(length: int, *, size: int) -> Bool[Array, "1 N N"]:
    """`[1, length, length]` True where a query (second axis) may attend to a key (third): in no later block of `size`.

    >>> _no_later_block(4, size=2)[0].astype(int)
    Array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 1],
           [1, 1, 1, 1]], dtype=int32)
    """
    blocks = np.arange(length) // size
    return jnp.asarray(blocks[:, None] >= blocks[None])[None]
