"""Alignment, uniformity and InfoNCE, dense and instance-level, with their decomposition (Eqs. 1-3 of the paper).

Features are unit vectors, (B, P, D) for P cells an image or (B, D) for one vector an image.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from cl_bench.losses import pairwise
from cl_bench.losses.checks import are_gathered, require
from cl_bench.losses.distributed import processes
from cl_bench.losses.types import LossTerms, Match
from cl_bench.spec import Negatives, Scope

Matches = Match | tuple[Match, Match] | None


def alignment(z1: Tensor, z2: Tensor, match: Match | None = None) -> Tensor:
    """Compute L_a = -mean cos(anchor, positive) over the anchors of view 1 that have a positive.

    Args:
        z1: (B, P, D) or (B, D) unit-norm features of view 1.
        z2: Features of view 2, of the same shape.
        match: Positives of view 1's cells in view 2; index-wise (cell p to cell p) when None. Several positives of an
            anchor count by their weights.

    Returns:
        Scalar in [-1, 1]; 0 where no anchor has a positive.

    Raises:
        ValueError: If shapes are wrong or unequal, if features are not finite or not unit-norm, or if the match has
            another shape.

    Source: the paper, section 3 (L_a). Wang & Isola's ``align(alpha=2)`` is ``2 + 2 L_a``.
    """
    z1, z2, _ = _check_pair(z1, z2)
    _check_match(match, z1)
    with torch.autocast(z1.device.type, enabled=False):
        return -_mean_over_anchors(_positive_similarity(z1, z2, match), match)


def uniformity(z: Tensor, t: float = 1.0, scope: Scope = "same_index") -> Tensor:
    """Compute L_u = log mean exp(-t |x - y|^2) over pairs of features.

    Args:
        z: (B, P, D) or (B, D) unit-norm features.
        t: Inverse width of the Gaussian kernel; the paper prints 1, Wang & Isola train with 2.
        scope: Pairs to average over: ``same_index`` for different images at the same cell (as printed),
            ``other_images`` for different images at any cells, ``all_pairs`` for every two different vectors.

    Returns:
        Scalar in [-4 t, 0]; 0 where all paired features agree.

    Raises:
        ValueError: If the shape is wrong, if features are not finite or not unit-norm, if t <= 0, if the scope is
            unknown, or if it has no pair.

    Source: the paper, section 3 (L_u).
    """
    z, longest = _check_features(z, "z")
    if not (t > 0 and math.isfinite(t)):
        raise ValueError(f"uniformity: t must be positive and finite, got {t}")
    _check_choice("scope", scope, get_args(Scope))
    over, P = processes(), z.shape[1]
    B = z.shape[0] * over.size
    if B * P < 2 or (B < 2 and scope != "all_pairs"):
        raise ValueError(f"uniformity: scope {scope!r} needs two images to pair, got z of shape {tuple(z.shape)}")
    # On unit vectors exp(-t |x - y|^2) = exp(2 t cos - 2 t): a log-sum-exp at temperature 1 / (2 t).
    if scope == "same_index":
        rows, pairs = pairwise.logsumexp(z.transpose(0, 1), 2 * t, 1, longest), P * B * (B - 1)
    elif scope == "other_images":
        rows, pairs = pairwise.logsumexp(z.flatten(0, 1), 2 * t, P, longest), B * P * (B - 1) * P
    else:
        rows, pairs = pairwise.logsumexp(z.flatten(0, 1), 2 * t, 1, longest), B * P * (B * P - 1)
    return over.logsumexp(rows.flatten()) - 2 * t - math.log(pairs)


def info_nce(
    z1: Tensor,
    z2: Tensor,
    match: Matches = None,
    temperature: float = 0.2,
    negatives: Negatives = "both_views",
    positive_in_denominator: bool = True,
) -> LossTerms:
    """Compute InfoNCE, symmetrised over the two views, as alignment + distribution.

    ``alignment = -mean(sim_positive / temperature)`` and ``distribution = mean(log sum exp(sim / temperature))``. With
    several positives the loss is the weighted mean of their log-probabilities, so the sum stays exact.

    Args:
        z1: (B, P, D) or (B, D) unit-norm features of view 1.
        z2: Features of view 2, of the same shape.
        match: Positives of view 1's cells in view 2; a pair of matches gives the positives of view 2's cells in view 1
            too, otherwise these are ``match.reversed()``. Index-wise when None.
        temperature: Temperature, above 0.
        negatives: Vectors in an anchor's denominator. ``both_views``: all cells of all other images in both views,
            and all cells of its own image in the other view (Eq. 2). ``cross_view``: all cells of the other view.
            ``ntxent``: everything but the anchor (NT-Xent on flattened features).
        positive_in_denominator: False removes an anchor's positives from its denominator, as Eq. 2 is printed.

    Returns:
        Scalars; means over the anchors of both views that have a positive, 0 where there is none.

    Raises:
        ValueError: In the cases of ``alignment``, and if the temperature is <= 0, the negatives are unknown, or the
            batch leaves no negatives.

    Source: the paper, Eqs. 1-3.
    """
    z1, z2, longest = _check_pair(z1, z2)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"info_nce: temperature must be positive and finite, got {temperature}")
    _check_choice("negatives", negatives, get_args(Negatives))
    forth, back = match if isinstance(match, tuple) else (match, None if match is None else match.reversed())
    _check_match(forth, z1)
    _check_match(back, z1)
    over, (B, P, _) = processes(), z1.shape
    if over.size * B * P < 2:
        raise ValueError(f"info_nce: one image of one cell has no negatives, got z1 of shape {tuple(z1.shape)}")

    scale = 1 / temperature
    with torch.autocast(z1.device.type, enabled=False):
        denominators = _denominators(z1, z2, (forth, back), scale, negatives, positive_in_denominator, longest)
        positives = _positive_similarity(z1, z2, forth), _positive_similarity(z2, z1, back)
    anchors = torch.cat([_anchors(forth, z1), _anchors(back, z1)])
    count = over.total(anchors.sum()).clamp_min(1)
    distribution = torch.where(anchors, denominators, 0.0).sum()
    none_left = f"info_nce: negatives {negatives!r} leave an anchor none, z1 of shape {tuple(z1.shape)}"
    require(distribution.abs() < torch.inf, ValueError, none_left)
    return LossTerms(
        alignment=-scale * over.total(torch.where(anchors, torch.cat(positives), 0.0).sum()) / count,
        distribution=over.total(distribution) / count,
    )


def _denominators(
    z1: Tensor,
    z2: Tensor,
    matches: tuple[Match | None, Match | None],
    scale: float,
    negatives: Negatives,
    positive_in_denominator: bool,
    longest: tuple[float, float],
) -> Tensor:
    """Compute the (2 B, P) log of the denominators of both views' anchors."""
    B, P, _ = z1.shape
    if positive_in_denominator:
        if negatives == "cross_view":
            ways = pairwise.logsumexp_between(z1.flatten(0, 1), z2.flatten(0, 1), scale, 0, longest)
            return torch.cat(ways).view(2 * B, P)
        # Rows run over (view, image, cell): a run of P cells is one view of one image.
        both = torch.cat([z1, z2]).flatten(0, 1)
        group = P if negatives == "both_views" else 1
        return pairwise.logsumexp(both, scale, group, max(longest)).view(2 * B, P)

    # Without the positives: other images by streaming, and the anchor's own image as one small (P, P) block per view.
    if negatives == "cross_view":
        ways = pairwise.logsumexp_between(z1.flatten(0, 1), z2.flatten(0, 1), scale, P, longest)
        others = torch.cat(ways).view(2 * B, P)
    else:
        images = torch.stack([z1, z2], dim=1).flatten(0, 2)  # (image, view, cell): a run of 2 P cells is one image
        others = pairwise.logsumexp(images, scale, 2 * P, max(longest))
        others = others.view(B, 2, P).transpose(0, 1).reshape(2 * B, P)
    eye = torch.eye(P, dtype=torch.bool, device=z1.device)
    own = []
    for anchor, other, match in ((z1, z2, matches[0]), (z2, z1, matches[1])):
        is_positive = eye if match is None else match.dense(torch.float32) > 0
        blocks = [(scale * anchor @ other.mT).masked_fill(is_positive, -torch.inf)]
        if negatives == "ntxent":
            blocks.append((scale * anchor @ anchor.mT).masked_fill(eye, -torch.inf))
        own.append(_safe_logsumexp(torch.cat(blocks, dim=-1)))
    return _safe_logsumexp(torch.stack([others, torch.cat(own).to(others.dtype)], dim=-1))


