"""The blocks of a pretrained language model as a sequence encoder: event vectors in place of token embeddings."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Array, Float

from seqrec_jax.data.batches import Batch
from seqrec_jax.encoders.config import Encoder, EncoderConfig, Params
from seqrec_jax.encoders.dropout import Keys
from seqrec_jax.encoders.language.config import LanguageConfig, read_language_config
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.encoders.language.weights import init_weights, on_host, read_weights
from seqrec_jax.errors import ConfigError

TOKENS = "embeddings.tokens"  # left out, since events replace tokens


def language_encoder(config: EncoderConfig) -> Encoder:
    """An encoder whose parameters are those of a language model's first blocks, without the token embedding.

    `init` draws random parameters; `pretrained_blocks` reads the pretrained ones. The language model has position
    embeddings of its own, so that `events.position` is best switched off. Dropout applies to event vectors only.

    Raises:
      ConfigError: no such directory or another family; more layers or another width than the language model has, or
        more events than it has positions.

    Source:
      Chen et al. (2024), HLLM: Hierarchical Large Language Models for item and user modelling.
    """
    language = blocks_config(config)

    def init(key: Array) -> Params:
        return {"language": init_weights(language, key, skip=(TOKENS,))}

    def encode(
        params: Params, event_vectors: Float[Array, "B L D"], batch: Batch, *, key: Keys | None = None
    ) -> Float[Array, "B L D"]:
        return hidden_states(
            params["language"],
            None,
            batch.segment_ids > 0,
            config=language,
            positions=batch.positions,
            embeddings=event_vectors,
            segment_ids=batch.segment_ids,
        ).astype(event_vectors.dtype)

    return Encoder(init, encode, causal=language.causal)


def pretrained_blocks(config: EncoderConfig) -> Params:
    """The pretrained parameters of the language model, in the layout of `language_encoder` or `text_encoder`.

    They are NumPy arrays on the host, so that no device has to hold them all.

    Raises:
      ConfigError: as `read_weights`.
      DataError: as `read_weights`.
      MissingExtraError: as `read_weights`.
    """
    skip = (TOKENS,) if config.kind == "language" else ()
    return {"language": read_weights(_directory(config), blocks_config(config), skip=skip, put=on_host).params}


def blocks_config(config: EncoderConfig) -> LanguageConfig:
    """The language model cut to the encoder's number of blocks.

    Raises:
      ConfigError: see `language_encoder`.
    """
    language = read_language_config(_directory(config))
    if config.num_layers > language.num_layers:
        raise ConfigError(
            f"encoder.num_layers is {config.num_layers}, but {config.language_model} has {language.num_layers} layers; "
            "its first ones are used, so choose at most as many"
        )
    if config.width != language.width:
        raise ConfigError(
            f"encoder.width is {config.width}, but the vectors of {config.language_model} have {language.width} "
            "numbers; set encoder.width to that (items.width may differ)"
        )
    if config.max_length > language.max_length:
        raise ConfigError(
            f"encoder.max_length is {config.max_length}, but {config.language_model} has positions for "
            f"{language.max_length}; choose at most as many events"
        )
    return replace(language, num_layers=config.num_layers)


def _directory(config: EncoderConfig) -> str:
    if config.language_model is None:
        raise ConfigError(
            f"encoder.kind {config.kind} needs encoder.language_model, the directory of a language model in the "
            "Hugging Face layout"
        )
    return config.language_model
