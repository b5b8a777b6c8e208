"""Small pictures of images with their two views, and of the cells of two views that a method matches."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cl_bench.compute.pretraining import kept_encoder
from cl_bench.compute.record import read_status
from cl_bench.spec import RunSpec
from cl_bench.store import Store

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from cl_bench.data import DataPaths
    from cl_bench.encoders import Encoder
    from cl_bench.losses.types import DenseViews, Match
    from cl_bench.methods.registry import Registry
    from cl_bench.train.view_batches import PairOfViews

SAMPLES, PAIRS = 6, 2
"""Images of a sample, and pairs of views on which matched cells are shown."""
TILE, VIEW, GAP = 72, 168, 28
"""Sides in pixels of an image in a sample and of a view with matched cells, and what lies between two views."""
FAINTEST = 0.1
"""Share of a cell's weight from which its line is drawn."""
RIGHT, WRONG = (64, 220, 120), (255, 96, 96)


@dataclass(frozen=True)
class Drawn:
    """Picture as a WebP file, with its heading and its caption."""

    group: str
    caption: str
    content: bytes


def pictures(specs: Sequence[RunSpec], store: Store, registry: Registry, places: DataPaths | None) -> list[Drawn]:
    """Draw samples of the data and views, and the matched cells of each method that matches cells.

    Pictures whose data or plugin is missing or fails are left out.

    Args:
        specs: One encoder per row, such as its best; an untrained one replaces it if the store does not hold it.
        store: Store of the encoders.
        registry: Registry of the methods.
        places: Folders of data sets.
    """
    seen = {(spec.measure.data, spec.pretrain.views): spec for spec in reversed(specs)}
    drawn = [_tried(_samples, spec, places) for spec in reversed(seen.values())]
    drawn += [
        _tried(_matched, spec, places, store, registry) for spec in specs if spec.pretrain.method.level == "dense"
    ]
    return [picture for picture in drawn if picture is not None]


