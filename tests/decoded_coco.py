"""A decoded part of COCO, and what must hold of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cl_bench.data import DataPaths, Dataset, load
from cl_bench.spec import COCOSpec

SPEC = COCOSpec(name="coco", split="train2017")
N = 12
SHARDS = 6


def fresh(places: DataPaths) -> Dataset:
    """Load as a process does that has nothing in memory."""
    load.cache_clear()
    return load(SPEC, places)


def folder(places: DataPaths) -> Path:
    (found,) = (p for p in places.cache.iterdir() if p.name != "set_aside")
    return found


def check(data: Dataset, places: DataPaths) -> None:
    """Pixels are Pillow's."""
    files = sorted((places.root / "coco" / "train2017").iterdir())
    assert len(data) == len(files) == N
    for i, path in enumerate(files):
        assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), np.asarray(Image.open(path).convert("RGB")))


def lines(places: DataPaths) -> int:
    found = list(places.cache.glob("*/journal"))
    return found[0].read_bytes().count(b"\n") if found else 0
