"""Common form of all data sets: images, with their labels or boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cl_bench.data.colour import to_device


def starts_of(sizes: Tensor) -> Tensor:
    """Return the first byte of each image of those sizes in a buffer, (N,) int64, one after the other."""
    ends = 3 * sizes.prod(1).cumsum(0)
    return torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])


class Ragged(Sequence[Tensor]):
    """uint8 RGB images of different sizes, one after the other in a buffer that may be a memory map.

    Attributes:
        sizes: (N, 2) int64, height and width of each image in pixels.
    """

    def __init__(self, pixels: Tensor, sizes: Tensor, starts: Tensor | None = None) -> None:
        """Take images of those ``sizes`` from ``pixels``, (bytes,) uint8, each stored row by row, pixel by pixel.

        ``starts``, (N,) int64, gives the first byte of each, if there are gaps between them.
        """
        self._pixels, self.sizes = pixels, sizes
        self._starts = (starts_of(sizes) if starts is None else starts).tolist()

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # no slices
        """Return an image (3, h, w), a view of the buffer without a copy."""
        height, width = self.sizes[index].tolist()
        start = self._starts[index % len(self)]
        return self._pixels[start : start + 3 * height * width].view(height, width, 3).permute(2, 0, 1)

    def of_one_size(self) -> Tensor | None:
        """Return all images as (N, 3, h, w), a view of the buffer; None where sizes differ or there are gaps."""
        height, width = self.sizes[0].tolist()
        each = 3 * height * width
        alike = bool((self.sizes == self.sizes[0]).all())
        if not alike or self._starts != list(range(self._starts[0], self._starts[0] + len(self) * each, each)):
            return None
        pixels = self._pixels[self._starts[0] :][: len(self) * each]
        return pixels.view(-1, height, width, 3).permute(0, 3, 1, 2)


Images = Tensor | Ragged
"""Images of one size, (N, 3, H, W) uint8 in memory, of a GPU too; or ``Ragged``, which may be in a memory map."""


def take(images: Tensor | Sequence[Tensor], index: Tensor) -> Tensor | list[Tensor]:
    """Return the images at those indices: (B, 3, H, W), or B of (3, h_i, w_i)."""
    if isinstance(images, Tensor):
        return images.index_select(0, to_device(index, images.device))
    return [images[i] for i in index.tolist()]


@dataclass(frozen=True)
class Dataset:
    """Images with their labels or boxes.

    Attributes:
        images: (N, 3, H, W) uint8, RGB; or ``Ragged``, which may be a memory map: do not write to it.
        classes: Names of the classes; index = label.
        labels: (N,) int64, the class of each single-object image; None for multi-object data.
        boxes: N tensors (n_i, 4) float32, (x1, y1, x2, y2) in pixels; None where there are no boxes.
        box_labels: N tensors (n_i,) int64, the class of each box; None where there are no boxes.
        difficult: N tensors (n_i,) bool, True for boxes that are trained on and do not count in evaluation; None where
            the data set has no such flag.
    """

    images: Images
    classes: tuple[str, ...]
    labels: Tensor | None = None
    boxes: tuple[Tensor, ...] | None = None
    box_labels: tuple[Tensor, ...] | None = None
    difficult: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def labelled_as(self, other: Dataset) -> Dataset:
        """Return the images with labels that count another data set's classes, matched by name.

        Raises:
            ValueError: If an image or a box has a class that the other data set lacks.
        """
        if self.classes == other.classes:
            return self
        place = {name: i for i, name in enumerate(other.classes)}
        to = torch.tensor([place.get(name, -1) for name in self.classes], dtype=torch.int64)
        labels = None if self.labels is None else to[self.labels]
        box_labels = None if self.box_labels is None else tuple(to[of_image] for of_image in self.box_labels)
        for mine, theirs in [(self.labels, labels), *zip(self.box_labels or (), box_labels or (), strict=True)]:
            if mine is not None and theirs is not None and bool((theirs < 0).any()):
                alone = self.classes[int(mine[theirs < 0][0])]
                raise ValueError(f"the class {alone!r} is not among those of the training images")
        return replace(self, classes=other.classes, labels=labels, box_labels=box_labels)
