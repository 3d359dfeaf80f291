"""A verb as a table: its arguments, what it does in a sentence, and the function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seqrec_jax.errors import ConfigError

if TYPE_CHECKING:
    from seqrec_jax.config import ExperimentConfig


class Argument:
    """One argument of a verb, in the words of `argparse`."""

    def __init__(self, *names: str, help: str, **options: Any):
        """An argument.

        Args:
          names: an option such as `--output`, or the name of a positional argument.
          help: what it is, without a full stop.
          options: as `argparse.ArgumentParser.add_argument` takes them.
        """
        self.names, self.help, self.options = names, help, options

    def required(self) -> Argument:
        """The same argument, which must be given."""
        return Argument(*self.names, help=self.help, **{**self.options, "required": True})


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
      name: as it is typed, such as add-items.
      summary: what it does, one sentence.
      arguments: its table; a tuple of arguments inside excludes one another.
      run: takes the parsed arguments and the words of fields that follow them; gives the exit code.
      fields: a sentence on which fields of the configuration can follow; None where none can.
    """

    name: str
    summary: str
    arguments: tuple[Argument | tuple[Argument, ...], ...]
    run: Callable[[argparse.Namespace, list[str]], int]
    fields: str | None = None

    def parser(self) -> argparse.ArgumentParser:
        """The parser of the verb's arguments."""
        parser = argparse.ArgumentParser(
            prog=f"seqrec {self.name}",
            description=self.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=self.fields,
            allow_abbrev=False,
        )
        for entry in self.arguments:
            exclusive = isinstance(entry, tuple)
            place = parser.add_mutually_exclusive_group() if exclusive else parser
            for argument in entry if isinstance(entry, tuple) else (entry,):
                place.add_argument(*argument.names, help=argument.help, **argument.options)
        return parser

    def __call__(self, words: Sequence[str]) -> int:
        """Parse the words after the verb, run it, and give its exit code.

        Raises:
          SystemExit: wrong words, which argparse has explained on stderr.
        """
        parser = self.parser()
        if self.fields is None:
            return self.run(parser.parse_args(words), [])
        return self.run(*parser.parse_known_args(words))


INTERRUPTED = 130
"""Exit code after Ctrl-C, and of a training that was stopped."""

CONFIG = Argument("--config", help="YAML file of the experiment", required=True)
CHECKPOINT = Argument("--checkpoint", help="run directory, runs/<name>", required=True)
STEP = Argument("--step", type=int, help="step of the checkpoint (default: the best by validation)")
DATASET = Argument("--dataset", help="another prepared dataset with the same items (default: the run's own)")
OVERWRITE_DATASET = Argument("--overwrite", action="store_true", help="replace a prepared dataset of the same place")
EXPERIMENT = "Any field of docs/configuration.md can follow, e.g. --training.max_epochs 5."
PROTOCOL = "Fields of the evaluation section can follow, e.g. --evaluation.seen_items excluded."


def named_paths(pairs: Sequence[str], *, what: str) -> dict[str, str]:
    """`name=path` words as a dictionary.

    Raises:
      ConfigError: a word without a name or a path, or a name given twice.
    """
    if wrong := [pair for pair in pairs if not all(pair.partition("="))]:
        raise ConfigError(f"{what} are given as name=path, such as first=folder/file, got {wrong[0]!r}")
    names = [pair.partition("=")[0] for pair in pairs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{what} name {min(doubled)!r} twice; give each a name of its own")
    return {name: path for name, _, path in (pair.partition("=") for pair in pairs)}


def without_section(words: Sequence[str], section: str) -> list[str]:
    """Words such as `--evaluation.stage` as `--stage`: a verb with one section takes both."""
    return [word.replace(f"--{section}.", "--", 1) if word.startswith(f"--{section}.") else word for word in words]


def experiment(options: argparse.Namespace, fields: Sequence[str]) -> ExperimentConfig:
    """The experiment of `--config`, with fields from the command line.

    Raises:
      ConfigError: as `parse_config`.
    """
    from seqrec_jax.config import ExperimentConfig
    from seqrec_jax.settings import parse_config

    return parse_config(ExperimentConfig, path=options.config, overrides=fields)
