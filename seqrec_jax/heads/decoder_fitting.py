"""Codes of a catalogue, and a decoder of semantic ids fitted to fixed states by teacher forcing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.errors import DataError
from seqrec_jax.heads.early_stopping import FittingConfig, fit_with_early_stopping
from seqrec_jax.heads.generative import GenerativeHead
from seqrec_jax.items.semantic_ids import SemanticIdConfig, SemanticIds, extend_semantic_ids, fit_semantic_ids
from seqrec_jax.losses import weighted_mean
from seqrec_jax.types import ArrayLike

Params: TypeAlias = dict[str, Any]

_ROWS_AT_A_TIME = 2**12


@dataclass(frozen=True)
class DecoderTrainingConfig(FittingConfig):
    """Settings of semantic ids, a decoder and its fitting; `FittingConfig` describes the optimisation settings.

    Attributes:
      codes: levels and sizes of the semantic ids.
      decoder: encoder that decodes the codes, see `GenerativeHeadConfig`.
    """

    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    codes: SemanticIdConfig = field(default_factory=lambda: SemanticIdConfig(codebook_size=64))
    decoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(num_layers=1, feed_forward_multiple=4.0, dropout=0.1)
    )


class Targets(NamedTuple):
    """N target items, each with the user's state before it.

    Attributes:
      states: `[N, D]` float32.
      item_ids: `[N]` int32.
      weights: `[N]` float32 weight of each target; None weighs all alike.
    """

    states: Any
    item_ids: Any
    weights: Any = None


class FittedDecoder(NamedTuple):
    """Parameters and loss history of a fitted decoder.

    Attributes:
      params: parameters of the epoch with the lowest validation loss, NumPy arrays.
      losses: a pair (training, validation) an epoch, means of -log P(item).
    """

    params: Params
    losses: list[tuple[float, float]]


def catalogue_codes(
    vectors: Float[ArrayLike, "V1 E"],
    known: Bool[np.ndarray, " V1"],
    *,
    config: SemanticIdConfig,
    key: PRNGKeyArray,
    where: Bool[np.ndarray, " V1"] | None = None,
) -> SemanticIds:
    """Codes of all items by codebooks fitted to the known ones, so that new items need no new codebooks.

    Args:
      vectors: `[V+1, E]`, row 0 padding.
      known: `[V+1]` bool, True for items seen in training.
      config: levels and sizes.
      key: PRNG key, consumed.
      where: `[V+1]` bool, True for items that get codes; None means all.

    Raises:
      ShapeError: as `fit_semantic_ids`.
      DataError: as `fit_semantic_ids`.

    >>> vectors, known = jnp.array([[0.0], [1.0], [8.9], [9.0]]), np.array([False, True, False, True])
    >>> catalogue_codes(vectors, known, config=SemanticIdConfig(1, 2), key=jax.random.key(0)).codes.tolist()
    [[0, 0], [2, 1], [1, 2], [1, 1]]
    """
    where = np.ones(len(known), dtype=bool) if where is None else where
    found = fit_semantic_ids(vectors, config=config, key=key, where=known & where)
    new = np.flatnonzero(~known[1:]) + 1
    if not len(new):
        return found
    extended = extend_semantic_ids(found, jnp.asarray(vectors)[new], where=where[new])
    codes = found.codes.copy()
    codes[new] = extended.codes[len(codes) :]
    return SemanticIds(codes, found.codebooks)


def fit_decoder(
    head: GenerativeHead,
    codes: Int[np.ndarray, "V1 C"],
    *,
    training: Targets,
    validation: Targets,
    config: DecoderTrainingConfig = DecoderTrainingConfig(),
) -> FittedDecoder:
    """Fit a decoder to the codes of each target item, with early stopping on the validation targets.

    Args:
      head: made for these codes.
      codes: `[V+1, C]` int32 codes of the items; targets without codes are left out.
      training: targets that the parameters are fitted to.
      validation: held-out targets, better after the training targets in time.
      config: optimisation settings; its codes and decoder are those that the head was made with.

    Raises:
      DataError: no target with codes, in either part.
    """
    kept = [_with_codes(targets, codes, name) for name, targets in (("training", training), ("validation", validation))]
    examples, checked = jax.tree.map(jnp.asarray, kept[0]), kept[1]

    def batch_loss(params: Params, fixed: None, batch: Targets, key: Array) -> Array:
        values = head.loss(params, batch.states, batch.item_ids, key=key).sum(axis=1)
        return weighted_mean(values, batch.weights, where=batch.item_ids > 0)

    compute = jax.jit(lambda params, targets: head.loss(params, targets.states, targets.item_ids).sum())

    def validation_loss(params: Params) -> float:
        total = 0.0
        for start in range(0, len(checked.item_ids), _ROWS_AT_A_TIME):
            rows = np.arange(start, start + _ROWS_AT_A_TIME)
            real = rows < len(checked.item_ids)  # one shape, so that it compiles once; item 0 has no loss
            rows = np.where(real, rows, 0)
            total += float(compute(params, Targets(checked.states[rows], np.where(real, checked.item_ids[rows], 0))))
        return total / len(checked.item_ids)

    key = jax.random.key(config.seed)
    params, losses = fit_with_early_stopping(
        head.init(key), examples, batch_loss, validation_loss, fixed=None, config=config, key=key
    )
    return FittedDecoder(jax.tree.map(np.asarray, params), losses)


def _with_codes(targets: Targets, codes: np.ndarray, name: str) -> Targets:
    """The targets that have codes and count."""
    weights = np.ones(len(targets.item_ids), np.float32) if targets.weights is None else np.asarray(targets.weights)
    rows = np.flatnonzero((codes[targets.item_ids, 0] > 0) & (weights > 0))
    if not len(rows):
        raise DataError(f"none of the {len(weights):,} {name} targets has codes, so there is nothing to learn from")
    return Targets(np.asarray(targets.states)[rows], np.asarray(targets.item_ids, np.int32)[rows], weights[rows])
