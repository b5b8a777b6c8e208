"""Features and places of two views for tests of matching strategies, and what a strategy makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import matching_oracles as oracles
import pytest
import torch
from helpers import rng
from hypothesis import assume
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cl_bench.data.views import Geometry, crop_boxes
from cl_bench.losses.types import DenseViews
from cl_bench.methods.registry import Registry
from cl_bench.spec import AugmentSpec

STRATEGIES = (
    "dense_cosine",
    "dense_emd",
    "dense_emd:plan=hard",
    "dense_setsim",
    "dense_setsim:geometry=0.5",
    "dense_geometric",
    "dense_geometric:nearest=true",
    "dense_vicregl",
    "dense_vicregl:features=projection,all_features=true",
)


IMAGE = (48, 80)


every_strategy = pytest.mark.parametrize("text", STRATEGIES)


every_precision = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


grids = st.tuples(st.integers(1, 4), st.integers(1, 4))


images = st.integers(1, 3)


seeds = st.integers(0, 9999)


def match(text, views):
    return Registry().resolve(text).match(views)


def weights(text, views):
    """(B, P, P) float64 weights of a strategy."""
    return match(text, views).dense(torch.float64)


@dataclass
class Batch:
    """Features and places of both views, float64, before a strategy sees them."""

    f1: torch.Tensor
    f2: torch.Tensor
    boxes1: torch.Tensor
    boxes2: torch.Tensor
    flips1: torch.Tensor
    flips2: torch.Tensor
    grid: tuple[int, int]
    image: tuple[int, int] = IMAGE

    def views(self, dtype=torch.float64):
        f1, f2 = self.f1.to(dtype), self.f2.to(dtype)
        place1, place2 = (
            [t.to(dtype) for t in Geometry(boxes.to(dtype), flips, *self.image).cells(self.grid)]
            for boxes, flips in ((self.boxes1, self.flips1), (self.boxes2, self.flips2))
        )
        h1, h2, norm1, norm2 = normalize(f1, dim=-1), normalize(f2, dim=-1), f1.norm(dim=-1), f2.norm(dim=-1)
        return DenseViews(h1, h2, h1, h2, norm1, norm2, place1[0], place2[0], place1[1], place2[1], self.grid)

    @property
    def features(self):
        return self.f1.tolist(), self.f2.tolist()

    @property
    def places(self):
        """Arguments of the oracles: places of view 1 and of view 2, the image, the grid."""
        pairs = ((self.boxes1, self.flips1), (self.boxes2, self.flips2))
        return *(list(zip(b.tolist(), f.tolist(), strict=True)) for b, f in pairs), self.image, self.grid


def any_boxes(B, generator):
    """Boxes of all sizes and shapes whose corners lie between pixels, so that no two distances are equal."""
    corner, extent = (torch.rand(B, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    side = torch.tensor(IMAGE[::-1])
    extent = 0.1 + 0.9 * extent
    return torch.cat([corner * (1 - extent) * side, (corner * (1 - extent) + extent) * side], 1)


def draw(B=2, grid=(3, 4), C=8, seed=0):
    """View 2's features are view 1's, moved about and disturbed; lengths differ from cell to cell."""
    generator = rng(seed)
    P = math.prod(grid)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    f1, noise = normal(B, P, C), normal(B, P, C)
    f2 = 0.8 * f1[:, torch.randperm(P, generator=generator)] + 0.6 * noise
    f1, f2 = (f * normal(B, P, 1).abs().add(0.1) for f in (f1, f2))
    flips = [torch.rand(B, generator=generator) < 0.5 for _ in range(2)]
    return Batch(f1, f2, any_boxes(B, generator), any_boxes(B, generator), *flips, grid)


def agree(actual, expected, tolerance=1e-6):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def oracle(rule, *arguments):
    """Return the result of the loops; examples in which rounding decides are replaced."""
    try:
        return rule(*arguments)
    except oracles.TieError:
        assume(False)


def same(batch):
    """View 2 is view 1."""
    return replace(batch, f2=batch.f1, boxes2=batch.boxes1, flips2=batch.flips1)


def disjoint(B, grid, seed=0):
    """Make views as training draws them for disjoint views."""
    batch = draw(B, grid, seed=seed)
    boxes = crop_boxes(B, *IMAGE, AugmentSpec(size=16, scale=(0.1, 1.0)), "disjoint", rng(seed))
    return replace(batch, boxes1=boxes[0].double(), boxes2=boxes[1].double())
