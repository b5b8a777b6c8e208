"""Similarities of positives and negatives, encoder by encoder: the paper's Figure 4."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cl_bench.report.html.svg import Axis, chart, frame, mark, minus, number, tag
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, NAMES, Record, configurations

PAIRS: Mapping[str, str] = {
    "other_images": "cells of other images",
    "same_image": "other cells of the same image",
    "positive": "positives: the same cell in the other view",
}
RANKS = {"best": 1, "median": 3, "worst": 2}
"""Encoders shown of a family, each with the fewest encoders of which there can be one."""


@dataclass(frozen=True)
class Histogram:
    """Histogram with its title."""

    title: str
    chart: Markup


def histograms(row: RowResult) -> list[Histogram]:
    """Draw the best, median and worst configuration of each family by detection, and untrained encoders."""
    measured, plain = ([r for r in rs if r.similarities] for rs in (row.records, row.measured_untrained))
    points = configurations([r for r in measured if "dense" in r.performance], "dense")[0]
    shown: list[tuple[str, Sequence[Record]]] = []
    for family in ("align_uniform", "info_nce"):
        ranked = sorted((p for p in points if p.family == family), key=lambda p: -p.performance)
        for (rank, least), nth in zip(RANKS.items(), (0, len(ranked) // 2, -1), strict=True):
            if len(ranked) >= least:
                p = ranked[nth]
                told = f"{p.name.removeprefix(f'{family}-')}, {EVALUATIONS['dense']} {p.performance:.1f}"
                shown.append((f"{NAMES[family]}, {rank}: {told}", [r for r in measured if r.config == p.name]))
    if plain:
        shown.append(("random initialisation", plain))
    lowest = min((_lowest(r) for _, runs in shown for r in runs), default=-1.0)
    titled = [(f"{title}{_overlap(runs)}", runs) for title, runs in shown]
    return [Histogram(title, _histogram(title, runs, lowest)) for title, runs in titled]


def _histogram(title: str, runs: Sequence[Record], lowest: float) -> Markup:
    shares = {kind: found for kind in PAIRS if (found := _mean([r.similarities.get(kind, ()) for r in runs]))}
    x = Axis(lowest, 1.0, 6, 214)
    y = Axis(0, max((max(s) for s in shares.values()), default=1.0) * 1.05, 84, 6)
    ticks = [t for t in x.ticks(4) if lowest <= t <= 1]
    return chart(
        220,
        102,
        f"Similarities, {title}",
        *(
            tag("path", d=_steps(s, x, y, lowest), class_=f"pairs {kind.replace('_', '-')}")
            for kind, s in shares.items()
        ),
        tag("line", class_="base", x1=6, x2=214, y1=84, y2=84),
        *(tag("text", minus(f"{t:.1f}"), x=x(t), y=97, text_anchor="middle") for t in ticks),
        class_="chart small",
    )


def _overlap(runs: Sequence[Record]) -> str:
    found = [r.extra["similarity_overlap"] for r in runs if "similarity_overlap" in r.extra]
    return f", overlap {statistics.fmean(found):.2f}" if found else ""


def _mean(histograms: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of the histograms that are as long as the first."""
    same = [h for h in histograms if h and len(h) == len(histograms[0])]
    return [statistics.fmean(column) for column in zip(*same, strict=True)]


def _lowest(record: Record) -> float:
    """Return the left edge of the first bin that holds a pair of any kind."""
    edges = [
        next((k for k, share in enumerate(bins) if share > 0), 0) / len(bins) * 2 - 1
        for bins in record.similarities.values()
        if bins
    ]
    return min(edges, default=-1.0)


def _steps(shares: Sequence[float], x: Axis, y: Axis, lowest: float) -> str:
    """Return a histogram's outline as a path, from the first bin that is shown."""
    count = len(shares)
    path = [f"M{number(x(lowest))} {number(y(0))}"]
    for k, share in enumerate(shares):
        right = (k + 1) / count * 2 - 1
        if right > lowest:
            path.append(f"V{number(y(share))}H{number(x(right))}")
    return "".join([*path, f"V{number(y(0))}"])


def overlap_chart(row: RowResult) -> Markup | None:
    """Draw the overlap of positives with other images against detection; None if it was not measured."""
    measured, plain = (
        [r for r in rs if "similarity_overlap" in r.extra and "dense" in r.performance]
        for rs in (row.records, row.measured_untrained)
    )
    points = configurations(measured, "dense")[0]
    if not points:
        return None
    x = Axis(-0.03, 1.03, 52, 372)
    y = Axis.over([p.performance for p in points] + [r.performance["dense"] for r in plain], 200, 8)
    marks = []
    for r in plain:
        overlap, score = r.extra["similarity_overlap"], r.performance["dense"]
        marks.append(
            mark("", x(overlap), y(score), f"random initialisation, seed {r.seed}: overlap {overlap:.2f}, {score:.1f}")
        )
    for p in points:
        overlap = statistics.fmean(r.extra["similarity_overlap"] for r in measured if r.config == p.name)
        told = f"{p.name}: overlap {overlap:.2f}, {EVALUATIONS['dense']} {p.performance:.1f}"
        shade = f"var(--{p.family.replace('_', '-')})"
        marks.append(mark(p.family, x(overlap), y(p.performance), told, shade))
    across = "overlap of the similarities of positives and of other images"
    name = f"Overlap of similarities against detection: {row.title}"
    up = f"{EVALUATIONS['dense']} ({row.unit('dense')})"
    return chart(380, 240, name, frame(x, y, across, up), *marks)
