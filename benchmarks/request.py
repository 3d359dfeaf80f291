"""One user's list: `python benchmarks/request.py --run runs/quickstart [--older /path/of/seqrec_jax-0.1.0]`.

Milliseconds for one user's ten items: by the engine (arrays in, ids and scores out), by `Recommender.recommend` (raw
item ids in), with the table of the list, and by `recommend` of an older version of this library, if its checkout or
site-packages is given. Each has a process of its own and takes its turn in an order drawn anew each round; a turn is
the mean over 50 histories of 1 to 59 events. All lists must be the same, item by item and score by score. The ratio is
the median over rounds of the older version's seconds to the engine's, and so on.

Rows go to benchmarks/results/request.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from peers.contenders import alternate, median_ratio
from peers.protocol import Contender
from records import Row, circumstances, write_rows

RESULTS = Path("benchmarks/results/request.json")
KEYS = ("data", "model", "configuration", "figure")
SCRIPT = "seqrec_recommend.py"
USERS = 50
ENGINE, RECOMMEND, TABLE, OLDER = "engine", "recommend", "recommend and its table", "recommend and its table, 0.1.0"


def contest(run: Path, older: Path | None, *, python: Path, rounds: int, repeats: int) -> Iterator[Row]:
    """Milliseconds a request of each way, beside one another."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ours = stack.enter_context(Contender(sys.executable, SCRIPT))
        facts = ours.ask("prepare", run=str(run.absolute()), users=USERS)
        turns = {
            ENGINE: partial(ours.ask, "engine", repeats=repeats),
            RECOMMEND: partial(ours.ask, "recommend", repeats=repeats),
            TABLE: partial(ours.ask, "table", repeats=repeats),
        }
        if older is not None:
            theirs = stack.enter_context(Contender(python, SCRIPT))
            theirs.ask("prepare", run=str(run.absolute()), users=USERS, library=str(older.absolute()))
            turns[OLDER] = partial(theirs.ask, "recommend", repeats=max(1, repeats // 5))
            check_lists(ours, theirs, Path(folder))
        replies = alternate(turns, rounds=rounds)
    seconds = {name: [reply["seconds"] for reply in answers] for name, answers in replies.items()}
    print(f"V = {facts['items']:,}: milliseconds a request, and the median ratio to the engine")
    for name, values in seconds.items():
        row = {
            "model": name,
            "configuration": f"{run.name}, V = {facts['items']}, one user, k = 10",
            "figure": "milliseconds a request",
            "value": round(1000 * statistics.median(values), 3),
            "to_engine": round(median_ratio(values, seconds[ENGINE]), 1),
            "rounds": rounds,
        }
        print(f"{row['value']:>10,.3f} {row['to_engine']:8.1f}x  {name}", flush=True)
        yield row


def check_lists(ours: Contender, theirs: Contender, folder: Path) -> None:
    """Refuse figures of lists that are not the same to the last bit.

    Raises:
      RuntimeError: an item or a score differs.
    """
    found = []
    for name, contender in (("ours", ours), ("theirs", theirs)):
        contender.ask("lists", path=str(folder / f"{name}.npz"))
        found.append(dict(np.load(folder / f"{name}.npz")))
    for name in ("item_ids", "scores"):
        if different := int((found[0][name] != found[1][name]).sum()):
            raise RuntimeError(f"{different} of {found[0][name].size} {name} differ from those of the older version")


def main() -> None:
    """All ways on one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="default runs/quickstart")
    parser.add_argument("--older", type=Path, help="folder in which an older version's seqrec_jax lies")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="its interpreter (default this one)")
    parser.add_argument("--rounds", type=int, default=11, help="in which the ways take turns (default 11)")
    parser.add_argument("--repeats", type=int, default=5, help="of all histories a turn (default 5)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default {RESULTS}")
    options = parser.parse_args()
    about = {"data": "simulated shop", **circumstances("python benchmarks/request.py")}
    rows = contest(options.run, options.older, python=options.python, rounds=options.rounds, repeats=options.repeats)
    write_rows(options.results, [row | about for row in rows], keys=KEYS)


if __name__ == "__main__":
    main()
