"""A run to lists of items: for users of its dataset, for a history, or for a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.splits import Stage
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.pipeline.cases import cases_of
from seqrec_jax.reranking import RerankConfig
from seqrec_jax.retrieval import Recommendations, Recommender, RunDecoder
from seqrec_jax.retrieval.eligibility import ItemLists
from seqrec_jax.runs import Run


def recommend(
    run: str | Path | Run,
    users: Sequence[str] | Literal["all"] | None = None,
    *,
    history: Sequence[str] | pd.DataFrame | None = None,
    query: str | None = None,
    k: int = 10,
    seen_items: SeenItems = "kept",
    target_behavior: str | None = None,
    reranking: RerankConfig | None = None,
    allowed: ItemLists | None = None,
    denied: ItemLists | None = None,
    before: Stage | None = None,
    decoder: str | None = None,
    step: int | None = None,
    dataset: str | Path | Dataset | None = None,
) -> Recommendations:
    """Lists of the best k items for users of the run's dataset, for a history, or for a query.

    Args:
      run: the run or its directory.
      users: raw user ids of the dataset, or "all"; an unknown user gets the fallback.
      history: in place of users, raw item ids in order of time, or a frame as `Recommender.recommend` takes it.
      query: a search after the histories; without users and history it stands alone.
      k: length of a list.
      seen_items: excluded leaves out the items of the whole history.
      target_behavior: the behaviour to predict, such as purchase; None for the one that the split predicts.
      reranking: preferences and shop rules; None for none.
      allowed: raw ids of the only items that may be listed: for all users, in a mapping from user ids, or a
        collection a user; None for no limit. `read_item_lists` reads them from a file.
      denied: raw ids of items that may not be listed, likewise.
      before: end the users' histories before what this stage holds out, for lists to be judged; None for whole
        histories.
      decoder: name of a decoder of the run, which generates the lists in place of the scores.
      step: of the checkpoint; None for the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Returns:
      The lists, the unknown items of the histories, and the users who got the fallback.

    Raises:
      ConfigError: neither users, history nor query, or both users and history; a decoder together with a query, a
        target behaviour or a step; or as `Recommender.recommend`.
      CheckpointError: no run, checkpoint or decoder.
      DataError: the dataset is missing or was changed.
    """
    if (users is not None and history is not None) or users is history is query is None:
        raise ConfigError("lists are for users, for a history or for a query; give one of users, history and query")
    if decoder is not None and (query, target_behavior, step) != (None, None, None):
        raise ConfigError(f"the decoder {decoder!r} takes no query, target behaviour or step")
    run = Run.open(run)
    receivers: Any = [] if history is None else history
    if users is not None:
        receivers = user_histories(run, None if users == "all" else users, before=before, dataset=dataset)
    rules: Any = {"seen_items": seen_items, "reranking": reranking, "allowed": allowed, "denied": denied}
    if decoder is not None:
        return RunDecoder.load(run, decoder).recommend(receivers, k, **rules)
    recommender = Recommender.load(run, step=step)
    if target_behavior is not None:
        recommender = recommender.predicting(target_behavior)
    return recommender.recommend(receivers, k, query=query, **rules)


def user_histories(
    run: str | Path | Run,
    users: Sequence[str] | None,
    *,
    before: Stage | None = None,
    dataset: str | Path | Dataset | None = None,
) -> Sequences:
    """Histories of users of a dataset; an unknown user has an empty one.

    Args:
      run: the run or its directory.
      users: raw ids, None for all.
      before: end each history before what that stage holds out, as an evaluation does, and leave out users whom the
        run's protocol does not evaluate; None for whole histories.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      DataError: the dataset is missing or was changed.
    """
    run = Run.open(run)
    found = run.dataset(dataset)
    sequences = found.sequences
    if before is not None:
        protocol = run.section("evaluation", EvaluationConfig)
        sequences = cases_of(found, replace(protocol, stage=before)).histories
    if users is None:
        return sequences
    rows = pd.Index(sequences.user_ids).get_indexer(pd.Index(users, dtype=object))
    chosen = sequences.select_users(np.maximum(rows, 0))
    known = chosen.select_events((rows >= 0)[chosen.users_of_events])
    return replace(known, user_ids=np.asarray(users, dtype=object))
