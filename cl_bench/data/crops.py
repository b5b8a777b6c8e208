"""Crops of images, resized: of images of one size, and of images of different sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cl_bench.data.colour import to_device

GPU_NUMBERS = 2**25
"""Numbers that a GPU crops and resizes at a time, of images of different sizes: 128 MB in float32."""


def resized_crops(
    images: Sequence[Tensor], boxes: Tensor, flips: Tensor, size: int, device: torch.device | None = None
) -> Tensor:
    """Crop each image to its own box, resize (bilinear, antialiased) and mirror it; rounded to uint8 as in PIL.

    Args:
        images: B of (3, h_i, w_i) uint8 on the CPU, possibly in a memory map; nothing outside the box is read.
        boxes: (B, 4) int64 (x1, y1, x2, y2), on the CPU.
        flips: (B,) bool, mirror left to right, on the CPU.
        size: Side of the output.
        device: Device that resizes, the CPU by default. Another one may round to the next whole number.

    Returns:
        (B, 3, size, size) uint8 on the device.
    """
    if device is not None and device.type != "cpu":
        return _on_gpu(images, boxes, flips, size, device)
    out = torch.empty(len(images), 3, size, size, dtype=torch.uint8)

    def work(rows: slice) -> None:
        for image, (x1, y1, x2, y2), flip, view in zip(
            images[rows], boxes[rows].tolist(), flips[rows].tolist(), out[rows], strict=True
        ):
            crop = interpolate(image[None, :, y1:y2, x1:x2], (size, size), mode="bilinear", antialias=True)[0]
            view.copy_(crop.flip(-1) if flip else crop)

    spread(work, len(images), 16)
    return out


def _on_gpu(images: Sequence[Tensor], boxes: Tensor, flips: Tensor, size: int, device: torch.device) -> Tensor:
    """Copy the crops end to end into pinned memory, and from there to the GPU, which spreads and resizes them."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    most_h, most_w = int(height.max()), int(width.max())
    together = at_a_time(most_h, most_w)
    out = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
    channel, y, x = (torch.arange(length, dtype=torch.int32, device=device) for length in (3, most_h, most_w))
    channel, y = channel[:, None, None], y[:, None]
    for start in range(0, len(images), together):
        part = slice(start, start + together)
        h, w = height[part], width[part]
        pixels = end_to_end(images[part], boxes[part], pinned=True).to(device, non_blocking=True)
        places = torch.stack([(3 * h * w).cumsum(0) - 3 * h * w, h, w], 1).to(torch.int32)
        first, h, w = to_device(places, device)[..., None, None, None].unbind(1)
        # Past its own edge a crop repeats its last row and column, which then have no weight.
        index = (first + channel + 3 * w * torch.minimum(y, h - 1)) + 3 * torch.minimum(x, w - 1)
        crops = pixels.index_select(0, index.flatten()).view(index.shape)
        own = torch.stack([torch.zeros_like(w), torch.zeros_like(h), w, h], 1).view(-1, 4)
        out[part] = resized_crop(crops.float(), own, to_device(flips[part], device), size).round_()
    return out


def at_a_time(height: int, width: int) -> int:
    """Return how many images a GPU crops and resizes at a time, none of which is larger than that."""
    return max(1, GPU_NUMBERS // (3 * height * width))


def end_to_end(images: Sequence[Tensor], boxes: Tensor, pinned: bool) -> Tensor:
    """Copy crops one after the other, (h_1 w_1 3 + h_2 w_2 3 + ...,) uint8, into pinned memory if asked for.

    Colours are innermost, as in decoded images, so that rows are copied whole.
    """
    ends = (3 * (boxes[:, 2:] - boxes[:, :2]).prod(1)).cumsum(0)
    held = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=pinned)

    def work(rows: slice) -> None:
        for image, (x1, y1, x2, y2), end in zip(images[rows], boxes[rows].tolist(), ends[rows].tolist(), strict=True):
            crop = image[:, y1:y2, x1:x2].permute(1, 2, 0)
            held[end - crop.numel() : end].view(crop.shape).copy_(crop)

    spread(work, len(images), 16)
    return held


def spread(work: Callable[[slice], None], n: int, most: int) -> None:
    """Process n images, ``most`` at a time, in as many threads as torch may use, each with its share of the images."""
    threads = torch.get_num_threads()
    rounds = math.ceil(n / (most * threads))
    step = math.ceil(n / (rounds * threads))
    parts = [slice(start, start + step) for start in range(0, n, step)]
    if min(threads, len(parts)) == 1:
        for part in parts:
            work(part)
        return
    try:
        with ThreadPoolExecutor(min(threads, len(parts)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, parts):
                pass
    finally:
        torch.set_num_threads(threads)  # this sets the number for this thread and for threads that start later


def resized_crop(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop each image to its own box and resize it (bilinear, antialiased), by two matrix products per batch.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, 4) int64 (x1, y1, x2, y2); nothing outside the box is read.
        flips: (B,) bool, mirror left to right.
        size: Side of the output.

    Returns:
        (B, C, size, size), equal to torchvision's ``resized_crop(antialias=True)`` for each image.
    """
    H, W = images.shape[-2:]
    rows = _resampling(boxes[:, 1], boxes[:, 3], H, size, torch.zeros_like(flips))
    columns = _resampling(boxes[:, 0], boxes[:, 2], W, size, flips)
    # The second product is for the three channels at once: the same number of rows, a third of the matrices.
    out: Tensor = (rows[:, None] @ images).flatten(1, 2) @ columns.mT
    return out.view(len(images), -1, size, size)


def resized(image: Tensor, short: int | None, longest: int | None = None) -> Tensor:
    """Resize an image (3, h, w) uint8 to that short side, bilinear and antialiased; None leaves it unchanged.

    The short side is smaller where the long one would exceed ``longest``.
    """
    if short is None:
        return image
    h, w = image.shape[-2:]
    scale = min(short / min(h, w), (longest or math.inf) / max(h, w))
    size = int(h * scale + 0.5), int(w * scale + 0.5)
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _resampling(start: Tensor, stop: Tensor, length: int, size: int, mirror: Tensor) -> Tensor:
    """Compute (B, size, length) weights of source pixels in output pixels: triangles as wide as the larger of both."""
    step = ((stop - start) / size)[:, None]
    out = torch.arange(size, device=start.device).expand(len(start), size)
    out = torch.where(mirror[:, None], size - 1 - out, out)
    centre = start[:, None] + (out + 0.5) * step
    pixel = torch.arange(length, device=start.device) + 0.5
    distance = (pixel - centre[..., None]).abs_().div_(step.clamp_min(1)[..., None])
    inside = (pixel > start[:, None]) & (pixel < stop[:, None])
    weights = distance.neg_().add_(1).clamp_min_(0).mul_(inside.float()[:, None])
    return weights.div_(weights.sum(-1, keepdim=True))
