"""Forest plot: each tau of a run with its interval, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cl_bench.claims.judgement import Judgement, Verdict
from cl_bench.report.html.svg import minus, named, tag
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, Level

TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
HEIGHT = 34


@dataclass(frozen=True)
class ForestLine:
    """Line of the forest plot: a row at a level.

    Attributes:
        row: The row.
        level: Level of the tau.
        tau: Tau with its interval, as text.
        paper: The paper's tau, as text; empty if it prints none.
        judgements: Judgements of claims about this tau.
        strip: SVG of the line from -1 to 1; its coordinates are shares of its width, so that it fits any width.
    """

    row: RowResult
    level: Level
    tau: str
    paper: str
    judgements: tuple[Judgement, ...]
    strip: Markup

    @property
    def verdicts(self) -> list[tuple[Verdict, str]]:
        """Each verdict with its claim about tau, such as ``tau < 0``."""
        return [(j.verdict, f"{j.claim.symbols}{', exploratory' * j.claim.exploratory}") for j in self.judgements]

    @property
    def evaluation(self) -> str:
        """Name of the evaluation."""
        return EVALUATIONS[self.level]


def forest_lines(rows: Sequence[RowResult]) -> list[ForestLine]:
    """Return a line for each row and level whose tau is defined."""
    return [line for row in rows for level in row.measured if (line := _line(row, level))]


def _line(row: RowResult, level: Level) -> ForestLine | None:
    found = row.correlations[level, "total"]
    if math.isnan(found.tau):
        return None
    printed = row.printed("total")
    score = printed.score(level) if printed else None
    paper = minus(f"{score.tau:.2f} (n {score.models})") if score else ""
    told = minus(found.told)
    name = f"{row.title}, {EVALUATIONS[level]}: {told}; {found.counted}{f'; the paper {paper}' if paper else ''}"
    strip = tag(
        "svg",
        *_grid(),
        named(name, *_marks(found.tau, found.low, found.high, 11, "all"), *_inner(row, level), *_paper(score)),
        class_="strip",
        width="100%",
        height=HEIGHT,
        role="group",
        aria_label=f"tau, {row.title}, {EVALUATIONS[level]}",
    )
    judged = tuple(j for j in row.judgements if j.claim.about_tau and j.claim.level == level)
    return ForestLine(row, level, minus(str(found)), paper, judged, strip)


def _inner(row: RowResult, level: Level) -> list[Markup]:
    """Draw the interval within families, on which verdicts rest, if there are several families."""
    found = row.correlations[level, "total"]
    if math.isnan(found.between) or math.isnan(found.within):
        return []
    return _marks(found.within, found.within_low, found.within_high, 24, "within")


def _marks(tau: float, low: float, high: float, y: float, kind: str) -> list[Markup]:
    parts = []
    if not math.isnan(low):
        parts.append(tag("line", class_=f"interval {kind}", x1=_at(low), x2=_at(high), y1=y, y2=y))
    return [*parts, tag("circle", class_=f"tau {kind}", cx=_at(tau), cy=y, r=5 if kind == "all" else 3.5)]


def _paper(score: object) -> Iterator[Markup]:
    tau = getattr(score, "tau", None)
    if tau is not None:
        diamond = tag("path", d="M0-6L6 0L0 6L-6 0z", class_="paper")
        yield tag("svg", diamond, x=_at(tau), y=17, class_="over")


def _grid() -> list[Markup]:
    return [
        tag("line", class_="zero" if t == 0 else "grid", x1=_at(t), x2=_at(t), y1=0, y2=HEIGHT, aria_hidden="true")
        for t in TICKS
    ]


def forest_scale() -> Markup:
    """Draw the scale beneath the lines."""
    ticks = [tag("text", minus(f"{t:g}"), x=_at(t), y=14, text_anchor="middle") for t in TICKS]
    return tag("svg", *ticks, class_="strip", width="100%", height=20, aria_hidden="true")


def _at(tau: float) -> str:
    """Share of the width, with room for marks at either end."""
    return f"{50 + 46 * min(1.0, max(-1.0, tau)):.1f}%"
