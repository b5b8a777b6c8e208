"""What the data sets on disk have in common: where they lie, their digest, and what they say of their images."""

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
"""Bytes of either end of a file that go into the digest; no more, for it is computed whenever a run begins."""
LONGEST = 65_535
"""Pixels a side: a JPEG has no more."""


@dataclass(frozen=True)
class Boxes:
    """The objects of all images, one after the other.

    Attributes:
        owner: (M,) int64, ascending: the image that each is in.
        corners: (M, 4) float32, (x1, y1, x2, y2) in pixels of the decoded image.
        labels: (M,) int64.
        difficult: (M,) bool, or None where there is no such thing.
        dropped: How many had no area inside their image.
    """

    owner: Tensor
    corners: Tensor
    labels: Tensor
    difficult: Tensor | None
    dropped: int


@dataclass(frozen=True)
class Listing:
    """What the annotations say, before an image is decoded.

    Attributes:
        names: N names, for people.
        sizes: (N, 2) int64, height and width of the decoded images.
        classes: Names of the classes; index = label.
        read: The images ``first`` to ``last`` (exclusive), uint8, row by row and pixel by pixel. Raises whatever
            Pillow does when one cannot be decoded.
        step: How many are read at a time.
        labels: (N,) int64, or None.
        boxes: Or None.
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
        """As ``stl10 train``."""
        return name_of(self.spec)

    @property
    @abstractmethod
    def layout(self) -> tuple[str, ...]:
        """The files and directories that are there, relative to the root."""

    @property
    def remedy(self) -> str:
        """The command that gets the data."""
        return f"pytest suites/ --data-root {shlex.quote(str(self.root))} --download"

    @abstractmethod
    def inspect(self) -> list[Path]:
        """The files that decide what the annotations are; called when the layout is there.

        Raises:
            DataError: Something is not as it should be, as far as that can be told within a second.
        """

    @abstractmethod
    def listing(self) -> Listing:
        """What the annotations say.

        Raises:
            DataError: They are not in the format.
        """

    @property
    @abstractmethod
    def by_hand(self) -> str:
        """The commands that do so without torchvision."""

    @abstractmethod
    def fetch(self) -> None:
        """Have torchvision download it.

        Raises:
            DataError: It does not do so with this data set.
        """

    def complete(self) -> bool:
        """Whether nothing is left to download."""
        try:
            self.digest()
        except DataError:
            return False
        return True

    def digest(self) -> str:
        """sha256 of the names, the sizes and either end of the files that decide the annotations.

        Raises:
            DataError: Something is missing, or not as it should be.
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
        """That a file is not there, what is expected and how to get it."""
        try:
            near = [self.root.parent, *sorted(p for p in self.root.glob("*") if p.is_dir())]
            found = next((p for p in near if (p / part).exists()), None)
        except OSError:
            found = None
        hint = f"did you mean --data-root {shlex.quote(str(found))}?" if found else f"to get it: {self.remedy}"
        expected = ", ".join(self.layout)
        return DataError(f"{self.what}: no {self.root / part}; expected {expected} in {self.root}; {hint}")

    def garbled(self, path: Path, why: object) -> DataError:
        """That a file is there and is not what it should be."""
        return DataError(f"{self.what}: {path}: {why}; to get it anew, delete it and: {self.remedy}")


@dataclass(frozen=True)
class ImageFiles:
    """Images in a file each.

    Attributes:
        paths: N files.
        stated: (N, 2) int64, height and width according to the annotations.
        sizes: (N, 2) int64, height and width to decode to.
    """

    paths: Sequence[Path]
    stated: Tensor
    sizes: Tensor

    def read(self, first: int, last: int) -> Pixels:
        """(h, w, 3) of the one image; grey, palette and CMYK ones become RGB, larger ones are scaled down.

        Raises:
            ValueError: Its size is not what the annotations say.
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
    """The commands that get archives and unpack them in a folder."""
    place = shlex.quote(str(folder))
    get = (f"curl -fLO -C - {url} && {unpack} {url.rpartition('/')[2]}" for url in archives)
    return " && ".join([f"mkdir -p {place}", f"cd {place}", *get])


def name_of(spec: FilesSpec) -> str:
    """As ``stl10 train``."""
    return f"{spec.name} {spec.split}"


def scaled(sizes: Tensor, short_side: int | None) -> Tensor:
    """(N, 2) sizes with the short side brought down to ``short_side``; smaller images stay as they are."""
    if short_side is None:
        return sizes
    short = sizes.amin(1, keepdim=True)
    return torch.where(short > short_side, sizes * short_side // short, sizes)


class Annotation(NamedTuple):
    """An object as the annotations have it: of which image, its corners there in pixels, its label."""

    image: int
    corners: tuple[float, float, float, float]
    label: int
    difficult: bool = False


def size_of(height: object, width: object) -> tuple[int, int]:
    """Height and width of an image, out of its annotation.

    Raises:
        ValueError: No image has that size.
    """
    size = int(str(height)), int(str(width))
    if not all(0 < side <= LONGEST for side in size):
        raise ValueError(f"an image of {width} x {height} pixels")
    return size


def laid_out(found: Iterable[Annotation], stated: Tensor, sizes: Tensor, difficult: bool) -> Boxes:
    """Boxes clipped to their images and scaled with them; what has no area inside is left out.

    Args:
        found: In any order.
        stated: (N, 2) int64, sizes of the images that the boxes are in.
        sizes: (N, 2) int64, sizes of the decoded images.
        difficult: Whether there is such a thing in this data set.
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
