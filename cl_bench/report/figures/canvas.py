"""Common parts of a row's figures: title, marks and colours."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import IO

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cl_bench.report.row import RowResult

Target = str | PathLike[str] | IO[bytes]
"""Path, or open binary file, that a figure is written to."""
MARKERS: Mapping[str, tuple[str, str]] = {"align_uniform": ("o", "$L_a$ & $L_u$"), "info_nce": ("^", "InfoNCE")}
COLOURS = "viridis"  # perceptually uniform, so it can be read by colour-blind people and in grey
UNTRAINED = "tab:red"


def canvas(row: RowResult, width: float, height: float) -> Figure:
    """Make a figure of that size in inches (150 dpi) under the row's title."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{row.title}\n", fontsize=13, fontweight="bold")
    about = f"{row.method} · {row.data} · {row.views} views"
    figure.text(0.5, 1 - 0.3 / height, about, ha="center", va="top", fontsize=9)
    return figure


def lay_out(figure: Figure) -> None:
    """Compute the final layout, so that labels can be placed in it."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # saving would compute it again, which takes as long as drawing


def gridded(axes: Axes) -> None:
    """Draw a faint grid behind everything."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def empty(axes: Axes, why: str = "nothing measured") -> None:
    """Write into empty axes why there is nothing to draw."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center")
    axes.set(xticks=[], yticks=[])
