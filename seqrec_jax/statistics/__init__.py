"""Uncertainty of means: intervals, paired comparisons, corrections for many tests, equivalence, and power.

All take tables `[U, M]` of units × metrics, such as users × metrics of an evaluation, where nan marks a metric that is
undefined for a unit. Units are independent of each other: they are drawn whole, with the same draw for every metric,
so that the dependence between metrics, and between the observations of a unit, needs no model. The same seed gives the
same results. Statistics that are no mean over units, such as coverage or Gini, cannot be treated in this way.
"""

from __future__ import annotations

from seqrec_jax.statistics.bootstrap import Interval, bootstrap_means
from seqrec_jax.statistics.correction import benjamini_hochberg_correction, holm_correction
from seqrec_jax.statistics.equivalence import EquivalenceResult, equivalence
from seqrec_jax.statistics.paired import PairedDifference, paired_differences
from seqrec_jax.statistics.power import minimal_detectable_difference, power_sentence, units_needed
from seqrec_jax.statistics.seeds import SeedInterval, two_level_intervals

__all__ = [
    "EquivalenceResult",
    "Interval",
    "PairedDifference",
    "SeedInterval",
    "benjamini_hochberg_correction",
    "bootstrap_means",
    "equivalence",
    "holm_correction",
    "minimal_detectable_difference",
    "paired_differences",
    "power_sentence",
    "two_level_intervals",
    "units_needed",
]
