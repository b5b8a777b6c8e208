"""RankMe (Garrido et al., ICML 2023, arXiv:2210.02885)."""

from cl_bench.predictors import Seen, predictor
from cl_bench.predictors.spectrum import effective_rank, singular_values

FLOOR = 1e-7


@predictor("rankme", better="high")
def rankme(seen: Seen) -> float:
    """The exponential of the entropy of the features' singular values, as shares of their sum.

    Features are taken as they are: neither centred nor scaled. There are N of them, or N P cells at the dense level.

    Source: Garrido et al., Eq. 1 and 2, with their epsilon of 1e-7; they take 25,600 images.
    """
    return effective_rank(singular_values(seen.x1), FLOOR)
