"""Sequence encoders: event vectors to states. `make_encoder` builds the one that a config names."""

from __future__ import annotations

from collections.abc import Callable

from seqrec_jax.encoders.bert4rec import bert4rec_encoder
from seqrec_jax.encoders.config import Encoder, EncoderConfig
from seqrec_jax.encoders.hstu import hstu_encoder
from seqrec_jax.encoders.language.encoder import language_encoder
from seqrec_jax.encoders.language.flattened import text_encoder
from seqrec_jax.encoders.ligr import ligr_encoder
from seqrec_jax.encoders.linear_recurrence import linear_recurrence_encoder
from seqrec_jax.encoders.mean import mean_encoder
from seqrec_jax.encoders.recurrent import gru_encoder, lstm_encoder
from seqrec_jax.encoders.sasrec import sasrec_encoder

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "make_encoder"]

ENCODERS: dict[str, Callable[[EncoderConfig], Encoder]] = {
    "mean": mean_encoder,
    "gru": gru_encoder,
    "lstm": lstm_encoder,
    "linear_recurrence": linear_recurrence_encoder,
    "sasrec": sasrec_encoder,
    "bert4rec": bert4rec_encoder,
    "ligr": ligr_encoder,
    "hstu": hstu_encoder,
    "language": language_encoder,
    "text": text_encoder,
}


def make_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that `config.kind` names.

    A custom encoder needs no entry here: pass the `Encoder` itself to `make_sequence_model`.

    >>> import jax
    >>> encoder = make_encoder(EncoderConfig(kind="gru", width=8, num_layers=1))
    >>> encoder.init(jax.random.key(0))["layer_0"]["recurrent"]["kernel"].shape
    (8, 24)
    """
    return ENCODERS[config.kind](config)
