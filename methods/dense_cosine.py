"""Matching by feature similarity (DenseCL; Wang et al., CVPR 2021)."""

from cl_bench import DenseViews, Match, matching


@matching("dense_cosine")
def dense_cosine(views: DenseViews) -> Match:
    """The positive of a cell is the cell of the other view with the most similar backbone feature, the first of equals.

    Source: DenseCL, section 3.3: ``argmax_q cos(f1_p, f2_q)`` on backbone features. Departures: the objective has no
    momentum encoder, no queue and no image-level branch.
    """
    return Match(index=views.cosine().argmax(-1))
