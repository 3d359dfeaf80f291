"""How sure a figure is: intervals, paired comparisons, corrections, equivalence, and what the data can tell apart.

All work on tables users × metrics as the evaluation writes them, where nan says that a metric is undefined
for a user. Users are the unit of chance throughout: they are drawn whole, with the same draw for every
metric, so that the dependence between metrics and between a user's targets needs no model. The same seed
gives the same figures. Figures that are no mean over users, such as coverage or Gini, are not for these.
"""

from __future__ import annotations

from seqrec_jax.statistics.bootstrap import Interval, bootstrap_means
from seqrec_jax.statistics.correction import benjamini_hochberg_correction, holm_correction
from seqrec_jax.statistics.equivalence import EquivalenceResult, equivalence
from seqrec_jax.statistics.paired import PairedDifference, paired_differences
from seqrec_jax.statistics.power import minimal_detectable_difference, power_sentence, users_needed
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
    "users_needed",
]
