"""Trainings of benchmarks/large_models.py that go on from a run: a language model by LoRA, and a decoder of ids.

Both go through whole users in batches and keep the parameters of the pass that does best on the validation events, the
start among them. A step that trains the language model reads each of its TITLES once, and ranks among these only: with
vectors from before the step for all other items, it would learn to tell new vectors from old ones, and targets are new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqrec_jax.data.batches import Batch, history_batch
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.encoders import EncoderConfig
from seqrec_jax.encoders.language.config import read_language_config
from seqrec_jax.encoders.language.pooling import pool, read_pooling
from seqrec_jax.encoders.language.transformer import hidden_states
from seqrec_jax.encoders.language.weights import read_weights
from seqrec_jax.errors import ConfigError
from seqrec_jax.heads import GenerativeHead, GenerativeHeadConfig, make_generative_head
from seqrec_jax.items import ItemTable, id_table
from seqrec_jax.items.semantic_ids import SemanticIdConfig
from seqrec_jax.items.tower import ItemTower
from seqrec_jax.losses import sampled_softmax_loss, weighted_mean
from seqrec_jax.model import ModelConfig, SequenceModel, make_sequence_model
from seqrec_jax.negatives import Negatives, mixed_negatives, popularity_sampler
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.partition import partition, trainable_paths
from seqrec_jax.training.adapters.wiring import add_adapters, fine_tuning_optimizer

Params = dict[str, Any]
Validate = Callable[[Params, Any], float]
"""Parameters, and the vectors of texts that go with them, to the figure that chooses the pass."""
TITLES = 256
"""That a tuning step reads: those of its events and targets, and of as many drawn items as there is room for."""
TUNED_LAYERS = 2
"""The last ones of the language model; what those before make of a text is made once and kept."""
TOKENS = 40
USERS = 48
NUM_NEGATIVES = 176
LORA = FineTuningConfig(
    mode="lora",
    targets=("attention/query", "attention/value"),
    also_train=("encoder", "events", "items/features"),
    rank=8,
)
CODES = SemanticIdConfig(num_levels=3, codebook_size=64)
DECODER = EncoderConfig(kind="sasrec", width=64, num_layers=1, num_heads=2, feed_forward_multiple=4.0, dropout=0.3)
WARM_UP = 20


class Fitted(NamedTuple):
    """What a training left.

    Attributes:
      params: of the best pass.
      facts: passes, best_pass, best_validation, steps, seconds and cpu_seconds (of all cores) without validation, and
        trained, the number of trained parameters.
    """

    params: Params
    facts: dict[str, Any]


def fit(
    params: Params,
    update: Callable[..., tuple[Params, Any, jax.Array]],
    moments: Any,
    batches: Callable[[int], Iterator[tuple[Any, ...]]],
    validate: Validate,
    *,
    passes: int,
    num_trained: int,
    make: Callable[[Params], Any] = lambda params: None,
) -> Fitted:
    """Make `update(params, moments, made, *batch)` for each batch of so many passes; the best pass by validation stays.

    `made` is what `make` makes of the parameters before each pass.
    """
    made = make(params)
    best, best_score, best_pass, steps, seconds, cpu_seconds = params, validate(params, made), 0, 0, 0.0, 0.0
    print(f"    pass 0: validation {best_score:.4f}", flush=True)
    for number in range(1, passes + 1):
        started, cpu_started, total = time.monotonic(), time.process_time(), 0.0
        for batch in batches(number):
            params, moments, value = update(params, moments, made, *batch)
            total, steps = total + float(value), steps + 1
        made = make(params)
        seconds += time.monotonic() - started
        cpu_seconds += time.process_time() - cpu_started
        score = validate(params, made)
        print(
            f"    pass {number}: loss {total * number / steps:.3f}, validation {score:.4f}, {seconds:.0f} s "
            f"({cpu_seconds:.0f} s of the cores)",
            flush=True,
        )
        if score > best_score:
            best, best_score, best_pass = params, score, number
    facts = {
        "passes": passes,
        "best_pass": best_pass,
        "best_validation": best_score,
        "steps": steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "trained": num_trained,
    }
    return Fitted(best, facts)


def user_batches(
    sequences: Sequences, *, first_timestamp: int, length: int, size: int, seed: int
) -> Iterator[tuple[Batch, jax.Array]]:
    """Batches `[size, length]` of whole users in a random order, with the event after each as its target, and a key.

    Of a user who is longer the last events count; those left over after the last whole batch are not read.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(sequences.lengths > 1))
    for number, members in enumerate(order[: len(order) // size * size].reshape(-1, size)):
        events = history_batch(sequences.select_users(members), length=length + 1, first_timestamp=first_timestamp)
        batch: Batch = jax.tree.map(lambda column: column[:, :length], events)
        key = jax.random.fold_in(jax.random.key(seed), number)
        yield batch._replace(targets=events.item_ids[:, 1:]), key


class UpperLayers(NamedTuple):
    """The last layers of a language model of the BERT family, over what its layers before make of the items' texts.

    Attributes:
      params: of the last layers.
      states: `[V+1, T, D]` float32 what they read, zeros for padding.
      vectors: `vectors(params, states [N, T, D], mask [N, T]) -> [N, D]`.
      masks: `[V+1, T]` True at real tokens.
      seconds: that the states took.
    """

    params: Params
    states: jax.Array
    vectors: Callable[..., jax.Array]
    masks: jax.Array
    seconds: float


def upper_layers(directory: str, tokens: np.ndarray) -> UpperLayers:
    """The last TUNED_LAYERS of a directory's language model, and what they read of each item.

    Args:
      directory: in the Hugging Face layout.
      tokens: `[V+1, T]` int32 tokens + 1, 0 after a text's end.

    Raises:
      ConfigError: a decoder, whose last norm is not a layer's.
    """
    config = read_language_config(directory)
    pooling = read_pooling(directory, config)
    if config.causal:
        raise ConfigError(f"{directory} is a decoder; this benchmark tunes the last layers of a BERT model")
    params = read_weights(directory, config).params
    below = config.num_layers - TUNED_LAYERS
    lower, upper = replace(config, num_layers=below), replace(config, num_layers=TUNED_LAYERS)
    masks = jnp.asarray(tokens > 0)

    @jax.jit
    def read(params: Params, tokens: jax.Array) -> jax.Array:
        return hidden_states(params, jnp.maximum(tokens - 1, 0), tokens > 0, config=lower)

    started, parts = time.monotonic(), []
    for start in range(0, len(tokens), TITLES):
        part = np.zeros((TITLES, tokens.shape[1]), dtype=np.int32)
        rows = tokens[start : start + TITLES]
        part[: len(rows)] = rows
        parts.append(np.asarray(read(params, jnp.asarray(part)))[: len(rows)])
    states = jnp.asarray(np.concatenate(parts))

    def vectors(params: Params, states: jax.Array, mask: jax.Array) -> jax.Array:
        return pool(hidden_states(params, None, mask, config=upper, embeddings=states), mask, pooling=pooling)

    layers = {str(number): params["layers"][str(below + number)] for number in range(TUNED_LAYERS)}
    return UpperLayers({"layers": layers}, states, vectors, masks, time.monotonic() - started)


class TextStart(NamedTuple):
    """A run on frozen vectors of texts that a tuning goes on from.

    Attributes:
      config: of its model.
      params: its parameters.
      scale: of the frozen vectors, see `ItemFeature`.
    """

    config: ModelConfig
    params: Params
    scale: float


def over_given_vectors(config: ModelConfig, *, num_rows: int) -> tuple[SequenceModel, ItemTable]:
    """The model of a configuration whose item vectors are a parameter `items/vectors` `[num_rows, E]`."""

    def given(params: Params, item_table: ItemTable, ids: jax.Array | None = None) -> jax.Array:
        return params["vectors"] if ids is None else params["vectors"][ids]

    tower = ItemTower(lambda key: {"vectors": jnp.zeros((num_rows, config.items.width))}, given)
    table = id_table(num_rows - 1)
    model = make_sequence_model(config, num_items=num_rows - 1, num_behaviors=1, item_table=table, item_tower=tower)
    return model, table


def tune_texts(
    start: TextStart,
    sequences: Sequences,
    upper: UpperLayers | None,
    validate: Validate,
    *,
    frozen: np.ndarray,
    first_timestamp: int,
    passes: int,
    learning_rate: float,
    seed: int = 0,
) -> Fitted:
    """Go on from a run on frozen vectors, with the last layers that made them trained by LoRA, or without.

    Args:
      start: where from.
      sequences: training events.
      upper: the layers; None leaves the vectors as they are, for what more training alone is worth.
      validate: parameters to the figure that chooses the pass.
      frozen: `[V+1, F]` the vectors as they are.
      first_timestamp: of the dataset.
      passes: over the users.
      learning_rate: of AdamW, after a warm-up, falling to zero.
      seed: of adapters, order, dropout and negatives.

    Returns:
      Parameters with `items/language` where there are layers to train.
    """
    params, config = start.params, FineTuningConfig()
    if upper is not None:
        config = LORA
        params = {**params, "items": {**params["items"], "language": upper.params}}
        params = add_adapters(params, LORA, key=jax.random.key(seed))
    steps = passes * int((sequences.lengths > 1).sum() // USERS)
    optimizer = fine_tuning_optimizer(optax.adamw(rising_and_falling(learning_rate, steps)), config, total_steps=steps)
    model, table = over_given_vectors(start.config, num_rows=TITLES)
    counts = np.bincount(sequences.item_ids, minlength=len(frozen))
    counts[0] = 0
    uniform, target_log_q = popularity_sampler(counts, power=0.0), popularity_sampler(counts).log_q
    whole = (jnp.asarray(frozen),) if upper is None else (upper.states, upper.masks)

    @jax.jit
    def update(
        params: Params, moments: Any, made: Any, texts: Any, batch: Batch, negatives: Negatives, key: jax.Array
    ) -> Any:
        def mean_loss(params: Params) -> jax.Array:
            vectors = texts[0]
            if upper is not None:
                vectors = start.scale * upper.vectors(params["items"]["language"], *texts)
            layer = params["items"]["features"]["text"]
            v_y = (vectors @ layer["kernel"] + layer["bias"][None]).at[0].set(0.0)
            given = {**params, "items": {"vectors": v_y}}
            states = model.project(given, model.encode(given, table, batch, key=jax.random.split(key, USERS)))
            where = batch.targets > 0
            values = sampled_softmax_loss(
                states, v_y, batch.targets, negative_ids=negatives.ids, log_q=negatives.log_q, where=where
            )
            return weighted_mean(values, where=where)

        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def batches(number: int) -> Iterator[tuple[Any, ...]]:
        length, order = start.config.encoder.max_length, 1000 * seed + number
        reading = {"first_timestamp": first_timestamp, "length": length, "size": USERS, "seed": order}
        for batch, key in user_batches(sequences, **reading):
            draw_key, key = jax.random.split(key)
            negatives = mixed_negatives(
                jnp.asarray(batch.targets), target_log_q, uniform, num_negatives=NUM_NEGATIVES, key=draw_key
            )
            items, batch, negatives = _renumbered(batch, negatives)
            yield tuple(column[items] for column in whole), batch, negatives, key

    def make(params: Params) -> jax.Array:
        return jnp.asarray(frozen if upper is None else tuned_vectors(params, upper, scale=start.scale))

    trained = params if upper is None else partition(params, trainable_paths(params, LORA))[0]
    num_trained = count_parameters(trained)
    moments = optimizer.init(params)
    return fit(params, update, moments, batches, validate, passes=passes, num_trained=num_trained, make=make)


def rising_and_falling(peak: float, steps: int) -> optax.Schedule:
    """A learning rate that rises for WARM_UP steps and falls to zero at the last."""
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, WARM_UP), optax.linear_schedule(peak, 0.0, max(1, steps - WARM_UP))],
        [WARM_UP],
    )


