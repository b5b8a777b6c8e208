"""Stable rank (Rudelson & Vershynin, JACM 2007; of embeddings: Tsitsulin et al., arXiv:2305.16562)."""

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import singular_values


@predictor("stable_rank", better="high")
def stable_rank(seen: Seen) -> float:
    """The sum of the features' squared singular values over the largest; 0 for features that are all 0."""
    squares = singular_values(seen.x1).square()
    return float(squares.sum() / squares[0]) if squares[0] > 0 else 0.0
