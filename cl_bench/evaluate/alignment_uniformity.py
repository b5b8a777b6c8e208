"""Label-free measures of an encoder on held-out images: alignment, uniformity, probes and similarities."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from cl_bench.data import Dataset
from cl_bench.data.dataset import take
from cl_bench.data.views import two_views
from cl_bench.encoders import Encoder, cells, pooled, unit
from cl_bench.errors import Diverged
from cl_bench.evaluate.probes import probes
from cl_bench.evaluate.similarities import overlap, similarity_histograms
from cl_bench.losses.terms import alignment, uniformity
from cl_bench.spec import AugmentSpec, MeasureSpec, ViewPolicy
from cl_bench.spec.records import LEVELS, Level

BATCH = 256
PROBED = 2048
"""Largest number of images for probes and similarities, spread evenly over the held-out ones."""


class Measured(TypedDict):
    """Result of ``measure``.

    Attributes:
        alignment: L_a by level.
        uniformity: L_u by level.
        probes: Probes of view 1's dense features by name (``cl_bench.evaluate.probes``).
        similarities: Histograms of dense cosines between the views, by kind of pair (``evaluate.similarities``).
        similarity_overlap: Overlap, in [0, 1], of the histograms of positives and of other images.
    """

    alignment: dict[Level, float]
    uniformity: dict[Level, float]
    probes: dict[str, float]
    similarities: dict[str, list[float]]
    similarity_overlap: float


@torch.no_grad()
def measure(
    encoder: Encoder, data: Dataset, spec: MeasureSpec, augment: AugmentSpec, policy: ViewPolicy, device: torch.device
) -> Measured:
    """Measure L_a and L_u at both levels, whatever the pre-training scheme was, and probe the dense features.

    Positive pairs are two training views of an image, at the same index; L_u is the mean of both views' L_u.

    Args:
        encoder: Encoder in eval mode.
        data: Held-out images.
        spec: Kernel width t, scope and the seed of the views.
        augment: Augmentation of the pre-training.
        policy: View policy of the pre-training.
        device: Device to compute on.

    Raises:
        Diverged: If features are not finite.

    Source: the paper, section 4.1.
    """
    first, second, colours = held_out_maps(encoder, data, spec, augment, policy, device)
    L_a: dict[Level, float] = {}
    L_u: dict[Level, float] = {}
    for level, vectors in zip(LEVELS, (pooled, cells), strict=True):
        h1, h2 = unit(vectors(first)), unit(vectors(second))
        L_a[level] = float(alignment(h1, h2))
        L_u[level] = float((uniformity(h1, spec.t, spec.scope) + uniformity(h2, spec.t, spec.scope)) / 2)
    some = probed(len(data))
    histograms = similarity_histograms(h1[some], h2[some])  # of the dense level, the last one in the loop
    return {
        "alignment": L_a,
        "uniformity": L_u,
        "probes": probes(h1[some], colours[some]),
        "similarities": histograms,
        "similarity_overlap": overlap(histograms["positive"], histograms["other_images"]),
    }


def probed(count: int) -> slice:
    """Return the slice of ``count`` held-out images that probes and similarities use."""
    return slice(None, None, math.ceil(count / PROBED))


@torch.no_grad()
def held_out_maps(
    encoder: Encoder, data: Dataset, spec: MeasureSpec, augment: AugmentSpec, policy: ViewPolicy, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the backbone's maps of two training views of each held-out image; arguments as for ``measure``.

    Returns:
        (N, C, H, W) feature maps of view 1 and of view 2, and (N, 3) mean colours of view 1.

    Raises:
        Diverged: If features are not finite.
    """
    draws = torch.Generator().manual_seed(spec.seed)
    maps: tuple[list[Tensor], list[Tensor]] = ([], [])
    colours = []
    for index in torch.split(torch.arange(len(data)), BATCH):
        pair = two_views(take(data.images, index), augment, policy, draws, device)
        for kept, (view, _) in zip(maps, pair, strict=True):
            kept.append(encoder(view.contiguous(memory_format=torch.channels_last)))
        colours.append(pair[0][0].mean((2, 3)))
    first, second = (torch.cat(kept) for kept in maps)
    if not bool(torch.isfinite(first).all() & torch.isfinite(second).all()):
        raise Diverged("backbone features of held-out images are not finite")
    return first, second, torch.cat(colours)
