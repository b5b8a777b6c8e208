"""Overview of a folder of results as one picture: what tau ranks, for every row and evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from markupsafe import Markup

from cl_bench.report.html.sheets import style
from cl_bench.report.html.svg import Axis, frame, join, minus, plain_mark, tag
from cl_bench.report.records_csv import read_records
from cl_bench.spec.records import EVALUATIONS, FAMILIES, LEVELS, NAMES, RANDOM_INIT, Level, Record, configurations
from cl_bench.statistics.correlation import correlate, figures_of, normalised_sum

_PANEL = (236, 184)
_EDGE = 24
_UNITS = {"instance": "%", "dense": "AP"}


def overview_svg(folder: Path) -> str:
    """Return the picture as SVG, in light and dark, which needs no other file.

    There is a column for each row of the results, and a line for each evaluation. A panel shows the normalised sum of
    L_a and L_u of each configuration against its performance, and the mean of untrained encoders as a dashed line.

    Args:
        folder: Folder with a ``records.csv``.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds no records.
    """
    rows = [*read_records(folder / "records.csv").items()]
    width, height = _PANEL[0] * len(rows) + 8, _PANEL[1] * len(LEVELS) + 2 * _EDGE
    panels = [
        tag("g", *_panel(records, level), transform=f"translate({_PANEL[0] * across} {_EDGE + _PANEL[1] * down})")
        for (down, level), (across, (_, records)) in product(enumerate(LEVELS), enumerate(rows))
    ]
    heads = [
        tag("text", title, class_="axis", x=_PANEL[0] * k + 140, y=18, text_anchor="middle")
        for k, title in enumerate(_titles([records for _, records in rows]))
    ]
    drawing = tag(
        "svg",
        tag("title", f"Alignment plus uniformity against performance: {folder.name}"),
        tag("style", style("palette", "charts")),
        tag("rect", width=width, height=height, fill="var(--ground)"),
        *heads,
        *panels,
        _legend(height - 9),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        class_="chart",
        role="img",
    )
    return f"{drawing}\n"


def _panel(records: Sequence[Record], level: Level) -> list[Markup]:
    points, _ = configurations(records, level)
    L_a, L_u, performance = figures_of(points)
    plain = [r.performance[level] for r in records if r.family == RANDOM_INIT and level in r.performance]
    sums = [float(total) for total in normalised_sum(L_a, L_u)]
    x, y = Axis.over(sums, 52, 228), Axis.over([*map(float, performance), *plain], 150, 22)
    parts = [frame(x, y, "", f"{EVALUATIONS[level]}, {_UNITS[level]}")]
    if plain:
        at = y(statistics.fmean(plain))
        parts.append(tag("line", class_="floor", x1=x.start, x2=x.end, y1=at, y2=at))
    for point, total in zip(points, sums, strict=True):
        fill = f"var(--{point.family.replace('_', '-')})"
        parts.append(plain_mark(point.family, x(float(total)), y(point.performance), fill, 3.6))
    told = minus(f"tau {correlate(records, level)}") if points else "nothing measured"
    return [*parts, tag("text", told, x=140, y=15, text_anchor="middle")]


def _legend(y: float) -> Markup:
    """Name the axis that all panels share, the marks and the dashed line."""
    parts = [tag("text", "across: minmax(L_a) + minmax(L_u), left is better aligned and more uniform", x=52, y=y)]
    for k, family in enumerate(FAMILIES[:2]):
        at = 520 + 110 * k
        parts.append(plain_mark(family, at, y - 4, f"var(--{family.replace('_', '-')})", 4.5))
        parts.append(tag("text", NAMES[family], x=at + 11, y=y))
    parts.append(tag("line", class_="floor", x1=742, x2=770, y1=y - 4, y2=y - 4))
    return tag("g", join([*parts, tag("text", "untrained encoders", x=777, y=y)]))


def _titles(rows: Sequence[Sequence[Record]]) -> list[str]:
    """Return the names of rows as a reader says them: data, and what tells the rows apart of views and method."""
    firsts = [next((r for r in records if r.family != RANDOM_INIT), records[0]) for records in rows]
    methods, views = {r.method for r in firsts}, {r.views for r in firsts}
    titles = []
    for r in firsts:
        parts = [r.data.replace("_", "-")]
        if len(views) > 1 or len(methods) == 1:
            parts.append(f"{r.views} views")
        if len(methods) > 1:
            parts.append(r.method)
        titles.append(", ".join(parts))
    return titles
