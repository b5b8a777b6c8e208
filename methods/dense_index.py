"""Index-wise matching (Moon, Kim & Choi, BMVC 2022)."""

from cl_bench import DenseViews, Match, matching


@matching("dense_index")
def dense_index(views: DenseViews) -> Match:
    """Cell p of one view is the positive of cell p of the other (the paper's rule)."""
    return Match.identity(views)
