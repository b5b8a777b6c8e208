"""Matching of attended sets of cells (SetSim; Wang et al., CVPR 2022)."""

from torch import Tensor

from cl_bench import DenseViews, Match, matching


@matching("dense_setsim")
def dense_setsim(views: DenseViews, *, threshold: float = 0.7, similarity: float = 0.2, geometry: float = 0.0) -> Match:
    """Every attended cell of the other view that is similar enough is a positive of an attended cell, all equally.

    Source: SetSim's attention, ``A = mean_c f^2``, L2-normalised and min-max scaled over a view's cells: cells with
    ``A >= threshold`` form the view's set, and pairs of the two sets with ``cos >= similarity`` correspond. Its
    published training script adds pairs that are near in the image, attended and similar or not: ``geometry=0.5``.
    Departures: the nearest neighbour that SetSim's text adds to an anchor's positives is left out, as it is in the
    script; anchors are averaged over the batch, not first over an image; where all cells are equally bright all are
    attended, not none; the objective has no momentum encoder, no queue and no image-level branch.

    Args:
        views: Two views of a batch.
        threshold: Of the scaled attention, in [0, 1].
        similarity: Least cosine of a pair, in [-1, 1].
        geometry: Cells whose centres lie less than so many cell diagonals apart in the source image are positives too;
            0 adds none.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"dense_setsim: threshold must lie in [0, 1], got {threshold}")
    if not -1 <= similarity <= 1:
        raise ValueError(f"dense_setsim: similarity must lie in [-1, 1], got {similarity}")
    if not geometry >= 0:
        raise ValueError(f"dense_setsim: geometry must be at least 0, got {geometry}")
    first, second = attended(views.norm1, threshold), attended(views.norm2, threshold)
    pairs = first.unsqueeze(-1) & second.unsqueeze(-2) & (views.cosine() >= similarity) | views.near(geometry)
    return Match(weights=pairs / pairs.sum(-1, keepdim=True).clamp_min(1))


def attended(norm: Tensor, threshold: float) -> Tensor:
    """(B, P) bool: the cells whose min-max scaled attention reaches the threshold.

    Neither the mean over channels nor the L2 normalisation survives the scaling, so ``(norm / largest norm)^2`` does.
    """
    brightest = norm.amax(-1, keepdim=True)
    attention = (norm / brightest.masked_fill(brightest == 0, 1.0)).square()
    low, high = attention.aminmax(dim=-1, keepdim=True)
    return attention - low >= threshold * (high - low)
