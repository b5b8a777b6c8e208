"""Label-free measures of an encoder on held-out images: alignment, uniformity, probes and similarities."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from cl_bench.data import Dataset
from cl_bench.data.dataset import take
from cl_bench.data.views import two_views
from cl_bench.encoders import Backbone, Features, cells, unit
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
    encoder: Backbone, data: Dataset, spec: MeasureSpec, augment: AugmentSpec, policy: ViewPolicy, device: torch.device
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
    return measured(*held_out_features(encoder, data, spec, augment, policy, device), spec)


@torch.no_grad()
def measured(first: Features, second: Features, colours: Tensor, spec: MeasureSpec) -> Measured:
    """Measure the same of features that are known, as ``held_out_features`` returns them."""
    L_a: dict[Level, float] = {}
    L_u: dict[Level, float] = {}
    for level in LEVELS:
        h1, h2 = unit(vectors(first, level)), unit(vectors(second, level))
        L_a[level] = float(alignment(h1, h2))
        L_u[level] = float((uniformity(h1, spec.t, spec.scope) + uniformity(h2, spec.t, spec.scope)) / 2)
    some = probed(len(colours))
    histograms = similarity_histograms(h1[some], h2[some])  # of the dense level, the last one in the loop
    return {
        "alignment": L_a,
        "uniformity": L_u,
        "probes": probes(h1[some], colours[some]),
        "similarities": histograms,
        "similarity_overlap": overlap(histograms["positive"], histograms["other_images"]),
    }


def vectors(features: Features, level: Level) -> Tensor:
    """Arrange features as (N, P, C): one vector an image at the instance level, one a cell at the dense level."""
    return features.pooled.unsqueeze(1) if level == "instance" else cells(features.dense)


def probed(count: int) -> slice:
    """Return the slice of ``count`` held-out images that probes and similarities use."""
    return slice(None, None, math.ceil(count / PROBED))


@torch.no_grad()
def held_out_features(
    encoder: Backbone, data: Dataset, spec: MeasureSpec, augment: AugmentSpec, policy: ViewPolicy, device: torch.device
) -> tuple[Features, Features, Tensor]:
    """Compute the features of two training views of each held-out image; arguments as for ``measure``.

    Returns:
        The features of view 1 and of view 2, of all N images, and (N, 3) mean colours of view 1.

    Raises:
        Diverged: If features are not finite.
    """
    draws = torch.Generator().manual_seed(spec.seed)
    found: tuple[list[Features], list[Features]] = ([], [])
    colours = []
    for index in torch.split(torch.arange(len(data)), BATCH):
        pair = two_views(take(data.images, index), augment, policy, draws, device)
        for kept, (view, _) in zip(found, pair, strict=True):
            kept.append(encoder.features(view.contiguous(memory_format=torch.channels_last)))
        colours.append(pair[0][0].mean((2, 3)))
    first, second = (Features(*map(torch.cat, zip(*kept, strict=True))) for kept in found)
    if not all(bool(torch.isfinite(part).all()) for features in (first, second) for part in features):
        raise Diverged("backbone features of held-out images are not finite")
    return first, second, torch.cat(colours)
