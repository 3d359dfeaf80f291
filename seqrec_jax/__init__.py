"""Sequence models of user behaviour: training and, above all, honest evaluation, on JAX.

Import what you need from its room, e.g. `from seqrec_jax.metrics import ndcg_at_k`; importing the package
itself loads nothing heavy.
"""

__version__ = "0.1.0"
