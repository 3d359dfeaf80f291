"""What a run keeps of its language models: all but the weights, which are in its checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from seqrec_jax.model import ModelConfig

_FOLDER = "language_model"
_FILES = ("config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def keep_language_model(config: ModelConfig, run: Path) -> None:
    """Copy the description of the encoder's language model into a run, so that the run can be read without it."""
    if config.encoder.language_model is None:
        return
    source, kept = Path(config.encoder.language_model), run / _FOLDER
    for name in _FILES:
        if (source / name).is_file():
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, kept / name)


def with_kept_language_model(config: ModelConfig, run: Path) -> ModelConfig:
    """The model of a run, described by what the run keeps."""
    if config.encoder.language_model is None:
        return config
    return replace(config, encoder=replace(config.encoder, language_model=str(run / _FOLDER)))
