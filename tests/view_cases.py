"""Images, boxes and augmentations for tests of views."""

from __future__ import annotations

from functools import partial

import torch
from helpers import rng
from hypothesis import strategies as st

from cl_bench.data import colour as colours
from cl_bench.data.colour import draw_colours
from cl_bench.spec import AugmentSpec

POLICIES = ("overlapping", "disjoint")
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
OFF = dict.fromkeys(STRENGTHS, 0.0)
PLAIN = {**OFF, "jitter": 0.0, "grayscale": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
sides = st.integers(1, 40)
seeds = st.integers(0, 9999)


def bytes_of(B, H, W, seed=0):
    return torch.randint(256, (B, 3, H, W), generator=rng(seed), dtype=torch.uint8)


def colour(images, augment, generator):
    return colours.colour(images.clone(), draw_colours(len(images), augment, generator), augment)


def plain(**changes):
    return AugmentSpec(**{"size": 12, **PLAIN, **changes})


def any_boxes(B, H, W, seed=0):
    """Boxes of at least one pixel, anywhere, of any shape."""
    generator = rng(seed)

    def span(length):
        start = (torch.rand(B, generator=generator) * length).long()
        return start, start + 1 + (torch.rand(B, generator=generator) * (length - start)).long()

    (x1, x2), (y1, y2) = span(W), span(H)
    return torch.stack([x1, y1, x2, y2], 1), torch.rand(B, generator=generator) < 0.5
