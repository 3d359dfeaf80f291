"""The protocol of an evaluation: which events are predicted, what may be recommended, what is measured and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from seqrec_jax.data.rankers import SeenItems
from seqrec_jax.data.splits import Stage, num_next_targets
from seqrec_jax.errors import ConfigError
from seqrec_jax.evaluation.measures import NOT_DECIDING, metric_names
from seqrec_jax.settings import Interval, check_fields

Part = Literal[
    "audit",
    "questions",
    "beyond_accuracy",
    "segments",
    "representation",
    "robustness",
    "exposure",
    "sampled",
    "modalities",
    "cost",
]
"""Parts of the report beside figures, comparisons and slices."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How rankers are judged; all items that could be recommended are ranked.

    Attributes:
      stage: part of the split that holds the targets, test or validation.
      metric: the metric that decides, such as ndcg@10; larger must be better.
      cutoffs: list lengths K of the metrics at k.
      seen_items: whether items of the history may be recommended ("kept") or not ("excluded"; a target among them is
        then a miss).
      targets: which of the events after the history are the targets: "all", "next", "next 5" (or another number), or
        "basket", the next event and those at its very time.
      min_history: least number of events before the target; users with fewer are left out and counted.
      gains: what a target of each behaviour is worth, such as `{view: 1, purchase: 3}`; adds graded_ndcg@k. Behaviours
        that are not named are worth 1.
      margin: share of the other system's figure by which the model may be worse and still be called non-inferior.
      num_resamples: bootstrap resamples of the users behind each interval.
      seed: of the random order of the catalogue that settles ties, and of the bootstrap.
      score_bytes: most bytes that the scores of one tile of users take.
      num_devices: number of devices that share the users of a tile.
      parts: parts of the report beside figures, comparisons and slices. Each takes time; robustness and cost take most.
    """

    stage: Stage = "test"
    metric: str = "ndcg@10"
    cutoffs: tuple[Annotated[int, Interval("[1, inf)")], ...] = (5, 10, 20)
    seen_items: SeenItems = "kept"
    targets: str = "all"
    min_history: Annotated[int, Interval("[0, inf)")] = 1
    gains: Mapping[str, Annotated[float, Interval("[0, inf)")]] = field(default_factory=dict)
    margin: Annotated[float, Interval("(0, 1)")] = 0.05
    num_resamples: Annotated[int, Interval("[100, inf)")] = 2000
    seed: Annotated[int, Interval("[0, inf)")] = 0
    score_bytes: Annotated[int, Interval("[1, inf)")] = 512 * 2**20
    num_devices: Annotated[int, Interval("[1, inf)")] = 1
    parts: tuple[Part, ...] = get_args(Part)

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")
        if not self.cutoffs:
            raise ConfigError("evaluation.cutoffs must hold at least one list length, got none")
        num_next_targets(self.targets)
        # training keeps the checkpoint with the largest figure
        names = metric_names(self.cutoffs, graded=bool(self.gains))
        if self.metric not in (known := [name for name in names if name not in NOT_DECIDING]):
            raise ConfigError(f"evaluation.metric is {self.metric!r}; with these cutoffs it can be {', '.join(known)}")