def _tried(draw: Callable[..., Drawn | None], *arguments: object) -> Drawn | None:
    try:
        return draw(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a plugin may raise anything; the report does without its picture
        return None


def _about(spec: RunSpec) -> str:
    return f"{spec.pretrain.data.label.replace('_', '-')} data, {spec.pretrain.views} views"


def _samples(spec: RunSpec, places: DataPaths | None) -> Drawn:
    """Draw images, each above its two views."""
    from PIL import Image

    images, pair = _pair(spec, places, SAMPLES)
    seen = [_pixels(view, spec) for view, _ in pair]
    sheet = Image.new("RGB", (SAMPLES * (TILE + 4), 3 * (TILE + 4)), "white")
    for line, tiles in enumerate((images, *seen)):
        for k, tile in enumerate(tiles):
            sheet.paste(_fitted(tile, TILE), (k * (TILE + 4), line * (TILE + 4)))
    return Drawn("Images and their two views", f"{_about(spec)}: held-out images, each above its views", _webp(sheet))


def _matched(spec: RunSpec, places: DataPaths | None, store: Store, registry: Registry) -> Drawn | None:
    """Draw two views side by side, with a line from each cell to its positives."""
    import torch
    from PIL import Image

    from cl_bench.train.forward import forward
    from cl_bench.train.rng import seeded

    method = registry.resolve(str(spec.pretrain.method))
    encoder, trained = _encoder(spec, store)
    _, pair = _pair(spec, places, 2 * PAIRS)
    with seeded(spec.pretrain.seed + 1, torch.device("cpu")), torch.no_grad():
        head = method.build_head(encoder, spec.pretrain.encoder)
        views = forward(encoder, head, method, pair)
        match, _ = method.matches(views)
    sheet = Image.new("RGB", (2 * VIEW + GAP, PAIRS * (VIEW + 8) - 8), "white")
    seen = [_pixels(view, spec) for view, _ in pair]
    for b in range(min(PAIRS, len(seen[0]))):
        sheet.paste(_one_pair([view[b] for view in seen], match, views, b), (0, b * (VIEW + 8)))
    by = f"encoder {spec.case}" if trained else "an untrained encoder"
    caption = f"{spec.pretrain.method}, {_about(spec)}, {by}: a line from each cell to its positives"
    return Drawn("Matched cells", f"{caption}; green where both show the same place", _webp(sheet))


def _encoder(spec: RunSpec, store: Store) -> tuple[Encoder, bool]:
    """Return the stored encoder, or an untrained one, and whether it is the stored one."""
    from cl_bench.train.training import untrained

    run = store.run(spec.pretrain.key)
    status = read_status(run) or {}
    kept = kept_encoder(spec.pretrain, run, status["encoder_sha256"]) if "encoder_sha256" in status else None
    return (untrained(spec.pretrain).eval(), False) if kept is None else (kept, True)


def _pair(spec: RunSpec, places: DataPaths | None, count: int) -> tuple[list[torch.Tensor], PairOfViews]:
    """Return the first held-out images of a row, (3, h, w) uint8, and their two views."""
    import torch

    from cl_bench.data import load
    from cl_bench.data.views import two_views

    data = load(spec.measure.data, places)
    images = [data.images[i] for i in range(min(count, len(data)))]
    batch = torch.stack(images) if isinstance(data.images, torch.Tensor) else images
    drawn = two_views(batch, spec.pretrain.augment, spec.pretrain.views, torch.Generator().manual_seed(0))
    return images, drawn


def _pixels(views: torch.Tensor, spec: RunSpec) -> list[torch.Tensor]:
    """Return each normalised view as (3, size, size) uint8."""
    import torch

    augment = spec.pretrain.augment
    mean, std = (torch.tensor(v)[:, None, None] for v in (augment.mean, augment.std))
    return [((view * std + mean).clamp(0, 1) * 255).round().byte() for view in views]


def _fitted(image: torch.Tensor, side: int) -> Image.Image:
    """Return an image scaled to fit a square of that side, with its aspect kept."""
    from PIL import Image

    whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(whole.size)
    size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
    return whole.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _one_pair(seen: Sequence[torch.Tensor], match: Match, views: DenseViews, b: int) -> Image.Image:
    from PIL import Image, ImageDraw

    from cl_bench.losses.types import cells_overlap

    picture = Image.new("RGBA", (2 * VIEW + GAP, VIEW), "white")
    for k, view in enumerate(seen):
        picture.paste(_fitted(view, VIEW).resize((VIEW, VIEW)), (k * (VIEW + GAP), 0))
    H, W = views.grid
    lines = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(lines)
    for left in (0, VIEW + GAP):
        for k in range(1, max(H, W)):
            x, y = left + k * VIEW / W, k * VIEW / H
            draw.line([(x, 0), (x, VIEW)], fill=(255, 255, 255, 90 if k < W else 0))
            draw.line([(left, y), (left + VIEW, y)], fill=(255, 255, 255, 90 if k < H else 0))
    weights = match.dense(views.xy1.dtype)[b]
    overlap = cells_overlap(views)[b]

    def centre(cell: int, left: int) -> tuple[float, float]:
        row, column = divmod(cell, W)
        lower = 0.4 * ((column + 0.5) / W - 0.5)  # or the lines of one row of cells would lie on each other
        return left + (column + 0.5) * VIEW / W, (row + 0.5 + lower) * VIEW / H

    for p, q in (weights >= FAINTEST).nonzero().tolist():
        shade = RIGHT if bool(overlap[p, q]) else WRONG
        ends = [centre(p, 0), centre(q, VIEW + GAP)]
        draw.line(ends, fill=(*shade, round(60 + 195 * float(weights[p, q]))), width=2)
        for x, y in ends:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=(*shade, 255), outline=(0, 0, 0, 255))
    return Image.alpha_composite(picture, lines).convert("RGB")


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=82, method=4)
    return out.getvalue()
