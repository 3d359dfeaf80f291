"""Heads on a trained run: labelled rows to a file beside the run's checkpoint, and from there to probabilities.

runs/<name>/heads/<head>.npz holds the head's parameters and, as JSON, what it is about, its calibrations, the
checkpoint that it belongs to and a fingerprint of that checkpoint's parameters. The model itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.files import check_columns
from seqrec_jax.data.sequences import Sequences
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.heads import (
    Calibration,
    ClassifierHeadConfig,
    ValueRanking,
    fitting,
    make_classifier_head,
    rank_by_expected_value,
)
from seqrec_jax.heads.fitting import Examples, FittedHead, HeadKind, HeadTrainingConfig, head_logits
from seqrec_jax.pipeline.labelled_rows import (
    NUM_TIMES,
    item_numbers,
    labelled_examples,
    training_and_validation,
    with_time_since,
)
from seqrec_jax.retrieval import Recommender
from seqrec_jax.runs import Run, check_name, read_artifact, write_artifact


class HeadReport(NamedTuple):
    """What `fit_head` did.

    Attributes:
      path: of the file.
      head: ready to use.
      fitted: its losses and calibrations.
      notes: sentences on what was counted.
    """

    path: Path
    head: RunHead
    fitted: FittedHead
    notes: list[str]


class RunHead:
    """A head on a run's vectors; `RunHead.load(run, name)` reads one that `fit_head` wrote."""

    def __init__(
        self,
        recommender: Recommender,
        params: dict[str, Any],
        config: ClassifierHeadConfig,
        *,
        kind: HeadKind,
        calibrations: Sequence[Calibration],
        classes: Sequence[str] = (),
        since_last: bool = False,
        name: str = "head",
    ):
        """A head from parts.

        Args:
          recommender: of the checkpoint that the head was fitted on.
          params: of the head.
          config: of the head.
          kind: yes_no, click_and_conversion or classes.
          calibrations: as `FittedHead` has them.
          classes: names of the K classes.
          since_last: whether it is told how long ago the last event was.
          name: for messages.
        """
        self.recommender = recommender
        self.params = jax.tree.map(jnp.asarray, params)
        self.config, self.kind, self.name = config, kind, name
        self.calibrations, self.classes, self.since_last = tuple(calibrations), tuple(classes), since_last
        self._head = make_classifier_head(config)

    @classmethod
    def load(cls, run: str | Path | Run, name: str = "click") -> RunHead:
        """The head of that name of a run, over the checkpoint that it was fitted on.

        Raises:
          CheckpointError: no run, no such head, one of another schema version or of other parameters of the run.
        """
        run = Run.open(run)
        params, facts, step = read_artifact(run, "head", name)
        return cls(
            Recommender.load(run, step=step),
            params,
            ClassifierHeadConfig(**facts["head"]),
            kind=facts["kind"],
            calibrations=[Calibration(*pair) for pair in facts["calibrations"]],
            classes=facts["classes"],
            since_last=facts["fitting"].get("since_last", False),
            name=name,
        )

    def numbers(self, raw: Shaped[np.ndarray, "*U K"]) -> Int[np.ndarray, "*U K"]:
        """int32 numbers 1…V of raw item ids.

        Raises:
          DataError: an id that the run's catalogue does not have.
        """
        raw = np.asarray(raw, dtype=object)
        return item_numbers(self.recommender, pd.Series(raw.reshape(-1)), source="the candidates").reshape(raw.shape)

    def logits(
        self,
        histories: Sequences,
        item_ids: Int[np.ndarray, "U K"] | None = None,
        *,
        position: int = 1,
        times: Int[np.ndarray, " U"] | None = None,
        calibrated: bool = True,
    ) -> np.ndarray:
        """Logits of what may follow each history.

        Args:
          histories: U users, as `Recommender.histories` makes them.
          item_ids: `[U, K]` numbers of candidates, 0 = none; None for a head about users alone.
          position: the place that all candidates are thought to stand in, for a head that was fitted with places.
          times: `[U]` seconds at which it is asked, for a head that is told how long ago the last event was.
          calibrated: False for what the head says before calibration.

        Returns:
          `[U, K, J]`, or `[U, J]` of a head about users alone; J is 1 of a yes or no, 2 of click and conversion after a
          click, else the number of classes.

        Raises:
          ShapeError: candidates for a head about users alone, none for another, or not one row a user; or times
            likewise.
          DataError: a candidate or position outside those known.
        """
        if (item_ids is None) != (self.config.item_width is None):
            expected = "no candidates" if self.config.item_width is None else "candidates [U, K]"
            raise ShapeError(f"the head {self.name!r} takes {expected}")
        count, shape = histories.num_users, (histories.num_users,)
        if (times is None) == self.since_last or (times is not None and np.shape(times) != (count,)):
            expected = f"times [{count}], a second a history" if self.since_last else "no times"
            raise ShapeError(f"the head {self.name!r} takes {expected}")
        if item_ids is not None:
            item_ids = np.asarray(item_ids)
            if item_ids.ndim != 2 or len(item_ids) != count:
                raise ShapeError(f"candidates have shape {item_ids.shape}, expected [{count}, K], a row a history")
            if item_ids.size and not (item_ids.min() >= 0 and item_ids.max() <= len(self.recommender.items)):
                raise DataError(
                    f"candidates are from {item_ids.min()} to {item_ids.max()}, expected 0 to "
                    f"{len(self.recommender.items)}; raw ids go through numbers"
                )
            shape = item_ids.shape
        places = self.config.num_positions
        if places is not None and not 1 <= position <= places:
            raise DataError(f"position is {position}, the head {self.name!r} knows 1 to {places}")
        moments = np.repeat(np.arange(count), shape[1:] or 1)
        rows = Examples(
            moments=moments,
            labels=np.zeros(len(moments), np.int32),
            item_ids=None if item_ids is None else item_ids.reshape(-1),
            positions=None if places is None else np.full(len(moments), position),
        )
        states = self.recommender.user_vectors(histories)
        if times is not None:
            states = with_time_since(states, histories, times)
        logits = self.row_logits(states, rows, calibrated=calibrated)
        return logits.reshape(*shape, -1)

    def row_logits(
        self, states: Float[np.ndarray, "M D"], rows: Examples, *, calibrated: bool = True
    ) -> Float[np.ndarray, "N J"]:
        """`[N, J]` logits of single rows over the states of their moments, such as rows of a log with their places."""
        items = None if self.config.item_width is None else self.recommender.item_vectors()
        logits = head_logits(self._head, self.params, states, items, rows)
        if not calibrated:
            return logits
        if self.kind == "classes":
            return np.asarray(self.calibrations[0](jnp.asarray(logits)))
        columns = [one(jnp.asarray(logits[:, place])) for place, one in enumerate(self.calibrations)]
        return np.stack([np.asarray(column) for column in columns], axis=1)

    def probabilities(
        self,
        histories: Sequences,
        item_ids: Int[np.ndarray, "U K"] | None = None,
        *,
        position: int = 1,
        times: Int[np.ndarray, " U"] | None = None,
    ) -> np.ndarray:
        """Calibrated probabilities in the shape of `logits`: of classes they sum to 1; others are each of a yes.

        The second of click and conversion is given a click.
        """
        logits = self.logits(histories, item_ids, position=position, times=times)
        chances = jax.nn.softmax(logits, axis=-1) if self.kind == "classes" else jax.nn.sigmoid(logits)
        return np.asarray(chances)

    def rank_by_value(
        self,
        histories: Sequences,
        item_ids: Int[np.ndarray, "U K"],
        *,
        values: Float[np.ndarray, " V+1"],
        position: int = 1,
        times: Int[np.ndarray, " U"] | None = None,
    ) -> ValueRanking:
        """The candidates by p(click) · p(conversion | click) · value, see `rank_by_expected_value`.

        Raises:
          ConfigError: a head that does not tell clicks and conversions.
          ShapeError, DataError: as `logits`.
        """
        if self.kind != "click_and_conversion":
            raise ConfigError(
                f"the head {self.name!r} tells {self.kind}; an expected value needs click and conversion: fit one "
                "with a column of conversions"
            )
        logits = jnp.asarray(self.logits(histories, item_ids, position=position, times=times))
        return rank_by_expected_value(
            jnp.asarray(item_ids, jnp.int32), logits[..., 0], logits[..., 1], values=jnp.asarray(values, jnp.float32)
        )


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

    A row is a decision of a user at a moment: its columns are `user_id`, `timestamp`, the label, `item_id` where it is
    about an item, and `position` (from 1) where the item stood in a place. The history is what the run's dataset has of
    the user before that second. Labels of 0 and 1 (or bool) make a yes or no, words make classes.

    Rows before the validation part of the run's timeline are learnt from, those of the validation part decide when to
    stop and calibrate; later ones are left out, so that they can judge. Where the run's split is not by time, the
    latest fifth validates.

    Args:
      run: the run or its directory.
      rows: the labelled rows.
      name: of the head; one of the same name is replaced.
      label: the column with the label.
      conversion: the column that tells whether a conversion followed, 0 or 1; the label is then a click.
      config: how it is fitted; None for the defaults.
      step: of the checkpoint; None takes the best by validation.
      dataset: another prepared dataset over the same items, or its directory; None for the run's own.

    Raises:
      CheckpointError: no run, no whole checkpoint, or a file that cannot be written.
      DataError: columns that are absent, times that are none, labels other than 0 and 1 (or words), an item that the
        run does not know, a position below 1, or rows of one outcome only.
      ConfigError: a name that is no file's.
    """
    config = config or HeadTrainingConfig()
    check_name(name, kind="head")
    run = Run.open(run)
    recommender, dataset = Recommender.load(run, step=step), run.dataset(dataset)
    examples, times, states, classes, notes = labelled_examples(
        recommender, dataset, rows, label=label, conversion=conversion, since_last=config.since_last
    )
    kind: HeadKind = "classes" if classes else "yes_no" if conversion is None else "click_and_conversion"
    training, validation, told = training_and_validation(dataset, times)
    notes.append(told)
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
