"""Similarity of positives, of other cells of the same image and of cells of other images: the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BINS = 50
"""Number of bins of a histogram over [-1, 1]."""
OTHERS = 8
"""Largest number of other images that each image is paired with."""


def similarity_histograms(h1: Tensor, h2: Tensor) -> dict[str, list[float]]:
    """Compute histograms of the cosines between cells of view 1 and cells of view 2, by kind of pair.

    Args:
        h1: (N, P, C) unit-norm features of view 1 of N images.
        h2: Features of view 2, of the same shape.

    Returns:
        Shares of the pairs in ``BINS`` equal bins over [-1, 1], which sum to 1: ``positive`` (the same image and cell),
        ``same_image`` (the same image, another cell) and ``other_images`` (any cells; image i with i + s for a few
        shifts s, spread evenly over the set). A kind without any pair is left out.

    Source: the paper, Figure 4.
    """
    N, P, _ = h1.shape
    within = h1 @ h2.mT
    elsewhere = ~torch.eye(P, dtype=torch.bool, device=h1.device)
    counts = {"positive": _counts(within[:, ~elsewhere]), "same_image": _counts(within[:, elsewhere])}
    others = torch.zeros_like(counts["positive"])
    for k in range(min(OTHERS, N - 1)):
        others += _counts(h1 @ h2.roll(-1 - k * (N - 1) // min(OTHERS, N - 1), 0).mT)
    counts["other_images"] = others
    tables = {kind: table.tolist() for kind, table in counts.items()}
    return {kind: [n / sum(table) for n in table] for kind, table in tables.items() if any(table)}


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute the overlap of two histograms, the sum over bins of the smaller share: 1 if equal, 0 if disjoint."""
    return sum(map(min, one, other))


def _counts(cosines: Tensor) -> Tensor:
    """Count the cosines in each bin, (BINS,) int64."""
    bins = ((cosines.flatten() + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    return bins.bincount(minlength=BINS)
