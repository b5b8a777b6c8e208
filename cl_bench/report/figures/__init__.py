"""A row's figures as PNGs (150 dpi): one subject a module."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

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


def drawn(row: RowResult) -> list[tuple[Kind, bytes]]:
    """The figures of a row that there is anything for."""
    return [
        (kind, _png(kind, row))
        for kind in KINDS
        if kind.needs is None or any(getattr(r, kind.needs) for r in row.records)
    ]


def _png(kind: Kind, row: RowResult) -> bytes:
    image = io.BytesIO()
    kind.draw(row, image)
    return image.getvalue()
