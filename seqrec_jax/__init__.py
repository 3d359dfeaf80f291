"""Sequence models of user behaviour: training and, above all, honest evaluation, on JAX.

`import seqrec_jax as sj` loads nothing heavy; each name below is imported when it is first used. These names are
stable (`docs/stability.md` says what that promises). Everything else is imported from its room, for example
`from seqrec_jax.data.dataset import read_dataset`, and may change between minor releases.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqrec_jax import baselines, losses, metrics, negatives, scoring, statistics
    from seqrec_jax.config import ExperimentConfig
    from seqrec_jax.errors import SeqrecError
    from seqrec_jax.pipeline import (
        add_items,
        backtest,
        compare,
        embed,
        evaluate,
        fit_decoder,
        fit_head,
        join,
        prepare,
        recommend,
        train,
    )
    from seqrec_jax.retrieval import Recommender
    from seqrec_jax.runs import Run
    from seqrec_jax.settings import parse_config

__version__ = "0.2.0"

__all__ = [
    "ExperimentConfig",
    "Recommender",
    "Run",
    "SeqrecError",
    "add_items",
    "backtest",
    "baselines",
    "compare",
    "embed",
    "evaluate",
    "fit_decoder",
    "fit_head",
    "join",
    "losses",
    "metrics",
    "negatives",
    "parse_config",
    "prepare",
    "recommend",
    "scoring",
    "statistics",
    "train",
]

_ROOMS = ("baselines", "losses", "metrics", "negatives", "scoring", "statistics")
_HOMES = {  # of what is not a verb of the pipeline
    "ExperimentConfig": "config",
    "Recommender": "retrieval",
    "Run": "runs",
    "SeqrecError": "errors",
    "parse_config": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'seqrec_jax' has no attribute {name!r}")
    if name in _ROOMS:
        return importlib.import_module(f"seqrec_jax.{name}")
    value = getattr(importlib.import_module(f"seqrec_jax.{_HOMES.get(name, 'pipeline')}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
