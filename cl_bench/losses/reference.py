"""Undecomposed, straightforward losses, which pre-training compares its terms with at every logged step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from cl_bench.losses.types import DenseViews, Match
from cl_bench.spec import AlignUniform, InfoNCE, Scope

ROWS = 512  # anchors a block: the full matrix is never held


@torch.no_grad()
def whole_loss(views: DenseViews, matches: tuple[Match, Match], objective: InfoNCE | AlignUniform) -> float:
    """Compute the loss of a batch as ``-log p`` (InfoNCE) or from squared distances (alignment and uniformity).

    It shares no arithmetic with ``cl_bench.losses.terms``: InfoNCE is a softmax over explicit logits, alignment and
    uniformity are Wang & Isola's two functions. Nothing is read from the device but the result.
    """
    z1, z2 = views.z1.double(), views.z2.double()
    if isinstance(objective, InfoNCE):
        forth, back = _negative_log_p(z1, z2, matches[0], objective), _negative_log_p(z2, z1, matches[1], objective)
        total, anchors = (forth + back).tolist()
        return float(total / max(1, anchors))
    L_a = (_half_squared_distance(z1, z2, matches[0]) + _half_squared_distance(z2, z1, matches[1])) / 2
    L_u = (_log_kernel_mean(z1, objective) + _log_kernel_mean(z2, objective)) / 2
    return float(objective.w_a * L_a + objective.w_u * L_u)


def _negative_log_p(z: Tensor, other: Tensor, match: Match, objective: InfoNCE) -> Tensor:
    """Compute (2,) float64, the sum of ``-log p`` over the anchors and their number."""
    B, P, D = z.shape
    weights = match.dense(z.dtype)
    own, columns = z.reshape(-1, D), other.reshape(-1, D)
    image = torch.arange(B, device=z.device).repeat_interleave(P)
    total = z.new_zeros(())
    for start in range(0, B * P, ROWS):
        rows = torch.arange(start, min(B * P, start + ROWS), device=z.device)
        logits = own[rows] @ torch.cat([columns, own]).T / objective.temperature
        hidden = torch.zeros_like(logits, dtype=torch.bool)
        if objective.negatives == "cross_view":
            hidden[:, B * P :] = True
        elif objective.negatives == "both_views":
            hidden[:, B * P :] = image[rows, None] == image
        else:
            hidden[torch.arange(len(rows)), B * P + rows] = True
        w = torch.zeros_like(logits)
        w[:, : B * P] = (weights.reshape(B * P, P)[rows].repeat(1, B)) * (image[rows, None] == image)
        if objective.positive_in_denominator:
            log_p = log_softmax(logits.masked_fill(hidden, -torch.inf), dim=-1)
        else:
            denominator = logits.masked_fill(hidden | (w > 0), -torch.inf).logsumexp(-1, keepdim=True)
            log_p = logits - denominator
        total -= (w * log_p.masked_fill(w == 0, 0.0)).sum()
    return torch.stack([total, match.anchors.sum().to(total.dtype)])


def _half_squared_distance(z: Tensor, other: Tensor, match: Match) -> Tensor:
    """Compute L_a from distances: (|x - y|^2 - 2) / 2 = -cos."""
    squared = (z[:, :, None] - other[:, None]).square().sum(-1)
    per_anchor = (match.dense(z.dtype) * (squared - 2) / 2).sum(-1)
    return per_anchor.sum() / match.anchors.sum().clamp_min(1)


def _log_kernel_mean(z: Tensor, objective: AlignUniform) -> Tensor:
    """Compute L_u from distances, over the explicit pairs of the scope."""
    B, P, D = z.shape
    flat = z.reshape(-1, D)
    kernel_sum, pairs = z.new_zeros(()), 0
    for start in range(0, B * P, ROWS):
        rows = torch.arange(start, min(B * P, start + ROWS), device=z.device)
        kernel = torch.exp(-objective.t * torch.cdist(flat[rows], flat).square())
        paired = _paired(rows, B, P, objective.scope)
        kernel_sum += kernel.gather(1, paired).sum()
        pairs += paired.numel()
    return torch.log(kernel_sum / pairs)


def _paired(rows: Tensor, B: int, P: int, scope: Scope) -> Tensor:
    """Return (R, K) the vectors that each of these vectors is paired with, in order; vector b P + p is cell p of b."""

    def others(of: Tensor, count: int) -> Tensor:
        every = torch.arange(count - 1, device=of.device)
        return every + (every >= of[:, None])

    if scope == "all_pairs":
        return others(rows, B * P)
    images = others(rows // P, B)
    if scope == "same_index":
        return images * P + rows[:, None] % P
    return (images[..., None] * P + torch.arange(P, device=rows.device)).flatten(1)
