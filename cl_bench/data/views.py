"""Two augmented views of a batch and their geometry: whole batches at once, every parameter drawn per image.

Parameters are drawn by a CPU generator before any pixel is read, so that a seed gives the same views on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cl_bench.data.colour import Colours, colour, draw_colours, to_device
from cl_bench.data.crops import resized_crop, resized_crops, spread
from cl_bench.data.dataset import take
from cl_bench.spec import AugmentSpec, ViewPolicy

BLOCK = 2**21
"""Numbers that a CPU processes at a time: few enough to stay in its cache, enough to make calls worthwhile."""

CUT = (0.3, 0.7)
"""Range of the cut between ``disjoint`` views, as a share of the side (our choice: the paper prints no rule)."""


@dataclass(frozen=True)
class Geometry:
    """Position of views in their source images.

    Attributes:
        boxes: (B, 4) crop (x1, y1, x2, y2) in source pixels, whole numbers; x2 and y2 exclusive.
        flips: (B,) bool, mirrored left to right.
        height: Height of the source images in pixels; (B,) where they differ, on the device of the boxes.
        width: Width of the source images in pixels; (B,) where they differ, likewise.
    """

    boxes: Tensor
    flips: Tensor
    height: int | Tensor
    width: int | Tensor

    def __getitem__(self, rows: slice) -> Geometry:
        height, width = (side[rows] if isinstance(side, Tensor) else side for side in (self.height, self.width))
        return Geometry(self.boxes[rows], self.flips[rows], height, width)

    def cells(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute cell centres (B, P, 2) and cell sizes (B, 2) in source coordinates [0, 1] for an (H, W) grid."""
        H, W = grid
        device = self.boxes.device
        unit = torch.stack([_filled(side, torch.float32, device) for side in (self.width, self.height)], -1)
        corner, extent = self.boxes[:, :2] / unit, (self.boxes[:, 2:] - self.boxes[:, :2]) / unit
        v, u = torch.meshgrid(
            (torch.arange(H, device=unit.device) + 0.5) / H,
            (torch.arange(W, device=unit.device) + 0.5) / W,
            indexing="ij",
        )
        u, v = u.flatten(), v.flatten()
        u = torch.where(self.flips[:, None], 1 - u, u)
        inside = torch.stack([u, v.expand_as(u)], dim=-1)
        counts = torch.stack([_filled(side, torch.int64, device) for side in (W, H)])
        return corner[:, None] + inside * extent[:, None], extent / counts


