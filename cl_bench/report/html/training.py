"""Training curves, measured from the loss that features which know only their cell's place reach."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from cl_bench.report.html.svg import Axis, chart, colour, colour_bar, frame, line_path, named, tag, two
from cl_bench.report.row import RowResult, number
from cl_bench.spec.records import EVALUATIONS, NAMES, Family, Record, configurations

WIDTH, HEIGHT = 380, 320
POINTS = 60
"""Largest number of points of a curve; the chart has no room for more."""
Curve = list[tuple[float, float]]


def training_chart(row: RowResult, family: Family) -> Markup | None:
    """Draw a curve per configuration of a family, seeds averaged, coloured by detection; None without curves."""
    records = [r for r in row.records if len(r.losses) > 1]
    known = all(math.isfinite(r.position_only_loss) for r in records if r.family == family)
    curves = {
        config: (runs, _curve(runs, known=known))
        for config, group in groupby(
            sorted((r for r in records if r.family == family), key=lambda r: (r.config, r.seed)), key=lambda r: r.config
        )
        for runs in [list(group)]
    }
    if not curves:
        return None
    scores = {config: _score(runs) for config, (runs, _) in curves.items()}
    all_scores = [c.performance for c in configurations(records, "dense")[0]]  # as in the other charts of the row
    low, high = min(all_scores, default=0.0), max(all_scores, default=1.0)
    heights = [h for _, curve in curves.values() for _, h in curve] + [0.0] * known
    x = Axis(0, max(1.0, *(step for _, curve in curves.values() for step, _ in curve)) * 1.03, 52, WIDTH - 8)
    y = Axis.over(heights, 240, 8)
    loss = "loss \u2212 that of knowing the place" if known else "loss"
    parts = [frame(x, y, "step of pre-training", loss)]
    if known:
        parts.append(tag("line", class_="floor", x1=x.start, x2=x.end, y1=y(0), y2=y(0)))
    for config, (runs, curve) in sorted(curves.items()):
        told = f", {EVALUATIONS['dense']} {number(scores[config])}" if math.isfinite(scores[config]) else ""
        seeds = f"{len(runs)} seed{'s' if len(runs) != 1 else ''}"
        name = f"{config}: from {two(curve[0][1])} to {two(curve[-1][1])}{told}, {seeds}"
        places, shade = [(x(step), y(height)) for step, height in curve], colour(scores[config], low, high)
        end = tag("circle", cx=places[-1][0], cy=places[-1][1], r=4, fill=shade)
        path = line_path(places)
        halo = tag("path", d=path, class_="halo")  # the brightest shades are faint on white, the darkest on black
        parts.append(named(name, halo, tag("path", d=path, class_="curve", style=f"--shade:{shade}"), end))
    bar = colour_bar(205, 297, 165, low, high, f"{EVALUATIONS['dense']} ({row.unit('dense')})")
    return chart(WIDTH, HEIGHT, f"Training curves, {NAMES[family]}: {row.title}", *parts, bar)


def place_is_known(row: RowResult) -> bool:
    """Return True if the loss of knowing the place alone is defined for some curve."""
    return any(r.losses and math.isfinite(r.position_only_loss) for r in row.records)


def _curve(runs: Sequence[Record], *, known: bool) -> Curve:
    """Return the mean of some seeds at steps that all of them logged, at most ``POINTS`` of them."""
    logged = [dict(r.losses) for r in runs]
    steps = sorted(set.intersection(*(set(one) for one in logged))) or sorted(logged[0])
    if len(steps) > POINTS:
        steps = [steps[round(k * (len(steps) - 1) / (POINTS - 1))] for k in range(POINTS)]
    floors = [r.position_only_loss if known else 0.0 for r in runs]
    heights = (
        statistics.fmean(one[s] - floor for one, floor in zip(logged, floors, strict=True) if s in one) for s in steps
    )
    return [(s, h) for s, h in zip(steps, heights, strict=True) if math.isfinite(h)] or [(0, 0.0)]


def _score(runs: Sequence[Record]) -> float:
    scores = [r.performance.get("dense", math.nan) for r in runs]
    return statistics.fmean(scores)
