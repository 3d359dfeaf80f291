"""Fine-tuned parameters as a file of their own, a few kilobytes, with the fingerprint of their base."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqrec_jax.errors import CheckpointError, ConfigError, MissingExtraError, ShapeError
from seqrec_jax.settings import parse_config
from seqrec_jax.training.adapters.config import FineTuningConfig
from seqrec_jax.training.adapters.low_rank import attach_adapters, detach_adapters
from seqrec_jax.training.adapters.paths import flat_params, nested_params
from seqrec_jax.training.fingerprint import params_fingerprint

Params = dict[str, Any]
SCHEMA_VERSION = 1


def save_trained(path: str | Path, trainable: Params, frozen: Params, *, config: FineTuningConfig) -> None:
    """Write the trained parameters, the scales of adapters, and a fingerprint of the frozen ones.

    Args:
      path: the file, usually `.safetensors`.
      trainable: trained parameters, as `partition` gives them.
      frozen: all other parameters, as `partition` gives them.
      config: settings of the fine-tuning.

    Raises:
      MissingExtraError: safetensors is not installed.
    """
    base, scales = detach_adapters(frozen)
    trained = flat_params(trainable) | flat_params(scales)
    arrays = {
        name: np.array(array, order="C") for name, array in trained.items()
    }  # safetensors would write another order wrongly
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "config": json.dumps(asdict(config)),
        "base": params_fingerprint(base),
    }
    _safetensors().numpy.save_file(arrays, path, metadata=metadata)


def load_trained(path: str | Path, base: Params) -> tuple[Params, FineTuningConfig]:
    """Read a file of `save_trained`, whose parameters `attach_adapters` adds to a base.

    Args:
      path: the file.
      base: the parameters that it was trained beside; adapters attached to them are ignored.

    Returns:
      The trained parameters, and the settings of the fine-tuning.

    Raises:
      CheckpointError: no such file, or not one of `save_trained`; another base, or one without the layers or shapes
        that the file needs.
      MissingExtraError: safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118, no mapping
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or only a part of one: {error}") from error
    if metadata.get("schema_version") != str(SCHEMA_VERSION) or not {"config", "base"} <= set(metadata):
        raise CheckpointError(
            f"{path} has schema version {metadata.get('schema_version')}, this version of seqrec_jax reads "
            f"{SCHEMA_VERSION}; save it with save_trained"
        )
    base, _ = detach_adapters(base)
    trained = nested_params(arrays)
    try:
        attach_adapters(base, trained)
    except (ConfigError, ShapeError) as error:
        raise CheckpointError(f"{path} is for another base: {error}") from error
    frozen = {name: array for name, array in flat_params(base).items() if name not in arrays}
    if (found := params_fingerprint(nested_params(frozen))) != metadata["base"]:
        raise CheckpointError(
            f"{path} was trained beside other parameters (fingerprint {metadata['base'][:12]}, these have "
            f"{found[:12]}); load the base that it was trained with"
        )
    return trained, parse_config(FineTuningConfig, values=json.loads(metadata["config"]))


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError(
            "files of adapters need safetensors; install it with: pip install 'seqrec_jax[language]'"
        ) from error
    return safetensors
