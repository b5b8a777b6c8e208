"""Two augmented views of a batch and their geometry: whole batches at once, every parameter drawn per image.

Parameters come from a CPU generator, so that a seed gives the same views on every device; pixels are worked on where
the images are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cl_bench.spec import AugmentSpec, Views

CUT = (0.3, 0.7)
"""Where ``disjoint`` views cut the image in two, as a share of its side (ours: the paper's rule is not printed)."""


@dataclass(frozen=True)
class Geometry:
    """Where a view lies in its source image.

    Attributes:
        boxes: (B, 4) crop (x1, y1, x2, y2) in source pixels, whole numbers; x2 and y2 exclusive.
        flips: (B,) bool, mirrored left to right.
        height: Of the source images, in pixels.
        width: Of the source images, in pixels.
    """

    boxes: Tensor
    flips: Tensor
    height: int
    width: int

    def cells(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cell centres (B, P, 2) and cell sizes (B, 2) in source coordinates [0, 1], for a (H, W) grid of cells."""
        H, W = grid
        unit = torch.tensor([self.width, self.height], dtype=torch.float32, device=self.boxes.device)
        corner, extent = self.boxes[:, :2] / unit, (self.boxes[:, 2:] - self.boxes[:, :2]) / unit
        v, u = torch.meshgrid(
            (torch.arange(H, device=unit.device) + 0.5) / H,
            (torch.arange(W, device=unit.device) + 0.5) / W,
            indexing="ij",
        )
        u, v = u.flatten(), v.flatten()
        u = torch.where(self.flips[:, None], 1 - u, u)
        inside = torch.stack([u, v.expand_as(u)], dim=-1)
        return corner[:, None] + inside * extent[:, None], extent / torch.tensor([W, H], device=unit.device)


def two_views(
    images: Tensor, augment: AugmentSpec, policy: Views, generator: torch.Generator
) -> tuple[tuple[Tensor, Geometry], tuple[Tensor, Geometry]]:
    """Two augmented views of each image.

    Args:
        images: (B, 3, H, W) uint8.
        augment: Sizes, probabilities and strengths.
        policy: ``overlapping``: two RandomResizedCrops of the image. ``disjoint``: two that share no pixel.
        generator: CPU generator; advances by the same amount whatever the device.

    Returns:
        For each view (B, 3, size, size) float32, normalised by mean and std, and its geometry.

    Raises:
        ValueError: An image of one pixel, which has no two disjoint crops.
    """
    B, _, H, W = images.shape
    pixels = images.float().div_(255)
    views = []
    for boxes in crop_boxes(B, H, W, augment, policy, generator):
        flips = torch.rand(B, generator=generator) < augment.flip
        boxes, flips = boxes.to(images.device), flips.to(images.device)
        view = colour(resized_crop(pixels, boxes, flips, augment.size), augment, generator)
        views.append((view, Geometry(boxes.float(), flips, H, W)))
    return views[0], views[1]


def crop_boxes(
    n: int, height: int, width: int, augment: AugmentSpec, policy: Views, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops for two views of n images: two (n, 4) int64 of (x1, y1, x2, y2) in pixels, x2 and y2 exclusive."""
    whole = torch.tensor([0, 0, width, height]).expand(n, 4)
    regions = (whole, whole) if policy == "overlapping" else _two_sides(whole, generator)
    return _random_crop(regions[0], augment, generator), _random_crop(regions[1], augment, generator)


def _two_sides(whole: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut each image in two along a random axis at a random place; which side is whose is random too."""
    n, (width, height) = len(whole), whole[0, 2:].tolist()
    if width * height < 2:
        raise ValueError(f"disjoint views need an image of two pixels at least, got {height} x {width}")
    draws = torch.rand(3, n, generator=generator)
    vertical = (draws[0] < 0.5) if min(width, height) > 1 else torch.full((n,), width > 1)
    length = torch.where(vertical, width, height)
    cut = ((CUT[0] + draws[1] * (CUT[1] - CUT[0])) * length).round().long()
    cut = torch.minimum(cut.clamp_min(1), length - 1)
    first, second = whole.clone(), whole.clone()
    first[:, 2] = torch.where(vertical, cut, width)
    first[:, 3] = torch.where(vertical, height, cut)
    second[:, 0] = torch.where(vertical, cut, 0)
    second[:, 1] = torch.where(vertical, 0, cut)
    swap = (draws[2] < 0.5)[:, None]
    return torch.where(swap, second, first), torch.where(swap, first, second)


def _random_crop(region: Tensor, augment: AugmentSpec, generator: torch.Generator) -> Tensor:
    """RandomResizedCrop's boxes inside each region (n, 4), with torchvision's ten tries and its fallback."""
    n, tries = len(region), 10
    width, height = (region[:, 2:] - region[:, :2]).unbind(1)
    draws = torch.rand(4, n, tries, generator=generator, dtype=torch.float64)
    low, high = augment.scale
    area = (low + draws[0] * (high - low)) * (width * height)[:, None]
    low, high = torch.tensor(augment.ratio, dtype=torch.float64).log().tolist()
    ratio = (low + draws[1] * (high - low)).exp()
    w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    pick = fits.int().argmax(1, keepdim=True)  # the first try that fits
    found = fits.any(1)
    # None fits: the largest centred crop whose ratio is allowed.
    most_w = torch.minimum(width, (height * augment.ratio[1]).round().long()).clamp_min(1)
    most_h = torch.minimum(height, (width / augment.ratio[0]).round().long()).clamp_min(1)
    w, h = torch.where(found, w.gather(1, pick)[:, 0], most_w), torch.where(found, h.gather(1, pick)[:, 0], most_h)
    x = torch.where(found, (draws[2, :, 0] * (width - w + 1)).long(), (width - w) // 2)
    y = torch.where(found, (draws[3, :, 0] * (height - h + 1)).long(), (height - h) // 2)
    corner = region[:, :2] + torch.stack([x, y], 1)
    return torch.cat([corner, corner + torch.stack([w, h], 1)], 1)


def resized_crop(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop each image to its own box and resize, bilinear and antialiased: two matrix products a batch.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) int64 (x1, y1, x2, y2); nothing outside the box is read.
        flips: (B,) bool, mirror left to right.
        size: Side of the output.

    Returns:
        (B, C, size, size), as torchvision's ``resized_crop(antialias=True)`` image by image.
    """
    H, W = images.shape[-2:]
    rows = _resampling(boxes[:, 1], boxes[:, 3], H, size, torch.zeros_like(flips))
    columns = _resampling(boxes[:, 0], boxes[:, 2], W, size, flips)
    return rows[:, None] @ images @ columns[:, None].mT


def _resampling(start: Tensor, stop: Tensor, length: int, size: int, mirror: Tensor) -> Tensor:
    """(B, size, length) weights of source pixels in output pixels: a triangle as wide as the larger of the two."""
    step = ((stop - start) / size)[:, None]
    out = torch.arange(size, device=start.device).expand(len(start), size)
    out = torch.where(mirror[:, None], size - 1 - out, out)
    centre = start[:, None] + (out + 0.5) * step
    pixel = torch.arange(length, device=start.device) + 0.5
    weights = (1 - (pixel - centre[..., None]).abs() / step.clamp_min(1)[..., None]).clamp_min(0)
    inside = (pixel > start[:, None]) & (pixel < stop[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(-1, keepdim=True)


def colour(images: Tensor, augment: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Colour jitter in random order, grayscale and normalisation; each image has its own parameters.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        augment: Strengths and probabilities, as torchvision's ColorJitter and RandomGrayscale.
        generator: CPU generator.
    """
    B = len(images)
    uniform = torch.rand(6, B, generator=generator)
    order = torch.rand(B, 4, generator=generator).argsort(1)
    jittered = uniform[4] < augment.jitter
    strengths = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    operations = (_brightness, _contrast, _saturation, _hue)
    out = images.clone()
    for step in range(4):
        for k, (strength, operation) in enumerate(zip(strengths, operations, strict=True)):
            chosen = (jittered & (order[:, step] == k)).nonzero()[:, 0]
            if strength == 0 or not len(chosen):
                continue
            centre = 0.0 if operation is _hue else 1.0
            low = -strength if operation is _hue else max(0.0, centre - strength)
            factor = (low + uniform[k, chosen] * (centre + strength - low)).to(images.device)[:, None, None, None]
            where = chosen.to(images.device)
            out[where] = operation(out[where], factor)
    gray = (uniform[5] < augment.grayscale).to(images.device)[:, None, None, None]
    out = torch.where(gray, _luma(out), out)
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (augment.mean, augment.std))
    return (out - mean) / std


def _luma(x: Tensor) -> Tensor:
    return (0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(x).mean((1, 2, 3), keepdim=True), x, factor).clamp(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(x).expand_as(x), x, factor).clamp(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by ``turn`` of a full circle, in HSV."""
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    r, g, b = x.unbind(1)
    c = chroma[:, 0].clamp_min(1e-12)
    peak = high[:, 0]
    sector = torch.where(peak == r, (g - b) / c, torch.where(peak == g, 2 + (b - r) / c, 4 + (r - g) / c))
    hue = (sector[:, None] + 6 * turn) % 6
    # channel = high - chroma * clamp(min(k, 4 - k), 0, 1) with k = (offset + hue) mod 6, offsets 5, 3, 1 for r, g, b
    offset = torch.tensor([5.0, 3.0, 1.0], device=x.device)[:, None, None]
    k = (offset + hue) % 6
    return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
