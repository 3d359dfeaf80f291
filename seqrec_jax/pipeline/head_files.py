"""Files beside a run's checkpoint that belong to it: parameters, what they are, and a fingerprint of the checkpoint."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.retrieval import Recommender
from seqrec_jax.training.adapters.files import fingerprint
from seqrec_jax.training.adapters.paths import flat_params, nested_params
from seqrec_jax.training.checkpoints import CheckpointStore

SCHEMA_VERSION = 1


def recommender_at(run: str | Path, step: int | None) -> tuple[Recommender, int | None]:
    """A run's recommender and the step of its checkpoint; None takes the best by validation."""
    with closing(CheckpointStore(Path(run) / "checkpoints", read_only=True)) as store:
        step = store.best_step if step is None else step
    return Recommender.load(run, step=step), step


def check_name(name: str, *, kind: str) -> None:
    """Raise a ConfigError for a name that is no file's."""
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"a {kind}'s name must be a plain file name, got {name!r}")


def write_beside(
    run: str | Path,
    kind: str,
    name: str,
    params: dict[str, Any],
    *,
    recommender: Recommender,
    step: int | None,
    facts: dict[str, Any],
) -> Path:
    """Write `<run>/<kind>s/<name>.npz`, bound to the checkpoint's parameters.

    Raises:
      CheckpointError: it cannot be written.
    """
    path = Path(run) / f"{kind}s" / f"{name}.npz"
    bound = {"schema_version": SCHEMA_VERSION, "step": step, "fingerprint": fingerprint(recommender.params)}
    arrays = {key: leaf for key, leaf in flat_params(params).items() if not isinstance(leaf, dict)}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, facts=np.array(json.dumps(bound | facts, ensure_ascii=False)), **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot write the {kind} to {path}: {error.strerror or error}") from error
    return path


def read_beside(run: str | Path, kind: str, name: str) -> tuple[Recommender, dict[str, Any], dict[str, Any]]:
    """The recommender of the checkpoint that a file was written for, its parameters and its facts.

    Raises:
      CheckpointError: no run, no such file, one of another schema version or of other parameters of the run.
    """
    path = Path(run) / f"{kind}s" / f"{name}.npz"
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.npz"))
        raise CheckpointError(
            f"{run} has no {kind} {name!r} ({kind}s there: {', '.join(there) or 'none'}); `seqrec fit-{kind}` makes one"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key != "facts"}
            facts = json.loads(str(file["facts"]))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fit the {kind} again") from error
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {facts.get('schema_version')}, this release reads {SCHEMA_VERSION}; fit the "
            f"{kind} again"
        )
    recommender = Recommender.load(run, step=facts["step"])
    if fingerprint(recommender.params) != facts["fingerprint"]:
        raise CheckpointError(
            f"{path} was fitted on other parameters of {run} than its checkpoint {facts['step']} has now; fit the "
            f"{kind} again"
        )
    return recommender, nested_params(arrays), facts
