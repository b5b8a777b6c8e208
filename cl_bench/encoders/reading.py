"""Reading the dense and the pooled feature of a network: from maps, from tokens, from layers in a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.encoders.built_in import Encoder
from cl_bench.encoders.features import Features, pooled, widened
from cl_bench.errors import EncoderError

Read = Callable[[Tensor], Features]
"""Normalised images (B, 3, H, W) -> both kinds of features."""

ROWS: tuple[tuple[str, ...], ...] = (
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # torchvision's ResNets
    ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # timm's
    ("stem", "stages", "norm_pre"),  # timm's ConvNeXt
    ("stem", "s1", "s2", "s3", "s4", "final_conv"),  # timm's RegNet
    ("stem", "trunk_output"),  # torchvision's RegNet
    ("conv_stem", "bn1", "blocks", "conv_head", "bn2"),  # timm's EfficientNet
    ("trunk", "last"),
    ("features", "norm", "permute"),  # torchvision's Swin
    ("features",),  # torchvision's VGG, DenseNet, MobileNet, EfficientNet, ConvNeXt
)
"""Names of layers that follow one another in networks that many use; what they say is proved before it is used."""


def layers_in_a_row(network: nn.Module) -> list[list[nn.Module]]:
    """List sequences of layers that may, one after the other, be what a network computes before any pooling."""
    rows = [[*network]] if type(network) is nn.Sequential else []
    for names in ROWS:
        found = [getattr(network, name, None) for name in names]
        if all(isinstance(layer, nn.Module) for layer in found):
            rows.append([layer for layer in found if isinstance(layer, nn.Module)])
    return rows


def reader(network: nn.Module, images: Tensor) -> Read:
    """Find out how the features of a network are read, by giving it these images.

    In this order: a built-in encoder's own; ``forward_features`` (timm), pooled by its ``forward_head``; what it
    returns, where that is a map, tokens, or a pair of map and pooled feature; torchvision's vision transformers before
    their head; layers in a row, before any pooling.

    Raises:
        EncoderError: None of these gives a map.
    """
    if isinstance(network, Encoder):
        return network.features
    if callable(getattr(network, "forward_features", None)):
        return partial(_timm, network)
    returned = network(images)
    if not _is_flat(returned):
        return lambda x: _features(network(x), x, network)
    if _is_torchvision_transformer(network):
        return partial(_torchvision_transformer, network)
    for row in layers_in_a_row(network):
        found = _passed(row, images)
        if found is not None and found.ndim == 4:
            return lambda x, row=row: _of_map(_through(row, x))  # type: ignore[misc]
    raise EncoderError(f"gives {told(returned)}, and has no layers known here to give one: {WANTED}")


WANTED = (
    "an encoder gives a map (B, C, H, W), tokens (B, N, C), or a pair (map, pooled feature (B, C)); "
    "wrap the network in a file of your own, FILE.py:build"
)


def told(value: object) -> str:
    """Describe what a network returned by its shape, or its type."""
    if isinstance(value, Tensor):
        return f"({', '.join(map(str, value.shape))})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(told, value))})"
    return type(value).__name__


def _is_flat(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _timm(network: nn.Module, images: Tensor) -> Features:
    raw = network.forward_features(images)  # type: ignore[operator]
    found = _features(raw, images, network)
    head = getattr(network, "forward_head", None)
    if callable(head) and isinstance(raw, Tensor):
        own = head(raw, pre_logits=True)
        if isinstance(own, Tensor) and own.ndim == 2:
            return Features(found.dense, widened(own))
    return found


def _features(value: Any, images: Tensor, network: nn.Module) -> Features:
    """Extract both features from whatever a network returned.

    Raises:
        EncoderError: There is no map in it.
    """
    if isinstance(value, Mapping) and "x_norm_patchtokens" in value:  # DINOv2's own code
        return Features(_grid(value["x_norm_patchtokens"], images), widened(value["x_norm_clstoken"]))
    if (hidden := getattr(value, "last_hidden_state", None)) is not None:  # Hugging Face's
        value = hidden
    if isinstance(value, (tuple, list)) and len(value) == 2 and _is_flat(value[1]):
        return Features(_features(value[0], images, network).dense, widened(value[1]))
    if not isinstance(value, Tensor) or value.ndim not in (3, 4) or not value.is_floating_point():
        raise EncoderError(f"gives {told(value)}: {WANTED}")
    if value.ndim == 4:
        last = getattr(network, "num_features", None)
        channels_last = last == value.shape[3] and last != value.shape[1]  # as timm's Swin
        return _of_map(value.permute(0, 3, 1, 2) if channels_last else value)
    return _of_tokens(value, images, getattr(network, "num_prefix_tokens", None))


def _of_map(feature_map: Tensor) -> Features:
    feature_map = widened(feature_map)
    return Features(feature_map, pooled(feature_map).squeeze(1))


def _of_tokens(tokens: Tensor, images: Tensor, prefix: int | None) -> Features:
    """Read tokens (B, N, C): patches as a grid; the class token, or the patches' mean, as the pooled feature.

    How many tokens stand before those of patches is 0 or 1 where the network does not say.
    """
    tokens = widened(tokens)
    before = [prefix] if isinstance(prefix, int) else [n for n in (0, 1) if _sides(tokens.shape[1] - n, images)]
    if not before or not _sides(tokens.shape[1] - before[0], images):
        aside = f" without the {prefix} before them" if prefix else ""
        size = f"{images.shape[2]} x {images.shape[3]}"
        raise EncoderError(f"gives {tokens.shape[1]} tokens{aside} for images of {size}, which make no grid: {WANTED}")
    grid = _grid(tokens[:, before[0] :], images)
    return Features(grid, tokens[:, 0] if before[0] else pooled(grid).squeeze(1))


def _grid(tokens: Tensor, images: Tensor) -> Tensor:
    """Arrange tokens (B, N, C) as a map (B, C, h, w), row by row, of the images' aspect."""
    sides = _sides(tokens.shape[1], images)
    if sides is None:
        raise EncoderError(f"gives {tokens.shape[1]} tokens, which make no grid")
    return widened(tokens).transpose(1, 2).reshape(len(tokens), -1, *sides)


def _sides(count: int, images: Tensor) -> tuple[int, int] | None:
    high = round((count * images.shape[2] / images.shape[3]) ** 0.5) if count > 0 else 0
    return (high, count // high) if high and count % high == 0 else None


def _is_torchvision_transformer(network: nn.Module) -> bool:
    return all(hasattr(network, name) for name in ("_process_input", "class_token", "encoder"))


def _torchvision_transformer(network: Any, images: Tensor) -> Features:
    tokens = network._process_input(images)
    tokens = network.encoder(torch.cat([network.class_token.expand(len(tokens), -1, -1), tokens], 1))
    return _of_tokens(tokens, images, 1)


def _through(row: Sequence[nn.Module], images: Tensor) -> Tensor:
    for layer in row:
        images = layer(images)
    return images


def _passed(row: Sequence[nn.Module], images: Tensor) -> Tensor | None:
    """Apply layers one after the other; None where they do not fit together."""
    try:
        found = _through(row, images)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    return found if isinstance(found, Tensor) else None
