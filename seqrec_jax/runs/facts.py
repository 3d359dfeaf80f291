"""What a run knows of the dataset that it was trained on, read from `dataset.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrec_jax.data.attributes import AttributeVocabulary
from seqrec_jax.data.dataset import read_facts
from seqrec_jax.data.splits import SplitConfig
from seqrec_jax.errors import DataError, SeqrecError


@dataclass(frozen=True)
class DatasetFacts:
    """The dataset of a run without its events.

    Attributes:
      name: of the dataset.
      fingerprint: 16 hexadecimal digits, the same for the same content.
      counts: users, items, events and the events of each part.
      behaviors: names of the behaviour codes 0, 1, ….
      query_behavior: the behaviour of searches; None for a log without queries.
      attributes: the values behind the codes of item attributes.
      time_kind: seconds, or order for a log without real times.
      first_timestamp: seconds UTC of the first event.
      split: the rule by which the events were split.
      cuts: seconds UTC at which a part starts, by name, such as test_start; empty unless the split is by time.
      directory: where the dataset was when the run was made; None for a prepared dataset itself.
      grown_from: the run to whose catalogue items were added; None for a trained run.
    """

    name: str
    fingerprint: str
    counts: Mapping[str, int]
    behaviors: tuple[str, ...]
    query_behavior: str | None
    attributes: AttributeVocabulary
    time_kind: str
    first_timestamp: int
    split: SplitConfig
    cuts: Mapping[str, int]
    directory: Path | None = None
    grown_from: Path | None = None

    @classmethod
    def read(cls, directory: str | Path) -> DatasetFacts:
        """The facts of a run or of a prepared dataset.

        Raises:
          DataError: no `dataset.json` there, a damaged one, or one of another schema version.
        """
        values = read_facts(Path(directory))
        try:
            return cls._from_dict(values)
        except (KeyError, TypeError, AttributeError, SeqrecError) as error:
            raise DataError(f"{Path(directory) / 'dataset.json'} is damaged: {error!r}") from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> DatasetFacts:
        rule = {**values["split"], "target_behaviors": tuple(values["split"]["target_behaviors"])}
        cuts = rule.pop("cuts")
        return cls(
            name=values["name"],
            fingerprint=values["fingerprint"],
            counts=values["counts"],
            behaviors=tuple(values["behaviors"]),
            query_behavior=values.get("query_behavior"),
            attributes=AttributeVocabulary.from_dict(values["attributes"]),
            time_kind=values["time_kind"],
            first_timestamp=values["first_timestamp"],
            split=SplitConfig(**rule),
            cuts=cuts,
            directory=_path(values.get("directory")),
            grown_from=_path(values.get("grown_from")),
        )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
