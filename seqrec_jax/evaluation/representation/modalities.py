"""The contribution of each modality of an item: the same model without ids, text, pictures, …, one at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool

from seqrec_jax.errors import ShapeError
from seqrec_jax.evaluation.judging import Judged, mean_of_users
from seqrec_jax.evaluation.protocol import EvaluationConfig
from seqrec_jax.reporting.sections import Section, section, table
from seqrec_jax.reporting.wording import format_figure, is_finite
from seqrec_jax.statistics import paired_differences


def modality_ablation(
    whole: Judged, without: Mapping[str, Judged], *, warm: Bool[np.ndarray, " U"], config: EvaluationConfig
) -> pd.DataFrame:
    """The loss of the deciding metric without each modality, paired by user.

    Args:
      whole: the model with all modalities.
      without: the same model on the same users over items that lack a modality, by the modality's name.
      warm: `[U]` bool, True for users whose first target was seen in training.
      config: deciding metric, resamples and seed.

    Returns:
      One row a modality and group (all, warm, cold; the last two if they have users): `modality`, `group`, `users`,
      `whole` and `without` (means), and `loss`, `low` and `high`, the mean of whole - without and its interval.

    Raises:
      ShapeError: `warm`, or a system without a modality, with another number of users.
    """
    values = whole.per_user[config.metric].to_numpy(dtype=np.float64)
    groups = {"all": np.ones(len(values), dtype=bool), "warm": warm, "cold": ~warm}
    rows = []
    for name, judged in without.items():
        others = judged.per_user[config.metric].to_numpy(dtype=np.float64)
        if len(others) != len(values) or warm.shape != values.shape:
            raise ShapeError(
                f"{len(values)} users with all modalities, {len(others)} without {name}, warm {warm.shape}"
            )
        for group, members in groups.items():
            if not members.any() or (group == "warm" and members.all()):
                continue
            apart = paired_differences(
                values[members][:, None],
                others[members][:, None],
                num_resamples=config.num_resamples,
                seed=config.seed,
                tests=(),
            )
            rows.append(
                {
                    "modality": name,
                    "group": group,
                    "users": int(members.sum()),
                    "whole": mean_of_users(values[members]),
                    "without": mean_of_users(others[members]),
                    "loss": float(apart.mean[0]),
                    "low": float(apart.low[0]),
                    "high": float(apart.high[0]),
                }
            )
    columns = ["modality", "group", "users", "whole", "without", "loss", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def modality_section(found: pd.DataFrame, *, metric: str, model: str) -> Section:
    """The section of the report on modalities.

    Args:
      found: from `modality_ablation`.
      metric: name of the deciding metric.
      model: name of the model.
    """
    of_all = found[found["group"] == "all"]
    largest = of_all.loc[of_all["loss"].idxmax()] if of_all["loss"].notna().any() else None
    words = f"The loss of {model} over items that lack one modality."
    if largest is not None:
        words = (
            f"{model} depends most on the modality {largest['modality']}: without it, {metric} is "
            f"{format_figure(largest['without'])} instead of {format_figure(largest['whole'])}."
        )
        idle = of_all["modality"][of_all["low"].map(is_finite) & (of_all["low"] <= 0)].tolist()
        if idle:
            words += f" No loss is certain without {', '.join(idle)}."
    rows = [
        [
            row["modality"],
            {"all": "all", "warm": "target seen in training", "cold": "target not seen"}[row["group"]],
            row["users"],
            row["whole"],
            row["without"],
            {"mean": row["loss"], "low": row["low"], "high": row["high"]},
        ]
        for row in found.to_dict("records")
    ]
    block = table(
        "One modality less",
        ["without", "users with", "users", metric, "without it", "lost"],
        rows,
        note="The trained model scores items that lack the modality; it is not trained again, so a model trained "
        "without it may do better. Items without any other modality cannot be ranked and are misses. Intervals are of "
        "the difference, paired by user.",
    )
    return section("modalities", "What each modality contributes", words, [block])
