"""Writes docs/configuration.md from the configuration's dataclasses: `python docs/make_configuration.py`."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path

from seqrec_jax.config import ExperimentConfig
from seqrec_jax.reranking import RerankConfig, load_rules
from seqrec_jax.settings import Interval

HEADER = """# Configuration

Every field of an experiment, with its default. A YAML file names only what differs; any field can be overridden on
the command line, as in `seqrec train --config configs/beauty.yaml --training.max_epochs 5`. An unknown key or a
value of the wrong type is an error that names the nearest valid one. The resolved configuration, every field written
out, is saved as `config.yaml` with the run.

This page is made from the code by `python docs/make_configuration.py`; a test keeps it true.
"""


def page() -> str:
    """The whole page."""
    rules = inspect.cleandoc(load_rules.__doc__ or "").split("\n", 2)[2].split("\nRaises:")[0]
    rules = re.sub(r"((?:^    .*\n?)+)", lambda block: f"```yaml\n{textwrap.dedent(block[1])}```\n", rules, flags=re.M)
    reranking = ["## reranking\n", "Fields of `seqrec recommend`.\n", _table(RerankConfig)]
    return "\n".join([HEADER, *_sections(ExperimentConfig, ""), *reranking, "### The file of shop rules\n", rules])


def _sections(cls: type, prefix: str) -> list[str]:
    title = prefix.rstrip(".") or "top level"
    parts = [f"## {title}\n", f"{_summary(cls)}\n", _table(cls)]
    for entry in fields(cls):
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if is_dataclass(default):
            parts += _sections(type(default), f"{prefix}{entry.name}.")
    return parts


def _summary(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _table(cls: type) -> str:
    texts = _attribute_texts(cls)
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for entry in fields(cls):
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if is_dataclass(default):
            rows.append(f"| {entry.name} | section | | {texts[entry.name]} |")
            continue
        kind = re.sub(r"Annotated\[(\w+), Interval\(['\"](.*?)['\"]\)\]", _ranged, str(entry.type))
        kind = kind.replace("|", "or").replace("Literal", "one of ")
        shown = "none" if default is None else f"`{default}`"
        rows.append(f"| {entry.name} | {kind} | {shown} | {texts[entry.name]} |")
    return "\n".join(rows) + "\n"


def _ranged(annotated: re.Match[str]) -> str:
    """A number's type and range in words, such as "int at least 1"."""
    return f"{annotated[1]} {Interval(annotated[2])}"


def _attribute_texts(cls: type) -> dict[str, str]:
    """The sentences of a docstring's Attributes section; for an undocumented field of `Columns`, its role."""
    body = re.search(r"Attributes:\n(.*)", inspect.cleandoc(cls.__doc__ or ""), re.S)
    texts = dict.fromkeys((entry.name for entry in fields(cls)), "the log's column for it")
    if body:
        for name, text in re.findall(r"^  (\w+): (.*?)(?=^  \w+: |\Z)", body[1], re.S | re.M):
            texts[name] = " ".join(text.split())
    return texts


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(page(), encoding="utf-8")
