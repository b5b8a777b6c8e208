"""Matching by place and by feature (VICRegL; Bardes, Ponce & LeCun, NeurIPS 2022)."""

import torch
from torch import Tensor

from cl_bench import DenseViews, Match, matching


@matching("dense_vicregl")
def dense_vicregl(views: DenseViews, *, gamma: float = 20 / 49) -> Match:
    """The nearest cell in the source image and the most similar cell are positives, where they are among the best.

    Source: VICRegL's local criterion: each cell takes its nearest neighbour in the other view, once by location and
    once by feature, and of each kind the gamma nearest pairs are kept. Departures: features are the backbone's,
    compared by cosine, where VICRegL takes the L2 distance of projections; the two kinds make one match, in which a
    cell with two positives weighs them equally, where VICRegL averages one loss over each kind; the objective is not
    VICReg's.

    Args:
        views: Two views of a batch.
        gamma: Share of the cells whose pairs are kept, of each kind; in (0, 1], at least one cell. 20 of 49 in print.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"dense_vicregl: gamma must lie in (0, 1], got {gamma}")
    by_location = best_pairs(views.distance(), gamma)
    by_feature = best_pairs(-views.cosine(), gamma)
    pairs = by_location | by_feature
    return Match(weights=pairs / pairs.sum(-1, keepdim=True).clamp_min(1))


def best_pairs(cost: Tensor, gamma: float) -> Tensor:
    """(B, P, P) bool: each row's least entry, in the share gamma of rows where it is least; the first of equals."""
    least, index = cost.min(-1, keepdim=True)
    order = least.argsort(dim=-2, stable=True)[:, : max(1, round(gamma * cost.shape[-1]))]
    nearest = torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, index, True)
    kept = torch.zeros_like(index, dtype=torch.bool).scatter_(-2, order, True)
    return nearest & kept
