"""The verb fit-head: a head over a run's vectors, fitted to labelled rows and written as an artifact of the run.

runs/<name>/heads/<head>.npz holds the head's parameters and, as JSON, its kind, settings and calibrations. The model
itself is not changed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import check_columns
from seqrec_jax.errors import DataError
from seqrec_jax.heads import (
    ClassifierHeadConfig,
    fitting,
    make_classifier_head,
)
from seqrec_jax.heads.fitting import Examples, FittedHead, HeadKind, HeadTrainingConfig
from seqrec_jax.pipeline.labelled_rows import labelled_examples, training_and_validation
from seqrec_jax.retrieval import Recommender, RunHead
from seqrec_jax.retrieval.run_head import NUM_TIMES
from seqrec_jax.runs import Run, check_name, write_artifact


class HeadReport(NamedTuple):
    """A fitted head.

    Attributes:
      path: the head's file.
      head: the head, ready to use.
      fitted: its losses and calibrations.
      notes: sentences of counts.
    """

    path: Path
    head: RunHead
    fitted: FittedHead
    notes: list[str]


def fit_head(
    run: str | Path | Run,
    rows: pd.DataFrame,
    *,
    name: str = "click",
    label: str = "label",
    conversion: str | None = None,
    config: HeadTrainingConfig | None = None,
    step: int | None = None,
    dataset: str | Path | Dataset | None = None,
) -> HeadReport:
    """Fit a head to labelled rows, calibrate it, and write it beside the run's checkpoint.

    A row is a decision of a user at a moment. Its columns are `user_id`, `timestamp`, the label, `item_id` if it is
    about an item, and `position` (from 1) if the item was shown at a place. Its history is the user's events before
    that second in the dataset. Labels of 0 and 1 (or bool) give a head of kind yes_no, words one of kind classes.

    Rows before the validation part of the run's timeline train the head; rows of the validation part stop the fitting
    and calibrate; later rows are left out, so that a test can use them. If the run's split is not by time, the latest
    fifth of the rows validates.

    Args:
      run: the run or its directory.
      rows: the labelled rows.
      name: name of the head; a head of the same name is replaced.
      label: the column with the label.
      conversion: column of 0 and 1, whether a conversion followed the label, which is then a click; None for none.
      config: settings of the head and its fitting; None for the defaults.
      step: step of the checkpoint; None for the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      CheckpointError: no run, no whole checkpoint, or a file that cannot be written.
      DataError: columns that are absent, times that are none, labels other than 0 and 1 (or words), an item that the
        run does not know, a position below 1, or rows of one outcome only.
      ConfigError: a name that cannot be a file's.
    """
    config = config or HeadTrainingConfig()
    check_name(name, kind="head")
    run = Run.open(run)
    recommender, dataset = Recommender.load(run, step=step), run.dataset(dataset)
    examples, times, states, classes, notes = labelled_examples(
        recommender, dataset, rows, label=label, conversion=conversion, since_last=config.since_last
    )
    kind: HeadKind = "classes" if classes else "yes_no" if conversion is None else "click_and_conversion"
    training, validation, note = training_and_validation(dataset, times)
    notes.append(note)
    item_vectors = None if examples.item_ids is None else recommender.item_vectors()
    head_config = ClassifierHeadConfig(
        num_logits=len(classes) or (1 if conversion is None else 2),
        state_width=states.shape[1],
        item_width=None if item_vectors is None else item_vectors.shape[1],
        hidden_width=config.hidden_width,
        num_positions=None if examples.positions is None else int(examples.positions.max()),
    )
    fitted = fitting.fit_head(
        make_classifier_head(head_config),
        states,
        item_vectors,
        kind=kind,
        training=_selected(examples, training),
        validation=_selected(examples, validation),
        interaction=None if item_vectors is None else _interaction(recommender, states.shape[1], config.since_last),
        config=config,
    )
    written = {
        "kind": kind,
        "head": asdict(head_config),
        "classes": classes,
        "calibrations": [list(one) for one in fitted.calibrations],
        "fitting": asdict(config),
        "rows": {"training": len(training), "validation": len(validation)},
        "label": label,
        "conversion": conversion,
    }
    path = write_artifact(run, "head", name, fitted.params, step=step, facts=written)
    head = RunHead(
        recommender,
        fitted.params,
        head_config,
        kind=kind,
        calibrations=fitted.calibrations,
        classes=classes,
        since_last=config.since_last,
        name=name,
    )
    return HeadReport(path, head, fitted, notes)


def label_examples(
    head: RunHead, dataset: Dataset, rows: pd.DataFrame, *, label: str = "label", conversion: str | None = None
) -> tuple[Examples, Float[np.ndarray, "M D"]]:
    """Rows as `RunHead.row_logits` takes them, and the states of their moments, to judge a head on later rows.

    Raises:
      DataError: as `fit_head`; no column of items or places where the head was fitted with one, or a place that it
        does not know.
    """
    for column, width in (("item_id", head.config.item_width), ("position", head.config.num_positions)):
        if width is not None:
            check_columns(list(rows.columns), [column], source="the labelled rows")
    examples, _, states, classes, _ = labelled_examples(
        head.recommender, dataset, rows, label=label, conversion=conversion, since_last=head.since_last
    )
    places = head.config.num_positions
    if places is None:
        examples = examples._replace(positions=None)
    elif (highest := int(np.asarray(examples.positions).max())) > places:
        raise DataError(f"position has {highest}, the head {head.name!r} knows 1 to {places}")
    if tuple(classes) != head.classes:
        numbers = pd.Index(head.classes).get_indexer(pd.Index(classes)).astype(np.int32) + 1
        examples = examples._replace(labels=np.concatenate([[0], numbers])[examples.labels].astype(np.int32))
    return examples, states


def _interaction(recommender: Recommender, num_inputs: int, since_last: bool) -> np.ndarray:
    """`[D, E]` W, with rows of zeros for what is no part of v_x."""
    width = num_inputs - (NUM_TIMES if since_last else 0)
    return recommender.project(np.eye(num_inputs, width, dtype=np.float32))


def _selected(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(*(None if column is None else column[rows] for column in examples))
