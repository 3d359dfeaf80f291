"""Where an evaluation is written to: `metrics.json`, perhaps the per-user table, and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from seqrec_jax.errors import CheckpointError, MissingExtraError
from seqrec_jax.evaluation.report.page import render_report


def make_folder(directory: str | Path, *, what: str) -> Path:
    """The folder, made where it does not exist: before the work, so that a wrong place does not cost it.

    Raises:
      CheckpointError: it cannot be made.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory, what, error) from error
    return directory


def write_evaluation(
    directory: Path,
    result: dict[str, Any],
    *,
    what: str,
    per_user: pd.DataFrame | None = None,
    log: Sequence[dict[str, Any]] = (),
    examples: Sequence[dict[str, Any]] = (),
) -> str | None:
    """Write figures, per-user table and report; why there is no report, None where there is one.

    Raises:
      CheckpointError: the directory cannot be written.
    """
    try:
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        (directory / "metrics.json").write_text(text, encoding="utf-8")
        if per_user is not None:
            per_user.to_parquet(directory / "per_user.parquet", index=False)
        page = render_report(result, log=log, examples=examples)
        (directory / "report.html").write_text(page, encoding="utf-8")
    except MissingExtraError as error:
        return str(error)
    except OSError as error:
        raise cannot_write(directory, what, error) from error
    return None


def cannot_write(directory: Path, what: str, error: OSError) -> CheckpointError:
    """The error for a place that cannot be written."""
    return CheckpointError(f"cannot write the {what} to {directory}: {error.strerror or error}")
