"""Settings of a sequence model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.encoders.events import EventInputConfig
from seqrec_jax.errors import ConfigError
from seqrec_jax.items import ItemTowerConfig
from seqrec_jax.settings import Interval, check_fields

BilinearKind = Literal["identity", "diagonal", "full", "low_rank"]


@dataclass(frozen=True)
class ModelConfig:
    """Settings of a sequence model, `f(v_x, v_y) = v_xᵀ W v_y`.

    Attributes:
      encoder: makes the user vector v_x from event vectors.
      events: the inputs of an event vector.
      items: makes the item vector v_y.
      bilinear: W is the identity, diagonal, full, or of low rank.
      bilinear_rank: rank of a low-rank W.
      share_item_vectors: the encoder's inputs and the scored item vectors have the same weights; false makes two sets.
      target_behavior: v_x depends on the behaviour to be predicted, such as purchase instead of view: each behaviour
        scales and shifts the encoder's state.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    events: EventInputConfig = field(default_factory=EventInputConfig)
    items: ItemTowerConfig = field(default_factory=ItemTowerConfig)
    bilinear: BilinearKind = "identity"
    bilinear_rank: Annotated[int, Interval("[1, inf)")] = 16
    share_item_vectors: bool = True
    target_behavior: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "model")
        if self.bilinear in ("identity", "diagonal") and self.encoder.width != self.items.width:
            raise ConfigError(
                f"model.bilinear {self.bilinear!r} needs encoder.width equal to items.width, got "
                f"{self.encoder.width} and {self.items.width}; make them equal or choose full or low_rank"
            )
        if self.encoder.kind == "text" and not (self.events.item and self.share_item_vectors):
            raise ConfigError(
                "encoder.kind text reads an item's text in the place of its vector: events.item must be true, and no "
                f"second set of vectors is made; got events.item {self.events.item} and model.share_item_vectors "
                f"{self.share_item_vectors}, leave both out"
            )
