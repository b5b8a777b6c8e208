"""Alignment, uniformity and InfoNCE, decomposed as in the paper (section 3).

``terms`` holds the losses, ``pairwise`` the only sums over all pairs, ``types`` the tensors that views, matching and
losses exchange, ``optima`` closed forms, and ``reference`` the undecomposed loss that the terms are compared with.
"""

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import DenseViews, LossTerms, Match

__all__ = ["DenseViews", "LossTerms", "Match", "alignment", "info_nce", "uniformity"]
