"""Matching by optimal transport (earth mover's distance), solved by Sinkhorn's iteration (Cuturi, NeurIPS 2013)."""

import math

import torch
from torch import Tensor

from cl_bench import DenseViews, Match, matching

SAFE_EXPONENT = 20.0
"""Largest drift of the potentials in plain arithmetic: exp(2 * 20) lifts nothing that float32 lost below exp(-87)."""


@matching("dense_emd")
def dense_emd(views: DenseViews, *, epsilon: float = 0.05, iterations: int = 50, plan: str = "soft") -> Match:
    """Cells are matched jointly, so that no cell of the other view is everybody's positive.

    The plan minimises ``sum_pq T_pq (1 - cos(f1_p, f2_q)) - epsilon * entropy(T)`` between uniform marginals; rows are
    scaled to sum to 1, which columns do as well as the iterations allow (the row update comes last).

    Source: the paper matches by EMD in its supplementary, which is not to be had: the entropic form, its
    ``iterations`` and the backbone features are ours, ``epsilon`` is SwAV's (Caron et al., NeurIPS 2020).

    Args:
        views: Two views of a batch.
        epsilon: Weight of the entropy; towards 0 the plan becomes the exact assignment, and needs more iterations.
        iterations: Updates of columns and rows.
        plan: ``soft``: the plan itself. ``hard``: each row's largest entry (the first of equals).
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"dense_emd: epsilon must be positive and finite, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"dense_emd: iterations must be at least 1, got {iterations}")
    if plan not in ("soft", "hard"):
        raise ValueError(f"dense_emd: plan must be soft or hard, got {plan!r}")
    scores = views.cosine() / epsilon  # a constant in the cost leaves the plan alone
    scores += column_potentials(scores, iterations)
    return Match(index=scores.argmax(-1)) if plan == "hard" else Match(weights=scores.softmax(-1))


def column_potentials(scores: Tensor, iterations: int) -> Tensor:
    """(B, 1, P) logarithms of the column scalings of ``exp(scores)`` after so many of Sinkhorn's iterations."""
    f, buffer = torch.zeros_like(scores[..., :1]), torch.empty_like(scores)
    while iterations:
        g = -torch.add(scores, f, out=buffer).logsumexp(-2, keepdim=True)
        last, f = f, -torch.add(scores, g, out=buffer).logsumexp(-1, keepdim=True)
        # No step is longer than the one before it (both updates are 1-Lipschitz in the largest entry), which tells how
        # many may be taken on the scalings themselves, at no exponential, before they leave float32.
        step = float((f - last).abs().max())
        plain = int(min(iterations - 1, SAFE_EXPONENT / max(step, 1e-6)))
        kernel = torch.add(scores, f, out=buffer).add_(g).exp()
        u, v = torch.ones_like(f), torch.ones_like(g)
        for _ in range(plain):
            v = torch.mul(kernel, u, out=buffer).sum(-2, keepdim=True).reciprocal_()
            u = torch.mul(kernel, v, out=buffer).sum(-1, keepdim=True).reciprocal_()
        f, g = f + u.log(), g + v.log()
        iterations -= 1 + plain
    return g
