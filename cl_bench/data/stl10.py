"""STL-10 in its binary files (Coates, Ng, Lee, AISTATS 2011)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from cl_bench.data.pictures import Pixels
from cl_bench.data.source import Listing, Source, scaled, unpacked
from cl_bench.spec import Found, STL10Spec

URL = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
FOLDER = "stl10_binary"
SIDE = 96
BYTES = 3 * SIDE * SIDE
CLASSES = 10
BLOCK = 256


class STL10(Source[STL10Spec]):
    """STL-10 on disk: ``train``, ``test`` and ``unlabeled`` in separate files, with labels from 1."""

    @property
    def layout(self) -> tuple[str, ...]:
        """Paths of pixels, labels where there are any, and names of the classes."""
        parts = self.spec.split.split("+")
        labels = () if "unlabeled" in parts else (f"{FOLDER}/{self.spec.split}_y.bin",)
        return (*(f"{FOLDER}/{part}_X.bin" for part in parts), *labels, f"{FOLDER}/class_names.txt")

    def inspect(self) -> list[Path]:
        """Return all files, after checking for whole images, as many labels in range, and ten classes."""
        files = [self.root / part for part in self.layout]
        for path in self._pixels:
            size = path.stat().st_size
            if size == 0 or size % BYTES:
                raise self.garbled(path, f"{size:,} bytes are no whole number of images of {BYTES:,}")
        names = self._classes()
        if len(names) != CLASSES or len(set(names)) != CLASSES:
            raise self.garbled(files[-1], f"expected names of {CLASSES} classes, one a line, got {len(names)}")
        if (labels := self._labels()) is not None:
            images = self._counts[0]
            if len(labels) != images:
                raise self.garbled(self._label_file, f"{len(labels):,} labels for the {images:,} images of the split")
            if labels.min() < 0 or labels.max() >= CLASSES:
                raise self.garbled(self._label_file, f"a label outside 1 to {CLASSES}")
        return files

    def found(self) -> Found:
        """Count images by the sizes of the files."""
        count = min(sum(self._counts), self.spec.limit or sum(self._counts))
        classes = None if self._labels() is None else tuple(self._classes())
        return Found(images=count, classes=classes, size=(SIDE, SIDE))

    def listing(self) -> Listing:
        """Read images in the order of the files; a split with unlabelled images has no labels."""
        count = min(sum(self._counts), self.spec.limit or sum(self._counts))
        sizes = scaled(torch.full((count, 2), SIDE), self.spec.short_side)
        labels = self._labels()
        return Listing(
            names=[f"{self.spec.split} {i}" for i in range(count)],
            sizes=sizes,
            classes=tuple(self._classes()),
            read=self._read,
            step=BLOCK,
            labels=None if labels is None else torch.from_numpy(labels[:count]),
        )

    @property
    def by_hand(self) -> str:
        """Commands that download the archive of all splits from the data set's own server."""
        return unpacked(self.root, URL, unpack="tar xzf")

    def fetch(self) -> None:
        """Download all splits; torchvision then loads one, ``test``, because it is small."""
        from torchvision import datasets  # slow to import, and only needed for a download

        datasets.STL10(str(self.root), "test", download=True)

    @property
    def _pixels(self) -> list[Path]:
        return [self.root / part for part in self.layout if part.endswith("_X.bin")]

    @property
    def _counts(self) -> list[int]:
        return [path.stat().st_size // BYTES for path in self._pixels]

    @property
    def _label_file(self) -> Path:
        return self.root / FOLDER / f"{self.spec.split}_y.bin"

    def _classes(self) -> list[str]:
        lines = (self.root / FOLDER / "class_names.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]

    def _labels(self) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        """Read the labels, from 0; None for a split that has images without a label."""
        if "unlabeled" in self.spec.split:
            return None
        return np.fromfile(self._label_file, np.uint8).astype(np.int64) - 1

    def _read(self, first: int, last: int) -> Pixels:
        """Read images (n, h, w, 3) from the split's files as if they were one."""
        parts, begin = [], 0
        for path, count in zip(self._pixels, self._counts, strict=True):
            lo, hi = max(first - begin, 0), min(last - begin, count)
            if lo < hi:
                parts.append(np.fromfile(path, np.uint8, (hi - lo) * BYTES, offset=lo * BYTES))
            begin += count
        stored = np.concatenate(parts).reshape(-1, 3, SIDE, SIDE)  # one plane per channel, column by column
        side = self.spec.short_side
        if side is not None and side < SIDE:
            planes = torch.from_numpy(stored.transpose(0, 1, 3, 2).copy())
            small = interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
            return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())
        images = np.empty((len(stored), SIDE, SIDE, 3), np.uint8)
        for channel in range(3):  # twice as fast as all channels at once
            images[..., channel] = stored[:, channel].transpose(0, 2, 1)
        return images
