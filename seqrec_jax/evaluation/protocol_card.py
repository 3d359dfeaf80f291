"""What a figure depends on besides the system: a readable card of the protocol, its hash, and how two cards differ."""

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
_LABELS = ("data",)  # for people; what it names has a hash of its own

Card = dict[str, Any]


def protocol_card(
    dataset: Dataset,
    cases: EvaluationCases,
    config: EvaluationConfig,
    *,
    further: Mapping[str, Any] | None = None,
) -> Card:
    """Everything that can change a figure, as flat keys in words.

    The configuration's fields are taken as they are, except those that change no point figure (the deciding metric,
    what is reported, the resamples behind intervals, memory and devices).

    Args:
      dataset: where the cases come from.
      cases: whom is asked what.
      config: the protocol.
      further: more facts that change figures, such as `{"sampled negatives": 100}`.

    Returns:
      The card, in JSON's own types.
    """
    num_candidates = int(cases.candidates.sum())
    return plain(
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


def protocol_fingerprint(card: Mapping[str, Any]) -> str:
    """Short hash, 12 hexadecimal digits, of a card's canonical JSON without what is there for people only.

    >>> protocol_fingerprint({"targets": "next", "data": "beauty"}) == protocol_fingerprint({"targets": "next"})
    True
    """
    text = json.dumps(_deciding(card), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _digest(text.encode())


def protocol_differences(card_a: Mapping[str, Any], card_b: Mapping[str, Any]) -> list[str]:
    """Sentences that say in what two protocols differ; none exactly where their fingerprints are the same.

    What is a consequence, such as the hash of the targets, comes last.

    >>> protocol_differences({"targets": "all", "seed": 0}, {"targets": "next", "seed": 0})
    ['targets: all against next']
    """
    a, b = _deciding(card_a), _deciding(card_b)
    names = [name for name in dict.fromkeys([*a, *b]) if name not in a or name not in b or _differ(a[name], b[name])]
    names.sort(key=lambda name: name.startswith("hash of "))
    return [f"{name}: {_words(a, name)} against {_words(b, name)}" for name in names]


def protocol_warning(cards: Mapping[str, Mapping[str, Any]]) -> str | None:
    """One loud sentence where results were obtained under different protocols, None where they were not.

    Args:
      cards: the card of each result, by its name.

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
    """Rows that were dropped before anything was judged, by reason."""
    dropped = (report or {}).get("dropped", {})
    return {f"rows dropped: {reason.replace('_', ' ')}": count for reason, count in dropped.items() if count}


def _split(dataset: Dataset) -> Card:
    """The rule with the parameters that it looks at."""
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
    """Of candidates that differ between users, how many there are for a user, and a hash."""
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
