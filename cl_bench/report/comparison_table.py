"""Comparison of dense methods that share data and views."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench.claims.comparison import REFERENCE, Comparison, compare
from cl_bench.claims.judgement import Verdict
from cl_bench.report.row import COLOURS, RowResult, number
from cl_bench.spec.claim import Claim
from cl_bench.spec.records import EVALUATIONS, LEVELS, Level, configurations


@dataclass(frozen=True)
class ComparisonLine:
    """A method at a level, compared with the reference.

    Attributes:
        row: Row of the method.
        level: ``instance`` or ``dense``.
        reference: Row of the reference; it is ``row`` itself in the reference's own line.
        comparison: Comparison of the reference minus the method; None in the reference's own line.
        verdict: Verdict on the claim that the reference is no worse, where that was tested.
    """

    row: RowResult
    level: Level
    reference: RowResult
    comparison: Comparison | None
    verdict: Verdict | None

    @property
    def performance(self) -> list[float]:
        """Performance of the method's configurations, in percent."""
        return [c.performance for c in configurations(self.row.records, self.level)[0]]


def comparison_lines(rows: Sequence[RowResult]) -> list[ComparisonLine]:
    """Return the lines of the table, by data and views, then by level, with the reference first.

    The reference is ``dense_index``, or the first method of those rows if ``dense_index`` is not among them.
    """
    groups: dict[tuple[str, str], dict[str, RowResult]] = {}
    for row in rows:
        if row.scheme == "dense":
            groups.setdefault((row.data, row.views), {}).setdefault(row.method, row)
    lines = []
    for group in groups.values():
        reference = group.get(REFERENCE) or next(iter(group.values()))
        others = [row for row in group.values() if row is not reference]
        for level in LEVELS if others else ():
            lines.append(ComparisonLine(reference, level, reference, None, None))
            lines += [_line(row, level, reference) for row in others]
    return lines


def _line(row: RowResult, level: Level, reference: RowResult) -> ComparisonLine:
    """Return the line of a judgement; if there is none, of a comparison that is computed here, without a verdict."""
    judged = next((j for j in row.judgements if j.claim == Claim("no_worse_than", level)), None)
    if judged is not None and judged.comparison is not None:
        return ComparisonLine(row, level, reference, judged.comparison, judged.verdict)
    found = compare(reference.records, row.records, level, row.alpha, row.margin)
    return ComparisonLine(row, level, reference, found, None if judged is None else judged.verdict)


def comparison_table(rows: Sequence[RowResult]) -> Iterator[RenderableType]:
    """Yield a block for each data and views with more than one dense method; it needs 80 columns and no colour."""
    for (data, views), block in groupby(comparison_lines(rows), lambda line: (line.row.data, line.row.views)):
        title = f"Matching strategies: {data.replace('_', '-')} data, {views} views"
        yield Rule(Text(title, style="bold"), align="left", style="dim")
        for level, lines in groupby(block, lambda line: line.level):
            of_level = list(lines)
            measured = any(line.performance for line in of_level)
            unit = of_level[0].row.unit(level) if measured else "not measured"
            yield Text(f"{EVALUATIONS[level].capitalize()} ({unit})", style="underline")
            if measured:
                yield _level(of_level)
                yield from _left_out(of_level)
        yield Text()


def _level(lines: Sequence[ComparisonLine]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("method", width=15, overflow="fold")
    widths = {"models": 6, "best": 5, "mean": 5, "preci-\nsion": 6}
    for name, width in widths.items():
        table.add_column(name, width=width, justify="right", no_wrap=True)
    level = f"{100 * (1 - 2 * lines[0].row.alpha):g} % intervals"
    table.add_column(f"reference - method\n[{level}]", width=25, no_wrap=True)
    table.add_column("verdict", width=12, no_wrap=True)
    for line in lines:
        performance, precision = line.performance, line.row.matching_precision
        verdict = line.verdict
        table.add_row(
            Text(line.row.method),
            str(len(performance)),
            *((number(max(performance)), number(statistics.fmean(performance))) if performance else ("-", "-")),
            f"{statistics.fmean(precision):.2f}" if precision else "-",
            _differences(line.comparison),
            Text(verdict.value, style=f"bold {COLOURS[verdict]}") if verdict else "",
            style="bold" if line.comparison is None else "",
        )
    return table


def _differences(found: Comparison | None) -> str:
    if found is None:
        return "the reference"
    if not found.n:
        return "no pair"
    mean = _interval(found.mean, found.low, found.high)
    return f"mean {mean}\nbest {_interval(found.best, found.best_low, found.best_high)}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]" if not math.isnan(low) else _signed(value)


def _signed(value: float) -> str:
    """Format a signed number in at most five characters, with fewer decimals for larger numbers."""
    return f"{value:+.2f}" if abs(value) < 9.995 else f"{value:+.1f}" if abs(value) < 99.95 else f"{value:+.0f}"


def _left_out(lines: Sequence[ComparisonLine]) -> Iterator[Text]:
    for line in lines:
        if line.comparison is not None and line.comparison.left_out:
            pairs = f"{line.comparison.n} pairs, left out: {', '.join(line.comparison.left_out)}"
            yield Text(f"{line.row.method}: {pairs}", style="red")


def comparison_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield an explanation of pairs, averages and intervals; nothing without a comparison."""
    lines = comparison_lines(rows)
    for alpha, margin in dict.fromkeys((line.row.alpha, line.row.margin) for line in lines):
        yield (
            "reference - method: the difference in points of performance, paired by configuration of the objective, on "
            "the same data and views; the same seeds are averaged first. mean: mean of the paired differences, with a "
            f"{100 * (1 - 2 * alpha):g} % paired t interval over configurations. best: difference between the best of "
            "the paired configurations of each method, with a percentile bootstrap interval over pairs, which is rough "
            "for a maximum. The columns models, best and mean on the left are over all usable configurations of the "
            "method. verdict: on the claim that on average the reference is no worse, which is supported where the "
            f"interval of the mean lies above -{margin:g}."
        )
