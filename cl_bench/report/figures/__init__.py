"""Figures of a row as PNGs (150 dpi), one subject per module; drawing is slow, so a figure is never drawn twice."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Collection
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
    """A kind of figure that a row can have.

    Attributes:
        suffix: Suffix of its file's name, after the row's name.
        draw: Function that writes a row's figure as a PNG to an open binary file.
        needs: Field of the records without which there is nothing to draw; None when it is always drawn.
    """

    suffix: str
    draw: Callable[[RowResult, IO[bytes]], None]
    needs: str | None = None


KINDS = (
    Kind("", row_figure),
    Kind("-similarities", similarity_figure, "similarities"),
    Kind("-training", training_figure, "losses"),
)


def drawn(row: RowResult, stem: Path) -> list[tuple[Kind, Path, bytes]]:
    """Return the figures of a row that have data: kind, file and PNG content.

    A figure that is in its file already, drawn by the same code from the same row, is read from there.

    Args:
        row: Row to draw.
        stem: Path of the files without a kind's suffix.
    """
    source = hashlib.sha256(f"{_code()} {row!r}".encode()).digest()
    found = []
    for kind in KINDS:
        if kind.needs is None or any(getattr(r, kind.needs) for r in row.records):
            file = stem.with_name(f"{stem.name}{kind.suffix}.png")
            found.append((kind, file, _kept(file, source) or _signed(_png(kind, row), source)))
    return found


def remove_others(folder: Path, keep: Collection[Path]) -> None:
    """Remove the figures in a folder that were drawn here for rows that are gone, and no other pictures."""
    for file in sorted(folder.glob("*.png")):
        if file not in keep and _ours(file):
            file.unlink(missing_ok=True)


def _ours(file: Path) -> bool:
    """Return whether a picture ends with the text chunk of ``_signed``."""
    try:
        end = file.read_bytes()[-_SIGNATURE - len(_END) :]
    except OSError:
        return False
    return end[4:].startswith(b"tEXtSource\0") and end.endswith(_END)


def _png(kind: Kind, row: RowResult) -> bytes:
    image = io.BytesIO()
    kind.draw(row, image)
    return image.getvalue()


_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def _signed(image: bytes, source: bytes) -> bytes:
    """Return a PNG with a last text chunk: a hash of its source and its content, by which both can be checked."""
    body = image.removesuffix(_END)
    chunk = b"tEXtSource\0" + hashlib.sha256(source + body).hexdigest().encode()
    return body + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + _END


_SIGNATURE = len(_signed(_END, b"")) - len(_END)


def _kept(file: Path, source: bytes) -> bytes | None:
    """Return the content of a file if it is an intact picture drawn from that source, else None."""
    try:
        image = file.read_bytes()
    except OSError:
        return None
    return image if image == _signed(image[: -_SIGNATURE - len(_END)] + _END, source) else None


@cache
def _code() -> str:
    """Return a text that identifies all code that a picture depends on."""
    package = Path(cl_bench.__file__).parent
    code = b"".join(file.read_bytes() for file in sorted(package.rglob("*.py")))
    return f"{hashlib.sha256(code).hexdigest()} {version('matplotlib')}"
