r"""LaTeX tables of our rows and the paper's Tables 1 to 3, for ``\input``; they need booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from cl_bench.claims import paper
from cl_bench.report.paper_tables import SHORT, PaperLine, agreements, footnotes, order, paper_lines, paper_notes
from cl_bench.report.row import BEST, RowResult, number
from cl_bench.spec.records import NAMES
from cl_bench.statistics.correlation import Correlation
from cl_bench.statistics.power import FEWEST

_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def escape(text: str) -> str:
    """Escape text for LaTeX, with a minus sign for negative numbers."""
    return re.sub(r"(?<![\w-])-(?=\.?\d)", "$-$", text.translate(_ESCAPES))


def paper_latex(rows: Sequence[RowResult]) -> str:
    """Return a table for each of the paper's, and notes; a comment alone if no row corresponds to a printed one.

    Tables fit into 345 points, the width of text of LaTeX's article, and each onto a page; the notes are running text.
    """
    lines = paper_lines(rows)
    first = f"% Beside {paper.SOURCE}; needs booktabs."
    nothing = "% No row of this run corresponds to a row of the paper's tables."
    body = _tables(lines, [*paper_notes(rows)]) if lines else [nothing]
    return "".join(f"{line}\n" for line in (first, *body))


def _tables(lines: Sequence[PaperLine], notes: Sequence[str]) -> Iterator[str]:
    letters = footnotes(lines)
    for table, group in groupby(lines, lambda line: line.printed.table):
        of_table = [*group]
        yield from _taus(table, of_table, letters)
        yield from _performance(table, of_table)
    yield r"{\footnotesize\raggedright"
    yield from (rf"\par\noindent {text}" for text in (*_agreements(lines), *map(escape, notes)))
    yield r"\par}"


def _taus(table: int, lines: Sequence[PaperLine], letters: Mapping[str, str]) -> Iterator[str]:
    used = {mark for line in lines for mark in line.marks(letters)}
    own = [rf"\textsuperscript{{{mark}}} {escape(note)}." for note, mark in letters.items() if mark in used]
    if any(j.claim.exploratory for line in lines for j in line.judgements):
        own.append("$^*$ exploratory: the paper does not claim it.")
    ours, printed = ["$n$", r"$\tau$ [95\,\%]", "verdict"], ["$n$", r"$\tau$"]
    yield from _table(
        f"Kendall's tau, ours beside Table {table} of {paper.CITED}.",
        (ours, printed, ["sign"]),
        "rrlrll",
        [(line, _tau_cells(line, letters)) for line in lines],
        own,
    )


def _performance(table: int, lines: Sequence[PaperLine]) -> Iterator[str]:
    columns = ["$n$", "max", "avg", f"best {BEST}"]
    apart = any(not line.comparable for line in lines)
    own = ["$^*$ Data, recipe or metric are not the paper's: the figures cannot be compared."] if apart else []
    own.append(f"best {BEST}: mean of the best ten, or of all if there are fewer.")
    yield from _table(
        f"Performance in percent, ours beside Table {table} of {paper.CITED}.",
        (columns, columns, []),
        "rrrrrrrr",
        [(line, _performance_cells(line)) for line in lines],
        own,
    )


def _table(
    caption: str,
    heads: tuple[Sequence[str], Sequence[str], Sequence[str]],
    alignment: str,
    lines: Sequence[tuple[PaperLine, Sequence[str]]],
    below: Sequence[str],
) -> Iterator[str]:
    """Yield a table: our columns, the paper's, and further ones, with a heading above the lines of each setting."""
    ours, printed, further = heads
    columns, middle = 2 + len(alignment), 2 + len(ours)
    last = middle + len(printed)
    yield r"\begin{table}"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"
    yield rf"\caption{{{escape(caption)}}}"
    yield rf"\begin{{tabular}}{{@{{}}ll{alignment}@{{}}}}"
    yield r"\toprule"
    yield (
        rf" & & \multicolumn{{{len(ours)}}}{{c}}{{ours}} & \multicolumn{{{len(printed)}}}{{c}}{{paper}}"
        rf"{' &' * len(further)} \\"
    )
    yield rf"\cmidrule(lr){{3-{middle}}}\cmidrule(lr){{{middle + 1}-{last}}}"
    yield " & ".join(["row", "evaluation", *ours, *printed, *further]) + r" \\"
    for group, of_group in groupby(lines, lambda one: one[0].group):
        yield r"\midrule"
        setting = escape(group.partition(": ")[2])
        yield rf"\multicolumn{{{columns}}}{{@{{}}p{{0.9\linewidth}}@{{}}}}{{\raggedright {setting}}} \\"
        for line, cells in of_group:
            yield " & ".join([escape(NAMES[line.printed.loss]), SHORT[line.level], *cells]) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield from (rf"\par\raggedright {text}" for text in below)
    yield r"\end{table}"


def _tau_cells(line: PaperLine, letters: Mapping[str, str]) -> list[str]:
    score, marks = line.pair.printed, line.marks(letters)
    verdict = r"\\".join(rf"\textsc{{{j.verdict.lower()}}}{'$^*$' * j.claim.exploratory}" for j in line.judgements)
    if len(line.judgements) > 1:
        verdict = rf"\shortstack[l]{{{verdict}}}"
    return [
        *(str(line.correlation.n), _tau(line.correlation), verdict, str(score.models)),
        f"${score.tau:.2f}$" + (rf"\textsuperscript{{{marks}}}" if marks else ""),
        line.sign.replace("-", "--"),
    ]


def _performance_cells(line: PaperLine) -> list[str]:
    ours, score = line.performance, line.pair.printed
    own = ["0", "--", "--", "--"] if ours is None else [str(ours.models), *map(number, ours[1:])]
    printed = [str(score.models), *(f"{value:.2f}" for value in (score.max, score.avg, score.top10))]
    return [*own, *printed[:-1], printed[-1] + "$^*$" * (not line.comparable)]


def _tau(found: Correlation) -> str:
    if math.isnan(found.tau):
        return "undefined"
    return f"${found.tau:.2f}$" + (f" [${found.low:.2f}$, ${found.high:.2f}$]" if found.n >= FEWEST else "")


def _agreements(lines: Sequence[PaperLine]) -> Iterator[str]:
    for name, found in agreements(lines):
        certain = f"{found.certain_same} of {found.certain} without ?"
        yield escape(
            f"Rows that share no model, {name}: signs agree in {found.same} of {found.signed} ({certain}); order of "
            f"the {found.rows} rows (tau-b, one-sided p): {order(found)}."
        )
