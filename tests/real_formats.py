"""Tiny data sets in the formats of STL-10, COCO and VOC, drawn from the embedded scenes, so that they can be learned.

``python tests/real_formats.py DIR`` writes all of them, for a run with ``--data-root DIR``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import drawn_scenes
from PIL import Image

from cl_bench.data.voc import CLASSES

STL_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""The 80 ids that COCO 2017 has boxes of; a scene's digit ``d`` is written as the ``8 d``-th of them."""
SHAPES = ((64, 80), (80, 64), (72, 72))
"""Height and width of the images, in turn."""


class Odd(NamedTuple):
    """Indices of the images that are unusual, by kind."""

    grey: Collection[int] = ()
    cmyk: Collection[int] = ()
    empty: Collection[int] = ()
    outside: Collection[int] = ()
    difficult: Collection[int] = ()
    crowd: Collection[int] = ()
    truncated: Collection[int] = ()
    missing: Collection[int] = ()
    misstated: Collection[int] = ()


USUAL = Odd(grey={2}, empty={4}, outside={5}, difficult={6}, crowd={7})
"""Unusual images that the published sets contain; none of them is an error."""


def write_stl10(root: Path, train: int = 40, test: int = 40, unlabeled: int = 60) -> None:
    """``stl10_binary``: planes of bytes, column by column; labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, split, seed in (
        ("train", train, "train", 0),
        ("test", test, "test", 0),
        ("unlabeled", unlabeled, "train", 1),
    ):
        data = drawn_scenes("single_object", split, count, 96, seed)
        (folder / f"{name}_X.bin").write_bytes(data.images.permute(0, 1, 3, 2).numpy().tobytes())
        if name != "unlabeled":
            (folder / f"{name}_y.bin").write_bytes((data.labels.numpy() + 1).astype(np.uint8).tobytes())
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in STL_CLASSES))


def write_coco(root: Path, split: str = "train2017", images: int = 12, odd: Odd = USUAL) -> None:
    """``coco``: ids neither consecutive nor in the order of the list, annotations in no order."""
    folder = root / "coco"
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    listed, annotations = [], []
    for i, (pixels, boxes, labels) in enumerate(_scenes("test" if split == "val2017" else "train", images, seed=2)):
        name, key = f"{7 * i + 9:012d}.jpg", 7 * i + 9
        _save(folder / split / name, pixels, i, odd)
        height, width = pixels.shape[:2]
        listed.append({"id": key, "file_name": name, "height": height + (i in odd.misstated), "width": width})
        for x1, y1, x2, y2, label in [] if i in odd.empty else [(*b, d) for b, d in zip(boxes, labels, strict=True)]:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, "category_id": COCO_IDS[8 * label]}
            annotations.append({"image_id": key, "area": (x2 - x1) * (y2 - y1), **box})
        if i in odd.outside:
            for bbox in ([width - 5.5, -3, 40, 10], [width + 2, 3, 9, 9], [3, 3, 0, 5]):
                annotations.append({"image_id": key, "bbox": bbox, "iscrowd": 0, "category_id": 90})
        if i in odd.crowd:
            annotations.append({"image_id": key, "bbox": [0, 0, width, height], "iscrowd": 1, "category_id": 1})
    content = {
        "info": {},
        "images": listed[::-1],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations[1::2] + annotations[::2])],
        "categories": [{"id": i, "name": f"thing {i}", "supercategory": "thing"} for i in COCO_IDS[::-1]],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def write_voc(root: Path, year: int = 2007, part: str = "trainval", images: int = 12, odd: Odd = USUAL) -> None:
    """``VOCdevkit/VOC2007`` or ``VOC2012``: pixels count from 1, a box's last pixel is inside; ids as in any year."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for sub in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    names = []
    for i, (pixels, boxes, labels) in enumerate(_scenes("test" if part == "test" else "train", images, seed=year)):
        names.append(f"{2 * i + (part == 'test') + 1:06d}")
        _save(folder / "JPEGImages" / f"{names[-1]}.jpg", pixels, i, odd)
        height, width = pixels.shape[:2]
        objects = [] if i in odd.empty else [(CLASSES[d], *box) for box, d in zip(boxes, labels, strict=True)]
        if i in odd.outside:
            objects += [("dog", width - 5, 2, width + 9, 9), ("cat", 0, height + 3, 9, height + 8)]
        xml = "".join(
            f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int(i in odd.difficult and not n)}</difficult><bndbox><xmin>{x1 + 1:g}</xmin>"
            f"<ymin>{y1 + 1:g}</ymin><xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox></object>"
            for n, (name, x1, y1, x2, y2) in enumerate(objects)
        )
        size = f"<width>{width}</width><height>{height + (i in odd.misstated)}</height><depth>3</depth>"
        (folder / "Annotations" / f"{names[-1]}.xml").write_text(
            f"<annotation><folder>VOC{year}</folder><filename>{names[-1]}.jpg</filename><size>{size}</size>"
            f"<segmented>0</segmented>{xml}</annotation>"
        )
    (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))


def write_all(root: Path, images: int = 48, odd: Odd = USUAL) -> None:
    """Every split of every data set."""
    write_stl10(root, images, images, images)
    for split in ("train2017", "val2017"):
        write_coco(root, split, images, odd)
    for year, part in ((2007, "trainval"), (2007, "test"), (2012, "trainval")):
        write_voc(root, year, part, images, odd)


def _scenes(split: Any, images: int, seed: int) -> Iterator[tuple[np.ndarray, list[list[float]], list[int]]]:
    """(h, w, 3) pixels of various shapes, boxes and digits: square scenes, continued at their right and lower edge."""
    side = min(min(shape) for shape in SHAPES)
    data = drawn_scenes("multi_object", split, images, side, seed)
    for i in range(images):
        height, width = SHAPES[i % len(SHAPES)]
        pixels = data.images[i].permute(1, 2, 0).numpy()
        pixels = np.pad(pixels, ((0, height - side), (0, width - side), (0, 0)), mode="edge")
        yield pixels, data.boxes[i].tolist(), data.box_labels[i].tolist()


def _save(path: Path, pixels: np.ndarray, i: int, odd: Odd) -> None:
    if i in odd.missing:
        path.unlink(missing_ok=True)
        return
    image = Image.fromarray(pixels)
    image = image.convert("L") if i in odd.grey else image.convert("CMYK") if i in odd.cmyk else image
    image.save(path, quality=95)
    if i in odd.truncated:
        path.write_bytes(path.read_bytes()[:-200])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/real_formats.py DIR")
    write_all(Path(sys.argv[1]))
