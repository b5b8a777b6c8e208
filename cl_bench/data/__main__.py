"""Contact sheets of the data as PNG: ``python -m cl_bench.data [--profile NAME] [--out DIR]``.

``--prepare`` decodes the profile's data sets instead, and ``--verify`` checks all decoded data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.utils import draw_bounding_boxes, make_grid, save_image

from cl_bench.commands.data import add_arguments
from cl_bench.data import DataPaths, Dataset, load, prepare, verify
from cl_bench.data.views import two_views
from cl_bench.errors import DataError, SpecError, check_folder, of_file
from cl_bench.spec import AugmentSpec, DataSpec, FilesSpec, ViewPolicy
from cl_bench.spec.profile import Profile
from cl_bench.spec.profile_files import load_profile
from cl_bench.store import Store

COLUMNS, ROWS, TILE = 12, 6, 96


def tile(image: Tensor) -> Tensor:
    """Fit a (3, h, w) uint8 image into (3, TILE, TILE); its aspect ratio is kept, and the rest is white."""
    scale = TILE / max(image.shape[1:])
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    mode = {"mode": "nearest"} if scale > 1 else {"mode": "bilinear", "antialias": True}
    small = interpolate(image[None].float(), size=size, **mode)[0].round().byte()
    return pad(small, (0, TILE - size[1], 0, TILE - size[0]), value=255)


def sheet(data: Dataset) -> Tensor:
    """Draw the first images, with boxes if they have any, as (3, H, W) in [0, 1]."""
    tiles = []
    for i in range(min(COLUMNS * ROWS, len(data))):
        image = data.images[i]
        shown = tile(image)
        if data.boxes is not None and data.box_labels is not None and len(data.boxes[i]):
            names = [data.classes[int(label)] for label in data.box_labels[i]]
            scale = TILE / max(image.shape[1:])
            shown = draw_bounding_boxes(shown, data.boxes[i] * scale, names, colors="yellow")
        tiles.append(shown.float() / 255)
    grid: Tensor = make_grid(tiles, COLUMNS, pad_value=1.0)
    return grid


def view_sheet(data: Dataset, augment: AugmentSpec, policy: ViewPolicy) -> Tensor:
    """Draw images, each followed by its two views, as (3, H, W) in [0, 1]."""
    first = [data.images[i] for i in range(min(COLUMNS // 3 * ROWS, len(data)))]
    images = torch.stack(first) if isinstance(data.images, Tensor) else first
    views = two_views(images, augment, policy, torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (augment.mean, augment.std))
    seen = [((view * std + mean).clamp(0, 1) * 255).byte() for view, _ in views]
    tiles = [tile(image) for triple in zip(first, *seen, strict=True) for image in triple]
    grid: Tensor = make_grid([t.float() / 255 for t in tiles], COLUMNS, pad_value=1.0)
    return grid


def specs(profile: Profile) -> list[DataSpec]:
    """Return every data set of a profile, once."""
    kinds = profile.single_object, profile.multi_object
    pretraining = [spec for kind in kinds for spec in (kind.data, kind.heldout)]
    ours = profile.linear, profile.detection
    return list(dict.fromkeys([*pretraining, *(spec for part in ours for spec in (part.train, part.test))]))


def write_sheets(profile: Profile, places: DataPaths, out: Path) -> None:
    """Write a sheet for each data set that something is trained on, and one for each view policy."""
    sheets = {part: sheet(load(getattr(profile, part).train, places)) for part in ("detection", "linear")}
    for name, sources in (("single_object", profile.single_object), ("multi_object", profile.multi_object)):
        data = load(sources.data, places)
        sheets[name] = sheet(data)
        sheets[f"{name}-overlapping"] = view_sheet(data, sources.augment, "overlapping")
        sheets[f"{name}-disjoint"] = view_sheet(data, sources.augment, "disjoint")
    out.mkdir(parents=True, exist_ok=True)
    for name, image in sheets.items():
        path = out / f"{name}.png"
        save_image(image, path)
        print(path)


def each(work: Callable[..., None], wanted: Sequence[DataSpec], places: DataPaths, outcome: str) -> None:
    """Apply ``work`` to each data set on disk, with a progress bar."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    on_disk = [spec for spec in wanted if isinstance(spec, FilesSpec)]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        for spec in on_disk:
            work(spec, places, show)
            print(f"{spec.name} {spec.split}: {outcome}")
    if not on_disk:
        print("no data set on disk: scenes are drawn")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cl_bench.data", description="Look at the data, or get it ready.", allow_abbrev=False
    )
    add_arguments(parser)
    sys.exit(work(parser.parse_args(), parser.prog))


def work(arguments: argparse.Namespace, program: str) -> int:
    """Prepare, verify or draw, as the arguments of ``cl-bench data`` say.

    Args:
        arguments: Parsed.
        program: The command, named where something is wrong.

    Returns:
        The exit status: 4 for a mistake in the arguments or in the data; 1 where ``--verify`` finds something wrong
        or a file cannot be read or written.
    """
    try:
        profile = load_profile(arguments.profile, data_root=arguments.data_root)
        on_disk = any(isinstance(spec, FilesSpec) for spec in specs(profile))
        root = Store(arguments.store).root if on_disk else arguments.store  # scenes leave nothing behind
        places = DataPaths(arguments.data_root, root / "data")
        if arguments.prepare:
            each(prepare, specs(profile), places, "decoded")
        if arguments.verify:
            each(verify, specs(profile), places, "whole")
        if not arguments.prepare and not arguments.verify:
            check_folder("--sheet", arguments.out)
            write_sheets(profile, places, arguments.out)
    except SpecError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1 if arguments.verify and isinstance(error, DataError) else 4
    except OSError as error:
        print(f"{program}: {of_file(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