def _safe_logsumexp(x: Tensor) -> Tensor:
    """Compute log-sum-exp over the last dim, with a gradient of 0 instead of NaN where every entry is -inf."""
    empty = torch.isneginf(x).all(-1)
    return torch.logsumexp(x.masked_fill(empty.unsqueeze(-1), 0.0), -1).masked_fill(empty, -torch.inf)


def _positive_similarity(z1: Tensor, z2: Tensor, match: Match | None) -> Tensor:
    """Compute the (B, P) weighted mean similarity of each anchor to its positives."""
    if match is None:
        return (z1 * z2).sum(-1)
    if match.index is not None:
        return (z1 * z2.gather(1, match.index.unsqueeze(-1).expand_as(z2))).sum(-1)
    return (z1 * (match.dense(z2.dtype) @ z2)).sum(-1)


def _anchors(match: Match | None, z: Tensor) -> Tensor:
    if match is None:
        return torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    return match.anchors


def _mean_over_anchors(values: Tensor, match: Match | None) -> Tensor:
    over = processes()
    if match is None:
        return over.total(values.mean()) / over.size
    count = over.total(match.anchors.sum()).clamp_min(1)
    return over.total(torch.where(match.anchors, values, 0.0).sum()) / count


def _check_features(z: Tensor, name: str) -> tuple[Tensor, float]:
    """Return (B, P, D) or (B, D) features as (B, P, D), and the length that none exceeds.

    It is checked first that they are finite and unit-norm.
    """
    if z.ndim not in (2, 3) or 0 in z.shape:
        raise ValueError(f"{name} must be (B, P, D) or (B, D) and not empty, got {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {z.dtype}")
    norms = torch.linalg.vector_norm(
        z.detach(), dim=-1, dtype=torch.float64 if z.dtype == torch.float64 else torch.float32
    )
    off, tolerance = (norms - 1).abs().max(), 2e-2 if z.dtype in (torch.float16, torch.bfloat16) else 1e-3
    require(off < torch.inf, ValueError, f"{name} of shape {tuple(z.shape)} holds values that are not finite")
    require(
        off <= tolerance,
        ValueError,
        f"{name} must be unit-norm along its last dim",
        lambda: (
            f", got norms from {float(norms.min()):.4g} to {float(norms.max()):.4g}; "
            f"normalise with torch.nn.functional.normalize({name}, dim=-1)"
        ),
    )
    # Processes that share a batch have to agree on it, as on everything that decides how sums are taken.
    longest = 1 + tolerance if are_gathered() or processes().size > 1 else float(norms.max())
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()  # half-precision terms are summed in float32; the gradient is in half precision again
    return z if z.ndim == 3 else z.unsqueeze(1), longest


def _check_pair(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have the same shape, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    (checked1, longest1), (checked2, longest2) = _check_features(z1, "z1"), _check_features(z2, "z2")
    if z1.dtype != z2.dtype:
        raise ValueError(f"z1 and z2 must have the same dtype, got {z1.dtype} and {z2.dtype}")
    return checked1, checked2, (longest1, longest2)


def _check_match(match: Match | None, z: Tensor) -> None:
    if match is not None and match.shape != (z.shape[0], z.shape[1]):
        raise ValueError(f"match is for (B, P) = {match.shape}, the features have (B, P) = {tuple(z.shape[:2])}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
