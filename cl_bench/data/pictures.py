"""Image files of any origin: opened with care, turned upright, decoded to RGB."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

Pixels = NDArray[np.uint8]
THREADS = min(32, os.cpu_count() or 1)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""Pillow is let try no others: some of its readers start programs, as Ghostscript for an EPS."""
TAKEN = "JPEG, PNG, WebP, BMP and TIFF"
EXTENSIONS = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"))
_OTHERS = "gif heic heif avif jp2 j2k jxl eps ps pdf svg psd ico dcm ppm pgm pnm pcx tga exr hdr dng cr2 nef arw raw"
OTHERS = frozenset(f".{name}" for name in _OTHERS.split())
"""Files that someone takes for an image and that are not decoded here; each is said, none passed over in silence."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that puts a camera's picture upright, by its EXIF orientation."""
UNREADABLE = (1, 1)
"""Stands for the size of an image that has none; to decode it then says why."""
WRONG_PLACE = (errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)

Origin = Path | bytes | str
"""An image: its file, its bytes, or why there is neither."""


@contextmanager
def opened(origin: Origin) -> Iterator[Image.Image]:
    """Open an image and read its header, without its pixels.

    Raises:
        ValueError: If it is not a file, or not of a format that is taken.
        OSError: If the machine is at fault.
        Exception: If Pillow stumbles on garbage, or finds more pixels than it takes for harmless.
    """
    if isinstance(origin, str):
        raise ValueError(origin)
    if isinstance(origin, Path):
        if not stat.S_ISREG(mode := _mode(origin)):
            raise ValueError("a folder, not a file" if stat.S_ISDIR(mode) else "a pipe or a device, not a file")
        if origin.suffix.lower() in OTHERS:
            raise ValueError(f"{origin.suffix} files are not decoded, {TAKEN} are")
    try:
        image = Image.open(io.BytesIO(origin) if isinstance(origin, bytes) else origin, formats=FORMATS)
    except UnidentifiedImageError:
        size = len(origin) if isinstance(origin, bytes) else origin.stat().st_size
        raise ValueError(f"no image in a format that is decoded ({TAKEN})" if size else "an empty file") from None
    with image:
        yield image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none that makes sense."""
    if image.format == "TIFF":  # Pillow turns it upright by itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:  # it would decode all to look for one at the end
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF that is garbled takes nothing from the picture
        return 1
    return found if found in TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width of the upright image."""
    height, width = image.height, image.width
    return (width, height) if orientation(image) >= 5 else (height, width)


def upright(image: Image.Image, stated: tuple[int, int], as_stored: bool) -> Image.Image:
    """Decode an image to RGB, turned as its annotations have it.

    Boxes refer to the picture that was annotated, and its stated size tells which that was where the two differ. Where
    they do not, annotation is taken to have been done on the upright picture, as viewers show it.

    Args:
        image: Opened.
        stated: Height and width according to the annotations.
        as_stored: Where the size does not tell, the pixels are as they are stored: so it is in the published sets.

    Raises:
        ValueError: If the size differs from the annotations either way, or a pixel has neither 8 nor 16 bits.
    """
    turn, stored, turned = orientation(image), (image.height, image.width), upright_size(image)
    if turned == stated and not (as_stored and stored == stated):
        return rgb(image).transpose(TURNS[turn]) if turn in TURNS else rgb(image)
    if stored == stated:
        return rgb(image)
    (height, width), (h, w) = stated, turned
    raise ValueError(f"{w} x {h}, but {width} x {height} in the annotations")


def rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB: 16 bits a pixel are brought down to 8, transparency is dropped.

    Raises:
        ValueError: If it has 32 bits a pixel, whose range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey: NDArray[np.int64] = np.asarray(image).astype(np.int64) >> 8  # Pillow would clip them to white
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {image.mode}), of unknown range; save it with 8")
    return image.convert("RGB")


def sizes_of(origins: Sequence[Origin]) -> Tensor:
    """Return (N, 2) int64, height and width of each upright image from its header; ``UNREADABLE`` if it has none.

    Raises:
        OSError: If the machine is at fault.
    """

    def size(i: int) -> tuple[int, int]:
        try:
            with opened(origins[i]) as image:
                return upright_size(image)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EIO):
                raise
            return UNREADABLE
        except MemoryError:
            raise
        except Exception:  # on garbage Pillow raises whatever its parsers stumble on; decoding says why
            return UNREADABLE

    with ThreadPoolExecutor(THREADS) as pool:
        return torch.tensor(list(pool.map(size, range(len(origins)))), dtype=torch.int64).reshape(-1, 2)


def usual_size(origins: Sequence[Origin], few: int = 16) -> tuple[int, int] | None:
    """Return height and width of the median among a few images; None if none of these can be read."""
    step = max(1, len(origins) // few)
    sizes = [(int(h), int(w)) for h, w in sizes_of(origins[::step][:few]).tolist() if (h, w) != UNREADABLE]
    return sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2] if sizes else None


@dataclass(frozen=True)
class ImageFiles:
    """Images in one file each.

    Attributes:
        origins: N files.
        stated: (N, 2) int64, height and width according to the annotations.
        sizes: (N, 2) int64, height and width to decode to.
        as_stored: As ``upright`` takes it.
    """

    origins: Sequence[Origin]
    stated: Tensor
    sizes: Tensor
    as_stored: bool = False

    def read(self, first: int, last: int) -> Pixels:
        """Decode a single image to (h, w, 3), upright and in RGB; larger ones are scaled down.

        Raises:
            ValueError: If its size differs from the annotations.
        """
        assert last == first + 1
        (height, width), (h, w) = self.stated[first].tolist(), self.sizes[first].tolist()
        with opened(self.origins[first]) as image:
            picture = upright(image, (height, width), self.as_stored)
        if (h, w) != (height, width):
            picture = picture.resize((w, h), Image.Resampling.BILINEAR)
        return np.asarray(picture)


def _mode(path: Path) -> int:
    """Return a file's mode, following links.

    Raises:
        ValueError: If it is not there, or cannot be reached.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in WRONG_PLACE:
            raise ValueError(error.strerror) from None
        raise
