"""A network cut in two where a C4 detector cuts it, and the proof that the parts are the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cl_bench.encoders.built_in import Encoder
from cl_bench.encoders.reading import Read, layers_in_a_row
from cl_bench.errors import EncoderError


class Enlarge(nn.Module):
    """Images that many times as large, each side, bilinearly."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, times H, times W)."""
        if self.times == 1:
            return images
        return nn.functional.interpolate(images, scale_factor=self.times, mode="bilinear", align_corners=False)


@torch.no_grad()
def cut(network: nn.Module, read: Read, images: Tensor, enlarged: int) -> Encoder:
    """Split a network's layers into trunk and last stage, before the last one with weights that shrinks the map.

    Args:
        network: In eval mode.
        read: How its features are had.
        images: (B, 3, S, S) to try it on, as they reach the network; S a multiple of its stride.
        enlarged: How many times images are enlarged before they reach the network; the trunk begins with that.

    Raises:
        EncoderError: Its layers are not known to follow one another, or do not give its map, or never shrink it; the
            message continues a sentence that begins with the network.
    """
    if isinstance(network, Encoder):
        return _scaled(network, enlarged)
    wanted = read(images).dense
    for row in layers_in_a_row(network):
        parts = list(row) if hasattr(network, "trunk") and len(row) == 2 else _unrolled(row)
        try:
            maps = _maps(parts, images)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            continue
        if not maps or maps[-1].shape != wanted.shape or not torch.allclose(maps[-1], wanted, rtol=1e-4, atol=1e-5):
            continue
        sides = [images.shape[-1], *(part.shape[-1] for part in maps)]
        smaller = [i for i in range(1, len(parts)) if sides[i + 1] < sides[i] and _has_weights(parts[i:])]
        if not smaller:
            raise EncoderError("has no last stage that makes the map smaller")
        at = smaller[-1]
        stride = images.shape[-1] / maps[at - 1].shape[-1]
        if stride != int(stride):
            raise EncoderError(f"has a trunk whose stride is not a whole number, {stride:g}")
        trunk, last = nn.Sequential(*parts[:at]), nn.Sequential(*parts[at:])
        encoder = Encoder(trunk, last, maps[at - 1].shape[1], wanted.shape[1], int(stride))
        return _scaled(encoder.eval(), enlarged)
    raise EncoderError("is not a sequence of layers of a known kind")


def _scaled(encoder: Encoder, enlarged: int) -> Encoder:
    if enlarged == 1:
        return encoder
    if encoder.trunk_stride % enlarged:
        raise EncoderError(
            f"has a trunk of stride {encoder.trunk_stride}, which is no multiple of {enlarged}, the factor by which "
            "images are enlarged"
        )
    trunk, stride = nn.Sequential(Enlarge(enlarged), encoder.trunk), encoder.trunk_stride // enlarged
    return Encoder(trunk, encoder.last, encoder.trunk_channels, encoder.channels, stride).eval()


def _maps(parts: Sequence[nn.Module], images: Tensor) -> list[Tensor]:
    """Compute the map after each part; none where a part gives no map."""
    found = [images]
    for part in parts:
        out = part(found[-1])
        if not isinstance(out, Tensor) or out.ndim != 4:
            return []
        found.append(out.clone())  # the next layer may write into it
    return found[1:]


def _unrolled(row: Sequence[nn.Module]) -> list[nn.Module]:
    """Take apart those layers that are nothing but a row themselves."""
    return [layer for part in row for layer in (_unrolled([*part]) if type(part) is nn.Sequential else [part])]


def _has_weights(parts: Sequence[nn.Module]) -> bool:
    return any(True for part in parts for _ in part.parameters())
