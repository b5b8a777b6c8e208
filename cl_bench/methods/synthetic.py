"""Synthetic views of random images on which a method is tried without data or an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from cl_bench.data.views import Geometry, crop_boxes
from cl_bench.encoders import unit, unit_and_norm
from cl_bench.errors import MethodError
from cl_bench.losses.types import DenseViews
from cl_bench.methods.method import Method
from cl_bench.spec import AugmentSpec, ViewPolicy

IMAGES, GRID, CHANNELS, PROJECTION = 4, (3, 4), 16, 8
SIDE = 32  # pixels of the source images


def synthetic_views(
    method: Method,
    device: torch.device,
    policy: ViewPolicy = "overlapping",
    grid: tuple[int, int] | None = None,
    images: int = IMAGES,
    projection: int = PROJECTION,
    seed: int = 0,
) -> DenseViews:
    """Make two views of random smooth images in the form that training gives to the method, float32.

    Features are a function of the place in the source image plus noise, so that cells that overlap are similar.
    """
    grid = grid or grid_of(method)
    P = grid[0] * grid[1]
    draws = torch.Generator().manual_seed(seed)
    augment = AugmentSpec(size=SIDE, flip=0.5)
    waves = torch.randn(images, 2, CHANNELS, generator=draws) * 6
    mix = torch.randn(images, CHANNELS, CHANNELS, generator=draws)
    to_z = torch.randn(CHANNELS, projection, generator=draws)
    parts: dict[str, Tensor] = {}
    for view, boxes in enumerate(crop_boxes(images, SIDE, SIDE, augment, policy, draws), 1):
        flips = torch.rand(images, generator=draws) < augment.flip
        xy, size = Geometry(boxes.float(), flips, SIDE, SIDE).cells(grid)
        features = torch.cos(xy @ waves) @ mix + torch.randn(images, P, CHANNELS, generator=draws)
        h, norm = unit_and_norm(features)
        z = unit(features @ to_z + torch.randn(images, P, projection, generator=draws))
        parts |= {f"z{view}": z, f"h{view}": h, f"norm{view}": norm, f"xy{view}": xy, f"size{view}": size}
    return DenseViews(**{name: t.to(device) for name, t in parts.items()}, grid=grid)


def try_options(method: Method) -> None:
    """Match synthetic views with options that differ from the defaults, so that a bad value is reported at once.

    Raises:
        MethodError: If the method fails with these options, and does not with its defaults.
    """
    if method.options == method.defaults() or type(method).match is Method.match:
        return
    views = synthetic_views(method, torch.device("cpu"))
    try:
        method.matches(views)
    except MethodError:
        try:
            type(method)().matches(views)
        except MethodError:  # not the options' fault: the method's own cases fail, and the others run
            return
        raise


def grid_of(method: Method) -> tuple[int, int]:
    """Return (H, W) of a method's views; not square, so that mixing up rows and columns shows."""
    return (1, 1) if method.level == "instance" else GRID


def each(views: DenseViews, change: Callable[[Tensor], Tensor]) -> DenseViews:
    """Return the views with ``change`` applied to every tensor."""
    tensors = {f.name: getattr(views, f.name) for f in fields(views) if f.name != "grid"}
    return changed(views, {name: change(t) for name, t in tensors.items()})


def only(views: DenseViews, image: int) -> DenseViews:
    """Return the views of one image of the batch."""
    return each(views, lambda t: t[image : image + 1])


def changed(views: DenseViews, tensors: Mapping[str, Tensor]) -> DenseViews:
    """Return the views with some tensors replaced, by name."""
    return replace(views, **tensors)  # type: ignore[arg-type]  # grid, no tensor, is not among them


def double(views: DenseViews) -> DenseViews:
    """Return the views in float64, detached, with projections that are unit-norm in float64."""
    exact = each(views, lambda t: t.detach().double())
    return replace(exact, z1=unit(exact.z1), z2=unit(exact.z2))
