"""Comparison of our rows with the paper's Tables 1 to 3: tau, its sign, and the order of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from string import ascii_lowercase

from rich.console import JustifyMethod, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench.claims import paper
from cl_bench.claims.judgement import Judgement
from cl_bench.claims.paper import Agreement, Pair, PaperRow, agreement
from cl_bench.report.row import Performance, RowResult, number, performance_of, verdicts
from cl_bench.spec.records import EVALUATIONS, LEVELS, NAMES, Level, configurations
from cl_bench.statistics.correlation import Correlation
from cl_bench.statistics.power import FEWEST

TITLE = "Beside the paper's Tables 1-3"
SHORT: dict[Level, str] = {"instance": "linear", "dense": "detection"}
_COLUMNS: tuple[tuple[str, int, JustifyMethod], ...] = (
    ("\nrow", 9, "left"),
    ("evalu-\nation", 9, "left"),
    ("\nn", 3, "right"),
    ("our tau-b\n[95 % interval]", 20, "right"),
    ("\nverdict", 12, "left"),
    ("\nn", 3, "right"),
    ("paper\ntau-b", 5, "right"),
    ("", 3, "left"),  # marks
    ("\nsign", 6, "left"),
)


@dataclass(frozen=True)
class PaperLine:
    """A printed row at a level, with our corresponding row."""

    row: RowResult
    printed: PaperRow
    level: Level

    @property
    def group(self) -> str:
        """Heading above the line."""
        row, printed = self.row, self.printed
        views = ", disjoint views" if printed.views == "disjoint" else ""
        ours = row.dataset if row.of_papers_data(printed) else f"{row.data} {row.dataset}"
        setting = f"{paper.SETTING_NAMES[printed.data]}, {printed.scheme} scheme{views}"
        return f"Table {printed.table}: {setting} (ours: {ours})"

    @property
    def correlation(self) -> Correlation:
        """Correlation of our row."""
        return self.row.correlations[self.level, self.printed.loss]

    @property
    def judgements(self) -> list[Judgement]:
        """Judgements on our tau; only a total has any."""
        judged = [j for j in self.row.judgements if j.claim.about_tau and j.claim.level == self.level]
        return judged if self.printed.loss == "total" else []

    @property
    def pair(self) -> Pair:
        """Pair of our tau and the paper's."""
        return Pair(self.correlation, self.printed.score(self.level))

    @property
    def sign(self) -> str:
        """``same``, ``other`` or ``-``, with a ``?`` where one of the two does not differ from 0 significantly."""
        pair = self.pair
        return pair.sign if pair.sign == "-" or pair.certain else f"{pair.sign}?"

    @property
    def performance(self) -> Performance | None:
        """Performance of our models; None if no configuration is complete."""
        kept, _ = configurations(self.row.records, self.level, self.printed.loss)
        return performance_of([c.performance for c in kept])

    @property
    def comparable(self) -> bool:
        """True if data sets, recipe and metric are the paper's, so that performance can be compared with its own."""
        return self.row.of_papers_setting(self.printed, self.level)

    @property
    def averages(self) -> tuple[float, float] | None:
        """Our mean performance and the paper's, percent, if they can be compared; else None."""
        ours = self.performance
        return (ours.avg, self.printed.score(self.level).avg) if ours and self.comparable else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the printed numbers."""
        return self.printed.notes(self.level)

    def marks(self, footnotes: Mapping[str, str]) -> str:
        """Return the letters of its notes."""
        return "".join(sorted(footnotes[note] for note in self.notes))


def paper_lines(rows: Sequence[RowResult]) -> list[PaperLine]:
    """Return, in the paper's order, a line for each measured level of our rows of the paper's two schemes.

    The dense scheme is index-wise matching. Rows of other matching strategies are left out, since the paper has none.
    """
    ours = [(row, [row.printed(family) for family in NAMES]) for row in rows]
    return [
        PaperLine(row, printed, level)
        for printed in paper.ROWS
        for row, answers in ours
        if printed in answers
        for level in row.measured
    ]


def footnotes(lines: Sequence[PaperLine]) -> dict[str, str]:
    """Assign a letter to each note on the printed numbers, in the order in which the lines use them."""
    return dict(zip(dict.fromkeys(note for line in lines for note in line.notes), ascii_lowercase, strict=False))


def agreements(lines: Sequence[PaperLine]) -> list[tuple[str, Agreement]]:
    """Compute the agreement by evaluation, and for both together if there are two, over rows that share no model."""
    separate = [line for line in lines if line.printed.separate]
    levels = [level for level in LEVELS if any(line.level == level for line in separate)]
    found = [(EVALUATIONS[level], agreement([s.pair for s in separate if s.level == level])) for level in levels]
    return [*found, ("both", agreement([s.pair for s in separate]))] if len(found) > 1 else found


def order(found: Agreement) -> str:
    """Describe the rank agreement in words."""
    if math.isnan(found.tau):
        return "too few rows" if found.rows < FEWEST else "undefined"
    return f"{found.tau:.2f}" + ("" if math.isnan(found.p) else f", p = {found.p:.2g} ({found.method})")


def paper_tables(rows: Sequence[RowResult]) -> Iterator[RenderableType]:
    """Yield a line for each printed row and evaluation that this run has; the tables need 80 columns and no colour."""
    lines = paper_lines(rows)
    if not lines:
        return
    marks = footnotes(lines)
    yield Rule(Text(TITLE, style="bold"), align="left", style="dim")
    for group, of_group in groupby(lines, lambda line: line.group):
        yield Text(group, style="underline")
        yield _table(list(of_group), marks, header=group == lines[0].group)
    yield Text()
    yield _agreement(lines)
    yield from (Text(f"{mark}: {note}", style="dim") for note, mark in marks.items())
    yield Text()


def _table(lines: Sequence[PaperLine], marks: Mapping[str, str], *, header: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", show_header=header)
    for name, width, justify in _COLUMNS:
        table.add_column(name, width=width, justify=justify, no_wrap=True)
    for line in lines:
        score, averages = line.printed.score(line.level), line.averages
        ours, printed = ("", "") if averages is None else (f"\navg {number(averages[0])}", f"\n{averages[1]:.2f}")
        table.add_row(
            NAMES[line.printed.loss],
            SHORT[line.level],
            str(line.correlation.n),
            f"{line.correlation}{ours}",
            verdicts(line.judgements),
            str(score.models),
            f"{score.tau:.2f}{printed}",
            line.marks(marks),
            line.sign,
            style="bold" if line.printed.loss == "total" else "",
        )
    return table


def _agreement(lines: Sequence[PaperLine]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("\nrows that share no model", width=24, no_wrap=True)
    columns = {"\nrows": 4, "signs\nagree": 8, "of them\nwithout ?": 9, "order of the rows\n(tau-b, one-sided p)": 29}
    for name, width in columns.items():
        table.add_column(name, width=width, justify="right", no_wrap=True)
    for name, found in agreements(lines):
        same, certain = f"{found.same} of {found.signed}", f"{found.certain_same} of {found.certain}"
        table.add_row(name, str(found.rows), same, certain, order(found))
    return table


def average_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield an explanation of the means in the terminal's tables, where there are any."""
    if any(line.averages for line in paper_lines(rows)):
        yield (
            "avg: mean performance, with the paper's below its tau; shown only where data sets, recipe and metric are "
            "those of the paper."
        )


