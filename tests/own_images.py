"""Images as users have them: folders, VOC's and COCO's formats with names of their own, and files that are not well."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHAPE = (20, 28)
"""Height and width of a usual image."""
Box = tuple[str, float, float, float, float]


def picture(seed: int, shape: tuple[int, int] = SHAPE) -> Image.Image:
    """Draw a gradient between two colours that the seed decides: compressed well, and no two alike."""
    ends = np.random.default_rng(seed).integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, shape[0] * shape[1]).reshape(*shape, 1)
    return Image.fromarray((ends[0] * (1 - slope) + ends[1] * slope).astype(np.uint8))


def save(path: Path, seed: int, shape: tuple[int, int] = SHAPE, turn: int = 1) -> Path:
    """Write a picture in a file of that extension's format, with an EXIF orientation where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    more: dict[str, Any] = {"exif": exif} if turn != 1 else {}
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper())
    picture(seed, shape).save(path, kind, **more)
    return path


def write_folder(root: Path, images: int = 6, classes: Sequence[str] = ("cat", "dog"), first: int = 0) -> Path:
    """Write so many images a class."""
    for c, name in enumerate(classes):
        for i in range(images):
            save(root / name / f"{i:03d}.png", first + 100 * c + i)
    return root


def xml(boxes: Sequence[Box], shape: tuple[int, int] | None = SHAPE, more: str = "") -> str:
    """Write VOC's XML without what is optional; corners as VOC counts them."""
    size = "" if shape is None else f"<size><width>{shape[1]}</width><height>{shape[0]}</height></size>"
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    return f"<annotation>{size}{objects}{more}</annotation>"


def write_voc(root: Path, splits: Mapping[str, Sequence[str]], boxes: Sequence[Box] = (("hen", 2, 3, 9, 12),)) -> Path:
    """Write every image with the same boxes; a split lists the names of its images, with their extensions."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, names in splits.items():
        for name in names:
            save(root / "JPEGImages" / name, sum(name.encode()))
            (root / "Annotations" / f"{Path(name).stem}.xml").write_text(xml(boxes))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{Path(n).stem}\n" for n in names))
    return root


def coco(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """Make COCO's JSON with as little as it may have: one box an image, of two categories in turn."""
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "bbox": [1, 2, 8, 9], "category_id": 5 + i % 2} for i in range(len(names))],
        "categories": [{"id": 6, "name": "hen"}, {"id": 5, "name": "a fox"}],
        **more,
    }


def write_coco(root: Path, split: str, names: Sequence[str], place: str = "annotations/{}.json", **more: Any) -> Path:
    """Write the JSON and, in a folder named as the split, its images."""
    for i, name in enumerate(names):
        save(root / split / name, i)
    path = root / place.format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco(names, **more)))
    return root


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int = 50_000) -> bytes:
    """Make a PNG that says it has so many pixels a side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def truncated() -> bytes:
    """Return the first three quarters of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) * 3 // 4]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"


def fifo(path: Path) -> None:
    """Make a pipe that nobody writes into."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
