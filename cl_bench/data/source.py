"""What the data sets on disk have in common: where they lie, their digest, and what they say of their images."""

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
"""Bytes of either end of a file that go into the digest; no more, for it is computed whenever a run begins."""
LONGEST = 65_535
"""Pixels a side: a JPEG has no more."""
MOST = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
"""Pixels an image: Pillow takes one of more for an attack."""
IMAGE_ENDS = 8 << 10
"""Bytes of either end of an image of one's own that go into the digest."""
TEST_SHARE = 0.2
MANY = 100_000
"""Images; of more of them only names and sizes go into the digest."""


@dataclass(frozen=True)
class Boxes:
    """The objects of all images, one after the other.

    Attributes:
        owner: (M,) int64, ascending: the image that each is in.
        corners: (M, 4) float32, (x1, y1, x2, y2) in pixels of the decoded image.
        labels: (M,) int64.
        difficult: (M,) bool, or None where there is no such thing.
        dropped: How many had no area inside their image: outside it, reversed, or not numbers.
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

    @abstractmethod
    def found(self) -> Found:
        """Facts about what lies there, whose digest was taken.

        Raises:
            DataError: The annotations are not in the format.
        """

    def images(self) -> Iterable[tuple[str, Path]]:
        """Image files that the digest takes in, each by a name that does not tell where it lies.

        Of a published set none: its annotations say which version it is. Of images of one's own all.
        """
        return ()

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
        """Refuse what would be waited for in vain."""
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError(f"{self.what}: {path}: a pipe or a device, not a file")

    def nowhere(self) -> DataError:
        """That there is no folder of images of one's own; the nearest name beside it."""
        try:
            beside = [p.name for p in self.root.parent.iterdir() if p.is_dir()]
        except OSError:
            beside = []
        what = "no folder" if self.root.exists() else "no such folder"
        where = "a relative root is looked for under --data-root DIR, then beside the profile"
        return DataError(f"{self.what}: root {self.root}: {what}{nearest(self.root.name, beside)}; {where}")

    def missing(self, part: str) -> DataError:
        """That a file is not there, what is expected and how to get it."""
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
        """That a file is there and is not what it should be."""
        anew = "" if self.spec.own else f"; to get it anew, delete it and: {self.remedy}"
        return DataError(f"{self.what}: {path}: {why}{anew}")


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


def inside(name: str) -> str:
    """A file's name out of an annotation, which has to lie in the folder that it is relative to.

    Raises:
        ValueError: It leads out of there.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip() or "\0" in name or name[0] in "/\\" or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{name[:60]!r} leads out of the images' folder")
    return name


def with_headers(stated: Sequence[tuple[int, int] | None], origins: Sequence[Origin]) -> Tensor:
    """(N, 2) stated heights and widths; where an annotation has none, those of the image as it is looked at."""
    lacking = [i for i, size in enumerate(stated) if size is None]
    sizes = torch.tensor([size or (0, 0) for size in stated], dtype=torch.int64).reshape(-1, 2)
    if lacking:
        sizes[lacking] = sizes_of([origins[i] for i in lacking])
    return sizes


def part_of(name: str) -> str:
    """``train`` or ``test``, for images in no folder or list of either: by its name, four fifths and one fifth."""
    return "test" if int(place_of(name)[:8], 16) / 16**8 < TEST_SHARE else "train"


def place_of(name: str) -> str:
    """Hexadecimal digits by which images are put in an order that has nothing to do with their classes."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")).hexdigest()


def _image_digests(images: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """What the digest has of each image: its name, its size, and of a moderate number also either end."""
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
    if not all(0 < side <= LONGEST for side in size) or size[0] * size[1] > MOST:
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
