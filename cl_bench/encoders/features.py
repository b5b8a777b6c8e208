"""Output of an encoder: a feature map and a pooled feature; their cells, and vectors of unit length."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Features(NamedTuple):
    """Output of an encoder for B images.

    Attributes:
        dense: (B, C, H, W) feature map.
        pooled: (B, C') one vector an image.
    """

    dense: Tensor
    pooled: Tensor


class Backbone(Protocol):
    """An encoder that is measured as it is: in eval mode, its weights frozen. ``channels``: of the pooled feature."""

    channels: int

    def features(self, images: Tensor) -> Features:
        """Compute both kinds of features of normalised images (B, 3, H, W)."""


def pooled(feature_map: Tensor) -> Tensor:
    """Pool by global average, (B, C, H, W) -> (B, 1, C), to one vector per image."""
    return feature_map.mean((2, 3)).unsqueeze(1)


def cells(feature_map: Tensor) -> Tensor:
    """Reshape (B, C, H, W) -> (B, H W, C), one vector per cell, row by row."""
    return feature_map.flatten(2).transpose(1, 2)


def widened(features: Tensor) -> Tensor:
    """Convert features that autocast left in half precision to float32; others stay."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def unit(features: Tensor) -> Tensor:
    """Scale (..., C) to unit vectors; features that are all 0 (dead cells) become the constant unit vector."""
    return unit_and_norm(features)[0]


def unit_and_norm(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors as ``unit`` does, and (...,) lengths, clamped to the largest value of the dtype."""
    # Divide by the largest entry first, since squares overflow float32 long before the features do.
    peak = features.detach().abs().amax(-1, keepdim=True)
    nothing = peak == 0
    scaled = features / peak.masked_fill(nothing, 1.0)
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).masked_fill(nothing, 1.0)
    direction = torch.where(nothing, features.shape[-1] ** -0.5, scaled / norm)
    return direction, (peak * norm).squeeze(-1).clamp_max(torch.finfo(features.dtype).max)
