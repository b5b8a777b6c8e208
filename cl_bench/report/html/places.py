"""Alignment against uniformity, as the paper's Figures 2 and 3; and their normalised sum, which tau ranks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from markupsafe import Markup

from cl_bench.report.html.svg import Axis, chart, colour, colour_bar, frame, line_path, mark, plain_mark, tag, two
from cl_bench.report.row import RowResult, number
from cl_bench.spec.records import EVALUATIONS, FAMILIES, NAMES, Configuration, Level, configurations
from cl_bench.statistics.correlation import figures_of, normalised_sum

WIDTH, HEIGHT = 380, 430
SWEPT = FAMILIES[:2]


def places_chart(row: RowResult, level: Level) -> Markup | None:
    """Draw L_a against L_u, coloured by performance, with the normalised values below; None without points."""
    points, _ = configurations(row.records, level)
    if not points:
        return None
    plain = _untrained(row, level)
    x = Axis.over([p.uniformity for p in points] + [u for _, u, _ in plain], 52, WIDTH - 8)
    y = Axis.over([p.alignment for p in points] + [a for *_, a in plain], 250, 8)
    low, high = (f(p.performance for p in points) for f in (min, max))
    marks = [
        mark("", x(u), y(a), f"random initialisation, seed {seed}: L_a {two(a)}, L_u {two(u)}") for seed, u, a in plain
    ]
    for p in sorted(points, key=lambda p: (x(p.uniformity), p.name)):
        marks.append(
            mark(p.family, x(p.uniformity), y(p.alignment), _named(row, level, p), colour(p.performance, low, high))
        )
    return chart(
        WIDTH,
        HEIGHT,
        f"Alignment against uniformity, {EVALUATIONS[level]}, {len(points)} configurations: {row.title}",
        frame(x, y, f"uniformity L_u, {level} level (left: more uniform)", "alignment L_a (down: better)"),
        *marks,
        _inset(points, low, high),
        colour_bar(205, 330, 160, low, high, f"{EVALUATIONS[level]} ({row.unit(level)})"),
        _legend(205, 378, untrained=bool(plain)),
    )


def _inset(points: Sequence[Configuration], low: float, high: float) -> Markup:
    """Draw the normalised values from 0 to 1, and lines of equal sum."""
    x, y = Axis(0, 1, 52, 152), Axis(0, 1, 408, 308)
    L_a, L_u = (
        [0.0 if max(v) == min(v) else (one - min(v)) / (max(v) - min(v)) for one in v]
        for v in ([p.alignment for p in points], [p.uniformity for p in points])
    )
    slants = [
        tag("path", d=line_path([(x(max(0, s - 1)), y(min(1, s))), (x(min(1, s)), y(max(0, s - 1)))]), class_="grid")
        for s in (0.5, 1.0, 1.5)
    ]
    marks = [
        plain_mark(p.family, x(u), y(a), colour(p.performance, low, high), 3)
        for p, a, u in zip(points, L_a, L_u, strict=True)
    ]
    return tag(
        "g",
        tag("rect", class_="frame", x=52, y=308, width=100, height=100),
        *slants,
        *marks,
        *(tag("text", end, x=x(float(end)), y=421, text_anchor="middle") for end in ("0", "1")),
        *(tag("text", end, x=46, y=y(float(end)) + 4, text_anchor="end") for end in ("0", "1")),
        tag("text", "L_u, normalised", x=102, y=421, text_anchor="middle"),
        tag("text", "L_a", x=20, y=361),
        class_="inset",
        aria_hidden="true",
    )


def _legend(x: float, y: float, *, untrained: bool) -> Markup:
    names = [*((family, NAMES[family]) for family in SWEPT), *([("", "random initialisation")] if untrained else [])]
    parts = []
    for k, (family, name) in enumerate(names):
        parts += [
            plain_mark(family, x + 5, y + 17 * k, "var(--muted)", 4.5),
            tag("text", name, x=x + 16, y=y + 17 * k + 4),
        ]
    return tag("g", *parts, aria_hidden="true")


def sum_chart(row: RowResult, level: Level) -> Markup | None:
    """Draw the normalised sum, which tau ranks, against performance, by family; None without points."""
    points, _ = configurations(row.records, level)
    if not points:
        return None
    L_a, L_u, _ = figures_of(points)
    sums = [float(v) for v in normalised_sum(L_a, L_u)]
    plain = row.untrained(level)
    y = Axis.over([p.performance for p in points] + plain, 250, 26)
    parts = []
    for k, family in enumerate(SWEPT):
        x = Axis.over(sums, *((52, 208), (222, 376))[k])
        of_family = [(s, p) for s, p in zip(sums, points, strict=True) if p.family == family]
        parts.append(frame(x, y, "", "" if k else f"{EVALUATIONS[level]} ({row.unit(level)})", heights=not k))
        if plain:
            at = y(statistics.fmean(plain))
            parts.append(tag("line", class_="floor", x1=x.start, x2=x.end, y1=at, y2=at))
        parts.append(tag("text", NAMES[family], class_="axis", x=(x.start + x.end) / 2, y=18, text_anchor="middle"))
        for s, p in sorted(of_family, key=lambda one: (one[0], one[1].name)):
            name = f"{_named(row, level, p)}, normalised sum {two(s)}"
            parts.append(mark(family, x(s), y(p.performance), name, f"var(--{family.replace('_', '-')})"))
    across = "minmax(L_a) + minmax(L_u)   (left: better)"
    parts.append(tag("text", across, class_="axis", x=214, y=282, text_anchor="middle"))
    name = f"Normalised sum of L_a and L_u against {EVALUATIONS[level]}: {row.title}"
    return chart(WIDTH, 292, name, *parts)


def _named(row: RowResult, level: Level, p: Configuration) -> str:
    seeds = f"{len(p.seeds)} seed{'s' if len(p.seeds) != 1 else ''}"
    figures = f"L_a {two(p.alignment)}, L_u {two(p.uniformity)}"
    return f"{p.name}: {EVALUATIONS[level]} {number(p.performance)} ({row.unit(level)}), {figures}, {seeds}"


def _untrained(row: RowResult, level: Level) -> list[tuple[int, float, float]]:
    """Return seed, L_u and L_a of the untrained encoders that were measured on this row's images and views."""
    places = [
        (r.seed, r.uniformity.get(level, math.nan), r.alignment.get(level, math.nan)) for r in row.measured_untrained
    ]
    return [place for place in places if all(map(math.isfinite, place))]
