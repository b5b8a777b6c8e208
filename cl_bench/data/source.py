"""Base class of data sets on disk: their files, their digest, and their listing of images and annotations."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from cl_bench.data.pictures import THREADS, Origin, Pixels, sizes_of
from cl_bench.errors import DataError, nearest
from cl_bench.spec import FilesSpec, Found

Spec = TypeVar("Spec", bound=FilesSpec)
ENDS = 1 << 20
"""Bytes at each end of a file that go into the digest, few because it is computed whenever a run begins."""
LONGEST = 65_535
"""Longest side in pixels, the limit of JPEG."""
MOST = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Most pixels of an image; Pillow takes more for an attack."""
IMAGE_ENDS = 8 << 10
"""Bytes of each end of an image of one's own that go into the digest."""
TEST_SHARE = 0.2
"""Share of images in the split ``test``, if splits are drawn."""
MANY = 100_000
"""Number of images beyond which only their names and sizes go into the digest."""


@dataclass(frozen=True)
class Boxes:
    """Objects of all images, one after the other.

    Attributes:
        owner: (M,) int64, ascending, the index of each object's image.
        corners: (M, 4) float32, (x1, y1, x2, y2) in pixels of the decoded image.
        labels: (M,) int64, the class of each object.
        difficult: (M,) bool, or None where the data set has no such flag.
        dropped: Number of objects without area inside their image, reversed or not numbers, which are left out.
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

    @abstractmethod
    def found(self) -> Found:
        """Count images, classes and objects.

        Raises:
            DataError: If the annotations are not in the format.
        """

    def images(self) -> Iterable[tuple[str, Path]]:
        """List the image files that enter the digest, each with a name that does not depend on its place.

        None of a published set, whose annotations tell its version; all images of one's own.
        """
        return ()

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
            if self.spec.root is not None and not self.root.is_dir():
                raise self.nowhere()
            for part in self.layout:
                if not (self.root / part).exists():
                    raise self.missing(part)
                self._check_file(self.root / part)
            for path in self.inspect():
                self._check_file(path)
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    sha.update(f"{path.relative_to(self.root).as_posix()}\n{size}\n".encode())
                    sha.update(file.read(ENDS if size > 2 * ENDS else -1))
                    if size > 2 * ENDS:
                        file.seek(-ENDS, 2)
                        sha.update(file.read())
            for entry in _image_digests(list(self.images())):
                sha.update(entry)
        except FileNotFoundError as error:
            raise self.missing(Path(error.filename).relative_to(self.root).as_posix()) from None
        except OSError as error:
            raise DataError(f"{self.what}: {error.filename}: {error.strerror}") from None
        return sha.hexdigest()

    def _check_file(self, path: Path) -> None:
        """Refuse a pipe or a device, which would be waited for in vain."""
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(f"{self.what}: {path}: a pipe or a device, not a file")

    def nowhere(self) -> DataError:
        """Make an error for a missing root of one's own images, with the nearest name beside it."""
        try:
            beside = [p.name for p in self.root.parent.iterdir() if p.is_dir()]
        except OSError:
            beside = []
        what = "no folder" if self.root.exists() else "no such folder"
        where = "a relative root is looked for under --data-root DIR, then beside the profile"
        return DataError(f"{self.what}: root {self.root}: {what}{nearest(self.root.name, beside)}; {where}")

    def missing(self, part: str) -> DataError:
        """Make an error for a missing file that says what is expected and how to get it."""
        if self.spec.own:
            return DataError(f"{self.what}: no {self.root / part}; expected {', '.join(self.layout)} in {self.root}")
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
        anew = "" if self.spec.own else f"; to get it anew, delete it and: {self.remedy}"
        return DataError(f"{self.what}: {path}: {why}{anew}")


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


def inside(name: str) -> str:
    """Return a file's name out of an annotation, if it stays in the folder that it is relative to.

    Raises:
        ValueError: If it leads out of there.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name or name[0] in "/\\" or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{name[:60]!r} leads out of the images' folder")
    return name


def with_headers(stated: Sequence[tuple[int, int] | None], origins: Sequence[Origin]) -> Tensor:
    """Return the (N, 2) stated heights and widths, completed by those in the headers of the images."""
    lacking = [i for i, size in enumerate(stated) if size is None]
    sizes = torch.tensor([size or (0, 0) for size in stated], dtype=torch.int64).reshape(-1, 2)
    if lacking:
        sizes[lacking] = sizes_of([origins[i] for i in lacking])
    return sizes


def part_of(name: str) -> str:
    """Draw ``train`` (four fifths) or ``test`` from an image's name."""
    return "test" if int(place_of(name)[:8], 16) / 16**8 < TEST_SHARE else "train"


def place_of(name: str) -> str:
    """Return hexadecimal digits that sort images independently of their classes."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).hexdigest()


def _image_digests(images: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield the digest's entry of each image: name, size and, of at most ``MANY`` images, both ends."""
    ends = IMAGE_ENDS if len(images) <= MANY else 0

    def entry(image: tuple[str, Path]) -> bytes:
        name, path = image
        told = name.encode("utf-8", "surrogateescape")
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                return b"%s\nno file\n" % told
            content = b""
            if ends:
                with path.open("rb") as file:
                    content = file.read(ends if state.st_size > 2 * ends else -1)
                    if state.st_size > 2 * ends:
                        file.seek(-ends, 2)
                        content += file.read()
        except OSError as error:  # decoding will say so, unless such images are to be left out
            return b"%s\nerror %d\n" % (told, error.errno or 0)
        return b"%s\n%d\n%s" % (told, state.st_size, hashlib.sha256(content).digest() if ends else b"")

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(entry, images)


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
    if not all(0 < side <= LONGEST for side in size) or size[0] * size[1] > MOST:
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
