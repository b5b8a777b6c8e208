"""Alignment against uniformity, coloured by downstream performance: the paper's Figures 2 and 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from cl_bench.report.figures.canvas import COLOURS, MARKERS, UNTRAINED, Target, canvas, empty, gridded, lay_out
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, LEVELS, Configuration, Level, configurations

LABELS = 20  # per panel, at most
_OFFSETS = ((6, 4), (6, -10), (-6, 4), (-6, -10), (0, 8), (0, -14))  # of a label from its point, in points
_RADIUS = 12  # kept clear around a point, in pixels


def alignment_uniformity_figure(row: RowResult, level: Level, path: Target) -> None:
    """Draw one level of a row as a PNG (150 dpi): a point per configuration, random initialisation as crosses.

    ``path`` may be an open binary file.

    Raises:
        OSError: If the file cannot be written.
    """
    _save(row, [level], path)


def row_figure(row: RowResult, path: Target) -> None:
    """Draw both levels of a row side by side as a PNG (150 dpi); ``path`` may be an open binary file.

    Raises:
        OSError: If the file cannot be written.
    """
    _save(row, LEVELS, path)


def _save(row: RowResult, levels: Sequence[Level], path: Target) -> None:
    figure = canvas(row, 6.2 * len(levels), 5.4)
    panels = [
        (axes, _panel(axes, row, level))
        for axes, level in zip(np.ravel(figure.subplots(1, len(levels))), levels, strict=True)
    ]
    figure.legend(handles=_legend(row), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    lay_out(figure)
    for axes, points in panels:
        _label(axes, points)
    figure.savefig(path, format="png")


def _panel(axes: Axes, row: RowResult, level: Level) -> list[Configuration]:
    """Draw one level and return its points."""
    points, _ = configurations(row.records, level)
    tau = row.correlations[level, "total"]
    axes.set_title(f"{EVALUATIONS[level].capitalize()}: tau = {tau}, n = {tau.n}", fontsize=10)
    axes.set_xlabel(f"uniformity $L_u$, {level} level (lower: more uniform)")
    axes.set_ylabel(f"alignment $L_a$, {level} level (lower: better aligned)")
    gridded(axes)
    axes.margins(0.1)
    for x, y in _untrained(row, level):
        axes.plot(x, y, marker="x", markersize=8, markeredgewidth=1.8, color=UNTRAINED, linestyle="none")
    if not points:
        empty(axes)
        return points
    values = [p.performance for p in points]
    scale: dict[str, Any] = {"cmap": COLOURS, "vmin": min(values), "vmax": max(values)}
    for family, (marker, _) in MARKERS.items():
        of_family = [p for p in points if p.family == family]
        x, y = _places(of_family).T
        drawn = axes.scatter(
            x,
            y,
            c=[p.performance for p in of_family],
            marker=marker,
            s=62,
            edgecolors="0.15",
            linewidths=0.6,
            **scale,
        )
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label(f"{EVALUATIONS[level]} ({row.unit(level)})")
    untrained = row.untrained(level)
    if untrained:
        mean = sum(untrained) / len(untrained)
        bar.ax.set_title(f"random\ninit {mean:.1f}", fontsize=8, color=UNTRAINED)
    return points


def _untrained(row: RowResult, level: Level) -> list[tuple[float, float]]:
    """Return (L_u, L_a) of the untrained encoders that were measured on this row's images and views."""
    nothing = math.nan
    places = [(r.uniformity.get(level, nothing), r.alignment.get(level, nothing)) for r in row.measured_untrained]
    return [place for place in places if all(map(math.isfinite, place))]


def _legend(row: RowResult) -> list[Line2D]:
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": "0.15"}
    families = [
        Line2D([], [], marker=marker, markerfacecolor="0.7", label=label, **look) for marker, label in MARKERS.values()
    ]
    cross = Line2D([], [], marker="x", color=UNTRAINED, linestyle="none", markersize=8, label="random initialisation")
    return [*families, cross] if any(_untrained(row, level) for level in LEVELS) else families


def _places(points: Sequence[Configuration]) -> NDArray[np.float64]:
    return np.array([(p.uniformity, p.alignment) for p in points], dtype=np.float64).reshape(-1, 2)


def _label(axes: Axes, points: Sequence[Configuration]) -> None:
    """Label the points that have room for it, best first; a label may cover neither a point nor another label."""
    marks = np.concatenate([np.reshape(line.get_xydata(), (-1, 2)) for line in axes.lines] + [_places(points)])
    centres = axes.transData.transform(marks)
    taken = [Bbox.from_extents(*(centre - _RADIUS), *(centre + _RADIUS)) for centre in centres]
    full, inside = len(taken) + LABELS, axes.get_window_extent()
    for point in sorted(points, key=lambda p: -p.performance):
        for offset in _OFFSETS if len(taken) < full else ():
            label = axes.annotate(
                point.name.removeprefix(f"{point.family}-"),
                (point.uniformity, point.alignment),
                offset,
                textcoords="offset points",
                ha="left" if offset[0] > 0 else "right" if offset[0] < 0 else "center",
                fontsize=7,
                color="0.25",
            )
            box = label.get_window_extent()
            if box.count_overlaps(taken) == 0 and inside.contains(*box.p0) and inside.contains(*box.p1):
                taken.append(box)
                break
            label.remove()
