"""Decoders on a trained run: its items as codes, and a decoder that writes the next item's over its frozen states.

runs/<name>/decoders/<decoder>.npz holds the decoder's parameters, the codes of the items and what binds them to the
checkpoint. The model itself stays as it is, and the decoder ranks and lists in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.moments import histories_before_events
from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.errors import ConfigError, DataError
from seqrec_jax.evaluation.judging import Judged, judge_lists, unseen_candidates
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.heads import GenerativeHead, GenerativeHeadConfig, decoder_fitting, make_generative_head
from seqrec_jax.heads.decoder_fitting import DecoderTrainingConfig, FittedDecoder, Targets, catalogue_codes
from seqrec_jax.items.semantic_ids import SemanticIdReport, semantic_id_report
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.pipeline.training import behavior_weights
from seqrec_jax.retrieval import Recommendations, Recommender
from seqrec_jax.runs import Run, check_name, read_artifact, write_artifact
from seqrec_jax.scoring import TopK
from seqrec_jax.settings import parse_config

MAX_SCORED_ITEMS = 5_000
"""Largest catalogue of which an evaluation scores every item; of a larger one it judges the lists."""
MAX_TARGETS = 2**20
"""Most targets that a decoder is fitted to; of more, so many are drawn."""
_USERS = 256
_HISTORIES = 2**14  # that are made at a time


class DecoderReport(NamedTuple):
    """What `fit_decoder` did.

    Attributes:
      path: of the file.
      decoder: ready to use.
      fitted: its losses.
      codes: how well the codes serve the items.
      notes: sentences on what was counted.
    """

    path: Path
    decoder: RunDecoder
    fitted: FittedDecoder
    codes: SemanticIdReport
    notes: list[str]


class RunDecoder:
    """A decoder on a run's states, to be judged as any ranker; `RunDecoder.load(run, name)` reads one."""

    gives_logits = True

    def __init__(
        self,
        recommender: Recommender,
        params: dict[str, Any],
        codes: Int[np.ndarray, "V+1 C"],
        config: DecoderTrainingConfig,
        *,
        name: str = "decoder",
    ):
        """A decoder from parts.

        Args:
          recommender: of the checkpoint that the decoder was fitted on.
          params: of the decoder.
          codes: of the items.
          config: which decoder, over how many codes.
          name: for tables.
        """
        self.recommender, self.codes, self.name = recommender, np.asarray(codes), name
        self.params = jax.tree.map(jnp.asarray, params)
        head = _head(config, self.codes, len(params["state"]["kernel"]))
        counts = np.concatenate([[0], recommender.items["training_events"].to_numpy()])
        # of users without history: as likely as it was seen
        popularity = np.where(self.codes[:, 0] > 0, np.log1p(counts), -np.inf).astype(np.float32)

        def scores(params: Any, states: Float[Array, "U D"], empty: Array) -> Float[Array, "U V+1"]:
            return jnp.where(empty[:, None], popularity[None], head.scores(params, states))

        self._popularity, self._scores = popularity, jax.jit(scores)
        self._generate = jax.jit(head.generate, static_argnames=("k", "num_beams"))

    @classmethod
    def load(cls, run: str | Path | Run, name: str = "decoder") -> RunDecoder:
        """The decoder of that name of a run, over the checkpoint that it was fitted on.

        Raises:
          CheckpointError: no run, no such decoder, one of another schema version or of other parameters of the run.
        """
        run = Run.open(run)
        params, facts, step = read_artifact(run, "decoder", name)
        recommender = Recommender.load(run, step=step)
        codes = params.pop("codes_of_items")
        params.setdefault("decoder", {})  # of mean pooling, which has no parameters
        return cls(recommender, params, codes, parse_config(DecoderTrainingConfig, values=facts["fitting"]), name=name)

    def scores(self, histories: Sequences) -> Float[Array, "U V+1"]:
        """`[U, V+1]` log P(item); -inf for items without codes.

        Every node of the tree of codes is visited for each user. Users without history get the log of one and the
        number of training events of each item instead.
        """
        states = jnp.asarray(self.recommender.user_vectors(histories))
        return self._scores(self.params, states, jnp.asarray(histories.lengths == 0))

    def lists(
        self,
        histories: Sequences,
        k: int,
        *,
        candidates: Bool[np.ndarray, " V+1"] | None = None,
        seen_items: SeenItems = "kept",
        num_beams: int | None = None,
    ) -> TopK:
        """The best items that a beam search among the allowed ones finds, the most popular for users without history.

        Args:
          histories: of U users.
          k: K.
          candidates: `[V+1]` True for items that can be recommended; None means all with codes.
          seen_items: excluded leaves out the items of the whole history.
          num_beams: beginnings kept at each level; None means 2 K, and 32 at least.

        Returns:
          `[U, K]` item ids and log P(item), NumPy; id 0, score -inf beyond the items that were found.

        Raises:
          ShapeError: k below 1, or fewer beams than k.
        """
        states, parts = self.recommender.user_vectors(histories), []
        for start in range(0, histories.num_users, _USERS):
            users = np.minimum(np.arange(start, start + min(_USERS, histories.num_users)), histories.num_users - 1)
            tile = histories.select_users(users)
            listable = self.codes[:, 0] > 0 if candidates is None else candidates
            excluded = seen_items == "excluded"
            allowed = unseen_candidates(listable, tile) if excluded else np.tile(listable, (len(users), 1))
            found = self._generate(self.params, jnp.asarray(states[users]), k=k, num_beams=num_beams, allowed=allowed)
            item_ids, scores = (np.array(column) for column in found)
            for row in np.flatnonzero(tile.lengths == 0):
                popular = np.where(allowed[row], self._popularity, -np.inf)
                best = np.argsort(-popular, kind="stable")[:k]
                item_ids[row, : len(best)], scores[row, : len(best)] = best, popular[best]
                item_ids[row, np.isneginf(scores[row])] = 0
            parts.append((item_ids, scores))
        columns: Any = (np.concatenate(column)[: histories.num_users] for column in zip(*parts, strict=True))
        return TopK(*columns)

    def recommend(
        self, history: Sequence[str] | Sequences, k: int = 10, *, seen_items: SeenItems = "kept"
    ) -> Recommendations:
        """The best k items for a history of raw item ids, or for each of many, as `Recommender.recommend`.

        Raises:
          ConfigError: k < 1.
          DataError: no user.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        users, unknown = (history, []) if isinstance(history, Sequences) else self._of_items(history)
        if not users.num_users:
            raise DataError("there is no user to recommend to")
        found = self.lists(users, min(k, int((self.codes[:, 0] > 0).sum())), seen_items=seen_items)
        return Recommendations(
            user_ids=users.user_ids,
            item_ids=np.asarray(found.item_ids),
            scores=np.asarray(found.scores),
            raw_ids=self.recommender.catalogue.raw_ids,
            k=k,
            unknown_items=unknown,
            without_history=users.user_ids[users.lengths == 0].tolist(),
            unknown_in_filters=[],
        )

    def _of_items(self, raw: Sequence[str]) -> tuple[Sequences, list[str]]:
        return self.recommender.histories([pd.DataFrame({"item_id": list(raw)})], ["history"])


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

    Codebooks come from the vectors of items seen in training; items that were not get codes by them. An item whose
    vector is zero has no code and cannot be listed. Each training event is foretold from the state that the run has
    after the events before it; events weigh as in the run's own training. What followed the histories of the
    validation decides when to stop.

    Args:
      run: the run or its directory.
      name: of the decoder; one of the same name is replaced.
      feature: whose vectors become codes, such as text; None takes v_y.
      config: how it is fitted; None for the defaults.
      step: of the checkpoint; None takes the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      CheckpointError: no run, no whole checkpoint, or a file that cannot be written.
      ConfigError: a name that is no file's, a feature that the run does not have, or a decoder to which codes cannot
        be appended.
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
    head = _head(config, semantic.codes, training.states.shape[1])
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
    """Training events that follow another of their user, the state before each, and how many there are.

    Of a model that is told what behaviour to predict, each state is asked for that of its event.

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
    told = "target_behaviors" in recommender.params
    asked = sequences.behaviors[events] if told else np.zeros(len(events), np.int8)
    order, parts = np.argsort(asked, kind="stable"), []
    for behavior in np.unique(asked):
        reader = recommender.predicting(recommender.behaviors[behavior]) if told else recommender
        places = events[asked == behavior]
        for start in range(0, len(places), _HISTORIES):
            part = places[start : start + _HISTORIES]
            parts.append(reader.user_vectors(histories_before_events(sequences, part, length=recommender.length)))
    return Targets(np.concatenate(parts), sequences.item_ids[events[order]], weights[events[order]]), count


