"""Training curves, relative to the least loss of features that encode only the place of their cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

from cl_bench.report.figures.canvas import COLOURS, MARKERS, Target, canvas, empty, gridded, lay_out
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, Record

PLACE_ALONE = "knows only the place: the least loss of features that are the same in every image"
ROOM, FARTHEST = 16, 80  # distance between names, and largest distance of a name from its curve, in pixels


def training_figure(row: RowResult, path: Target) -> None:
    """Draw a curve per encoder, coloured by its dense performance, in one panel per family.

    Where the position-only loss is defined, it is subtracted from each encoder's loss, so that features that encode
    only the place stay at 0. ``path`` may be an open binary file.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = canvas(row, 12.4, 5.4)
    curves = [r for r in row.records if r.losses]
    values = [r.performance["dense"] for r in curves if "dense" in r.performance]
    scale = Normalize(min(values, default=0), max(values, default=1))
    panels = figure.subplots(1, len(MARKERS))
    ends = []
    for axes, (family, (_, name)) in zip(panels, MARKERS.items(), strict=True):
        axes.set_title(name, fontsize=10)
        ends.append(_curves(axes, [r for r in curves if r.family == family], scale))
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=panels, pad=0.02)
    bar.set_label(f"{EVALUATIONS['dense']} ({row.unit('dense')})")
    if any(math.isfinite(r.position_only_loss) for r in curves):
        line = Line2D([], [], color="black", linestyle="--", linewidth=1, label=PLACE_ALONE)
        figure.legend(handles=[line], loc="outside lower center", frameon=False, fontsize=9)
    lay_out(figure)
    for axes, of_panel in zip(panels, ends, strict=True):
        _name(axes, of_panel)
    figure.savefig(path, format="png")


def _curves(axes: Axes, curves: Sequence[Record], scale: Normalize) -> dict[str, tuple[float, float]]:
    """Draw one family and return the end of each configuration's curve, by its knobs."""
    ends: dict[str, tuple[float, float]] = {}
    if not curves:
        empty(axes)
        return ends
    gridded(axes)
    axes.set_xlabel("step of pre-training")
    known = all(math.isfinite(r.position_only_loss) for r in curves)
    axes.set_ylabel("loss - least loss of knowing only the place" if known else "loss")
    for record in curves:
        done = record.performance.get("dense")
        steps, losses = zip(*record.losses, strict=True)
        heights = [loss - (record.position_only_loss if known else 0.0) for loss in losses]
        axes.plot(steps, heights, linewidth=1.4, color="0.7" if done is None else colormaps[COLOURS](scale(done)))
        ends[record.config.removeprefix(f"{record.family}-")] = steps[-1], heights[-1]
    last = max(1.0, *(step for step, _ in ends.values()))
    if known:
        axes.plot([0, last], [0, 0], color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.12 * last)  # room for the names
    return ends


def _name(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write names at the ends of the curves, from the lowest up, without overlap and not far from their curves."""
    last = -math.inf
    for name, end in sorted(ends.items(), key=lambda item: item[1][1]):
        own = float(axes.transData.transform(end)[1])
        height = max(own, last + ROOM)
        if height <= own + FARTHEST:
            place = (4, (height - own) * 72 / axes.figure.dpi)
            axes.annotate(name, end, place, textcoords="offset points", va="center", fontsize=7, color="0.25")
            last = height