def _renumbered(batch: Batch, negatives: Negatives) -> tuple[np.ndarray, Batch, Negatives]:
    """`[TITLES]` the items that a step reads, and its batch and negatives in their places; 0 for what has none."""
    own = np.unique(np.concatenate([[0], np.ravel(batch.item_ids), np.ravel(batch.targets)]))
    if len(own) > TITLES:
        raise ValueError(f"a batch has {len(own)} items, more than the {TITLES} that a step reads; lower USERS")
    drawn = np.setdiff1d(negatives.ids, own)
    drawn = np.random.default_rng(int(drawn.sum())).permutation(drawn)[: TITLES - len(own)]
    items = np.union1d(own, drawn)

    def places(ids: Any) -> np.ndarray:
        found = np.minimum(np.searchsorted(items, ids), len(items) - 1)
        return np.where(items[found] == ids, found, 0).astype(np.int32)

    batch = batch._replace(item_ids=places(batch.item_ids), targets=places(batch.targets))
    padded = np.pad(items, (0, TITLES - len(items)))  # further rows of padding, which nothing points at
    return padded, batch, Negatives(places(np.asarray(negatives.ids)), negatives.log_q[padded])


def tuned_vectors(params: Params, upper: UpperLayers, *, scale: float) -> np.ndarray:
    """`[V+1, D]` the vectors of all texts by tuned layers, zeros for padding."""
    vectors = jax.jit(upper.vectors)
    parts = []
    for start in range(0, len(upper.states), TITLES):
        rows = slice(start, start + TITLES)
        parts.append(np.asarray(vectors(params["items"]["language"], upper.states[rows], upper.masks[rows])))
    found = scale * np.concatenate(parts)
    found[0] = 0.0
    return found


