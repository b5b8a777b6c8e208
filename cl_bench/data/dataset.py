"""What every data set gives: images, and the labels or boxes it has."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images with what is known of them.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        classes: Names of the classes; index = label.
        labels: (N,) int64, the class of each single-object image; None for multi-object data.
        boxes: N tensors (n_i, 4) float32, (x1, y1, x2, y2) in pixels; None where there are no boxes.
        box_labels: N tensors (n_i,) int64, the class of each box; None where there are no boxes.
    """

    images: Tensor
    classes: tuple[str, ...]
    labels: Tensor | None = None
    boxes: tuple[Tensor, ...] | None = None
    box_labels: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)
