"""A row's figures as PNGs (150 dpi), one subject a module. Drawing takes most of a report's time: never done twice."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO

import cl_bench
from cl_bench.report.figures.alignment_uniformity import alignment_uniformity_figure, row_figure
from cl_bench.report.figures.similarities import similarity_figure
from cl_bench.report.figures.training import training_figure
from cl_bench.report.row import RowResult

__all__ = ["KINDS", "Kind", "alignment_uniformity_figure", "row_figure", "similarity_figure", "training_figure"]


@dataclass(frozen=True)
class Kind:
    """A figure that a row can have.

    Attributes:
        suffix: Of its file's name, after the row's.
        caption: What it shows.
        draw: Write a row's as a PNG to an open binary file.
        needs: Field of the records without which there is nothing to draw; None when it is always drawn.
    """

    suffix: str
    caption: str
    draw: Callable[[RowResult, IO[bytes]], None]
    needs: str | None = None


KINDS = (
    Kind("", "alignment against uniformity, colour is performance", row_figure),
    Kind("-similarities", "similarities of positives and negatives", similarity_figure, "similarities"),
    Kind("-training", "training curves, from the loss that the place alone reaches", training_figure, "losses"),
)


def drawn(row: RowResult, stem: Path) -> list[tuple[Kind, Path, bytes]]:
    """The figures of a row that there is anything for, each with the file it belongs in.

    One that stands in its file already, drawn by this code from the same row, is taken from there.

    Args:
        row: What to draw.
        stem: The files' names without a kind's suffix.
    """
    source = hashlib.sha256(f"{_code()} {row!r}".encode()).digest()
    found = []
    for kind in KINDS:
        if kind.needs is None or any(getattr(r, kind.needs) for r in row.records):
            file = stem.with_name(f"{stem.name}{kind.suffix}.png")
            found.append((kind, file, _kept(file, source) or _signed(_png(kind, row), source)))
    return found


def _png(kind: Kind, row: RowResult) -> bytes:
    image = io.BytesIO()
    kind.draw(row, image)
    return image.getvalue()


_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def _signed(image: bytes, source: bytes) -> bytes:
    """A PNG with a last text chunk that tells what it was drawn from, and by which its bytes can be checked."""
    body = image.removesuffix(_END)
    chunk = b"tEXtSource\0" + hashlib.sha256(source + body).hexdigest().encode()
    return body + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + _END


_SIGNATURE = len(_signed(_END, b"")) - len(_END)


def _kept(file: Path, source: bytes) -> bytes | None:
    """What stands in a file, if it is a picture drawn from that and whole."""
    try:
        image = file.read_bytes()
    except OSError:
        return None
    return image if image == _signed(image[: -_SIGNATURE - len(_END)] + _END, source) else None


@cache
def _code() -> str:
    """A name for all code that a picture depends on."""
    package = Path(cl_bench.__file__).parent
    code = b"".join(file.read_bytes() for file in sorted(package.rglob("*.py")))
    return f"{hashlib.sha256(code).hexdigest()} {version('matplotlib')}"
