"""Files that belong to one checkpoint of a run, such as heads and decoders, bound to it by its fingerprint.

`<run>/<kind>s/<name>.npz` holds arrays and, as JSON, facts: a schema version, the checkpoint's step, the fingerprint of
its parameters, and whatever the kind needs besides.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.runs.run import Run
from seqrec_jax.training.adapters.paths import flat_params, nested_params
from seqrec_jax.training.fingerprint import params_fingerprint

SCHEMA_VERSION = 1


class Artifact(NamedTuple):
    """What an artifact's file holds.

    Attributes:
      params: nested dictionaries of NumPy arrays.
      facts: JSON values that were written with them.
      step: of the checkpoint that it belongs to.
    """

    params: dict[str, Any]
    facts: dict[str, Any]
    step: int | None


def check_name(name: str, *, kind: str) -> None:
    """Raise a ConfigError for a name that cannot be a file's."""
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"a {kind}'s name must be a plain file name, got {name!r}")


def write_artifact(
    run: Run, kind: str, name: str, params: dict[str, Any], *, step: int | None, facts: dict[str, Any]
) -> Path:
    """Write `<run>/<kind>s/<name>.npz`, bound to a checkpoint of the run; one of the same name is replaced.

    Args:
      run: whose checkpoint it belongs to.
      kind: head, decoder, ….
      name: a plain file name.
      params: nested dictionaries of arrays.
      step: of the checkpoint; None for the best by validation.
      facts: JSON values to be read with the arrays.

    Returns:
      The file.

    Raises:
      CheckpointError: no such checkpoint, or a file that cannot be written.
      ConfigError: a name that cannot be a file's.
    """
    check_name(name, kind=kind)
    checkpoint = run.checkpoint(step)
    path = run.directory / f"{kind}s" / f"{name}.npz"
    bound = {
        "schema_version": SCHEMA_VERSION,
        "step": checkpoint.step,
        "fingerprint": params_fingerprint(checkpoint.params),
    }
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


def read_artifact(run: Run, kind: str, name: str) -> Artifact:
    """Read what `write_artifact` wrote, after checking that the run's checkpoint is still the one it belongs to.

    Raises:
      CheckpointError: no such file, a damaged one, one of another schema version, or one of other parameters than the
        run's checkpoint has.
    """
    path = run.directory / f"{kind}s" / f"{name}.npz"
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
    version, step, written = (facts.pop(key, None) for key in ("schema_version", "step", "fingerprint"))
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}; fit the {kind} again"
        )
    if params_fingerprint(run.params(step)) != written:
        raise CheckpointError(
            f"{path} was fitted on other parameters of {run} than its checkpoint {step} has now; fit the {kind} again"
        )
    return Artifact(nested_params(arrays), facts, step)