def judged_decoder(decoder: RunDecoder, cases: EvaluationCases, config: EvaluationConfig) -> RunDecoder | Judged:
    """What an evaluation takes: the decoder, which scores all items, or for a large catalogue its lists, judged."""
    if len(cases.candidates) <= MAX_SCORED_ITEMS + 1:
        return decoder
    found = decoder.lists(
        cases.histories, max(config.cutoffs), candidates=cases.candidates, seen_items=config.seen_items
    )
    item_ids, scores = map(np.asarray, found)
    return judge_lists(decoder.name, item_ids, cases, config=config, list_scores=scores)


def _head(config: DecoderTrainingConfig, codes: np.ndarray, width: int) -> GenerativeHead:
    head = GenerativeHeadConfig(state_width=width, decoder=config.decoder)
    return make_generative_head(head, codes, codebook_size=config.codes.codebook_size)


def _vectors(recommender: Recommender, feature: str | None) -> np.ndarray:
    """`[V+1, F]` what becomes codes."""
    if feature is None:
        return recommender.item_vectors()
    features = {name: found for name, found in recommender.item_table.features.items() if found.dtype.kind == "f"}
    if feature not in features:
        raise ConfigError(
            f"the run has no vectors {feature!r} of its items (it has {', '.join(features) or 'none'}); leave the "
            "feature out to take v_y"
        )
    return np.asarray(features[feature], dtype=np.float32)[: len(recommender.items) + 1]
