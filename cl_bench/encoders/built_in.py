"""Encoders in the two parts of R18-C4 detection, a trunk (C4) and a last stage (res5), and projection heads."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from cl_bench.encoders.features import Features, pooled, unit, widened
from cl_bench.spec import Padding

N = TypeVar("N", bound=nn.Module)


class Encoder(nn.Module):
    """A backbone in two parts, divided as in a C4 detector.

    Attributes:
        trunk: First part, (B, 3, H, W) -> (B, trunk_channels, H / trunk_stride, W / trunk_stride).
        last: Last stage, which halves the resolution: -> (B, channels, H / (2 trunk_stride), ...).
    """

    def __init__(
        self, trunk: nn.Module, last: nn.Module, trunk_channels: int, channels: int, trunk_stride: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.last = last
        self.trunk_channels = trunk_channels
        self.channels = channels
        self.trunk_stride = trunk_stride

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) normalised images to the (B, channels, h, w) feature map, before any pooling or head."""
        out: Tensor = self.last(self.trunk(images))
        return out

    def features(self, images: Tensor) -> Features:
        """Compute the feature map of normalised images (B, 3, H, W), and its mean."""
        feature_map = self(images)
        return Features(feature_map, pooled(feature_map).squeeze(1))


def to_channels_last(network: N, device: torch.device) -> N:
    """Move a network to a device, with its weights in the layout in which convolutions are fastest there."""
    moved: N = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    return moved


def build_encoder(name: str, padding: Padding = "zeros") -> Encoder:
    """Build an untrained encoder; its weights come from torch's global generator.

    Args:
        name: ``resnet18`` (torchvision's, C4 trunk of stride 16, 512 channels) or ``small_cnn`` (five convolutions of
            the same shape, trunk of stride 4, 128 channels; ours, for two CPU cores).
        padding: Padding of every convolution. With ``zeros`` (as published) the border reveals the place of a cell in a
            small map, which index-wise matching rewards; ``reflect`` pads with the image's own pixels instead.
    """
    encoder = _zero_padded(name)
    if padding == "reflect":
        reflect(encoder)
    return encoder


def reflect(network: nn.Module) -> None:
    """Make every padded convolution of a network reflect its input at the border; weights and names stay."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and not isinstance(child.padding, str) and any(child.padding):
                setattr(module, name, ReflectingConv2d(child))


class ReflectingConv2d(nn.Conv2d):
    """A convolution with ``padding_mode="reflect"``; for maps that are too small for that, the edge is repeated."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Replace ``conv``, with the same parameters."""
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # a pair, as torch's stubs have it for the attribute only
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode="reflect",
            device="meta",  # no random numbers are drawn
        )
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) -> (B, C', h, w)."""
        high, wide = int(self.padding[0]), int(self.padding[1])
        mode = "reflect" if x.shape[-2] > high and x.shape[-1] > wide else "replicate"
        padded = nn.functional.pad(x, (wide, wide, high, high), mode=mode)
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _zero_padded(name: str) -> Encoder:
    if name == "resnet18":
        import torchvision  # slow to import, and only this encoder needs it

        net = torchvision.models.resnet18(weights=None)
        trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
        return Encoder(trunk, net.layer4, trunk_channels=256, channels=512, trunk_stride=16)
    trunk = nn.Sequential(_conv(3, 32, 2), _conv(32, 64, 2), _conv(64, 64, 1))
    return Encoder(trunk, nn.Sequential(_conv(64, 128, 2), _conv(128, 128, 1)), 64, 128, trunk_stride=4)


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class ProjectionHead(nn.Module):
    """Two layers on each vector, fc -> ReLU -> fc; on cells these are DenseCL's two 1x1 convolutions."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Project (B, P, C) features to (B, P, D) unit-norm projections."""
        return unit(widened(self.net(features)))
