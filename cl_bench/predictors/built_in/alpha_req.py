"""alpha-ReQ (Agrawal et al., NeurIPS 2022)."""

import torch

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import variances

FIRST, LAST = 5, 100
"""Of the eigenvalues that the power law is fitted to, counted from 1 (ours: the paper names no range)."""
NOTHING = 1e-12
"""Share of the largest eigenvalue below which one is rounding."""


@predictor("alpha_req", better="low")
def alpha_req(seen: Seen) -> float:
    """``|alpha - 1|``, where the j-th eigenvalue of the features' covariance falls as ``j ** -alpha``.

    The paper finds the best features where alpha is near 1. alpha is the least-squares slope of log eigenvalues over
    log j, from the 5th to the 100th; of all there are where these are fewer than three. Features that do not vary, or
    in one direction only, have no slope: their alpha counts as infinite, cut to 100.

    Source: Agrawal et al., section 3.
    """
    found = variances(seen.x1)
    found = found[found > NOTHING * found[0]]
    j = torch.arange(1, len(found) + 1, dtype=torch.float64, device=found.device)
    chosen = (j >= FIRST) & (j <= LAST)
    if int(chosen.sum()) < 3:
        chosen[:] = True
    x, y = j[chosen].log(), found[chosen].log()
    if len(x) < 2:
        return 99.0
    x = x - x.mean()
    alpha = -float((x * y).sum() / x.square().sum())
    return min(abs(alpha - 1), 99.0)
