"""Artifacts: read back with their facts, refused for another checkpoint."""

import json
import shutil

import jax
import numpy as np
import pytest

from seqrec_jax.errors import CheckpointError, ConfigError
from seqrec_jax.runs import Run, artifacts, read_artifact, write_artifact

PARAMS = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "codes": np.array([0, 1, 2])}


@pytest.fixture
def opened(tiny_run, tmp_path):
    shutil.copytree(tiny_run.run, tmp_path / "tiny")
    return Run.open(tmp_path / "tiny")


def test_an_artifact_is_read_back_with_its_facts_and_step(opened):
    path = write_artifact(opened, "head", "click", PARAMS, step=None, facts={"label": "click"})
    assert path == opened.directory / "heads" / "click.npz"
    found = read_artifact(opened, "head", "click")
    assert (found.facts, found.step) == ({"label": "click"}, opened.steps[0])
    jax.tree.map(np.testing.assert_array_equal, found.params, PARAMS)
    assert [file.name for file in path.parent.iterdir()] == ["click.npz"]


def test_an_artifact_of_other_parameters_is_refused(opened, monkeypatch):
    path = write_artifact(opened, "head", "click", PARAMS, step=None, facts={})
    with np.load(path) as file:
        arrays = dict(file)
    facts = json.loads(str(arrays.pop("facts")))
    np.savez(path, facts=json.dumps({**facts, "fingerprint": "0" * 64}), **arrays)
    with pytest.raises(CheckpointError, match=r"was fitted on other parameters of .* fit the head again"):
        read_artifact(opened, "head", "click")
    monkeypatch.setattr(artifacts, "SCHEMA_VERSION", 2)
    with pytest.raises(CheckpointError, match="has schema version 1, this release reads 2; fit the head again"):
        read_artifact(opened, "head", "click")
    path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"is damaged .* fit the head again"):
        read_artifact(opened, "head", "click")


def test_absent_artifacts_and_names_that_are_no_files(opened):
    with pytest.raises(CheckpointError, match=r"has no decoder 'x' \(decoders there: none\); `seqrec fit-decoder`"):
        read_artifact(opened, "decoder", "x")
    for name in ("", "a/b", ".hidden"):
        with pytest.raises(ConfigError, match=f"a head's name must be a plain file name, got {name!r}"):
            write_artifact(opened, "head", name, PARAMS, step=None, facts={})
