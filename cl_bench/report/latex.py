r"""LaTeX table of our rows and the paper's Tables 1 to 3, for ``\input``; it needs booktabs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from cl_bench.claims import paper
from cl_bench.report.paper_tables import SHORT, PaperLine, agreements, footnotes, order, paper_lines, paper_notes
from cl_bench.report.row import RowResult
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
    """Return the table with its notes, or a comment alone if no row corresponds to a printed one."""
    lines = paper_lines(rows)
    first = f"% Beside {paper.SOURCE}; needs booktabs."
    body = _table(lines, [*paper_notes(rows)]) if lines else ["% No row of this run answers to a printed one."]
    return "".join(f"{line}\n" for line in (first, *body))


def _table(lines: Sequence[PaperLine], notes: Sequence[str]) -> Iterator[str]:
    letters = footnotes(lines)
    avg = any(line.averages for line in lines)
    ours, printed = ("rrrl", "rlr") if avg else ("rrl", "rl")
    columns, middle = 3 + len(ours) + len(printed), 2 + len(ours)
    mean = ["avg"] if avg else []
    heads = (["row", "evaluation"], ["$n$", r"$\tau$ [95\,\%]", *mean, "verdict"], ["$n$", r"$\tau$", *mean], ["sign"])
    yield r"\begin{table}"
    yield r"\centering\small"
    yield rf"\caption{{Ours beside {escape(paper.SOURCE)}.}}"
    yield rf"\begin{{tabular}}{{ll{ours}{printed}l}}"
    yield r"\toprule"
    yield rf" & & \multicolumn{{{len(ours)}}}{{c}}{{ours}} & \multicolumn{{{len(printed)}}}{{c}}{{paper}} & \\"
    yield rf"\cmidrule(lr){{3-{middle}}}\cmidrule(lr){{{middle + 1}-{columns - 1}}}"
    yield " & ".join(name for part in heads for name in part) + r" \\"
    for group, of_group in groupby(lines, lambda line: line.group):
        yield r"\midrule"
        yield rf"\multicolumn{{{columns}}}{{l}}{{{escape(group)}}} \\"
        yield from (_line(line, letters, avg=avg) for line in of_group)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield from (rf"\par {text}" for text in (*_footnotes(lines, letters), *map(escape, notes)))
    yield r"\end{table}"


def _line(line: PaperLine, letters: Mapping[str, str], *, avg: bool) -> str:
    score, marks = line.pair.printed, line.marks(letters)
    means = [f"{mean:.2f}" for mean in line.averages] if line.averages else ["", ""]
    cells = [
        *(escape(NAMES[line.printed.loss]), SHORT[line.level], str(line.correlation.n), _tau(line.correlation)),
        *means[:avg],
        *(" ".join(j.verdict for j in line.judgements), str(score.models)),
        f"${score.tau:.2f}$" + (rf"\textsuperscript{{{marks}}}" if marks else ""),
        *means[1 : 1 + avg],
        line.sign.replace("-", "--"),
    ]
    return " & ".join(cells) + r" \\"


def _tau(found: Correlation) -> str:
    if math.isnan(found.tau):
        return "undefined"
    return f"${found.tau:.2f}$" + (f" [${found.low:.2f}$, ${found.high:.2f}$]" if found.n >= FEWEST else "")


def _footnotes(lines: Sequence[PaperLine], letters: Mapping[str, str]) -> Iterator[str]:
    yield from (rf"\textsuperscript{{{mark}}} {escape(note)}." for note, mark in letters.items())
    for name, found in agreements(lines):
        certain = f"{found.certain_same} of {found.certain} without ?"
        yield escape(
            f"Rows that share no model, {name}: signs agree in {found.same} of {found.signed} ({certain}); order of "
            f"the {found.rows} rows (tau-b, one-sided p): {order(found)}."
        )
