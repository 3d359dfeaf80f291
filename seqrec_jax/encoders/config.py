"""The contract of an encoder, and the settings that the built-in encoders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax

from seqrec_jax.errors import ConfigError
from seqrec_jax.settings import Interval, check_fields

Params: TypeAlias = dict[str, Any]
EncoderKind = Literal[
    "mean", "gru", "lstm", "linear_recurrence", "sasrec", "bert4rec", "ligr", "hstu", "language", "text"
]
ATTENTION_KINDS = ("sasrec", "bert4rec", "ligr", "hstu")
LANGUAGE_KINDS = ("language", "text")


class Encoder(NamedTuple):
    """Pure functions that turn event vectors into hidden states; a custom encoder needs the first two only.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      encode: `encode(params, event_vectors [B, L, D], batch, *, key=None) -> states [B, L, D]`. If `causal`, the state
        at a position depends on the events of its own segment up to and including that position, else on all events of
        its segment; it never depends on another segment. Its value at padding is arbitrary, but finite. `key` is one
        typed key, or `[B]` typed keys, one a row; None switches dropout off.
      causal: whether a state depends on no later event. An encoder that is not causal is trained to predict masked
        events instead of the next one, and predicts from a masked event after the last.
      start: `start(num_users, dtype) -> cache`, the cache of users without events, for event vectors of that dtype: a
        pytree of arrays `[num_users, ...]`, keys and values of attention or the hidden state of a recurrence. None if
        events cannot be appended.
      append: `append(params, cache, event_vectors [B, D], batch) -> (states [B, D], cache)`, one more event of
        each user: the last column of `encode` over all events so far, without reading them again. `batch` is `[B, 1]`
        and its positions count each user's events from 0; at position 0 the user starts afresh and the old cache is
        ignored. A row of segment 0 leaves its user's cache as it was.
      encode_last: `encode_last(params, event_vectors, batch, *, key=None) -> [B, D]`, the state of `encode` at the last
        real position of each row, for rows of one user each; with a key, dropout draws another mask than `encode`.
        Finite if a row is all padding. None if nothing is saved by it: the state is then taken from `encode`.
    """

    init: Callable[[jax.Array], Params]
    encode: Callable[..., jax.Array]
    causal: bool = True
    start: Callable[..., Any] | None = None
    append: Callable[..., Any] | None = None
    encode_last: Callable[..., jax.Array] | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of a sequence encoder.

    Attributes:
      kind: mean (pooling), gru, lstm, linear_recurrence (diagonal and gated), sasrec (causal self-attention),
        bert4rec (self-attention in both directions over masked events), ligr (gated self-attention blocks), hstu
        (pointwise attention with position and time biases), or the first blocks of a pretrained language model:
        language (over event vectors) or text (over the tokens of the items' texts, one after the other).
      width: D, the width of event vectors and of the user vector v_x.
      num_layers: number of stacked layers or blocks; mean pooling has none.
      num_heads: attention heads; they divide the width.
      feed_forward_multiple: width of a block's feed-forward layer as a multiple of D; 1 as in SASRec, 4 as in BERT4Rec
        and LiGR. HSTU has no such layer.
      dropout: share of the entries of event vectors and of layers' outputs set to zero in training.
      attention_dropout: share of attention weights set to zero in training.
      max_length: L, the largest number of events of a user that the model reads.
      norm: layer normalisation before (pre) or after (post) each part of a sasrec or bert4rec block.
      activation: of sasrec's and bert4rec's feed-forward layers; gelu is the exact one, not its tanh approximation.
      recency_half_life: number of later events after which an event has half its weight in mean pooling; null weighs
        all alike.
      time_bias: hstu's attention depends on the time between two events, besides their distance.
      language_model: directory of kind language's or text's model in the Hugging Face layout; `width` must be the width
        of its vectors. Of the settings of blocks above only num_layers applies to it.
      text: name of the item feature whose tokens kind text reads.
    """

    kind: EncoderKind = "sasrec"
    width: Annotated[int, Interval("[1, inf)")] = 64
    num_layers: Annotated[int, Interval("[1, inf)")] = 2
    num_heads: Annotated[int, Interval("[1, inf)")] = 2
    feed_forward_multiple: float = 1.0
    dropout: Annotated[float, Interval("[0, 1)")] = 0.2
    attention_dropout: Annotated[float, Interval("[0, 1)")] = 0.0
    max_length: Annotated[int, Interval("[1, inf)")] = 50
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    recency_half_life: Annotated[float, Interval("(0, inf)")] | None = None
    time_bias: bool = True
    language_model: str | None = None
    text: str = "text"

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        if round(self.feed_forward_multiple * self.width) < 1:
            raise ConfigError(
                "encoder.feed_forward_multiple times encoder.width must round to at least 1, got "
                f"{self.feed_forward_multiple} and {self.width}"
            )
        if self.kind in ATTENTION_KINDS and self.width % self.num_heads:
            raise ConfigError(
                f"encoder.width must be a multiple of encoder.num_heads, got {self.width} and {self.num_heads}"
            )
        if (self.language_model is not None) != (self.kind in LANGUAGE_KINDS):
            raise ConfigError(
                f"encoder.language_model is {self.language_model!r} and encoder.kind {self.kind}; kind "
                f"{' or '.join(LANGUAGE_KINDS)} needs a language model's directory, and no other kind takes one"
            )
        if self.recency_half_life is not None and self.kind != "mean":
            raise ConfigError(f"encoder.recency_half_life belongs to kind 'mean', leave it out for kind {self.kind!r}")
