"""Sequence models of user behaviour: training and, above all, honest evaluation, on JAX.

`import seqrec_jax as sj` loads nothing heavy; each name below is imported when it is first used. These names are
stable (`docs/stability.md` says what that promises). Everything else is imported from its room, for example
`from seqrec_jax.data.dataset import load_dataset`, and may change between minor releases.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqrec_jax import baselines, losses, metrics, negatives, scoring, statistics
    from seqrec_jax.config import ExperimentConfig
    from seqrec_jax.errors import SeqrecError
    from seqrec_jax.pipeline import add_items, join, prepare
    from seqrec_jax.pipeline import backtest_run as backtest
    from seqrec_jax.pipeline import compare_runs as compare
    from seqrec_jax.pipeline import embed_run as embed
    from seqrec_jax.pipeline import evaluate_run as evaluate
    from seqrec_jax.pipeline import train_run as train
    from seqrec_jax.retrieval import Recommender
    from seqrec_jax.settings import parse_config

__version__ = "0.2.0"

__all__ = [
    "ExperimentConfig",
    "Recommender",
    "SeqrecError",
    "add_items",
    "backtest",
    "baselines",
    "compare",
    "embed",
    "evaluate",
    "join",
    "losses",
    "metrics",
    "negatives",
    "parse_config",
    "prepare",
    "scoring",
    "statistics",
    "train",
]

_HOMES = {  # the room and the name there; a name that is missing here is a room itself
    "ExperimentConfig": ("config", "ExperimentConfig"),
    "Recommender": ("retrieval", "Recommender"),
    "SeqrecError": ("errors", "SeqrecError"),
    "add_items": ("pipeline", "add_items"),
    "backtest": ("pipeline", "backtest_run"),
    "compare": ("pipeline", "compare_runs"),
    "embed": ("pipeline", "embed_run"),
    "evaluate": ("pipeline", "evaluate_run"),
    "join": ("pipeline", "join"),
    "parse_config": ("settings", "parse_config"),
    "prepare": ("pipeline", "prepare"),
    "train": ("pipeline", "train_run"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'seqrec_jax' has no attribute {name!r}")
    if name not in _HOMES:
        return importlib.import_module(f"seqrec_jax.{name}")
    room, attribute = _HOMES[name]
    value = getattr(importlib.import_module(f"seqrec_jax.{room}"), attribute)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
