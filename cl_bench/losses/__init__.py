"""Alignment, uniformity and InfoNCE, taken apart as in the paper (section 3).

``terms`` holds the losses, ``pairwise`` the only sums over all pairs, ``types`` the tensors that travel between views,
matching and losses, ``optima`` closed forms, and ``reference`` the loss in one piece that the terms are held against.
"""

from cl_bench.losses.terms import alignment, info_nce, uniformity
from cl_bench.losses.types import DenseViews, LossTerms, Match

__all__ = ["DenseViews", "LossTerms", "Match", "alignment", "info_nce", "uniformity"]
