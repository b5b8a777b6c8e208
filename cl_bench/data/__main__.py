"""Look at the data: ``python -m cl_bench.data [--profile NAME] [--out DIR]`` writes contact sheets as PNG."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

from cl_bench.data import Dataset, load
from cl_bench.errors import SpecError
from cl_bench.profile import load_profile
from cl_bench.spec import AugmentSpec, Views
from cl_bench.views import two_views

COLUMNS, ROWS, TILE = 12, 6, 96


def sheet(data: Dataset) -> Tensor:
    """(3, H, W) in [0, 1]: the first images, with their boxes where they have them."""
    tiles = []
    for i in range(min(COLUMNS * ROWS, len(data))):
        scale = TILE / data.images.shape[-1]
        image = interpolate(data.images[i : i + 1].float(), size=(TILE, TILE)).byte()[0]
        if data.boxes is not None and data.box_labels is not None:
            names = [data.classes[int(label)] for label in data.box_labels[i]]
            image = draw_bounding_boxes(image, data.boxes[i] * scale, names, colors="yellow")
        tiles.append(image.float() / 255)
    grid: Tensor = make_grid(tiles, COLUMNS, pad_value=1.0)
    return grid


def view_sheet(data: Dataset, augment: AugmentSpec, policy: Views) -> Tensor:
    """(3, H, W) in [0, 1]: images, each followed by its two views."""
    images = data.images[: COLUMNS // 3 * ROWS]
    (first, _), (second, _) = two_views(images, augment, policy, torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (augment.mean, augment.std))
    shown = [images.float() / 255, first * std + mean, second * std + mean]
    tiles = torch.stack([interpolate(x.clamp(0, 1), size=(TILE, TILE)) for x in shown], dim=1)
    grid: Tensor = make_grid(tiles.flatten(0, 1), COLUMNS, pad_value=1.0)
    return grid


def main() -> None:
    """Write a sheet for each set of images of a profile, and one for each policy of views."""
    parser = argparse.ArgumentParser(prog="python -m cl_bench.data", description="Write contact sheets as PNG.")
    parser.add_argument("--profile", default="smoke", help="name or TOML file (default: smoke)")
    parser.add_argument("--out", type=Path, default=Path("contact_sheets"), help="directory (default: contact_sheets)")
    arguments = parser.parse_args()
    try:
        profile = load_profile(arguments.profile)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (SpecError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    sheets = {"detection": sheet(load(profile.detection.train)), "linear": sheet(load(profile.linear.train))}
    for name, sources in (("single_object", profile.single_object), ("multi_object", profile.multi_object)):
        data = load(sources.data)
        sheets[name] = sheet(data)
        sheets[f"{name}-overlapping"] = view_sheet(data, sources.augment, "overlapping")
        sheets[f"{name}-disjoint"] = view_sheet(data, sources.augment, "disjoint")
    for name, image in sheets.items():
        path = arguments.out / f"{name}.png"
        save_image(image, path)
        print(path)


if __name__ == "__main__":
    main()
