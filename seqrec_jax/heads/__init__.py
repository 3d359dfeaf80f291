"""Task heads: predictions from a user's state other than the score v_xᵀ W v_y, as functions over a parameter pytree."""

from __future__ import annotations

from seqrec_jax.heads.calibration import Calibration, fit_platt, fit_temperature
from seqrec_jax.heads.classifier import ClassifierHead, ClassifierHeadConfig, make_classifier_head
from seqrec_jax.heads.expected_value import ValueRanking, rank_by_expected_value
from seqrec_jax.heads.generative import GenerativeHead, GenerativeHeadConfig, make_generative_head

__all__ = [
    "Calibration",
    "ClassifierHead",
    "ClassifierHeadConfig",
    "GenerativeHead",
    "GenerativeHeadConfig",
    "ValueRanking",
    "fit_platt",
    "fit_temperature",
    "make_classifier_head",
    "make_generative_head",
    "rank_by_expected_value",
]
