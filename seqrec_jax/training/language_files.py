"""Files of its language models that a run keeps: all but the weights, which are in its checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqrec_jax.model import ModelConfig

_PARTS = ("encoder", "items")
_FILES = ("config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def keep_language_models(config: ModelConfig, run: Path) -> None:
    """Copy configuration and tokenizer files of the language models into a run, so that it can be read without them.

    Args:
      config: model settings, whose `language_model` fields name directories.
      run: the run's directory.
    """
    for part in _PARTS:
        if (source := getattr(config, part).language_model) is None:
            continue
        for name in _FILES:
            if (Path(source) / name).is_file():
                kept = _folder(run, part) / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(source) / name, kept)


def with_kept_language_models(config: ModelConfig, run: Path) -> ModelConfig:
    """The settings with `language_model` fields that name the copies in the run's directory."""
    kept: dict[str, Any] = {}
    for part in _PARTS:
        section = getattr(config, part)
        if section.language_model is not None:
            kept[part] = replace(section, language_model=str(_folder(run, part)))
    return replace(config, **kept)


def _folder(run: Path, part: str) -> Path:
    return run / "language_models" / part
