"""Mutual nearest neighbours (an example; ours)."""

import torch

from cl_bench import DenseViews, Match, matching


@matching("example_mutual")
def mutual(views: DenseViews, *, least: float = 0.0) -> Match:
    """Two cells are each other's positives where each has the most similar backbone feature for the other."""
    similarity = views.cosine()
    best, there = similarity.max(-1)
    and_back = similarity.argmax(-2).gather(1, there)
    mutual = and_back == torch.arange(there.shape[1], device=there.device)
    return Match(index=there, valid=mutual & (best > least))
