"""Evaluations that were written earlier, compared without scoring again, and never silently across protocols."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from seqrec_jax.errors import CheckpointError, ConfigError, DataError
from seqrec_jax.evaluation.comparison import compare_systems, shared_users
from seqrec_jax.evaluation.judging import Judged
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.evaluation.protocol_card import protocol_fingerprint, protocol_warning
from seqrec_jax.evaluation.summary import SCHEMA_VERSION
from seqrec_jax.pipeline.writing import make_folder, write_evaluation


class ComparedSaved(NamedTuple):
    """A comparison of evaluations that were written earlier.

    Attributes:
      result: as `metrics.json` has it, of the kind "comparison". Where the protocols differ, it says in what, sets
        `fingerprints_differ`, and its verdict stays open.
      no_report: why `report.html` was not written; None where it was, or where there is no output.
    """

    result: dict[str, Any]
    no_report: str | None


def compare_saved(
    folders: Sequence[str | Path],
    config: EvaluationConfig | None = None,
    *,
    output: str | Path | None = None,
) -> ComparedSaved:
    """Set the model of one saved evaluation beside that of another, on the users of both, without scoring again.

    Args:
      folders: of two evaluations, such as run directories; first that of what runs today.
      config: resamples, seed and margin; the deciding metric is the first evaluation's.
      output: folder for `metrics.json` and `report.html`; None writes nothing.

    Returns:
      The result, and why no report was written.

    Raises:
      ConfigError: not two folders.
      CheckpointError: no evaluation there, one of another schema version, or an output that cannot be written.
      DataError: no user in common, or a deciding metric that one of them lacks.
    """
    if len(folders) != 2:
        raise ConfigError(f"saved evaluations are compared two at a time, got {len(folders)}")
    result = _compared(Path(folders[0]), Path(folders[1]), config or EvaluationConfig())
    if output is None:
        return ComparedSaved(result, None)
    return ComparedSaved(result, write_evaluation(make_folder(output, what="comparison"), result, what="comparison"))


def _compared(first: Path, other: Path, config: EvaluationConfig) -> dict[str, Any]:
    """The comparison's result."""
    read = [_read(folder) for folder in (first, other)]
    names = [str(result["run"]) for result, _ in read]
    if names[0] == names[1]:
        names = [str(folder) for folder in (first, other)]
    metric = read[0][0]["primary_metric"]
    tables = [table[table["system"] == result["systems"][0]["name"]].reset_index(drop=True) for result, table in read]
    for folder, table in zip((first, other), tables, strict=True):
        if metric not in table:
            raise DataError(f"the evaluation in {folder} was not measured by {metric}, which decides in {first}")
    one, two, left_out = shared_users(tables[0], tables[1], names=(names[0], names[1]))
    rows = compare_systems([(_judged(names[1], two), _judged(names[0], one))], [metric], config=config)
    cards = {name: result["protocol"]["card"] for name, (result, _) in zip(names, read, strict=True)}
    loud = protocol_warning(cards)
    systems = [{**result["systems"][0], "name": name} for name, (result, _) in zip(names, read, strict=True)]
    kept = {key: value for key, value in read[0][0].items() if key != "audit"}  # it is of one evaluation
    return {
        **kept,
        "kind": "comparison",
        "run": f"{names[1]} against {names[0]}",
        "systems": systems,
        "comparisons": rows,
        "fingerprints": {name: protocol_fingerprint(card) for name, card in cards.items()},
        "fingerprints_differ": loud is not None,
        "warnings": [text for text in (loud, left_out) if text],
        "slices": {},
        "sections": [],
    }


def _read(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    try:
        result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "per_user.parquet")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CheckpointError(
            f"{folder} has no whole evaluation ({error}); run `seqrec evaluate --checkpoint {folder}` first"
        ) from error
    if result.get("schema_version") != SCHEMA_VERSION or "card" not in result.get("protocol", {}):
        raise CheckpointError(
            f"{folder / 'metrics.json'} has schema version {result.get('schema_version')}, this release reads "
            f"{SCHEMA_VERSION}; evaluate the run again"
        )
    return result, table


def _judged(name: str, table: pd.DataFrame) -> Judged:
    """A saved per-user table as what a comparison looks at; ranks and lists were not saved."""
    none = np.zeros((len(table), 0), dtype=np.int32)
    ranks = np.zeros(0, dtype=np.int32)
    return Judged(name, table, none, none.astype(np.float32), ranks, ranks, ranks, 0, np.nan, np.nan, np.nan, False)
