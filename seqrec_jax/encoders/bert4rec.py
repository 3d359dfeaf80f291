"""Self-attention in both directions over a user's events (BERT4Rec)."""

from __future__ import annotations

from seqrec_jax.encoders.config import Encoder, EncoderConfig
from seqrec_jax.encoders.layers import AttentionBlock
from seqrec_jax.encoders.stack import stack_encoder


def bert4rec_encoder(config: EncoderConfig) -> Encoder:
    """SASRec's blocks without the causal mask: a state depends on all events of its segment, earlier and later.

    It is trained to predict masked events. A new event changes every state, so that events cannot be appended.

    Source:
      Sun et al. (2019), BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
      Transformer. The authors normalise after each part and have a feed-forward layer of four times the width:
      `norm="post"`, `feed_forward_multiple=4`.
    """
    return stack_encoder(config, AttentionBlock, causal=False, final_norm=config.norm == "pre")
