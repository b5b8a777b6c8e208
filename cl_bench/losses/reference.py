"""Undecomposed, straightforward losses, which pre-training compares its terms with at every logged step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from cl_bench.losses.types import DenseViews, Match
from cl_bench.spec import AlignUniform, InfoNCE

ROWS = 512  # anchors a block: the full matrix is never held


@torch.no_grad()
def whole_loss(views: DenseViews, matches: tuple[Match, Match], objective: InfoNCE | AlignUniform) -> float:
    """Compute the loss of a batch as ``-log p`` (InfoNCE) or from squared distances (alignment and uniformity).

    It shares no arithmetic with ``cl_bench.losses.terms``: InfoNCE is a softmax over explicit logits, alignment and
    uniformity are Wang & Isola's two functions.
    """
    z1, z2 = views.z1.double(), views.z2.double()
    if isinstance(objective, InfoNCE):
        total, anchors = (
            sum(part)
            for part in zip(
                _negative_log_p(z1, z2, matches[0], objective),
                _negative_log_p(z2, z1, matches[1], objective),
                strict=True,
            )
        )
        return total / max(1, anchors)
    L_a = (_half_squared_distance(z1, z2, matches[0]) + _half_squared_distance(z2, z1, matches[1])) / 2
    L_u = (_log_kernel_mean(z1, objective) + _log_kernel_mean(z2, objective)) / 2
    return objective.w_a * L_a + objective.w_u * L_u


def _negative_log_p(z: Tensor, other: Tensor, match: Match, objective: InfoNCE) -> tuple[float, int]:
    B, P, D = z.shape
    weights = match.dense(z.dtype)
    own, columns = z.reshape(-1, D), other.reshape(-1, D)
    image = torch.arange(B, device=z.device).repeat_interleave(P)
    total = 0.0
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
        total -= float((w * log_p.masked_fill(w == 0, 0.0)).sum())
    return total, int(match.anchors.sum())


def _half_squared_distance(z: Tensor, other: Tensor, match: Match) -> float:
    """Compute L_a from distances: (|x - y|^2 - 2) / 2 = -cos."""
    squared = (z[:, :, None] - other[:, None]).square().sum(-1)
    per_anchor = (match.dense(z.dtype) * (squared - 2) / 2).sum(-1)
    return float(per_anchor.sum() / match.anchors.sum().clamp_min(1))


def _log_kernel_mean(z: Tensor, objective: AlignUniform) -> float:
    """Compute L_u from distances, over the explicit pairs of the scope."""
    B, P, D = z.shape
    flat = z.reshape(-1, D)
    image = torch.arange(B, device=z.device).repeat_interleave(P)
    cell = torch.arange(P, device=z.device).repeat(B)
    kernel_sum, pairs = 0.0, 0
    for start in range(0, B * P, ROWS):
        rows = torch.arange(start, min(B * P, start + ROWS), device=z.device)
        kernel = torch.exp(-objective.t * torch.cdist(flat[rows], flat).square())
        if objective.scope == "all_pairs":
            paired = rows[:, None] != torch.arange(B * P, device=z.device)
        else:
            paired = image[rows, None] != image
            if objective.scope == "same_index":
                paired &= cell[rows, None] == cell
        kernel_sum += float(kernel[paired].sum())
        pairs += int(paired.sum())
    return float(torch.log(torch.tensor(kernel_sum / pairs, dtype=torch.float64)))