def _filled(value: int | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a number as a tensor that the device itself fills, so that nothing waits for a copy."""
    return value.to(dtype) if isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=device)


@dataclass(frozen=True)
class Draws:
    """Random parameters of one view of B images, on the CPU.

    Attributes:
        boxes: (B, 4) int64 crop (x1, y1, x2, y2) in source pixels, x2 and y2 exclusive.
        flips: (B,) bool, mirrored left to right.
        colours: Parameters of the colours.
    """

    boxes: Tensor
    flips: Tensor
    colours: Colours

    def __getitem__(self, rows: Tensor) -> Draws:
        return Draws(self.boxes[rows], self.flips[rows], self.colours[rows])

    def followed_by(self, other: Draws) -> Draws:
        """Return the parameters of these B images and then those of the others."""
        boxes, flips = torch.cat([self.boxes, other.boxes]), torch.cat([self.flips, other.flips])
        return Draws(boxes, flips, self.colours.followed_by(other.colours))


def two_views(
    images: Tensor | Sequence[Tensor],
    augment: AugmentSpec,
    policy: ViewPolicy,
    generator: torch.Generator,
    device: torch.device | None = None,
    rows: Tensor | None = None,
) -> tuple[tuple[Tensor, Geometry], tuple[Tensor, Geometry]]:
    """Make two augmented views of each image.

    Args:
        images: (B, 3, H, W) uint8; or B of (3, h_i, w_i) uint8 on the CPU, of which only the crops are read, and
            copied to the device, which resizes them.
        augment: Sizes, probabilities and strengths.
        policy: ``overlapping``: two RandomResizedCrops of the image. ``disjoint``: two that share no pixel.
        generator: CPU generator; advances by the same amount whatever the device and the sizes of the images.
        device: Device of the views; that of the images by default.
        rows: Images whose views are made, int64 on the CPU, all by default; they are those of the whole batch.

    Returns:
        For each view (B, 3, size, size) float32, normalised by mean and std, and its geometry.

    Raises:
        ValueError: If an image has a single pixel, and so no two disjoint crops.
    """
    device = device or images[0].device
    images, height, width = _placed(images, device)
    drawn = draw(len(images), height, width, augment, policy, generator)
    if rows is not None:
        drawn = drawn[0][rows], drawn[1][rows]
        images = take(images, rows)
        height, width = (side[rows] if isinstance(side, Tensor) else side for side in (height, width))
    sides = [to_device(s, device) if isinstance(s, Tensor) else s for s in (height, width)]
    places = (Geometry(to_device(d.boxes.float(), device), to_device(d.flips, device), *sides) for d in drawn)
    if device.type == "cpu":
        pixels = [render_views(images, draws, augment, device) for draws in drawn]
    else:  # both at once, for half as many launches
        pixels = [*render_views(images, drawn[0].followed_by(drawn[1]), augment, device).chunk(2)]
    first, second = zip(pixels, places, strict=True)
    return first, second


def random_view(
    images: Tensor | Sequence[Tensor], augment: AugmentSpec, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Make one augmented view of each image, (B, 3, size, size), the first of ``two_views``."""
    images, height, width = _placed(images, device)
    first, _ = draw(len(images), height, width, augment, "overlapping", generator)
    return render_views(images, first, augment, device)


def _placed(
    images: Tensor | Sequence[Tensor], device: torch.device
) -> tuple[Tensor | Sequence[Tensor], int | Tensor, int | Tensor]:
    """Move images of one size to the device, leave others where they are, and return their height and width."""
    if isinstance(images, Tensor):
        return to_device(images, device), images.shape[-2], images.shape[-1]
    height, width = torch.tensor([image.shape[1:] for image in images]).unbind(1)
    return list(images), height, width


def draw(
    n: int,
    height: int | Tensor,
    width: int | Tensor,
    augment: AugmentSpec,
    policy: ViewPolicy,
    generator: torch.Generator,
) -> tuple[Draws, Draws]:
    """Draw all random parameters of two views of n images; ``height`` and ``width`` are (n,) if images differ."""
    first, second = (
        Draws(boxes, torch.rand(n, generator=generator) < augment.flip, draw_colours(n, augment, generator))
        for boxes in crop_boxes(n, height, width, augment, policy, generator)
    )
    return first, second


def render_views(images: Tensor | Sequence[Tensor], draws: Draws, augment: AugmentSpec, device: torch.device) -> Tensor:
    """Compute the pixels of views on ``device``, as in ``two_views``; images of one size must be there already.

    Where there are more ``draws`` than images, those that follow are of the same images again.
    """
    n, size = len(draws.boxes), augment.size
    boxes, flips = to_device(draws.boxes, device), to_device(draws.flips, device)

    def shown(rows: Tensor) -> Tensor:
        of, source = to_device(rows, device), rows % len(images)
        if isinstance(images, Tensor):
            pixels = images.index_select(0, to_device(source, device)).float().div_(255)
            pixels = resized_crop(pixels, boxes.index_select(0, of), flips.index_select(0, of), size)
        else:
            of_rows = [images[i] for i in source.tolist()]
            pixels = resized_crops(of_rows, draws.boxes[rows], draws.flips[rows], size, device)
        return colour(pixels, draws.colours[rows], augment)

    largest = max(size * size, images.shape[-2] * images.shape[-1] if isinstance(images, Tensor) else 0)
    most = max(1, BLOCK // (3 * largest)) if device.type == "cpu" else n
    if n <= most:
        return shown(torch.arange(n))
    out = torch.empty(n, 3, size, size)
    # Images with the same operations are adjacent, and few at a time, so that nothing has to be moved in between.
    alike = draws.colours.alike()

    def work(part: slice) -> None:
        rows = alike[part]
        for i, view in zip(rows.tolist(), shown(rows), strict=True):
            out[i] = view  # one by one: all indices at once take many times longer

    spread(work, n, most)
    return out


def crop_boxes(
    n: int,
    height: int | Tensor,
    width: int | Tensor,
    augment: AugmentSpec,
    policy: ViewPolicy,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw crops for two views of n images: two (n, 4) int64 of (x1, y1, x2, y2) in pixels, x2 and y2 exclusive."""
    whole = torch.zeros(n, 4, dtype=torch.int64)
    whole[:, 2], whole[:, 3] = width, height
    regions = (whole, whole) if policy == "overlapping" else _two_sides(whole, generator)
    return _random_crop(regions[0], augment, generator), _random_crop(regions[1], augment, generator)


def _two_sides(whole: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut each image in two along a random axis at a random place, and assign the sides to the views at random."""
    width, height = whole[:, 2:].unbind(1)
    if bool((width * height < 2).any()):
        raise ValueError("disjoint views need images of two pixels at least, got one of 1 x 1")
    draws = torch.rand(3, len(whole), generator=generator)
    vertical = torch.where(torch.minimum(width, height) > 1, draws[0] < 0.5, width > 1)
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
    """Draw RandomResizedCrop's boxes inside each region (n, 4), with torchvision's ten tries and its fallback."""
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
    # No try fits: take the largest centred crop whose ratio is allowed.
    most_w = torch.minimum(width, (height * augment.ratio[1]).round().long()).clamp_min(1)
    most_h = torch.minimum(height, (width / augment.ratio[0]).round().long()).clamp_min(1)
    w, h = torch.where(found, w.gather(1, pick)[:, 0], most_w), torch.where(found, h.gather(1, pick)[:, 0], most_h)
    x = torch.where(found, (draws[2, :, 0] * (width - w + 1)).long(), (width - w) // 2)
    y = torch.where(found, (draws[3, :, 0] * (height - h + 1)).long(), (height - h) // 2)
    corner = region[:, :2] + torch.stack([x, y], 1)
    return torch.cat([corner, corner + torch.stack([w, h], 1)], 1)
