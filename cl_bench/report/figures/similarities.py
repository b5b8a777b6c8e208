"""Similarities of positives and negatives, encoder by encoder: the paper's Figure 4."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cl_bench.report.figures.canvas import MARKERS, UNTRAINED, Target, canvas, empty, gridded
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, Configuration, Record, configurations

PAIRS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "other_images": ("cells of other images", {"color": "0.72", "fill": True}),
    "same_image": ("other cells of the same image", {"color": "tab:orange", "linewidth": 1.6}),
    "positive": ("positives: the same cell in the other view", {"color": "tab:blue", "linewidth": 1.6}),
}
RANKS = {"best": 1, "median": 3, "worst": 2}
"""Encoders of a family that are shown, and the number of configurations that the family must have for each."""


def similarity_figure(row: RowResult, path: Target) -> None:
    """Draw histograms of cosines for the best, median and worst encoder of each family, and the overlap for all.

    Encoders rank by their dense performance; histograms and overlap of a configuration are means over its seeds.
    ``path`` may be an open binary file.

    Raises:
        OSError: If the file cannot be written.
    """
    measured, untrained = (
        [r for r in records if "similarity_overlap" in r.extra] for records in (row.records, row.measured_untrained)
    )
    points = configurations(measured, "dense")[0]
    figure = canvas(row, 13.2, 6.4)
    layout = [[f"{family} {rank}" for rank in RANKS] for family in MARKERS]
    panels = figure.subplot_mosaic(
        [[*layout[0], "untrained" if untrained else "overlap"], [*layout[1], "overlap"]],
        width_ratios=[1, 1, 1, 1.25],
    )
    for (family, (_, name)), row_of_panels in zip(MARKERS.items(), layout, strict=True):
        ranked = sorted((p for p in points if p.family == family), key=lambda p: -p.performance)
        for key, (rank, least), nth in zip(row_of_panels, RANKS.items(), (0, len(ranked) // 2, -1), strict=True):
            if len(ranked) < least:
                empty(panels[key], f"{name}: {len(ranked)} measured")
                continue
            knobs = ranked[nth].name.removeprefix(f"{family}-")
            title = f"{name}, {rank}: {knobs} ({EVALUATIONS['dense']} {ranked[nth].performance:.1f})"
            _histograms(panels[key], title, [r for r in measured if r.config == ranked[nth].name])
        panels[row_of_panels[0]].set_ylabel("share of pairs", fontsize=8)
    if untrained:
        _histograms(panels["untrained"], "random initialisation", untrained)
    lowest = min((_lowest(r) for r in (*measured, *untrained)), default=-1.0)
    for name, axes in panels.items():
        if name != "overlap" and axes.get_title():
            axes.set_xlim(lowest, 1)
    marks = _overlaps(panels["overlap"], row, points, measured, untrained)
    kinds = [Patch(color=look["color"], fill=look.get("fill", False), label=name) for name, look in PAIRS.values()]
    figure.legend(handles=[*kinds, *marks], loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def _histograms(axes: Axes, title: str, records: Sequence[Record]) -> None:
    """Draw the mean histograms of some records, by kind of pair."""
    axes.set_title(f"{title}\noverlap {_overlap(records):.2f}", fontsize=8)
    for kind, (_, look) in PAIRS.items():
        shares = np.mean([r.similarities[kind] for r in records if kind in r.similarities] or [(0.0,)], axis=0)
        axes.stairs(shares, np.linspace(-1, 1, len(shares) + 1), **look)
    axes.set(yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("cosine of dense features", fontsize=8)
    axes.tick_params(labelsize=8)


def _lowest(record: Record) -> float:
    """Return the left edge of the first bin that holds a pair of any kind."""
    bins = np.sum(list(record.similarities.values()), axis=0)
    return float(np.flatnonzero(bins)[0] / len(bins) * 2 - 1)


def _overlap(records: Sequence[Record]) -> float:
    return statistics.fmean(r.extra["similarity_overlap"] for r in records)


def _overlaps(
    axes: Axes, row: RowResult, points: Sequence[Configuration], measured: Sequence[Record], untrained: Sequence[Record]
) -> list[Line2D]:
    """Plot overlap against dense performance: a point per configuration, random initialisation as crosses."""
    handles: list[Line2D] = []
    if not points:
        empty(axes)
        return handles
    gridded(axes)
    for family, (marker, name) in MARKERS.items():
        of_family = [p for p in points if p.family == family]
        x = [_overlap([r for r in measured if r.config == p.name]) for p in of_family]
        handles += axes.plot(x, [p.performance for p in of_family], marker, mfc="0.6", mec="0.15", ms=7, label=name)
    crosses = [(_overlap([r]), r.performance["dense"]) for r in untrained if "dense" in r.performance]
    if crosses:
        handles += axes.plot(
            *zip(*crosses, strict=True), "x", color=UNTRAINED, ms=7, mew=1.8, label="random initialisation"
        )
    axes.set_xlim(0, 1)
    axes.set_title("do positives and other images overlap?", fontsize=8)
    axes.set_xlabel("overlap of the blue and the grey histogram", fontsize=8)
    axes.set_ylabel(f"{EVALUATIONS['dense']} ({row.unit('dense')})", fontsize=8)
    axes.tick_params(labelsize=8)
    return handles
