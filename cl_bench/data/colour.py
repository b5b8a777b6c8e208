"""Colour augmentation of views: jitter, grayscale, blur and normalisation, with parameters for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from cl_bench.spec import AugmentSpec


@dataclass(frozen=True)
class Colours:
    """Random parameters of the colours of B images, on the CPU.

    Attributes:
        factors: (4, B) factors of brightness, contrast, saturation and hue.
        order: (B, 4) int64, the operations of an image in order, by their row in ``factors``; -1 for no operation.
        gray: (B,) bool, True for images that become grey.
        sigmas: (B,) sigma of the blur, in pixels of the view; 0 for no blur.
    """

    factors: Tensor
    order: Tensor
    gray: Tensor
    sigmas: Tensor

    def alike(self) -> Tensor:
        """Return an order of the images, (B,) int64, in which those with the same operations are adjacent."""
        by = torch.arange(len(self.gray))
        for key in (self.sigmas > 0, self.gray, *reversed(self.order.unbind(1))):
            by = by[key[by].argsort(stable=True)]
        return by

    def __getitem__(self, rows: Tensor) -> Colours:
        return Colours(self.factors[:, rows], self.order[rows], self.gray[rows], self.sigmas[rows])

    def followed_by(self, other: Colours) -> Colours:
        """Return the parameters of these B images and then those of the others."""
        factors = torch.cat([self.factors, other.factors], 1)
        parts = ((self.order, other.order), (self.gray, other.gray), (self.sigmas, other.sigmas))
        return Colours(factors, *(torch.cat(pair) for pair in parts))


def draw_colours(n: int, augment: AugmentSpec, generator: torch.Generator) -> Colours:
    """Draw the parameters of n images; the generator's advance depends on n alone, and on whether ``augment`` blurs.

    Args:
        n: Number of images.
        augment: Strengths and probabilities, as in torchvision's ColorJitter, RandomGrayscale and GaussianBlur.
        generator: CPU generator.
    """
    uniform = torch.rand(6, n, generator=generator)
    order = torch.rand(n, 4, generator=generator).argsort(1)
    factors = []
    for k, strength in enumerate(_strengths(augment)):
        centre, low = (0.0, -strength) if k == 3 else (1.0, max(0.0, 1.0 - strength))
        factors.append(low + uniform[k] * (centre + strength - low))
    order[uniform[4] >= augment.jitter] = -1
    sigmas = torch.zeros(n)
    if augment.blur > 0:
        chosen, where = torch.rand(2, n, generator=generator)
        low, high = augment.blur_sigma
        sigmas = (low + where * (high - low)).masked_fill(chosen >= augment.blur, 0.0)
    return Colours(torch.stack(factors), order, uniform[5] < augment.grayscale, sigmas)


def colour(images: Tensor, colours: Colours, augment: AugmentSpec) -> Tensor:
    """Apply jitter in the order drawn, then grayscale, blur and normalisation.

    Args:
        images: (B, 3, H, W) uint8; or float in [0, 1], which are overwritten.
        colours: Parameters of the images.
        augment: Strengths, of which 0 skips an operation, and mean and std of the normalisation.
    """
    device = images.device
    factors, sigmas = to_device(colours.factors, device), to_device(colours.sigmas, device)
    place = torch.arange(len(images))

    def runs(group: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """Return for each group its number, its images in one tensor, and their places."""
        nonlocal images, place
        of, sizes = (t.tolist() for t in torch.unique_consecutive(group[place], return_counts=True))
        if len(of) > len(set(of)):
            # One copy of all images is faster than several that take some out and put them back.
            by = group[place].argsort(stable=True)
            images, place = images.index_select(0, to_device(by, device)), place[by]
            of, sizes = (t.tolist() for t in torch.unique_consecutive(group[place], return_counts=True))
        return list(zip(of, torch.split(images, sizes), torch.split(to_device(place, device), sizes), strict=True))

    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    for step in colours.order.unbind(1):
        for k, part, of in runs(step):
            if k >= 0 and _strengths(augment)[k] > 0:
                _operations()[k](part, factors[k].index_select(0, of)[:, None, None, None])
    for gray, part, _ in runs(colours.gray):
        if gray:
            part.copy_(_luma(part))
    for blurred, part, of in runs(colours.sigmas > 0):
        if blurred:
            part.copy_(blur(part, sigmas.index_select(0, of), augment.blur_sigma[1]))
    if bool((place.diff() < 0).any()):
        images = images.index_select(0, to_device(place.argsort(), device))
    mean, std = (to_device(torch.tensor(v), device)[:, None, None] for v in (augment.mean, augment.std))
    return images.sub_(mean).div_(std)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for its pending work."""
    return (
        x.pin_memory().to(device, non_blocking=True)
        if (x.device.type, device.type) == ("cpu", "cuda")
        else x.to(device)
    )


