"""Base class of data sets on disk: their files, their digest, and their listing of images and annotations."""

from __future__ import annotations

import hashlib
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cl_bench.errors import DataError
from cl_bench.spec import FilesSpec

Pixels = NDArray[np.uint8]
Spec = TypeVar("Spec", bound=FilesSpec)
ENDS = 1 << 20
"""Bytes at each end of a file that go into the digest, few because it is computed whenever a run begins."""
LONGEST = 65_535
"""Longest side in pixels, the limit of JPEG."""


@dataclass(frozen=True)
class Boxes:
    """Objects of all images, one after the other.

    Attributes:
        owner: (M,) int64, ascending, the index of each object's image.
        corners: (M, 4) float32, (x1, y1, x2, y2) in pixels of the decoded image.
        labels: (M,) int64, the class of each object.
        difficult: (M,) bool, or None where the data set has no such flag.
        dropped: Number of objects without area inside their image, which are left out.
    """

    owner: Tensor
    corners: Tensor
    labels: Tensor
    difficult: Tensor | None
    dropped: int


@dataclass(frozen=True)
class Listing:
    """Content of the annotations, known before an image is decoded.

    Attributes:
        names: N names for messages.
        sizes: (N, 2) int64, height and width of the decoded images.
        classes: Names of the classes; index = label.
        read: Function that decodes the images ``first`` to ``last`` (exclusive), uint8, row by row and pixel by pixel.
            It raises any error of Pillow for an image that cannot be decoded.
        step: Number of images that are read at a time.
        labels: (N,) int64, or None.
        boxes: Objects of the images, or None.
    """

    names: Sequence[str]
    sizes: Tensor
    classes: tuple[str, ...]
    read: Callable[[int, int], Pixels]
    step: int = 1
    labels: Tensor | None = None
    boxes: Boxes | None = None


class Source(ABC, Generic[Spec]):
    """A data set under a root."""

    def __init__(self, spec: Spec, root: Path) -> None:
        self.spec, self.root = spec, root

    @property
    def what(self) -> str:
        """Name and split, such as ``stl10 train``."""
        return name_of(self.spec)

    @property
    @abstractmethod
    def layout(self) -> tuple[str, ...]:
        """Expected files and directories, relative to the root."""

    @property
    def remedy(self) -> str:
        """Command that downloads the data."""
        return f"pytest suites/ --data-root {shlex.quote(str(self.root))} --download"

    @abstractmethod
    def inspect(self) -> list[Path]:
        """Return the files that determine the annotations; it is called when the layout exists.

        Raises:
            DataError: If something is not as it should be, as far as a check within a second can show.
        """

    @abstractmethod
    def listing(self) -> Listing:
        """Read the annotations.

        Raises:
            DataError: If they are not in the format.
        """

    @property
    @abstractmethod
    def by_hand(self) -> str:
        """Commands that download the data without torchvision."""

    @abstractmethod
    def fetch(self) -> None:
        """Download the data by torchvision.

        Raises:
            DataError: If torchvision cannot download this data set.
        """

    def complete(self) -> bool:
        """Return True if nothing is left to download."""
        try:
            self.digest()
        except DataError:
            return False
        return True

    def digest(self) -> str:
        """Compute the sha256 of names, sizes and both ends of the files that determine the annotations.

        Raises:
            DataError: If something is missing, or not as it should be.
        """
        sha = hashlib.sha256(f"{self.what}\n".encode())
        try:
            for part in self.layout:
                if not (self.root / part).exists():
                    raise self.missing(part)
            for path in self.inspect():
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    sha.update(f"{path.relative_to(self.root).as_posix()}\n{size}\n".encode())
                    sha.update(file.read(ENDS if size > 2 * ENDS else -1))
                    if size > 2 * ENDS:
                        file.seek(-ENDS, 2)
                        sha.update(file.read())
        except FileNotFoundError as error:
            raise self.missing(Path(error.filename).relative_to(self.root).as_posix()) from None
        except OSError as error:
            raise DataError(f"{self.what}: {error.filename}: {error.strerror}") from None
        return sha.hexdigest()

    def missing(self, part: str) -> DataError:
        """Make an error for a missing file that says what is expected and how to get it."""
        try:
            near = [self.root.parent, *sorted(p for p in self.root.glob("*") if p.is_dir())]
            found = next((p for p in near if (p / part).exists()), None)
        except OSError:
            found = None
        hint = f"did you mean --data-root {shlex.quote(str(found))}?" if found else f"to get it: {self.remedy}"
        expected = ", ".join(self.layout)
        return DataError(f"{self.what}: no {self.root / part}; expected {expected} in {self.root}; {hint}")

    def garbled(self, path: Path, why: object) -> DataError:
        """Make an error for a file that is not what it should be."""
        return DataError(f"{self.what}: {path}: {why}; to get it anew, delete it and: {self.remedy}")