def make_decoder(codes: np.ndarray, *, state_width: int) -> GenerativeHead:
    """The small decoder of the codes."""
    return make_generative_head(
        GenerativeHeadConfig(state_width=state_width, decoder=DECODER), codes, codebook_size=CODES.codebook_size
    )


def fit_decoder(
    head: GenerativeHead,
    model: SequenceModel,
    params: Params,
    item_table: ItemTable,
    sequences: Sequences,
    validate: Validate,
    *,
    length: int,
    first_timestamp: int,
    passes: int,
    learning_rate: float,
    seed: int = 0,
) -> Fitted:
    """Teach a decoder the codes of each next item, together with the model whose states it reads.

    Returns:
      Parameters `model` and `head`.
    """
    params = {"model": params, "head": head.init(jax.random.key(seed))}
    steps = passes * int((sequences.lengths > 1).sum() // USERS)
    optimizer = optax.adamw(rising_and_falling(learning_rate, steps), weight_decay=0.01)

    @jax.jit
    def update(params: Params, moments: Any, made: None, batch: Batch, key: jax.Array) -> Any:
        def mean_loss(params: Params) -> jax.Array:
            state_key, head_key = jax.random.split(key)
            states = model.encode(params["model"], item_table, batch, key=jax.random.split(state_key, USERS))
            targets = batch.targets.reshape(-1)
            values = head.loss(params["head"], states.reshape(-1, states.shape[-1]), targets, key=head_key)
            return weighted_mean(values.sum(axis=1), where=targets > 0)

        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value

    def batches(number: int) -> Iterator[tuple[Batch, jax.Array]]:
        return user_batches(
            sequences, first_timestamp=first_timestamp, length=length, size=USERS, seed=1000 * seed + number
        )

    return fit(
        params, update, optimizer.init(params), batches, validate, passes=passes, num_trained=count_parameters(params)
    )


def count_parameters(params: Params) -> int:
    """How many numbers."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