def paper_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield an explanation of the comparison, of the signs and of the agreement; nothing without a comparison."""
    lines = paper_lines(rows)
    if not lines:
        return
    taus = [row.score(level).tau for row in paper.ROWS for level in LEVELS]
    yield (
        f"beside the paper: its two schemes are compared with our methods {' and '.join(paper.METHODS.values())}, "
        "because its dense matching is index-wise; it prints nothing about other strategies. sign: whether both taus "
        "have the same sign. A question mark says that one of the two cannot be told from 0: our interval contains 0 "
        "(or there is no interval, with fewer than four configurations), or as many models without any correlation "
        "would give a tau as large as the paper's in 5 cases of 100 or more (normal approximation; the paper prints no "
        "intervals)."
    )
    yield (
        "agreement is counted over rows that share no model: families, and the totals of Table 3, whose families are "
        f"not printed. It is a count, not a test: {sum(tau < 0 for tau in taus)} of the paper's {len(taus)} taus are "
        "negative, so anything that makes ours negative looks like agreement; and our rows share their grid, seeds and "
        "evaluation images. order: Kendall's tau-b between our rows' taus and the paper's. Its p treats rows as "
        "exchangeable, which holds only roughly for rows of different n. Both evaluations together have no p, because "
        "they rest on the same models."
    )
    if any(line.printed.table == 1 for line in lines):
        yield f"Table 1: {paper.RANDOM_NOTE}."
