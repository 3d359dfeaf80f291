"""The verb fit-decoder: codes of a run's items, and a decoder that generates the next item's codes from its states.

runs/<name>/decoders/<decoder>.npz holds the decoder's parameters and the codes of the items. The model itself is not
changed; the decoder ranks and lists in its place.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.moments import histories_before_events
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import Judged, judge_lists
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.heads import decoder_fitting
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig, FittedDecoder, Targets, catalogue_codes
from seqrec_jax.items.semantic_ids import SemanticIdReport, semantic_id_report
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.pipeline.training import behavior_weights
from seqrec_jax.retrieval import Recommender, RunDecoder
from seqrec_jax.retrieval.run_decoder import generative_head
from seqrec_jax.runs import Run, check_name, write_artifact

MAX_SCORED_ITEMS = 5_000
"""Most items that an evaluation of a decoder scores one by one; of a larger catalogue it judges the lists."""
MAX_TARGETS = 2**20
"""Most targets that a decoder is fitted to; from more of them, this many are drawn."""
_HISTORIES = 2**14
"""Histories that are encoded at a time."""


class DecoderReport(NamedTuple):
    """A fitted decoder.

    Attributes:
      path: the decoder's file.
      decoder: the decoder, ready to use.
      fitted: its losses.
      codes: collisions and errors of the codes.
      notes: sentences of counts.
    """

    path: Path
    decoder: RunDecoder
    fitted: FittedDecoder
    codes: SemanticIdReport
    notes: list[str]


def fit_decoder(
    run: str | Path | Run,
    *,
    name: str = "decoder",
    feature: str | None = None,
    config: DecoderTrainingConfig | None = None,
    step: int | None = None,
    dataset: str | Path | Dataset | None = None,
) -> DecoderReport:
    """Make codes of a run's items, fit a decoder of them to its training events, and write it beside the checkpoint.

    Codebooks are made from the vectors of items seen in training; the other items get codes from them. An item whose
    vector is zero has no code, and the decoder cannot rank it. Each training event is predicted from the run's state
    after the events before it, with the weight that it has in the run's own training. The targets of the validation
    part stop the fitting.

    Args:
      run: the run or its directory.
      name: name of the decoder; a decoder of the same name is replaced.
      feature: the feature whose vectors become codes, such as text; None for v_y.
      config: settings of codes, decoder and fitting; None for the defaults.
      step: step of the checkpoint; None for the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      CheckpointError: no run, no whole checkpoint, or a file that cannot be written.
      ConfigError: a name that cannot be a file's, a feature that the run does not have, or a decoder to which codes
        cannot be appended.
      DataError: nothing to learn from or to validate on, or more items of the same codes than the last level has.
    """
    config = config or DecoderTrainingConfig()
    check_name(name, kind="decoder")
    run = Run.open(run)
    recommender, dataset = Recommender.load(run, step=step), run.dataset(dataset)
    experiment = run.section("", ExperimentConfig)
    vectors = _vectors(recommender, feature)
    known = np.concatenate([[False], run.items["training_events"].to_numpy() > 0])
    there = (vectors != 0).any(axis=1)
    key = jax.random.key(config.seed)
    semantic = catalogue_codes(jnp.asarray(vectors), known, config=config.codes, key=key, where=there)
    training, count = training_targets(recommender, dataset, behavior_weights(experiment, dataset), seed=config.seed)
    cases = cases_of(dataset, replace(experiment.evaluation, stage="validation"))
    moments = np.repeat(np.arange(len(cases.users)), cases.num_targets)
    validation = Targets(recommender.user_vectors(cases.histories)[moments], cases.target_items)
    head = generative_head(config, semantic.codes, training.states.shape[1])
    fitted = decoder_fitting.fit_decoder(head, semantic.codes, training=training, validation=validation, config=config)
    codes = semantic_id_report(semantic, jnp.asarray(vectors))
    new = int((semantic.codes[:, 0] > 0)[~known].sum())
    notes = [
        f"{codes.num_items:,} of {len(run.items):,} items have codes, {new:,} of them not seen in training",
        f"{codes.colliding_items:,} share all codes but the last with another, at most {codes.largest_collision:,}; "
        f"the levels before it leave {codes.errors[-1]:.0%} of the vectors",
        f"{count:,} training events to foretell{'' if count <= MAX_TARGETS else f', {MAX_TARGETS:,} of them drawn'}, "
        f"{len(moments):,} validation targets of {len(cases.users):,} users",
    ]
    written = {"fitting": asdict(config), "feature": feature, "losses": fitted.losses}
    arrays = {**fitted.params, "codes_of_items": semantic.codes}
    path = write_artifact(run, "decoder", name, arrays, step=step, facts=written)
    decoder = RunDecoder(recommender, fitted.params, semantic.codes, config, name=name)
    return DecoderReport(path, decoder, fitted, codes, notes)


def training_targets(
    recommender: Recommender, dataset: Dataset, weights_of_behaviors: Float[np.ndarray, " H"], *, seed: int
) -> tuple[Targets, int]:
    """Training events that follow another of their user, with the state before each, and the number of such events.

    If the model is conditioned on a target behaviour, each state is computed for the behaviour of the event that
    follows it.

    Args:
      recommender: the run's model.
      dataset: the run's dataset.
      weights_of_behaviors: `[H]` float32 weight of an event by its behaviour.
      seed: of the draw if there are more than `MAX_TARGETS` events.

    Raises:
      DataError: no such event.
    """
    sequences = dataset.training_sequences
    weights = weights_of_behaviors[sequences.behaviors]
    follows = np.arange(len(sequences.item_ids)) > sequences.offsets[:-1][sequences.users_of_events]
    events = np.flatnonzero(follows & (sequences.item_ids > 0) & (weights > 0))
    if not (count := len(events)):
        raise DataError("no training event follows another of its user, so there is nothing to learn from")
    if count > MAX_TARGETS:
        events = np.sort(np.random.default_rng(seed).choice(events, MAX_TARGETS, replace=False))
    conditioned = "target_behaviors" in recommender.params
    predicted = sequences.behaviors[events] if conditioned else np.zeros(len(events), np.int8)
    order, parts = np.argsort(predicted, kind="stable"), []
    for behavior in np.unique(predicted):
        reader = recommender.predicting(recommender.behaviors[behavior]) if conditioned else recommender
        places = events[predicted == behavior]
        for start in range(0, len(places), _HISTORIES):
            part = places[start : start + _HISTORIES]
            parts.append(reader.user_vectors(histories_before_events(sequences, part, length=recommender.length)))
    return Targets(np.concatenate(parts), sequences.item_ids[events[order]], weights[events[order]]), count


def judged_decoder(decoder: RunDecoder, cases: EvaluationCases, config: EvaluationConfig) -> RunDecoder | Judged:
    """A decoder for an evaluation: itself, since it scores all items, or for a large catalogue its lists, judged."""
    if np.shape(cases.candidates)[-1] <= MAX_SCORED_ITEMS + 1:
        return decoder
    found = decoder.lists(
        cases.histories, max(config.cutoffs), candidates=cases.candidates, seen_items=config.seen_items
    )
    item_ids, scores = map(np.asarray, found)
    return judge_lists(decoder.name, item_ids, cases, config=config, list_scores=scores)


def _vectors(recommender: Recommender, feature: str | None) -> np.ndarray:
    """`[V+1, F]` float32 vectors to be made codes."""
    if feature is None:
        return recommender.item_vectors()
    features = {name: found for name, found in recommender.item_table.features.items() if found.dtype.kind == "f"}
    if feature not in features:
        raise ConfigError(
            f"the run has no vectors {feature!r} of its items (it has {', '.join(features) or 'none'}); leave the "
            "feature out to take v_y"
        )
    return np.asarray(features[feature], dtype=np.float32)[: len(recommender.items) + 1]
