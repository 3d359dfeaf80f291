"""Trained runs: their files as one typed value, and the artifacts that belong to a checkpoint."""

from __future__ import annotations

from seqrec_jax.runs.artifacts import Artifact, check_name, read_artifact, write_artifact
from seqrec_jax.runs.facts import DatasetFacts
from seqrec_jax.runs.run import Checkpoint, Run
from seqrec_jax.runs.writing import open_run, write_grown_run

__all__ = [
    "Artifact",
    "Checkpoint",
    "DatasetFacts",
    "Run",
    "check_name",
    "open_run",
    "read_artifact",
    "write_artifact",
    "write_grown_run",
]