@dataclass(frozen=True)
class ImageFiles:
    """Images in one file each.

    Attributes:
        paths: Paths of the N files.
        stated: (N, 2) int64, height and width according to the annotations.
        sizes: (N, 2) int64, height and width to decode to.
    """

    paths: Sequence[Path]
    stated: Tensor
    sizes: Tensor

    def read(self, first: int, last: int) -> Pixels:
        """Decode a single image to (h, w, 3); grey, palette and CMYK ones become RGB, larger ones are scaled down.

        Raises:
            ValueError: If its size differs from the annotations.
        """
        assert last == first + 1
        (height, width), (h, w) = self.stated[first].tolist(), self.sizes[first].tolist()
        with Image.open(self.paths[first]) as image:
            if image.size != (width, height):
                raise ValueError(f"{image.width} x {image.height}, but {width} x {height} in the annotations")
            rgb = image.convert("RGB")
        if (h, w) != (height, width):
            rgb = rgb.resize((w, h), Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def unpacked(folder: Path, *archives: str, unpack: str) -> str:
    """Return the commands that download archives and unpack them in a folder."""
    place = shlex.quote(str(folder))
    get = (f"curl -fLO -C - {url} && {unpack} {url.rpartition('/')[2]}" for url in archives)
    return " && ".join([f"mkdir -p {place}", f"cd {place}", *get])


def name_of(spec: FilesSpec) -> str:
    """Return name and split, such as ``stl10 train``."""
    return f"{spec.name} {spec.split}"


def scaled(sizes: Tensor, short_side: int | None) -> Tensor:
    """Reduce (N, 2) sizes to a short side of ``short_side``; smaller images stay as they are."""
    if short_side is None:
        return sizes
    short = sizes.amin(1, keepdim=True)
    return torch.where(short > short_side, sizes * short_side // short, sizes)


class Annotation(NamedTuple):
    """An object in the annotations: its image, its corners in pixels of that image, and its label."""

    image: int
    corners: tuple[float, float, float, float]
    label: int
    difficult: bool = False


def size_of(height: object, width: object) -> tuple[int, int]:
    """Convert height and width from an annotation to numbers.

    Raises:
        ValueError: If no image can have that size.
    """
    size = int(str(height)), int(str(width))
    if not all(0 < side <= LONGEST for side in size):
        raise ValueError(f"an image of {width} x {height} pixels")
    return size


def laid_out(found: Iterable[Annotation], stated: Tensor, sizes: Tensor, difficult: bool) -> Boxes:
    """Clip boxes to their images and scale them; boxes without area inside are left out.

    Args:
        found: Objects in any order.
        stated: (N, 2) int64, sizes of the images that the boxes are in.
        sizes: (N, 2) int64, sizes of the decoded images.
        difficult: True if the data set has that flag.
    """
    objects = sorted(found, key=lambda o: o.image)
    owner = torch.tensor([o.image for o in objects], dtype=torch.int64)
    corners = torch.tensor([o.corners for o in objects], dtype=torch.float64).reshape(-1, 4)
    # Sizes are (height, width), corners (x, y).
    extent, scale = (t[owner].flip(1).repeat(1, 2) for t in (stated.double(), sizes / stated))
    clipped = (torch.minimum(corners.clamp(min=0), extent) * scale).float()
    inside = (clipped[:, 2:] > clipped[:, :2]).all(1)
    labels = torch.tensor([o.label for o in objects], dtype=torch.int64)
    flags = torch.tensor([o.difficult for o in objects], dtype=torch.bool)
    return Boxes(
        owner[inside],
        clipped[inside],
        labels[inside],
        flags[inside] if difficult else None,
        len(objects) - int(inside.sum()),
    )
