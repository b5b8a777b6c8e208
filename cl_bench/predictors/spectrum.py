"""Spectrum of features, which several predictors use: in float64 and by way of C x C matrices, for any N."""

from __future__ import annotations

import torch
from torch import Tensor


def singular_values(x: Tensor) -> Tensor:
    """Return the min(n, C) singular values, falling and float64, of (..., C) features as a matrix of n vectors."""
    flat = x.flatten(0, -2).double()
    n, C = flat.shape
    gram = flat.mT @ flat if n >= C else flat @ flat.mT
    rising: Tensor = torch.linalg.eigvalsh(gram)
    return rising.clamp_min(0).sqrt().flip(0)


def variances(x: Tensor) -> Tensor:
    """Return the min(n, C) eigenvalues, falling and float64, of the covariance (divisor n) of (..., C) features."""
    flat = x.flatten(0, -2).double()
    return singular_values(flat - flat.mean(0)).square() / len(flat)


def effective_rank(weights: Tensor, floor: float = 0.0) -> float:
    """Compute the exponential of the entropy of non-negative weights: k for k equal ones; 0 where all are 0.

    Args:
        weights: (k,) non-negative weights.
        floor: Added to each weight's share, as RankMe and LiDAR do.

    Source: Roy & Vetterli, EUSIPCO 2007.
    """
    total = weights.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(weights / total + floor).sum().exp())
