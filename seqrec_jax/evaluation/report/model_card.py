"""The model card: data, training, evaluation, intended use and limits of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from seqrec_jax.data.dataset import Dataset
from seqrec_jax.data.splits import TRAIN


def model_card(
    dataset: Dataset, *, settings: Mapping[str, Any], facts: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, str | list[str]]:
    """The card of a model that was trained and judged on a prepared dataset.

    Args:
      dataset: the training data.
      settings: the run's configuration as nested values.
      facts: `parameters`, `epochs` and `training_seconds` of the run, None where unknown.
      result: the evaluation's figures, protocol and audit.

    Returns:
      `data`, `training`, `evaluation`, `intended_use` as texts and `limits` as a list of sentences, after Mitchell et
      al. (2019), Model Cards for Model Reporting.
    """
    protocol, metric = result["protocol"], result["primary_metric"]
    figure = result["systems"][0]["metrics"][metric]
    predicted = " or ".join(dataset.split.config.target_behaviors) or "event of any behaviour"
    encoder, loss = settings["model"]["encoder"], settings["training"]["loss"]
    return {
        "data": f"{dataset.name}: {dataset.sequences.num_users:,} users, {dataset.num_items:,} items, "
        f"{len(dataset.sequences.item_ids):,} events{_period(dataset)}, behaviours {', '.join(dataset.behaviors)}; "
        f"fingerprint {dataset.fingerprint}. Split: {protocol['split']}.",
        "training": f"{encoder['kind']} of width {encoder['width']}, {loss['kind']} loss, "
        f"{_count(facts.get('parameters'))} parameters, {_count(facts.get('epochs'))} epochs in "
        f"{_count(facts.get('training_seconds'))} s, seed {settings['training']['seed']}.",
        "evaluation": f"{metric} {_interval(figure)} over {protocol['users']:,} users with {protocol['targets']:,} "
        f"targets, all {protocol['candidates']} ranked; protocol {protocol['protocol_fingerprint']}.",
        "intended_use": f"To order this catalogue for this shop's users by what comes next ({predicted}), from the "
        f"last {encoder['max_length']} events of each. Not for other catalogues, nor for conclusions about a person.",
        "limits": _limits(dataset, result),
    }


def _limits(dataset: Dataset, result: Mapping[str, Any]) -> list[str]:
    """What the figures do not show, from the data, the split and the audit."""
    limits = [
        "The log shows what people did with what they were shown. An item that was never shown has no events, so a "
        "figure from the log is not what a test in the shop would measure.",
        "Intervals are over users. They do not cover another season, another catalogue or another training seed.",
    ]
    if dataset.time_kind == "order":
        limits.append("The log has no times: seasons, gaps between events and the ageing of the model are unknown.")
    if dataset.split.config.rule != "global_timeline":
        limits.append(
            f"Under {dataset.split.config.rule} the model has seen other users' events from after the tested ones; a "
            "split by time shows what a shop would have had."
        )
    trained = pd.Series(dataset.sequences.item_ids[dataset.split.parts == TRAIN])
    known = int(trained[trained > 0].nunique())
    if known < dataset.num_items:
        limits.append(f"{dataset.num_items - known:,} of {dataset.num_items:,} items have no training event.")
    limits += [finding["text"] for finding in result.get("audit", []) if finding["severity"] != "info"]
    return limits


def _period(dataset: Dataset) -> str:
    if dataset.time_kind != "seconds":
        return ""
    times = dataset.sequences.timestamps
    first, last = (pd.Timestamp(int(time), unit="s").date().isoformat() for time in (times.min(), times.max()))
    return f" from {first} to {last}"


def _count(value: float | None) -> str:
    return "an unknown number of" if value is None else f"{value:,.0f}"


def _interval(figure: Mapping[str, float | None]) -> str:
    if figure["mean"] is None:
        return "undefined"
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"
