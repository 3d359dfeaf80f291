"""Causal self-attention over a user's events (SASRec)."""

from __future__ import annotations

from seqrec_jax.encoders.config import Encoder, EncoderConfig
from seqrec_jax.encoders.layers import AttentionBlock
from seqrec_jax.encoders.stack import stack_encoder


def sasrec_encoder(config: EncoderConfig) -> Encoder:
    """Blocks of causal self-attention and a feed-forward layer, then a layer normalisation.

    Positions are part of the event vectors.

    Source:
      Kang and McAuley (2018), Self-Attentive Sequential Recommendation. With `norm="pre"` both parts of a
      block read a normalised input and add to the residual stream, as is usual today.
    """
    return stack_encoder(config, AttentionBlock, final_norm=config.norm == "pre")
