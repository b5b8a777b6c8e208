"""Table and CSV of the league of predictors."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cl_bench.claims.league import Standing, league, ranked, reference
from cl_bench.report.cells import write_lines
from cl_bench.report.environment import ORIGIN, origin
from cl_bench.report.row import RowResult
from cl_bench.spec.records import EVALUATIONS, LEVELS, Better

_FIXED = ("performance", "predictor", "rows", "tau", "difference", "p", "p_holm")
SHOWN = 12
"""Number of predictors in the terminal's table: the best by the mean of both columns, and always the reference."""


def standings(rows: Sequence[RowResult]) -> list[Standing]:
    """Compute the league of a run; it is empty if no encoder has a predictor."""
    if not any(record.predictors for row in rows for record in row.records):
        return []
    better: dict[str, Better] = {name: direction for row in rows for name, direction in row.better.items()}
    return league({row.name: row.records for row in rows}, better)


def league_csv(rows: Sequence[RowResult], commit: str = "") -> str:
    """Return one line per predictor and performance, with its tau in each row; a cell without a value is empty.

    Args:
        rows: Rows of the run.
        commit: Commit of the code that writes the report.
    """
    names = [f"tau.{row.name}" for row in rows]
    out = io.StringIO()
    lines = []
    stamp = {
        "profile": "; ".join(sorted({row.profile for row in rows})),
        **origin((record for row in rows for record in row.records), commit),
    }
    for one in standings(rows):
        values = {"tau": one.tau, "difference": one.difference, "p": one.p, "p_holm": one.p_holm}
        about = {"performance": EVALUATIONS[one.level], "predictor": one.predictor, "rows": len(one.taus)}
        told = {name: "" if math.isnan(value) else value for name, value in values.items()}
        lines.append({**about, **told, **{f"tau.{row}": tau for row, tau in one.taus.items()}, **stamp})
    write_lines(out, (*_FIXED, *names, "profile", *ORIGIN), lines)
    return out.getvalue()


def league_table(rows: Sequence[RowResult]) -> Iterator[RenderableType]:
    """Yield a table with a line per predictor, the best first; nothing if none was measured.

    It needs 80 columns and no colour.
    """
    found = standings(rows)
    if found:
        yield Rule(Text("Predictors of performance", style="bold"), align="left", style="dim")
        yield _table(found)
    yield from (Text(line, style="red") for line in failures(rows))
    if found:
        yield Text()


def _table(found: Sequence[Standing]) -> Table:
    ordered = ranked(found)
    most = max(one.rows for one in ordered)
    ours = [reference(level) for level in LEVELS]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("predictor", width=28, no_wrap=True, vertical="bottom")
    for level in LEVELS:
        table.add_column(f"{EVALUATIONS[level]}\ntau  difference (p)", width=25, no_wrap=True, justify="right")
    for place, (name, rows, standings) in enumerate(ordered):
        if place < SHOWN or name in ours:
            cells = (_cell(standings.get(level)) for level in LEVELS)
            told = name if rows == most else f"{name} ({rows}/{most})"
            table.add_row(told, *cells, style="bold" if name in ours else "")
    if len(ordered) > SHOWN:
        table.add_row(Text(f"... {len(ordered)} in all: league.csv", style="dim"))
    return table


def _cell(one: Standing | None) -> str:
    if one is None:
        return "-"
    if math.isnan(one.difference):
        return f"{one.tau:+.2f}" + " " * 14
    return f"{one.tau:+.2f}  {one.difference:+.2f} ({_p(one.p_holm):>5})"


def _p(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 0.9995 else "1"


def failures(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield a line for each failure message of a predictor, with the number of encoders."""
    counts: dict[str, int] = {}
    for row in rows:
        for record in row.records:
            for why in record.failed_predictors.values():
                counts[why] = counts.get(why, 0) + 1
    for why, count in counts.items():
        yield f"without: {why} (of {count} encoder{'s' if count != 1 else ''})"


def league_notes(rows: Sequence[RowResult]) -> Iterator[str]:
    """Yield an explanation of the columns, here and on the page; nothing if no predictor was measured."""
    if any(record.predictors for row in rows for record in row.records):
        yield (
            "predictors: tau is tau-b with performance over configurations, averaged over this run's rows; the sign of "
            "each predictor is chosen so that it predicts well if tau is below 0. (2/4): it is known in two of four "
            "rows, and its mean is over those. difference: its tau within families minus that of minmax(L_a) + "
            "minmax(L_u) at the performance's level (sum_minmax) in the same rows; below 0, it predicts better than "
            "this sum. p tests that there is no difference, by drawing performance anew as curves over the knobs, "
            "after Holm's correction for all predictors of that performance."
        )
