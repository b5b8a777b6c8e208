"""Any network as an encoder that can be measured: what its features are, what it takes, where a detector cuts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.encoders.built_in import Encoder
from cl_bench.encoders.cut import Enlarge, cut
from cl_bench.encoders.features import Features
from cl_bench.encoders.reading import Read, reader, told
from cl_bench.errors import Diverged, EncoderError, first_line

CELLS = 3
"""Cells a side that a view has at least, where images are enlarged to have them: one cell has no neighbours."""
MOST = 32
"""Largest factor by which images are enlarged."""
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """Description of an encoder before anything is measured.

    Attributes:
        dense: Channels of the feature map.
        pooled: Channels of the pooled feature.
        grid: Height and width, in cells, of the map of a view.
        enlarged: How many times images are enlarged before the network sees them.
        side: The only size, in pixels, that the network takes, to which images are resized; None where it takes any.
        uncut: Why no detector can be built on it; nothing where one can.
    """

    dense: int
    pooled: int
    grid: tuple[int, int]
    enlarged: int = 1
    side: int | None = None
    uncut: str = ""


class FrozenEncoder(nn.Module):
    """A network read as an encoder; see ``frozen``.

    Attributes:
        channels: Of the pooled feature.
        shape: What is known of it.
        parts: Trunk and last stage for a detector; None where it cannot be cut.
        mean, std: What its pixels are normalised by, each channel, on the scale [0, 1]; None where it does not say.
    """

    def __init__(self, network: nn.Module, read: Read, shape: Shape, parts: Encoder | None) -> None:
        super().__init__()
        self.network = network
        self.resize: nn.Module = Resize(shape.side) if shape.side else Enlarge(shape.enlarged)
        self.channels = shape.pooled
        self.shape = shape
        self.parts = parts
        self.mean, self.std = normalisation(network)
        self._read = read

    def features(self, images: Tensor) -> Features:
        """Compute the feature map and the pooled feature of normalised images (B, 3, H, W)."""
        return self._read(self.resize(images))


class Resize(nn.Module):
    """Images of one size, whatever theirs is."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, side, side)."""
        size = (self.side, self.side)
        return nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


@torch.no_grad()
def frozen(network: nn.Module, label: str, view: int, enlarged: int | None = None) -> FrozenEncoder:
    """Read a network as a frozen encoder, proved to give finite features of the right shape.

    Images are enlarged so many times before it sees them; where that is left open, the least power of two that gives a
    view 3 x 3 cells (ours): most networks halve an image five times, and of a small view nothing but one cell is left.

    Args:
        network: In eval mode.
        label: What a message calls it.
        view: Height and width of a view, in pixels.
        enlarged: How many times; None to find out.

    Raises:
        EncoderError: It gives no features, of another shape than (B, C, H, W) and (B, C), or others the second time.
        Diverged: Its features are not finite.
    """
    tries = [enlarged] if enlarged else [2**k for k in range(MOST.bit_length())]
    side = _only_size(network)
    failed = ""
    trials = (
        [(1, side)] if side else [*((times, None) for times in tries), *((1, s) for s in _other_sizes(network, view))]
    )
    for times, side in trials:
        images = _noise(view * times if side is None else side)
        try:
            read = reader(network, images)
            found = read(images)
        except EncoderError as error:
            raise EncoderError(f"{label} {error}") from None
        except Exception as error:  # a user's network may raise anything
            failed = failed or first_line(error)
            continue
        failed = ""
        _check(found, label)
        if enlarged or side or min(found.dense.shape[2:]) >= CELLS or times == MOST:
            break
    if failed:
        takes = f"images of {view} x {view} pixels" + ("" if side or enlarged else f", or up to {MOST} times as large")
        raise EncoderError(f"{label} takes no {takes}: {failed}")
    if not all(torch.equal(a, b) for a, b in zip(found, read(images), strict=True)):
        raise EncoderError(f"{label} gives other features when it sees the same images again: they cannot be kept")
    if len(read(images[:1]).dense) != 1:
        raise EncoderError(f"{label} gives one image the features of several")
    parts, uncut = _parts(network, read, times, side)
    grid = found.dense.shape[2], found.dense.shape[3]
    shape = Shape(found.dense.shape[1], found.pooled.shape[1], grid, times, side, uncut)
    return FrozenEncoder(network, read, shape, parts)


def normalisation(network: Any) -> tuple[Channels | None, Channels | None]:
    """Look up what a network's pixels are normalised by: its ``mean`` and ``std``, or timm's configuration."""
    said = getattr(network, "pretrained_cfg", None) or {}
    found: list[Channels] = []
    for name in ("mean", "std"):
        own = getattr(network, name, None)
        value: Any = own if isinstance(own, (tuple, list)) else said.get(name)
        ok = isinstance(value, (tuple, list)) and len(value) == 3 and all(isinstance(v, (int, float)) for v in value)
        if ok:
            found.append((float(value[0]), float(value[1]), float(value[2])))
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _check(found: Features, label: str) -> None:
    dense, pooled = found
    if not isinstance(dense, Tensor) or not isinstance(pooled, Tensor) or dense.ndim != 4 or pooled.ndim != 2:
        raise EncoderError(f"{label} gives {told(tuple(found))}: it must give a map (B, C, H, W) and a feature (B, C)")
    if dense.shape[2] != dense.shape[3]:
        raise EncoderError(f"{label} gives {told(dense)} for square images: channels come first, (B, C, H, W)")
    if len(dense) != 2 or len(pooled) != 2 or 0 in dense.shape:
        raise EncoderError(f"{label} gives {told(tuple(found))} for 2 images")
    if not bool(torch.isfinite(dense).all() & torch.isfinite(pooled).all()):
        raise Diverged("features are not finite")


def _parts(network: nn.Module, read: Read, times: int, side: int | None) -> tuple[Encoder | None, str]:
    if side is not None:
        return None, f"sees every image resized to {side} x {side}"
    try:
        return cut(network, read, _noise(128), times), ""
    except EncoderError as error:
        return None, str(error)
    except Exception as error:  # a user's network may raise anything
        return None, f"takes no images of 128 x 128: {first_line(error)}"


def _only_size(network: Any) -> int | None:
    """Find the one image size that a network takes, as torchvision's vision transformers; None for any size."""
    if isinstance(size := getattr(network, "image_size", None), int):
        return size
    patches = getattr(network, "patch_embed", None)
    if getattr(patches, "strict_img_size", False) and not getattr(network, "dynamic_img_size", False):
        size = getattr(patches, "img_size", None)
        return int(size[0]) if size else None
    return None


def _other_sizes(network: Any, view: int) -> list[int]:
    """List sizes to try where a network takes no multiple of a view: whole patches, and timm's own size."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    sizes = [patch[0] * max(CELLS, -(-view // patch[0]))] if isinstance(patch, tuple) else []
    made_for = (getattr(network, "pretrained_cfg", None) or {}).get("input_size")
    return sizes + ([int(made_for[-1])] if made_for else [])


def _noise(side: int) -> Tensor:
    """Draw two images of pixels like those that encoders see."""
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