def blur(images: Tensor, sigmas: Tensor, largest: float) -> Tensor:
    """Blur each image by a Gaussian with its own sigma, with the border reflected.

    The kernel reaches three times the ``largest`` sigma to each side, or across the image where that is less; its size
    is the same for every sigma, so that no image depends on the others of its batch.

    Args:
        images: (B, 3, H, W) float images.
        sigmas: (B,) sigmas in pixels, above 0.
        largest: Largest sigma that any image may have.
    """
    radius = min(math.ceil(3 * largest), *(side - 1 for side in images.shape[-2:]))
    offset = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (offset / sigmas[:, None]).square())
    weights = (weights / weights.sum(1, keepdim=True)).to(images.dtype)
    for dim in (-1, -2):
        side = images.shape[dim]
        sides = (radius, radius, 0, 0) if dim == -1 else (0, 0, radius, radius)
        padded = pad(images, sides, mode="reflect")
        first, *others = weights[..., None, None, None].unbind(1)
        images = padded.narrow(dim, 0, side) * first
        for k, weight in enumerate(others, 1):
            images.addcmul_(padded.narrow(dim, k, side), weight)
    return images


def _strengths(augment: AugmentSpec) -> tuple[float, float, float, float]:
    return augment.brightness, augment.contrast, augment.saturation, augment.hue


def _operations() -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    """Return the operations in the order of ``_strengths``; they overwrite x, which saves memory traffic on a CPU."""
    return _brightness, _contrast, _saturation, _hue


def _luma(x: Tensor) -> Tensor:
    return (0.2989 * x[:, 0]).add_(0.587 * x[:, 1]).add_(0.114 * x[:, 2]).unsqueeze(1)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    # The mean has full rows, because a CPU processes an operand that is constant along a row one value at a time.
    mean = _luma(x).mean((1, 2, 3), keepdim=True).expand(-1, 1, 1, x.shape[-1]).contiguous()
    return torch.lerp(mean.expand_as(x), x, factor, out=x).clamp_(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(x).expand_as(x), x, factor, out=x).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by ``turn`` of a full circle, in HSV."""
    r, g, b = torch.split(x, 1, 1)
    high = torch.maximum(torch.maximum(r, g), b)
    chroma = high - torch.minimum(torch.minimum(r, g), b)
    # The channel at the peak is chosen by products with 0 and 1; a condition is twenty times slower on a CPU.
    is_r = torch.eq(r, high, out=torch.empty_like(high))
    is_g = torch.eq(g, high, out=torch.empty_like(high))
    is_g.addcmul_(is_g, is_r, value=-1)
    is_b = (1 - is_r).sub_(is_g)
    sector = (g - b).mul_(is_r).addcmul_(b - r, is_g).addcmul_(r - g, is_b).div_(chroma.clamp_min(1e-12))
    hue = _turns(sector.add_(is_g, alpha=2).add_(is_b, alpha=4).add_(6 * turn))
    # channel = high - chroma * clamp(min(k, 4 - k), 0, 1) with k = (offset + hue) mod 6, offsets 5, 3, 1 for r, g, b
    k = _turns(torch.arange(5.0, 0.0, -2.0, device=x.device)[:, None, None] + hue)
    return torch.sub(high, torch.minimum(k, 4 - k, out=k).clamp_(0, 1).mul_(chroma), out=x)


def _turns(x: Tensor) -> Tensor:
    """Compute ``x % 6`` for x in (-6, 12), in place: bit for bit the same, and much faster."""
    return x.sub_((x / 6).floor_(), alpha=6)
