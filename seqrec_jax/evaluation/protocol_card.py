"""The protocol card: everything but the system that can change a figure, its hash, and how two cards differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import EvaluationCases
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import plain

PROTOCOL_SCHEMA_VERSION = 1
"""Version of the card's keys and of the rules behind them; it changes when the same card would give other figures."""

# fields of the configuration that change no point figure; across devices only rounding differs
_NO_FIGURE = ("metric", "num_resamples", "margin", "parts", "score_bytes", "num_devices")
_NAMES_OF_FIELDS = {"seed": "tie order seed"}
_LABELS = ("data",)  # names for people; the data has a hash of its own

Card = dict[str, Any]
"""Entries in JSON's own types by their names in words."""


def protocol_card(
    dataset: Dataset,
    cases: EvaluationCases,
    config: EvaluationConfig,
    *,
    further: Mapping[str, Any] | None = None,
) -> Card:
    """Everything that can change a figure, as flat entries named in words.

    The configuration's fields are taken over, except those that change no point figure (the deciding metric, the parts
    of the report, the resamples behind intervals, memory and devices).

    Args:
      dataset: where the cases come from.
      cases: the evaluation cases.
      config: the protocol.
      further: more facts that change figures, such as `{"sampled negatives": 100}`.

    Returns:
      The card, in JSON's own types.
    """
    num_candidates = int(cases.candidates.sum())
    card: Card = plain(
        {
            "protocol schema": PROTOCOL_SCHEMA_VERSION,
            "data": dataset.name,
            "data fingerprint": dataset.fingerprint,
            "order of events": "time, then row of the log" if dataset.time_kind == "seconds" else "the log's own order",
            "tie rule": "one random order of the catalogue, the same in ranks and lists",
            **_cleaning(dataset.cleaning),
            **_split(dataset),
            **_config(config),
            "users": len(cases.users),
            "users left out": cases.users_without_history,
            "targets in all": len(cases.target_items),
            "candidates": num_candidates,
            "candidate rule": _candidate_rule(dataset, config),
            "hash of users": _digest(json.dumps([str(u) for u in dataset.sequences.user_ids[cases.users]]).encode()),
            "hash of histories": _digest(*_bytes(cases.histories.offsets, cases.histories.item_ids)),
            "hash of targets": _digest(*_bytes(cases.target_offsets, cases.target_items, cases.target_gains)),
            "hash of candidates": _digest(*_bytes(cases.candidates)),
            **_user_candidates(cases),
            **(further or {}),
        }
    )
    return card


def protocol_fingerprint(card: Mapping[str, Any]) -> str:
    """Hash of 12 hexadecimal digits over a card's canonical JSON, without the entries that are labels for people.

    >>> protocol_fingerprint({"targets": "next", "data": "beauty"}) == protocol_fingerprint({"targets": "next"})
    True
    """
    text = json.dumps(_deciding(card), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _digest(text.encode())


def protocol_differences(card_a: Mapping[str, Any], card_b: Mapping[str, Any]) -> list[str]:
    """One sentence for each entry in which two protocols differ; none exactly if their fingerprints are equal.

    Hashes, which differ as a consequence, come last.

    >>> protocol_differences({"targets": "all", "seed": 0}, {"targets": "next", "seed": 0})
    ['targets: all against next']
    """
    a, b = _deciding(card_a), _deciding(card_b)
    names = [name for name in dict.fromkeys([*a, *b]) if name not in a or name not in b or _differ(a[name], b[name])]
    names.sort(key=lambda name: name.startswith("hash of "))
    return [f"{name}: {_words(a, name)} against {_words(b, name)}" for name in names]


def protocol_warning(cards: Mapping[str, Mapping[str, Any]]) -> str | None:
    """A warning in capitals if results were obtained under different protocols, else None.

    Args:
      cards: the card of each result by the result's name.

    >>> protocol_warning({"a": {"targets": "all"}, "b": {"targets": "all"}}) is None
    True
    """
    (first, card), *others = cards.items()
    known = protocol_fingerprint(card)
    parts = [
        f"{name} (protocol {protocol_fingerprint(other)}) differs from {first} (protocol {known}) in {'; '.join(found)}"
        for name, other in others
        if (found := protocol_differences(card, other))
    ]
    return f"THESE FIGURES CANNOT BE COMPARED: {'. '.join(parts)}." if parts else None


def _deciding(card: Mapping[str, Any]) -> Card:
    return {name: value for name, value in plain(card).items() if name not in _LABELS}


def _differ(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)


def _words(card: Card, name: str) -> str:
    if name not in card:
        return "nothing"
    value = card[name]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items()) or "none"
    return "none" if value is None else str(value)


def _config(config: EvaluationConfig) -> Card:
    fields = {name: value for name, value in asdict(config).items() if name not in _NO_FIGURE}
    card = {_NAMES_OF_FIELDS.get(name, name.replace("_", " ")): value for name, value in fields.items()}
    return {**card, "cutoffs": sorted(config.cutoffs)}  # their order changes nothing


def _cleaning(report: Mapping[str, Any] | None) -> Card:
    """Number of rows that cleaning dropped, by reason."""
    dropped = (report or {}).get("dropped", {})
    return {f"rows dropped: {reason.replace('_', ' ')}": count for reason, count in dropped.items() if count}


def _split(dataset: Dataset) -> Card:
    """The rule of the split with the parameters that it uses."""
    config = dataset.split.config
    card: Card = {"split": config.rule, "target behaviors": list(config.target_behaviors) or "all with an item"}
    for name, seconds in dataset.split.cuts.items():
        card[name.replace("_", " ")] = pd.Timestamp(seconds, unit="s").isoformat()
    if config.rule in ("user_holdout", "item_holdout", "random_ratio"):
        card |= {"validation fraction": config.validation_fraction, "test fraction": config.test_fraction}
    if config.rule == "leave_one_out" and config.validation_users < 1:
        card["validation users"] = config.validation_users
    if config.rule in ("user_holdout", "item_holdout", "random_ratio") or "validation users" in card:
        card["split seed"] = config.seed
    return card


def _candidate_rule(dataset: Dataset, config: EvaluationConfig) -> str:
    if dataset.split.config.rule == "global_timeline":
        cut = dataset.split.cuts["validation_start" if config.stage == "validation" else "test_start"]
        return f"items that were available before {pd.Timestamp(cut, unit='s').isoformat()}"
    return "all items of the vocabulary, also those that appear later"


def _user_candidates(cases: EvaluationCases) -> Card:
    """Number of candidates of a user and a hash, for candidates that differ between users."""
    own = cases.user_candidates
    if own is None:
        return {}
    counts = cases.num_candidates
    return {
        "candidates of a user": f"{counts.min():,} to {counts.max():,}, {counts.mean():,.1f} on average",
        "hash of users' candidates": _digest(own.rule.encode(), *_bytes(own.offsets, own.item_ids)),
    }


def _bytes(*arrays: np.ndarray | None) -> list[bytes]:
    return [b"none" if array is None else np.ascontiguousarray(array).tobytes() for array in arrays]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(len(part)).encode() + b":" + part)
    return digest.hexdigest()[:12]
