"""The systems of an evaluation: what is passed in, what comes out of judging, and the part that each plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from seqrec_jax.data.rankers import Ranker
from seqrec_jax.evaluation.judging import Judged

Kind = Literal["model", "baseline", "ceiling", "other"]
"""The part of a system in the report. A "ceiling" is an oracle, which uses what no model can know."""
RIVALS: tuple[Kind, ...] = ("model", "baseline", "other")
"""Kinds that the first system is compared with; an oracle is none."""
COMPARED: tuple[Kind, ...] = ("model", "other")
"""Kinds that `compare` compares with each other."""


class Contender(NamedTuple):
    """A system to evaluate.

    Attributes:
      system: a ranker, or the table of a system that was judged before, such as lists made elsewhere.
      kind: its part in the report.
    """

    system: Ranker | Judged
    kind: Kind


class System(NamedTuple):
    """A judged contender.

    Attributes:
      judged: its table, lists and ranks.
      kind: its part in the report.
      ranker: what was judged; None for lists made elsewhere.
    """

    judged: Judged
    kind: Kind
    ranker: Ranker | None

    @property
    def name(self) -> str:
        """The system's label in tables."""
        return self.judged.name


def judged_of(systems: Sequence[System], kinds: Sequence[Kind]) -> list[Judged]:
    """The tables of the systems of some kinds, in their order."""
    return [system.judged for system in systems if system.kind in kinds]
