"""LiDAR (Thilak et al., ICLR 2024, arXiv:2312.04000)."""

import torch

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import effective_rank

DELTA = 1e-4
"""Added to the variance within classes, to invert it."""
FLOOR = 1e-7


@predictor("lidar", better="high")
def lidar(seen: Seen) -> float:
    """The effective rank of the linear discriminant analysis whose classes are images, and whose samples are views.

    With Sb the covariance of the classes' means (divisor n - 1), and Sw the mean covariance within a class (divisor
    q - 1) plus ``1e-4 I``, the exponential of the entropy of the eigenvalues of ``Sw^(-1/2) Sb Sw^(-1/2)``. Here q is 2
    (the paper takes 50 views). At the dense level a class is a cell, as in L_a, and its samples are that cell in both
    views.

    Source: Thilak et al., Eq. 1 to 4.
    """
    x = torch.stack([seen.x1, seen.x2]).flatten(1, 2).double()
    means = x.mean(0)
    between, within = means - means.mean(0), (x[0] - x[1]) / 2**0.5
    n, C = means.shape
    Sb = between.mT @ between / max(1, n - 1)
    Sw = within.mT @ within / n + DELTA * torch.eye(C, dtype=x.dtype, device=x.device)
    # Of the generalised eigenvalue problem: with Sw = L L^T those of L^-1 Sb L^-T are the same.
    L = torch.linalg.cholesky(Sw)
    half = torch.linalg.solve_triangular(L, Sb, upper=False)
    whole = torch.linalg.solve_triangular(L, half.mT, upper=False)
    return effective_rank(torch.linalg.eigvalsh((whole + whole.mT) / 2).clamp_min(0), FLOOR)
