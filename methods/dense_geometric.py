"""Matching by place in the source image (PixPro and PixContrast; Xie et al., CVPR 2021)."""

from cl_bench import DenseViews, Match, matching


@matching("dense_geometric")
def dense_geometric(views: DenseViews, *, threshold: float = 0.7, nearest: bool = False) -> Match:
    """Cells whose centres lie close together in the source image are each other's positives, all equally.

    Source: PixContrast, Eq. 1: a pair is positive where the distance of the centres, over the larger of the two views'
    cell diagonals, is below ``threshold``. Departures: the log-probabilities of an anchor's positives are averaged,
    where PixContrast sums the positives inside the logarithm; no momentum encoder.

    Views that share no pixel have no positives when they lie ``threshold`` diagonals apart. When they touch, cells
    across the border may be near enough: the centres of square cells of one size are 0.71 diagonals apart, those of
    narrow cells, or of a small and a large one, less.

    Args:
        views: Two views of a batch.
        threshold: In cell diagonals, above 0.
        nearest: Keep only the nearest of a cell's positives (the first of equals), as VADeR (Pinheiro et al., NeurIPS
            2020) matches pixels.
    """
    if not threshold > 0:
        raise ValueError(f"dense_geometric: threshold must be above 0, got {threshold}")
    near = views.near(threshold)
    if nearest:
        return Match(index=views.distance().argmin(-1), valid=near.any(-1))
    return Match(weights=near / near.sum(-1, keepdim=True).clamp_min(1))
