"""A head fitted on a run's vectors: the probability of a click, a conversion or a class after a history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from seqrec_jax.data.sequences import Sequences
from seqrec_jax.data.timestamps import SECONDS_PER_DAY
from seqrec_jax.errors import ConfigError, DataError, ShapeError
from seqrec_jax.heads import (
    Calibration,
    ClassifierHeadConfig,
    ValueRanking,
    make_classifier_head,
    rank_by_expected_value,
)
from seqrec_jax.heads.fitting import Examples, HeadKind, head_logits
from seqrec_jax.retrieval.recommender import Recommender
from seqrec_jax.runs import Run, read_artifact

NUM_TIMES = 2
"""Columns that `with_time_since` adds."""
_LONGEST_DAYS = 90.0
"""Most days since the last event; no event counts as so many."""


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
          params: the head's parameters, nested dictionaries of arrays.
          config: the head's settings.
          kind: yes_no, click_and_conversion or classes.
          calibrations: as `FittedHead` has them.
          classes: names of the J classes.
          since_last: whether the time since the last event is an input of the head.
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

    def numbers(self, raw: Shaped[np.ndarray, "*U K"] | Sequence[str]) -> Int[np.ndarray, ...]:
        """int32 numbers 1…V of raw item ids, in their shape.

        Raises:
          DataError: an id that the run's catalogue does not have.
        """
        ids = np.asarray(raw, dtype=object)
        return self.recommender.catalogue.known_numbers(ids.reshape(-1), source="the candidates").reshape(ids.shape)

    def logits(
        self,
        histories: Sequences,
        item_ids: Int[np.ndarray, "U K"] | None = None,
        *,
        position: int = 1,
        times: Int[np.ndarray, " U"] | None = None,
        calibrated: bool = True,
    ) -> Float[np.ndarray, ...]:
        """Logits of the outcome after each history.

        Args:
          histories: of U users, as `Recommender.histories` makes them.
          item_ids: `[U, K]` numbers of candidates, 0 = none; None for a head about users alone.
          position: the place 1, 2, … of all candidates, for a head that was fitted with places.
          times: `[U]` int64 prediction times, seconds UTC; required if the head was fitted with `since_last=True`.
          calibrated: False for the logits before calibration.

        Returns:
          `[U, K, J]` float32, or `[U, J]` for a head about users alone; J is 1 for a yes or no, 2 for a click and a
          conversion after a click, else the number of classes.

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
        """`[N, J]` float32 logits of single rows, such as rows of a log with their places.

        Args:
          states: `[M, D]` float32 vectors of M moments.
          rows: N rows that name a moment each.
          calibrated: False for the logits before calibration.
        """
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
    ) -> Float[np.ndarray, ...]:
        """Calibrated probabilities, float32 in the shape of `logits`; arguments and errors as there.

        Those of classes sum to 1, others are each of a yes. For click and conversion, the second is given a click.
        """
        logits = self.logits(histories, item_ids, position=position, times=times)
        chances = jax.nn.softmax(logits, axis=-1) if self.kind == "classes" else jax.nn.sigmoid(logits)
        return np.asarray(chances)

    def rank_by_value(
        self,
        histories: Sequences,
        item_ids: Int[np.ndarray, "U K"],
        *,
        values: Float[np.ndarray, " V1"],
        position: int = 1,
        times: Int[np.ndarray, " U"] | None = None,
    ) -> ValueRanking:
        """The candidates by p(click) · p(conversion | click) · value, see `rank_by_expected_value`.

        Args:
          histories: of U users.
          item_ids: `[U, K]` numbers of candidates, 0 = none.
          values: `[V+1]` value of a conversion on each item; row 0 is ignored.
          position: as for `logits`.
          times: as for `logits`.

        Raises:
          ConfigError: a head that is not of click and conversion.
          ShapeError, DataError: as `logits`.
        """
        if self.kind != "click_and_conversion":
            raise ConfigError(
                f"the head {self.name!r} predicts {self.kind}; an expected value needs click and conversion: fit one "
                "with a column of conversions"
            )
        logits = jnp.asarray(self.logits(histories, item_ids, position=position, times=times))
        return rank_by_expected_value(
            jnp.asarray(item_ids, jnp.int32), logits[..., 0], logits[..., 1], values=jnp.asarray(values, jnp.float32)
        )


def with_time_since(
    states: Float[np.ndarray, "M D"], histories: Sequences, times: Int[np.ndarray, " M"]
) -> Float[np.ndarray, "M _"]:
    """`[M, D+2]` float32: states, weeks since the last event of each history, log(1 + days), both of at most 90 days.

    Args:
      states: `[M, D]` float32.
      histories: of M users.
      times: `[M]` int64 seconds UTC of the predictions.

    >>> log = Sequences(np.array(["u", "v"]), np.array([0, 1, 1]), *np.array([[3], [86400], [0], [0]]))
    >>> with_time_since(np.zeros((2, 0)), log, np.array([4 * 86400, 0])).round(2)
    array([[ 0.43,  1.39],
           [12.86,  4.51]], dtype=float32)
    """
    last = histories.timestamps[np.maximum(histories.offsets[1:] - 1, 0)] if len(histories.timestamps) else 0
    days = np.where(histories.lengths > 0, (np.asarray(times) - last) / SECONDS_PER_DAY, np.inf)
    days = np.clip(days, 0, _LONGEST_DAYS)
    return np.concatenate([states, np.stack([days / 7, np.log1p(days)], axis=1)], axis=1).astype(np.float32)
