"""The command line: `seqrec <verb>`. A file a group of verbs, each verb a table of its arguments.

To add a verb, add one `Verb` to the `VERBS` of a file here: help, docs/cli.md and the tests read the same table.
Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import difflib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seqrec_jax.cli import doctor, extending, judging, preparing, quickstart, recommending, training
from seqrec_jax.cli.table import INTERRUPTED, Verb
from seqrec_jax.errors import SeqrecError

VERBS: dict[str, Verb] = {
    verb.name: verb
    for room in (preparing, training, judging, recommending, extending, quickstart, doctor)
    for verb in room.VERBS
}
"""Every verb by name, in the order in which help lists them."""


def main() -> None:
    """The `seqrec` command."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Run a verb.

    Args:
      words: the verb and what follows it, as after `seqrec`.

    Returns:
      The exit code: 0; 2 with one line on stderr for an error of the user's; 130 after Ctrl-C.
    """
    if not words or words[0] not in VERBS:
        return _explain(words)
    name = words[0]
    with _one_line_messages(quiet="--quiet" in words):
        try:
            return VERBS[name](words[1:])
        except SeqrecError as error:
            return _failed(name, error)
        except OSError as error:  # a disk that fills, a folder that cannot be read
            return _failed(name, error)
        except KeyboardInterrupt:
            print(f"seqrec {name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except SystemExit as end:  # argparse has already said why
            return int(end.code or 0)


def _explain(words: Sequence[str]) -> int:
    """Print the verbs: on stdout where no verb was given, on stderr for an unknown one."""
    width = max(map(len, VERBS))
    summaries = "\n".join(f"  {name:<{width}} {verb.summary}" for name, verb in VERBS.items())
    usage = f"usage: seqrec <verb> [options]\n\n{summaries}\n\nseqrec <verb> --help explains a verb."
    if not words or words[0] in ("-h", "--help"):
        print(usage)
        return 0
    near = difflib.get_close_matches(words[0], VERBS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    print(f"seqrec: there is no verb {words[0]!r}{hint}\n{usage}", file=sys.stderr)
    return 2


def _failed(name: str, error: Exception) -> int:
    print(f"seqrec {name}: {error}", file=sys.stderr)
    return 2


@contextmanager
def _one_line_messages(*, quiet: bool) -> Iterator[None]:
    """Warnings and the library's own log as single lines on stderr, and no log of the libraries below it."""
    ours, orbax = logging.getLogger("seqrec_jax"), logging.getLogger("absl")
    levels, propagate, handlers = (ours.level, orbax.level), ours.propagate, ours.handlers
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{'note':<11}%(message)s"))
    ours.handlers = [handler]  # one alone, also where a verb runs other verbs
    ours.propagate = False  # other libraries install handlers of their own at the root
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    orbax.setLevel(logging.CRITICAL)  # a line for every file, and several tracebacks for an error that it then raises
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            yield
    finally:
        ours.handlers, ours.propagate = handlers, propagate
        for logger, level in zip((ours, orbax), levels, strict=True):
            logger.setLevel(level)
