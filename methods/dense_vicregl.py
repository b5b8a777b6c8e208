"""Matching by place and by feature (VICRegL; Bardes, Ponce & LeCun, NeurIPS 2022)."""

from typing import Literal

import torch
from torch import Tensor

from cl_bench import DenseViews, Match, matching


@matching("dense_vicregl")
def dense_vicregl(
    views: DenseViews,
    *,
    gamma: float = 20 / 49,
    features: Literal["backbone", "projection"] = "backbone",
    all_features: bool = False,
) -> Match:
    """The nearest cell in the source image and the most similar cell are positives, where they are among the best.

    Source: VICRegL's local criterion: each cell takes its nearest neighbour in the other view, once by location and
    once by feature, and of each kind the gamma nearest pairs are kept. So says its text; its code by default keeps
    every pair by feature (``all_features=true``). Departures: features are the backbone's, as they are for the other
    strategies here, where VICRegL takes projections (``features=projection``), and are compared by cosine, which on
    unit vectors orders them as the L2 distance does that VICRegL takes of vectors of any length; the two kinds make one
    match, in which a cell with two positives weighs them equally, where VICRegL averages one loss over each kind; the
    objective is not VICReg's.

    Args:
        views: Two views of a batch.
        gamma: Share of the cells whose pairs are kept, of each kind; in (0, 1], at least one cell. 20 of 49 in print.
        features: ``backbone``: the features before the projection head. ``projection``: those after it.
        all_features: Keep the most similar cell of every cell, and the share gamma by location only.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"dense_vicregl: gamma must lie in (0, 1], got {gamma}")
    if features not in ("backbone", "projection"):
        raise ValueError(f"dense_vicregl: features must be backbone or projection, got {features!r}")
    by_location = best_pairs(views.distance(), gamma)
    by_feature = best_pairs(-views.cosine(features), 1.0 if all_features else gamma)
    pairs = by_location | by_feature
    return Match(weights=pairs / pairs.sum(-1, keepdim=True).clamp_min(1))


def best_pairs(cost: Tensor, gamma: float) -> Tensor:
    """(B, P, P) bool: each row's least entry, in the share gamma of rows where it is least; the first of equals."""
    least, index = cost.min(-1, keepdim=True)
    order = least.argsort(dim=-2, stable=True)[:, : max(1, round(gamma * cost.shape[-1]))]
    nearest = torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, index, True)
    kept = torch.zeros_like(index, dtype=torch.bool).scatter_(-2, order, True)
    return nearest & kept
