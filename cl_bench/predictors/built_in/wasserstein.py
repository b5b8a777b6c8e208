"""Wasserstein uniformity (Fang, Li, Sun & Wang, ICLR 2024, arXiv:2403.00642)."""

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import variances


@predictor("wasserstein", better="low")
def wasserstein(seen: Seen) -> float:
    """The 2-Wasserstein distance between Gaussians: that of the unit-norm features, and N(0, I / C).

    ``sqrt(|mean|^2 + 1 + tr S - 2 tr S^(1/2) / sqrt(C))`` with S the covariance; 0 for features that are as uniform as
    can be, sqrt 2 for constant ones.

    Source: Fang et al., Eq. 5.
    """
    h = seen.h1.flatten(0, 1).double()
    spread = variances(h)
    squared = h.mean(0).square().sum() + 1 + spread.sum() - 2 * spread.sqrt().sum() / h.shape[1] ** 0.5
    return float(squared.clamp_min(0).sqrt())
