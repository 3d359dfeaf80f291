"""A language model trained on judgments: whole, a part, or adapters beside it, so that queries lie near good items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from seqrec_jax.data.judgments import Judgments
from seqrec_jax.encoders.language import TextEncoder, pad_tokens, text_vectors, tokenize
from seqrec_jax.errors import DataError
from seqrec_jax.losses import sampled_softmax_loss, weighted_mean
from seqrec_jax.settings import Interval, check_fields
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.low_rank import merge_adapters
from seqrec_jax.training.adapters.partition import (
    FineTuningSummary,
    describe,
    partition,
    recombine,
    trainable_paths,
)
from seqrec_jax.training.adapters.wiring import add_adapters, trained_part_optimizer

Params = dict[str, Any]


@dataclass(frozen=True)
class TextTuningConfig:
    """Settings of a language model's training on judgments.

    Attributes:
      steps: number of updates.
      batch_size: queries a step; each has one of its items as the target, drawn by gain, among the others' targets.
      temperature: divides the scores.
      learning_rate: Adam's, at its highest; it rises for the first tenth of the steps and falls to 0 by the last.
      query_tokens: most tokens of a query; what follows is cut off.
      item_tokens: most tokens of an item's text.
      seed: of all draws.
    """

    steps: Annotated[int, Interval("[1, inf)")] = 300
    batch_size: Annotated[int, Interval("[2, inf)")] = 32  # since negatives come from the batch
    temperature: Annotated[float, Interval("(0, inf)")] = 0.05
    learning_rate: Annotated[float, Interval("(0, inf)")] = 3e-4
    query_tokens: Annotated[int, Interval("[1, inf)")] = 16
    item_tokens: Annotated[int, Interval("[1, inf)")] = 40
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "search.text_tuning")


class TunedEncoder(NamedTuple):
    """A text encoder after training.

    Attributes:
      encoder: adapters are merged into its kernels, so that it costs what it cost before.
      losses: `[steps]` float32 training losses.
      summary: numbers of trained and frozen parameters, and their memory.
    """

    encoder: TextEncoder
    losses: np.ndarray
    summary: FineTuningSummary


def tune_text_encoder(
    encoder: TextEncoder,
    texts: Sequence[str],
    judgments: Judgments,
    *,
    fine_tuning: FineTuningConfig,
    config: TextTuningConfig = TextTuningConfig(),
) -> TunedEncoder:
    """Train a text encoder so that the product of a query's vector and a good item's is the largest in its batch.

    Args:
      encoder: of `load_text_encoder`; it does not change.
      texts: V+1 texts, one an item; the text at place 0 is ignored.
      judgments: of the training queries; those without any gain are left out.
      fine_tuning: the parameters to train, such as `FineTuningConfig(mode="lora", targets=("query", "value"))`.
      config: training settings.

    Raises:
      DataError: no query with a gain.
      ConfigError: a pattern of `fine_tuning` that matches nothing.
    """
    items, gains = judgments.padded(judgments.item_ids), judgments.padded(judgments.gains)
    useful = np.flatnonzero(gains.sum(axis=1) > 0)
    if not len(useful):
        raise DataError("no query has an item with a gain above 0, so there is nothing to train on")
    queries = _tokens(encoder, judgments.queries[useful].tolist(), length=config.query_tokens)
    used = np.unique(items[useful])  # 0 among them only as padding
    titles = _tokens(encoder, [texts[item] if item else "" for item in used], length=config.item_tokens)
    targets = jnp.asarray(np.searchsorted(used, items[useful]).astype(np.int32))
    log_gains = jnp.log(jnp.asarray(gains[useful]))  # -inf, never drawn, where there is no gain
    key = jax.random.key(config.seed)
    params = add_adapters(encoder.params, fine_tuning, key=key)
    trained, frozen = partition(params, trainable_paths(params, fine_tuning))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup_steps=max(1, config.steps // 10), decay_steps=max(2, config.steps)
    )
    optimizer = trained_part_optimizer(optax.adam(schedule), fine_tuning, total_steps=config.steps)
    vectors = partial(text_vectors, config=encoder.config, pooling=encoder.pooling)

    def loss(trained: Params, frozen: Params, rows: Array, places: Array) -> Array:
        whole = recombine(frozen, trained)
        searched = vectors(whole, *(array[rows] for array in queries))
        answers = vectors(whole, *(array[places] for array in titles))
        # equal targets get one number, so that of two queries with the same one neither is the other's negative
        numbers = 1 + jnp.argmax(places[:, None] == places[None], axis=1).astype(jnp.int32)
        table = jnp.pad(answers, ((1, 0), (0, 0)))
        return weighted_mean(
            sampled_softmax_loss(searched, table, numbers, negative_ids=numbers, temperature=config.temperature)
        )

    @jax.jit
    def step(trained: Params, state: optax.OptState, frozen: Params, key: Array) -> tuple[Params, Any, Array]:
        row_key, item_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (config.batch_size,), 0, len(targets))
        chosen = jax.random.categorical(item_key, log_gains[rows])
        places = jnp.take_along_axis(targets[rows], chosen[:, None], axis=1)[:, 0]
        value, gradient = jax.value_and_grad(loss)(trained, frozen, rows, places)
        updates, state = optimizer.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, value

    state, losses = optimizer.init(trained), []
    for step_key in jax.random.split(jax.random.fold_in(key, 1), config.steps):
        trained, state, value = step(trained, state, frozen, step_key)
        losses.append(float(value))
    tuned = encoder._replace(params=merge_adapters(recombine(frozen, trained)))
    return TunedEncoder(tuned, np.array(losses, dtype=np.float32), describe(trained, frozen, optimizer=optimizer))


def _tokens(encoder: TextEncoder, texts: list[str], *, length: int) -> tuple[Int[Array, "N L"], Bool[Array, "N L"]]:
    """Tokens of one length, cut off after it, and which are real."""
    length = min(length, encoder.tokenizer.max_length)
    token_ids = [text.token_ids[:length] for text in tokenize(encoder.tokenizer, texts)]
    padded, real = pad_tokens(token_ids, rows=len(texts), length=length)
    return jnp.asarray(padded), jnp.asarray(real)
