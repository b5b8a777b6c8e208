"""Label-free measures of an encoder on held-out images: L_a and L_u of backbone features, before any head."""

from __future__ import annotations

import torch

from cl_bench.data import Dataset
from cl_bench.encoders import Encoder, cells, pooled, unit
from cl_bench.errors import Diverged
from cl_bench.losses import alignment, uniformity
from cl_bench.records import LEVELS, Level
from cl_bench.spec import AugmentSpec, MeasureSpec, Views
from cl_bench.views import two_views

BATCH = 256


@torch.no_grad()
def measure(
    encoder: Encoder, data: Dataset, spec: MeasureSpec, augment: AugmentSpec, policy: Views, device: torch.device
) -> dict[str, dict[Level, float]]:
    """L_a and L_u at both levels, whatever the pre-training scheme was.

    Positive pairs are two training views of an image, at the same index; L_u is the mean of both views' L_u.

    Args:
        encoder: In eval mode.
        data: Held-out images.
        spec: Kernel width t, scope and the seed of the views.
        augment: The pre-training's augmentation.
        policy: The pre-training's policy of views.
        device: Where.

    Returns:
        ``{"alignment": {level: L_a}, "uniformity": {level: L_u}}``.

    Raises:
        Diverged: Features that are not finite.

    Source: the paper, section 4.1.
    """
    draws = torch.Generator().manual_seed(spec.seed)
    maps: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for images in torch.split(data.images, BATCH):
        for kept, (view, _) in zip(maps, two_views(images.to(device), augment, policy, draws), strict=True):
            kept.append(encoder(view.contiguous(memory_format=torch.channels_last)))
    first, second = (torch.cat(kept) for kept in maps)
    if not bool(torch.isfinite(first).all() & torch.isfinite(second).all()):
        raise Diverged("backbone features of held-out images are not finite")
    out: dict[str, dict[Level, float]] = {"alignment": {}, "uniformity": {}}
    for level, vectors in zip(LEVELS, (pooled, cells), strict=True):
        h1, h2 = unit(vectors(first)), unit(vectors(second))
        out["alignment"][level] = float(alignment(h1, h2))
        out["uniformity"][level] = float((uniformity(h1, spec.t, spec.scope) + uniformity(h2, spec.t, spec.scope)) / 2)
    return out
