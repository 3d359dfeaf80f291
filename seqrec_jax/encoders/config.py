"""What an encoder is, and the settings that the built-in encoders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax

from seqrec_jax.errors import ConfigError

Params: TypeAlias = dict[str, Any]
EncoderKind = Literal[
    "mean", "gru", "lstm", "linear_recurrence", "sasrec", "bert4rec", "ligr", "hstu", "language", "text"
]
ATTENTION_KINDS = ("sasrec", "bert4rec", "ligr", "hstu")
LANGUAGE_KINDS = ("language", "text")


class Encoder(NamedTuple):
    """Pure functions that turn event vectors into states; one's own encoder is the first two of them.

    Attributes:
      init: `init(key) -> params`, a nested dict of arrays with string keys.
      encode: `encode(params, event_vectors [B, L, D], batch, *, key=None) -> states [B, L, D]`. The state at
        a position knows the events of its own segment, up to and including that position if `causal`, and
        nothing else; what it holds at padding is free, but finite. Without a key there is no dropout. A key is
        one typed key, or `[B]` typed keys, one a row.
      causal: whether a state knows no later event. Where it does know them, training predicts masked events instead
        of the next one, and a list is made from a masked event after the last.
      start: `start(num_users, dtype) -> memory`, a pytree of arrays `[num_users, ...]` that has seen no event, for
        event vectors of that dtype; None where events cannot be appended.
      append: `append(params, memory, event_vectors [B, D], batch) -> (states [B, D], memory)`, one event more of
        each user: the last column of `encode` over all events so far, without going through them again. `batch`
        is `[B, 1]` and its positions count each user's events from 0, which starts a user afresh whatever the
        memory holds. An event of segment 0 changes nothing of its user's memory.
      encode_last: `encode_last(params, event_vectors, batch, *, key=None) -> [B, D]`, of the states of `encode` the one
        at the last real position of each row, for rows of one user each; with a key its dropout is another draw. Finite
        where a row is all padding. None where nothing is saved by leaving out the others: it is then taken from
        `encode`.
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
        (pointwise attention with position and time biases), or the first blocks of a language model, which start from
        its weights: language (over event vectors) or text (over the tokens of the items' texts, one after the other).
      width: D, the width of event vectors and of the user vector v_x.
      num_layers: stacked layers or blocks; mean pooling has none.
      num_heads: attention heads; they divide the width.
      feed_forward_multiple: width of a block's feed-forward layer as a multiple of D; 1 as in SASRec, 4 as in BERT4Rec
        and LiGR. HSTU has no such layer.
      dropout: share of event vectors' and layers' outputs set to zero in training.
      attention_dropout: share of attention weights set to zero in training.
      max_length: L, the most events of a user that the model looks at.
      norm: layer normalisation before (pre) or after (post) each part of a sasrec or bert4rec block.
      activation: of sasrec's and bert4rec's feed-forward layers; gelu is the exact one, not its tanh approximation.
      recency_half_life: events after which an event weighs half in mean pooling; null weighs all alike.
      time_bias: hstu's attention depends on the time between two events, besides their distance.
      language_model: directory of kind language's or text's model in the Hugging Face layout; `width` is that of its
        vectors, and the fields above that are about blocks do not concern it, but for num_layers.
      text: name of the item feature whose tokens kind text reads.
    """

    kind: EncoderKind = "sasrec"
    width: int = 64
    num_layers: int = 2
    num_heads: int = 2
    feed_forward_multiple: float = 1.0
    dropout: float = 0.2
    attention_dropout: float = 0.0
    max_length: int = 50
    norm: Literal["pre", "post"] = "pre"
    activation: Literal["gelu", "relu"] = "gelu"
    recency_half_life: float | None = None
    time_bias: bool = True
    language_model: str | None = None
    text: str = "text"

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(EncoderKind))
        _check_choice("norm", self.norm, ("pre", "post"))
        _check_choice("activation", self.activation, ("gelu", "relu"))
        for name in ("width", "num_layers", "num_heads", "max_length"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"encoder.{name} must be at least 1, got {value}")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"encoder.{name} must be at least 0 and less than 1, got {value}")
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
        if self.recency_half_life is not None:
            if self.recency_half_life <= 0:
                raise ConfigError(f"encoder.recency_half_life must be above 0, got {self.recency_half_life}")
            if self.kind != "mean":
                raise ConfigError(
                    f"encoder.recency_half_life belongs to kind 'mean', leave it out for kind {self.kind!r}"
                )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"encoder.{name} must be one of {', '.join(choices)}, got {value!r}")
