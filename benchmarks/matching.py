"""Time of each matching strategy in a training step, in both directions, and of a ResNet-18 step of the same batch.

python benchmarks/matching.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timing import machine, medians
from torch import Tensor

from cl_bench.data.views import Geometry, crop_boxes
from cl_bench.encoders import build_encoder, to_channels_last, unit_and_norm
from cl_bench.losses.types import DenseViews
from cl_bench.methods.registry import Registry
from cl_bench.spec import AugmentSpec

B, GRID, C, D, SIZE, SHARE = 256, (7, 7), 512, 128, 64, 0.15


def views() -> DenseViews:
    """Make two views of a batch: features of a random field at each cell's place, and the geometry of real crops."""
    draws = torch.Generator().manual_seed(0)
    augment = AugmentSpec(size=SIZE)
    flips = torch.rand(2, B, generator=draws) < 0.5
    boxes = crop_boxes(B, 96, 96, augment, "overlapping", draws)
    (xy1, size1), (xy2, size2) = (Geometry(b.float(), f, 96, 96).cells(GRID) for b, f in zip(boxes, flips, strict=True))
    waves = 8 * torch.randn(2, C, generator=draws)
    noise = torch.randn(2, B, GRID[0] * GRID[1], C, generator=draws)
    (h1, norm1), (h2, norm2) = (
        unit_and_norm((torch.sin(xy @ waves) + 0.5 * n).relu()) for xy, n in ((xy1, noise[0]), (xy2, noise[1]))
    )
    return DenseViews(h1[..., :D], h2[..., :D], h1, h2, norm1, norm2, xy1, xy2, size1, size2, GRID)


def resnet_step() -> Callable[[], None]:
    """Make a function that runs forward and backward of both views, without head and loss."""
    encoder = to_channels_last(build_encoder("resnet18"), torch.device("cpu"))
    images = torch.randn(2 * B, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        out: Tensor = encoder(images)
        out.square().mean().backward()

    return run


def main() -> None:
    """Print a row for each strategy."""
    registry, both = Registry(), views()
    methods = [registry.resolve(name) for name in registry.names]
    dense = {m.name: lambda m=m: m.matches(both) for m in methods if m.level == "dense"}
    seconds = medians({**dense, "ResNet-18 step": resnet_step()}, rounds=5)
    step = seconds["ResNet-18 step"]
    print(machine())
    print(f"| B = {B}, P = {GRID[0] * GRID[1]}, C = {C} | both ways, ms | of a ResNet-18 step at {SIZE} px |")
    print("|---|---|---|")
    for name, s in seconds.items():
        print(f"| {name} | {1000 * s:,.1f} | {s / step:.1%} |")
    assert all(seconds[name] <= SHARE * step for name in dense), f"a strategy takes more than {SHARE:.0%} of the step"


if __name__ == "__main__":
    main()
